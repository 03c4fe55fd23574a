"""What is known of each tensor of a block, and whether its memory can be changed unseen.

Whoever writes into memory by a call of torch has a tensor that the block sees before the write. So
a tensor's memory is safe as long as no tensor shows it that counts its versions by itself, and as
torch has not handed it to anybody else. Until then the fingerprint is due, but need not be taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from weakref import ref

import torch

from companion.forward.fingerprints import DUE, PLAIN, fingerprint
from companion.forward.notes import ShownMemory, TensorState, TrackedTensors
from companion.internals import base_of

Tensor = torch.Tensor


class TensorStates:
    """The states of tensors, for as long as they live."""

    def __init__(self) -> None:
        self.by_tensor: dict[ref[Tensor], TensorState] = {}  # ref(t) is the same while t lives
        self.gone: list[TensorState] = []  # of tensors whose memory others could write into
        # By memory that is in use: a Parameter shares that of the tensor it is made of.
        self.by_memory: dict[ref[torch.UntypedStorage], TensorState] = {}

    def add(
        self, key: ref[Tensor], tensor: Tensor, inner: Tensor, state: TensorState
    ) -> torch.UntypedStorage | None:
        """Keep what is known of a tensor for as long as it lives, and of its memory likewise.

        Args:
            key: a weak reference to it, without a callback.
            tensor: the tensor.
            inner: what a transform wraps in it; outside of one, the tensor.
            state: what is known of it.

        Returns:
            The memory, if no tensor had it that is known.
        """
        self.by_tensor[key] = state
        state.reference = ref(tensor, partial(self.drop, key))
        base = base_of(inner)  # linear() of a vector gives a view whose base nobody saw
        if base is not None and ref(base) in self.by_tensor:
            return None
        if (storage := _storage_of(inner)) is None:
            return None
        memory = ref(storage, self.by_memory.pop)
        known = self.by_memory.get(memory)
        self.by_memory[memory] = state
        if known is None:
            return storage
        self.expose(known)
        return None

    def drop(self, key: ref[Tensor], reference: ref[Tensor]) -> None:
        """Forget a tensor that is gone, but for its memory if others can write into that."""
        state = self.by_tensor.pop(key, None)
        if state and state.shown and state.fingerprint is not None:
            self.gone.append(state)

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

    def take_fingerprints(self, tensors: TrackedTensors, next_note: int) -> None:
        """Take the fingerprint of each tensor, to see later whether its memory was changed.

        As long as nobody else can write there, it is due, but not taken. A view needs none if its
        base has one.
        """
        for tensor, state in tensors:
            if state.fingerprint is not None:
                continue
            base = self.of_base(tensor)
            if not (base and base.fingerprint is not None and base.version == state.version):
                state.next_note = next_note
                if state.is_private:
                    state.fingerprint = DUE
                else:
                    self.take(tensor, state)

    def expose_all(self, tensors: Iterable[Tensor]) -> None:
        """From now on the memory of tensors can be changed unseen."""
        for tensor in tensors:
            self.expose(self.by_tensor.get(ref(tensor)))
            self.expose(self.of_base(tensor))

    def expose(self, state: TensorState | None) -> None:
        """From now on memory can be changed unseen: take the fingerprint if it is due."""
        if state is None:
            return
        state.is_private = False
        if state.fingerprint == DUE and state.reference:
            tensor = state.reference()
            if tensor is not None:
                self.take(tensor, state)

    def take(self, tensor: Tensor, state: TensorState) -> None:
        """Take the fingerprint of a tensor whose memory others can write into."""
        state.fingerprint = fingerprint(tensor)
        if state.fingerprint is None or tensor.is_nested:
            return
        if (storage := _storage_of(tensor)) is not None:
            offset, shape, stride = int(tensor.storage_offset()), tensor.shape, tensor.stride()
            state.shown = ShownMemory(ref(storage), offset, shape, stride, tensor.dtype)


def _storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    if type(tensor) not in PLAIN:
        return None
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # sparse
        return None
