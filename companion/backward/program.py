"""One backward pass, written as a Python program in the names of the reader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch.autograd.function import BackwardCFunction

from companion.backward.copies import Gradients, Tensor
from companion.backward.program_names import Identifiers
from companion.backward.program_nodes import CalledNode, called, same_bits
from companion.backward.program_rules import derived, rules_of, written
from companion.backward.recording import source_of
from companion.graph.nodes import GraphNode
from companion.graph.reading import Graph
from companion.graph.saved import Peek, peek
from companion.internals import hooks_on, saved_attribute, unseen_by_subclasses, version_of
from companion.naming import callers_names, check_names, one_line

_WIDTH = 88  # columns of a comment


class Program:
    """A backward pass as a Python program. Made by ``write_backward``.

    ``str(program)`` is its text.
    """

    def __init__(self) -> None:
        raise TypeError("a Program is made by write_backward(loss)")

    _text: str
    _code: Any
    _values: dict[str, Any]  # what the text does not assign itself, by identifier
    _leaves: dict[str, str]  # by name of a leaf its identifier
    _gradient: str | None  # the identifier of the gradient that was given
    _versions: list[tuple[str, Tensor, int | None]]  # how they were when the text was written

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        lines = self._text.count("\n")
        return f"<Program of a backward pass: {lines} lines, {len(self._leaves)} leaves>"

    def run(self) -> dict[str, Tensor | None]:
        """Execute the text, and return the gradient of each leaf by its name.

        The names in the text stand for your tensors, which stay as they are: a leaf's ``.grad`` is
        written to a stand-in that shares its memory. It can be run again.

        Returns:
            For each leaf its gradient, as ``backward()`` would leave it in an empty ``.grad``. None
            if no gradient comes to the leaf.

        Raises:
            RuntimeError: a tensor that the text uses was modified in place since it was written; or
                a Node that the text calls was freed.
        """
        for name, tensor, version in self._versions:
            if version_of(tensor) != version:
                raise RuntimeError(
                    f"{name} was modified in place after the program was written, and its text "
                    "uses the old numbers; call write_backward again after the forward pass"
                )
        space = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in self._values.items()
        }
        if self._gradient is not None:  # a custom Function may write into it
            space[self._gradient] = space[self._gradient].clone()
        with torch.no_grad(), unseen_by_subclasses():
            exec(self._code, space)
            found = {name: space[leaf].grad for name, leaf in self._leaves.items()}
            return {name: None if g is None else g.clone() for name, g in found.items()}


def write_backward(
    output: Tensor,
    gradient: Tensor | None = None,
    *,
    names: Mapping[str, Tensor] | None = None,
    max_nodes: int = 150,
) -> Program:
    """Write the backward pass of a tensor as a Python program.

    One step for each Node, in the order of the engine, by the rule of its operation, with the names
    of your tensors for what it saved.

    Args:
        output: the tensor to call backward on.
        gradient: what to begin with, of the shape of ``output``; not needed for one real element.
        names: names for tensors; by default the variables of the caller.
        max_nodes: of how many Nodes a graph may be.

    Returns:
        The program.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"output must be a tensor, got {type(output).__name__}")
    if not isinstance(gradient, Tensor | None):
        raise TypeError(f"gradient must be a tensor or None, got {type(gradient).__name__}")
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int):
        raise TypeError(f"max_nodes must be an int, got {type(max_nodes).__name__}")
    if names is not None:
        check_names(names)
    graph = Graph.of(output, names=names)
    if len(graph) > max_nodes:
        raise ValueError(
            f"the graph has {len(graph)} nodes, which would be as many steps to read, and "
            f"max_nodes is {max_nodes}; give a larger max_nodes, or the result of a smaller part, "
            "such as one block of the model"
        )
    _check_gradient(output, gradient)
    writer = _Writer(output, gradient, graph, callers_names() if names is None else names)
    with torch.no_grad(), unseen_by_subclasses():
        return writer.program()


