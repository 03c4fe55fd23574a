"""Where the backward pass writes zeros over a gradient, whatever it was: NaN does no harm there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.risks import is_plain, is_readable
from companion.diagnosis.slopes import SLOPES
from companion.graph.nodes import shape_or_none

Tensor = torch.Tensor
Shape = tuple[int, ...]
IsFlat = Callable[[Tensor, Mapping[str, Any]], Tensor]


def overwritten(case: Case) -> dict[int, Tensor]:
    """By Node the elements of the gradient that comes to it which are zeros further on.

    Nodes of which that is not known are left out.
    """
    found = dict[int, Tensor]()
    for index in reversed(case.graph.order if case.graph else ()):  # after all that it leads to
        edges = [edge for edge in case.slots(index) if edge]
        node, values = case.nodes[index], case.peeks[index].values
        operation = operation_of(node.name)
        is_leaving_out = operation in MASKS or operation in LEFT_OUT
        if not is_leaving_out and not any(edge.target in found for edge in edges):
            continue
        shape = shape_or_none(node) or ()
        by_edge = list[Tensor]()
        for edge in edges:
            zeros = [_left_out(operation, edge.slot, values, shape)] if is_leaving_out else []
            if edge.target in found:
                zeros.append(_carried(operation, values, shape, found[edge.target]))
            known = [each for each in zeros if each is not None]
            by_edge += [reduce(torch.logical_or, known)] if known else []
        if edges and len(by_edge) == len(edges):
            found[index] = reduce(torch.logical_and, by_edge)
    return found


def _left_out(operation: str, slot: int, values: Mapping[str, Any], shape: Shape) -> Tensor | None:
    """The elements that a Node itself makes zero along a slot."""
    if operation in LEFT_OUT and slot == 0:
        argument, is_flat = LEFT_OUT[operation]
        value = values.get(argument)
        if is_readable(value) and is_plain(value):
            return _expanded(is_flat(value, values), shape)
    for number, argument, left_out, _ in MASKS.get(operation, ()):
        mask = values.get(argument)
        if number == slot and is_readable(mask):
            return _expanded(mask == left_out, shape)
    return None


def _carried(
    operation: str, values: Mapping[str, Any], shape: Shape, below: Tensor
) -> Tensor | None:
    """Which elements of the gradient of a Node go into those of what it leads to, and no others."""
    if operation in _BY_ELEMENT:
        return _expanded(below, shape)
    if operation in _RESHAPING:
        return below.reshape(shape)
    if operation == "Transpose":
        return below.transpose(values["dim0"], values["dim1"])
    if operation == "Permute":
        return below.permute(values["dims"])
    return below.t() if operation == "T" else None


def _expanded(mask: Tensor, shape: Shape) -> Tensor | None:
    """A mask for all elements of a shape; None where it has more than that."""
    try:
        return mask.expand(shape)
    except RuntimeError:
        return None


def _outside(value: Tensor, values: Mapping[str, Any]) -> Tensor:
    """Where clamp sends zero. A bound itself is outside if it is a number, since torch 2.14."""
    low, high = values.get("min"), values.get("max")
    below = False if low is None else value < low
    above = False if high is None else value > high
    numbers = [bound for bound in (low, high) if isinstance(bound, int | float)]
    at_a_bound = [value == bound for bound in numbers if torch.__version__ >= "2.14"]
    return torch.as_tensor(sum(at_a_bound, below | above)) > 0


# By operation its slots, each with the name of a mask that was saved, what the mask is where an
# element is left out, and why all are if it is that everywhere.
MASKS = {
    "MaskedFill": [(0, "mask", True, "masked_fill fills every element")],
    "Where": [
        (0, "condition", False, "where() takes no element of it"),
        (1, "condition", True, "where() takes no element of it"),
    ],
}
# By operation what it saved, and where it leaves out the gradient of its first input for that.
LEFT_OUT: dict[str, tuple[str, IsFlat]] = {
    "Clamp": ("self", _outside),
    "ClampMax": ("self", _outside),
    "ClampMin": ("self", _outside),
    "Hardshrink": ("self", lambda v, s: v.abs() <= s["lambd"]),
    "Hardsigmoid": ("self", lambda v, s: v.abs() >= 3),
    "Hardswish": ("self", lambda v, s: v <= -3),
    "Hardtanh": ("self", lambda v, s: (v <= s["min_val"]) | (v >= s["max_val"])),
    "Relu": ("result", lambda v, s: v <= 0),
    "Softshrink": ("self", lambda v, s: v.abs() <= s["lambd"]),
    "Threshold": ("self", lambda v, s: v <= s["threshold"]),
}
# Those whose formula goes element by element, also where what goes in is broadcast.
_BY_ELEMENT = (
    (SLOPES.keys() - {"Logsumexp"})
    | {*MASKS, *LEFT_OUT}
    | set(
        "Abs Add Alias Clone Expand Exp Expm1 LeakyRelu Mul NativeDropout Neg Pow Rsub Sigmoid "
        "Softplus Sub Tan Tanh ToCopy".split()
    )
)
_RESHAPING = {"ReshapeAlias", "Squeeze", "UnsafeView", "Unsqueeze", "View"}
