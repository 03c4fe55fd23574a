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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch.overrides import TorchFunctionMode

from companion.forward.fingerprints import PLAIN, fingerprint, memory_of
from companion.internals import (
    SET_GRAD_ENABLED,
    base_of,
    leave_mode,
    next_number,
    revive,
    running_pass,
    unseen,
    version_of,
)
from companion.source import Source, is_users, source_at

Tensor = torch.Tensor


class Value(NamedTuple):
    """A tensor that went into an operation or came out of it, as it was then.

    Attributes:
        shape: its shape; None for a nested tensor.
        dtype: its dtype.
        requires_grad: whether it required grad.
        made_by: the index of the operation that wrote it last; None if that was before the block,
            or out of sight.
        output_nr: which of the outputs of that operation it is.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype
    requires_grad: bool
    made_by: int | None = None
    output_nr: int = 0


@dataclass(slots=True, eq=False)
class Seen:
    """What is known of a tensor."""

    value: Value
    version: int | None
    since: int  # the notes from this one on are younger than what is known
    bits: int | None = None  # a fingerprint of what it held at this version
    end: Any = None  # calls when the tensor is gone


class Note(NamedTuple):
    """What is noted of a call while the block runs."""

    name: str
    place: tuple[CodeType, int] | None
    inputs: list[Value]
    outputs: list[Value]
    numbers: tuple[int, int]  # of the next Node: before, and after
    live: bool = False  # an input required grad
    gradients: str = ""  # where they were off, or for autograd.grad: the code of the cut
    in_place: bool = False
    memory: tuple[int | None, ...] = ()  # of what it wrote into, or gave out of autograd's sight
    quiet: bool = False  # it is not listed
    stands_for: int | None = None  # instead of it the operation of this note is named

    @property
    def source(self) -> Source | None:
        return None if self.place is None else source_at(*self.place)


class Recorder(TorchFunctionMode):
    """Sees the calls, and keeps the notes."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Note] = []
        self.seen: dict[ref[Tensor], Seen] = {}  # ref(t) is the same as long as t lives
        self.floats: dict[complex, list[tuple[complex, Value]]] = {}  # by value; told by identity
        self.wrote: dict[int | None, Value] = {}  # memory -> what was written into it last
        self.functions: dict[CodeType, bool] = {}  # whether they are of a torch.autograd.Function
        self.around: CodeType | None = None  # the code that entered the block
        self.backward = running_pass()  # -1 outside of any backward pass
        self.over = False

    def leave(self) -> None:
        """Stop noting."""
        self.over, self.around = True, None
        self.floats.clear()
        leave_mode(self)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # which would compile what stands below
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):
            name, accessor = getattr(getattr(func, "__self__", None), "__name__", ""), name
            skipped = name not in PROPERTIES
        else:
            accessor, skipped = "", name in _SKIPPED
        if skipped or self.over or running_pass() != self.backward:
            return func(*args, **kwargs)
        with unseen():  # no other mode and no subclass sees us look
            tensors, values = self.inputs(args[_READ[name]] if name in _READ else args, kwargs)
            before = [self.read(tensor) for tensor in tensors]
            values += [seen.value for seen in before]
            live = name not in VALUELESS and any([value[2] for value in values])
            first = next_number()
        result = func(*args, **kwargs)
        with unseen():
            numbers = first, next_number()
            given = [result] if type(result) in PLAIN else _tensors(_flat([result]))
            if name == "__setitem__" or accessor == "__set__":  # the version need not tell
                written = tensors[:1]
            else:
                pairs = zip(tensors, before, strict=True)
                written = [t for t, seen in pairs if version_of(t) != seen.version]
            leaves = name in LEAVING
            if not (given or written or leaves or name in DECIDING):
                return result
            index = len(self.notes)
            own = [*given, *[t for t in written if not any(t is one for one in given)]]
            after = [self.wrote_to(tensor, index, nr) for nr, tensor in enumerate(own)]
            outputs = [seen.value for seen in after]
            if leaves:
                outputs += self.numbers_in(result, values, index)
            memory: tuple[int | None, ...] = ()
            if written or name in _ALIASING:
                memory = tuple(map(memory_of, written or tensors[:1]))
                for tensor, address in zip(written, memory, strict=False):
                    self.wrote[address] = self.seen[ref(tensor)].value
            off = ""
            if not torch.is_grad_enabled():
                off = "inference-mode" if torch.is_inference_mode_enabled() else "no-grad"
            if name == "grad":  # whatever the mode is, what it gives has a graph if it is told so
                off = "constant-gradient" if kwargs.get("create_graph") else "penalty-detached"
            place, quiet = self.place()
            # Function.apply gives an input that forward returned as a view of itself.
            quiet = quiet or (name == "view_as" and args[0] is args[-1])
            note = (name, place, values, outputs, numbers, live and not quiet, off)
            self.notes.append(_new(Note, (*note, bool(written), memory, quiet, None)))
            if live and any([value[2] for value in outputs]):
                for tensor, seen in zip(tensors + own, before + after, strict=True):
                    if seen.bits is None:
                        seen.bits, seen.since = fingerprint(tensor), index + 1
        return result

    def place(self) -> tuple[tuple[CodeType, int] | None, bool]:
        """Where the user's code is, and whether that is inside ``Function.forward``.

        If so the place is where ``apply`` was called.
        """
        frame, found, quiet = sys._getframe(2), None, False
        while frame is not None:
            code = frame.f_code
            if found is None and is_users(code.co_filename):
                found = code, frame.f_lasti
            if code is self.around:
                break
            if code.co_name in ("forward", "setup_context") and self.is_of_a_function(code):
                found, quiet = None, True
            frame = frame.f_back  # type: ignore[assignment]
        return found, quiet

    def is_of_a_function(self, code: CodeType) -> bool:
        """Whether it is the code of a ``torch.autograd.Function``, and not of a module, say."""
        if code not in self.functions:
            kinds: list[Any] = [torch.autograd.Function]
            for kind in kinds:  # the list grows by the classes made from these
                kinds += kind.__subclasses__()
            methods = (inspect.unwrap(getattr(kind, code.co_name)) for kind in kinds)
            self.functions[code] = any(getattr(m, "__code__", None) is code for m in methods)
        return self.functions[code]

    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Tensor], list[Value]]:
        """The tensors among arguments, and the values of floats that came from tensors."""
        if kwargs or any([type(thing) not in _SIMPLE for thing in args]):
            args = _flat([*args, *kwargs.values()])
            tensors = _tensors(args)
        else:  # the usual case, in a third of the time
            tensors = [thing for thing in args if type(thing) in PLAIN]
        values = list[Value]()
        if self.floats:
            for thing in args:
                if type(thing) in _NUMBERS and thing in self.floats:
                    values += [value for one, value in self.floats[thing] if one is thing]
        return tensors, values

    def numbers_in(self, result: Any, values: list[Value], index: int) -> list[Value]:
        """The value of the floats that left torch, which are kept to be known again."""
        floats = [one for one in _flat([result]) if type(one) in _NUMBERS]
        if not floats or not values:
            return []
        value = values[0]._replace(shape=(), requires_grad=False, made_by=index, output_nr=0)
        for one in floats:
            self.floats.setdefault(one, []).append((one, value))
        return [value]

    def read(self, tensor: Tensor) -> Seen:
        """What is known of a tensor, brought up to date."""
        seen = self.seen.get(ref(tensor))
        version = version_of(tensor)
        if seen is None:
            value = Value(shape_of(tensor), tensor.dtype, tensor.requires_grad)
            base = None if (whole := base_of(tensor)) is None else self.seen.get(ref(whole))
            if base is not None:  # a view that was made out of sight, as Function.apply makes them
                value = value._replace(made_by=base.value.made_by, output_nr=base.value.output_nr)
            return self.add(tensor, Seen(value, version, len(self.notes)))
        if version != seen.version:  # somebody wrote into its memory by way of another tensor
            writer = self.wrote.get(memory_of(tensor))
            if writer is not None and writer.made_by is not None and writer.made_by >= seen.since:
                last = self.notes[-1].numbers[1]
                note = Note("", None, [seen.value, writer], [writer], (last, last), quiet=True)
                seen.value = seen.value._replace(made_by=len(self.notes), output_nr=0)
                self.notes.append(note._replace(stands_for=writer.made_by))
            seen.version, seen.bits, seen.since = version, None, len(self.notes)
        if tensor.requires_grad != seen.value.requires_grad:  # requires_grad_(), Function.apply
            seen.value = seen.value._replace(requires_grad=tensor.requires_grad)
        return seen

    def wrote_to(self, tensor: Tensor, index: int, nr: int) -> Seen:
        """Note that an operation made or changed a tensor."""
        what = (shape_of(tensor), tensor.dtype, tensor.requires_grad, index, nr)
        value: Value = _new(Value, what)
        seen, version = self.seen.get(ref(tensor)), version_of(tensor)
        if seen is None:
            return self.add(tensor, Seen(value, version, index + 1))
        seen.value = value
        if seen.version != version:  # after .data = ... it is the same, and the old bits count
            seen.version, seen.since, seen.bits = version, index + 1, None
        return seen

    def add(self, tensor: Tensor, seen: Seen) -> Seen:
        """Keep what is known of a tensor for as long as it lives."""
        key = ref(tensor)
        self.seen[key] = seen
        seen.end = ref(tensor, partial(self.seen.pop, key))
        return seen


