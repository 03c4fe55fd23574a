"""A rehearsal of the backward pass: which Nodes send infinities or NaN that arrive at a leaf.

And where float16 has no number for a gradient that is small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from companion.diagnosis.asking import answer_of, ones_for, zero_slots
from companion.diagnosis.case import Case
from companion.diagnosis.paths import EdgeKey
from companion.diagnosis.values import is_finite, is_plain
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import edge_of
from companion.internals import metadata_of

Tensor = torch.Tensor


class Rehearsal(NamedTuple):
    """What came of the gradients.

    Attributes:
        spoiling: the Nodes that send what is infinite or NaN, if that comes to a leaf or to an
            input. The first is the one that makes it of a finite gradient.
        rounded_to_zero: the edges along which float16 has zeros alone in place of small numbers.
    """

    spoiling: list[int]
    rounded_to_zero: list[EdgeKey]


def has_half(case: Case) -> bool:
    """Whether gradients pass somewhere as float16, and the output is finite.

    Values are float16 if those of a leaf are, or where they are cast, by code of the user too:
    the names of leaves and of custom Functions are those of no operation of torch's.
    """
    by_operation = case.by_operation.items()
    some = [nodes for name, nodes in by_operation if name in ("ToCopy", nodes[0].name)]
    is_half = any(node.dtype is torch.float16 for nodes in some for node in nodes)
    return is_half and is_plain(case.output) and is_finite(case.output)


def rehearse(case: Case) -> Rehearsal:
    """Ask each Node once, with what those above sent to it.

    One that cannot be asked is taken to pass on what comes to it.
    """
    if case.graph is None:
        return Rehearsal([], [])
    ends = {given.node for given in case.inputs}
    ends |= {node.index for node in case.graph.leaves}
    arriving = defaultdict[int, dict[int, Tensor]](dict)
    arriving[0] = ones_for(case.nodes[0], [edge_of(case.output)[1]])
    bad, rounded = list[tuple[int, int]](), list[EdgeKey]()
    for index in case.graph.order:  # each after all that lead to it
        gradients = arriving.pop(index, {})
        if case.nodes[index].is_leaf or not gradients:
            continue
        for edge, gradient in _sent(case, index, gradients):
            others, number = arriving[edge.target], edge.input_nr
            came = fitted(case.nodes[edge.target], number, gradient)
            if not is_finite(came):
                bad.append((index, edge.target))
            if came.dtype is torch.float16 and not came.any():
                if gradient.any() or _is_rounded(case, edge, gradients):
                    rounded.append((index, edge.slot))
            others[number] = others[number] + came if number in others else came
    return Rehearsal(_leading_to(ends, bad), rounded)


def _sent(case: Case, index: int, gradients: Mapping[int, Tensor]) -> Iterator[tuple[Edge, Tensor]]:
    """What a Node sends along its edges, as its formula gives it."""
    sent = answer_of(case.nodes[index], case.peeks[index], gradients)
    for edge in filter(None, case.slots(index)):
        if sent is None:
            guessed = _guessed(case.nodes[edge.target], edge.input_nr, gradients)
            yield from ((edge, gradient) for gradient in guessed)
        elif edge.slot < len(sent) and (gradient := sent[edge.slot]) is not None:
            yield edge, gradient


def _guessed(target: GraphNode, number: int, gradients: Mapping[int, Tensor]) -> Iterator[Tensor]:
    """What a Node that cannot be asked may send: what came to it, or the like in another shape."""
    came = next(iter(gradients.values()))
    for ones in ones_for(target, [number]).values():
        fits = came.shape == ones.shape and came.dtype == ones.dtype
        yield came if fits else ones if is_finite(came) else ones * torch.nan


def fitted(node: GraphNode, number: int, gradient: Tensor) -> Tensor:
    """A gradient in the shape and the dtype of the output that it comes to, as in a real pass.

    So does ``backward/program_nodes.py``, as text.
    """
    output = metadata_of(node.grad_fn, number)
    shape = tuple(output.shape)
    if gradient.is_complex() and not output.dtype.is_complex:
        gradient = gradient.real
    gradient = gradient if gradient.shape == shape else gradient.sum_to_size(shape)
    return gradient.to(output.dtype)


def _is_rounded(case: Case, edge: Edge, gradients: Mapping[int, Tensor]) -> bool:
    """Whether the zeros that a Node sends are due to how small that is which comes to it."""
    if not all(gradient.any() for gradient in gradients.values()):
        return False
    return edge.slot not in zero_slots(
        case.nodes[edge.source], case.peeks[edge.source], gradients.keys()
    )


def _leading_to(ends: set[int | None], bad: list[tuple[int, int]]) -> list[int]:
    """The Nodes from which a path of bad edges leads to one of these; edges from the root on."""
    found = dict[int, None]()
    for source, target in reversed(bad):
        if target in ends or target in found:
            found[source] = None
    return [*reversed(found)]
