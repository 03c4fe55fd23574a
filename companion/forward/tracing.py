"""Which cut fed which Node, and where a Node was made: what drawing and diagnosis ask a ``Watch``.

A lesson asks none of this, so these are functions beside the class, and use its private parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import ref

import torch

from companion.forward.cuts import Cut, Operation, is_continuous
from companion.forward.fingerprints import memory_of
from companion.forward.notes import Note, Origin, Value
from companion.forward.places import DEEPCOPY
from companion.forward.torch_functions import LEAVING, VALUELESS
from companion.forward.watching import Watch
from companion.internals import number_of, unseen
from companion.source import Source

Tensor = torch.Tensor
Node = Any  # torch.autograd.graph.Node, whose C++ classes have more attributes than its stub


def first_reaching(watch: Watch, output: Tensor) -> tuple[Cut, ...]:
    """Those of ``watch.reaching(output)`` with a way to the output that passes no other cut.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    return watch._cuts_before([watch._value_of(output)], watch._is_no_cut)


def cuts_not_meant(watch: Watch, output: Tensor, nodes: Iterable[Node] = ()) -> set[int]:
    """The indices of the cuts that reach an output by a way on which nobody asked for a constant.

    One asks by ``detach()``, ``torch.no_grad()`` or ``requires_grad_(False)`` of a copy, and by an
    update of a weight.

    Args:
        watch: what saw the forward pass.
        output: a tensor.
        nodes: the Nodes of its graph. From these it may be computed after the block.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    notes, waiting = watch._recorder.notes, [watch._value_of(output)]
    for node in nodes:
        waiting += [value for i in notes_of(notes, node) for value in notes[i].inputs]
    watch._classify()
    ways = set[tuple[int, int]]()
    while waiting:
        value = waiting.pop()
        if value.made_by is None or (origin := (value.made_by, value.output_nr)) in ways:
            continue
        note = notes[value.made_by]
        if note.is_meant:
            continue
        ways.add(origin)
        if not (note.is_update or note.name in VALUELESS):
            waiting += [each for each in note.inputs if not _is_frozen_copy(notes, note, each)]
    return {cut.index for cut in watch._cuts_at(way for way in ways if watch._is_cut(*way))}


def _is_frozen_copy(notes: list[Note], note: Note, value: Value) -> bool:
    """Whether a note took a deep copy that does not require grad, although its original did."""
    is_inside = note.runs_inside == DEEPCOPY
    made_by = None if value.made_by is None or is_inside else notes[value.made_by]
    return made_by is not None and made_by.runs_inside == DEEPCOPY and not value.requires_grad


def was_made_in(watch: Watch, tensor: Tensor) -> bool:
    """Whether an operation of the block gave a tensor.

    Raises:
        TypeError: ``tensor`` is not a tensor.
    """
    return watch._value_of(tensor).made_by is not None


def are_told_apart(watch: Watch, one: Tensor, other: Tensor) -> bool:
    """Whether a watch takes two tensors in one memory for two: it saw that one was made.

    Raises:
        TypeError: one of them is not a tensor.
    """
    return watch._value_of(one).origin != watch._value_of(other).origin


def was_used_in(watch: Watch, tensors: Sequence[Tensor]) -> set[Tensor]:
    """Those of some tensors that an operation of the block took.

    Raises:
        TypeError: one of them is not a tensor.
    """
    taken = {value.origin for note in watch._recorder.notes for value in note.inputs}
    return {tensor for tensor in tensors if watch._value_of(tensor).origin in taken}


def was_begun_in(watch: Watch, parameter: Tensor) -> bool:
    """Whether a module that was made in the block got this Parameter, with values of its own."""
    state = watch._recorder.states.get(ref(parameter))
    return state is not None and state.is_made_here


def cuts_into(watch: Watch, node: Node) -> tuple[tuple[int | None, Cut], ...]:
    """The cuts whose values the operation of a Node took in place of something with a graph.

    Args:
        node: a live Node that was made in the block; of others nothing is known.

    Returns:
        Each such cut after the slot of the Node that leads to None because of it, as far as that
        can be determined. The slot is None where the value has none, as an index.

    Raises:
        TypeError: ``node`` is not a Node.
    """
    watch._classify()
    notes = watch._recorder.notes
    own = notes_of(notes, node)
    # A call without a graph makes a Node only for what is kept: autocast's cast of a weight.
    with_graph = [
        i for i in own if notes[i].hidden or any(value.requires_grad for value in notes[i].outputs)
    ]
    inputs = [value for i in with_graph for value in notes[i].inputs if value.made_by not in own]
    slots = node.next_functions
    empty = [slot for slot, (child, _) in enumerate(slots) if child is None]
    cuts = list[tuple[int | None, Cut]]()
    for position, value in enumerate(inputs):
        if value.requires_grad and not (watch._bare and value.origin in watch._bare):
            continue
        # Where each input has a slot they come in one order; a number's slot is found so too.
        slot = next(iter(empty), None)
        if len(inputs) == len(slots) and position in empty:
            slot = position
        if value.dtype in (torch.bool, torch.long):  # a mask, an index
            slot = None
        cuts += [(slot, cut) for cut in watch._cuts_before([value], watch._is_no_cut)]
    return tuple(dict.fromkeys(cuts))


def made_at(watch: Watch, tensor: Tensor) -> int | None:
    """The index of the operation that wrote a tensor last; None if that was not in the block.

    Raises:
        TypeError: ``tensor`` is not a tensor.
    """
    value = watch._value_of(tensor)
    watch._update_operations()
    return watch._published(value).made_by


def leaves_seen(watch: Watch) -> list[Tensor]:
    """The leaves that operations of the block took or gave, as far as they are alive."""
    alive = [tensor for state in watch._recorder.states if (tensor := state()) is not None]
    return [tensor for tensor in alive if tensor.is_leaf]


def passes_in(watch: Watch) -> list[tuple[Tensor | None, int]]:
    """The calls of ``backward`` in the block: the output, None if it is gone, and the number that
    a Node made next would have had. Those of ``torch.autograd.backward`` are not seen."""
    return [(output(), number) for output, number in watch._recorder.passes]


def has_functions(watch: Watch) -> bool:
    """Whether a ``torch.autograd.Function`` ran in the block."""
    watch._classify()
    return watch._has_functions


def computed_in_functions(watch: Watch, tensors: Sequence[Tensor]) -> dict[Tensor, Source | None]:
    """Those of some tensors that the forward of a ``torch.autograd.Function`` computed from what
    requires grad and did not return, each with the line that called it.

    What moves in jumps, such as a mask, has a derivative of zero, and is left out.

    Raises:
        TypeError: one of them is not a tensor.
    """
    notes = watch._recorder.notes
    given_out = {value.origin for note in notes if not note.hidden for value in note.inputs}
    moving = set[Origin]()  # the origins of values that change with what requires grad
    for i, note in enumerate(notes):
        moves = note.is_in_a_function and note.name not in VALUELESS | _JUMPING
        if moves and any(value.requires_grad or value.origin in moving for value in note.inputs):
            floats = (nr for nr, v in enumerate(note.outputs) if v.dtype.is_floating_point)
            moving.update((i, nr) for nr in floats)
    values = [(tensor, watch._value_of(tensor)) for tensor in tensors]
    return {
        tensor: notes[value.made_by].source
        for tensor, value in values
        if value.origin in moving - given_out
        and not value.requires_grad
        and value.made_by is not None
    }


_JUMPING = set("round floor ceil trunc sign sgn heaviside bernoulli".split())


def leaving_after(watch: Watch, cut: Cut) -> Operation | None:
    """The first operation that took out of torch what a cut gave, or what it took itself."""
    watch._update_operations()
    found = set[Origin]()
    for i, note in enumerate(watch._recorder.notes):
        is_the_cut = watch._operation_of[i] == cut.index
        if is_the_cut or not found.isdisjoint(value.origin for value in note.inputs):
            if note.name in LEAVING:
                return watch._operation_at(i)
            found.update((i, nr) for nr in range(len(note.outputs)))
    return None


class Taken(NamedTuple):
    """A cut, and the tensors whose values came to it: sets of positions, as bits of numbers."""

    cut: Cut
    first: int  # those that came to it and had passed no other cut
    later: int  # those that had passed another
    in_a_function: bool  # inside of a ``torch.autograd.Function``, which may have got a Node


def cuts_taking(watch: Watch, tensors: Sequence[Tensor]) -> list[Taken]:
    """The cuts to which the values of some tensors came, or may have come, each with the tensors.

    Of a result from before the block nobody knows what went into it; other leaves than these
    tensors are the only values from there that for certain have nothing of them. The others count
    as one tensor more, whose position is behind the last.

    What a ``torch.autograd.Function`` computes with counts as a cut, and is followed further too:
    it is a cut for a tensor that was not given to ``apply``.

    Raises:
        TypeError: one of them is not a tensor.
    """
    values = [watch._value_of(tensor) for tensor in tensors]
    watch._classify()
    apart = _other_leaves(watch, tensors)
    # By origin, the tensors that went into a value before any cut, and past one.
    straight, past = defaultdict[Origin, int](int), defaultdict[Origin, int](int)
    for position, value in enumerate(values):
        straight[value.origin] |= value.requires_grad << position
    all_taken = list[Taken]()
    for i, note in enumerate(watch._recorder.notes):
        if note.name in VALUELESS:
            continue
        for value in note.inputs:
            if value.made_by is None and value.origin not in straight and value.origin not in apart:
                straight[value.origin] = value.requires_grad << len(tensors)
        first = last = 0
        for value in note.inputs:
            first |= straight[value.origin]
            last |= past[value.origin]
        for nr in range(max(1, len(note.outputs))) if first or last else ():
            # Inside a Function the last operation is the cut; what it took may not require grad.
            is_cut = watch._is_cut(i, nr) if note.outputs else note.live
            if is_cut or (note.live and note.is_in_a_function):
                (cut,) = watch._cuts_at([(i, nr)])
                all_taken.append(Taken(cut, first, last, not is_cut))
            straight[i, nr] |= 0 if is_cut else first
            past[i, nr] |= last | (first if is_cut else 0)
    return all_taken


def _other_leaves(watch: Watch, tensors: Sequence[Tensor]) -> set[Origin]:
    """The origins of the values of all leaves but these tensors."""
    given = set(tensors)
    leaves = [leaf for leaf in leaves_seen(watch) if leaf not in given]
    return {watch._value_of(leaf).origin for leaf in leaves}


def positions_as_bits(flags: Iterable[bool]) -> int:
    """The positions of those that are true, as the bits of a number."""
    return sum(flag << position for position, flag in enumerate(flags))


def positions_in(bits: int) -> Iterator[int]:
    """Which bits of a number are set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def source_of(watch: Watch, node: Node) -> Source | None:
    """Where in the user's code a Node was made; None if not in the block.

    For a custom Function it is the call of ``apply``. Autograd numbers the Nodes of each thread by
    themselves, so a Node of another thread may be taken for one of this.

    Raises:
        TypeError: ``node`` is not a Node.
    """
    own = [watch._recorder.notes[i] for i in notes_of(watch._recorder.notes, node)]
    return next((note.source for note in own if note.name), None)


