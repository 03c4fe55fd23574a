"""A Recording becomes the data of a player: its Nodes, its lines of code, and what can be played.

Three modes tell what happened, what a second pass over the same graph would do, and what a walk
without dependency counts would compute. None of them changes a tensor. player_format.py says what
the data consists of.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from companion.backward.depth_first import depth_first
from companion.backward.player_format import (
    EngineOrder,
    EngineStep,
    NodeData,
    PlayerData,
    QuestionData,
    SecondPass,
)
from companion.backward.player_steps import engine_step, engine_steps, same, show
from companion.backward.recording import Recording, Step, added
from companion.graph.nodes import GraphNode
from companion.graph.reading import Graph
from companion.naming import one_line

_QUESTIONS = 3
_Mode = TypeVar("_Mode")


def player_data(recording: Recording) -> PlayerData:
    """All that a player shows of a recording."""
    graph = recording.graph
    in_order = sorted(range(len(graph)), key=lambda i: graph.sequence_numbers[i])
    operations = [i for i in in_order if not graph.nodes[i].is_leaf]
    # In the order in which they ran, whatever their files are called.
    lines = list(dict.fromkeys(recording.sources[i] for i in operations))
    names = node_names(graph)
    made = {i: number for number, i in enumerate(operations, start=1)}
    nodes: list[NodeData] = [
        {
            "name": names[i],
            "leaf": node.is_leaf,
            "slots": len(graph.slots(i)),
            "line": None if node.is_leaf else lines.index(recording.sources[i]),
            "value": forward_value(recording, i),
            "made": made.get(i),
            "waits": recording.waiting.get(i),
        }
        for i, node in enumerate(graph.nodes)
    ]
    modes = [
        engine_order(recording),
        _if_torch_can(second_pass, recording),
        _if_torch_can(depth_first, recording),
    ]
    return {
        "nodes": nodes,
        "lines": [one_line(line.text, 200) if line else None for line in lines],
        "modes": [mode for mode in modes if mode],
    }


def _if_torch_can(mode: Callable[[Recording], _Mode | None], recording: Recording) -> _Mode | None:
    """A mode, or None for tensors that torch itself cannot add, such as those of float8."""
    try:
        return mode(recording)
    except RuntimeError:
        return None


# ---- the Nodes


def node_names(graph: Graph) -> list[str]:
    """What each Node is called, which no other Node is."""
    tags = node_tags(graph)
    names = [_node_name(node) for node in graph.nodes]
    return [f"{name} {tags[i]}" if i in tags else name for i, name in enumerate(names)]


def node_tags(graph: Graph) -> dict[int, str]:
    """Numbers such as ``#1`` for the Nodes that are otherwise called the same as another."""
    names = [_node_name(node) for node in graph.nodes]
    counts, so_far, tags = Counter(names), Counter[str](), dict[int, str]()
    for i, name in enumerate(names):
        so_far[name] += 1
        if counts[name] > 1:
            tags[i] = f"#{so_far[name]}"
    return tags


def _node_name(node: GraphNode) -> str:
    """What a Node is called, perhaps the same as another."""
    name = one_line(node.name, 40)
    label = "" if node.label == node.name else one_line(node.label, 40)
    if node.is_leaf:
        return label or name
    return f"{name} ({label})" if label else name


def forward_value(recording: Recording, node: int) -> str | None:
    """What the forward pass computed at a Node, as far as that was recorded."""
    known = {nr: value for (i, nr), value in recording.values.items() if i == node}
    if not known.keys() - {0}:
        return show(known[0]) if known else None
    return "; ".join(f"output {nr}: {show(value)}" for nr, value in known.items())


# ---- what happened


def engine_order(recording: Recording) -> EngineOrder:
    return {
        "title": "The engine's order",
        "about": "What PyTorch did.",
        "steps": engine_steps(recording),
        "questions": questions(recording) if recording.error is None else [],
        "error": error_message(recording),
    }


def error_message(recording: Recording) -> str | None:
    """How the pass ended, if not at its end, and at which Node, if that is known."""
    if recording.error is None:
        return None
    message = "".join(traceback.format_exception_only(recording.error)).strip()
    steps = recording.steps
    node_raised = bool(steps) and steps[-1].grad_inputs is None
    begin = "" if node_raised else "The pass ended before the next Node ran. "
    return begin + one_line(message, 300)


def questions(recording: Recording) -> list[QuestionData]:
    """The moments at which to ask which Node runs next, and the Nodes to choose from."""
    numbers = recording.graph.sequence_numbers
    waiting, ran = dict(recording.waiting), set[int]()
    found = list[tuple[bool, QuestionData]]()
    for step, following in pairwise(recording.steps):
        ran.add(step.node)
        waiting.update(step.waiting)
        ready = [i for i, count in waiting.items() if count == 0 and i not in ran]
        early = [i for i, count in step.waiting.items() if count > 0]
        if _made_last(ready, numbers) != following.node:
            continue
        options = sorted({*ready, *early})
        if len(options) > 1:
            found.append((not early, {"before": following.index, "options": options}))
    found.sort(key=lambda entry: entry[0])  # first those where a walk would go on too early
    chosen = [question for _, question in found[:_QUESTIONS]]
    return sorted(chosen, key=lambda question: question["before"])


def _made_last(ready: list[int], numbers: Sequence[int]) -> int | None:
    """The one that runs next by its sequence number; None if several share the highest.

    So the rule does not tell apart two leaves, or Nodes that several threads made.
    """
    highest = max(numbers[i] for i in ready)
    last = [i for i in ready if numbers[i] == highest]
    return last[0] if len(last) == 1 else None


# ---- what a second pass would do


def second_pass(recording: Recording) -> SecondPass | None:
    """Another backward pass over the same graph: where it differs from the first.

    None where that cannot be told: a hook changed ``.grad``, something was modified or freed
    since, or a custom Function may or may not need what was freed.
    """
    grads = dict[int, list[str]]()
    for step in recording.steps:
        node = recording.graph.nodes[step.node]
        if step.grad_inputs is None or step.freed and node.is_custom:
            return None
        if step.freed:
            return _ends_at(recording, step, grads)
        if step.saved is not None and any(tensor.state != "kept" for tensor in node.saved):
            return None
        if node.is_leaf:
            if not same(added(step.grad_before, step.grad_outputs[0]), step.grad_after):
                return None
            after = added(step.grad_after, step.grad_outputs[0])
            grads[step.index] = [show(step.grad_after), show(after)]
    if recording.error is not None:
        return None
    kept = (
        "The pass ran with retain_graph=True, so nothing was freed."
        if recording.retain_graph
        else "The graph was not retained, but no saved tensor will be missed."
    )
    return {
        "title": _SECOND,
        "about": f"What comes if you call it now: the same again, and .grad is added to. {kept}",
        "grads": grads,
    }


def _ends_at(recording: Recording, step: Step, grads: dict[int, list[str]]) -> SecondPass:
    """A second pass that comes to a Node whose saved tensors were freed."""
    name = node_names(recording.graph)[step.node]
    last: EngineStep = {
        **engine_step(recording, step, {}),
        "raised": True,
        "passed": [],
        "ready": [],
        "waiting": {},
        "freed": [],
        "made": [],
    }
    return {
        "title": _SECOND,
        "about": f"What comes if you call it now: {name} needs {step.freed[0]}, which was freed.",
        "grads": grads,
        "stop": step.index,
        "last": last,
        "error": "RuntimeError: Trying to backward through the graph a second time",
    }


_SECOND = "A second backward()"
