"""A forward pass under ``watch()``: what ran, on which line, and where the graph was cut.

What ``notes`` wrote down while the block was open is read here, when somebody asks.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from companion.findings import cut_message
from companion.forward.fingerprints import fingerprint, memory_of
from companion.forward.recorder import (
    DECIDING,
    LEAVING,
    PROPERTIES,
    VALUELESS,
    Note,
    Recorder,
    Value,
    alive,
    shape_of,
)
from companion.internals import base_of, number_of, unseen, version_of
from companion.source import Source

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of torch under ``watch``.

    Attributes:
        index: its position in ``Watch.operations``.
        name: torch's name of the function, such as ``"matmul"`` or ``"__getitem__"``; of a property
            its name, such as ``"data"``.
        source: where the user's code called it; None if no frame of the user was there.
        inputs: the tensors that it took, and the floats that came from tensors of the block.
        outputs: the tensors that it gave or wrote in place; one that stands for the floats that
            ``item()`` or ``tolist()`` gave. Whole numbers and arrays are not among them.
        in_place: whether it wrote into a tensor that it took.
    """

    index: int
    name: str
    source: Source | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    in_place: bool

    @property
    def called(self) -> str:
        """The operation as one would write it: ``argmax()``, ``.data``, ``float()``."""
        if self.name in PROPERTIES:
            return f".{self.name}"
        return _WRITTEN.get(self.name, self.name.strip("_") + "()")


