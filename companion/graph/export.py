"""A graph for other programs, by way of networkx."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from companion.graph.nodes import Edge, GraphNode, shape_as_text

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
            name=node.name,
            label=node.label,
            is_leaf=node.is_leaf,
            shape=shape_as_text(node),
            dtype=str(node.dtype).removeprefix("torch."),
            module=node.module or "",
        )
    for edge in edges:
        graph.add_edge(
            edge.source, edge.target, key=edge.slot, slot=edge.slot, input_nr=edge.input_nr
        )
    return graph
