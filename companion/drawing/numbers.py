"""The numbers in a drawing: what a Node computed, the gradient that came to it, and what left it.

Nothing is run for them: what cannot be had is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from companion.drawing.boxes import Arrow, Box
from companion.graph.nodes import GraphNode, node_of, shape_as_text, shape_or_none
from companion.graph.reading import Graph
from companion.graph.recorded_pass import Gradients, RecordedPass
from companion.graph.saved import peek
from companion.internals import has_memory, is_wrapped, output_count, saved_names, unseen_by_all

Tensor = torch.Tensor
Row = tuple[str, str]  # what the number is, and the number

_FULL = 6  # numbers of a tensor that is written in full
_OUTPUTS = 3  # of an operation whose numbers are written


@dataclass(slots=True)
class Numbers:
    """The numbers of some Nodes as text.

    Attributes:
        rows: by Node, its values and below them the gradients that came to it.
        sent: by Node and slot, the gradient that left the Node there.
        memory: by box, what it keeps for the backward pass.
        heavy: the boxes that keep much of it.
    """

    rows: dict[int, list[Row]] = field(default_factory=dict)
    sent: dict[tuple[int, int], str] = field(default_factory=dict)
    memory: dict[Box, list[Row]] = field(default_factory=dict)
    heavy: set[Box] = field(default_factory=set)

    def of(self, box: Box) -> list[Row]:
        """The rows of a box; a block has those of its memory alone."""
        rows = [] if box.is_block else self.rows.get(box.nodes[0], [])
        return [*rows, *self.memory.get(box, [])]

    def along(self, box: Box, arrow: Arrow) -> str:
        """What left a box along an arrow; "" where that is not known."""
        if box.is_block or len(arrow.edges) != 1:
            return ""
        edge = arrow.edges[0]  # of a frame this may be that of a copy which is not drawn
        return self.sent.get((edge.source, edge.slot), "")


def numbers_of_tensors(graph: Graph, shown: Iterable[int], tensors: Iterable[Tensor]) -> Numbers:
    """The values of some Nodes, as they are now.

    Args:
        graph: the graph.
        shown: the indices of the Nodes.
        tensors: some that may be outputs of the Nodes.
    """
    nodes = [graph.nodes[i] for i in shown]
    with unseen_by_all(), torch.no_grad():
        known = _values(nodes, tensors)
        return Numbers({node.index: _rows(node, known, _saved_result(node)) for node in nodes})


def numbers_of_pass(recorded: RecordedPass, shown: Iterable[int]) -> Numbers:
    """Values of some Nodes of a recorded pass, and the gradients that came to them and left."""
    numbers, steps = Numbers(), {step.node: step for step in recorded.steps}
    with unseen_by_all(), torch.no_grad():
        for node in (recorded.graph.nodes[i] for i in shown):
            step = steps.get(node.index)
            if step is None:
                numbers.rows[node.index] = _rows(node, recorded.values)
                continue
            result = (step.saved or {}).get("result")
            numbers.rows[node.index] = _rows(node, recorded.values, result, step.grad_outputs)
            edges = recorded.graph.slots(node.index)
            for edge, gradient in zip(edges, step.grad_inputs or (), strict=False):
                if edge and edge.target in step.waiting:
                    numbers.sent[node.index, edge.slot] = written(gradient)
    return numbers


def _values(nodes: Sequence[GraphNode], tensors: Iterable[Tensor]) -> dict[tuple[int, int], Tensor]:
    """What some tensors, and the leaves among some Nodes, hold: by Node and output."""
    known = {(node.index, 0): node.grad_fn.variable for node in nodes if node.is_leaf}
    index = {node.grad_fn: node.index for node in nodes}
    for tensor in tensors:
        i = index.get(node_of(tensor))
        if i is not None:
            known[i, tensor.output_nr] = tensor
    return known


def _saved_result(node: GraphNode) -> Any:
    """What a Node saved of its own output; None where it did not, or it cannot be used."""
    fn = node.grad_fn
    return peek(fn).values.get("result") if "result" in saved_names(fn) else None


def _rows(
    node: GraphNode,
    known: Mapping[tuple[int, int], Tensor],
    result: Any = None,
    gradients: Gradients = (),
) -> list[Row]:
    """The values of a Node, and below them its gradients."""
    count = output_count(node.grad_fn)
    values = {nr: known[node.index, nr] for nr in range(count) if (node.index, nr) in known}
    if isinstance(result, Tensor):
        values.setdefault(0, result)
    return [
        *_of_outputs("value", values, count),
        *_of_outputs("gradient", dict(enumerate(gradients)), count),
    ]


def _of_outputs(word: str, tensors: Mapping[int, Tensor | None], count: int) -> list[Row]:
    """A row for each output of an operation, up to a few; of several, those that have a tensor."""
    defined = {nr: tensor for nr, tensor in tensors.items() if tensor is not None}
    some = [*(defined or tensors).items()]
    rows = [
        (f"{word} {nr}:" if count > 1 else word, text)
        for nr, tensor in some[:_OUTPUTS]
        if (text := written(tensor))
    ]
    more = len(some) - _OUTPUTS
    return [*rows, (f"{more} more", f"{word}s")] if more > 0 else rows


# ---- a tensor as text


def written(tensor: Tensor | None) -> str:
    """A small tensor in full, of a larger one its shape and norm; "" where nothing is known.

    Few digits, so that the text is the same on every machine.
    """
    if tensor is None:
        return "None"
    if is_wrapped(tensor) or not has_memory(tensor) or shape_or_none(tensor) is None:
        return ""
    try:
        return in_full(tensor) or f"{shape_as_text(tensor)} norm {to_4_digits(_norm(tensor))}"
    except (RuntimeError, TypeError, ValueError):  # of a dtype or class that can do little
        return ""


def in_full(tensor: Tensor) -> str:
    """The numbers of a small tensor in brackets, as ``tolist`` has them; "" for a larger one."""
    is_small = 0 < tensor.numel() <= _FULL or tuple(tensor.shape) == (0,)
    if tensor.layout is not torch.strided or tensor.is_nested or not is_small:
        return ""
    numbers = [to_4_digits(number) for number in tensor.detach().flatten().tolist()]
    places = str(torch.arange(len(numbers), device="cpu").reshape(tensor.shape).tolist())
    return re.sub(r"\d+", lambda place: numbers[int(place[0])], places)


def _norm(tensor: Tensor) -> float:
    """The 2-norm, added up in double precision."""
    tensor = tensor.detach().cpu()
    if tensor.is_nested or tensor.layout is not torch.strided:
        tensor = (tensor.coalesce() if tensor.layout is torch.sparse_coo else tensor).values()
    dtype = torch.complex128 if tensor.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(tensor.to(dtype)))


def to_4_digits(number: Any) -> str:
    """4 digits of a number, and no minus at a zero."""
    return f"{number + 0.0:.4g}" if isinstance(number, float | complex) else str(number)
