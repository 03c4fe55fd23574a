"""A Node called by hand, as the engine calls it, and what the engine makes of what it gives on."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from companion.backward.copies import Gradients, Tensor
from companion.internals import Node, materializes, metadata_of, output_count, saved_attribute


class CalledNode:
    """Stands for a Node in a program: it has what the Node saved, and can be called.

    What it saved is held here, so that it can be read after the Node has been freed.
    """

    def __init__(self, fn: Node, saved: dict[str, Any]) -> None:
        self._fn = fn
        for name, value in saved.items():
            setattr(self, saved_attribute(name), value)

    def __call__(self, *gradients: Tensor | None) -> Any:
        given_on = called(self._fn, gradients)
        return given_on[0] if len(given_on) == 1 else given_on


def called(fn: Node, gradients: Gradients) -> Gradients:
    """What a Node gives on, one gradient for each entry of its ``next_functions``.

    It runs no hooks, and does not free what the Node saved.

    Raises:
        RuntimeError: what the Node raises, such as that it was freed.
    """
    if isinstance(fn, BackwardCFunction):
        return _called_function(fn, gradients)
    given_on = fn(*gradients)
    return given_on if isinstance(given_on, tuple) else (given_on,)


def _called_function(fn: Any, gradients: Gradients) -> Gradients:
    """The same of a custom Function, of which Python can call the backward alone.

    The engine gives zeros for an undefined gradient, unless the Function said that it wants none.
    It drops what the backward gives for arguments that are no tensors.
    """
    if materializes(fn):
        gradients = tuple(
            _zeros(fn, nr) if gradient is None else gradient
            for nr, gradient in enumerate(gradients)
        )
    given_on = fn.apply(*gradients)
    given_on = given_on if isinstance(given_on, tuple) else (given_on,)
    needed = fn.needs_input_grad
    if len(given_on) < len(needed) or any(g is not None for g in given_on[len(needed) :]):
        raise RuntimeError(
            f"function {type(fn).__name__} returned an incorrect number of gradients "
            f"(expected {len(needed)}, got {len(given_on)})"
        )
    # An entry leads on just if its argument needs a gradient, and they stand in the same order.
    wanted = iter([g for g, is_needed in zip(given_on, needed, strict=False) if is_needed])
    return tuple(None if child is None else next(wanted) for child, _ in fn.next_functions)


def _zeros(fn: Node, nr: int) -> Tensor | None:
    """What a custom Function is given where nothing came; None for what has no derivative."""
    if nr >= output_count(fn):
        return None
    metadata = metadata_of(fn, nr)
    try:
        return torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device)
    except (RuntimeError, TypeError, AttributeError):
        return None


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two dense tensors are equal to the bit, but for the kind of NaN."""
    if (left.layout, left.dtype, left.shape) != (right.layout, right.dtype, right.shape):
        return False
    if left.layout is not torch.strided or left.device != right.device:
        return False
    if left.is_complex():
        left, right = (
            torch.view_as_real(left.resolve_conj()),
            torch.view_as_real(right.resolve_conj()),
        )
    numbers = ~(left.isnan() & right.isnan())
    left, right = left[numbers], right[numbers]
    return torch.equal(left, right) and torch.equal(left.signbit(), right.signbit())
