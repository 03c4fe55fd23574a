"""Where NaN and infinities came from under a ``watch``, and whether they arrived."""

from __future__ import annotations

import torch

from companion.forward.cuts import Operation
from companion.forward.finiteness import NAN
from companion.forward.tracing import notes_of
from companion.forward.watching import Watch

Tensor = torch.Tensor
Node = torch.autograd.graph.Node


def births_before(watch: Watch, output: Tensor) -> tuple[Operation, ...]:
    """The operations that gave birth to the NaN or infinity of a tensor, in order.

    That is the first one, and if it gave an infinity and the tensor has NaN, the one that made NaN
    of it. Empty if it came from before the block.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    upstream, recorder = _upstream(watch, output), watch._recorder
    return _first_and_first_nan(watch, [i for i in recorder.births if i in upstream])


def brought_before(watch: Watch, output: Tensor) -> tuple[Operation, Tensor] | None:
    """The first operation on the way to a tensor that took NaN or infinity of before the block.

    It comes with the tensor that had it, if that is alive.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    states = watch._recorder.states.values()
    outside = [state for state in states if state.worst and state.value.made_by is None]
    brought = {state.value.origin: state.key() for state in outside}
    for i in sorted(_upstream(watch, output)) if brought else ():
        for value in watch._recorder.notes[i].inputs:
            if (tensor := brought.get(value.origin)) is not None:
                return watch._operation_at(i), tensor
    return None


def births_in(watch: Watch) -> tuple[Operation, ...]:
    """The operation of the block that gave the first NaN or infinity, and that of the first NaN."""
    return _first_and_first_nan(watch, watch._recorder.births)


def _upstream(watch: Watch, output: Tensor) -> set[int]:
    """The indices of the operations through which NaN and infinities came to a tensor."""
    recorder = watch._recorder
    upstream, waiting = set[int](), [watch._value_of(output)]
    while waiting:
        value = waiting.pop()
        i = value.made_by if recorder.nonfinite.get(value.origin) else None
        if i is not None and i not in upstream:
            upstream.add(i)
            waiting += recorder.notes[i].inputs
    return upstream


def _first_and_first_nan(watch: Watch, births: list[int]) -> tuple[Operation, ...]:
    with_nan = {i for (i, _), worst in watch._recorder.nonfinite.items() if worst == NAN}
    first_nan = [i for i in births if i in with_nan][:1]
    return tuple(map(watch._operation_at, dict.fromkeys(births[:1] + first_nan)))


def hidden_by(watch: Watch, node: Node) -> Operation | None:
    """The operation after that of a Node whose result is finite, though what it took was not.

    Raises:
        TypeError: ``node`` is not a Node.
    """
    notes, nonfinite = watch._recorder.notes, watch._recorder.nonfinite
    own = notes_of(notes, node)
    spoilt = {origin for origin in nonfinite if origin[0] in own}
    for i in range(own.stop, len(notes)) if spoilt else ():
        if any(value.origin in spoilt for value in notes[i].inputs):
            numbered = enumerate(notes[i].outputs)
            given = [(i, nr) for nr, value in numbered if value.dtype.is_floating_point]
            if given and not any(origin in nonfinite for origin in given):
                return watch._operation_at(i)
            spoilt.update(origin for origin in given if origin in nonfinite)
    return None
