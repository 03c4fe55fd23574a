"""What is diagnosed: an output, the inputs that should get a gradient, and the graph between them.

``diagnose`` looks at it once; then its questions ask about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from companion.diagnosis.risks import is_readable
from companion.forward.cuts import Cut
from companion.forward.fingerprints import fingerprint
from companion.forward.tracing import cuts_after, cuts_into, source_of
from companion.forward.watching import Watch
from companion.graph.nodes import Edge, GraphNode, shape_or_none
from companion.graph.reading import Graph, edge_of
from companion.graph.saved import Peek
from companion.naming import is_tensor, one_line

Tensor = torch.Tensor
Values = tuple[tuple[int, ...], torch.dtype, int]


@dataclass(slots=True, eq=False)
class Input:
    """A tensor that should get a gradient, and its place in the graph."""

    name: str  # what findings call it
    tensor: Tensor
    saved_by: Sequence[int]  # the Nodes that saved it
    node: int | None = None  # the Node that its gradient comes to
    output_nr: int = 0  # and which output of its operation the tensor is
    trouble: str = ""  # why torch has no Node for it, although it requires grad

    @property
    def first_saved_by(self) -> int | None:
        return self.saved_by[0] if self.saved_by else None

    @property
    def grad(self) -> Tensor | None:
        """Its ``.grad``. Torch warns where one asks for a ``.grad`` that always is None."""
        tensor = self.tensor
        return tensor.grad if tensor.is_leaf or tensor.retains_grad else None


@dataclass(eq=False)
class Case:
    """What is diagnosed: an output, the inputs that should get a gradient, the graph between."""

    output: Any
    inputs: list[Input]
    watch: Watch | None
    graph: Graph | None = None  # None: the output has none
    peeks: Sequence[Peek] = ()  # by Node

    @property
    def subject(self) -> str:
        """What was looked at, in words."""
        if self.graph is None:
            return "the output has no graph"
        nodes, leaves = len(self.graph), len(self.graph.leaves)
        s, ves = "s" * (nodes != 1), "f" if leaves == 1 else "ves"
        return f"the graph has {nodes} node{s}, {leaves} lea{ves} among them"

    @property
    def nodes(self) -> Sequence[GraphNode]:
        return () if self.graph is None else self.graph.nodes

    @property
    def nodes_and_peeks(self) -> Iterator[tuple[GraphNode, Peek]]:
        """Each Node with what it saved."""
        return zip(self.nodes, self.peeks, strict=True)

    def slots(self, index: int) -> Sequence[Edge | None]:
        return () if self.graph is None else self.graph.slots(index)

    @cached_property
    def reached(self) -> set[tuple[int | None, int]]:
        """Where gradients come to: a Node, and a number of its outputs."""
        if self.graph is None:
            return set()
        root = (0, edge_of(self.output)[1])
        return {root, *((edge.target, edge.input_nr) for edge in self.graph.edges)}

    def is_reached(self, given: Input) -> bool:
        """Whether a gradient comes to an input, as far as there is a graph to tell."""
        return self.graph is None or (given.node, given.output_nr) in self.reached

    @property
    def is_a_leaf_apart(self) -> bool:
        """Whether the output is a leaf, and none of the inputs."""
        inputs = [given.tensor for given in self.inputs]
        return self.output.is_leaf and all(tensor is not self.output for tensor in inputs)

    @cached_property
    def leaves_not_given(self) -> list[GraphNode]:
        """The leaves of the graph that are none of the inputs."""
        given = {given.tensor for given in self.inputs if is_tensor(given.tensor)}
        leaves = [(node, node.grad_fn.variable) for node in self.nodes if node.is_leaf]
        return [node for node, leaf in leaves if not is_tensor(leaf) or leaf not in given]

    @cached_property
    def unreached(self) -> set[Input]:
        """The inputs that require grad, and that no path of the graph leads to."""
        if self.graph is None or self.is_a_leaf_apart:  # which is said of the output
            return set()
        asked = [given for given in self.inputs if given.tensor.requires_grad]
        return {given for given in asked if not (given.trouble or self.is_reached(given))}

    @cached_property
    def cuts(self) -> Sequence[Cut]:
        """The cuts whose values went into the output."""
        if self.watch is None:
            return ()
        if is_tensor(self.output) and (cuts := self.watch.reaching(self.output)):
            return cuts
        # The output may have been computed after the block, from Nodes that were made in it.
        into = [cut for node in self.nodes for _, cut in cuts_into(self.watch, node.grad_fn)]
        found = {cut.index: cut for cut in into}
        return [found[index] for index in sorted(found)]

    @cached_property
    def first_cuts(self) -> dict[Input, tuple[Cut, ...]]:
        """For each unreached input the first cuts that its value came to."""
        unreached = list(self.unreached)
        if self.watch is None or not unreached:
            return {}
        cuts = cuts_after(self.watch, [given.tensor for given in unreached])
        return dict(zip(unreached, cuts, strict=True))

    @cached_property
    def leaf_of_values(self) -> dict[Values, GraphNode]:
        """The leaves of the graph that are none of the inputs, by their values."""
        leaves = [(values_of(leaf.grad_fn.variable), leaf) for leaf in self.leaves_not_given]
        return {values: leaf for values, leaf in leaves if values is not None}

    def at(self, index: int | None) -> dict[str, Any]:
        """Where a finding about a Node is, for ``finding``."""
        if index is None:
            return {}
        node = self.nodes[index]
        label = "" if node.label == node.name else f" ({one_line(node.label, 40)})"
        source = source_of(self.watch, node.grad_fn) if self.watch else None
        line = f", at {source}" if source else ""
        return {"where": f"node {index}, {node.name}{label}{line}", "node": index, "source": source}


def values_of(tensor: Tensor) -> Values | None:
    """What is equal for two tensors of equal values.

    None where they cannot be read, or are all one number, as those of two tensors may be by chance.
    """
    if not is_readable(tensor) or (number := fingerprint(tensor)) is None:
        return None
    is_one_number = bool((tensor == tensor.flatten()[0]).all())
    return None if is_one_number else (tuple(tensor.shape), tensor.dtype, number)


def placed(
    tensors: Sequence[Tensor],
    names: Mapping[str, Tensor],
    nodes: Sequence[GraphNode] = (),
    peeks: Sequence[Peek] = (),
) -> list[Input]:
    """The inputs by the names of the caller, each with its place in the graph of these Nodes."""
    called: dict[Any, str] = {tensor: name for name, tensor in names.items()}
    index = {node.grad_fn: node.index for node in nodes}
    leaf_index, saved_by = _leaf_index(nodes), _saved_by(nodes, peeks)
    inputs = []
    for number, tensor in enumerate(tensors):
        key = tensor if is_tensor(tensor) else None  # None is in none of the dicts
        shape = shape_or_none(tensor)
        unnamed = f"input {number}" if shape is None else f"input {number}, of shape {shape},"
        given = Input(called.get(key, unnamed), tensor, saved_by.get(key, ()))
        inputs.append(given)
        if not tensor.requires_grad:
            continue
        # A leaf may have another Node now than in the graph, such as since its dtype was changed.
        if key in leaf_index:
            given.node = leaf_index[key]
        elif trouble := trouble_of(tensor):
            given.trouble = trouble
        else:
            fn, given.output_nr = edge_of(tensor)[:2]
            given.node = index.get(fn)
    return inputs


def _leaf_index(nodes: Sequence[GraphNode]) -> dict[Any, int]:
    """By leaf tensor the Node that accumulates into its ``.grad``."""
    leaves = [(node.grad_fn.variable, node.index) for node in nodes if node.is_leaf]
    return {tensor: index for tensor, index in leaves if is_tensor(tensor)}


def _saved_by(nodes: Sequence[GraphNode], peeks: Sequence[Peek]) -> dict[Any, list[int]]:
    """By tensor the Nodes that saved it."""
    saved_by = defaultdict[Any, list[int]](list)
    for node, saved in zip(nodes, peeks, strict=True):
        for _, tensor in saved.tensors:
            if is_tensor(tensor):
                saved_by[tensor].append(node.index)
    return saved_by


def trouble_of(tensor: Tensor) -> str:
    """Why a tensor that requires grad has no place in a graph; "" if it has one."""
    try:
        edge_of(tensor)
    except RuntimeError as error:  # a view whose base was changed in place
        return str(error).partition(". ")[0]
    except ValueError as error:
        return str(error)
    return ""
