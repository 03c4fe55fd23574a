"""Values that were written into memory by way of another tensor than the one that is used.

``out.data[i] = result`` writes into the memory of ``out``, and the graph of the result goes to the
tensor that ``.data`` gave: ``out`` has the values, and no Node of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from companion.forward.cuts import Operation
from companion.forward.fingerprints import memory_of
from companion.forward.notes import Note, Origin
from companion.forward.torch_functions import VALUELESS
from companion.forward.tracing import leaves_seen, positions_in, taken_as_constants
from companion.forward.watching import Watch

Tensor = torch.Tensor


def aliases_taken(
    watch: Watch, tensors: Sequence[Tensor], output: Tensor
) -> dict[Tensor, Operation]:
    """By tensor the first operation on the way to an output that took an alias of it.

    That is a leaf in its memory which requires no grad and was made before the block.

    Of tensors that have no such alias, or one that is gone by now, nothing is told.
    """
    in_memory = {memory: tensor for tensor in tensors if (memory := memory_of(tensor)) is not None}
    constants = [leaf for leaf in leaves_seen(watch) if not leaf.requires_grad]
    aliases = {leaf: in_memory[at] for leaf in constants if (at := memory_of(leaf)) in in_memory}
    taken = taken_as_constants(watch, list(aliases), output) if aliases else {}
    return {aliases[alias]: operation for alias, operation in taken.items()}


def written_past(
    watch: Watch, tensors: Sequence[Tensor], output: Tensor, with_graph: bool = False
) -> dict[Tensor, Operation]:
    """By tensor the operation that wrote what was computed from it into memory that an output was
    computed from, by way of a tensor that ``.data`` or ``detach()`` gave.

    Tensors of which nothing came to the output in this way are left out.

    Args:
        watch: what saw the forward pass.
        tensors: the tensors.
        output: a tensor.
        with_graph: whether only what had a graph when it was written counts.

    Raises:
        TypeError: one of them is not a tensor.
    """
    notes = watch._recorder.notes
    if not any(note.name == "data" or note.stands_for is not None for note in notes):
        return {}  # as a rule
    # By origin, as bits, the tensors whose values are in it, and those whose values were written
    # into its memory past its graph.
    came_from, past = defaultdict[Origin, int](int), defaultdict[Origin, int](int)
    for position, tensor in enumerate(tensors):
        came_from[watch._value_of(tensor).origin] |= 1 << position
    shown = defaultdict[int | None, set[Origin]](set)  # by address, what .data was asked of
    caught_up = dict[Origin, int]()  # what may have been written by way of detach(), by which note
    writers = dict[int, int]()  # by position the first note that wrote past
    for i, note in enumerate(notes):
        bits = passed = wrote = 0
        for value in note.inputs if note.name not in VALUELESS else ():
            origin = value.origin
            if origin in caught_up and not value.requires_grad:
                past[origin] |= came_from[origin]
                for position in positions_in(came_from[origin]):
                    writers.setdefault(position, caught_up[origin])
            bits |= came_from[origin]
            passed |= past[origin]
            wrote |= came_from[origin] if value.requires_grad or not with_graph else 0
        for nr in range(max(1, len(note.outputs))) if bits or passed else ():
            came_from[i, nr] |= bits
            past[i, nr] |= passed
        if note.stands_for is not None and wrote:
            caught_up[i, 0] = note.stands_for
        elif note.name == "data" and not note.in_place:
            shown[note.addresses[0]].update(_shown_by(notes, note))
        elif note.in_place and wrote:
            for origin in (origin for address in note.addresses for origin in shown[address]):
                past[origin] |= wrote
                for position in positions_in(wrote):
                    writers.setdefault(position, i)
    reached = past[watch._value_of(output).origin]
    return {tensors[i]: watch._operation_at(writers[i]) for i in positions_in(reached)}


def _shown_by(notes: Sequence[Note], note: Note) -> list[Origin]:
    """The origins of what ``.data`` was asked of, and of what that is a view of."""
    shown = list[Origin]()
    for value in note.inputs:
        while True:
            shown.append(value.origin)
            maker = None if value.made_by is None else notes[value.made_by]
            if maker is None or maker.name not in VIEWING or not maker.inputs:
                break
            value = maker.inputs[0]
    return shown


VIEWING = set(
    "__getitem__ select narrow unbind view t T mT transpose permute diagonal squeeze "
    "unsqueeze".split()
)
