"""Why a gradient is exactly zero: the edges along which only zeros go, and the paths that pass one.

A formula that is flat everywhere sends zeros always. Others do where all of their input lies in a
flat part, which the values that the Node saved tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch

from companion.diagnosis.case import Case, Input
from companion.diagnosis.derivatives_yaml import operation_of, sends_zero
from companion.diagnosis.folding import names_of_all
from companion.diagnosis.nonfinite import all_below
from companion.diagnosis.paths import EdgeKey, on_the_way, reached_without
from companion.diagnosis.values import is_finite, is_plain, is_readable
from companion.findings import Finding, finding
from companion.graph.saved import Peek

Tensor = torch.Tensor
IsFlat = Callable[[Tensor, Mapping[str, Any]], Tensor]


class Zero(NamedTuple):
    """Why only zeros go along an edge, in words ("" if always), and the variant of the finding."""

    reason: str = ""
    variant: str = ""


def about_zeros(case: Case, spoiling: Collection[int] = ()) -> Iterator[Finding]:
    """Whether every path to an input passes an edge along which only zeros go.

    Args:
        case: what is diagnosed.
        spoiling: the Nodes that give NaN of a zero: of what lies below them nothing is said.
    """
    if case.graph is None or not (zeros := _edges_of_zeros(case)):
        return
    alive = reached_without(case.graph, zeros) | all_below(case, spoiling)
    told = defaultdict[EdgeKey, list[Input]](list)
    for given in case.inputs:
        if given.node is not None and given.node not in alive:
            told[min(on_the_way(case.graph, given.node, zeros))].append(given)
    if not case.inputs and not alive & {leaf.index for leaf in case.graph.leaves}:
        told[min(zeros)] = []
    for (index, slot), inputs in told.items():
        zero, name = zeros[index, slot], case.nodes[index].name
        why = f" ({zero.reason})" if zero.reason else ""
        message = f"{name} sends zero{why}" if why else f"{name} always sends zero"
        if inputs:
            end = "so is its gradient" if len(inputs) == 1 else "so are their gradients"
            message = (
                f"every path to {names_of_all(inputs)} passes a Node that sends zero{why}: {end}"
            )
        yield finding("zero-derivative", message, variant=zero.variant, **case.at(index))


def _edges_of_zeros(case: Case) -> dict[EdgeKey, Zero]:
    """The edges along which only zeros go, whatever comes to their Node."""
    zeros = dict[EdgeKey, Zero]()
    for node, saved in case.nodes_and_peeks:
        operation = operation_of(node.name)
        if sends_zero(node) or saved.values.get("rounding_mode"):  # of torch.div
            found = [(slot, Zero()) for slot in range(len(case.slots(node.index)))]
        elif operation in _OF_VALUES:
            found = list(_zeros_by_value(operation, saved.values))
        else:
            continue
        zeros.update({(node.index, slot): zero for slot, zero in found})
    return zeros | dict(_cancelling(case))


def _zeros_by_value(operation: str, values: Mapping[str, Any]) -> Iterator[tuple[int, Zero]]:
    """The slots along which a Node sends zeros because of what it saved."""
    if operation in _FLAT:
        argument, is_flat, reason = _FLAT[operation]
        value = values.get(argument)
        if is_readable(value) and is_plain(value) and is_flat(value, values).all():
            yield 0, Zero(reason, "flat")
    if operation in _OF_ONE and _is_over_one(values):  # which says more than that it is flat
        function = operation.removeprefix("Native").lower()
        for slot in _OF_ONE[operation]:
            yield slot, Zero(f"{function} over one element", "one-element")
    for slot, argument, left_out, reason in _MASKS.get(operation, ()):
        mask = values.get(argument)
        if is_readable(mask) and mask.numel() and (mask == left_out).all():
            yield slot, Zero(reason, "masked")


def _cancelling(case: Case) -> Iterator[tuple[EdgeKey, Zero]]:
    """``(m + e) - m``, of which ``m`` gets a gradient twice, with opposite signs."""
    peeks = case.peeks
    differences = [node for node in case.nodes if operation_of(node.name) == "Sub"]
    edges = case.graph.edges if case.graph and differences else ()
    arrows = Counter(edge.target for edge in edges)
    for node in differences:
        if not _has_factor_one(peeks[node.index]):
            continue
        slots = case.slots(node.index)  # one of x - 1.0, where torch.ops.aten.sub.Scalar made it
        whole, part = slots if len(slots) == 2 else (None, None)
        if whole is None or part is None or arrows[whole.target] != 1:
            continue
        above = case.nodes[whole.target]
        if operation_of(above.name) != "Add" or not _has_factor_one(peeks[above.index]):
            continue
        for edge in case.slots(above.index):
            if edge and (edge.target, edge.input_nr) == (part.target, part.input_nr):
                zero = Zero("what is added is subtracted again", "cancels")
                yield (node.index, part.slot), zero
                yield (above.index, edge.slot), zero
                break


def _has_factor_one(saved: Peek) -> bool:
    return bool(saved.values.get("alpha", 1) == 1)


def _is_over_one(values: Mapping[str, Any]) -> bool:
    """Whether softmax, or a layer normalization, had one element to go over."""
    if "normalized_shape" in values:
        return bool(prod(values["normalized_shape"]) == 1)
    result = values.get("result")
    if not (is_readable(result) and is_plain(result)) or not is_finite(result):
        return False
    return (result.shape[values["dim"]] if result.dim() else 1) == 1


def _is_one_hot(result: Tensor, values: Mapping[str, Any]) -> Tensor:
    return (result == 0) | (result == 1)


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
_MASKS = {
    "MaskedFill": [(0, "mask", True, "masked_fill fills every element")],
    "Where": [
        (0, "condition", False, "where() takes no element of it"),
        (1, "condition", True, "where() takes no element of it"),
    ],
}
# By operation what it saved, and where it leaves out the gradient of its first input for that.
_LEFT_OUT: dict[str, tuple[str, IsFlat]] = {
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
# By operation what it saved, where its slope is zero, and that in words.
_FLAT: dict[str, tuple[str, IsFlat, str]] = {
    "Clamp": (*_LEFT_OUT["Clamp"], "every value is outside of the bounds of clamp"),
    "ClampMax": (*_LEFT_OUT["ClampMax"], "every value is above the bound of clamp"),
    "ClampMin": (*_LEFT_OUT["ClampMin"], "every value is below the bound of clamp"),
    "Hardshrink": (*_LEFT_OUT["Hardshrink"], "hardshrink of small values"),
    "Hardsigmoid": (*_LEFT_OUT["Hardsigmoid"], "hardsigmoid is at 0 or 1 everywhere"),
    "Hardswish": (*_LEFT_OUT["Hardswish"], "hardswish of values below -3"),
    "Hardtanh": (*_LEFT_OUT["Hardtanh"], "every value is outside of the bounds of hardtanh"),
    "Sigmoid": ("result", _is_one_hot, "sigmoid is rounded to 0 or 1 everywhere"),
    "Softmax": ("result", _is_one_hot, "softmax is rounded to 0 and 1 everywhere"),
    "Softshrink": (*_LEFT_OUT["Softshrink"], "softshrink of small values"),
    "Tanh": ("result", lambda v, s: v.abs() == 1, "tanh is rounded to -1 or 1 everywhere"),
    "Threshold": (*_LEFT_OUT["Threshold"], "every value is below the threshold"),
}
# By operation the slots whose gradient is zero where it goes over one element.
_OF_ONE = {"Softmax": (0,), "LogSoftmax": (0,), "NativeLayerNorm": (0, 1)}
_OF_VALUES = {*_FLAT, *_OF_ONE, *_MASKS}
