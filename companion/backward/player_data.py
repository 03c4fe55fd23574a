"""A Recording becomes a story: what a player tells of each step, as plain data.

Three modes tell what happened, what a second pass over the same graph would do, and what a walk
without dependency counts would compute. The last runs the Nodes once more, one by one; none of
them changes a tensor.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from companion.backward.formulas import filled, formula
from companion.backward.recording import Recording, Step, added
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import Graph
from companion.naming import one_line

_VISITS = 200  # of a depth-first walk, which may take 2^n
_ELEMENTS = 1000  # of a gradient on such a walk
_QUESTIONS = 3

Data = dict[str, Any]
Tensor = torch.Tensor


class Story:
    """What a player tells of a recording.

    Attributes:
        names: what each Node is called, which no other Node is.
        tags: the numbers in ``names`` that tell Nodes apart which are otherwise called the same.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.graph: Graph = recording.graph
        told = [_told(node) for node in self.graph.nodes]
        several, numbers = Counter(told), Counter[str]()
        self.names, self.tags = list[str](), dict[int, str]()
        for i, name in enumerate(told):
            numbers[name] += 1
            if several[name] > 1:
                self.tags[i] = f"#{numbers[name]}"
            self.names.append(f"{name} {self.tags[i]}" if i in self.tags else name)

    def data(self) -> Data:
        """All of it: the Nodes, the lines of code, and the modes."""
        recording, nodes = self.recording, self.graph.nodes
        in_order = sorted(range(len(nodes)), key=lambda i: self.graph.sequence_numbers[i])
        operations = [i for i in in_order if not nodes[i].is_leaf]
        # In the order in which they ran, whatever their files are called.
        lines = list(dict.fromkeys(recording.sources[i] for i in operations))
        made = {i: place for place, i in enumerate(operations, start=1)}
        modes = [self.engine(), *map(_if_torch_can, (self.second_pass, self.depth_first))]
        return {
            "nodes": [
                {
                    "name": self.names[i],
                    "leaf": node.is_leaf,
                    "slots": len(self.graph.slots(i)),
                    "line": None if i not in made else lines.index(recording.sources[i]),
                    "value": self.value(i),
                    "made": made.get(i),
                    "waits": recording.waiting.get(i),
                }
                for i, node in enumerate(nodes)
            ],
            "lines": [one_line(line.text, 200) if line else None for line in lines],
            "modes": [mode for mode in modes if mode],
        }

    def value(self, node: int) -> str | None:
        """What the forward pass computed there, as far as that was recorded."""
        known = {nr: value for (i, nr), value in self.recording.values.items() if i == node}
        if not known.keys() - {0}:
            return show(known[0]) if known else None
        return "; ".join(f"output {nr}: {show(value)}" for nr, value in known.items())

    # ---- what happened

    def engine(self) -> Data:
        return {
            "title": "The engine's order",
            "about": "What PyTorch did.",
            "steps": self.steps,
            "questions": self.questions() if self.recording.error is None else [],
            "error": self.error,
        }

    @property
    def error(self) -> str | None:
        """How the pass ended, if not at its end, and at which Node, if that is known."""
        if self.recording.error is None:
            return None
        told = "".join(traceback.format_exception_only(self.recording.error)).strip()
        steps = self.recording.steps
        at = steps[-1].grad_inputs is None if steps else False
        return ("" if at else "The pass ended before the next Node ran. ") + one_line(told, 300)

    @cached_property
    def steps(self) -> list[Data]:
        steps, second, buffers = list[Data](), self.recording.second, defaultdict[Any, str](_empty)
        came = [arrival for step in self.recording.steps for arrival in step.arrivals]
        came += [a for arrivals in self.recording.pending.values() for a in arrivals]
        total = {(a.edge.source, a.edge.slot): a.total for a in came if a.edge}
        for step in self.recording.steps:
            passed = list[Data]()
            for edge in self.graph.slots(step.node):
                if edge is None or step.grad_inputs is None:
                    continue
                value = step.grad_inputs[edge.slot]
                told = self.passed(edge, value, step.grad_outputs, step.saved)
                if edge.target in self.recording.planned:
                    place, held = (edge.target, edge.input_nr), total[edge.source, edge.slot]
                    told["before"] = buffers[place]
                    told["after"] = buffers[place] = _empty() if held is None else show(held)
                passed.append(told)
            ran_leaf = self.graph.nodes[step.node].is_leaf and step.grad_inputs is not None
            steps.append(
                {
                    "node": step.node,
                    "came": [
                        _came(arrival.edge, arrival.input_nr, arrival.value)
                        for arrival in step.arrivals
                    ],
                    "changed": self.changed(step),
                    "raised": step.grad_inputs is None,
                    "given": [show(gradient) for gradient in step.grad_outputs],
                    "passed": passed,
                    "grad": [show(step.grad_before), show(step.grad_after)] if ran_leaf else None,
                    "ready": list(step.ready),
                    "waiting": {str(i): count for i, count in step.waiting.items()},
                    "freed": list(step.freed),
                    "made": [[i, second.nodes[i].name] for i in step.made] if second else [],
                }
            )
        return steps

    def changed(self, step: Step) -> bool:
        """Whether a hook changed what came to the Node before the Node was given it."""
        totals = {arrival.input_nr: arrival.total for arrival in step.arrivals}
        return not all(_same(total, step.grad_outputs[nr]) for nr, total in totals.items())

    def passed(
        self, edge: Edge, value: Tensor | None, given: Sequence[Tensor | None], saved: Any
    ) -> Data:
        """What a Node gave on along an edge, and by which rule."""
        name = self.graph.nodes[edge.source].name
        rule = formula(name, edge.slot, given[0], saved, value)
        return {
            "slot": edge.slot,
            "to": edge.target,
            "input": edge.input_nr,
            "value": show(value),
            "rule": rule,
            "filled": filled(rule, given[0], saved, show)
            if rule and given[0] is not None
            else None,
        }

    def questions(self) -> list[Data]:
        """The moments at which to ask which Node runs next, and what is to be said of each."""
        waiting, ran = dict(self.recording.waiting), set[int]()
        found = list[tuple[bool, int, Data]]()
        for step, following in zip(self.recording.steps, self.recording.steps[1:], strict=False):
            ran.add(step.node)
            waiting.update(step.waiting)
            ready = [i for i, count in waiting.items() if count == 0 and i not in ran]
            early = [i for i, count in step.waiting.items() if count > 0]
            options, right = sorted({*ready, *early}), following.node
            # The rule does not tell apart two leaves, or Nodes that several threads made.
            numbers = [self.graph.sequence_numbers[i] for i in ready]
            first = self.graph.sequence_numbers[right] == max(numbers)
            if len(options) > 1 and first and numbers.count(max(numbers)) == 1:
                told = [
                    {"node": i, "right": i == right, "why": self.why(i, right, ready, waiting[i])}
                    for i in options
                ]
                question = {"before": following.index, "options": told}
                found.append((not early, following.index, question))
        found.sort(key=lambda entry: entry[:2])  # first those where a walk would go on too early
        return sorted((entry[2] for entry in found[:_QUESTIONS]), key=lambda q: q["before"])

    def why(self, i: int, right: int, ready: list[int], waits: int) -> str:
        leaf = self.graph.nodes[right].is_leaf
        if waits:
            more = f"{waits} more gradient" + "s" * (waits != 1)
            part = "add a part to .grad" if self.graph.nodes[i].is_leaf else "pass on a part"
            return f"It waits for {more}. Now it would {part}, and have to run again."
        if i == right and len(ready) == 1:
            return "It is the only Node that is ready."
        if i == right:
            return f"It is ready, and {'a leaf goes first' if leaf else 'was made last'}."
        if leaf:
            return "It is ready as well, but a leaf goes first."
        return f"It is ready as well, but it was made before {self.names[right]}."

    # ---- what would happen

    def second_pass(self) -> Data | None:
        """Another backward pass over the same graph: where it differs from the first.

        None where that cannot be told: a hook changed ``.grad``, something was modified or freed
        since, or a custom Function may or may not need what was freed.
        """
        recording, nodes = self.recording, self.graph.nodes
        told: Data = {
            "title": "A second backward()",
            "about": "What comes if you call it now: the same again, and .grad is added to. "
            + (
                "The pass ran with retain_graph=True, so nothing was freed."
                if recording.retain_graph
                else "The graph was not retained, but no saved tensor will be missed."
            ),
            "grads": {},
        }
        for step, first in zip(recording.steps, self.steps, strict=True):
            if step.grad_inputs is None or step.freed and nodes[step.node].is_custom:
                return None
            if step.freed:
                nothing: Data = {"passed": [], "ready": [], "waiting": {}, "freed": [], "made": []}
                return told | {
                    "about": f"What comes if you call it now: {self.names[step.node]} needs "
                    f"{step.freed[0]}, which was freed.",
                    "stop": step.index,
                    "last": first | nothing | {"raised": True},
                    "error": "RuntimeError: Trying to backward through the graph a second time",
                }
            if step.saved is not None and any(t.state != "kept" for t in nodes[step.node].saved):
                return None
            if first["grad"]:
                gradient = step.grad_outputs[0]
                if not _same(added(step.grad_before, gradient), step.grad_after):
                    return None
                after = added(step.grad_after, gradient)
                told["grads"][step.index] = [show(step.grad_after), show(after)]
        return None if recording.error else told

    def depth_first(self) -> Data | None:
        """A walk that follows each gradient at once, run on the live Nodes.

        None where it would show nothing, run code of the user's, differ for another reason than its
        order, since hooks do not run in it, or take long.
        """
        recording, nodes = self.recording, self.graph.nodes
        ran = {step.node: step for step in recording.steps}
        operations = [node for node in nodes if not node.is_leaf]
        meet = any(len(ran[node.index].arrivals) > 1 for node in operations if node.index in ran)
        if (
            not (recording.retain_graph and meet and len(ran) == len(nodes))
            or recording.error is not None
            or any(node.is_custom or ran[node.index].saved is None for node in operations)
            or any(self.changed(step) or _large(step) for step in recording.steps)
        ):
            return None
        for node in operations:  # is it as it was, and do hooks leave it alone?
            out = _run(node, ran[node.index].grad_outputs)
            if out is None or not all(map(_same, out, ran[node.index].grad_inputs or ())):
                return None
        steps = list[Data]()
        buffers = defaultdict[tuple[int, int], Tensor | None](lambda: None)
        buffers |= {(leaf.index, 0): ran[leaf.index].grad_before for leaf in self.graph.leaves}
        start = ran[0].arrivals[0]
        stack = [(Edge(-1, 0, 0, start.input_nr), start.value)]
        while stack:
            if len(steps) == _VISITS:
                return None
            edge, value = stack.pop()
            node, place = nodes[edge.target], (edge.target, edge.input_nr)
            before = buffers[place]
            buffers[place] = added(before, value)
            step: Data = {
                "node": node.index,
                "came": [_came(edge, edge.input_nr, value)],
                "passed": [],
            }
            if before is not None and not node.is_leaf:
                step["held"] = show(before)
            if node.is_leaf:
                step |= {"given": [show(value)], "grad": [show(before), show(buffers[place])]}
            else:
                inputs = range(len(ran[node.index].grad_outputs))
                given = [buffers[node.index, nr] for nr in inputs]
                left = _run(node, given)
                if left is None:
                    return None
                edges = [edge for edge in self.graph.slots(node.index) if edge is not None]
                passed = [(edge, left[edge.slot]) for edge in edges]
                saved = ran[node.index].saved
                step |= {
                    "given": [show(gradient) for gradient in given],
                    "passed": [self.passed(e, v, given, saved) for e, v in passed],
                    "grad": None,
                }
                stack += reversed(passed)
            steps.append(step | {"ready": [], "waiting": {}, "freed": [], "made": []})
        return {
            "title": "Depth first (wrong)",
            "about": "A walk that adds what comes to the buffer of a Node and goes on at once. "
            "A Node runs once for each path to it, and passes on again what it has passed on.",
            "free": True,
            "steps": steps,
        }


