"""What is known of each tensor of a block, and whether its memory can be changed unseen.

Whoever writes into memory by a call of torch has a tensor that the block sees before the write. So
a tensor's memory is safe as long as no tensor shows it that counts its versions by itself, and as
torch has not handed it to anybody else. Until then the fingerprint is due, but need not be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch

from companion.forward.fingerprints import (
    DUE,
    PLAIN,
    ShownMemory,
    fingerprint,
    fingerprint_of,
    memory_of,
    span_of,
)
from companion.forward.notes import Change, TensorState, TrackedTensors, Value
from companion.internals import base_of, version_of

Tensor = torch.Tensor


@dataclass(slots=True)
class Look:
    """How memory was when it was used, and since when."""

    fingerprint: int
    next_note: int  # the index of the note after that of the last look
    until: int  # the same of the first look at which it was so
    number: int  # of the next Node at that time


class TensorStates:
    """The states of tensors, for as long as they live."""

    def __init__(self) -> None:
        self.by_tensor: dict[ref[Tensor], TensorState] = {}  # ref(t) is the same while t lives
        self.gone: list[TensorState] = []  # of tensors whose memory others could write into
        # By memory that is in use: a Parameter shares that of the tensor it is made of.
        self.by_memory: dict[ref[torch.UntypedStorage], TensorState] = {}
        self.looks: dict[ref[torch.UntypedStorage], Look] = {}  # at what others can write into
        self._drop, self._drop_memory = _held_weakly(self.drop), _held_weakly(self.drop_memory)

    def follow(
        self, key: ref[Tensor], tensor: Tensor, value: Value, version: int | None, next_note: int
    ) -> TensorState:
        """Keep what is known of a tensor for as long as it lives; of its memory nothing yet."""
        state = self.by_tensor[key] = TensorState(tensor, self._drop)
        state.key, state.value, state.version, state.next_note = key, value, version, next_note
        state.fingerprint = state.due_views = state.worst = state.shown = None
        state.is_made_here = state.is_private = False
        return state

    def add_memory(self, tensor: Tensor, state: TensorState) -> torch.UntypedStorage | None:
        """Note whose memory it is that a tensor has.

        Returns:
            The memory, if no tensor had it that is known.
        """
        base = base_of(tensor)  # linear() of a vector gives a view whose base nobody saw
        if base is not None and ref(base) in self.by_tensor:
            return None
        if (storage := _storage_of(tensor)) is None:
            return None
        memory = ref(storage, self._drop_memory)
        known = self.by_memory.setdefault(memory, state)
        if known is state:
            return storage
        self.by_memory[memory] = state
        self.expose(known)
        return None

    def values(self) -> list[Value]:
        """The values of the tensors that are alive, with whether they require grad by now."""
        states = list(self.by_tensor.values())
        alive = [(state, tensor) for state in states if (tensor := state()) is not None]
        return [state.value._replace(requires_grad=t.requires_grad) for state, t in alive]

    def drop(self, state: TensorState) -> None:
        """Forget a tensor that is gone, but for its memory if others can write into that."""
        self.by_tensor.pop(state.key, None)
        if state.shown and state.fingerprint is not None:
            self.gone.append(state)

    def drop_memory(self, memory: ref[torch.UntypedStorage]) -> None:
        """Forget memory that is gone."""
        self.by_memory.pop(memory, None)
        self.looks.pop(memory, None)

    def of_base(self, tensor: Tensor) -> TensorState | None:
        """What is known of the tensor that a view is a view of."""
        base = base_of(tensor)
        return None if base is None else self.by_tensor.get(ref(base))

    def of_memory(self, tensor: Tensor) -> TensorState | None:
        """What is known of the tensor whose memory this one shows."""
        state = self.of_base(tensor)
        if state is None and (storage := _storage_of(tensor)) is not None:
            state = self.by_memory.get(ref(storage))
        return state

    def take_fingerprints(self, tensors: TrackedTensors, next_note: int, next_number: int) -> None:
        """Take the fingerprint of each tensor, to see later whether its memory was changed.

        As long as nobody else can write there, it is due, but not taken: it will not be needed if
        the tensor is gone before, since no Node has saved it. A view needs none if its base has
        one. Who uses memory that others can write into, looks whether it is another than before.

        Args:
            tensors: those of a call.
            next_note: the index of the note after that of the call.
            next_number: the number that the next Node had before the call.
        """
        for tensor, state in tensors:
            if state.fingerprint is not None:
                if state.shown:
                    self.look(tensor, next_note, next_number)
                continue
            if state.is_private:
                state.fingerprint, state.next_note = DUE, next_note
                continue
            base = self.of_base(tensor)
            if base and base.fingerprint is not None and base.version == state.version:
                if base.shown:
                    self.look(tensor, next_note, next_number)
                continue
            state.next_note = next_note
            if base and base.is_private:
                state.fingerprint = DUE
                base.due_views = base.due_views or []
                base.due_views.append(state)
            else:
                self.take(tensor, state)
                self.look(tensor, next_note, next_number, state.fingerprint)

    def look(
        self, tensor: Tensor, next_note: int, next_number: int, taken: int | None = None
    ) -> None:
        """Note since which Node the memory of a tensor has been as it is.

        Large memory is not looked at for each use, which would take long.

        Args:
            tensor, next_note, next_number: see ``take_fingerprints``.
            taken: the fingerprint of the tensor, if it was taken just now.
        """
        if (storage := _storage_of(tensor)) is None or not tensor.is_cpu:
            return
        look = self.looks.get(ref(storage))
        size = storage.nbytes()
        if look and next_note - look.next_note < size // _AT_EACH_NOTE:
            return
        is_all = taken is not None and span_of(tensor) == (storage.data_ptr(), size)
        now = taken if taken is not None and is_all else fingerprint_of(storage)
        if look and look.fingerprint == now:
            look.next_note = next_note
        else:
            memory = ref(storage, self._drop_memory)
            self.looks[memory] = Look(now, next_note, next_note, next_number)

    def changes(self, note_count: int) -> list[tuple[Tensor, Change]]:
        """The tensors whose memory was changed unseen since the last call of this.

        Of those with the same memory it is the one of the last change, and of views their base.

        Args:
            note_count: how many notes there are.
        """
        changes = list[tuple[Tensor, Change]]()
        for state in list(self.by_tensor.values()):
            if state.fingerprint is None or (tensor := state()) is None:
                continue
            if state.fingerprint == DUE:
                state.fingerprint = fingerprint(tensor)
            elif state.version == version_of(tensor) and state.fingerprint != fingerprint(tensor):
                changes.append((tensor, self.change_of(tensor, state, note_count)))
                state.fingerprint = None  # so that it is found once
        for state in self.gone:
            if state.shown is None or state.shown.was_written_to(state.version):
                continue
            if state.shown.fingerprint_now() in (None, state.fingerprint):
                continue
            if (tensor := state.shown.tensor()) is not None:
                changes.append((tensor, self.change_of(tensor, state, note_count)))
                state.shown = None
        changes.sort(key=lambda each: (each[1].until, base_of(each[0]) is None))
        return list({memory_of(tensor): (tensor, change) for tensor, change in changes}.values())

    def change_of(self, tensor: Tensor, state: TensorState, note_count: int) -> Change:
        """When it was that the memory of a tensor was changed."""
        storage = tensor.untyped_storage()
        look = self.looks.get(ref(storage))
        if look and look.fingerprint == fingerprint_of(storage):
            return Change(state.next_note, look.until, look.number)
        return Change(state.next_note, note_count, None)

    def expose_all(self, tensors: Iterable[Tensor]) -> None:
        """From now on the memory of tensors can be changed unseen."""
        for tensor in tensors:
            self.expose(self.by_tensor.get(ref(tensor)))
            self.expose(self.of_base(tensor))

    def expose(self, state: TensorState | None) -> None:
        """From now on memory can be changed unseen: take the fingerprints that are due."""
        if state is None:
            return
        state.is_private = False
        for due in (state, *(state.due_views or ())):
            if due.fingerprint == DUE and (tensor := due()) is not None:
                self.take(tensor, due)
        state.due_views = None

    def take(self, tensor: Tensor, state: TensorState) -> None:
        """Take the fingerprint of a tensor whose memory others can write into."""
        state.fingerprint = fingerprint(tensor)
        if state.fingerprint is not None and not tensor.is_nested:
            state.shown = ShownMemory.of(tensor)


def _held_weakly(method: Callable[[Any], None]) -> Callable[[Any], None]:
    """A method for references to call that its object holds.

    It does not hold the object. Else this would be garbage in a cycle, and CPython 3.11 ends the
    process where the garbage collector frees a reference while it goes through those of a tensor.
    """
    owner, function = ref(method.__self__), method.__func__  # type: ignore[attr-defined]

    def call(reference: Any) -> None:
        if (alive := owner()) is not None:
            function(alive, reference)

    return call


_AT_EACH_NOTE = 1024 * 1024  # so many bytes are compared in a tenth of a millisecond


def _storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    if type(tensor) not in PLAIN:
        return None
    try:
        return tensor.untyped_storage()
    except RuntimeError:  # sparse
        return None
