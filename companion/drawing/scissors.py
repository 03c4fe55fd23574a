"""Where a graph was cut: at which box of its drawing, and which cuts are worth to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from companion.drawing.boxes import Box, Folded
from companion.forward.cuts import Cut
from companion.forward.tracing import cuts_into
from companion.forward.watching import Watch


class Scissors(NamedTuple):
    """Where a cut is drawn: at the box and slot that took its value."""

    box: Box
    slot: int | None  # None: the value has no slot
    cut: Cut


def scissors_of(folded: Folded, watch: Watch) -> list[Scissors]:
    """Where the operation of a Node took the value of a cut.

    Of an operation with several Nodes the one counts that has a slot for the value; or the first.
    """
    with_slot, without = list[Scissors](), dict[Cut, Scissors]()
    boxes = {i: box for i, box in folded.box_of.items() if not box.is_outside}
    for i, box in boxes.items():
        for slot, cut in cuts_into(watch, folded.graph.nodes[i].grad_fn):
            scissors = Scissors(box, None if box.is_block else slot, cut)
            if slot is None:
                without.setdefault(cut, scissors)
            else:
                with_slot.append(scissors)
    for _, _, cut in with_slot:
        without.pop(cut, None)
    found = [*with_slot, *without.values()]
    cuts = set(harmful([scissors.cut for scissors in found]))
    return [scissors for scissors in found if scissors.cut in cuts]


def harmful(cuts: Sequence[Cut]) -> Sequence[Cut]:
    """Without comparisons, which are cut off as a rule, unless there is nothing else."""
    return [cut for cut in cuts if cut.code != "control-flow" and not _is_mask(cut)] or cuts


def _is_mask(cut: Cut) -> bool:
    return all(value.dtype is torch.bool for value in cut.operation.outputs)
