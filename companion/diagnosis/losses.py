"""Losses that are given what they do not take: probabilities for logits, or two shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.values import is_plain
from companion.findings import Finding, finding
from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.saved import Peek


def about_losses(case: Case) -> Iterator[Finding]:
    """A finding for each loss that is computed, and is seldom the one that is meant."""
    for node, saved in case.of(_RULES.keys()):
        rule = _RULES[operation_of(node.name)]
        yield from rule(case, node, saved)


def _given_probabilities(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    loss = operation_of(node.name)
    giving, takes = _TAKING[loss]
    source, is_direct = _source_of(case, node)
    operation = operation_of(source.name) if source else ""
    if source is None or operation not in giving:
        return
    rank = max(1, len(shape_or_none(node) or ()))
    dims = {peek.values.get("dim", 0) % rank for peek in (saved, case.peeks[source.index])}
    if not (loss == "LogSoftmax" and is_direct and len(dims) > 1):
        message = f"{takes}, and was given what {operation.lower()} gave"
        yield finding("probabilities", message, **case.at(node.index))


def _source_of(case: Case, node: GraphNode) -> tuple[GraphNode | None, bool]:
    """The Node that computed what a loss was given, and whether nothing gave it another shape."""
    is_direct = True
    while edge := next(iter(case.slots(node.index)), None):
        node = case.nodes[edge.target]
        if operation_of(node.name) not in _RESHAPING:
            return node, is_direct
        is_direct = False
    return None, is_direct


def _of_two_shapes(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    edge = case.slots(node.index)[0]
    if edge is None or operation_of(case.nodes[edge.target].name) != "Expand":
        return
    output, target = saved.values.get("self"), saved.values.get("target")
    if not (is_plain(output) and is_plain(target) and output.shape == target.shape):
        return
    pairs = zip(output.shape, output.stride(), target.stride(), strict=True)
    repeated = {(own == 0, other == 0) for size, own, other in pairs if size > 1}
    if {(True, False), (False, True)} <= repeated:  # each along another dimension
        shape = tuple(output.shape)
        message = f"output and target have two shapes, and both were broadcast to {shape}"
        yield finding("broadcast", message, **case.at(node.index))


def _difference(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    shape, slots = shape_or_none(node) or (), case.slots(node.index)
    edges = [edge for edge in slots if edge]
    if len(edges) != 1 or len(slots) != 2 or len(shape) != 2 or shape[0] != shape[1]:
        return
    source = case.nodes[edges[0].target]
    if operation_of(source.name) == "Expand":  # as l1_loss does
        source = next((case.nodes[e.target] for e in case.slots(source.index) if e), source)
    own = shape_or_none(source)
    is_row = own == shape[:1] and not source.is_leaf  # a leaf may be a mean, or a bias
    if shape[0] > 1 and (own == (shape[0], 1) or is_row):
        message = f"{own} was broadcast to {shape} in a difference with a constant"
        yield finding("broadcast", message, severity="info", **case.at(node.index))


# By the operation of a loss those that give probabilities, and what it takes in place of these.
_TAKING = {
    "BinaryCrossEntropyWithLogits": (
        {"Sigmoid", "Softmax"},
        "binary_cross_entropy_with_logits takes logits",
    ),
    "LogSoftmax": ({"Softmax"}, "log_softmax, as cross_entropy computes it, takes logits"),
    "NllLoss": ({"Softmax"}, "nll_loss takes log-probabilities"),
    "NllLoss2D": ({"Softmax"}, "nll_loss takes log-probabilities"),
}
_RESHAPING = set(
    "Clone Permute ReshapeAlias Select Slice Squeeze T Transpose UnsafeView Unsqueeze View".split()
)
_RULES: dict[str, Callable[[Case, GraphNode, Peek], Iterator[Finding]]] = {
    **dict.fromkeys(_TAKING, _given_probabilities),
    **dict.fromkeys(("HuberLoss", "MseLoss", "SmoothL1Loss"), _of_two_shapes),
    "Sub": _difference,
}
