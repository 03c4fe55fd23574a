"""Where nothing but rounding is left of a gradient near the output: found by a rehearsal of that.

The head of a graph, which computes the loss of what a network gave, is small. Its Nodes are asked
what they make of the gradient of the pass, down to the first layers with weights. What comes to a
tensor by several ways may add up to zero, and a Node may send zero for what is not. Whether that
is so for any values, or for these alone, the second derivative tells, asked in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from heapq import heappop, heappush
from math import nan
from typing import Literal, NamedTuple

import torch

from companion.diagnosis.asking import answer_of, ones_for
from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.paths import EdgeKey, Zero
from companion.diagnosis.rehearsing import fitted
from companion.diagnosis.values import bounds_of
from companion.graph.nodes import Edge, GraphNode, shape_or_none
from companion.graph.reading import Graph, edge_of
from companion.graph.saved import Peek, peek
from companion.internals import number_of

Tensor = torch.Tensor
_Nothing = Literal["cancels", "flat"]
Arrivals = defaultdict[int, dict[EdgeKey, Tensor]]  # by number of the output, by edge


class _Lost(NamedTuple):
    """What is left of a gradient that vanishes, and why.

    Attributes:
        edges: the edges by which it comes to a Node.
        zero: why, as far as is known without the second derivative.
        gradient: zeros, or rounding.
        target: that Node.
        always: why, if it is so for any values.
    """

    edges: Collection[EdgeKey]
    zero: Zero
    gradient: Tensor
    target: int
    always: Zero


class _Head(NamedTuple):
    """What the first Nodes of a graph make of a gradient.

    Attributes:
        lost: what vanishes.
        arrived: by Node what came to it; only of those to which all that comes is known.
        is_all_lost: whether nothing goes on from there.
    """

    lost: list[_Lost]
    arrived: dict[int, dict[int, Tensor]]
    is_all_lost: bool


def vanishing(case: Case) -> dict[EdgeKey, Zero]:
    """The edges near the output whose gradients add up to zero, or of a Node that sends zero.

    Of an output of several elements nobody knows what gradient will come to it.
    """
    lost = _head_of(case, _MANY).lost
    changing = _changing(case) if any(each.zero.variant in _BY_VALUES for each in lost) else {}
    edges = [(each, key) for each in lost for key in each.edges]
    return {key: _told_apart(each, changing.get(key)) for each, key in edges}


def _told_apart(lost: _Lost, is_changing: bool | None) -> Zero:
    """Why a gradient vanishes, once it is known whether it does for other values too."""
    if is_changing and lost.zero.variant == "adds-up":
        return Zero(_HERE, "lowest", lost.zero.node)
    return lost.always if is_changing is False and lost.zero.variant == "lowest" else lost.zero


def _changing(case: Case) -> dict[EdgeKey, bool]:
    """By edge along which nothing goes: whether it would for other values; if that is known.

    The gradient is computed once more so that it has a graph, and that graph is asked in turn.
    """
    found, own = dict[EdgeKey, bool](), {node.grad_fn for node in case.nodes}
    with torch.enable_grad():
        lost = _head_of(case, _MANY).lost
        slopes = [(each.gradient * _uneven(each.gradient)).sum() for each in lost]
    for each, slope in zip(lost, slopes, strict=True):
        if not slope.requires_grad:
            found |= dict.fromkeys(each.edges, False)
            continue
        graph, target = Graph.of(slope), case.nodes[each.target].grad_fn
        peeks = [peek(node.grad_fn) for node in graph.nodes]
        head = _head_of(Case(slope, [], None, {}, {}, graph, peeks), 8 * _MANY)
        arrived = {graph.nodes[index].grad_fn: came for index, came in head.arrived.items()}
        if head.is_all_lost or target in arrived:
            sizes = {node: _largest_of(arrived[node].values()) for node in own & arrived.keys()}
            limit = torch.finfo(slope.dtype).eps ** 0.5 * max(sizes.values(), default=0.0)
            is_more = sizes.get(target, 0.0) > limit and not head.is_all_lost
            found |= dict.fromkeys(each.edges, is_more)
    return found


def _head_of(case: Case, many: int) -> _Head:
    """Ask the first Nodes, as many as that, what they make of the gradient of the pass."""
    head = _Head([], {}, False)
    if case.graph is None or case.output.numel() != 1:
        return head
    arriving = defaultdict[int, Arrivals](lambda: defaultdict(dict))
    number = edge_of(case.output)[1]
    for ones in ones_for(case.nodes[0], [number]).values():
        arriving[0][number][_ROOT] = ones
    waiting, met, done, in_part, above = [(0, 0)], {0}, set[int](), set[int](), 0
    even = {_ROOT[0]: _ALL}  # the dimensions along which a Node sends the same for any values
    while waiting and arriving and len(done) < many:  # each Node after all that lead to it
        index = heappop(waiting)[1]
        done.add(index)
        arrivals, is_whole = arriving.pop(index, Arrivals(dict)), index not in in_part
        sent: Mapping[int, Tensor] | None = {} if is_whole else None
        sums = {number: _sum(each) for number, each in arrivals.items()}
        if is_whole and arrivals and all(map(_add_up_to_zero, arrivals.values())):
            for number, each in arrivals.items():
                zero = Zero("", "adds-up", above)
                head.lost.append(_Lost(each, zero, sums[number], index, zero))
            sums = {}
        elif is_whole and arrivals:
            sent, nothing = _sent(case, index, sums)
            sources = {source for each in arrivals.values() for source, _ in each}
            dims = _ALL.intersection(*(even.get(source, ()) for source in sources))
            even[index] = _even_dims(case, index, dims)
            for edge, kind, gradient in nothing:
                always = _always(case, index) or Zero("", "adds-up", above)
                zero = _why(case, index, kind, dims) or always
                key = (index, edge.slot)
                head.lost.append(_Lost([key], zero, gradient, edge.target, always))
        if is_whole:
            head.arrived[index] = sums
        above = above if waiting else index  # the last that all ways lead through
        for edge in filter(None, case.slots(index)):
            if edge.target in done:  # made in several threads, whose numbers say nothing
                return _Head([], {}, False)
            if sent is None:
                in_part.add(edge.target)
            elif edge.slot in sent:
                arriving[edge.target][edge.input_nr][index, edge.slot] = sent[edge.slot]
            if edge.target not in met:
                met.add(edge.target)
                node = case.nodes[edge.target]
                heappush(waiting, (1 if node.is_leaf else -number_of(node.grad_fn), edge.target))
    return head._replace(is_all_lost=not arriving and not in_part)


def _sent(
    case: Case, index: int, gradients: Mapping[int, Tensor]
) -> tuple[dict[int, Tensor] | None, list[tuple[Edge, _Nothing, Tensor]]]:
    """By slot what a Node sends of finite numbers that are not zero; None where it is not known.

    And the edges along which it sends nothing but rounding for these gradients, and not for others:
    why, and what it sends.
    """
    node, saved = case.nodes[index], case.peeks[index]
    is_fit = all(gradient.dtype in _ROUNDING for gradient in gradients.values())
    is_layer = operation_of(node.name) in _LAYERS
    sent = answer_of(node, saved, gradients) if is_fit and not is_layer else None
    if sent is None:
        return None, []
    largest = _largest_of(gradients.values())
    left, nothing = dict[int, Tensor](), list[tuple[Edge, _Nothing, Tensor]]()
    for edge in filter(None, case.slots(index)):
        gradient = sent[edge.slot] if edge.slot < len(sent) else None
        if gradient is None:
            continue
        gradient = fitted(case.nodes[edge.target], edge.input_nr, gradient)
        size = _largest(gradient)
        is_small = 0 < largest and size <= _SMALL * largest and gradient.dtype in _ROUNDING
        there = everywhere = nan
        if is_small:
            there, everywhere = _others(node, saved, gradients, edge.slot, largest)
        if _is_rounding(size, there * largest, gradient.dtype):
            nothing.append((edge, "cancels", gradient))
        elif everywhere and not there and not size:
            nothing.append((edge, "flat", gradient))
        elif size or gradient.requires_grad:  # also of NaN, and of zeros that have a slope
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

    None where it is of no operation of which more is known, or so whatever its values are.
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
    return None if over <= dims else _AT_REST


def _always(case: Case, index: int) -> Zero | None:
    """Why a Node sends nothing but rounding, if its result adds up to the same for any values."""
    of = _CONSTANT.get(operation_of(case.nodes[index].name))
    return Zero(f"the sum over {of} is constant", "constant-sum") if of else None


def _add_up_to_zero(arrivals: Mapping[EdgeKey, Tensor]) -> bool:
    """Whether several gradients cancel in each element."""
    first = next(iter(arrivals.values()))
    if len(arrivals) == 1 or first.dtype not in _ROUNDING:
        return False
    sizes = torch.stack([gradient.abs() for gradient in arrivals.values()]).sum(0)
    limits = _ROUNDING[first.dtype] * torch.finfo(first.dtype).eps * sizes
    return bool((_sum(arrivals).abs() <= limits).all() and sizes.any())


def _sum(arrivals: Mapping[EdgeKey, Tensor]) -> Tensor:
    first, *others = arrivals.values()
    for gradient in others:
        first = first + gradient
    return first


def _uneven(gradient: Tensor) -> Tensor:
    """Numbers between 0 and 1 that are all different."""
    positions = torch.arange(1, gradient.numel() + 1, device=gradient.device)
    return (positions * 0.618).frac().reshape(gradient.shape).to(gradient.dtype)


def _largest_of(gradients: Iterable[Tensor]) -> float:
    return max(map(_largest, gradients), default=0.0)


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
    return expected > limits.tiny and size <= _ROUNDING[dtype] * limits.eps * expected


_MANY = 32  # Nodes at most: a loss has fewer, and to ask them takes no time beside the others
# What may be nothing but rounding, in units of the last place, as of sums of many terms. In half
# precision that is as large as many a gradient, so that only what is exactly zero is told.
_ROUNDING = {torch.float32: 16, torch.float64: 16, torch.float16: 0, torch.bfloat16: 0}
_SMALL = 1e-4  # of what comes: what is sent may be nothing but rounding
_ROOT = (-1, 0)
# Where a network begins: their weights are leaves, and to ask them takes time.
_LAYERS = set(
    "Addmm Addmv Convolution ConvolutionOverrideable CudnnConvolution CudnnRnn Embedding "
    "EmbeddingBag Linear MkldnnConvolution MkldnnRnnLayer SlowConv2D".split()
)
_SATURATED = Zero("softmax of the logits is rounded to 0 and 1 everywhere", "flat")
FLAT_THERE = Zero("its slope is 0 wherever a gradient comes to it", "flat")
_MET = Zero("the probabilities are already those that the loss asks for", "lowest")
_HERE = "at these values, not at others"
_BY_VALUES = {"adds-up", "lowest"}  # may be so for any values, or for these alone
_AT_REST = Zero("what comes to it is the same for all elements here", "lowest")
_SUMS = {"Mean", "Sum"}
_ALL = frozenset(range(64))  # torch's tensors have no more dimensions
# The operations that send the same to every element, where what comes to them is one number.
_EVEN = set("Add Div Mul Neg ReshapeAlias Rsub Squeeze Sub Unsqueeze UnsafeView View".split())
# What adds up to the same number, whatever went in.
_CONSTANT = {
    "LogSoftmax": "softmax",
    "NativeBatchNorm": "what batch_norm gave",
    "NativeGroupNorm": "what group_norm gave",
    "NativeLayerNorm": "what layer_norm gave",
    "Softmax": "softmax",
}