def _check_gradient(output: Tensor, gradient: Tensor | None) -> None:
    """Raise where backward would."""
    if gradient is None:
        if output.numel() != 1:
            raise RuntimeError(
                "grad can be implicitly created only for scalar outputs, and output has the shape "
                f"{tuple(output.shape)}; give gradient=, a tensor of that shape"
            )
        if not output.is_floating_point():
            raise RuntimeError(
                "grad can be implicitly created only for real scalar outputs, and output is "
                f"{output.dtype}; give gradient=, a tensor of that dtype"
            )
    elif gradient.shape != output.shape:
        raise RuntimeError(
            f"gradient must have the shape of output, {tuple(output.shape)}, got "
            f"{tuple(gradient.shape)}"
        )
    elif gradient.is_complex() != output.is_complex() or (
        output.is_complex() and gradient.dtype != output.dtype
    ):
        raise RuntimeError(
            f"gradient must have the dtype of output, {output.dtype}, got {gradient.dtype}"
        )


class _Writer:
    """Runs the Nodes one by one, and writes for each the steps that do the same.

    Attributes:
        lines: of the text, so far.
        space: what the text refers to, by identifier.
    """

    def __init__(
        self, output: Tensor, gradient: Tensor | None, graph: Graph, names: Mapping[str, Tensor]
    ) -> None:
        self.graph, self.gradient, self.output = graph, gradient, output
        self.lines, self.space = list[str](), dict[str, Any]({"torch": torch})
        self._new = Identifiers().new
        self._names = names
        self._named = dict[str, Tensor]()  # what the text uses under a name of the reader's
        self._index = {fn: i for i, fn in enumerate(graph._fns)}
        self._came = defaultdict[tuple[int, int], list[tuple[str, Tensor]]](list)
        self._entering = defaultdict[tuple[int, int], int](int)  # how many edges
        for edge in graph.edges:
            self._entering[edge.target, edge.input_nr] += 1
        # What the reader calls things has the first choice of identifiers.
        self._saved = {n.index: peek(n.grad_fn) for n in graph.nodes if not n.is_leaf}
        self._of_tensor, self._of_result = self._readers_names()
        self._leaf_of = self._identifiers_of_leaves()
        self._assigned = dict[tuple[int, str], str]()  # by Node and name of what it saved

    def _readers_names(self) -> tuple[dict[Tensor, str], dict[tuple[int, int], str]]:
        """Identifiers for tensors with names: those in the graph, and those that were saved."""
        saved = {v for p in self._saved.values() for v in p.values.values() if _is_plain(v)}
        leaves = {leaf.grad_fn.variable for leaf in self.graph.leaves}
        of_tensor, of_result = dict[Tensor, str](), dict[tuple[int, int], str]()
        for name, tensor in self._names.items():
            result = self._result(tensor)
            if tensor in of_tensor or result in of_result:
                continue
            if result is not None:
                of_result[result] = of_tensor[tensor] = self._new(name)
            elif tensor in saved or tensor in leaves:
                of_tensor[tensor] = self._new(name)
        return of_tensor, of_result

    def _result(self, tensor: Tensor) -> tuple[int, int] | None:
        """The Node of the graph that made a tensor, and the number of its output."""
        try:
            fn = tensor.grad_fn
        except RuntimeError:  # a view whose base was changed in place
            return None
        return (self._index[fn], tensor.output_nr) if fn in self._index else None

    def _identifiers_of_leaves(self) -> dict[int, str]:
        found = dict[int, str]()
        for leaf in self.graph.leaves:
            tensor = leaf.grad_fn.variable
            if tensor not in self._of_tensor:
                self._of_tensor[tensor] = self._new(f"leaf_{leaf.index}")
            identifier = found[leaf.index] = self._of_tensor[tensor]
            self.space[identifier] = tensor
        return found

    def program(self) -> Program:
        """Write all of it."""
        self._begin()
        for i in self.graph.order:
            node = self.graph.nodes[i]
            if node.is_leaf:
                self._write_leaf(node)
            else:
                self._write_node(node)
        program = Program.__new__(Program)
        program._text = "\n".join(self._header() + self.lines) + "\n"
        program._code = compile(program._text, "<the backward pass>", "exec")
        program._values = self.space
        program._leaves = self._keys()
        program._gradient = self._given
        program._versions = [
            (name, value, version_of(value))
            for name, value in self.space.items()
            if isinstance(value, Tensor) and name != self._given
        ]
        return program

    def _keys(self) -> dict[str, str]:
        """By name of a leaf its identifier. A leaf of several names is there by each."""
        leaves = {leaf.grad_fn.variable: leaf.index for leaf in self.graph.leaves}
        keys = {n: self._leaf_of[leaves[t]] for n, t in self._names.items() if t in leaves}
        named = set(keys.values())
        return keys | {name: name for name in self._leaf_of.values() if name not in named}

    # ---- the beginning

    def _begin(self) -> None:
        """The gradient that the pass begins with."""
        nr = self.graph._output_nr.get(0, 0)
        name = self._output_name = self._name_of_output()
        first = self._new(f"grad_{name}")
        self._given = None
        if self.gradient is None:
            self.space[name] = self.output
            value = torch.ones_like(self.output)
            self.lines.append(f"{first} = torch.ones_like({name})")
        else:
            value = self.gradient.detach().clone()
            self._given = self._new("gradient")
            self.space[self._given] = value
            cast = "" if value.dtype == self.output.dtype else f".to({self.output.dtype})"
            value = value.to(self.output.dtype)
            self.lines.append(f"{first} = {self._given}{cast}")
        self._came[0, nr].append((first, value))

    def _name_of_output(self) -> str:
        result = self._result(self.output)
        found = self._of_tensor.get(self.output) or self._of_result.get(result or (-1, -1))
        return found or self._new("output")

    def _header(self) -> list[str]:
        lines = [
            f"# The backward pass of {self._output_name}: one step for each Node, in the order of "
            "the engine.",
        ]
        if hooks := self._hooked():
            lines.append(f"# There are hooks on {', '.join(hooks)}, which do not run here.")
        return [*lines, "import torch", ""]

    def _hooked(self) -> list[str]:
        found = [name for t, name in self._of_tensor.items() if hooks_on(t)]
        for node in self.graph.nodes:
            if _has_hooks(node.grad_fn):
                found.append(f"{node.name} {node.index}")
        return found

    # ---- one Node

    def _write_leaf(self, node: GraphNode) -> None:
        name = self._leaf_of[node.index]
        came = [arrived for arrived, _ in self._came[node.index, 0]]
        note = f"  # {len(came)} paths meet" if len(came) > 1 else ""
        self.lines.append(f"{name}.grad = {' + '.join(came) or None}{note}")

    def _write_node(self, node: GraphNode) -> None:
        i, fn = node.index, node.grad_fn
        self.lines += ["", f"# {self._about(node)}"]
        given = [self._sum(i, nr) for nr in range(fn_inputs(fn))]
        gradients = tuple(value for _, value in given)
        try:
            given_on = called(fn, gradients)
        except RuntimeError as error:
            self._explain(node, error)
        if not isinstance(fn, BackwardCFunction) and all(g is None for g in gradients):
            pass
        finals = self._as_engine(i, given_on)
        slots = [edge for edge in self.graph.slots(i) if edge and finals[edge.slot] is not None]
        targets = {edge.slot: self._target(edge.target, edge.input_nr) for edge in slots}
        if not slots:
            self.lines.append("# no gradient comes out of it")
            if isinstance(fn, BackwardCFunction) is False:
                return
        lines = self._by_rules(node, given, targets, finals)
        if lines is None:
            lines = self._by_call(node, given, targets, given_on, finals)
        self.lines += lines
        for edge in slots:
            self._came[edge.target, edge.input_nr].append((targets[edge.slot], finals[edge.slot]))

    def _about(self, node: GraphNode) -> str:
        source = source_of(node.grad_fn)
        if source:
            return one_line(f"{node.name}: {source.text}", _WIDTH)
        made = [name for (i, _), name in self._of_result.items() if i == node.index]
        return f"{node.name}, which made {', '.join(made)}" if made else node.name

    def _sum(self, i: int, nr: int) -> tuple[str, Tensor | None]:
        """What comes to an input of a Node: its name, and the sum, which the text then makes."""
        came = self._came.pop((i, nr), [])
        if not came:
            return "None", None
        name, total = came[0]
        for _, value in came[1:]:
            total = value + total if total.is_sparse else total + value
        if len(came) > 1:
            terms = [arrived for arrived, _ in came]
            name = self._new(self._base(i, nr))
            self.lines.append(f"{name} = {' + '.join(terms)}  # {len(came)} paths meet")
        return name, total

    def _base(self, i: int, nr: int) -> str:
        """What the gradient of an output of a Node is called."""
        if i in self._leaf_of:
            return f"grad_{self._leaf_of[i]}"
        if (i, nr) in self._of_result:
            return f"grad_{self._of_result[i, nr]}"
        node = self.graph.nodes[i]
        kind = node.name.partition("Backward")[0].lower() or "node"
        return f"grad_{kind}_{i}" + (f"_out_{nr}" if fn_inputs(node.grad_fn) > 1 else "")

    def _target(self, i: int, nr: int) -> str:
        base = self._base(i, nr)
        if self._entering[i, nr] == 1:
            return self._new(base)
        return self._new(f"{base}_{len(self._came[i, nr]) + 1}")

    def _as_engine(self, i: int, given_on: Gradients) -> list[Tensor | None]:
        """What the engine makes of what a Node gives on: of the shape and dtype of the input."""
        finals = list[Tensor | None]()
        for edge, gradient in zip(self.graph.slots(i), given_on, strict=True):
            if edge is None or gradient is None:
                finals.append(None)
                continue
            finals.append(fitted(gradient, self.graph.nodes[edge.target].grad_fn, edge.input_nr)[0])
        return finals

    def _by_rules(
        self,
        node: GraphNode,
        given: list[tuple[str, Tensor | None]],
        targets: dict[int, str],
        finals: list[Tensor | None],
    ) -> list[str] | None:
        """A line for each gradient by the rule of its operation; None if there is none."""
        found = self._saved[node.index]
        if found.hooked or found.broken or len(given) != 1 or given[0][1] is None:
            return None
        lines, before = list[str](), list[str]()
        for slot, target in targets.items():
            rule = self._rule(node, slot, given[0], finals[slot], found, before)
            if rule is None:
                return None
            lines.append(f"{target} = {rule}")
        return before + lines

    def _rule(
        self,
        node: GraphNode,
        slot: int,
        given: tuple[str, Tensor | None],
        wanted: Tensor | None,
        found: Peek,
        before: list[str],
    ) -> str | None:
        grad, value = given
        saved = derived(node.name, found.values)
        edge = self.graph.slots(node.index)[slot]
        for rule in rules_of(node.name, slot):
            lines, space = list[str](), {**self.space, grad: value}

            def show(name: str) -> str | None:
                if name == "grad":
                    return grad
                return self._show(node.index, name, saved.get(name), space, lines)

            text = written(rule, show, saved)
            if text is None:
                continue
            try:
                result = eval(text, space)
                result, text = fitted(
                    result, self.graph.nodes[edge.target].grad_fn, edge.input_nr, text
                )
            except (
                RuntimeError,
                TypeError,
                AttributeError,
                IndexError,
                ValueError,
                ArithmeticError,
            ):
                continue
            if same_bits(result, wanted):
                for line in lines:
                    if line not in before:
                        before.append(line)
                del space[grad]
                self.space |= {k: v for k, v in space.items() if k != "__builtins__"}
                return text
        return None

    def _show(
        self, i: int, name: str, value: Any, space: dict[str, Any], lines: list[str]
    ) -> str | None:
        """How the text writes what a Node saved."""
        if not isinstance(value, Tensor):
            return None if value is None else repr(value)
        known = self._of_tensor.get(value) or self._of_result.get(self._result(value) or (-1, -1))
        if known:
            space.setdefault(known, value)
            return known
        if value.dim() == 0 and not value.requires_grad and not value.is_complex():
            number = value.item()
            if abs(number) < 1e300:
                return repr(number)
        key = i, name
        if key not in self._assigned:
            self._assigned[key] = self._new(f"saved_{i}_{name}")
        identifier = self._assigned[key]
        node = self._node(i)
        comment = f"  # {one_line(str(value.detach()), 50)}" if value.numel() <= 6 else ""
        lines.append(f"{identifier} = {node}.{saved_attribute(name)}{comment}")
        space[identifier] = value
        space[node] = self.space[node]
        return identifier

    def _node(self, i: int) -> str:
        for name, value in self.space.items():
            if isinstance(value, CalledNode) and value._fn is self.graph._fns[i]:
                return name
        name = self._new(f"node_{i}")
        saved = {
            k: v.detach() if isinstance(v, Tensor) else v for k, v in self._saved[i].values.items()
        }
        self.space[name] = CalledNode(self.graph._fns[i], saved)
        return name

    def _by_call(
        self,
        node: GraphNode,
        given: list[tuple[str, Tensor | None]],
        targets: dict[int, str],
        given_on: Gradients,
        finals: list[Tensor | None],
    ) -> list[str]:
        name = self._node(node.index)
        lines = [f"# {name} is this Node, called as it is, because there is no formula for it here"]
        left = ", ".join(targets.get(slot, "_") for slot in range(len(given_on)))
        lines.append(f"{left} = {name}({', '.join(name for name, _ in given)})")
        for edge in self.graph.slots(node.index):
            if edge is None or edge.slot not in targets:
                continue
            target = targets[edge.slot]
            _, text = fitted(
                given_on[edge.slot],
                self.graph.nodes[edge.target].grad_fn,
                edge.input_nr,
                target,
            )
            if text != target:
                lines.append(f"{target} = {text}")
        return lines

    def _explain(self, node: GraphNode, error: RuntimeError) -> NoReturn:
        broken = self._saved[node.index].broken
        if not broken:
            raise error
        what = ", ".join(f"{name} ({state})" for name, state in broken.items())
        raise RuntimeError(
            f"{self._about(node)} cannot run any more, because of what it had saved: {what}; "
            "run the forward pass again, or keep it with backward(retain_graph=True)"
        ) from error


