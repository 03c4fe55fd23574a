"""Where the backward pass of a Node writes zeros over the gradient, whatever it was."""

from __future__ import annotations

import torch

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.risks import is_readable

# By operation its slots, each with the name of a mask that was saved, what the mask is where an
# element is left out, and why all are if it is that everywhere.
MASKS = {
    "MaskedFill": [(0, "mask", True, "masked_fill fills every element")],
    "Where": [
        (0, "condition", False, "where() takes no element of it"),
        (1, "condition", True, "where() takes no element of it"),
    ],
}


def overwritten_below(case: Case, index: int) -> torch.Tensor | None:
    """The elements of the gradient of a Node's one input that are zeros one Node further on.

    None where there are none, or the Node has several inputs.
    """
    slots = case.slots(index)
    edge = slots[0] if len(slots) == 1 else None
    if edge is None:
        return None
    below = case.nodes[edge.target]
    masks = MASKS.get(operation_of(below.name), ())
    slots_below, values = case.slots(below.index), case.peeks[below.index].values
    overwritten = None
    for slot, given in enumerate(slots_below):
        if given is None:
            continue
        left_out = [(values.get(name), is_left) for n, name, is_left, _ in masks if n == slot]
        if not left_out or not is_readable(mask := left_out[0][0]):
            return None  # such as the value that masked_fill fills in
        zeros = mask == left_out[0][1]
        overwritten = zeros if overwritten is None else overwritten & zeros
    return overwritten
