"""The memory that a graph keeps for the backward pass, storage by storage.

Nothing is unpacked: no hook runs, and a checkpoint recomputes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from companion.graph.reading import Graph
from companion.graph.saved import held_by, peek, storages_of
from companion.internals import address_of


class Held(NamedTuple):
    """A storage that a Node holds.

    Attributes:
        node: the index of the Node.
        name: what the Node calls the tensor that is in it.
        address: where it is, the same for all Nodes that hold it; None for a tensor that was saved
            through hooks, which may be anywhere.
        nbytes: its bytes, whole.
        is_of_leaf: whether a leaf is in it too, so that it is there without the graph.
    """

    node: int
    name: str
    address: int | None
    nbytes: int = 0
    is_of_leaf: bool = False


def held_storages(graph: Graph) -> Iterator[Held]:
    """What each Node holds, in the order in which they were made."""
    variables = [node.grad_fn.variable for node in graph.nodes if node.is_leaf]
    leaves = {address_of(storage) for variable in variables for storage in storages_of(variable)}
    kept = list[torch.UntypedStorage]()  # alive all at once, so an address stands for one of them
    for i in reversed(graph.order):
        for name, tensor in held_by(graph.nodes[i].grad_fn):
            if tensor is None:
                yield Held(i, name, None)
                continue
            for storage in storages_of(tensor):
                kept.append(storage)
                address = address_of(storage)
                yield Held(i, name, address, storage.nbytes(), address in leaves)


def freed_nodes(graph: Graph, held: Iterable[Held]) -> int:
    """How many Nodes a backward pass has freed; ``held`` is what the others hold. Runs no hooks."""
    holding = {storage.node for storage in held}
    others = (node.grad_fn for node in graph.nodes if node.index not in holding)
    return sum("freed" in peek(fn).broken.values() for fn in others)