@dataclass(frozen=True, slots=True)
class Cut:
    """A tensor that required grad went into an operation, and what came out does not.

    Attributes:
        index: the index of the operation.
        code: the kind: ``"detached"``, ``"left-torch"``, ``"copied"``, ``"not-differentiable"``,
            ``"no-formula"``, ``"no-grad"``, ``"inference-mode"`` or ``"control-flow"``; of
            ``torch.autograd.grad`` ``"penalty-detached"`` or ``"constant-gradient"``.
        operation: the operation.
        message: what happened, in a sentence.
        follows: whether all that became of the value could be followed. False where it became a
            number, a list or an array: computed with outside of torch, it may have come back.
    """

    index: int
    code: str
    operation: Operation
    message: str
    follows: bool

    @property
    def source(self) -> Source | None:
        """Where in the user's code the cut is."""
        return self.operation.source

    def __str__(self) -> str:
        return f"cut at {self.source or _SOMEWHERE} ({self.code}): {self.message}"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A tensor that was changed while autograd could not notice: its version did not move.

    Attributes:
        source: where that happened, as far as it was seen; else None.
        message: what happened, in a sentence.
        shape: the shape of the tensor.
        dtype: its dtype.
    """

    source: Source | None
    message: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"mutation at {self.source or _SOMEWHERE}: {self.message}"


class Watch:
    """What a forward pass did. Made by ``watch``; it keeps no tensor alive."""

    def __init__(self) -> None:
        self._seen = Recorder()
        self._entered = False
        self._operations: list[Operation] = []
        self._public: list[int | None] = []  # for each note the index of the operation
        self._found: list[Mutation] = []
        self._judged = -1  # how many notes there were when these were found out
        self._deciding: set[int | None] = set()
        self._away: set[int] = set()

    def __enter__(self) -> Watch:
        if self._entered:
            raise ValueError(
                "this watch has been entered before; call watch() again for another block"
            )
        self._entered = True
        self._seen.around = sys._getframe(1).f_code
        self._seen.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.leave()
        self._look_for_mutations()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Every operation, in the order in which they ran. Those inside ``Function.forward`` are
        not among them."""
        notes = self._seen.notes
        for note in notes[len(self._public) :]:
            index = None if note.quiet else len(self._operations)
            self._public.append(index if note.stands_for is None else self._public[note.stands_for])
            if index is not None:
                self._operations.append(
                    Operation(
                        index,
                        note.name,
                        note.source,
                        tuple(map(self._publish, note.inputs)),
                        tuple(map(self._publish, note.outputs)),
                        note.in_place,
                    )
                )
        return tuple(self._operations)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Every cut, in order; whether it does harm depends on whether its value is used."""
        places = (
            (i, 0)
            for i, note in enumerate(self._seen.notes)
            if note.live and not any(value.requires_grad for value in note.outputs)
        )
        return self._tell(places)

    @property
    def mutations(self) -> tuple[Mutation, ...]:
        """Tensors that were changed behind autograd's back, up to now.

        Each tensor that an operation with a graph took or gave is compared with its own
        fingerprint, if it is alive, is on the CPU and is dense. A tensor that took part in no such
        operation, one of a class of its own, and one made in inference mode are not compared.
        """
        self._look_for_mutations()
        return tuple(self._found)

    def reaching(self, output: Tensor) -> tuple[Cut, ...]:
        """The cuts whose value went into a tensor, whether it has a graph or not.

        Also among them are outputs without gradient of operations that have others with one, such
        as ``x.max(0).indices``. A cut that is not among them may yet have gone into the tensor if
        its ``follows`` is False. One of code ``"control-flow"`` never is: it decided what was
        computed, and went into nothing.

        Args:
            output: a tensor of any shape, computed in the block.

        Raises:
            TypeError: ``output`` is not a tensor.

        Examples:
            >>> x = torch.ones(2, requires_grad=True)
            >>> with watch() as watched:
            ...     y = x.detach() * x
            ...     z = x.detach().exp()
            >>> [cut.index for cut in watched.cuts]
            [0, 2]
            >>> [cut.index for cut in watched.reaching(y)]
            [0]
        """
        behind = self._behind([self._value(output)])
        return self._tell(place for place in behind if self._is_cut(*place))

    def first_reaching(self, output: Tensor) -> tuple[Cut, ...]:
        """Those of ``reaching`` whose value went into a tensor on some way without another cut.

        Args:
            output: a tensor of any shape, computed in the block.

        Raises:
            TypeError: ``output`` is not a tensor.

        Examples:
            >>> x = torch.ones(2, requires_grad=True)
            >>> with watch() as watched:
            ...     y = (x.detach() * x).sum().item() * x
            >>> [cut.source.text for cut in watched.first_reaching(y)]
            ['(x.detach() * x).sum().item()']
        """
        behind = self._behind([self._value(output)], through_cuts=False)
        return self._tell(place for place in behind if self._is_cut(*place))

    def cut_off(self, node: Any) -> tuple[tuple[int | None, Cut], ...]:
        """The cuts whose values the operation of a Node took in place of something with a graph.

        Args:
            node: a live Node that was made in the block; of others nothing is known.

        Returns:
            For each such cut the slot of the Node that leads to None because of it, as far as it
            can be told, and the cut. The slot is None where the value has none, as an index.

        Raises:
            TypeError: ``node`` is not a Node.

        Examples:
            >>> x = torch.ones(2, requires_grad=True)
            >>> with watch() as watched:
            ...     y = x * x.detach().exp()
            >>> [(slot, cut.source.text) for slot, cut in watched.cut_off(y.grad_fn)]
            [(1, 'x.detach()')]
        """
        at = self._notes_of(node)
        inputs = [v for i in at for v in self._seen.notes[i].inputs if (v.made_by or 0) not in at]
        slots = node.next_functions
        nones = [slot for slot, (child, _) in enumerate(slots) if child is None]
        found: list[tuple[int | None, Cut]] = []
        for place, value in enumerate(inputs):
            if value.requires_grad:
                continue
            behind = self._behind([value], through_cuts=False)
            places = [one for one in behind if self._is_cut(*one)]
            if not places:
                continue
            cuts = self._tell(places)
            # Where each input has a slot they come in one order; a number's slot is found so too.
            own = place if len(inputs) == len(slots) and place in nones else None
            slot = nones[0] if own is None and nones else own
            if value.dtype is torch.bool or value.dtype is torch.long:  # a mask, an index
                slot = None
            found += [(slot, cut) for cut in cuts]
        return tuple(dict.fromkeys(found))

    def source_of(self, node: Any) -> Source | None:
        """Where in the user's code a Node was made; None if not in this block.

        Of a custom Function it is the place of ``apply``. Autograd numbers the Nodes of each thread
        by themselves, and a Node of another thread may be taken for one of this.

        Args:
            node: a ``grad_fn``, or what its ``next_functions`` lead to.

        Raises:
            TypeError: ``node`` is not a Node.

        Examples:
            >>> x = torch.ones(2, requires_grad=True)
            >>> with watch() as watched:
            ...     y = (x * 2).sum()
            >>> watched.source_of(y.grad_fn.next_functions[0][0]).text
            'x * 2'
        """
        at = self._notes_of(node)
        return self._seen.notes[at[0]].source if at else None

    def written_at(self, tensor: Tensor) -> Source | None:
        """Where in the block torch last wrote into the memory of a tensor; None if it did not.

        Args:
            tensor: a tensor of any shape.

        Raises:
            TypeError: ``tensor`` is not a tensor.

        Examples:
            >>> x = torch.ones(2)
            >>> with watch() as watched:
            ...     x.add_(1)
            tensor([2., 2.])
            >>> watched.written_at(x).text
            'x.add_(1)'
        """
        if not isinstance(tensor, Tensor):
            raise TypeError(f"tensor must be a tensor, got {type(tensor).__name__}")
        with unseen():
            memory = memory_of(tensor)
        for note in reversed(self._seen.notes):
            if note.in_place and memory is not None and memory in note.memory:
                return note.source
        return None

    def __str__(self) -> str:
        cuts, mutations = self.cuts, self.mutations
        counts = [(len(self.operations), "operation"), (len(cuts), "cut")]
        counts += [(len(mutations), "mutation")] if mutations else []
        first = ", ".join(f"{n} {what}" + "s" * (n != 1) for n, what in counts)
        return "\n".join([first, *map(str, cuts), *map(str, mutations)])

    def __repr__(self) -> str:
        return f"<Watch: {len(self.operations)} operations, {len(self.cuts)} cuts>"

    def _publish(self, value: Value) -> Value:
        shape = None if value.shape is None else tuple(value.shape)
        made_by = None if value.made_by is None else self._public[value.made_by]
        return value._replace(shape=shape, made_by=made_by)

    def _value(self, output: Tensor) -> Value:
        if not isinstance(output, Tensor):
            raise TypeError(f"output must be a tensor, got {type(output).__name__}")
        with unseen():
            return self._seen.read(output).value

    def _notes_of(self, node: Any) -> range:
        """Which notes tell of the operation that made a Node: several for a custom Function."""
        if not isinstance(node, torch.autograd.graph.Node):
            raise TypeError(f"node must be a grad_fn, got {type(node).__name__}")
        number, notes = number_of(node), self._seen.notes
        after = bisect_right(notes, number, key=lambda note: note.numbers[0])
        at = after - 1
        while at >= 0 and notes[at].numbers[1] == notes[at].numbers[0]:  # made no Node
            at -= 1
        if at >= 0 and number < notes[at].numbers[1]:
            return range(at, at + 1)
        # A custom Function has its Node before its forward runs.
        end = after
        while end < len(notes) and notes[end].quiet and notes[end].numbers[0] == number + 1:
            end += 1
        return range(after, end)

    def _behind(self, values: Iterable[Value], through_cuts: bool = True) -> set[tuple[int, int]]:
        """Which outputs of which notes went into values."""
        notes, found = self._seen.notes, set[tuple[int, int]]()
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            place = value.made_by, value.output_nr
            if value.made_by is not None and place not in found:
                found.add((value.made_by, value.output_nr))
                note = notes[value.made_by]
                ends = note.name in VALUELESS
                if not through_cuts and self._is_cut(value.made_by, value.output_nr):
                    ends = True
                waiting += () if ends else note.inputs
        return found

    def _is_cut(self, i: int, nr: int) -> bool:
        note = self._seen.notes[i]
        if not note.live or note.outputs[nr].requires_grad:
            return False
        # An integer beside floats with a graph: indices. A float beside them is a constant that
        # came along, such as the running mean of a normalization.
        alone = not any(value.requires_grad for value in note.outputs)
        return alone or not _is_continuous(note.outputs[nr].dtype)

    def _tell(self, places: Iterable[tuple[int, int]]) -> tuple[Cut, ...]:
        operations, notes = self.operations, self._seen.notes
        if self._judged != len(notes):
            self._judge()
        first: dict[int, int] = {}
        for i, nr in sorted(places):
            first.setdefault(i, nr)
        cuts = []
        for i, nr in first.items():
            index = self._public[i]
            if index is None:
                continue
            dtype = notes[i].outputs[nr].dtype if notes[i].outputs else None
            code = "control-flow" if i in self._deciding else _code(notes[i], dtype)
            called = operations[index].called
            kind = str(dtype).removeprefix("torch.")
            message = cut_message(code, called, kind)
            cuts.append(Cut(index, code, operations[index], message, i not in self._away))
        return tuple(cuts)

    def _judge(self) -> None:
        """Find out of which notes the outputs only decided, and of which they left torch."""
        notes = self._seen.notes
        used_by = [
            (value.made_by, note.name in DECIDING) for note in notes for value in note.inputs
        ]
        self._deciding = {i for i, decides in used_by if decides}.difference(
            i for i, decides in used_by if not decides
        )
        left = [i for i, note in enumerate(notes) if note.name in LEAVING]
        behind = self._behind(value for i in left for value in notes[i].inputs)
        self._away = {i for i, _ in behind}.union(left)
        self._judged = len(notes)

    def _look_for_mutations(self) -> None:
        recorder = self._seen
        changed: dict[int | None, tuple[Tensor, int]] = {}
        with unseen():
            for reference, seen in list(recorder.seen.items()):
                tensor = alive(reference)
                if tensor is None or seen.bits is None or seen.version != version_of(tensor):
                    continue
                if seen.bits != fingerprint(tensor):
                    memory = memory_of(tensor)
                    if memory not in changed or base_of(tensor) is None:  # of all views one
                        changed[memory] = tensor, seen.since
                    seen.bits = None  # and is told once
        for memory, (tensor, since) in changed.items():
            self._found.append(self._mutation(tensor, memory, since))

    def _mutation(self, tensor: Tensor, memory: int | None, since: int) -> Mutation:
        """Who changed it: what wrote into its memory last, or handed the memory out."""
        with unseen():
            shape, dtype = shape_of(tensor), tensor.dtype
        shape = None if shape is None else tuple(shape)
        notes = [(i, note) for i, note in enumerate(self._seen.notes) if memory in note.memory]
        wrote = [note for i, note in notes if note.in_place and i >= since]
        gave = [note for _, note in notes if not note.in_place]
        what = f"a tensor of shape {shape} and dtype {str(dtype).removeprefix('torch.')}"
        if wrote:
            how = f"{wrote[-1].name} wrote into {what} through an alias such as .data"
        elif gave:
            how = f"{what} was changed through what {gave[-1].name} gave"
        else:
            how = f"{what} was changed outside of torch's operations"
        end = ", which autograd cannot notice: its gradients may be silently wrong"
        source = (wrote or gave)[-1].source if wrote or gave else None
        return Mutation(source, how + end, shape, dtype)


def watch() -> Watch:
    """Note what a forward pass does, to tell afterwards where its graph was cut.

    In the block everything computes what it always computes: values, gradients, versions, saved
    tensors and errors are the same, and nothing outlives what it would. Only a warning names a line
    of this package as its place. Of other threads nothing is seen; of this one all that runs while
    the block is open, but for backward passes.

    An operation is a call that gives a tensor, writes into one or reads the values of one, but for
    printing, ``.grad`` and ``requires_grad_()``. What runs inside such a call is not seen, nor what
    compiled code does. Inside the ``forward`` of a ``torch.autograd.Function``, where gradients are
    always off, nothing is listed, but the data is followed through it. A number that ``item()``
    gave is followed as long as it is that very float; what Python or NumPy compute from it is not.

    Returns:
        A ``Watch``, to be entered once: ``with watch() as watched``.

    Raises:
        ValueError: on entering it a second time.

    Examples:
        >>> x = torch.ones(2, requires_grad=True)
        >>> with watch() as watched:
        ...     y = x * x.max().item()
        >>> [(cut.code, cut.source.text) for cut in watched.cuts]
        [('left-torch', 'x.max().item()')]
        >>> watched.reaching(y) == watched.cuts
        True
    """
    return Watch()


def _is_continuous(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _code(note: Note, dtype: torch.dtype | None) -> str:
    """The kind of a cut. What the call itself does comes before where it was made."""
    if note.name.partition(".")[0] in _DETACHING:  # torch.ops.aten.detach.default as well
        return "detached"
    if note.name in _COPYING:
        return "copied"
    if note.name in DECIDING:
        return "control-flow"
    if note.name in LEAVING:
        return "left-torch"
    if dtype is not None and not _is_continuous(dtype):
        return "not-differentiable"
    return note.gradients or "no-formula"


_SOMEWHERE = "an unknown place"
_DETACHING = set("data detach detach_".split())
_COPYING = set("tensor new_tensor as_tensor asarray".split())
_WRITTEN = {
    "__array__": "the conversion to NumPy",
    "__index__": "the use as an index",
    "__contains__": "in",
    "__getitem__": "indexing",
    "__setitem__": "assigning to a part",
}
