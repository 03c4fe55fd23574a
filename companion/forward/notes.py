"""What is noted while the block of a ``watch`` is open: tensors, and the calls of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from weakref import ref

import torch

from companion.forward.fingerprints import ShownMemory
from companion.forward.torch_functions import LEAVING
from companion.source import Place, Source, source_at

Tensor = torch.Tensor
DETACHING = {"detach", "detach_"}
Origin = tuple[int | None, int]  # of a value: its ``made_by`` and its ``output_nr``


class Value(NamedTuple):
    """A tensor that went into an operation or came out of it, as it was then.

    Attributes:
        shape: its shape; None for a nested tensor.
        dtype: its dtype.
        requires_grad: whether it required grad.
        made_by: the index of the operation that wrote it last; None if that was before the block,
            or out of sight.
        output_nr: which of the outputs of that operation it is; without one, which of the tensors
            from before the block it was.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype
    requires_grad: bool
    made_by: int | None = None
    output_nr: int = 0

    @property
    def origin(self) -> Origin:  # not for users, so that it has no docstring
        return self[3:]


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    try:
        return tensor.shape
    except RuntimeError:  # nested
        return None


class TensorState(ref[Tensor]):
    """What is known of a tensor, and the weak reference to it.

    Made for each result of an operation: one object, set field by field, takes half the time.
    """

    __slots__ = (
        *("key", "value", "version", "next_note", "fingerprint", "is_made_here", "is_private"),
        *("due_views", "worst", "shown"),
    )

    key: ref[Tensor]  # a reference without a callback, by which this state is found
    value: Value
    version: int | None
    next_note: int  # the index of the first note that is younger than this state
    fingerprint: int | None  # of its memory at this version; DUE: not taken yet
    is_made_here: bool  # a Parameter of a module, with memory that is new in the block
    is_private: bool  # nobody else can write into its memory yet
    due_views: list[TensorState] | None  # as long as it is private: its views that are due
    worst: int | None  # how bad its worst value is: see ``finiteness``; None: not asked
    shown: ShownMemory | None  # where the fingerprint was taken, if others can write there


class Change(NamedTuple):
    """Memory was changed without a change of the version.

    Attributes:
        since: the index of the first note that may have done it.
        until: one more than the index of the last.
        number: the number of the next Node when it was noticed: Nodes from this number on saved
            what is there now. None if no Node came that is known to have.
    """

    since: int
    until: int
    number: int | None


# Tensors with what is known of them.
TrackedTensors = list[tuple[Tensor, TensorState]]


class TorchCall(NamedTuple):
    """A call of torch that is about to run."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: TrackedTensors  # the tensors whose values it takes
    values: list[Value]  # of these tensors, and before them those of floats that came from tensors
    live: bool  # one of these values requires grad
    next_number: int  # the number that the next Node will get


class Note(NamedTuple):
    """What is noted of a call while the block runs."""

    name: str
    call_site: Place | None  # in the user's code
    inputs: list[Value]
    outputs: list[Value]
    numbers: tuple[int, int]  # of the next Node: before the call, and after it
    live: bool = False  # an input requires grad
    severed: bool = False  # its outputs require grad, but no Node leads to what they came from
    # If gradients were off and that mattered, or for autograd.grad: the code of the cut. If its
    # outputs require grad nevertheless, they are views of what does, and have no Node.
    mode_code: str = ""
    in_place: bool = False
    addresses: tuple[int | None, ...] = ()  # of the memory that it wrote into or handed out
    hidden: bool = False  # it is not listed among the operations
    stands_for: int | None = None  # if hidden: the note whose operation is named for it
    runs_inside: str = ""  # of what it ran, as ``places`` has it
    library_place: Place | None = None  # in the code of a library that the call site led to
    by_library: bool = False  # if an output has no graph: no line of the user asked for that

    @property
    def is_in_a_function(self) -> bool:
        """Whether a ``Function.apply`` made the call; other hidden notes are of no call."""
        return self.hidden and bool(self.name)

    @property
    def gives_bare_views(self) -> bool:
        """Whether it gave views, with gradients off, of what requires grad: these say so too."""
        is_switched = bool(self.mode_code) and not self.hidden
        return is_switched and any(value.requires_grad for value in self.outputs)

    @property
    def expects_a_graph(self) -> bool:
        """Whether a graph was made from what it took: by itself, or by the Function around it."""
        if self.is_in_a_function:
            return True
        makes_one = not (self.hidden or self.mode_code or self.is_update)
        return makes_one and any(value.requires_grad for value in self.outputs)

    @property
    def is_meant(self) -> bool:
        """Whether the user asked for a constant in so many words, by detach() or no_grad().

        Of what is a constant anyway, item() and its like ask for nothing else either.
        """
        asked = self.name in DETACHING or self.mode_code == "no-grad"
        return (asked and not self.by_library) or (self.name in LEAVING and not self.live)

    @property
    def is_update(self) -> bool:
        """Whether it wrote into a tensor that requires grad without a Node, as into a weight."""
        if self.hidden:  # by way of an alias
            return self.stands_for is not None and self.inputs[0].requires_grad
        no_node = self.numbers[0] == self.numbers[1]
        return self.in_place and no_node and any(value.requires_grad for value in self.outputs)

    @property
    def source(self) -> Source | None:
        return None if self.call_site is None else source_at(*self.call_site, self.library_place)


def code_of_mode(call: TorchCall) -> str:
    """The code of the cut that is due to how gradients were asked for or switched off."""
    if call.name == "grad":  # even where gradients are off, create_graph decides
        return "constant-gradient" if call.kwargs.get("create_graph") else "penalty-detached"
    if torch.is_inference_mode_enabled():  # which enable_grad() does not undo
        return "inference-mode"
    return "" if torch.is_grad_enabled() else "no-grad"
