"""A live ``grad_fn`` becomes a ``Graph``: what a traversal found, as data.

The traversal goes breadth first from the roots, so Nodes are numbered by their distance. It keeps
the Nodes themselves in its table: a number such as ``id(node)`` may belong to another Node as soon
as the first one is gone (and on torch up to 2.12 even while its graph lives). What it found stands
in columns of numbers; objects are made when asked for, so that a graph of a million Nodes is not
millions of objects more.
"""

from __future__ import annotations

import gc
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from companion.graph.export import as_multigraph
from companion.graph.freeing import BAND, ROW, SHALLOW, fuse
from companion.graph.modules import Call, Event, ModuleNames, calls_from, innermost
from companion.graph.nodes import Edge, GraphNode, node_of
from companion.graph.not_a_tensor import is_node, refused
from companion.graph.saved import memory_kept
from companion.internals import Node, is_wrapped, number_of, unseen_by_subclasses
from companion.naming import callers_names, check_names, counted, is_tensor

if TYPE_CHECKING:
    import networkx


class Graph:
    """The graph of one or several tensors. Make it with ``Graph.of``.

    ``len(graph)`` is the number of Nodes. The graph keeps the Nodes alive, and with them the leaves
    and whatever the Nodes saved.

    Examples:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> w = torch.ones(3, 2, requires_grad=True)
        >>> graph = Graph.of((x @ w + 2.0).mean())
        >>> [node.name for node in graph.nodes]
        ['MeanBackward0', 'AddBackward0', 'MmBackward0', 'AccumulateGrad', 'AccumulateGrad']
        >>> [leaf.label for leaf in graph.leaves]
        ['x', 'w']
        >>> graph.edges[-1]
        Edge(source=2, target=4, slot=1, input_nr=0)
        >>> graph.depth
        3
    """

    # For Node after Node, _target says where its slots lead: a number, -1 for None, and -2 after
    # the last. Of the numbers of inputs and outputs only those other than 0 are kept.
    _edges_to_roots: list[Any]  # up to torch 2.12 these alone keep the Node of a custom Function
    _fns: list[Node]
    _output_nr: dict[int, int]  # by Node: the output by which it was reached first
    _target: list[int]
    _input_nr: dict[int, int]  # by position in _target
    _labels: dict[int, str]
    _root_count: int
    _events: list[Event]  # of calls of modules

    def __init__(self) -> None:
        raise TypeError("a Graph is read from tensors: use Graph.of(loss)")

    @classmethod
    def of(cls, *outputs: Any, names: Mapping[str, torch.Tensor] | None = None) -> Graph:
        """Read the graph below one or several tensors.

        One loop over ``next_functions``; a Node reached by several paths is read once. Time and
        memory grow with the number of Nodes and edges. Nothing is executed. The search for
        reference cycles (``gc``) pauses meanwhile.

        Since torch 2.13, a graph whose Nodes were looked at is freed by recursion, which ends the
        process where it is deep. So on some Nodes of a graph of more than 1000 this leaves an entry
        in ``Node.metadata``, which makes any depth safe, in any order of freeing.

        Args:
            *outputs: tensors of any shape that require grad, or Nodes. A leaf tensor gives a graph
                of one Node, its ``AccumulateGrad``.
            names: names for tensors, such as ``dict(model.named_parameters())``. Without it a leaf
                takes the name of the first of the caller's variables that refers to it (variables
                that begin with an underscore do not count). Up to Python 3.12, looking at the
                variables of a function brings a dict that it got from ``locals()`` up to date.

        Returns:
            The graph, with the Nodes of ``outputs`` as its roots, in the order given.

        Raises:
            ValueError: no output was given, or one has no graph (it was detached, computed under
                ``torch.no_grad()``, or made from tensors that do not require grad).
            TypeError: an output is neither a tensor nor a Node, or ``names`` does not map strings
                to tensors.

        Examples:
            >>> x = torch.ones(4, requires_grad=True)
            >>> first, second = x.split(2)
            >>> graph = Graph.of(first.sum(), second.sum())
            >>> [root.name for root in graph.roots]
            ['SumBackward0', 'SumBackward0']
            >>> [(edge.source, edge.target, edge.input_nr) for edge in graph.edges]
            [(0, 2, 0), (1, 2, 1), (2, 3, 0)]
            >>> Graph.of(x.detach())
            Traceback (most recent call last):
            ...
            ValueError: output 0 has no graph: it is a tensor that does not require grad; look for \
detach() or torch.no_grad() on the way, or call requires_grad_() on an input before computing it

        Source: the order of the entries is that of ``torch.autograd.graph.Node.next_functions``.
        """
        if not outputs:
            raise ValueError(
                "got no output; give the tensor whose graph to read, as in Graph.of(loss)"
            )
        if names is not None:
            check_names(names)
        for i, output in enumerate(outputs):
            _check_output(i, output)
        graph = cls.__new__(cls)
        graph._start_at(outputs)
        index, ends = graph._traverse()
        graph._labels = _leaf_labels(ends, callers_names() if names is None else names)
        if names is not None:
            graph._labels |= _result_labels(index, names)
        graph._events = names.events if isinstance(names, ModuleNames) else []
        return graph

    def _start_at(self, outputs: Iterable[Any]) -> None:
        """Let the Nodes of the outputs be the roots."""
        self._edges_to_roots = edges = []
        for output in outputs:
            edges.append(edge_of(output))
            if len(edges) > SHALLOW:
                fuse(edges[-1][0])
        first = {edge[0]: edge[1] for edge in reversed(edges)}  # of several outputs of one Node
        self._fns = list(dict.fromkeys(edge[0] for edge in edges))
        self._root_count = len(self._fns)
        self._output_nr = {i: first[fn] for i, fn in enumerate(self._fns) if first[fn]}

    def _traverse(self) -> tuple[dict[Node, int], dict[int, Node]]:
        """Find all Nodes below the roots. One loop, as lean as it can be.

        Returns:
            The index of each Node; and, by index, the Nodes without slots, leaves among them.
        """
        fns, output_nr = self._fns, self._output_nr
        self._target, self._input_nr = target, input_nr = list[int](), dict[int, int]()
        index = {fn: i for i, fn in enumerate(fns)}
        ends: dict[int, Node] = {}
        count = end = len(fns)  # of all Nodes known so far; of this level and those above
        levels = BAND  # to the next one that gets fuses; graph/freeing.py says why these
        with garbage_collection_paused():  # it would go through all Nodes again and again
            for i, fn in enumerate(fns):  # the list grows while the loop runs along it
                if i == end:  # the next level begins
                    end = count
                    levels -= 1
                    if not levels:
                        levels = BAND
                        _fuse_level(fns, i)
                slots = fn.next_functions
                if not slots:
                    ends[i] = fn
                for child, nr in slots:
                    if child is None:
                        target.append(-1)
                        continue
                    if child in index:
                        child_index = index[child]
                        if child_index < end and child_index // ROW != i // ROW and count > SHALLOW:
                            fuse(fn)
                    else:
                        child_index = index[child] = count
                        count += 1
                        fns.append(child)
                        if nr:
                            output_nr[child_index] = nr
                    if nr:
                        input_nr[len(target)] = nr
                    target.append(child_index)
                target.append(-2)
        return index, ends

    def __len__(self) -> int:
        return len(self._fns)

    def __repr__(self) -> str:
        roots = ", ".join(root.name for root in self.roots)
        nodes, leaves = counted(len(self), "node"), counted(len(self.leaves), "leaf", "leaves")
        return f"<Graph of {roots}: {nodes}, {leaves}>"

    @cached_property
    def _first(self) -> list[int]:
        """Where in ``_target`` the slots of each Node begin, and where those of one more would."""
        return [0, *(end for end, target in enumerate(self._target, start=1) if target == -2)]

    def _targets(self, index: int) -> list[int]:
        """Where the slots of a Node lead, -1 for None."""
        return self._target[self._first[index] : self._first[index + 1] - 1]

    @cached_property
    def nodes(self) -> tuple[GraphNode, ...]:
        """Every Node once; the roots first, then by distance from them."""
        labels, output_nr = self._labels, self._output_nr
        with garbage_collection_paused():
            return tuple(
                GraphNode(
                    i,
                    labels.get(i) or type(fn).__name__,
                    fn,
                    (call.path or None) if call else None,
                    output_nr.get(i, 0),
                )
                for i, (fn, call) in enumerate(zip(self._fns, self.calls, strict=True))
            )

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every entry of every ``next_functions`` that is not None, Node by Node, slot by slot."""
        with garbage_collection_paused():
            return tuple(edge for i in range(len(self)) for edge in self.slots(i) if edge)

    def slots(self, index: int) -> tuple[Edge | None, ...]:
        """The ``next_functions`` of Node ``index``: an Edge or None for each entry.

        Raises:
            IndexError: there is no Node of that index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        start, input_nr = self._first[index], self._input_nr
        return tuple(
            None if target < 0 else Edge(index, target, slot, input_nr.get(start + slot, 0))
            for slot, target in enumerate(self._targets(index))
        )

    @property
    def roots(self) -> tuple[GraphNode, ...]:
        """The Nodes of the outputs, in the order given; outputs that share a Node give one root."""
        return self.nodes[: self._root_count]

    @cached_property
    def leaves(self) -> tuple[GraphNode, ...]:
        """The Nodes that accumulate into the ``.grad`` of a leaf tensor."""
        return tuple(node for node in self.nodes if node.is_leaf)

    @property
    def depth(self) -> int:
        """The number of edges on the longest path from a root."""
        return max(self.heights)

    @cached_property
    def heights(self) -> array[int]:
        """For each Node, the number of edges on the longest path below it."""
        heights = array("q", bytes(8 * len(self)))
        for i in reversed(self.order):  # every Node after all that it leads to
            for child in self._targets(i):
                if child >= 0:
                    heights[i] = max(heights[i], heights[child] + 1)
        return heights

    @cached_property
    def sequence_numbers(self) -> list[int]:
        """For each Node its number in the order of making, in its thread; a leaf has the highest.

        Of the Nodes that are ready the engine runs the one with the highest number.
        """
        return [number_of(fn) for fn in self._fns]

    @cached_property
    def order(self) -> array[int]:
        """The indices of the Nodes in the order in which one thread would run them backward.

        Each Node comes after all that lead to it. Of several that could come next it is the one
        made last, as the sequence numbers of autograd tell it. Leaves come at once; those that one
        Node leads to alone come by slot, which of more than three the engine may do otherwise.
        """
        numbers = self.sequence_numbers
        waiting = array("q", bytes(8 * len(self)))  # how many edges into a Node are not seen yet
        for target in self._target:
            if target >= 0:
                waiting[target] += 1
        # The second number is when it became ready: of leaves, which have one number, it decides.
        ready = [(-numbers[i], i, i) for i in range(len(self)) if waiting[i] == 0]
        heapify(ready)
        count = len(self)
        order = array("q")
        while ready:
            _, _, i = heappop(ready)
            order.append(i)
            for child in self._targets(i):
                if child >= 0:
                    waiting[child] -= 1
                    if waiting[child] == 0:
                        count += 1
                        heappush(ready, (-numbers[child], count, child))
        return order

    @cached_property
    def calls(self) -> list[Call | None]:
        """For each Node the call of a module that made it, where ``companion.modules`` noted it."""
        if not self._events:
            return [None] * len(self)
        return innermost(calls_from(self._events), self.sequence_numbers)

    @property
    def saved_nbytes(self) -> int:
        """The bytes of memory that the saved tensors keep alive, each storage counted once.

        A storage is counted whole, even where only a view of it was saved. What was freed counts
        nothing, nor does a tensor that torch has no storage for, such as one of mkldnn. Reading has
        the side effects of ``GraphNode.saved``.
        """
        return memory_kept(self._fns)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The graph for networkx, and by way of it for JSON, GraphML and other programs.

        Node ``i`` is ``nodes[i]``: its name, label, is_leaf, shape and dtype as text, and module,
        ``""`` where that is not known. An edge has slot and input_nr.

        Raises:
            ModuleNotFoundError: networkx is not installed.

        Examples:
            >>> x = torch.ones(2, 3, requires_grad=True)
            >>> Graph.of(x.exp()).to_networkx().nodes[1]
            {'name': 'AccumulateGrad', 'label': 'x', 'is_leaf': True, 'shape': '(2, 3)', \
'dtype': 'float32', 'module': ''}
        """
        return as_multigraph(self.nodes, self.edges)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Graph holds live Nodes, which cannot be copied or pickled; read it again where it "
            "is needed, or take its data with to_networkx()"
        )


def _fuse_level(fns: list[Node], start: int) -> None:
    """Leave fuses on the Nodes of a level, once so many were met that their freeing is deep."""
    if len(fns) > SHALLOW:
        for fn in fns[start:]:
            fuse(fn)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the search for reference cycles, which looks at every object that was made."""
    was_on = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was_on:
            gc.enable()