def overwrites(watch: Watch, node: Node) -> bool:
    """Whether a Node stands for a call that wrote values into a tensor and saved nothing for that.

    Without a call that was seen the answer is no. What takes indices, which are no fractions, saves
    them.

    Raises:
        TypeError: ``node`` is not a Node.
    """
    own = [watch._recorder.notes[i] for i in notes_of(watch._recorder.notes, node)]
    return any(
        note.name in _WRITING and all(is_continuous(value.dtype) for value in note.inputs)
        for note in own
    )


def taken_as_constants(
    watch: Watch, tensors: Sequence[Tensor], output: Tensor
) -> dict[Tensor, Operation]:
    """By tensor the first operation on the way to an output that took it when it required no grad.

    Raises:
        TypeError: one of them is not a tensor.
    """
    notes, first_taking = watch._recorder.notes, dict[Tensor, Operation]()
    waiting = {watch._value_of(tensor).origin: tensor for tensor in tensors}
    for i in sorted({i for i, _ in watch._upstream([watch._value_of(output)])}):
        constants = {value.origin for value in notes[i].inputs if not value.requires_grad}
        for origin in constants & waiting.keys():
            first_taking[waiting.pop(origin)] = watch._operation_at(i)
    return first_taking


def taken_for_gradients(watch: Watch, tensors: Sequence[Tensor], output: Tensor) -> set[Tensor]:
    """Those of some tensors that went into what an output has a gradient of.

    Such a gradient is one that ``torch.autograd.grad`` gave.

    Raises:
        TypeError: one of them is not a tensor.
    """
    notes = watch._recorder.notes
    upstream = {i for i, _ in watch._upstream([watch._value_of(output)])}
    given = [value for i in upstream if notes[i].name == "grad" for value in notes[i].inputs]
    taken = {value.origin for i, _ in watch._upstream(given) for value in notes[i].inputs}
    return {tensor for tensor in tensors if watch._value_of(tensor).origin in taken}


