"""A rehearsal of the backward pass: which Nodes send infinities or NaN that arrive at a leaf."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch

from companion.diagnosis.asking import answer_of, ones_for
from companion.diagnosis.case import Case
from companion.diagnosis.values import is_finite
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import edge_of
from companion.internals import metadata_of

Tensor = torch.Tensor


def spoiling(case: Case) -> list[int]:
    """The Nodes that send what is infinite or NaN, if that comes to a leaf or to an input.

    The first is the one that makes it of a finite gradient.

    Each Node is asked once, with what those above sent to it. One that cannot be asked is taken to
    pass on what comes to it.
    """
    if case.graph is None:
        return []
    ends = {given.node for given in case.inputs}
    ends |= {node.index for node in case.graph.leaves}
    arriving = defaultdict[int, dict[int, Tensor]](dict)
    arriving[0] = ones_for(case.nodes[0], [edge_of(case.output)[1]])
    bad = list[tuple[int, int]]()
    for index in case.graph.order:  # each after all that lead to it
        gradients = arriving.pop(index, {})
        if case.nodes[index].is_leaf or not gradients:
            continue
        for edge, gradient in _sent(case, index, gradients):
            if not is_finite(gradient):
                bad.append((index, edge.target))
            others, number = arriving[edge.target], edge.input_nr
            others[number] = others[number] + gradient if number in others else gradient
    return _leading_to(ends, bad)


def _sent(case: Case, index: int, gradients: Mapping[int, Tensor]) -> Iterator[tuple[Edge, Tensor]]:
    """What a Node sends along its edges."""
    sent = answer_of(case.nodes[index], case.peeks[index], gradients)
    for edge in filter(None, case.slots(index)):
        target, number = case.nodes[edge.target], edge.input_nr
        if sent is None:
            yield from ((edge, one) for one in _guessed(target, number, gradients))
        elif edge.slot < len(sent) and (gradient := sent[edge.slot]) is not None:
            yield edge, _fitted(target, number, gradient)


def _guessed(target: GraphNode, number: int, gradients: Mapping[int, Tensor]) -> Iterator[Tensor]:
    """What a Node that cannot be asked may send: what came to it, or the like in another shape."""
    came = next(iter(gradients.values()))
    for one in ones_for(target, [number]).values():
        fits = came.shape == one.shape and came.dtype == one.dtype
        yield came if fits else one if is_finite(came) else one * torch.nan


def _fitted(node: GraphNode, number: int, gradient: Tensor) -> Tensor:
    """A gradient in the shape and the dtype of the output that it comes to, as in a real pass."""
    output = metadata_of(node.grad_fn, number)
    shape = tuple(output.shape)
    if gradient.is_complex() and not output.dtype.is_complex:
        gradient = gradient.real
    gradient = gradient if gradient.shape == shape else gradient.sum_to_size(shape)
    return gradient.to(output.dtype)


def _leading_to(ends: set[int | None], bad: list[tuple[int, int]]) -> list[int]:
    """The Nodes from which a path of bad edges leads to one of these; edges from the root on."""
    found = dict[int, None]()
    for source, target in reversed(bad):
        if target in ends or target in found:
            found[source] = None
    return [*reversed(found)]
