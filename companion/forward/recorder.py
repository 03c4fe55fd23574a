"""Each call of torch becomes a Note while the block of a ``watch`` is open.

A ``TorchFunctionMode`` sees the calls that this thread makes. It notes what is cheap to note: the
place in the code, what went in and what came out. What that means is worked out later, in
``watching``.

Data is followed through tensors (by weak reference), through memory (an operation that works in
place writes for all views), and through the Python floats that ``item()`` gave (by identity).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from companion.forward.fast_paths import FastPaths
from companion.forward.fingerprints import PLAIN, fingerprint, memory_of
from companion.forward.functions import (
    ALIASING,
    ASSIGNING,
    LEAVING,
    NOTED_WITHOUT_TENSORS,
    READ,
    SILENT,
    VALUELESS,
    is_switch,
    noted_name,
    overwrites,
    written_silently,
)
from companion.forward.values import FINITE, UNSET, worst_of
from companion.internals import (
    base_of,
    leave_mode,
    next_number,
    running_pass,
    unseen,
    version_of,
)
from companion.source import Place, Source, is_call_of_library, is_installed, is_users, source_at

Tensor = torch.Tensor


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


@dataclass(slots=True, eq=False)
class TensorState:
    """What is known of a tensor that is alive."""

    value: Value
    version: int | None
    next_note: int  # the index of the first note that is younger than this state
    fingerprint: int | None = None  # of its memory at this version
    worst: int | None = None  # whether its values are finite, as ``values`` has it; None: not asked
    finalizer: Any = None  # a weak reference that drops this state when the tensor is gone


# Tensors with what is known of them.
Known = list[tuple[Tensor, TensorState]]


class Call(NamedTuple):
    """A call that is about to run."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Known  # the tensors whose values it takes
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
    mode_code: str = ""  # if gradients were off, or for autograd.grad: the code of the cut
    in_place: bool = False
    addresses: tuple[int | None, ...] = ()  # of the memory that it wrote into or handed out
    hidden: bool = False  # it is not listed among the operations
    stands_for: int | None = None  # if hidden: the note whose operation is named for it
    inside: Place | None = None  # in the code of a library that the call site led to
    by_library: bool = False  # if it has no graph: no line of the user asked for that

    @property
    def source(self) -> Source | None:
        return None if self.call_site is None else source_at(*self.call_site, self.inside)