def _flat(things: Iterable[Any]) -> list[Any]:
    """All that is in nested lists, tuples and dicts, and those themselves."""
    flat = list(things)
    for thing in flat:  # which grows
        if isinstance(thing, _NESTS):
            flat += thing.values() if isinstance(thing, dict) else thing
    return flat


def _tensors(things: Iterable[Any]) -> list[Tensor]:
    """Those among them that can be looked up."""
    return [t for t in things if isinstance(t, Tensor) and type(t).__hash__ is not None]


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    try:
        return tensor.shape
    except RuntimeError:  # nested
        return None


def alive(reference: ref[Tensor]) -> Tensor | None:
    tensor: Any = reference()
    revive(tensor)
    return tensor  # type: ignore[no-any-return]


_new: Any = tuple.__new__  # makes a NamedTuple in half the time
_NESTS = list, tuple, dict
_NUMBERS = float, complex
_SIMPLE = {*PLAIN, *_NUMBERS, int, bool, str, type(None)}  # in which no tensors are
PROPERTIES = set("data T mT H mH real imag".split())  # those that give a tensor of its values
DECIDING = set("__bool__ is_nonzero equal allclose __contains__".split())
LEAVING = set(
    "item tolist numpy __float__ __int__ __complex__ __index__ __array__ __dlpack__".split()
)
_ALIASING = set("data numpy __array__ __dlpack__".split())
# No values of the tensor that is given go into what comes out.
VALUELESS = set(
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like "
    "new_zeros new_ones new_empty new_full new_empty_strided".split()
)
# Which arguments' values are read, where not all are.
_READ = {
    "new_tensor": slice(1, None),
    **dict.fromkeys("expand_as view_as reshape_as type_as to".split(), slice(1)),
}
# They give tensors, or none, and compute nothing; or they are asked so often that it costs.
_SKIPPED = set(
    "requires_grad_ retain_grad register_hook register_post_accumulate_grad_hook backward "
    "__repr__ __format__ __reduce_ex__ __setstate__ __delete__ __dir__ rename_ "
    "dim size numel stride is_contiguous storage_offset __len__ __hash__ "
    "is_floating_point is_complex data_ptr untyped_storage".split()
) | {SET_GRAD_ENABLED}