def fitted(value: Tensor, fn: Any, nr: int, text: str = "value") -> tuple[Tensor, str]:
    """A gradient in the shape and dtype of what it belongs to, and the text that makes it so."""
    from companion.internals import metadata_of

    metadata = metadata_of(fn, nr)
    shape, dtype = tuple(metadata.shape), metadata.dtype
    inner = text
    if value.is_complex() and not dtype.is_complex:
        value, inner = value.real, f"{_bracketed(inner)}.real"
    if tuple(value.shape) != shape:
        value, inner = value.sum_to_size(shape), f"{_bracketed(inner)}.sum_to_size({shape})"
    if value.dtype != dtype:
        value, inner = value.to(dtype), f"{_bracketed(inner)}.to({dtype})"
    return value, inner


def _bracketed(text: str) -> str:
    import ast

    if isinstance(ast.parse(text, mode="eval").body, ast.Name | ast.Call | ast.Attribute):
        return text
    return f"({text})"


def fn_inputs(fn: Any) -> int:
    from companion.internals import output_count

    return output_count(fn)


def _has_hooks(fn: Any) -> bool:
    for register in (fn.register_hook, fn.register_prehook):
        handle = register(lambda *_: None)
        others = handle.hooks_dict_ref()
        handle.remove()
        if others:
            return True
    return False


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value).__hash__ is not None
