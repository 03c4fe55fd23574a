"""Which tensors and Nodes that are alive lead to a graph: what refers to one of them keeps it."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import torch

from companion.graph.reading import Graph
from companion.internals import Node
from companion.naming import is_tensor


class Target(NamedTuple):
    """How a tensor or Node leads to the graph."""

    path: str  # from the object to the tensor with the graph: ``".grad"``, or nothing
    holds: str  # in words
    node: Node | None
    is_part: bool  # its Node is one of the graph, or of what was computed beside it on the way


class Targets(dict[Any, Target]):
    """The tensors and Nodes that lead to the graph."""


def targets_of(what: Any) -> Targets:
    """The tensors and Nodes that lead to the graph, and those whose ``.grad`` does."""
    roots, inside = _nodes_of(what)
    ends = list[tuple[Any, str, Node]]()
    for thing in _alive():
        for path, part in (("", thing), (".grad", _grad_of(thing))):
            node = _node_of(part)
            if node is not None:
                ends.append((thing, path, node))
    targets = Targets()
    if inside and ends:
        graph = Graph.of(*dict.fromkeys(node for _, _, node in ends), names={})
        first, to_root = _leading_to(graph, inside, roots)
        for thing, path, node in ends:
            if node in first and thing not in targets:
                way = " → … → ".join(type(n).__name__ for n in dict.fromkeys((node, first[node])))
                holds = f"tensor → {way}" if is_tensor(thing) else way
                is_part = not path and (node in inside or node not in to_root)
                targets[thing] = Target(path, holds, node, is_part)
    if is_tensor(what):
        targets.setdefault(what, Target("", "tensor", None, True))
    return targets


def _nodes_of(what: Any) -> tuple[set[Node], set[Node]]:
    """The roots of the graph, and all its Nodes; not those of leaves, which many graphs share."""
    if isinstance(what, torch.Tensor) and not what.requires_grad:
        return set(), set()
    graph = what if isinstance(what, Graph) else Graph.of(what, names={})
    roots, nodes = (
        {node.grad_fn for node in nodes if not node.is_leaf} for nodes in (graph.roots, graph.nodes)
    )
    return roots, nodes


def _alive() -> list[Any]:
    """All tensors and Nodes for which there is a Python object."""
    classes = dict[type, bool]()
    found = list[Any]()
    for thing in gc.get_objects():
        kind = type(thing)
        if kind not in classes:
            classes[kind] = hasattr(kind, "next_functions") or issubclass(kind, torch.Tensor)
        if classes[kind] and kind.__hash__ is not None:
            found.append(thing)
    return found


def _grad_of(thing: Any) -> Any:
    """The ``.grad`` of a tensor that may have one; None where torch cannot tell."""
    try:
        return thing.grad if is_tensor(thing) and (thing.is_leaf or thing.retains_grad) else None
    except RuntimeError:  # a view whose base was changed in place, which nobody may use
        return None


def _node_of(thing: Any) -> Node | None:
    """The Node of a tensor; of a Node itself. None of leaves, and where torch cannot tell."""
    if not is_tensor(thing):
        return thing
    try:
        return thing.grad_fn
    except RuntimeError:  # a view whose base was changed in place, which nobody may use
        return None


def _leading_to(
    graph: Graph, inside: set[Node], roots: set[Node]
) -> tuple[dict[Node, Node], set[Node]]:
    """Which Nodes lead to Nodes that are ``inside``, each with one of them; which lead to roots."""
    nodes = [node.grad_fn for node in graph.nodes]
    first = {node: node for node in nodes if node in inside}
    to_root = set(roots)
    for i in reversed(graph.order):  # every Node after all that it leads to
        for edge in graph.slots(i):
            below = nodes[edge.target] if edge else None
            if below in first:
                first.setdefault(nodes[i], first[below])
            if below in to_root:
                to_root.add(nodes[i])
    return first, to_root
