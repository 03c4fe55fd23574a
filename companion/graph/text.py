"""The graph below a Node, printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from companion.graph.nodes import GraphNode
from companion.graph.reading import Graph
from companion.internals import Node
from companion.naming import one_line


def walk_grad_fn(fn: Node, max_depth: int = 50) -> None:
    """Print the graph below a Node, one line for each entry of each ``next_functions``.

    Each line says which entry of ``next_functions`` it is, and which Node the entry leads to. A
    leaf is followed by the caller's variable that refers to it, where there is one that does not
    begin with an underscore. A Node that stands further up, with as much below it as the limit
    would show here, is marked ``(already seen)``. An edge that enters another output than the first
    says which.

    The walk is a loop, so no depth is too much for it. Where the encoding of ``sys.stdout`` has no
    arrow, ``->`` stands in its place.

    Args:
        fn: a Node, such as ``loss.grad_fn``, a tensor of any shape that requires grad, or a
            ``Graph``, of which all roots are printed.
        max_depth: how many levels to print below the first line. Where there is more,
            ``... (max depth reached)`` stands in its place, and the last line says how many Nodes
            are not shown.

    Raises:
        ValueError: ``fn`` is None or a tensor that does not require grad, or ``max_depth`` is
            negative.
        TypeError: ``fn`` is none of these, or ``max_depth`` is not an int.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> walk_grad_fn((x * x).sum().grad_fn)
        SumBackward0
          input[0] → MulBackward0
            input[0] → AccumulateGrad (x)
            input[1] → AccumulateGrad (x) (already seen)
        >>> walk_grad_fn((x * x).sum(), max_depth=1)
        SumBackward0
          input[0] → MulBackward0
            ... (max depth reached)
        (1 of 3 nodes is not shown: max_depth=1)
    """
    if isinstance(max_depth, bool) or not isinstance(max_depth, int):
        raise TypeError(f"max_depth must be an int, got {type(max_depth).__name__}")
    if max_depth < 0:
        raise ValueError(f"max_depth must be 0 or more, got {max_depth}")
    lines = "\n".join(indented(fn if isinstance(fn, Graph) else Graph.of(fn), max_depth))
    print(_written_in(getattr(sys.stdout, "encoding", None) or "utf-8", lines))


def _written_in(encoding: str, text: str) -> str:
    """The text as it is, if the encoding has all of it; else with ``->``, and escapes for the rest.

    The encoding of a terminal or a file on Windows often has no arrow.
    """
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        plain = text.replace("→", "->")
        return plain.encode(encoding, "backslashreplace").decode(encoding)


def indented(graph: Graph, max_depth: int) -> Iterator[str]:
    """The lines of ``walk_grad_fn``, for each root in turn."""
    heights = graph.heights
    met = set[int]()
    shown: dict[int, int] = {}  # the Nodes whose slots were shown, and how deep they stood
    stack: list[_Line] = [(0, _name(root), root.index) for root in graph.roots[::-1]]
    while stack:
        depth, text, index = stack.pop()
        line = "  " * depth + text
        if index is None:
            yield line
            continue
        if index in shown:
            # A Node nearer to the root is shown again if the limit hid a part of what is below it.
            hid_a_part = shown[index] + heights[index] > max_depth
            if not (hid_a_part and depth < shown[index]):
                yield line + " (already seen)"
                continue
        yield line
        met.add(index)
        below = [(depth + 1, text, child) for text, child in _slots(graph, index)]
        if below and depth == max_depth:
            yield "  " * (depth + 1) + "... (max depth reached)"
        else:
            shown[index] = depth
            stack += below[::-1]
    hidden = len(graph) - len(met)
    if hidden:
        verb = "is" if hidden == 1 else "are"
        yield f"({hidden} of {len(graph)} nodes {verb} not shown: max_depth={max_depth})"


_Line = tuple[int, str, int | None]  # depth, text, and the index of the Node that it leads to


def _slots(graph: Graph, index: int) -> Iterator[tuple[str, int | None]]:
    """For each slot of a Node its text, and the index of the Node that it leads to."""
    for slot, edge in enumerate(graph.slots(index)):
        if edge is None:
            yield f"input[{slot}] → None (no grad path)", None
        else:
            output = f"output {edge.input_nr} of " if edge.input_nr else ""
            yield f"input[{slot}] → {output}{_name(graph.nodes[edge.target])}", edge.target


def _name(node: GraphNode) -> str:
    """The class of a Node, and what its tensor is called."""
    name = one_line(node.name, _WIDTH)
    return name if node.label == node.name else f"{name} ({one_line(node.label, _WIDTH)})"


_WIDTH = 200  # characters of a name in a line
