"""Which tensors and Nodes that are alive lead to a graph: what refers to one of them keeps it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
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
    ends = [(target, path, node) for target in _alive() for path, node in _nodes_at(target)]
    targets = Targets()
    if inside and ends:
        graph = Graph.of(*dict.fromkeys(node for _, _, node in ends), names={})
        first, to_root = _leading_to(graph, inside, roots)
        for target, path, node in ends:
            if node in first and target not in targets:
                classes = [type(n).__name__ for n in dict.fromkeys((node, first[node]))]
                nodes = " → … → ".join(classes)
                holds = f"tensor → {nodes}" if is_tensor(target) else nodes
                is_part = not path and (node in inside or node not in to_root)
                targets[target] = Target(path, holds, node, is_part)
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
    alive = list[Any]()
    for value in gc.get_objects():
        cls = type(value)
        if cls not in classes:
            classes[cls] = hasattr(cls, "next_functions") or issubclass(cls, torch.Tensor)
        if classes[cls] and cls.__hash__ is not None:
            alive.append(value)
    return alive


def _nodes_at(target: Any) -> Iterator[tuple[str, Node]]:
    """The Node of a tensor and that of its ``.grad``, each after the way to it; a Node itself."""
    if not is_tensor(target):
        if _is_in_a_graph(target):
            yield "", target
        return
    with suppress(RuntimeError):  # a view whose base was changed in place, which nobody may use
        if target.grad_fn is not None:
            yield "", target.grad_fn
        has_grad = target.is_leaf or target.retains_grad
        if has_grad and target.grad is not None and target.grad.grad_fn is not None:
            yield ".grad", target.grad.grad_fn


def _is_in_a_graph(node: Node) -> bool:
    """Whether a Node has edges: a Function that somebody made an object of, ``F()``, has none."""
    try:
        return node.next_functions is not None
    except RuntimeError:  # in torch 2.12
        return False


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
