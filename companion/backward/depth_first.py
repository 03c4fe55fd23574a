"""What a walk would compute that follows each gradient at once, without counting what is to come.

It runs the live Nodes once more, one by one, and changes no tensor.
"""

from __future__ import annotations

import torch

from companion.backward.copies import Gradients, Tensor
from companion.backward.player_format import DepthFirst, Held, PassedData, WalkStep
from companion.backward.player_steps import came_along, hook_changed, passed_along, same, show
from companion.backward.program_nodes import called
from companion.backward.recording import Arrival, Recording, Step, added
from companion.graph.nodes import GraphNode

_VISITS = 200  # at most, since a walk may take 2^n
_ELEMENTS = 1000  # at most, of each gradient


def depth_first(recording: Recording) -> DepthFirst | None:
    """The walk as a mode of a player.

    None where it would show nothing, run code of the user's, differ for another reason than its
    order, since hooks do not run in it, or take long.
    """
    if not (_can_be_walked(recording) and _nodes_give_the_same(recording)):
        return None
    steps = _walk(recording)
    if steps is None:
        return None
    return {
        "title": "Depth first (wrong)",
        "about": "A walk that adds what comes to the buffer of a Node and goes on at once. "
        "A Node runs once for each path to it, and passes on again what it has passed on.",
        "free": True,
        "steps": steps,
    }


def _can_be_walked(recording: Recording) -> bool:
    """Whether the walk would show something, and run only what torch wrote, on small tensors."""
    nodes, steps = recording.graph.nodes, recording.steps
    ran_whole = recording.error is None and len(steps) == len(nodes)
    if not (ran_whole and recording.retain_graph):
        return False
    operations = [step for step in steps if not nodes[step.node].is_leaf]
    return (
        any(len(step.arrivals) > 1 for step in operations)
        and not any(nodes[s.node].is_custom or s.saved is None for s in operations)
        and not any(hook_changed(step) or _is_large(step) for step in steps)
    )


def _is_large(step: Step) -> bool:
    gradients = (*step.grad_outputs, *(step.grad_inputs or ()))
    return any(g is not None and g.numel() > _ELEMENTS for g in gradients)


def _nodes_give_the_same(recording: Recording) -> bool:
    """Whether each operation is as it was, and hooks leave alone what it passes on."""
    for step in recording.steps:
        node = recording.graph.nodes[step.node]
        if not node.is_leaf:
            passed_on = _run(node, step.grad_outputs)
            if passed_on is None or not all(map(same, passed_on, step.grad_inputs or ())):
                return False
    return True


def _walk(recording: Recording) -> list[WalkStep] | None:
    """The steps of the walk; None if they are too many, or a Node cannot run any more."""
    graph, ran = recording.graph, {step.node: step for step in recording.steps}
    # What came so far, by Node and input. The buffer of a leaf is its .grad.
    buffers = {(leaf.index, 0): ran[leaf.index].grad_before for leaf in graph.leaves}
    steps, stack = list[WalkStep](), [ran[0].arrivals[0]]
    while stack:
        if len(steps) == _VISITS:
            return None
        arrival = stack.pop()
        node = graph.nodes[arrival.edge.target if arrival.edge else 0]
        key = node.index, arrival.input_nr
        before = buffers.get(key)
        after = buffers[key] = added(before, arrival.value)
        given: Gradients = (arrival.value,)
        passed_on: Gradients | None = ()
        if not node.is_leaf:
            inputs = range(len(ran[node.index].grad_outputs))
            given = tuple([buffers.get((node.index, input_nr)) for input_nr in inputs])
            passed_on = _run(node, given)
        if passed_on is None:
            return None
        edges = [edge for edge in graph.slots(node.index) if edge]
        stack += [Arrival(e, e.input_nr, passed_on[e.slot], None) for e in reversed(edges)]
        saved = ran[node.index].saved
        passed = [passed_along(graph, e, passed_on[e.slot], given, saved) for e in edges]
        steps.append(_walk_step(node, arrival, (before, after), given, passed))
    return steps


def _walk_step(
    node: GraphNode,
    arrival: Arrival,
    buffer: tuple[Tensor | None, Tensor | None],
    given: Gradients,
    passed: list[PassedData],
) -> WalkStep:
    before, after = map(show, buffer)
    held = Held() if node.is_leaf or buffer[0] is None else Held(held=before)
    return {
        "node": node.index,
        "came": [came_along(arrival)],
        "passed": passed,
        **held,
        "given": [show(gradient) for gradient in given],
        "grad": [before, after] if node.is_leaf else None,
        "ready": [],
        "waiting": {},
        "freed": [],
        "made": [],
    }


def _run(node: GraphNode, gradients: Gradients) -> Gradients | None:
    """What a Node passes on; None if it cannot run any more."""
    try:
        with torch.no_grad():
            return called(node.grad_fn, gradients, node.name)
    except RuntimeError:  # it was freed since, or something was modified in place
        return None
