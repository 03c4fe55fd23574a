"""``watch`` and ``diagnose`` against what really happens: random programs with a cut, or with NaN.

Each program is run under ``watch``, diagnosed, and then run backward. A step is a function on lines
of its own, so that the line of a finding tells which step it means.
"""

import copy
import random
import re
import warnings

import pytest
import torch
from torch import nn

from companion import Graph, diagnose, record_backward, watch
from tests.programs import Square, set_seed
from tests.slices import examples

PROGRAMS = examples(6000, part=20)
CHUNKS = 4  # tests


# ---- steps: from a tensor to one of its shape


def switched_off(x):
    with torch.no_grad():
        return x * 2


def copied_without_gradients(x):
    y = torch.zeros_like(x)
    with torch.no_grad():
        y.copy_(x)
    return y


def data_replaced(x):
    y = torch.zeros(3, dtype=x.dtype)
    y.data = x
    return y


def enabled_in_inference(x):
    with torch.inference_mode(), torch.enable_grad():
        y = x * 2
    return y.clone()


def function_off(x):
    return NoNode.apply(x)


class NoNode(torch.autograd.Function):
    """Halves what it gets from a tensor that it was not given."""

    @staticmethod
    def forward(ctx, x):
        return x.detach() / 2

    @staticmethod
    def backward(ctx, gradient):
        return None


CUTS = {
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "parameter": lambda x: nn.Parameter(x) * 1.5,
    "a new leaf": lambda x: torch.tensor(x.tolist(), dtype=x.dtype, requires_grad=True) * 2,
    "numpy": lambda x: torch.from_numpy(x.detach().numpy() * 2),
    "whole numbers": lambda x: (x * 1000).long() / 1000,
    "a comparison": lambda x: (x > 0) * 0.5,
    "no_grad": switched_off,
    "copy_": copied_without_gradients,
    ".data =": data_replaced,
    "inference": enabled_in_inference,
    "deepcopy": lambda x: copy.deepcopy(x.detach()) + 1,
}
SMOOTH = [
    lambda x: x.sin(),
    lambda x: x * 0.5 + 1,
    lambda x: torch.tanh(x),
    lambda x: x - x.mean(),
    lambda x: x[[2, 0, 1]],
    lambda x: torch.stack([x, x * x]).sum(0),
    lambda x: Square.apply(x),
    lambda x: x.clone().mul_(3),
]


def lines_of(step) -> range:
    code = step.__code__
    last = max(line for _, _, line in code.co_lines() if line is not None)
    return range(code.co_firstlineno, last + 1)


def leaf(dtype=torch.float64):
    return torch.randn(3, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_line_that_took_a_gradient_is_named_and_no_other(chunk):
    for seed in range(chunk, PROGRAMS, CHUNKS):
        rng = random.Random(seed)
        set_seed(seed)
        a, b = leaf(), leaf()
        kind = rng.choice([*CUTS, None])
        before = rng.choices(SMOOTH, k=rng.randrange(3))
        after = rng.choices(SMOOTH, k=rng.randrange(3))
        around = rng.random() < 0.3  # a second way, which is whole
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with watch() as watched:
                x = a
                for step in before:
                    x = step(x)
                x = CUTS[kind](x) if kind else x
                for step in after:
                    x = step(x)
                loss = (x * b).sum() + b.sum()
                if around:
                    loss = loss + (a * b).sum()
        told = diagnose(loss, a, b, watch=watched)
        loss.backward()
        missing = [t for t in (a, b) if t.grad is None]
        program = f"seed {seed}: {kind}, around: {around}\n{told}"
        assert told.ok is not bool(missing), program
        lines = lines_of(CUTS[kind]) if kind else range(0)
        if kind == "parameter" and before:  # nn.Parameter() itself is no call that a watch sees
            lines = [*lines, *lines_of(before[-1])]
        zero = [f for f in told if f.code == "zero-derivative" and f.severity == "warning"]
        for found in zero:  # where tanh() is rounded to -1, say
            named = re.findall(r"\b[ab]\b", re.split(" passes | by ", found.message)[0])
            grads = [{"a": a, "b": b}[name].grad for name in named]
            assert grads and all(g is None or g.abs().max() < 1e-12 for g in grads), program
        serious = [f for f in told if f.severity != "info" and f not in zero]
        named = {f.source.line for f in serious if f.source}
        assert named <= set(lines), program
        if kind is None:
            assert not serious, program
        elif missing:
            (error,) = [f for f in told if f.severity == "error"]
            assert told[0] is error and "a " in error.message, program
            # Of these two it is not known that what came back is the value that left.
            assert named or kind in ("numpy", "parameter"), program
        elif kind != "parameter":
            assert {f.source.line for f in told if f.source} & set(lines), program


# ---- NaN and infinities

SPOILING = [
    lambda x: (x - x[0]).sqrt(),
    lambda x: (x - x[0]).log(),
    lambda x: 1 / (x - x[0]),
    lambda x: (x * 1000).exp(),
    lambda x: x / (x - x),
    lambda x: torch.full_like(x, -torch.inf).softmax(0) * x,
    lambda x: x.masked_fill(x > 0, torch.inf),
]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_first_operation_that_is_not_finite_is_named(chunk):
    for seed in range(chunk, PROGRAMS, CHUNKS):
        rng = random.Random(seed)
        set_seed(seed)
        a = leaf()
        steps = rng.choices([*SMOOTH, *SPOILING], k=rng.randrange(1, 6))
        first, x = None, a
        with watch() as watched:
            for step in steps:
                was_finite = bool(x.isfinite().all())
                x = step(x)
                if first is None and was_finite and not x.isfinite().all():
                    first = step
            masked = torch.where(x.isfinite(), x, 0.0)
            loss = (masked if rng.random() < 0.5 else x).sum()
        born = watched.first_nonfinite
        program = f"seed {seed}: {[s.__code__.co_firstlineno for s in steps]}\n{born}"
        inside = [s for s in steps if s in SPOILING]
        if first is None:
            # It may have been spoilt inside of a step that gave finite numbers.
            assert born is None or born.source.line in {n for s in inside for n in lines_of(s)}
        else:
            assert born.source.line in lines_of(first) or first not in inside, program
        told = diagnose(loss, a, watch=watched)
        functions = [node.grad_fn for node in Graph.of(loss).nodes if node.is_custom]
        has_infinite = any(t.isinf().any() for f in functions for t in f.saved_tensors)
        recording = record_backward(loss)
        spoilt = not a.grad.isfinite().all()
        codes = {f.code for f in told if f.severity != "info"}
        # No graph can tell that the backward pass itself overflows near the largest number, nor
        # what the backward of a custom Function does with infinite values.
        if spoilt and not has_infinite and loss.isfinite() and loss.abs() < 1e300:
            assert codes & {"nan-risk", "non-finite"}, f"{program}\n{told}"
        if not loss.isfinite():
            assert "non-finite" in codes, f"{program}\n{told}"
        step = recording.first_nonfinite
        if step is not None:
            given = [g for g in step.grad_outputs if g is not None]
            sent = [g for g in step.grad_inputs if g is not None]
            assert all(g.isfinite().all() for g in given), program
            assert not all(g.isfinite().all() for g in sent), program
        assert not (step is None and spoilt), program
