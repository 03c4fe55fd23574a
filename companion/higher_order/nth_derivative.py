"""The n-th derivative from the graph: ask for a derivative with a graph, then ask again."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

from companion.graph.freeing import SHALLOW, fuse
from companion.higher_order.taylor import check_has_numbers
from companion.internals import (
    running_pass,
    takes_statistics_for_constants,
    unseen_by_subclasses,
)

Edge = tuple[Node, int]  # a Node and which of its outputs


def nth_derivative(y: Tensor, x: Tensor, n: int) -> Tensor:
    """Differentiate ``y`` by ``x`` ``n`` times, element by element.

    ``y[i]`` must depend on ``x[i]`` alone. Then the gradient of ``y.sum()`` holds ``dy[i]/dx[i]``
    in place ``i``, and the same step can be repeated on it. A complex ``y`` must be holomorphic.

    Args:
        y: shape ``(*)``, floating or complex, computed from ``x``; its graph stays usable.
        x: shape ``(*)``, the same as ``y`` (or one element each); requires grad, leaf or not.
        n: order of the derivative; 0 returns ``y``.

    Returns:
        Shape of ``x`` (for ``n`` of 1 or more), dtype of ``y``, with a graph if torch recorded one;
        once a derivative has no graph to ``x``, every higher order is exact zeros. At a kink, and
        where a formula of torch's is 0/0 as that of ``torch.sinc`` at 0, it is what torch gives,
        perhaps nan.

    Raises:
        TypeError: ``n`` is no int, ``y`` or ``x`` no tensor, or ``x`` neither floating nor complex,
            or not dense (sparse, nested), or ``y`` or ``x`` without numbers (fake, or on the device
            ``meta``).
        ValueError: ``n`` is negative; ``x`` does not require grad; ``y`` was not computed from
            ``x``; one of them is complex and the other real; the shapes differ; ``y`` is not
            elementwise or not holomorphic; a saved tensor it needs was freed; or the gradient from
            a custom Function is None, or for ``n`` of 2 or more has no graph to ``x``, being
            constant or hiding it; or for ``n`` of 3 or more there is a layer, batch or instance
            norm between, for which torch has no such derivative (``derivatives`` has).

    Examples:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> [nth_derivative(x**3, x, n).item() for n in range(6)]
        [8.0, 12.0, 12.0, 6.0, 0.0, 0.0]
        >>> nth_derivative(x.detach() ** 3, x, 1)
        Traceback (most recent call last):
        ValueError: y has no graph; compute it from x without detach() and outside torch.no_grad()

    What it cannot know: a value that entered ``y`` without a graph counts as a constant, because
    nothing tells how it was made (a detached tensor; ``torch.special.airy_ai(x)`` or another
    operation without a derivative, inside ``y``). A custom Function's gradient that leads to
    ``x`` is believed, though part of it may be hidden: ``torch.autograd.gradgradcheck`` finds
    out. So is a None from one of several outputs of which some have no gradient. One that changed
    a view in place is not found at all. "Elementwise" is judged by the first derivatives at this
    ``x``.

    No ``.grad`` of a leaf, of ``y`` or of ``x`` is written. Of a tensor between them that has
    ``retain_grad()``, it adds up over several passes and holds the graph: set it to None. A hook
    between them runs in each pass, and one that changes gradients changes the derivative.

    The graph grows with every order (Griewank and Walther, Evaluating Derivatives, 2nd ed.,
    2008, ch. 13).
    """
    # Both, for a caller under no_grad or inference_mode: under the second, the derivative would
    # come without a graph, and the next one would be a wrong zero.
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as after:
        _check_order(n)
        _check_tensors(y, x)
        for tensor in (y, x):
            if tensor.retains_grad:
                after.callback(setattr, tensor, "grad", tensor.grad)
        _check_dependence(y, x)
        derivative = y
        for order in range(1, n + 1):
            paths = _paths(derivative, x)
            if not paths:
                return torch.zeros_like(x, dtype=y.dtype)
            _check_functions(derivative, x, paths, order, last=order == n)
            if order < n:
                _check_norms(paths, order)
            gradient = _vjp(derivative, x, torch.ones_like(derivative), create_graph=True)
            derivative = gradient.conj().resolve_conj()  # of a complex y, torch's is the conjugate
        if n > 0 and not derivative.any():
            derivative = derivative.clone()  # torch's zeros may have no memory to read or write
        return derivative.to(y.dtype)


def _check_order(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an int, got {type(n).__name__}")
    if n < 0:
        raise ValueError(f"n must be 0 or more, got {n}")


def _check_tensors(y: Tensor, x: Tensor) -> None:
    """Raise unless these are tensors, and ``x`` one that derivatives can be taken by."""
    for name, value in (("y", y), ("x", x)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(f"x must be floating or complex, got {x.dtype}; compute y from x.double()")
    kind = "nested" if x.is_nested else x.layout
    if kind is not torch.strided:
        raise TypeError(f"x must be a dense tensor, got {kind}; compute y from such a one")
    for name, value in (("y", y), ("x", x)):
        check_has_numbers(name, value)
    if not x.requires_grad or x.is_inference():
        raise ValueError(
            "x does not require grad or was made under torch.inference_mode(); "
            "call x.requires_grad_() outside of it, before computing y"
        )


def _check_dependence(y: Tensor, x: Tensor) -> None:
    """Raise unless ``y`` was computed from ``x``, element by element."""
    if y.grad_fn is None and y is not x:
        raise ValueError(
            "y has no graph; compute it from x without detach() and outside torch.no_grad()"
        )
    if not _paths(y, x):
        raise ValueError(
            "y was not computed from this x; pass the very tensor that y was computed from, "
            "not a copy and not a name assigned again since"
        )
    if y.is_complex() != x.is_complex():
        raise ValueError(
            f"y and x must be both real or both complex, got {y.dtype} and {x.dtype}; "
            "differentiate y.real and y.imag by a real x, one at a time"
        )
    if y.shape != x.shape and not y.numel() == x.numel() == 1:
        raise ValueError(
            f"y and x must have the same shape, got {tuple(y.shape)} and {tuple(x.shape)}; "
            "for a scalar y use torch.func.hessian or torch.autograd.grad"
        )
    if x.numel() > 1 or x.is_complex():
        _check_elementwise(y, x)


def _check_elementwise(y: Tensor, x: Tensor) -> None:
    """Raise unless ``vjp(v) == v * vjp(1)``, as for an elementwise, holomorphic ``y``.

    Not seen is a dependence that is 0 at this ``x`` or below the tolerance, or that falls on a
    derivative that is infinite or nan or becomes so by the factor.
    """
    gradient = _vjp(y, x, torch.ones_like(y), create_graph=False)
    # Elements may mix and cancel up to rounding: a solve leaves hundreds of eps, and log_softmax
    # ten. In half precision, hundreds of eps would be as large as the derivative.
    eps = max(torch.finfo(y.dtype).eps, torch.finfo(x.dtype).eps)
    rtol = eps * (16 if eps > 1e-4 else 1000)
    for v in _factors(y):
        expected = (v.view(x.shape) * gradient).to(x.dtype)
        probe = _vjp(y, x, v, create_graph=False)
        same = torch.isclose(probe, expected, rtol=rtol, atol=rtol * torch.finfo(x.dtype).tiny)
        wrong = int((probe.isfinite() & ~same).sum())
        if wrong:
            raise ValueError(
                f"y is not elementwise in x{' or not holomorphic' if x.is_complex() else ''}, "
                f"seen in {wrong} of {x.numel()} places; "
                "for each y[i] by each x[j] use torch.func.jacrev or torch.func.hessian"
            )


def _factors(y: Tensor) -> Iterator[Tensor]:
    """Four draws of factors that differ from element to element.

    They are random, since several dependences can cancel in a fixed pattern, and dealt out evenly:
    up to 8 elements all differ, and two of more are equal in all four draws once in 4096.
    """
    generator = torch.Generator().manual_seed(0)  # the global one is the caller's
    for _ in range(4):
        deal = torch.randperm(y.numel(), generator=generator, device="cpu") % 8
        # Signed powers of two scale exactly, so that each derivative is judged by its own size.
        factors = torch.ldexp(1.0 - 2.0 * (deal % 2), deal // 2).view(y.shape).to(y)
        # Real factors cannot tell z from its conjugate.
        yield factors * 1j if y.is_complex() else factors


def _check_functions(y: Tensor, x: Tensor, paths: set[Edge], order: int, *, last: bool) -> None:
    """Raise if a custom Function on ``paths`` gives no gradient, or one without a graph to ``x``.

    The second is allowed at the ``last`` order, whose derivative is not differentiated again.
    """
    functions = {node for node, _ in paths if isinstance(node, BackwardCFunction)}
    if not functions:
        return
    root = y.view_as(y)  # a Node of our own, which runs before all others of this pass
    this_pass: list[int] = []
    silent, hiding = set[str](), set[str]()

    # The Nodes are the caller's, and another pass may run over them in another thread. What comes
    # in is cut off: its graph must not pass for that of a Function's own gradient.
    def cut(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        if running_pass() not in this_pass:
            return None
        return tuple(None if gradient is None else gradient.detach() for gradient in gradients)

    def look(node: Node, gradients: tuple[Tensor | None, ...], came: Sequence[object]) -> None:
        if running_pass() not in this_pass:
            return
        name = type(node).__name__.removesuffix("Backward")
        for gradient, edge in zip(gradients, node.next_functions, strict=True):
            if edge not in paths:
                continue
            if gradient is None and all(each is not None for each in came):
                silent.add(name)
            elif gradient is not None and not _leads_to(gradient, paths):
                hiding.add(name)

    with ExitStack() as hooks:
        own = root.grad_fn.register_prehook(  # type: ignore[union-attr]
            lambda _: this_pass.append(running_pass())
        )
        hooks.enter_context(own)
        for node in functions:
            hooks.enter_context(node.register_prehook(cut))
            hooks.enter_context(node.register_hook(partial(look, node)))
        _vjp(root, x, torch.ones_like(root), create_graph=True)
    if silent:
        raise ValueError(
            f"cannot vouch for the derivative of order {order}: the gradient from "
            f"{', '.join(sorted(silent))} is None, though it was computed from x; return zeros "
            "from its backward if its derivative is zero"
        )
    if hiding and not last:
        raise ValueError(
            f"cannot vouch for the derivative of order {order + 1}: the gradient from "
            f"{', '.join(sorted(hiding))} has no graph to x, so it is constant or hides how it "
            "depends on x; write the Function with torch operations, or let its backward compute "
            "from ctx.save_for_backward tensors, and check with torch.autograd.gradgradcheck"
        )


def _check_norms(paths: set[Edge], order: int) -> None:
    """Raise if a formula on ``paths`` takes for constant what depends on ``x``."""
    names = sorted({node.name() for node, _ in paths if takes_statistics_for_constants(node)})
    if names:
        raise ValueError(
            f"cannot vouch for the derivative of order {order + 1}: the formula of "
            f"{', '.join(names)} takes the mean and variance that were saved for constants; use "
            "derivatives(f, x, order), or write the norm with mean() and rsqrt()"
        )


def _leads_to(gradient: Tensor, paths: set[Edge]) -> bool:
    """Whether a graph meets one of the paths, each of which leads on to its end."""
    if not gradient.requires_grad:
        return False
    start = get_gradient_edge(gradient)
    stack = [(start.node, start.output_nr)]
    seen = set(stack)
    while stack and stack[-1] not in paths:
        here, _ = stack.pop()
        if len(seen) > SHALLOW:
            fuse(here)
        for node, output_nr in here.next_functions:
            if node is not None and (node, output_nr) not in seen:
                seen.add((node, output_nr))
                stack.append((node, output_nr))
    return bool(stack)


def _vjp(y: Tensor, x: Tensor, v: Tensor, *, create_graph: bool) -> Tensor:
    """Return the gradient of ``(v * y).sum()`` by ``x``, and keep the graph of ``y``."""
    try:
        (gradient,) = torch.autograd.grad(
            y, x, v, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise ValueError(
            "the graph of y was freed by an earlier backward; compute y again, "
            "or pass retain_graph=True to that backward"
        ) from error
    return torch.zeros_like(x) if gradient is None else gradient


def _paths(y: Tensor, x: Tensor) -> set[Edge]:
    """Return every edge on a path from ``y`` to ``x``, both ends included."""
    if not y.requires_grad:
        return set()
    with unseen_by_subclasses():  # which would give the edges of views
        start, end = get_gradient_edge(y), get_gradient_edge(x)
    stack = [(start.node, start.output_nr)]
    users: dict[Edge, list[Edge]] = {stack[0]: []}
    while stack:
        edge = stack.pop()
        if len(users) > SHALLOW:
            fuse(edge[0])
        for node, output_nr in edge[0].next_functions:
            if node is None:
                continue
            if (node, output_nr) not in users:
                stack.append((node, output_nr))
            users.setdefault((node, output_nr), []).append(edge)
    paths: set[Edge] = set()
    stack = [edge for edge in users if edge == (end.node, end.output_nr)]
    while stack:
        edge = stack.pop()
        if edge not in paths:
            paths.add(edge)
            stack += users[edge]
    return paths
