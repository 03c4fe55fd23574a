"""What a program did with gradients that have no graph: constants in what was computed from them.

Where one is added to what it was taken of and the sum is used as that was, where it goes into the
model again, or was detached by the user, a constant is what people mean: first-order MAML,
adversarial examples, the importance of a weight. In a penalty on the gradient it is not, nor in the
residual of a differential equation, be it ``u_xx - x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import ref

import torch

from companion.forward.cuts import Cut, Operation
from companion.forward.notes import DETACHING, Note, Origin
from companion.forward.torch_functions import ADDING, VALUELESS
from companion.forward.tracing import leaves_seen
from companion.forward.watching import Watch
from companion.internals import unseen

Tensor = torch.Tensor


def reads_of_grads(watch: Watch, output: Tensor) -> dict[Tensor, tuple[Operation, bool]]:
    """The leaves whose ``.grad``, without a graph, an output was computed from.

    Returns:
        By leaf the first operation that took its ``.grad``, and whether each use was a step, or of
        what the user had detached.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    recorder = watch._recorder
    with unseen():
        leaves = leaves_seen(watch)
        grads = {leaf: leaf.grad for leaf in leaves if leaf.grad is not None}
        parts = {watch._value_of(leaf).origin for leaf in leaves}
        states = {leaf: recorder.states.get(ref(grad)) for leaf, grad in grads.items()}
    values = {leaf: state.value for leaf, state in states.items() if state}
    leaf_of = {value.origin: leaf for leaf, value in values.items() if not value.requires_grad}
    upstream = _upstream(watch, output) if leaf_of else []
    reads = dict[Tensor, tuple[Operation, bool]]()
    for i in upstream:
        for gradient in {value.origin for value in recorder.notes[i].inputs} & leaf_of.keys():
            leaf = leaf_of[gradient]
            taken_of = {watch._value_of(leaf).origin}
            are_steps = _are_steps(recorder.notes, upstream, {gradient}, taken_of, parts, parts)
            reads.setdefault(leaf, (watch._operation_at(i), are_steps))
    return reads


def is_a_step(watch: Watch, output: Tensor, cut: Cut) -> bool:
    """Whether gradients of ``torch.autograd.grad`` went on as steps alone, or detached by the user.

    Args:
        watch: what saw the forward pass.
        output: a tensor, computed from the gradients.
        cut: the cut at the call that gave them.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    notes = watch._recorder.notes
    i = next(i for i, index in enumerate(watch._operation_of) if index == cut.index)
    before = [notes[j] for j in {j for j, _ in watch._upstream(notes[i].inputs)}]
    parts = {value.origin for note in before if note.name not in VALUELESS for value in note.inputs}
    taken_of = {value.origin for value in notes[i].inputs} & parts  # not what was differentiated
    gradients = set[Origin]((i, nr) for nr in range(len(notes[i].outputs)))
    return _are_steps(notes, _upstream(watch, output), gradients, taken_of, taken_of, parts)


def _are_steps(
    notes: list[Note],
    upstream: Sequence[int],
    gradients: set[Origin],
    taken_of: set[Origin],
    stepped: set[Origin],
    parts: set[Origin],
) -> bool:
    """Whether gradients meet what requires grad only as a step of it, or in the model again.

    What a step gives must be used as what it was added to: by an operation that took that before,
    with a weight of the model, or detached.

    Args:
        notes: all notes.
        upstream: the indices of those before the output, in order.
        gradients: the origins of the gradients.
        taken_of: the origins of what the gradients were taken of.
        stepped: the origins of what a step is added to.
        parts: the origins of all that went into what was differentiated.
    """
    constants, moved, model, were_used = set(gradients), set(taken_of), parts - taken_of, False
    uses = (i for i in upstream if any(value.origin in gradients for value in notes[i].inputs))
    before = notes[: next(uses, 0)]
    took = {note.name for note in before if any(value.origin in stepped for value in note.inputs)}
    steps, is_again = set[Origin](), False
    for i in upstream:
        note = notes[i]
        taken = {value.origin for value in note.inputs}
        results = {(i, nr) for nr in range(len(note.outputs))}
        if taken & moved:  # a result of the model, as u beside its derivative by x
            moved |= results
        elif taken & model:  # a weight that is computed
            model |= results
        others = {value.origin for value in note.inputs if value.requires_grad}
        if taken & steps:
            steps |= results
            is_meant = note.name in DETACHING and note.is_meant
            is_again = is_again or is_meant or note.name in took or bool(others & model)
        if constants.isdisjoint(taken):
            continue
        were_used = True
        if not any(value.requires_grad for value in note.outputs):
            if not (note.name in DETACHING and note.is_meant):
                constants |= results
            continue
        is_adding = note.name.strip("_") in ADDING
        if not others & (stepped if is_adding else model - moved):
            return False
        steps |= results if is_adding else set()
    return were_used and (is_again or not steps)


def _upstream(watch: Watch, output: Tensor) -> list[int]:
    """The notes before an output, in order, but for updates of weights and what went into them."""
    notes, value = watch._recorder.notes, watch._value_of(output)
    upstream = {i for i, _ in watch._upstream([value], lambda i, nr: not notes[i].is_update)}
    return sorted(i for i in upstream if not notes[i].is_update and notes[i].name not in VALUELESS)