def _came(edge: Edge | None, input_nr: int, value: Tensor | None) -> Data:
    source, slot = (None, None) if edge is None or edge.source < 0 else (edge.source, edge.slot)
    return {"from": source, "slot": slot, "input": input_nr, "value": show(value)}


def _if_torch_can(mode: Callable[[], Data | None]) -> Data | None:
    """A mode, or None for tensors that torch itself cannot add, such as those of float8."""
    try:
        return mode()
    except RuntimeError:
        return None


def _run(node: GraphNode, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...] | None:
    """What a Node gives on; None if it cannot run any more."""
    try:
        with torch.no_grad():
            out = node.grad_fn(*gradients)
    except RuntimeError:  # it was freed since, or something was modified in place
        return None
    return out if isinstance(out, tuple) else (out,)


def _large(step: Step) -> bool:
    gradients = (*step.grad_outputs, *(step.grad_inputs or ()))
    return any(g is not None and g.numel() > _ELEMENTS for g in gradients)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two gradients are equal, to the bit but for the kind of NaN."""
    if one is None or other is None:
        return one is other
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one.layout is other.layout and torch.equal(one.to_dense(), other.to_dense())
    alike = (one == other) | ((one != one) & (other != other))
    return one.shape == other.shape and bool(alike.all())


def _empty() -> str:
    return "empty"


def _told(node: GraphNode) -> str:
    """A Node in words, which others may share."""
    name = one_line(node.name, 40)
    named = "" if node.label == node.name else one_line(node.label, 40)
    if node.is_leaf:
        return named or name
    return f"{name} ({named})" if named else name


def show(value: Any) -> str:
    """A tensor in one short line: its numbers to 4 digits, or of many numbers their range."""
    if not isinstance(value, Tensor):
        return one_line(_number(value), 40)
    try:
        return _show(value)
    except (RuntimeError, TypeError, ValueError):  # of a dtype or class that can do little
        return f"a {type(value).__name__} of {str(value.dtype).removeprefix('torch.')}"


def _show(value: Tensor) -> str:
    if value.is_nested or value.is_meta:
        return f"a {'nested' if value.is_nested else 'meta'} tensor"
    if value.layout is not torch.strided:
        return f"a {str(value.layout).removeprefix('torch.')} tensor"
    shape = tuple(value.shape)
    if 0 < value.numel() <= 6 or shape == (0,):
        numbers = [_number(number) for number in value.flatten().tolist()]
        places = str(torch.arange(len(numbers), device="cpu").reshape(shape).tolist())
        return re.sub(r"\d+", lambda place: numbers[int(place[0])], places)
    if value.numel() == 0 or value.is_complex():
        return f"{shape}, {'complex' if value.numel() else 'empty'}"
    low, high = value.aminmax()
    return f"{shape}, from {_number(low.item())} to {_number(high.item())}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | complex) else str(value)
