"""The steps of a Recording as a player shows them, in the objects of player_format.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from companion.backward.copies import Gradients, Tensor
from companion.backward.formulas import filled, formula
from companion.backward.player_format import CameData, EngineStep, PassedData
from companion.backward.recording import Arrival, Recording, Step
from companion.drawing.numbers import in_full, to_4_digits
from companion.graph.nodes import Edge
from companion.graph.reading import Graph
from companion.internals import is_without_numbers
from companion.naming import one_line


def engine_steps(recording: Recording) -> list[EngineStep]:
    """The steps that the engine took."""
    buffers = gradient_buffers(recording)
    return [engine_step(recording, step, buffers) for step in recording.steps]


def engine_step(
    recording: Recording, step: Step, buffers: Mapping[tuple[int, int], tuple[str, str]]
) -> EngineStep:
    """A step that the engine took.

    ``buffers`` is by Node and slot, as ``gradient_buffers`` gives it.
    """
    graph, second = recording.graph, recording.second
    raised = step.grad_inputs is None
    passed = list[PassedData]()
    for edge in graph.slots(step.node):
        if edge is None or step.grad_inputs is None:
            continue
        value = step.grad_inputs[edge.slot]
        data = passed_along(graph, edge, value, step.grad_outputs, step.saved)
        if (edge.source, edge.slot) in buffers:
            data["before"], data["after"] = buffers[edge.source, edge.slot]
        passed.append(data)
    ran_leaf = graph.nodes[step.node].is_leaf and not raised
    return {
        "node": step.node,
        "came": [came_along(arrival) for arrival in step.arrivals],
        "changed": hook_changed(step),
        "raised": raised,
        "given": [show(gradient) for gradient in step.grad_outputs],
        "passed": passed,
        "grad": [show(step.grad_before), show(step.grad_after)] if ran_leaf else None,
        "ready": list(step.ready),
        "waiting": {str(i): count for i, count in step.waiting.items()},
        "freed": list(step.freed),
        "made": [(i, second.nodes[i].name) for i in step.made] if second else [],
    }


def gradient_buffers(recording: Recording) -> dict[tuple[int, int], tuple[str, str]]:
    """By Node and slot: what the buffer that it leads to held before its gradient, and after."""
    buffers = dict[tuple[int, int], tuple[str, str]]()
    for arrivals in (*(step.arrivals for step in recording.steps), *recording.pending.values()):
        held = dict[int, str]()  # by input of the Node
        for arrival in arrivals:
            before = held.get(arrival.input_nr, "empty")
            after = "empty" if arrival.total is None else show(arrival.total)
            held[arrival.input_nr] = after
            if arrival.edge:
                buffers[arrival.edge.source, arrival.edge.slot] = before, after
    return buffers


def came_along(arrival: Arrival) -> CameData:
    """A gradient that came to a Node; along no edge if the pass began with it."""
    edge = arrival.edge
    return {
        "from": edge.source if edge else None,
        "slot": edge.slot if edge else None,
        "input": arrival.input_nr,
        "value": show(arrival.value),
    }


def passed_along(
    graph: Graph,
    edge: Edge,
    value: Tensor | None,
    given: Gradients,
    saved: Mapping[str, Any] | None,
) -> PassedData:
    """What a Node passed on along an edge, and by which rule."""
    grad, filled_rule = given[0], None
    rule = formula(graph.nodes[edge.source].name, edge.slot, grad, saved, value)
    if rule is not None and grad is not None and saved is not None:
        filled_rule = filled(rule, grad, saved, show)
    return {
        "slot": edge.slot,
        "to": edge.target,
        "input": edge.input_nr,
        "value": show(value),
        "rule": rule,
        "filled": filled_rule,
    }


def hook_changed(step: Step) -> bool:
    """Whether a hook changed what came to the Node before the Node was given it."""
    totals = {arrival.input_nr: arrival.total for arrival in step.arrivals}
    return not all(same(total, step.grad_outputs[nr]) for nr, total in totals.items())


def same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two gradients are equal, to the bit but for the kind of NaN."""
    if left is None or right is None:
        return left is right
    if left.layout is not right.layout or left.is_nested != right.is_nested:
        return False
    if is_without_numbers(left):
        return left.shape == right.shape
    if left.is_nested:
        lefts, rights = left.unbind(), right.unbind()
        return len(lefts) == len(rights) and all(map(_same_dense, lefts, rights))
    return _same_dense(left.to_dense(), right.to_dense())


def _same_dense(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool(
        ((left == right) | ((left != left) & (right != right))).all()
    )


# ---- a value in words


def show(value: Any) -> str:
    """A tensor in one short line: its numbers to 4 digits, or of many numbers their range."""
    if not isinstance(value, Tensor):
        return one_line(to_4_digits(value), 40)
    try:
        return _show(value)
    except (RuntimeError, TypeError, ValueError):  # of a dtype or class that can do little
        return f"a {type(value).__name__} of {str(value.dtype).removeprefix('torch.')}"


def _show(value: Tensor) -> str:
    if value.is_nested or is_without_numbers(value):
        return f"a {'nested' if value.is_nested else 'meta' if value.is_meta else 'fake'} tensor"
    if value.layout is not torch.strided:
        return f"a {str(value.layout).removeprefix('torch.')} tensor"
    if numbers := in_full(value):
        return numbers
    shape = tuple(value.shape)
    if value.numel() == 0 or value.is_complex():
        return f"{shape}, {'complex' if value.numel() else 'empty'}"
    low, high = value.aminmax()
    return f"{shape}, from {to_4_digits(low.item())} to {to_4_digits(high.item())}"
