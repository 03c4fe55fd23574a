"""Which leaves have values that were computed in the block: a graph ends at such a leaf."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch

from companion.forward.aliases import VIEWING
from companion.forward.cuts import Operation
from companion.forward.fingerprints import memory_of
from companion.forward.notes import Origin, Value
from companion.forward.torch_functions import VALUELESS
from companion.forward.tracing import positions_in
from companion.forward.watching import Watch
from companion.internals import unseen

Tensor = torch.Tensor


class NewLeaf(NamedTuple):
    """A leaf that has values which were computed from a tensor.

    Attributes:
        leaf: the leaf.
        operation: what wrote the values into it, or gave those that it was made of.
        is_written: whether they were written into it.
    """

    leaf: Tensor
    operation: Operation
    is_written: bool


def leaves_with_values_of(
    watch: Watch, tensors: Sequence[Tensor], leaves: Sequence[Tensor]
) -> dict[Tensor, NewLeaf]:
    """By tensor the first of some leaves that has values computed from it.

    Values are followed past cuts, and into memory that a leaf shares, as with ``leaf.data``.

    Raises:
        TypeError: one of them is not a tensor.
    """
    with unseen():
        by_memory = {memory_of(leaf): (leaf, watch._value_of(leaf)) for leaf in leaves}
    by_memory.pop(None, None)
    by_origin = {value.origin: leaf for leaf, value in by_memory.values()}
    came_from = defaultdict[Origin, int](int)  # by origin, the positions of tensors as bits
    for position, tensor in enumerate(tensors):
        came_from[watch._value_of(tensor).origin] |= 1 << position
    first_leaf = dict[Tensor, NewLeaf]()
    for i, note in enumerate(watch._recorder.notes):
        bits = 0
        for value in note.inputs if note.name not in VALUELESS else ():
            bits |= came_from[value.origin]
        origins = [(i, nr) for nr in range(max(1, len(note.outputs)))] if bits else []
        for origin in origins:
            came_from[origin] |= bits
        leaves_hit = [by_origin[origin] for origin in origins if origin in by_origin]
        leaves_hit += [
            by_memory[address][0]
            for address in (note.addresses if bits and note.in_place else ())
            if address in by_memory and _is_older(by_memory[address][1], i)
        ]
        for position in positions_in(bits) if leaves_hit else ():
            is_written = note.in_place or note.stands_for is not None
            new_leaf = NewLeaf(leaves_hit[0], watch._operation_at(i), is_written)
            first_leaf.setdefault(tensors[position], new_leaf)
    return first_leaf


def view_made_into(watch: Watch, tensor: Tensor, leaf: Tensor) -> Operation | None:
    """The operation that gave the view of a tensor of which a leaf in its memory was made.

    ``nn.Parameter(view)`` itself is no call that a watch sees. So it is the one view of that shape
    that nothing else used; None if there is no such view, or several.
    """
    notes, views = watch._recorder.notes, {watch._value_of(tensor).origin}
    used = {value.origin for note in notes for value in note.inputs}
    found = list[int]()
    for i, note in enumerate(notes):
        if note.name in VIEWING and note.inputs[0].origin in views:
            views |= {(i, nr) for nr in range(len(note.outputs))}
            shapes = [value.shape for value in note.outputs if value.origin not in used]
            found += [i] * (leaf.shape in shapes)
    return watch._operation_at(found[0]) if len(found) == 1 else None


def _is_older(value: Value, i: int) -> bool:
    """Whether a tensor of this value was there before a note: its memory was not another's."""
    return value.made_by is None or value.made_by < i