class Recorder(TorchFunctionMode):
    """Sees the calls, and keeps the notes.

    Every operation passes through these methods, so each call in them makes ``watch`` slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Note] = []
        self.states: dict[ref[Tensor], TensorState] = {}  # ref(t) is the same as long as t lives
        # A float that item() gave is known by identity; it is looked up by value.
        self.floats: dict[complex, list[tuple[complex, Value]]] = {}
        self.last_written: dict[int | None, Value] = {}  # by the address of the memory
        self.nonfinite: dict[tuple[int | None, int], int] = {}  # by origin, how bad: see ``values``
        self.births: list[int] = []  # the notes whose results are worse than what they took
        self.is_function_code: dict[CodeType, bool] = {}  # of a torch.autograd.Function
        self.entry_code: CodeType | None = None  # the code that entered the block
        self.backward_pass = running_pass()  # -1 outside of any
        self.closed = False
        self.fast_paths: FastPaths | None = None  # while the block is open
        self.library_switched = False  # a library switched gradients off, not the user
        self.outside = 0  # how many tensors came from outside of the block

    def enter(self, entry_code: CodeType) -> None:
        """Begin to note."""
        self.entry_code = entry_code
        self.__enter__()  # type: ignore[no-untyped-call]
        self.fast_paths = FastPaths(self, self.note_module)
        self.fast_paths.open()

    def leave(self) -> None:
        """Stop noting."""
        self.closed, self.entry_code = True, None
        self.floats.clear()
        if self.fast_paths:
            self.fast_paths.close()
            self.fast_paths = None
        leave_mode(self)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if is_dynamo_compiling():  # which would compile what stands below
            return func(*args, **kwargs)
        name = noted_name(func)
        if name is None or self.closed or running_pass() != self.backward_pass:
            if is_switch(func) and torch.is_grad_enabled() and not args[0]:
                self.library_switched = is_call_of_library(sys._getframe(1))
            return func(*args, **kwargs)
        with unseen():  # no other mode and no subclass sees us look
            call = self.before(name, args, kwargs)
        result = func(*args, **kwargs)
        with unseen():
            self.after(call, result)
        return result

    def note_module(self, name: str, arguments: list[Any], first: int, result: Any) -> None:
        """Note the call of a module that ran out of sight, and made its first Node as this one."""
        with unseen():
            call = self.before(name, tuple(arguments), {})
            self.after(call._replace(next_number=first), result)

    # ---- before the call

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """What is known of the tensors and floats that a call takes."""
        read = args[READ[name]] if name in READ else args
        if kwargs or any([type(argument) not in _SIMPLE for argument in read]):
            read = tuple(_flat([*read, *kwargs.values()]))
            tensors = _tensors(read)
        else:  # the usual case, in a third of the time
            tensors = [argument for argument in read if type(argument) in PLAIN]
        inputs = [(tensor, self.state_of(tensor)) for tensor in tensors]
        if inputs and inputs[0][1].worst is None and overwrites(name):
            inputs[0][1].worst = worst_of(inputs[0][0])
        values = [state.value for _, state in inputs]
        if self.floats:
            values = self.values_of_floats(read) + values
        live = name not in VALUELESS and any([value[2] for value in values])
        call: Call = _new(Call, (name, args, kwargs, inputs, values, live, next_number()))
        return call

    def values_of_floats(self, arguments: Iterable[Any]) -> list[Value]:
        """The values of those arguments that are floats which came from tensors."""
        floats = [x for x in arguments if type(x) in _NUMBERS and x in self.floats]
        return [value for x in floats for known, value in self.floats[x] if known is x]

    def state_of(self, tensor: Tensor) -> TensorState:
        """What is known of a tensor, brought up to date."""
        state = self.states.get(ref(tensor))
        if state is None:
            return self.first_sight(tensor)
        if version_of(tensor) != state.version:
            self.catch_up(tensor, state)
        if tensor.requires_grad != state.value.requires_grad:  # requires_grad_(), Function.apply
            state.value = state.value._replace(requires_grad=tensor.requires_grad)
        return state

    def first_sight(self, tensor: Tensor) -> TensorState:
        """Begin to follow a tensor that no call of the block gave."""
        self.outside += 1
        value = Value(shape_of(tensor), tensor.dtype, tensor.requires_grad, None, self.outside)
        base = base_of(tensor)
        base_state = None if base is None else self.states.get(ref(base))
        if base_state is not None:  # a view made out of sight, as Function.apply makes them
            origin = base_state.value
            value = value._replace(made_by=origin.made_by, output_nr=origin.output_nr)
        return self.follow(tensor, TensorState(value, version_of(tensor), len(self.notes)))

    def catch_up(self, tensor: Tensor, state: TensorState) -> None:
        """Note that the memory of a tensor was written into by way of another tensor."""
        writer = self.last_written.get(memory_of(tensor))
        if writer is not None and writer.made_by is not None and writer.made_by >= state.next_note:
            last = self.notes[-1].numbers[1]
            note = Note("", None, [state.value, writer], [writer], (last, last), hidden=True)
            if worst := self.nonfinite.get((writer.made_by, writer.output_nr)):
                self.nonfinite[len(self.notes), 0] = worst
            state.value = state.value._replace(made_by=len(self.notes), output_nr=0)
            self.notes.append(note._replace(stands_for=writer.made_by))
        state.version, state.fingerprint = version_of(tensor), None
        state.worst = UNSET if state.worst == UNSET else None
        state.next_note = len(self.notes)

    def follow(self, tensor: Tensor, state: TensorState) -> TensorState:
        """Keep what is known of a tensor for as long as it lives."""
        key = ref(tensor)
        self.states[key] = state
        state.finalizer = ref(tensor, partial(self.states.pop, key))
        return state

    # ---- after it

    def after(self, call: Call, result: Any) -> None:
        """Note the call, if it gave a tensor, wrote into one or read the values of one."""
        name, _, _, inputs, input_values, live, first = call
        numbers = first, next_number()
        given = _given(result)
        written = _written(call, result)
        if not (given or written or name in NOTED_WITHOUT_TENSORS):
            return
        index = len(self.notes)
        made = _union(given, written)
        outputs = [(tensor, self.update(tensor, index, nr)) for nr, tensor in enumerate(made)]
        if outputs:
            self.look_at_values(call, outputs, written)
        values = [state.value for _, state in outputs]
        if name in LEAVING:
            values += self.floats_in(result, input_values, index)
        has_graph = live and any([value[2] for value in values])
        if has_graph:
            self.take_fingerprints(inputs + outputs, index + 1)
        mode_code = "" if has_graph else _mode_code(call)
        addresses = self.addresses(call, written)
        call_site, inside, hidden = self.call_site(call)
        is_live = live and not hidden
        by_library = is_live and not has_graph and self.is_by_library(mode_code)
        note = (name, call_site, input_values, values, numbers, is_live, mode_code)
        more = (bool(written), addresses, hidden, None, inside, by_library)
        self.notes.append(_new(Note, note + more))

    def look_at_values(self, call: Call, outputs: Known, written: list[Tensor]) -> None:
        """Find out whether what a call gave is finite, and if not, whether what it took was."""
        before = [state.worst for _, state in call.inputs] if written else None
        worst_given = FINITE
        for nr, (tensor, state) in enumerate(outputs):
            if not written and state.worst is None and self.is_finite_view(call, tensor):
                state.worst = FINITE
            elif written or state.worst is None:
                state.worst = worst_of(tensor)
            worst = state.worst
            if worst:
                before = before or [state.worst for _, state in call.inputs]
                if "empty" in call.name or UNSET in before:
                    state.worst = UNSET
                    continue
                self.nonfinite[len(self.notes), nr] = worst
                worst_given = max(worst_given, worst)
        if worst_given and worst_given > self.worst_taken(call, before or [], written):
            self.births.append(len(self.notes))

    def is_finite_view(self, call: Call, tensor: Tensor) -> bool:
        """Whether a tensor shows nothing but what was finite."""
        return base_of(tensor) is not None and all([s.worst == FINITE for _, s in call.inputs])

    def worst_taken(self, call: Call, before: list[int | None], written: list[Tensor]) -> int:
        """How bad the worst value is that a call took."""
        taken = FINITE
        for (tensor, state), worst in zip(call.inputs, before, strict=True):
            if worst is None and not any(tensor is other for other in written):
                worst = state.worst = worst_of(tensor)
            taken = max(taken, worst or FINITE)
        return taken

    def update(self, tensor: Tensor, index: int, nr: int) -> TensorState:
        """Bring up to date what is known of a tensor that a call made or changed."""
        fields = (shape_of(tensor), tensor.dtype, tensor.requires_grad, index, nr)
        value: Value = _new(Value, fields)
        state, version = self.states.get(ref(tensor)), version_of(tensor)
        if state is None:
            return self.follow(tensor, TensorState(value, version, index + 1))
        state.value = value
        if state.version != version:  # after .data = ... it is the same: the fingerprint counts
            state.version, state.next_note, state.fingerprint = version, index + 1, None
        return state

    def floats_in(self, result: Any, values: list[Value], index: int) -> list[Value]:
        """The value that stands for the floats in a result; keep these to recognize them."""
        floats = [x for x in _flat([result]) if type(x) in _NUMBERS]
        if not floats or not values:
            return []
        value = values[0]._replace(shape=(), requires_grad=False, made_by=index, output_nr=0)
        for x in floats:
            self.floats.setdefault(x, []).append((x, value))
        return [value]

    def addresses(self, call: Call, written: list[Tensor]) -> tuple[int | None, ...]:
        """The addresses of what a call wrote into, or handed out of autograd's sight."""
        if call.name in ALIASING and not written:
            return tuple([memory_of(tensor) for tensor, _ in call.inputs[:1]])
        for tensor in written:
            self.last_written[memory_of(tensor)] = self.states[ref(tensor)].value
        return tuple(map(memory_of, written))

    def take_fingerprints(self, known: Known, next_note: int) -> None:
        """Take the fingerprint of each tensor, to see later whether its memory was changed."""
        for tensor, state in known:
            if state.fingerprint is None:
                state.fingerprint, state.next_note = fingerprint(tensor), next_note

    def is_by_library(self, mode_code: str) -> bool:
        """Whether a library saw to it that the call gives no graph: by itself, or by a switch."""
        if mode_code == "no-grad":
            return self.library_switched
        return is_call_of_library(sys._getframe(3))  # of what called torch

    def call_site(self, call: Call) -> tuple[Place | None, Place | None, bool]:
        """Where the user's own code is, and a library in it; whether ``Function.apply`` called.

        If so the call site is that of ``apply``.
        """
        # apply gives an input that forward returned as a view of itself.
        by_apply = call.name == "view_as" and call.args[0] is call.args[-1]
        frame, site, inside = sys._getframe(3), None, None  # of what called torch
        while frame is not None:
            code = frame.f_code
            if site is None and is_users(code.co_filename):
                if not is_installed(code.co_filename):
                    site = code, frame.f_lasti
                else:
                    inside = inside or (code, frame.f_lasti)
            if code is self.entry_code:
                break
            if code.co_name in ("forward", "setup_context") and self.is_of_a_function(code):
                site, inside, by_apply = None, None, True
            frame = frame.f_back  # type: ignore[assignment]
        return (inside, None, by_apply) if site is None else (site, inside, by_apply)

    def is_of_a_function(self, code: CodeType) -> bool:
        """Whether it is the code of a ``torch.autograd.Function``, and not of a module, say."""
        if code not in self.is_function_code:
            classes: list[Any] = [torch.autograd.Function]
            for cls in classes:  # the list grows by the classes made from these
                classes += cls.__subclasses__()
            methods = (inspect.unwrap(getattr(cls, code.co_name)) for cls in classes)
            self.is_function_code[code] = any(getattr(m, "__code__", None) is code for m in methods)
        return self.is_function_code[code]