def last_written_by(watch: Watch, tensor: Tensor) -> Operation | None:
    """The operation of the block that last wrote into the memory of a tensor; None if none did.

    Raises:
        TypeError: ``tensor`` is not a tensor.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor must be a tensor, got {type(tensor).__name__}")
    with unseen():
        address = memory_of(tensor)
    if address is None:
        return None
    notes = watch._recorder.notes
    writers = (i for i, n in enumerate(notes) if n.in_place and address in n.addresses)
    last = max(writers, default=None)
    return None if last is None else watch._operation_at(last)


def notes_of(notes: list[Note], node: Node) -> range:
    """Which notes are of the operation that made a Node: several for a custom Function."""
    if not hasattr(type(node), "next_functions"):  # a Node of C++ code is of no class of torch's
        raise TypeError(f"node must be a grad_fn, got {type(node).__name__}")
    number = number_of(node)
    after = bisect_right(notes, number, key=lambda note: note.numbers[0])
    i = after - 1
    while i >= 0 and notes[i].numbers[1] == notes[i].numbers[0]:  # made no Node
        i -= 1
    if i >= 0 and number < notes[i].numbers[1]:
        return range(i, i + 1)
    # A custom Function has its Node before its forward runs.
    end = after
    while end < len(notes) and notes[end].hidden and notes[end].numbers[0] == number + 1:
        end += 1
    return range(after, end)


_WRITING = {"__setitem__", "copy_", "fill_", "zero_"}
