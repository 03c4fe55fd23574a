"""Copies of what passes in a backward pass, and when one copy may serve twice.

To copy 64 KB into new memory may take as long as an operation does. Where torch's own code alone
computes with the gradients of a large graph, a copy is lazy: it has the memory of the gradient, and
torch makes a real copy only when somebody writes to one of both.

Elsewhere the copy of a gradient that leaves a Node serves for the Node that it enters too, and the
copy of a large one for its views and for the ``.grad`` of a leaf: as long as nobody wrote to the
gradient meanwhile, which its version counter tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from companion.internals import (
    is_without_numbers,
    lazy_copy,
    parts_of,
    unseen_by_subclasses,
    version_of,
)

FINITE, INFINITE, NAN = 0, 1, 2  # how bad the worst value is, as in forward/finiteness.py
LARGE = 10_000  # elements: a smaller gradient is copied in less time than a copy of it is found

Tensor = torch.Tensor
Gradients = tuple[Tensor | None, ...]


class Copied(NamedTuple):
    """A tensor, its version when it was copied, and the copy."""

    tensor: Tensor
    version: int
    copy: Tensor

    def is_current(self) -> bool:
        """Whether nobody wrote to the tensor since it was copied."""
        return version_of(self.tensor) == self.version


def first_gradient(output: Tensor) -> Tensor:
    """The gradient of one that a pass begins with where none is given.

    Raises:
        RuntimeError: the output is sparse. Torch refuses it too, some layouts with other words.
    """
    if output.layout not in (torch.strided, torch.jagged):
        raise RuntimeError(
            "grad can be implicitly created only for scalar outputs that are dense, and output is "
            f"{output.layout}; give gradient=, a tensor of the shape {tuple(output.shape)}, or "
            "take output.sum()"
        )
    return torch.ones_like(output)


def copied(tensor: Tensor | None, copy: Tensor | None) -> Copied | None:
    """A tensor with its copy; None if it is None, or has no version counter."""
    if tensor is None or copy is None or (version := version_of(tensor)) is None:
        return None
    return Copied(tensor, version, copy)


def copied_if_large(tensor: Tensor | None, copy: Tensor | None) -> Copied | None:
    """The same; None for a tensor that is small as well."""
    return None if tensor is None or tensor.numel() < LARGE else copied(tensor, copy)


def copies_of(gradients: Gradients, has_graph: bool, known: Copied | None = None) -> Gradients:
    """Copies without a graph; from a copy that is known, where they may share its memory.

    Args:
        gradients: what to copy.
        has_graph: whether they may have a graph. A pass that makes none runs with gradients off,
            so that to clone them is enough.
        known: the copy of a tensor that some of them may be, or may be views of.
    """
    if known is not None:
        return tuple([None if g is None else _copy_from(known, g) for g in gradients])
    if has_graph:
        return tuple([None if g is None else g.detach().clone() for g in gradients])
    return tuple([None if g is None else g.clone() for g in gradients])


def lazy_copies_of(*groups: Gradients) -> list[Tensor | None]:
    """Copies without a graph that have the memory of what is copied until either is written to.

    For gradients that have no graph. What is not on the CPU is copied at once, since torch would no
    longer know which streams still read the memory; so is what refuses, such as a sparse tensor.
    """
    copies: list[Tensor | None] = []
    try:
        for gradients in groups:
            for g in gradients:
                copies.append(None if g is None else lazy_copy(g) if g.is_cpu else g.clone())
    except Exception:  # a stranger's subclass of Tensor may refuse with any
        return [copy for gradients in groups for copy in copies_of(gradients, False)]
    return copies


def copy_of(tensor: Tensor) -> Tensor:
    """A copy without a graph, whatever a subclass of Tensor makes of ``clone``."""
    with unseen_by_subclasses():
        return tensor.detach().clone()


def worst_value_in(gradients: Iterable[Tensor | None]) -> int:
    """How bad the worst value in some gradients is: FINITE, INFINITE or NAN."""
    worst = FINITE
    for g in gradients:
        if g is not None and not (g.is_nested or is_without_numbers(g)):
            values = parts_of(g)[1] if g.layout is torch.sparse_coo else g
            if not values.isfinite().all():
                worst = max(worst, NAN if values.isnan().any() else INFINITE)
    return worst


def _copy_from(known: Copied, tensor: Tensor) -> Tensor:
    """The same view of the known copy as the tensor is of what was copied, or a new copy."""
    if known.is_current():
        if tensor is known.tensor:
            return known.copy
        if _is_plain_view(tensor, known.tensor) and _holds(known, tensor):
            return known.copy.as_strided(tensor.shape, tensor.stride())
    return tensor.detach().clone()


def _is_plain_view(tensor: Tensor, source: Tensor) -> bool:
    """Whether it is a view that begins where its source does, and reads its bits as they are."""
    return (
        type(tensor) is type(source) is Tensor
        and tensor.layout is source.layout is torch.strided
        and tensor.data_ptr() == source.data_ptr()
        and tensor.dtype == source.dtype
        and not (tensor.is_conj() or source.is_conj() or tensor.is_neg() or source.is_neg())
    )


def _holds(known: Copied, view: Tensor) -> bool:
    """Whether the copy holds the memory of a view of its source, at the same places."""
    # It has the strides of its source only if it holds all of its memory, gaps included.
    return known.copy.stride() == known.tensor.stride() and _reach(view) <= _reach(known.tensor)


def _reach(tensor: Tensor) -> int:
    """How far from its first element its last one lies in memory."""
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
