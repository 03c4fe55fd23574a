"""What is told of a box that is chosen: more than has room in a drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from companion.drawing.boxes import Box, Folded
from companion.drawing.numbers import Numbers, Row
from companion.drawing.words import ends_of, given_name, inside, name_of_kind
from companion.forward.tracing import source_of
from companion.forward.watching import Watch
from companion.graph.anomaly_lines import noted_source
from companion.graph.nodes import GraphNode, shape_as_text
from companion.graph.recorded_pass import RecordedPass
from companion.graph.saved import nbytes_of, peek
from companion.internals import unseen_by_all
from companion.naming import counted


@dataclass(slots=True)
class Known:
    """What is known of a graph beside its Nodes.

    Attributes:
        numbers: values and gradients.
        saved: what Nodes had saved before a recorded pass freed it, by name, by Node.
        watch: what watched the forward pass.
    """

    numbers: Numbers
    saved: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    watch: Watch | None = None


def known_of(what: Any, numbers: Numbers, watch: Watch | None) -> Known:
    """What is known of the graph of what was given to ``draw``."""
    steps = what.steps if isinstance(what, RecordedPass) else ()
    return Known(numbers, {s.node: s.saved for s in steps if s.saved is not None}, watch)


def details_of(folded: Folded, names: Mapping[Box, str], box: Box, known: Known) -> list[Row]:
    """What each detail of a box is, and the detail. Runs no hooks.

    Args:
        folded: the boxes of a drawing.
        names: what each of them is called.
        box: one of them.
        known: what is known beside the Nodes.
    """
    if box.is_block:
        rows = [("Nodes" if box.is_outside else "Inside", inside(folded, box))]
    else:
        rows = [*_of_node(folded.node(box), known)]
        rows += [(word.capitalize(), number) for word, number in known.numbers.of(box)]
    ends = ends_of(folded, box, names)
    return [*rows, ("Leads to", "; ".join(ends))] if ends else rows


def _of_node(node: GraphNode, known: Known) -> Iterator[Row]:
    yield "Node", name_of_kind(node)
    if name := given_name(node):
        yield "Tensor", name
    yield "Shape", shape_as_text(node)
    yield "Dtype", str(node.dtype).removeprefix("torch.")
    if node.module:
        yield "Module", node.module
    source = source_of(known.watch, node.grad_fn) if known.watch else None
    if source := source or noted_source(node.grad_fn):
        yield "Line", source.short
    if not node.is_leaf:
        yield "Saved", _saved(node, known.saved.get(node.index))


def _saved(node: GraphNode, before: Mapping[str, Any] | None) -> str:
    """How many bytes a Node saved, or had saved before a recorded pass."""
    with unseen_by_all(), torch.no_grad():
        now = peek(node.grad_fn)
        values = now.values if before is None else before
        sizes = {name: _nbytes(value) for name, value in values.items()}
    tensors = {name: size for name, size in sizes.items() if size is not None}
    parts = []
    if tensors:
        parts.append(f"{counted(sum(tensors.values()), 'byte')} ({', '.join(tensors)})")
    if now.hooked and before is None:
        parts.append("through hooks, which were not run")
    parts += [f"{name} is {state} now" for name, state in now.broken.items()]
    return "; ".join(parts) or "no tensor"


def _nbytes(value: Any) -> int | None:
    """The bytes of a tensor, or of those in a list; None where there are none."""
    parts = value if isinstance(value, tuple | list) else [value]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return sum(map(nbytes_of, tensors)) if tensors else None
