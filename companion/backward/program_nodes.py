"""A Node called by hand as the engine calls it, and what the engine makes of what it passes on."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch.autograd.function import BackwardCFunction

from companion.backward.copies import Gradients, Tensor
from companion.backward.grads_kept import grads_kept
from companion.graph.saved import peek
from companion.internals import (
    Node,
    materializes,
    metadata_of,
    saved_attribute,
)


class CalledNode:
    """Stands for a Node in a program: it has what the Node saved, and can be called.

    What it saved is held here, so that it can be read after the Node was freed.
    """

    def __init__(self, fn: Node, description: str, saved: Mapping[str, Any]) -> None:
        self._fn, self._description = fn, description
        for name, value in saved.items():
            setattr(self, saved_attribute(name), value)

    def __call__(self, *gradients: Tensor | None) -> Any:
        passed_on = called(self._fn, gradients, self._description)
        return passed_on[0] if len(passed_on) == 1 else passed_on


def called(fn: Node, gradients: Gradients, description: str) -> Gradients:
    """What a Node passes on, one gradient for each entry of its ``next_functions``.

    It runs no hooks, and frees nothing. What a custom Function does in its backward it does, but
    that it leaves gradients in ``.grad`` is undone.

    Args:
        fn: the Node.
        gradients: one for each output of its operation.
        description: how an error says which Node it is.

    Raises:
        RuntimeError: it was freed, or something that it saved was, or was modified in place.
    """
    if emptied := peek(fn).emptied:
        raise RuntimeError(
            f"{description} cannot run without {' and '.join(emptied)}, which it saved and whose "
            "storage was freed since, as FSDP and offloading do; here no hook of theirs brings it "
            "back"
        )
    try:
        if isinstance(fn, BackwardCFunction):
            with grads_kept() as noted, noted:
                return _called_function(fn, gradients)
        passed_on = fn(*gradients)
        return passed_on if isinstance(passed_on, tuple) else (passed_on,)
    except RuntimeError as error:
        _explain(fn, description, error)


def _explain(fn: Node, description: str, error: RuntimeError) -> NoReturn:
    """Raise an error that says which Node it was, if what it saved is the cause; else the same."""
    broken = peek(fn).broken
    if not broken and "a second time" not in str(error):
        raise error
    parts = [f"{name} ({state})" for name, state in broken.items()]
    cure = "write to a copy, as in h = h + 1, or call write_backward before the change"
    if not broken or "freed" in broken.values():
        cure = "keep it with backward(retain_graph=True), or call write_backward before"
    raise RuntimeError(
        f"{description} cannot run any more because of what it saved: "
        f"{', '.join(parts) or 'freed'}; run the forward pass again, and {cure}"
    ) from error


def _called_function(fn: Any, gradients: Gradients) -> Gradients:
    """What a custom Function passes on; Python can call its backward, but not its Node.

    The engine gives it zeros for an undefined gradient, unless it said that it wants none. It drops
    what the backward gives for arguments that need no gradient.
    """
    if materializes(fn):
        gradients = tuple([_zeros(fn, nr) if g is None else g for nr, g in enumerate(gradients)])
    passed_on = fn.apply(*gradients)
    passed_on = passed_on if isinstance(passed_on, tuple) else (passed_on,)
    needed = fn.needs_input_grad
    if len(passed_on) < len(needed) or any(g is not None for g in passed_on[len(needed) :]):
        raise RuntimeError(
            f"function {type(fn).__name__} returned an incorrect number of gradients "
            f"(expected {len(needed)}, got {len(passed_on)})"
        )
    # An entry leads on just if its argument needs a gradient, and they stand in the same order.
    wanted = iter([g for g, is_needed in zip(passed_on, needed, strict=False) if is_needed])
    return tuple([None if child is None else next(wanted, None) for child, _ in fn.next_functions])


def _zeros(fn: Node, nr: int) -> Tensor:
    metadata = metadata_of(fn, nr)
    return torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def fitted(value: Tensor, target: Node, nr: int, text: str = "value") -> tuple[Tensor, str]:
    """A gradient as the engine makes it before it goes on: of the shape and dtype it belongs to.

    Args:
        value: what a Node passed on.
        target: the Node that it goes to.
        nr: the input of that Node.
        text: an expression for the gradient.

    Returns:
        The gradient, and an expression for it.

    Raises:
        RuntimeError: it has another shape, and not because an operation stretched its input.
    """
    metadata = metadata_of(target, nr)
    if value.is_nested or metadata.is_nested_tensor:
        return value, text
    shape, dtype = tuple(metadata.shape), metadata.dtype
    if value.is_complex() and not dtype.is_complex:
        value, text = value.real, f"{_bracketed(text)}.real"
    if tuple(value.shape) != shape:
        value, text = value.sum_to_size(shape), f"{_bracketed(text)}.sum_to_size({shape})"
    if value.dtype != dtype:
        value, text = value.to(dtype), f"{_bracketed(text)}.to({dtype})"
    return value, text


def _bracketed(text: str) -> str:
    """An expression to which an attribute can be appended."""
    parsed = ast.parse(text, mode="eval").body
    return text if isinstance(parsed, ast.Name | ast.Call | ast.Attribute) else f"({text})"


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two dense tensors are equal to the bit, but for the kind of NaN."""
    if (left.dtype, left.shape, left.device) != (right.dtype, right.shape, right.device):
        return False
    if not (left.layout is right.layout is torch.strided) or left.is_nested or right.is_nested:
        return False
    if left.is_complex():
        left, right = (torch.view_as_real(part.resolve_conj()) for part in (left, right))
    numbers = ~(left.isnan() & right.isnan())
    left, right = left[numbers], right[numbers]
    return torch.equal(left, right) and torch.equal(left.signbit(), right.signbit())


def has_hooks(fn: Node) -> bool:
    """Whether somebody put hooks on a Node, which torch does not tell.

    A new hook gets into the same dict as those that are there.
    """
    for register in (fn.register_hook, fn.register_prehook):
        handle = register(lambda *_: None)
        hooks = handle.hooks_dict_ref()
        handle.remove()
        if hooks:
            return True
    return False
