"""Why a gradient is exactly zero: the edges along which only zeros go, and the paths that pass one.

A formula that is flat everywhere sends zeros always. Others do where all of their input lies in a
flat part, or where all that they multiply by is zero, which the Node is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch

from companion.diagnosis.asking import Look, called_with, ones_for, zero_slots
from companion.diagnosis.cancelling import cancelling
from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import DRAWN, always_zero, operation_of
from companion.diagnosis.folding import names_of_all
from companion.diagnosis.inputs import Input
from companion.diagnosis.paths import (
    EdgeKey,
    Zero,
    below,
    first_on_the_way,
    reached_without,
)
from companion.diagnosis.risks import IGNORED
from companion.diagnosis.values import bounds_of, is_finite, is_plain, is_readable
from companion.diagnosis.vanishing import FLAT_THERE, vanishing
from companion.findings import Finding, Severity, finding
from companion.forward.tracing import overwrites
from companion.graph.nodes import Edge, GraphNode, shape_or_none
from companion.graph.reading import Graph
from companion.graph.saved import Peek
from companion.internals import base_of, metadata_of, output_count

Tensor = torch.Tensor


def about_zeros(
    case: Case,
    looks: Mapping[int, Look],
    spoiling: Collection[int] = (),
    rounded: Collection[EdgeKey] = (),
) -> Iterator[Finding]:
    """Whether every path to an input passes an edge along which only zeros go.

    Args:
        case: what is diagnosed.
        looks: what the Nodes were seen to make of ones.
        spoiling: the Nodes that give NaN of a zero: of these and what lies below nothing is said.
        rounded: the edges along which float16 has zeros in place of small numbers.
    """
    zeros = dict.fromkeys(rounded, _ROUNDED) | _edges_of_zeros(case, looks)
    if case.graph is None or not zeros:
        return
    alive = reached_without(case.graph, zeros) | below(case.graph, spoiling) | set(spoiling)
    dead = [(given, given.node) for given in case.inputs if given.node is not None]
    dead = [(given, index) for given, index in dead if index not in alive]
    inputs_by_zero = defaultdict[tuple[int, Zero], list[Input]](list)  # and by its Node
    leaves = {leaf.index for leaf in case.graph.leaves}
    is_all_dead = not case.inputs and not alive & leaves
    first = _first_cause(case.graph, zeros) if dead or is_all_dead else {}
    for given, index in dead:
        key = first[index]
        inputs_by_zero[_node_of(key, zeros[key]), zeros[key]].append(given)
    if is_all_dead:
        key = min((first[leaf] for leaf in leaves), default=min(zeros))
        inputs_by_zero[_node_of(key, zeros[key]), zeros[key]] = []
    for (index, zero), inputs in inputs_by_zero.items():
        severity: Severity | None = "info" if zero.variant in _ON_PURPOSE else None
        about = case.at(index) | {"variant": zero.variant, "severity": severity}
        yield finding("zero-derivative", _message(zero, case.nodes[index].name, inputs), **about)


def about_constants(case: Case, spoiling: Collection[int]) -> Iterator[Finding]:
    """What gives the same whatever goes in, so that a Node above gives infinities or NaN."""
    spoilt = below(case.graph, spoiling) if case.graph and spoiling else ()
    for node, saved in case.of(_OF_ONE.keys()) if spoilt else ():
        if node.index in spoilt and _is_over_one(saved.values):
            message = f"{node.name} goes over one element: it gives the same whatever goes in"
            about = case.at(node.index) | {"variant": "one-element"}
            yield finding("zero-derivative", message, **about)


def _first_cause(graph: Graph, zeros: Mapping[EdgeKey, Zero]) -> dict[int, EdgeKey]:
    """By Node the edge that is to be named, of those on its paths: the first from the root on.

    But what sends zeros whatever its values are goes before others, where it is on all paths. And
    a product with zeros, as with labels, is no reason where others are needed to explain the rest,
    nor is that of which nothing is known but that it is flat.
    """
    always = {key for key, zero in zeros.items() if zero.variant in _ALWAYS}
    factors = {key for key, zero in zeros.items() if zero.variant == "zero-factor"}
    weak = factors | {key for key, zero in zeros.items() if zero == FLAT_THERE}
    found = first_on_the_way(graph, zeros) | first_on_the_way(graph, zeros.keys() - weak)
    for edges in factors, always:
        alive = reached_without(graph, edges)
        first = first_on_the_way(graph, edges)
        found |= {index: key for index, key in first.items() if index not in alive}
    return found


def _node_of(key: EdgeKey, zero: Zero) -> int:
    """The Node of which is to be spoken."""
    return key[0] if zero.node is None else zero.node


def _message(zero: Zero, name: str, inputs: Sequence[Input]) -> str:
    """What is said of a Node, and of the inputs all whose paths lead through it."""
    why, names = f" ({zero.reason})" if zero.reason else "", names_of_all(inputs)
    if zero.node is not None:
        of = f"what comes to {names}" if inputs else "what comes"
        ways = "two ways" if zero.variant in ("cancels", "twice") else "several ways"
        return f"{of} by {ways} from {name} cancels{why}: nothing is left of the gradient"
    if not inputs:
        return f"{name} sends zero{why}" if why else f"{name} always sends zero"
    end = "so is its gradient" if len(inputs) == 1 else "so are their gradients"
    return f"every path to {names} passes a Node that sends zero{why}: {end}"


def _edges_of_zeros(case: Case, looks: Mapping[int, Look]) -> dict[EdgeKey, Zero]:
    """The edges along which only zeros go, whatever comes to their Node."""
    zeros = dict[EdgeKey, Zero]()
    for node, saved in case.nodes_and_peeks:
        operation, look = operation_of(node.name), looks.get(node.index, _NOT_LOOKED_AT)
        found = _always(case, node, saved, operation)
        if not found and operation in _FLAT and (look.zeros or not look.is_asked):
            found = _flat(case, node, saved)
        elif not found and operation in _OF_PAIRS:
            found = _equal(node, saved, case.slots(node.index))
        factors = _MULTIPLY.get(operation, ()) if look.of_zeros else ()
        if not found and (look.zeros or not set(factors).isdisjoint(look.of_zeros)):
            outputs = range(output_count(node.grad_fn))
            used = [number for number in outputs if (node.index, number) in case.reached]
            found = {slot: _zero_here(node, saved, slot) for slot in zero_slots(node, saved, used)}
        zeros.update({(node.index, slot): zero for slot, zero in found.items()})
    cancelled = dict(cancelling(case))
    return vanishing(case) | _but_of_lowest(case, zeros, cancelled) | cancelled


def _but_of_lowest(
    case: Case, zeros: Mapping[EdgeKey, Zero], cancelled: Mapping[EdgeKey, Zero]
) -> dict[EdgeKey, Zero]:
    """Without those of a norm or a power of what is zero because it cancels: that is the reason."""
    nodes = {zero.node for zero in cancelled.values()}
    lowest = (key for key, zero in zeros.items() if nodes and zero.variant == "lowest")
    targets = {(i, slot): case.slots(i)[slot] for i, slot in lowest}
    of_others = {key for key, edge in targets.items() if edge and edge.target in nodes}
    return {key: zero for key, zero in zeros.items() if key not in of_others}


def _always(case: Case, node: GraphNode, saved: Peek, operation: str) -> dict[int, Zero]:
    """By slot why a Node sends zeros, whatever its values are."""
    if slots := always_zero(node):
        return dict.fromkeys(slots, _why_always(node, operation))
    if saved.values.get("rounding_mode"):  # of torch.div
        return dict.fromkeys(range(len(case.slots(node.index))), Zero())
    if operation == "CopySlices" and _is_whole(case, node):
        return {0: Zero("every element is overwritten", "overwritten")}
    if operation in _OF_ONE and _is_over_one(saved.values):
        reason = f"{operation.removeprefix('Native').lower()} over one element"
        return dict.fromkeys(_OF_ONE[operation], Zero(reason, "one-element"))
    if operation == "Embedding" and _is_padding(saved.values):
        return {0: Zero("every index is padding_idx", "padding")}
    if operation in _CHOOSE and _is_empty(case, node):
        return {0: Zero(f"the result of {operation.lower()} has no element", "nothing")}
    return {}


def _why_always(node: GraphNode, operation: str) -> Zero:
    """Why a Node always sends zeros along a slot."""
    if node.name in DRAWN:
        return Zero("", "drawn")
    if operation in _OVERWRITING:
        return Zero("every element is overwritten", "overwritten")
    if operation.endswith("Backward"):
        first = operation.removesuffix("Backward").lower()
        name = "relu" if first == "threshold" else first  # whose Node has that name
        return Zero(f"the second derivative of {name} is 0", "second")
    return Zero()


def _is_whole(case: Case, node: GraphNode) -> bool:
    """Whether all of a tensor was overwritten by way of a view, where a watch saw by what call.

    Nobody can see what such a Node saved, so it is asked where that is nothing.
    """
    is_in_a_loop = len(case.by_operation["CopySlices"]) > _FEW
    if case.watch is None or is_in_a_loop or not overwrites(case.watch, node.grad_fn):
        return False
    sent = called_with(node, ones_for(node, [0]))
    return bool(sent and sent[0] is not None and not sent[0].any())


def _is_empty(case: Case, node: GraphNode) -> bool:
    """Whether an operation chose no element of something, in all of its results that were used."""
    used = [nr for nr in range(output_count(node.grad_fn)) if (node.index, nr) in case.reached]
    if not all(0 in metadata_of(node.grad_fn, number).shape for number in used):
        return False
    taken = [case.nodes[edge.target] for edge in case.slots(node.index)[:1] if edge]
    return any(0 not in (shape_or_none(each) or ()) for each in taken)


def _flat(case: Case, node: GraphNode, saved: Peek) -> dict[int, Zero]:
    """By slot why a Node sends zeros, of an operation that has flat parts."""
    operation = operation_of(node.name)
    if not _may_be_flat(operation, saved.values):
        return {}
    found = {slot: _why_flat(operation, slot, saved) for slot in zero_slots(node, saved)}
    slots = case.slots(node.index)
    left_out = [edge.slot for edge in slots if edge and _is_ctc(case.nodes[edge.target])]
    return found | {slot: _TOO_LONG for slot in left_out if slot in found}


def _is_ctc(node: GraphNode) -> bool:
    return "CtcLoss" in node.name


def _why_flat(operation: str, slot: int, saved: Peek) -> Zero:
    """Why an operation sends zeros along a slot; those of clamp behind the first are bounds."""
    if operation in _BOUNDED and slot > 0:
        return Zero("no value is at this bound", "flat")
    if is_plain(weight := saved.values.get("weight")) and not weight.any():
        return Zero("a product with zeros alone", "zero-factor")
    variant = "overwritten" if operation in _OVERWRITTEN else "flat"
    return Zero(_FLAT[operation], "masked" if operation in _MASKS else variant)


def _equal(node: GraphNode, saved: Peek, slots: Sequence[Edge | None]) -> dict[int, Zero]:
    """By slot why a Node sends zeros, of a loss that compared what is equal."""
    if not _is_of_equals(saved.values):
        return {}
    targets = [(edge.target, edge.input_nr) for edge in slots if edge]
    is_one = len(targets) == 2 and targets[0] == targets[1]
    zero = Zero("a tensor is compared with itself", "itself")
    zero = zero if is_one else Zero("input and target are equal", "lowest")
    return dict.fromkeys(zero_slots(node, saved), zero)


def _zero_here(node: GraphNode, saved: Peek, slot: int) -> Zero:
    """Why a Node sends zeros along a slot for what it saved."""
    operation, values = operation_of(node.name), saved.values
    if operation.startswith("NllLoss"):
        return Zero(IGNORED, "ignored")
    if (operation, slot) in _PRODUCTS:
        return Zero(_PRODUCTS[operation, slot], "zero-factor")
    if operation in _LOWEST:
        return Zero(f"{_LOWEST[operation]}, where its slope is 0", "lowest")
    if operation not in _FACTORS:
        return Zero(f"the slope of {operation.lower()} is 0 at all of its values", "flat")
    first, second = _FACTORS[operation]
    # The gradient of one factor is a product with the other.
    is_of_first = slot == (1 if operation.startswith(("Add", "Badd")) else 0)
    factor = values.get(second if is_of_first else first)
    if not isinstance(factor, Tensor):
        return Zero("a product with zeros", "zero-factor")
    if _is_weight(factor):
        return Zero("a product with a parameter that is all zeros", "zero-weight")
    if not factor.dim():
        return Zero("a product with the number 0", "zero-number")
    return Zero("a product with zeros alone", "zero-factor")


def _may_be_flat(operation: str, values: Mapping[str, Any]) -> bool:
    """Whether to ask a Node: of an operation that most graphs have, only where some values say so.

    These are far out, or rounded to what the function comes near to.
    """
    value = values.get("self", values.get("result"))
    if operation not in _FREQUENT or not is_plain(value):
        return True
    some = _sample_of(value)
    low, high = bounds_of(some)
    return high < -9 or low > 9 or bool(((some == some.round()) & (some.abs() <= 1)).all())


def _sample_of(value: Tensor) -> Tensor:
    """A few elements of a tensor, evenly from all parts of it."""
    return value[tuple(slice(None, None, max(1, length // 4)) for length in value.shape)]


def _is_weight(value: Tensor) -> bool:
    """Whether it is a leaf that requires grad, or a view of one."""
    base = base_of(value)
    return value.requires_grad and (value.is_leaf or (base is not None and base.is_leaf))


def _is_padding(values: Mapping[str, Any]) -> bool:
    """Whether each index of an embedding is that of the padding, whose row gets no gradient."""
    indices, padding = values.get("indices"), values["padding_idx"]
    if padding < 0 or not is_readable(indices) or not indices.numel():
        return False
    return bool(indices[(0,) * indices.dim()] == padding) and bool((indices == padding).all())


def _is_of_equals(values: Mapping[str, Any]) -> bool:
    """Whether a loss compared a tensor with what is equal to it."""
    given, target = values.get("self"), values.get("target")
    if not is_plain(given) or not is_plain(target) or given.shape != target.shape:
        return False
    return bool((_sample_of(given) == _sample_of(target)).all()) and torch.equal(given, target)


def _is_over_one(values: Mapping[str, Any]) -> bool:
    """Whether softmax, or a layer normalization, had one element to go over."""
    if "normalized_shape" in values:
        return bool(prod(values["normalized_shape"]) == 1)
    result = values.get("result")
    if not is_plain(result) or not is_finite(result):
        return False
    return (result.shape[values["dim"]] if result.dim() else 1) == 1


_FEW = 20  # parts written by more are of a loop: to ask each would take as long as the pass
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
# Those of which always all is: by a number, by the values of another tensor, by a random sample.
_OVERWRITING = set(
    "Bernoulli Cauchy CopyBackwards Exponential Fill Geometric LogNormal Normal Random Uniform "
    "Zero".split()
)
_OF_OTHERS = dict.fromkeys("Fmax Fmin Maximum Minimum".split(), "none of its values is chosen")
_OUTSIDE = dict.fromkeys(
    ["GridSampler2D", "GridSampler3D"], "every point of the grid is outside of the image"
)
_FLAT = {**_MASKS, **_OUTSIDE, **_OVERWRITTEN, **_OF_OTHERS} | {
    "Celu": "celu of values so low that its slope is rounded to 0",
    "BinaryCrossEntropy": "every probability is so near to its label that it is rounded to it",
    "BinaryCrossEntropyWithLogits": "the sigmoid of every logit is rounded to its label",
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
    "SoftMarginLoss": "every margin is so large that the loss is rounded to 0",
    "Softshrink": "softshrink of small values",
    "Tanh": "tanh is rounded to -1 or 1 everywhere",
    "Threshold": "every value is below the threshold",
}
# Of these those that most graphs have: their Nodes are asked only where the values are far out.
_FREQUENT = set("Celu Elu Exp Gelu Mish Sigmoid Silu Softmax Softplus Tanh".split())
# By operation the slots whose gradient is zero where it goes over one element.
_OF_ONE = {"Softmax": (0,), "LogSoftmax": (0,), "NativeLayerNorm": (0, 1)}
# Why an operation has no slope at all of its values, where these are the lowest that it gives.
_LOWEST = {
    "Abs": "abs of zeros alone",
    "Cdist": "the distances of equal points alone",
    "Dist": "the distance of equal points",
    "LinalgVectorNorm": "the norm of zeros alone",
    "Norm": "the norm of zeros alone",
    "Pdist": "the distances of equal points alone",
    "Pow": "a power of zeros alone",
    "Std": "std of equal elements",
    "Var": "var of equal elements",
}
# The same of what multiplies in another way, by slot.
_PRODUCTS = {
    ("Div", 1): "zeros alone, divided by it",
    ("LinalgDet", 0): "a product with minors that are all 0, as those of a matrix of zeros",
    ("Prod", 0): "a product of which two factors or more are 0",
}
_OF_PAIRS = {"HuberLoss", "MseLoss", "SmoothL1Loss"}
# What an operation multiplies, in the order of its slots, as it saved it.
_FACTORS = {
    **dict.fromkeys(["Bmm", "Mm"], ("self", "mat2")),
    **dict.fromkeys(["Addbmm", "Baddbmm"], ("batch1", "batch2")),
    **dict.fromkeys(["Convolution", "Linear"], ("input", "weight")),
    **dict.fromkeys(["NativeBatchNorm", "NativeGroupNorm", "NativeLayerNorm"], ("input", "weight")),
    "Addcmul": ("tensor1", "tensor2"),
    "Addmm": ("mat1", "mat2"),
    "Addmv": ("mat", "vec"),
    "Dot": ("self", "tensor"),
    "Vdot": ("self", "other"),
    "Mul": ("self", "other"),
    "Mv": ("self", "vec"),
    "NativeDropout": ("input", "result1"),
}
# The operations that choose some elements of what they take, perhaps none.
_CHOOSE = set(
    "Gather Index IndexSelect MaskedSelect Narrow Slice Split SplitWithSizes Take Unfold".split()
)
_MULTIPLY = _FACTORS | dict.fromkeys(["NllLoss", "NllLoss2D"], ("total_weight",))
_TOO_LONG = Zero(
    "zero_infinity=True leaves out every sample, whose target is too long for ctc_loss", "too-long"
)
_ROUNDED = Zero("float16 has no number but 0 for a gradient as small as this", "underflow")
_NOT_LOOKED_AT = Look()
# What sends zeros, or gradients that cancel, for any values.
_ALWAYS = {"", "cancels", "constant-sum", "drawn", "itself", "one-element", "twice"}
# What may be meant so: weights that are zero at first, as those of an adapter; a term to be left
# out; a loss that is met.
_ON_PURPOSE = {"lowest", "zero-number", "zero-weight"}
