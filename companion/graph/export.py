"""A graph for other programs, by way of networkx."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from companion.graph.nodes import Edge, GraphNode, shape_as_text
from companion.naming import one_line

if TYPE_CHECKING:
    import networkx


def as_multigraph(nodes: Iterable[GraphNode], edges: Iterable[Edge]) -> networkx.MultiDiGraph:
    """Nodes and edges for networkx, with text and numbers alone, which its writers take.

    Raises:
        ModuleNotFoundError: networkx is not installed.
    """
    try:
        import networkx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to_networkx needs the package networkx, which the companion does not bring; "
            "pip install networkx"
        ) from error

    graph = networkx.MultiDiGraph()
    for node in nodes:
        graph.add_node(
            node.index,
            name=_printable(node.name),
            label=_printable(node.label),
            is_leaf=node.is_leaf,
            shape=shape_as_text(node),
            dtype=str(node.dtype).removeprefix("torch."),
            module=_printable(node.module or ""),
        )
    for edge in edges:
        graph.add_edge(
            edge.source, edge.target, key=edge.slot, slot=edge.slot, input_nr=edge.input_nr
        )
    return graph


def _printable(text: str) -> str:
    """The text, with an escape for what a file in XML must not have, such as ``\\x00``."""
    return one_line(text, 10 * len(text))  # an escape has 10 characters at most