def _given(result: Any) -> list[Tensor]:
    """The tensors that a call gave."""
    return [result] if type(result) in PLAIN else _tensors(_flat([result]))


def _written(call: Call, result: Any) -> list[Tensor]:
    """The tensors that a call wrote into."""
    if result is None and call.name in ASSIGNING:  # the version need not move
        return [tensor for tensor, _ in call.inputs[:1]]
    written = [tensor for tensor, state in call.inputs if version_of(tensor) != state.version]
    if call.name in SILENT:
        written += written_silently(call.name, call.args, call.kwargs)
    return written


def _mode_code(call: Call) -> str:
    """The code of the cut that is due to how gradients were asked for or switched off."""
    if call.name == "grad":  # even where gradients are off, create_graph decides
        return "constant-gradient" if call.kwargs.get("create_graph") else "penalty-detached"
    if torch.is_grad_enabled():
        return ""
    return "inference-mode" if torch.is_inference_mode_enabled() else "no-grad"


def _union(given: list[Tensor], written: list[Tensor]) -> list[Tensor]:
    """What a call gave, and what it wrote into and did not give."""
    if not written:
        return given
    # Not ``in``, which would compare the elements.
    return [*given, *[t for t in written if not any(t is other for other in given)]]


def _flat(arguments: Iterable[Any]) -> list[Any]:
    """All that is in nested lists, tuples and dicts, and those themselves."""
    flat = list(arguments)
    for argument in flat:  # which grows
        if isinstance(argument, _NESTS):
            flat += argument.values() if isinstance(argument, dict) else argument
    return flat


def _tensors(arguments: Iterable[Any]) -> list[Tensor]:
    """The tensors among them that can be looked up."""
    return [t for t in arguments if isinstance(t, Tensor) and type(t).__hash__ is not None]


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    try:
        return tensor.shape
    except RuntimeError:  # nested
        return None


_new: Any = tuple.__new__  # makes a NamedTuple in half the time
_NESTS = list, tuple, dict
_NUMBERS = float, complex
_SIMPLE = {*PLAIN, *_NUMBERS, int, bool, str, type(None)}  # in which no tensors are
