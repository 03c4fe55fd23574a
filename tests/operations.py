"""Torch's own list of its operations, each with sample inputs, sent through the whole companion.

``python -m tests.operations 7 3`` takes every 7th operation, 3 samples each, and prints a line for
each fault: a function of the companion that raises where ``backward()`` works, a gradient that is
another one under ``watch`` or ``record_backward``, a ``.grad`` that ``play`` changed, and a
``diagnose`` that says of a pass that works that it will not.

Then it puts special points into the inputs of 2 samples at most, all of ``POINTS`` or those that it
is given the names of, and prints a line where ``diagnose`` does not tell just whether gradients are
infinite or NaN somewhere, or tells of one that is zero where none is.
"""

import contextlib
import io
import sys
import types
import unittest
import unittest.mock
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice, product
from typing import Any

import torch

import companion
import companion.backward.recording
from companion.internals import is_shared_lazily

# The list imports a package for tests of another kind, which needs not be there for it.
sys.modules.setdefault("expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))  # type: ignore[arg-type]

Tensor = torch.Tensor
Gradients = tuple[Tensor | None, ...]


def programs(step: int, samples: int) -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    """Name, forward pass to a real scalar, and leaves; of every operation that has gradients."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_utils import set_rng_seed

    for op in op_db[::step]:
        for dtype in (torch.float64, torch.complex128):
            if not op.supports_autograd or dtype not in op.supported_backward_dtypes("cpu"):
                continue
            set_rng_seed()
            # What op.sample_inputs() gives, without a look at the stack for each, which takes long.
            inputs = op.sample_inputs_func(op, "cpu", dtype, True)
            for number, sample in enumerate(islice(inputs, samples)):
                leaves = [t for t in tensors_in([sample.input, sample.args, sample.kwargs])]
                leaves = [t for t in leaves if t.requires_grad and t.is_leaf]
                name = f"{op.name} {op.variant_test_name} {dtype} {number}"
                yield name, partial(_scalar, op, sample), leaves


def _scalar(op: Any, sample: Any, hide: Callable[[Tensor], Tensor] = lambda y: y) -> Tensor:
    torch.manual_seed(0)
    outputs = tensors_in(op.op(sample.input, *sample.args, **sample.kwargs))
    real = [t.abs() if t.is_complex() else t for t in outputs if t.requires_grad]
    return sum((hide(t).sum() for t in real if t.layout is torch.strided), torch.zeros(()))


def tensors_in(values: Any) -> list[Tensor]:
    stack, found = [values], list[Tensor]()
    while stack:
        value = stack.pop()
        if isinstance(value, list | tuple | dict):
            stack += reversed([*(value.values() if isinstance(value, dict) else value)])
        elif isinstance(value, Tensor):
            found.append(value)
    return found


def faults(compute: Callable[[], Tensor], leaves: list[Tensor]) -> Iterator[str]:
    """What the companion does wrong with one program."""
    try:
        output = compute()
        gradients = _gradients(output, leaves)
    except Exception:  # torch's own limits are no fault of ours
        return
    if not output.requires_grad:
        return
    with companion.watch() as watched:
        output = compute()
    if not same(_gradients(output, leaves), gradients):
        yield "watch changed a gradient"
    for name, look in {
        "Graph.of": lambda: companion.Graph.of(output).saved_nbytes,
        "saved": lambda: [node.saved for node in companion.Graph.of(output).nodes],
        "walk_grad_fn": lambda: companion.walk_grad_fn(output),
        "draw": lambda: companion.draw(output, saved=True, values=True, watch=watched).dot,
        "play": lambda: companion.play(output).fragment,
        "write_backward": lambda: companion.write_backward(output).run(),
        "watch": lambda: (watched.cuts, watched.mutations, watched.reaching(output)),
    }.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                look()
        except Exception as error:
            yield f"{name} raised {_first_line(error)}"
    if any(leaf.grad is not None for leaf in leaves):
        yield "a .grad was left"
    yield from _diagnosed(output, leaves, gradients, watched)
    yield from _recorded(output, leaves, gradients)
    with unittest.mock.patch.object(companion.backward.recording, "DETAILED", 0):
        output = compute()
        saved = [t for node in companion.Graph.of(output).nodes for t in _saved(node.grad_fn)]
        yield from _recorded(output, leaves, gradients)
        known = [*saved, *leaves]
        yield from (
            "record_backward shares what is not its own" for t in known if is_shared_lazily(t)
        )


def _saved(fn: Any) -> list[Tensor]:
    """What a Node saved, itself."""
    found = []
    for name in dir(fn):
        if name.startswith("_saved_"):
            with contextlib.suppress(RuntimeError):
                found.append(getattr(fn, name))
    return tensors_in(found)


def _diagnosed(
    output: Tensor, leaves: list[Tensor], gradients: Gradients, watched: companion.Watch
) -> Iterator[str]:
    try:
        found = companion.diagnose(output, *leaves, watch=watched)
        str(found)
    except Exception as error:
        yield f"diagnose raised {_first_line(error)}"
        return
    if not found.ok and all(gradient is not None for gradient in gradients):
        yield f"diagnose is not ok: {found[0].code}: {found[0].message}"


def _recorded(output: Tensor, leaves: list[Tensor], gradients: Gradients) -> Iterator[str]:
    try:
        companion.draw(companion.record_backward(output)).dot  # noqa: B018
        if not same(tuple([leaf.grad for leaf in leaves]), gradients):
            yield "record_backward left another gradient"
    except Exception as error:
        yield f"record_backward raised {_first_line(error)}"
    for leaf in leaves:
        leaf.grad = None


# ---- special points

INF = float("inf")
_VALUES = {str(value): value for value in (0.0, -0.0, 1.0, -1.0, INF, -INF, float("nan"), 1e200)}
# By name, what is made of each leaf: one element or all of them are set, or rows are made equal.
POINTS: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        f"one {name}": lambda x, v=v: x[(slice(1),) * x.dim()].fill_(v)
        for name, v in _VALUES.items()
    },
    **{f"all {v}": lambda x, v=v: x.fill_(v) for v in (0.0, 1.0, -INF, 1e-310, 1e200)},
    "equal rows": lambda x: x.copy_(x[:1].clone()) if x.dim() and len(x) else x,
}
# What hides infinities and NaN of the results from the loss.
HIDING: dict[str, Callable[[Tensor], Tensor]] = {
    "not hidden": lambda y: y,
    "masked": lambda y: torch.where(y.isfinite(), y, torch.zeros_like(y)),
    "left out": lambda y: y.reshape(-1)[1:],
}
# The backward of a custom Function that keeps what it was given alone, and what a sparse tensor is
# made of, nobody can ask.
NOT_ASKED = {"nn.functional.linear_cross_entropy chunked_none", "sparse.mm "}


def untold(step: int, samples: int, points: Collection[str] = ()) -> Iterator[str]:
    """The programs, at some of the special points, of whose gradients ``diagnose`` is wrong.

    Args:
        step: every how many operations.
        samples: how many samples of inputs of each.
        points: the names of points; without them all.
    """
    for name, compute, leaves in programs(step, samples):
        if name.rpartition(" torch.")[0] in NOT_ASKED or "complex" in name:
            continue
        if any(leaf.layout is not torch.strided for leaf in leaves):
            continue  # no element of it can be set
        yield from (f"{name} {fault}" for fault in untold_at(compute, leaves, points))


def untold_at(
    compute: Callable[..., Tensor], leaves: list[Tensor], points: Collection[str] = ()
) -> Iterator[str]:
    """Where ``diagnose`` is wrong of one program: at which of the points, or of all."""
    values = [leaf.detach().clone() for leaf in leaves]
    for point, hiding in product(points or POINTS, HIDING):
        with torch.no_grad():
            for leaf, value in zip(leaves, values, strict=True):
                leaf.copy_(value)
                POINTS[point](leaf)
        said = _wrongly_told(compute, leaves, HIDING[hiding])
        if said:
            yield f"at {point}, {hiding}: {said}"


def _wrongly_told(
    compute: Callable[..., Tensor], leaves: list[Tensor], hide: Callable[[Tensor], Tensor]
) -> str:
    try:
        output = compute(hide)
        found = companion.diagnose(output, *leaves)
        gradients = _gradients(output, leaves)
    except Exception:  # torch's own limits; what diagnose raises, faults() tells
        return ""
    if not output.isfinite():
        return ""
    codes, dense = {each.code for each in found}, [g.to_dense() for g in gradients if g is not None]
    warnings = {"nan-risk", "non-finite"} & codes
    is_spoilt = any(not gradient.isfinite().all() for gradient in dense)
    if is_spoilt != bool(warnings):
        return f"told {warnings or 'nothing'}"
    # What the other leaves multiply is rounded to so many digits of them.
    sizes = [leaf.detach().abs().nan_to_num(0.0, 0.0).max() for leaf in leaves if leaf.numel()]
    rounding = 16 * torch.finfo(torch.float64).eps * max(map(float, sizes), default=0.0)
    limit = max(1e-9, rounding if len(leaves) > 1 else 0.0)
    sloped = [gradient for gradient in dense if (gradient.abs() > limit).any()]
    is_sloped = bool(sloped) and len(sloped) == len(dense)  # where none has a gradient, as of p=0
    return "told zero" if "zero-derivative" in codes and is_sloped and not is_spoilt else ""


def _gradients(output: Tensor, leaves: list[Tensor]) -> Gradients:
    return torch.autograd.grad(output, leaves, retain_graph=True, allow_unused=True)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}"


def same(left: Gradients, right: Gradients) -> bool:
    """Whether gradients are equal, but for what rounding makes of an operation that has threads."""
    for one, other in zip(left, right, strict=True):
        if one is None or other is None:
            if one is not other:
                return False
        elif not torch.allclose(one.to_dense(), other.to_dense(), 1e-7, 1e-9, equal_nan=True):
            return False
    return True


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    step, samples = map(int, sys.argv[1:3])
    for name, compute, leaves in programs(step, samples):
        for fault in faults(compute, leaves):
            print(f"{name}: {fault}", flush=True)
    for line in untold(step, min(samples, 2), sys.argv[3:]):
        print(line, flush=True)
