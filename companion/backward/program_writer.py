"""The text of a program: for each Node, in the order of the engine, the lines that do the same.

Each Node is called once, by hand. So what comes to the next one is known, and a rule can be tried:
it gets into the text if it gives what the Node gave, to the bit. Else the text calls the Node.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch.autograd.function import BackwardCFunction

from companion.backward.copies import Gradients, Tensor
from companion.backward.formulas import REFUSED
from companion.backward.player_steps import show
from companion.backward.program_names import Identifiers, ReadersNames, identifier
from companion.backward.program_nodes import CalledNode, called, fitted, has_hooks, same_bits
from companion.backward.program_rules import derived, rules_of, written
from companion.backward.recording import added
from companion.graph.anomaly_lines import noted_source
from companion.graph.nodes import Edge, GraphNode, shape_or_none
from companion.graph.reading import Graph
from companion.graph.saved import peek
from companion.internals import hooks_on, metadata_of, output_count, saved_attribute
from companion.naming import is_tensor, one_line

_WIDTH = 78  # columns of a comment


class _Passed(NamedTuple):
    """A gradient on its way along an edge: what the text calls it, and its value."""

    edge: Edge
    name: str
    value: Tensor
    fitted: str  # what the name stands for, once it is made as the engine does


class Writer:
    """Writes the steps of one backward pass.

    Attributes:
        space: what the text does not assign itself, by identifier.
        used: those of it whose numbers the text uses.
        readers: what the text calls the tensors of the reader.
        given: the identifier of the gradient that was given; None if none was.
    """

    def __init__(
        self, output: Tensor, gradient: Tensor | None, graph: Graph, names: Mapping[str, Tensor]
    ) -> None:
        self._output, self._gradient, self._graph = output, gradient, graph
        self._peeks = {node.index: peek(node.grad_fn) for node in graph.nodes if not node.is_leaf}
        saved = [v for peeked in self._peeks.values() for v in peeked.values.values()]
        tensors = [value for value in saved if is_tensor(value)]
        self._identifiers = Identifiers()
        self._new = self._identifiers.new
        self.readers = ReadersNames(graph, names, tensors, self._identifiers)
        self._lines = list[str]()
        # By Node and input: the gradients that came to it so far, each after its name in the text;
        # and how many edges lead to it.
        self._came = defaultdict[tuple[int, int], list[tuple[str, Tensor]]](list)
        self._entering = defaultdict[tuple[int, int], int](int)
        for edge in graph.edges:
            self._entering[edge.target, edge.input_nr] += 1
        self._nodes = dict[int, str]()  # what the text calls the Nodes that it uses
        self._names_of_saved = dict[Any, str]()  # by tensor, or by Node and output that made it
        # Custom Functions that are still to run; one may write into what it is given.
        self._functions = sum(isinstance(fn, BackwardCFunction) for fn in graph._fns)
        self.space: dict[str, Any] = {
            self.readers.of_leaf[leaf.index]: leaf.grad_fn.variable for leaf in graph.leaves
        }
        self.used = dict[str, Tensor]()
        self.given: str | None = None

    def text(self) -> str:
        """Call Node after Node, and write all of it."""
        self._begin()
        for i in self._graph.order:
            if i in self._peeks:
                self._write_node(self._graph.nodes[i])
            else:
                self._write_leaf(i)
        return "\n".join([*self._header(), "import torch", "", *self._lines, ""])

    # ---- the beginning

    def _begin(self) -> None:
        """The gradient that the pass begins with."""
        self._name = self.readers.of(self._output) or self._new("output")
        nr = self._graph._output_nr.get(0, 0)
        first = self._new(f"grad_{self._name}")
        if self._gradient is None:
            self.space[self._name] = self._output
            value = torch.ones_like(self._output)
            line = f"{first} = torch.ones_like({self._name})"
            self._lines.append(f"{line}  # {self._name} moves as fast as itself")
        else:
            self.given = self._new("gradient")
            self.space[self.given] = self._gradient.detach().clone()
            value, text = fitted(
                self.space[self.given].clone(), self._graph._fns[0], nr, self.given
            )
            self._lines.append(f"{first} = {text}  # {show(value)}")
        self._came[0, nr].append((first, value))

    def _header(self) -> list[str]:
        """What the text says before it begins. Written last, when it is known."""
        name = self._name
        leaf = next(iter(self.readers.of_leaf.values()), "x")
        lines = [
            f"The backward pass of {name}: a step for each Node, in PyTorch's order.",
            f"grad_{leaf} is how fast {name} moves with {leaf}; grad_{leaf}_1 is a part of that.",
            "Each .grad is set, as if it had been empty.",
        ]
        if self._nodes:
            first = min(self._nodes)
            text = f"{self._nodes[first]} stands for Graph.of({name}).nodes[{first}].grad_fn"
            lines.append(text + (", and so on." if len(self._nodes) > 1 else "."))
        readers = set(self.readers.of_tensor.values()) - set(self.readers.of_leaf.values())
        shown = (readers & set(self.space)) | set(self.readers.keys.values())
        shown |= readers & {name}
        for short, real in self._identifiers.renamed.items():
            if short in shown:
                is_plain = real.isprintable() and real == real.strip() != ""
                lines.append(f"{short} is {real if is_plain else repr(real)}")
        if hooked := self._hooked():
            lines.append(f"Hooks do not run here; there are some on {', '.join(hooked)}.")
        return [f"# {one_line(line, 4 * _WIDTH)}" for line in lines]

    def _hooked(self) -> list[str]:
        """What has hooks of the user, as far as can be seen."""
        tensors = dict(self.readers.of_tensor)
        for i, peeked in self._peeks.items():
            for name, value in peeked.values.items():
                if is_tensor(value) and self.readers.of(value) is None:
                    tensors.setdefault(value, f"{name} of node {i}")
        hooked = [name for tensor, name in tensors.items() if hooks_on(tensor)]
        nodes = self._graph.nodes
        return hooked + [f"node {n.index} ({n.name})" for n in nodes if has_hooks(n.grad_fn)]

    # ---- a Node

    def _write_leaf(self, i: int) -> None:
        """The gradient of a leaf, which the engine would add to its ``.grad``."""
        name = self.readers.of_leaf[i]
        came = [arrived for arrived, _ in self._came.pop((i, 0), [])]
        text, note = " + ".join(came) or "None", "  # nothing comes to it"
        if came:
            note = f"  # {len(came)} gradients arrive" if len(came) > 1 else ""
        if len(came) == 1 and self._functions:
            text, note = f"{text}.clone()", "  # a copy, since a Function below may write into it"
        self._lines.append(f"{name}.grad = {text}{note}")

    def _write_node(self, node: GraphNode) -> None:
        """The sums that a Node is given, and what it passes on."""
        i, fn = node.index, node.grad_fn
        self._lines += ["", f"# {self._about(node)}"]
        given = [self._sum(i, nr) for nr in range(output_count(fn))]
        gradients = tuple([value for _, value in given])
        is_function = isinstance(fn, BackwardCFunction)
        self._functions -= is_function
        returned = called(fn, gradients, self._description(node))
        passed = self._passed(node, returned)
        if not passed and not is_function:
            came = any(gradient is not None for gradient in gradients)
            self._lines.append(
                "# it passes no gradient on" if came else "# no gradient comes to it"
            )
            return
        names = [name for name, _ in given]
        lines, reason = self._by_rules(node, names, gradients, passed)
        self._lines += lines or self._by_call(node, names, passed, reason)
        for edge, name, value, _ in passed:
            self._came[edge.target, edge.input_nr].append((name, value))

    def _about(self, node: GraphNode) -> str:
        """The class of a Node, and the line that left it or whose Node it is, where known."""
        of_class, source = one_line(node.name, 60), noted_source(node.grad_fn)
        if source:
            return one_line(f"{of_class}: {source.text}", _WIDTH)
        results = [name for (i, _), name in self.readers.of_result.items() if i == node.index]
        return f"{of_class}, the Node of {', '.join(results)}" if results else of_class

    def _description(self, node: GraphNode) -> str:
        return f"node {node.index} ({self._about(node)})"

    def _sum(self, i: int, nr: int) -> tuple[str, Tensor | None]:
        """What comes to an input of a Node: its name, and the sum, which the text then makes."""
        came = self._came.pop((i, nr), [])
        if not came:
            return "None", None
        name, total = came[0][0], None
        for _, value in came:
            total = added(total, value)
        if len(came) > 1:
            name = self._new(f"grad_{self._result_name(i, nr)}")
            terms = " + ".join(arrived for arrived, _ in came)
            self._lines.append(f"{name} = {terms}  # {len(came)} gradients arrive")
        return name, total

    def _result_name(self, i: int, nr: int) -> str:
        """What an output of the operation of a Node is called, by the reader or by its kind."""
        name = self.readers.of_leaf.get(i) or self.readers.of_result.get((i, nr))
        if name:
            return name
        node = self._graph.nodes[i]
        kind = identifier(node.name.partition("Backward")[0].lower() or "node")
        parts = [kind, i] + (["output", nr] if output_count(node.grad_fn) > 1 else [])
        return "_".join(map(str, parts))

    def _passed(self, node: GraphNode, returned: Gradients) -> list[_Passed]:
        """The gradients that a Node passes on, in the shape and dtype of what they enter."""
        passed = list[_Passed]()
        entering = defaultdict[tuple[int, int], int](int)
        for edge, gradient in zip(self._graph.slots(node.index), returned, strict=True):
            if edge is None or gradient is None:
                continue
            target = edge.target, edge.input_nr
            fn = self._graph._fns[edge.target]
            if gradient.is_complex() and not metadata_of(fn, edge.input_nr).dtype.is_complex:
                raise RuntimeError(
                    f"{self._description(node)} returned a complex gradient at index {edge.slot} "
                    "for an input that is real, which backward refuses; make that input complex "
                    "before"
                )
            name = f"grad_{self._result_name(*target)}"
            if self._entering[target] > 1:
                entering[target] += 1
                name += f"_{len(self._came[target]) + entering[target]}"
            name = self._new(name)
            try:
                passed.append(_Passed(edge, name, *fitted(gradient, fn, edge.input_nr, name)))
            except RuntimeError as error:
                raise RuntimeError(
                    f"{self._description(node)} returned an invalid gradient at index {edge.slot}: "
                    f"got {tuple(gradient.shape)} but expected shape compatible with "
                    f"{tuple(metadata_of(fn, edge.input_nr).shape)}"
                ) from error
        return passed

    # ---- by a rule

    def _by_rules(
        self, node: GraphNode, names: list[str], gradients: Gradients, passed: list[_Passed]
    ) -> tuple[list[str], str]:
        """A line for each gradient by the rule of its operation, and those that they need.

        Or no line, and the reason why there is none.
        """
        if isinstance(node.grad_fn, BackwardCFunction):
            return [], "its backward is a function in Python"
        if self._peeks[node.index].hooked:
            return [], "what it saved went through hooks"
        if len(gradients) != 1:
            return [], f"it has {len(gradients)} outputs"
        rules = list[tuple[_Words, str]]()
        for entry in passed:
            words, text = self._by_rule(node, names[0], gradients[0], entry)
            if words is None:
                return [], text
            rules.append((words, f"{entry.name} = {text}"))
        # What a rule uses is kept only if all of the Node's gradients have rules.
        assigned = [line for words, _ in rules for line in self._keep(words)]
        return assigned + [line for _, line in rules], ""

    def _by_rule(
        self, node: GraphNode, grad: str, gradient: Tensor | None, entry: _Passed
    ) -> tuple[_Words | None, str]:
        """The expression for one gradient, and what it needs; or None, and why there is none."""
        i, slot = node.index, entry.edge.slot
        shapes = [
            shape_or_none(self._graph.nodes[edge.target]) if edge else None
            for edge in self._graph.slots(i)
        ]
        reason = "there is no formula for it here"
        try:
            saved = derived(node.name, self._peeks[i].values, slot, shapes)
        except REFUSED:  # another torch may save other things
            return None, reason
        target, nr = self._graph._fns[entry.edge.target], entry.edge.input_nr
        tries = product(rules_of(node.name, slot), (True, False), (True, False))
        for rule, *options in tries:
            words = _Words(self, i, saved, grad, options)
            text = written(rule, words.show, saved)
            if text is None:
                continue
            try:
                # The rules are ours; of the reader's there are names alone, made identifiers.
                value = eval(text, {"torch": torch, grad: gradient, **words.tensors})
                value, text = fitted(value, target, nr, text)
                if same_bits(value, entry.value):
                    return words, text
                if _is_close(value, entry.value):
                    reason = f"its formula, {rule}, rounds in another way"
            except REFUSED:
                continue
        return None, reason

    def _keep(self, words: _Words) -> list[str]:
        """The lines that assign what a rule uses, where none has done so yet."""
        lines = list[str]()
        for name, value in words.tensors.items():
            saved_as = words.assigned.get(name)
            if saved_as is None:
                self.space.setdefault(name, value)
            elif name not in self.used:
                node = self.node(words.index)
                comment = f"  # {show(value)}"
                lines.append(f"{name} = {node}.{saved_attribute(saved_as)}{comment}")
            self.used[name] = value
        return lines

    def saved_name(self, i: int, name: str, value: Tensor) -> str:
        """What the text calls a tensor that a Node saved, and that the reader has no name for."""
        result = self.readers.result(value)
        key = result or value
        if key not in self._names_of_saved:
            wish = self._result_name(*result) if result else f"saved_{i}_{identifier(name)}"
            self._names_of_saved[key] = self._new(wish)
        return self._names_of_saved[key]

    # ---- by a call

    def _by_call(
        self, node: GraphNode, names: list[str], passed: list[_Passed], reason: str
    ) -> list[str]:
        """The line that calls a Node, and those that make of it what the engine does."""
        name = self.node(node.index)
        targets = {entry.edge.slot: entry.name for entry in passed}
        slots = range(len(self._graph.slots(node.index)))
        left = ", ".join(targets.get(slot, "_") for slot in slots)
        return [
            f"# {name} is that Node, called as it is: {reason}",
            f"{left} = {name}({', '.join(names)})",
            *(f"{p.name} = {p.fitted}" for p in passed if p.fitted != p.name),
        ]

    def node(self, i: int) -> str:
        """What the text calls a Node."""
        if i not in self._nodes:
            name = self._nodes[i] = self._new(f"node_{i}")
            node, values = self._graph.nodes[i], self._peeks[i].values
            self.space[name] = CalledNode(node.grad_fn, self._description(node), values)
        return self._nodes[i]


class _Words:
    """How a rule of one Node is written.

    Attributes:
        index: the index of the Node.
        tensors: what it uses, by identifier.
        assigned: of these, what the Node saved it as, where the reader has no name for it.
    """

    def __init__(
        self,
        writer: Writer,
        index: int,
        saved: Mapping[str, Any],
        grad: str,
        options: Sequence[bool],
    ) -> None:
        self._writer, self.index, self._saved, self._grad = writer, index, saved, grad
        # Whether constants are written as numbers, and whether what is complex is conjugated.
        self._numbers, self._conjugate = options
        self.tensors, self.assigned = dict[str, Tensor](), dict[str, str]()

    def show(self, name: str) -> str | None:
        """How the text writes ``grad``, or what was saved under a name; None if it cannot."""
        if name == "grad":
            return self._grad
        value = self._saved[name]
        if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], Tensor):
            value, name = value[0], f"{name}[0]"
        if not isinstance(value, Tensor):
            return _literal(value)
        known = self._writer.readers.of(value)
        if known is None and self._numbers and value.dim() == 0 and not value.requires_grad:
            return _literal(value.item())
        if known is None:
            known = self._writer.saved_name(self.index, name, value)
            self.assigned[known] = name
        self.tensors[known] = value
        return f"{known}.conj()" if self._conjugate and value.is_complex() else known


def _literal(value: Any) -> str | None:
    """A number or a tuple of numbers as Python writes it; None for anything else."""
    entries = value if isinstance(value, tuple) else (value,)
    for entry in entries:
        if not isinstance(entry, int | float) or not math.isfinite(entry):
            return None
    return repr(value)


def _is_close(left: Tensor, right: Tensor) -> bool:
    """Whether two dense gradients differ by no more than what rounding makes."""
    tolerance = 16 * torch.finfo(right.dtype).eps
    largest = float(right.abs().max())
    return torch.allclose(left, right, tolerance, tolerance * largest, equal_nan=True)