def _check_output(i: int, output: Any) -> None:
    """Raise unless it has a graph. Does not look at Nodes."""
    if isinstance(output, torch.Tensor):
        if output.requires_grad:
            return
        if is_wrapped(output):
            raise ValueError(
                f"output {i} has no graph of its own: it is a tensor inside a transform "
                "such as torch.vmap; read the graph of the result, outside of it"
            )
        raise ValueError(
            f"output {i} has no graph: it is a tensor that does not require grad; look for "
            "detach() or torch.no_grad() on the way, or call requires_grad_() on an input "
            "before computing it"
        )
    if output is None:
        raise ValueError(
            f"output {i} is None, which is the grad_fn of a leaf and of a tensor without a "
            "graph; give the tensor itself"
        )
    if not is_node(output):
        raise TypeError(
            f"output {i} must be a tensor or a Node (the grad_fn of a tensor), got "
            + ("Graph; it has been read" if isinstance(output, Graph) else refused(output, Graph))
        )


def edge_of(output: Any) -> Any:
    """The Node of a tensor and which of the Node's outputs it is, as torch's ``GradientEdge``.

    Of a Node, the Node itself and its first output.
    """
    if not isinstance(output, torch.Tensor):
        return output, 0
    if type(output) is torch.Tensor and output.grad_fn is not None:
        return torch.autograd.graph.get_gradient_edge(output)
    # A subclass, or a mode without gradients, would give the Node of a view or none at all.
    with unseen_by_subclasses(), torch.inference_mode(False), torch.enable_grad():
        with suppress(AssertionError, AttributeError):  # torch found no Node
            try:
                return torch.autograd.graph.get_gradient_edge(output)
            except RuntimeError:
                if not output.is_leaf:
                    raise
                # It made a view of a leaf, which sparse and nested tensors do not have.
                fn = output.clone().grad_fn
                if fn is not None:
                    return fn.next_functions[0]
        raise ValueError(
            "the tensor says that it requires grad and has no Node: it is a view of a leaf that "
            "was made with gradients off, or was made in inference mode; make it again outside"
        )


def _leaf_labels(ends: Mapping[int, Node], names: Mapping[str, torch.Tensor]) -> dict[int, str]:
    """A label for each leaf that has names; several names are joined."""
    names_of = defaultdict[torch.Tensor, list[str]](list)
    for name, tensor in names.items():
        names_of[tensor].append(name)
    tensors = {i: n.variable for i, n in ends.items() if type(n).__name__ == "AccumulateGrad"}
    named = {i: tensor for i, tensor in tensors.items() if is_tensor(tensor) and tensor in names_of}
    return {i: ", ".join(names_of[tensor]) for i, tensor in named.items()}


def _result_labels(index: Mapping[Node, int], names: Mapping[str, torch.Tensor]) -> dict[int, str]:
    """A label for each Node that made a tensor with names; several names are joined."""
    names_of = defaultdict[int, list[str]](list)
    for count, (name, tensor) in enumerate(names.items()):
        fn = node_of(tensor)
        if fn in index:
            names_of[index[fn]].append(name)
        elif fn is not None and count > SHALLOW:
            fuse(fn)
    return {i: ", ".join(joined) for i, joined in names_of.items()}
