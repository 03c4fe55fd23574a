"""Which Nodes gradients come to, if some edges carry none: loops over the edges of a Graph."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from companion.graph.reading import Graph

EdgeKey = tuple[int, int]  # a Node, and a slot of it


class Zero(NamedTuple):
    """Why no gradient but zero comes by way of an edge.

    Attributes:
        reason: in words; "" if its Node always sends zeros.
        variant: that of the finding.
        node: the Node above, where what goes along this edge and others that cancel it comes from.
    """

    reason: str = ""
    variant: str = ""
    node: int | None = None


def reached_without(graph: Graph, edges: Container[EdgeKey]) -> set[int]:
    """The Nodes to which some path leads from a root that has none of these edges."""
    reached = {root.index for root in graph.roots}
    for index in graph.order:  # every Node after all that lead to it
        if index in reached:
            slots = enumerate(graph.slots(index))
            reached |= {e.target for slot, e in slots if e and (index, slot) not in edges}
    return reached


def first_on_the_way(graph: Graph, edges: Container[EdgeKey]) -> dict[int, EdgeKey]:
    """By Node the first of some edges that is on a path to it, for the Nodes that have one."""
    first = dict[int, EdgeKey]()
    for index in graph.order:  # every Node after all that lead to it
        for slot, edge in enumerate(graph.slots(index)):
            if edge is None:
                continue
            own = [(index, slot)] if (index, slot) in edges else []
            known = [first[node] for node in (index, edge.target) if node in first]
            if own or known:
                first[edge.target] = min(own + known)
    return first


def below(graph: Graph, nodes: Container[int]) -> set[int]:
    """The Nodes to which a path leads from one of these; not these themselves, as such."""
    found = set[int]()
    for index in graph.order:  # every Node after all that lead to it
        if index in nodes or index in found:
            found |= {edge.target for edge in graph.slots(index) if edge}
    return found


def shortly_listed(names: list[str]) -> str:
    """Names in words: three at most, without what stands behind a comma if there are several."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    short = [name.partition(",")[0] for name in names[:3]] if names[1:] else names
    return ", ".join(short) + more
