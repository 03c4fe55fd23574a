"""Why a gradient is exactly zero: the edges along which only zeros go, and the paths that pass one.

A formula that is flat everywhere sends zeros always. Others do where all of their input lies in a
flat part, which the Node is asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch

from companion.diagnosis.asking import answer_of, ones_for
from companion.diagnosis.case import Case, Input
from companion.diagnosis.derivatives_yaml import operation_of, sends_zero
from companion.diagnosis.folding import names_of_all
from companion.diagnosis.nonfinite import all_below
from companion.diagnosis.paths import EdgeKey, first_on_the_way, reached_without
from companion.diagnosis.values import bounds_of, is_finite, is_plain, is_readable
from companion.findings import Finding, Severity, finding
from companion.graph.nodes import GraphNode
from companion.graph.saved import Peek
from companion.internals import base_of

Tensor = torch.Tensor


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
    told, first = defaultdict[EdgeKey, list[Input]](list), first_on_the_way(case.graph, zeros)
    for given in case.inputs:
        if given.node is not None and given.node not in alive:
            told[first[given.node]].append(given)
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
        # Weights may begin at zero on purpose, as those of an adapter do.
        severity: Severity | None = "info" if zero.variant == "zero-weight" else None
        about = case.at(index) | {"variant": zero.variant, "severity": severity}
        yield finding("zero-derivative", message, **about)


def _edges_of_zeros(case: Case) -> dict[EdgeKey, Zero]:
    """The edges along which only zeros go, whatever comes to their Node."""
    zeros = dict[EdgeKey, Zero]()
    for node, saved in case.nodes_and_peeks:
        operation = operation_of(node.name)
        if sends_zero(node) or saved.values.get("rounding_mode"):  # of torch.div
            found = [(slot, Zero()) for slot in range(len(case.slots(node.index)))]
        elif operation in _OF_ONE and _is_over_one(saved.values):
            reason = f"{operation.removeprefix('Native').lower()} over one element"
            found = [(slot, Zero(reason, "one-element")) for slot in _OF_ONE[operation]]
        elif operation in _FLAT and _may_be_flat(operation, saved.values):
            variant = "masked" if operation in _MASKS else "flat"
            zeros_of = {slot: _FLAT[operation] for slot in _slots_of_zeros(node, saved)}
            if zeros_of.keys() - {0} and operation in _BOUNDED:
                zeros_of |= {slot: "no value is at this bound" for slot in zeros_of.keys() - {0}}
            found = [(slot, Zero(reason, variant)) for slot, reason in zeros_of.items()]
        elif operation in _PRODUCTS and any(_is_zero_weight(t) for _, t in saved.tensors):
            zero = Zero("a product with a parameter that is all zeros", "zero-weight")
            found = [(slot, zero) for slot in _slots_of_zeros(node, saved)]
        else:
            continue
        zeros.update({(node.index, slot): zero for slot, zero in found})
    return dict(_of_constant_sums(case)) | zeros | dict(_cancelling(case))


def _may_be_flat(operation: str, values: Mapping[str, Any]) -> bool:
    """Whether to ask a Node: of an operation that most graphs have, only where some values say so.

    These are far out, or rounded to what the function comes near to.
    """
    value = values.get("self", values.get("result"))
    if operation not in _FREQUENT or not is_plain(value):
        return True
    some = _some_of(value)
    low, high = bounds_of(some)
    return high < -9 or low > 9 or bool(((some == some.round()) & (some.abs() <= 1)).all())


def _some_of(value: Tensor) -> Tensor:
    """A few elements of a tensor, evenly from all parts of it."""
    return value[tuple(slice(None, None, max(1, length // 4)) for length in value.shape)]


def _is_zero_weight(value: Tensor) -> bool:
    """Whether it is a leaf that requires grad, or a view of one, and zero everywhere."""
    if not value.requires_grad or not is_plain(value):
        return False
    leaf = base_of(value)
    is_of_leaf = value.is_leaf or (leaf is not None and leaf.is_leaf)
    return is_of_leaf and not _some_of(value).any() and not value.any()


def _slots_of_zeros(node: GraphNode, saved: Peek) -> Iterator[int]:
    """The slots along which a Node sends zeros alone, although no zeros come to it."""
    given = ones_for(node, [0])
    for number, one in given.items():  # of ones alone a sum in the formula may happen to be zero
        places = torch.arange(one.numel(), device=one.device)
        given[number] = one + (places * 0.618).frac().reshape(one.shape).to(one.dtype)
    for slot, sent in enumerate(answer_of(node, saved, given) or ()):
        if sent is not None and sent.numel() and not sent.any():
            yield slot


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


def _of_constant_sums(case: Case) -> Iterator[tuple[EdgeKey, Zero]]:
    """The sum or the mean of all that a softmax or a normalization gave, which is constant."""
    graph, index = case.graph, 0
    while graph and operation_of(case.nodes[index].name) in _EVEN:
        edges = [edge for edge in graph.slots(index) if edge]
        factors = [tensor for _, tensor in case.peeks[index].tensors]
        if len(edges) != 1 or any(tensor.numel() != 1 for tensor in factors):
            return
        index = edges[0].target
    values = case.peeks[index].values if graph and index else {}
    weight = values.get("weight")
    is_even = weight is None or (is_plain(weight) and len({*bounds_of(weight)}) == 1)
    operation = operation_of(case.nodes[index].name) if values else ""
    is_alone = sum(edge.target == index for edge in graph.edges) == 1 if graph else False
    if operation in _CONSTANT and is_alone and is_even and values.get("training", True):
        yield (index, 0), Zero(f"the sum over {_CONSTANT[operation]} is constant", "constant-sum")


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


# Why an operation is flat at all of its values, where it is.
_MASKS = {
    "MaskedFill": "masked_fill fills every element",
    "Where": "where() takes no element of it",
}
_BOUNDED = {"Clamp", "ClampMax", "ClampMin"}
_OVERWRITTEN = dict.fromkeys(
    "IndexCopy IndexFill IndexPut MaskedScatter Scatter SelectScatter SliceScatter".split(),
    "every element is overwritten",
)
_OF_OTHERS = dict.fromkeys("Fmax Fmin Maximum Minimum".split(), "none of its values is chosen")
_OUTSIDE = dict.fromkeys(
    ["GridSampler2D", "GridSampler3D"], "every point of the grid is outside of the image"
)
_FLAT = {**_MASKS, **_OUTSIDE, **_OVERWRITTEN, **_OF_OTHERS} | {
    "Celu": "celu of values so low that its slope is rounded to 0",
    "Clamp": "every value is outside of the bounds of clamp",
    "ClampMax": "every value is above the bound of clamp",
    "ClampMin": "every value is below the bound of clamp",
    "Elu": "elu or selu of values so low that its slope is rounded to 0",
    "Erf": "erf is rounded to -1 or 1 everywhere",
    "Erfc": "erfc is rounded to 0 or 2 everywhere",
    "Exp": "exp is rounded to 0 everywhere",
    "Exp2": "exp2 is rounded to 0 everywhere",
    "Expm1": "expm1 is rounded to -1 everywhere",
    "Gelu": "gelu of values so low that it is rounded to 0",
    "Hardshrink": "hardshrink of small values",
    "Hardsigmoid": "hardsigmoid is at 0 or 1 everywhere",
    "Hardswish": "hardswish of values below -3",
    "Hardtanh": "every value is outside of the bounds of hardtanh",
    "LogSigmoid": "logsigmoid of values so high that it is rounded to 0",
    "Logit": "every value is outside of eps to 1 - eps of logit",
    "MultiMarginLoss": "every margin is kept",
    "MultilabelMarginLoss": "every margin is kept",
    "Mish": "mish of values so low that it is rounded to 0",
    "Sigmoid": "sigmoid is rounded to 0 or 1 everywhere",
    "Silu": "silu of values so low that it is rounded to 0",
    "Softmax": "softmax is rounded to 0 and 1 everywhere",
    "Softplus": "softplus of values so low that it is rounded to 0",
    "Softshrink": "softshrink of small values",
    "Tanh": "tanh is rounded to -1 or 1 everywhere",
    "Threshold": "every value is below the threshold",
}
# Of these those that most graphs have: their Nodes are asked only where the values are far out.
_FREQUENT = set("Celu Elu Exp Gelu Mish Sigmoid Silu Softmax Softplus Tanh".split())
# By operation the slots whose gradient is zero where it goes over one element.
_OF_ONE = {"Softmax": (0,), "LogSoftmax": (0,), "NativeLayerNorm": (0, 1)}
# The operations that send the same to every element, where what comes to them is one number.
_EVEN = set("Div Mean Mul Neg ReshapeAlias Squeeze Sum Unsqueeze UnsafeView View".split())
# What adds up to the same number, whatever went in.
_CONSTANT = {
    "NativeBatchNorm": "what batch_norm gave",
    "NativeLayerNorm": "what layer_norm gave",
    "Softmax": "softmax",
}
_PRODUCTS = set("Addbmm Addmm Addmv Baddbmm Bmm Convolution Linear Mm Mul Mv".split())
