"""What is diagnosed: an output, the inputs that should get a gradient, and the graph between them.

``diagnose`` looks at it once; then its questions ask about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from companion.diagnosis.custom_functions import runs_backward
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.inputs import Input
from companion.diagnosis.values import Values, is_one_number, values_of
from companion.forward.aliases import aliases_taken, written_past
from companion.forward.cuts import Cut, Operation, variant_of_harm
from companion.forward.fingerprints import memory_of
from companion.forward.gradients_used import reads_of_grads
from companion.forward.harmless_cuts import cuts_only_added, cuts_to_scales
from companion.forward.new_leaves import NewLeaf, leaves_with_values_of
from companion.forward.places import DEEPCOPY
from companion.forward.tensors_of_calls import is_bare_view
from companion.forward.tracing import (
    Taken,
    are_told_apart,
    cuts_into,
    cuts_not_meant,
    cuts_taking,
    first_reaching,
    leaves_seen,
    leaving_after,
    made_at,
    positions_as_bits,
    positions_in,
    source_of,
    taken_as_constants,
    taken_for_gradients,
    was_made_in,
    was_used_in,
)
from companion.forward.watching import Watch
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import Graph, edge_of
from companion.graph.saved import Peek
from companion.internals import base_of
from companion.naming import is_tensor, one_line

Tensor = torch.Tensor
_SELDOM = {"control-flow", "not-differentiable"}  # cuts that are seldom the one looked for


@dataclass(eq=False)
class Case:
    """What is diagnosed: an output, the inputs that should get a gradient, the graph between."""

    output: Any
    inputs: list[Input]
    watch: Watch | None
    modules: Mapping[str, torch.nn.Module]  # the caller's and those given, by name
    names: Mapping[str, Tensor]
    graph: Graph | None = None  # None: the output has none
    peeks: Sequence[Peek] = ()  # by Node

    @property
    def nodes(self) -> Sequence[GraphNode]:
        return () if self.graph is None else self.graph.nodes

    @property
    def nodes_and_peeks(self) -> Iterator[tuple[GraphNode, Peek]]:
        """Each Node with what it saved."""
        return zip(self.nodes, self.peeks, strict=True)

    @cached_property
    def by_operation(self) -> dict[str, list[GraphNode]]:
        """The Nodes of each operation, in their order."""
        by_name = defaultdict[str, list[GraphNode]](list)
        for node in self.nodes:
            by_name[node.name].append(node)
        by_operation = defaultdict[str, list[GraphNode]](list)
        for name, nodes in by_name.items():
            by_operation[operation_of(name)] += nodes
        return by_operation

    def of(self, operations: Set[str]) -> list[tuple[GraphNode, Peek]]:
        """The Nodes of some operations, each with what it saved, in their order."""
        if not (found := operations & self.by_operation.keys()):
            return []
        nodes = [node for operation in found for node in self.by_operation[operation]]
        nodes.sort(key=lambda node: node.index)
        return [(node, self.peeks[node.index]) for node in nodes]

    @cached_property
    def _slots(self) -> list[Sequence[Edge | None]]:
        return [self.graph.slots(i) for i in range(len(self.graph))] if self.graph else []

    def slots(self, index: int) -> Sequence[Edge | None]:
        return self._slots[index] if self._slots else ()

    @cached_property
    def reached(self) -> set[tuple[int | None, int]]:
        """Where gradients come to: a Node, and a number of its outputs."""
        roots = [(0, edge_of(self.output)[1])] if self.graph else []
        return {*roots, *((e.target, e.input_nr) for slots in self._slots for e in slots if e)}

    def is_reached(self, given: Input) -> bool:
        """Whether a gradient comes to an input, as far as there is a graph to tell."""
        return self.graph is None or (given.node, given.output_nr) in self.reached

    @cached_property
    def is_a_leaf_apart(self) -> bool:
        """Whether the output is a leaf, and none of the inputs."""
        return self.output.is_leaf and all(i.tensor is not self.output for i in self.inputs)

    @cached_property
    def cuts_reaching(self) -> Sequence[Cut]:
        """The cuts whose values went into the output."""
        if self.watch is None:
            return ()
        cuts = self.watch.reaching(self.output) if isinstance(self.output, Tensor) else ()
        return cuts or self._cuts_into_nodes

    @cached_property
    def not_meant(self) -> set[int]:
        """The indices of the cuts to the output on whose way nobody asked for a constant."""
        if self.watch is None or not self.cuts_reaching:
            return set()
        is_later = not was_made_in(self.watch, self.output)  # from what the Nodes took
        nodes = [node.grad_fn for node in self.nodes if is_later and not node.is_leaf]
        return cuts_not_meant(self.watch, self.output, nodes)

    @cached_property
    def only_added(self) -> set[int]:
        """The indices of the cuts of which the output has constant terms and nothing else."""
        return cuts_only_added(self.watch, self.output) if self.watch else set()

    @cached_property
    def scales(self) -> set[int]:
        """The indices of the cuts to a number whose tensor the output has as well."""
        return cuts_to_scales(self.watch, self.output) if self.watch else set()

    @cached_property
    def last_cuts(self) -> set[Cut]:
        """Those from which a way leads to the output that passes no other cut."""
        if self.watch is None:
            return set()
        cuts = first_reaching(self.watch, self.output) if isinstance(self.output, Tensor) else ()
        return set(cuts or self._cuts_into_nodes)

    @cached_property
    def _cuts_into_nodes(self) -> Sequence[Cut]:
        """Those whose values Nodes took: from these the output may be computed after the block."""
        if self.watch is None:
            return ()
        into = [cut for node in self.nodes for _, cut in cuts_into(self.watch, node.grad_fn)]
        return sorted(dict.fromkeys(into), key=lambda cut: cut.index)

    @cached_property
    def taking(self) -> Sequence[Taken] | None:
        """The cuts to which values of the inputs came; None where that is not known."""
        tensors = [given.tensor for given in self.inputs]
        if self.watch is None or not all(map(is_tensor, tensors)):
            return None
        return cuts_taking(self.watch, tensors)

    @cached_property
    def costly(self) -> set[Cut]:
        """The cuts that values went into of a tensor which gets no gradient by any other way: of an
        input, or where there are none, of a leaf that the watch saw."""
        if self.watch is None:
            return set()
        lost = [given.tensor for given in self.unreached]
        if not self.inputs:
            given = {node.grad_fn.variable for node in self.leaves_not_given}
            lost = [leaf for leaf in leaves_seen(self.watch) if leaf.requires_grad]
            lost = [leaf for leaf in lost if leaf not in given]
        if not all(map(is_tensor, lost)):
            return set(self.cuts_reaching)
        is_other = 1 << len(lost)  # the bit of what is none of these
        taking = cuts_taking(self.watch, lost) if lost else ()
        return {taken.cut for taken in taking if (taken.first | taken.later) & (is_other - 1)}

    @cached_property
    def behind_a_cut(self) -> dict[Input, Cut]:
        """The unreached inputs whose values went into the output by way of a cut, and the cut.

        Of several it is one of ``last_cuts``, and if the value came to one of these without another
        cut, it is this: to take it away brings the gradient back.
        """
        behind = dict[Input, Cut]()
        if not (self.watch and self.unreached and self.taking):
            return behind
        custom = [node.grad_fn for node in self.nodes if node.is_custom]
        nested = {source_of(self.watch, fn): runs_backward(fn) for fn in custom}
        waiting = positions_as_bits(given in self.lost for given in self.inputs)
        leaves = positions_as_bits(given.tensor.is_leaf for given in self.inputs)
        ways = list[tuple[int, int, Cut]]()  # the first count first
        for cut, first, later, in_a_function in self.taking:
            if in_a_function and nested.get(cut.source):  # it may give them a gradient
                waiting &= ~(first & leaves)
            elif in_a_function and cut.source in nested:  # it has a Node, for what it was given
                ways.append((1, first, cut))
            elif cut in self.last_cuts:
                is_later = cut.code in _SELDOM or cut.operation.in_place
                ways += [(2 * is_later, first, cut), (3, later, cut)]
            elif cut in self._copying:  # not what wrote into the copy
                ways.append((1, first, cut))
        for _, positions, cut in sorted(ways, key=lambda way: way[0]):
            behind |= {self.inputs[i]: cut for i in positions_in(positions & waiting)}
            waiting &= ~positions
        return behind

    @cached_property
    def not_followed(self) -> list[Cut]:
        """The cuts at which a value became a number in Python, or an array: nobody followed that.

        Those that came after the output are not among them, nor those that are known to reach it.
        """
        return self._not_followed(self.watch.cuts) if self.watch else []

    def _not_followed(self, cuts: Iterable[Cut]) -> list[Cut]:
        """Those of some cuts before the output whose values nobody followed."""
        is_known = self.watch and isinstance(self.output, Tensor)
        made = made_at(self.watch, self.output) if is_known else None  # type: ignore[arg-type]
        before = [cut for cut in cuts if made is None or cut.index < made]
        reached = {cut.index for cut in self.cuts_reaching}
        return [c for c in before if not (c.follows or c.by_library or c.index in reached)]

    @cached_property
    def grads_read(self) -> dict[Tensor, tuple[Operation, bool]]:
        """The leaves whose .grad the output was computed from, with the operation that took it,
        and whether that was a step as of an adversarial example."""
        if self.watch is None or not is_tensor(self.output):
            return {}
        return reads_of_grads(self.watch, self.output)

    @cached_property
    def cut_before(self) -> Cut | None:
        """The cut that took the graph of the output, one that inputs went into if there is such."""
        if self.graph is not None or self.watch is None or not isinstance(self.output, Tensor):
            return None
        cuts, given = first_reaching(self.watch, self.output), (1 << len(self.inputs)) - 1
        taking = {t.cut for t in self.taking or () if (t.first | t.later) & given}
        cut = next((cut for cut in cuts if cut in taking), cuts[0] if cuts else None)
        copying = self._copying if cut and cut.operation.in_place else ()
        return next((copy for copy in copying if copy in taking), cut)

    @cached_property
    def _copying(self) -> list[Cut]:
        """The deep copies whose values went into the output."""
        return [cut for cut in self.cuts_reaching if cut.variant == DEEPCOPY]

    def way_out(self, cut: Cut) -> str:
        """By which operation a value left torch that went into a cut: numpy() of x.detach()."""
        last = leaving_after(self.watch, cut) if self.watch else None
        return (last or cut.operation).called

    def why_left(self, cut: Cut) -> tuple[str, str]:
        """Whose cause and cure fit where values left torch: those of the cut, or of leaving."""
        is_itself = self.way_out(cut) == cut.operation.called or cut.code == "not-differentiable"
        return (cut.code, variant_of_harm(cut)) if is_itself else ("unused-input", "left")

    @cached_property
    def left_before(self) -> Cut | None:
        """Where values left torch last before an output without a graph, or that is a leaf, if no
        cut that can be followed took its graph."""
        is_without_graph = self.graph is None or self.is_a_leaf_apart
        is_unexplained = is_without_graph and not self.cuts_reaching
        return self.not_followed[-1] if is_unexplained and self.not_followed else None

    @cached_property
    def last_to_leave(self) -> dict[Input, Cut]:
        """The inputs that get no gradient and whose values left torch, each with the cut where they
        did so last; but for those behind another cut."""
        taking = self.taking or ()
        # Indices beside values, as of topk(), are none of the watch's cuts unless they are used.
        indices = [taken.cut for taken in taking if taken.cut.code == "not-differentiable"]
        not_followed, last = {*self.not_followed, *self._not_followed(indices)}, dict[Input, Cut]()
        waiting = positions_as_bits(i in self.lost - self.behind_a_cut.keys() for i in self.inputs)
        for taken in reversed(taking) if not_followed and waiting else ():
            if taken.cut in not_followed:
                took = (taken.first | taken.later) & waiting
                last |= {self.inputs[i]: taken.cut for i in positions_in(took)}
                waiting &= ~took
        return last

    @cached_property
    def deciding(self) -> dict[Input, Cut]:
        """The inputs that get no gradient, with the first cut at which Python decided by them."""
        waiting, first = positions_as_bits(i in self.lost for i in self.inputs), dict[Input, Cut]()
        for taken in self.taking or () if waiting else ():
            if taken.cut.code == "control-flow":
                for i in positions_in((taken.first | taken.later) & waiting):
                    first.setdefault(self.inputs[i], taken.cut)
        return first

    @cached_property
    def held(self) -> set[Tensor]:
        """The parameters of the modules that the caller has."""
        parameters = (p for module in self.modules.values() for p in module.parameters())
        return {parameter for parameter in parameters if is_tensor(parameter)}

    @cached_property
    def new_leaves(self) -> dict[Input, tuple[GraphNode, NewLeaf]]:
        """The lost inputs from which values of a parameter in the graph were computed, with it."""
        lost = {given.tensor: given for given in self.lost if is_tensor(given.tensor)}
        leaves = {node.grad_fn.variable: node for node in self.nodes if node.is_leaf}
        parameters = [leaf for leaf in leaves if type(leaf) is torch.nn.Parameter]
        if self.watch is None or not lost:
            return {}
        found = leaves_with_values_of(self.watch, list(lost), parameters)
        return {lost[tensor]: (leaves[new.leaf], new) for tensor, new in found.items()}

    @cached_property
    def written_aside(self) -> dict[Input, Operation]:
        """The inputs without a gradient whose values somebody wrote into memory that the output was
        computed from, by way of another tensor that shows it, with the operation that did."""
        return self._of_lost(written_past)

    @cached_property
    def taken_as_alias(self) -> dict[Input, Operation]:
        """The inputs without a gradient of which the output took an alias without a graph."""
        return self._of_lost(aliases_taken)

    def _of_lost(self, found_in: Callable[..., dict[Tensor, Operation]]) -> dict[Input, Operation]:
        lost = self.lost if self.graph else set(self.inputs_with_grad)
        tensors = {given.tensor: given for given in lost if is_tensor(given.tensor)}
        is_known = self.watch and tensors and isinstance(self.output, Tensor)
        found = found_in(self.watch, list(tensors), self.output) if is_known else {}
        return {tensors[tensor]: operation for tensor, operation in found.items()}

    @cached_property
    def partly_aside(self) -> dict[Input, Operation]:
        """The inputs that get a gradient and of which values with a graph were written so too."""
        reached = {i.tensor: i for i in self.inputs_with_grad if is_tensor(i.tensor)}
        reached = {t: i for t, i in reached.items() if i not in self.unreached}
        if self.watch is None or self.graph is None or not reached:
            return {}
        found = written_past(self.watch, list(reached), self.output, with_graph=True)
        return {reached[tensor]: operation for tensor, operation in found.items()}

    @cached_property
    def unseen(self) -> list[Input]:
        """The inputs that require grad and that nothing used in the block that made the output."""
        if not (self.watch and is_tensor(self.output) and was_made_in(self.watch, self.output)):
            return []
        if not all(cut.follows for cut in self.watch.cuts):
            return []
        given = [each for each in self.inputs_with_grad if is_tensor(each.tensor)]
        used = was_used_in(self.watch, [each.tensor for each in given])
        return [each for each in given if each.tensor not in used]

    @cached_property
    def lost(self) -> set[Input]:
        """The unreached inputs but for constants of the graph and aliases, told as such."""
        lost = {given for given in self.unreached if not given.is_constant}
        return {given for given in lost if not self._is_an_alias(given)}

    def _is_an_alias(self, given: Input) -> bool:
        """Whether a leaf shows its memory, and the watch did not see that one being made of it."""
        leaf, watch = self.leaf_in_memory.get(memory_of(given.tensor)), self.watch
        is_seen = leaf and watch and are_told_apart(watch, given.tensor, leaf.grad_fn.variable)
        return leaf is not None and not is_seen

    @cached_property
    def unreached(self) -> set[Input]:
        """The inputs that require grad, and that no path of the graph leads to."""
        return {i for i in self.inputs_with_grad if not (i.trouble or self.is_reached(i))}

    @cached_property
    def inputs_with_grad(self) -> list[Input]:
        """The inputs that require grad."""
        return [given for given in self.inputs if given.tensor.requires_grad]

    @cached_property
    def running_backward(self) -> GraphNode | None:
        """The first custom Function whose backward runs a backward pass of its own."""
        custom = (node for node in self.nodes if node.is_custom)
        return next((node for node in custom if runs_backward(node.grad_fn)), None)

    @cached_property
    def leaves_not_given(self) -> list[GraphNode]:
        """The leaves of the graph that are none of the inputs."""
        given = {given.tensor for given in self.inputs if is_tensor(given.tensor)}
        leaves = [(node, node.grad_fn.variable) for node in self.nodes if node.is_leaf]
        return [node for node, leaf in leaves if not is_tensor(leaf) or leaf not in given]

    @cached_property
    def memory_of_leaves(self) -> set[int | None]:
        """Where the values of the leaves of the graph are."""
        return {memory_of(node.grad_fn.variable) for node in self.nodes if node.is_leaf} - {None}

    @cached_property
    def bare_views(self) -> list[tuple[GraphNode, Tensor]]:
        """The Nodes that saved a view without a Node, each with the base of the view."""
        saved = [(node, t) for node, peek in self.nodes_and_peeks for _, t in peek.tensors]
        views = [(node, t) for node, t in saved if is_tensor(t) and is_bare_view(t)]
        return [(node, base) for node, t in views if (base := base_of(t)) is not None]

    @cached_property
    def leaf_in_memory(self) -> dict[int | None, GraphNode]:
        """By the memory of its values a leaf of the graph that is none of the inputs."""
        leaves = {memory_of(node.grad_fn.variable): node for node in self.leaves_not_given}
        return {memory: node for memory, node in leaves.items() if memory is not None}

    @cached_property
    def taken_early(self) -> dict[Input, Operation]:
        """The leaves among the lost inputs, with the operation that took one when it required no
        grad."""
        leaves = {i.tensor: i for i in self.lost if i.tensor.is_leaf and is_tensor(i.tensor)}
        if self.watch is None or not leaves:
            return {}
        taken = taken_as_constants(self.watch, list(leaves), self.output)
        return {leaves[tensor]: operation for tensor, operation in taken.items()}

    @cached_property
    def differentiated(self) -> set[Input]:
        """The leaves among the lost inputs that went into what the output has a gradient of."""
        leaves = {i.tensor: i for i in self.lost if i.tensor.is_leaf and is_tensor(i.tensor)}
        if self.watch is None or not leaves:
            return set()
        return {leaves[t] for t in taken_for_gradients(self.watch, list(leaves), self.output)}

    @cached_property
    def copies(self) -> dict[Input, GraphNode]:
        """The unreached leaves with the leaf, none of the inputs, that has their values.

        That those of a tensor of one number are equal may be chance, unless others have copies.
        """
        leaves = [(values_of(leaf.grad_fn.variable), leaf) for leaf in self.leaves_not_given]
        by_values = dict[Values | None, GraphNode](leaves)
        by_values.pop(None, None)
        unreached = [i for i in self.unreached if i.tensor.is_leaf] if by_values else []
        copies = {given: by_values.get(values_of(given.tensor)) for given in unreached}
        found = {given: leaf for given, leaf in copies.items() if leaf is not None}
        return found if any(not is_one_number(given.tensor) for given in found) else {}

    @cached_property
    def _names_of_tensors(self) -> dict[Tensor, str]:
        return {tensor: name for name, tensor in self.names.items()}

    def name_of(self, leaf: Tensor) -> str:
        """A leaf by its name, or by its shape."""
        return self._names_of_tensors.get(leaf) or f"a leaf of shape {tuple(leaf.shape)}"

    def at(self, index: int | None) -> dict[str, Any]:
        """Where a finding about a Node is, for ``finding``."""
        if index is None:
            return {}
        node = self.nodes[index]
        label = "" if node.label == node.name else f" ({one_line(node.label, 80)})"
        source = source_of(self.watch, node.grad_fn) if self.watch else None
        line = f", at {source}" if source else ""
        return {"where": f"node {index}, {node.name}{label}{line}", "node": index, "source": source}
