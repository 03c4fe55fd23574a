"""Where nothing but rounding is left of a gradient near the output: found by a rehearsal of that.

The head of a graph, which computes the loss of what a network gave, is small. Its Nodes are asked
what they make of the gradient of the pass, down to the first layers with weights. What comes to a
tensor by several ways may add up to zero, and a Node may send zero for what is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from heapq import heappop, heappush
from math import nan
from typing import Literal

import torch

from companion.diagnosis.asking import answer_of, ones_for
from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.paths import EdgeKey, Zero
from companion.diagnosis.rehearsing import fitted
from companion.diagnosis.values import bounds_of
from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.reading import edge_of
from companion.graph.saved import Peek
from companion.internals import number_of

Tensor = torch.Tensor
_Nothing = Literal["cancels", "flat"]
Arrivals = defaultdict[int, dict[EdgeKey, Tensor]]  # by number of the output, by edge


def vanishing(case: Case) -> dict[EdgeKey, Zero]:
    """The edges near the output whose gradients add up to zero, or of a Node that sends zero.

    Of an output of several elements nobody knows what gradient will come to it.
    """
    if case.graph is None or case.output.numel() != 1:
        return {}
    found = dict[EdgeKey, Zero]()
    arriving = defaultdict[int, Arrivals](lambda: defaultdict(dict))
    number = edge_of(case.output)[1]
    for ones in ones_for(case.nodes[0], [number]).values():
        arriving[0][number][_ROOT] = ones
    waiting, met, done, in_part, above = [(0, 0)], {0}, set[int](), set[int](), 0
    even = {_ROOT[0]: _ALL}  # the dimensions along which a Node sends the same for any values
    while waiting and arriving and len(done) < _MANY:  # each Node after all that lead to it
        index = heappop(waiting)[1]
        done.add(index)
        arrivals, is_whole = arriving.pop(index, Arrivals(dict)), index not in in_part
        sent: Mapping[int, Tensor] | None = {} if is_whole else None
        if is_whole and arrivals and all(map(_add_up_to_zero, arrivals.values())):
            found |= {key: Zero("", "adds-up", above) for each in arrivals.values() for key in each}
        elif is_whole and arrivals:
            sums = {number: _sum(each) for number, each in arrivals.items()}
            sent, nothing = _sent(case, index, sums)
            sources = {source for each in arrivals.values() for source, _ in each}
            dims = _ALL.intersection(*(even.get(source, ()) for source in sources))
            even[index] = _even_dims(case, index, dims)
            for slot, kind in nothing.items():
                found[index, slot] = _why(case, index, kind, dims) or Zero("", "adds-up", above)
        above = above if waiting else index  # the last that all ways lead through
        for edge in filter(None, case.slots(index)):
            if edge.target in done:  # made in several threads, whose numbers say nothing
                return {}
            if sent is None:
                in_part.add(edge.target)
            elif edge.slot in sent:
                arriving[edge.target][edge.input_nr][index, edge.slot] = sent[edge.slot]
            if edge.target not in met:
                met.add(edge.target)
                node = case.nodes[edge.target]
                heappush(waiting, (1 if node.is_leaf else -number_of(node.grad_fn), edge.target))
    return found


def _sent(
    case: Case, index: int, gradients: Mapping[int, Tensor]
) -> tuple[dict[int, Tensor] | None, dict[int, _Nothing]]:
    """By slot what a Node sends of finite numbers that are not zero; None where it is not known.

    And by slot why it sends nothing but rounding for these gradients, and not for others.
    """
    node, saved = case.nodes[index], case.peeks[index]
    is_fit = all(gradient.dtype in _EXACT for gradient in gradients.values())
    is_layer = operation_of(node.name) in _LAYERS
    sent = answer_of(node, saved, gradients) if is_fit and not is_layer else None
    if sent is None:
        return None, {}
    largest = max(_largest(each) for each in gradients.values())
    left, nothing = dict[int, Tensor](), dict[int, _Nothing]()
    for edge in filter(None, case.slots(index)):
        gradient = sent[edge.slot] if edge.slot < len(sent) else None
        if gradient is None:
            continue
        gradient = fitted(case.nodes[edge.target], edge.input_nr, gradient)
        size = _largest(gradient)
        is_small = size <= _SMALL * largest and gradient.dtype in _EXACT
        there = everywhere = nan
        if is_small:
            there, everywhere = _others(node, saved, gradients, edge.slot, largest)
        if _is_rounding(size, there * largest, gradient.dtype):
            nothing[edge.slot] = "cancels"
        elif everywhere and not there and not size:
            nothing[edge.slot] = "flat"
        elif size:  # also of NaN
            left[edge.slot] = gradient
    return left, nothing


def _others(
    node: GraphNode, saved: Peek, gradients: Mapping[int, Tensor], slot: int, largest: float
) -> tuple[float, float]:
    """The largest number that a Node sends along a slot of others between 0 and 1.

    First of positive ones whose sizes are to each other as those of the gradients: where a Node
    stops the largest, as ``clamp`` may, what it sends of the rest is small and no rounding. Then,
    if that is 0, where they come to all elements.
    """
    everywhere = {number: _uneven(gradient) for number, gradient in gradients.items()}
    there = {nr: each * (gradients[nr].abs() / largest) for nr, each in everywhere.items()}
    of_some = _largest_sent(node, saved, there, slot)
    return of_some, of_some or _largest_sent(node, saved, everywhere, slot)


def _largest_sent(
    node: GraphNode, saved: Peek, gradients: Mapping[int, Tensor], slot: int
) -> float:
    """The size of the largest element that a Node sends along a slot; NaN if that is not known."""
    sent = answer_of(node, saved, gradients)
    return nan if sent is None or (gradient := sent[slot]) is None else _largest(gradient)


def _even_dims(case: Case, index: int, dims: frozenset[int]) -> frozenset[int]:
    """Along which dimensions a Node sends the same, if that is so of what comes to it."""
    operation, saved = operation_of(case.nodes[index].name), case.peeks[index]
    if operation in _SUMS and saved.values.get("dim") and dims != _ALL:
        rank = max(1, len(saved.values["self_sym_sizes"]))
        return frozenset(dim % rank for dim in saved.values["dim"])
    is_by_one = operation in _EVEN and all(tensor.numel() == 1 for _, tensor in saved.tensors)
    return _ALL if operation in _SUMS or (is_by_one and dims == _ALL) else frozenset()


def _why(case: Case, index: int, kind: _Nothing, dims: frozenset[int]) -> Zero | None:
    """Why a Node sends nothing but rounding for what is the same along some dimensions.

    None where it is of no operation of which more is known.
    """
    node, saved = case.nodes[index], case.peeks[index].values
    operation, shape = operation_of(node.name), shape_or_none(node) or ()
    if operation == "LogSoftmax":
        return _SATURATED if kind == "flat" else _MET
    if kind == "flat":
        return FLAT_THERE
    if operation not in _CONSTANT:
        return None
    over = {
        "NativeBatchNorm": {*range(len(shape))} - {1},
        "NativeLayerNorm": {*range(len(shape))[-len(saved.get("normalized_shape", ())) :]},
        "Softmax": {saved.get("dim", 0) % max(len(shape), 1)},
    }.get(operation, {*range(1, len(shape))})
    reason = f"the sum over {_CONSTANT[operation]} is constant"
    return Zero(reason, "constant-sum") if over <= dims else _AT_REST


def _add_up_to_zero(arrivals: Mapping[EdgeKey, Tensor]) -> bool:
    """Whether several gradients cancel in each element."""
    first = next(iter(arrivals.values()))
    if len(arrivals) == 1 or first.dtype not in _EXACT:
        return False
    sizes = sum(gradient.abs() for gradient in arrivals.values())
    return bool((_sum(arrivals).abs() <= _ROUNDING * torch.finfo(first.dtype).eps * sizes).all())


def _sum(arrivals: Mapping[EdgeKey, Tensor]) -> Tensor:
    first, *others = arrivals.values()
    for gradient in others:
        first = first + gradient
    return first


def _uneven(gradient: Tensor) -> Tensor:
    """Numbers between 0 and 1 that are all different."""
    positions = torch.arange(1, gradient.numel() + 1, device=gradient.device)
    return (positions * 0.618).frac().reshape(gradient.shape).to(gradient.dtype)


def _largest(gradient: Tensor) -> float:
    """The size of its largest element; NaN where one element is."""
    if not gradient.numel():
        return 0.0
    low, high = bounds_of(gradient)
    return max(-low, high)


def _is_rounding(size: float, expected: float, dtype: torch.dtype) -> bool:
    """Whether what there is is so small beside what can be expected that it is rounding alone."""
    if not size <= expected:  # or it is not known; of whole numbers there are no such limits
        return False
    limits = torch.finfo(dtype)
    return expected > limits.tiny and size <= _ROUNDING * limits.eps * expected


_MANY = 32  # Nodes at most: a loss has fewer, and to ask them takes no time beside the others
_ROUNDING = 16  # in units of the last place, as of sums of many terms
_SMALL = 1e-4  # of what comes: what is sent may be nothing but rounding
_EXACT = {torch.float32, torch.float64}  # in the others rounding is not small
_ROOT = (-1, 0)
# Where a network begins: their weights are leaves, and to ask them takes time.
_LAYERS = set(
    "Addmm Addmv Convolution ConvolutionOverrideable CudnnConvolution CudnnRnn Embedding "
    "EmbeddingBag Linear MkldnnConvolution MkldnnRnnLayer SlowConv2D".split()
)
_SATURATED = Zero("softmax of the logits is rounded to 0 and 1 everywhere", "flat")
FLAT_THERE = Zero("its slope is 0 wherever a gradient comes to it", "flat")
_MET = Zero("the probabilities are already those that the loss asks for", "lowest")
_AT_REST = Zero("what comes to it is the same for all elements here", "lowest")
_SUMS = {"Mean", "Sum"}
_ALL = frozenset(range(64))  # torch's tensors have no more dimensions
# The operations that send the same to every element, where what comes to them is one number.
_EVEN = set("Add Div Mul Neg ReshapeAlias Rsub Squeeze Sub Unsqueeze UnsafeView View".split())
# What adds up to the same number, whatever went in.
_CONSTANT = {
    "NativeBatchNorm": "what batch_norm gave",
    "NativeGroupNorm": "what group_norm gave",
    "NativeLayerNorm": "what layer_norm gave",
    "Softmax": "softmax",
}
