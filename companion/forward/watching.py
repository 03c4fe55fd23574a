"""A forward pass under ``watch()``: what ran, on which line, and where the graph was cut.

What ``recorder`` noted while the block was open is read here, when somebody asks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from companion.findings import KINDS, cut_message
from companion.forward.cuts import Cut, Cuts, Mutation, Operation, is_continuous, kind_of_cut
from companion.forward.fingerprints import memory_of
from companion.forward.notes import Change, Note, Value, shape_of
from companion.forward.recorder import Recorder
from companion.forward.torch_functions import DECIDING, LEAVING, SILENT, VALUELESS
from companion.internals import unseen
from companion.naming import counted

Tensor = torch.Tensor
Output = tuple[int, int]  # of a note: its index, and which of its outputs; the origin of values


class Watch:
    """What a forward pass did. Made by ``watch``; it keeps no tensor alive."""

    def __init__(self) -> None:
        self._recorder = Recorder()
        self._entered = False
        self._operations: list[Operation] = []
        self._operation_of: list[int | None] = []  # for each note the index of its operation
        self._mutations: list[Mutation] = []
        self._classified = -1  # how many notes there were when the others were found out
        self._deciding: set[int | None] = set()  # notes whose outputs only decided
        self._leaving: set[int] = set()  # notes whose values left torch, or went into some that did
        self._lost: set[Output] = set()  # results of Functions that should have had a Node
        self._bare: set[Output] = set()  # views without a Node that something with one took
        self._has_bare_views = False  # whether any were made
        self._has_functions = False  # whether a torch.autograd.Function ran in the block

    def __enter__(self) -> Watch:
        if self._entered:
            raise ValueError(
                "this watch has been entered before; call watch() again for another block"
            )
        self._entered = True
        self._recorder.enter(sys._getframe(1).f_code)
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.leave()
        self._look_for_mutations()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Every operation, in the order in which they ran.

        Those inside ``Function.forward`` are not among them.
        """
        self._update_operations()
        return tuple(self._operations)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Every cut, in order; whether it does harm depends on whether its value is used."""
        self._classify()
        origins = [
            (i, 0)
            for i, note in enumerate(self._recorder.notes)
            if note.live and not note.hidden
            if note.severed or not any(value.requires_grad for value in note.outputs)
        ]
        return self._cuts_at([*origins, *self._lost, *self._bare])

    @property
    def first_nonfinite(self) -> Operation | None:
        """The operation that gave the first NaN or infinity: what it took was finite.

        Where an infinity went in and the first NaN came out, it counts too. One meant as a mask
        counts as any other. What was NaN or infinite before the block was not born in it. Of an
        operation inside ``Function.forward`` the line is that of ``apply``, and the index that of
        the operation that comes next. None if there was none, as far as the values could be read.

        Examples:
            >>> x = torch.tensor([0.0, 1.0])
            >>> with watch() as watched:
            ...     y = torch.where(x > 0, x.log(), x)
            >>> watched.first_nonfinite.called, y.isfinite().all().item()
            ('log()', True)
        """
        births = self._recorder.births
        return self._operation_at(births[0]) if births else None

    @property
    def mutations(self) -> tuple[Mutation, ...]:
        """Tensors that were changed behind autograd's back, up to now.

        Each tensor that an operation with a graph took or gave is compared with its own
        fingerprint, if it or its memory is alive, on the CPU and dense. One that took part in no
        such operation, one of a class of its own, and one made in inference mode are not compared.
        A change in the block through an address, a storage or DLPack that was taken before it may
        be missed, and so may one by a hook of a backward pass or by C++ code that torch does not
        know. Whether a backward pass needs what was there before, ``diagnose`` knows.
        """
        self._look_for_mutations()
        return tuple(self._mutations)

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
        return self._cuts_before([self._value_of(output)])

    def __str__(self) -> str:
        cuts, mutations = self.cuts, self.mutations
        counts = [(len(self.operations), "operation"), (len(cuts), "cut")]
        counts += [(len(mutations), "mutation")] if mutations else []
        first = ", ".join(counted(n, noun) for n, noun in counts)
        harmless = [cut for cut in cuts if cut.by_library or KINDS[cut.code].severity == "info"]
        others = [cut for cut in cuts if cut not in harmless]
        times = Counter(map(str, [*others, *mutations, *harmless]))  # what may do harm comes first
        lines = [f"{line} ({n} times)" if n > 1 else line for line, n in times.items()]
        return "\n".join([first, *lines])

    def __repr__(self) -> str:
        operations, cuts = len(self.operations), len(self.cuts)
        return f"<Watch: {counted(operations, 'operation')}, {counted(cuts, 'cut')}>"

    def _operation_at(self, i: int) -> Operation:
        """The operation of a note, or what would be one, were it not hidden."""
        self._update_operations()
        index, note = self._operation_of[i], self._recorder.notes[i]
        if index is not None:
            return self._operations[index]
        earlier = [index for index in self._operation_of[:i] if index is not None]
        return self._operation(1 + max(earlier, default=-1), note)

    def _update_operations(self) -> None:
        """Turn the notes that came since the last time into operations."""
        for note in self._recorder.notes[len(self._operation_of) :]:
            if note.hidden:
                stands_for = note.stands_for
                index = None if stands_for is None else self._operation_of[stands_for]
                self._operation_of.append(index)
                continue
            index = len(self._operations)
            self._operation_of.append(index)
            self._operations.append(self._operation(index, note))

    def _operation(self, index: int, note: Note) -> Operation:
        inputs = tuple(map(self._published, note.inputs))
        outputs = tuple(map(self._published, note.outputs))
        return Operation(index, note.name, note.source, inputs, outputs, note.in_place)

    def _published(self, value: Value) -> Value:
        """A value whose ``made_by`` counts operations, and not notes."""
        shape = None if value.shape is None else tuple(value.shape)
        made_by = None if value.made_by is None else self._operation_of[value.made_by]
        return value._replace(shape=shape, made_by=made_by)

    def _value_of(self, output: Tensor) -> Value:
        """What is known of a tensor now."""
        if not isinstance(output, Tensor):
            raise TypeError(f"output must be a tensor, got {type(output).__name__}")
        with unseen():
            return self._recorder.state_of(output).value

    def _cuts_before(
        self, values: Iterable[Value], past: Callable[[int, int], bool] | None = None
    ) -> tuple[Cut, ...]:
        """The cuts that went into values, as far as ``_upstream`` goes."""
        self._classify()
        values = list(values)
        if self._has_functions:
            self._lost |= self._results_without_a_node(values)
        if self._has_bare_views:
            self._bare |= self._bare_views(values)
        upstream = self._upstream(values, past)
        return self._cuts_at(origin for origin in upstream if self._is_cut(*origin))

    def _is_no_cut(self, i: int, nr: int) -> bool:
        return not self._is_cut(i, nr)

    def _upstream(
        self, values: Iterable[Value], past: Callable[[int, int], bool] | None = None
    ) -> set[Output]:
        """The origins of values, and of all that went into them.

        What went into an origin that ``past`` says no to is left out.
        """
        upstream = set[Output]()
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if value.made_by is None or (origin := (value.made_by, value.output_nr)) in upstream:
                continue
            upstream.add(origin)
            note = self._recorder.notes[value.made_by]
            if note.name not in VALUELESS and (past is None or past(*origin)):
                waiting += note.inputs
        return upstream

    def _is_cut(self, i: int, nr: int) -> bool:
        """Whether no Node leads from output ``nr`` of note ``i`` to an input that required grad."""
        note = self._recorder.notes[i]
        if note.hidden:
            return (i, nr) in self._lost
        if not note.live or note.outputs[nr].requires_grad:
            return note.severed or (i, nr) in self._bare
        # An integer beside floats with a graph: indices. A float beside them is a constant that
        # came along, such as the running mean of a normalization.
        alone = not any(value.requires_grad for value in note.outputs)
        return alone or not is_continuous(note.outputs[nr].dtype)

    def _cuts_at(self, origins: Iterable[Output]) -> tuple[Cut, ...]:
        """The cuts at some outputs of notes, one for each operation, in order."""
        self._classify()
        outputs: dict[int, int] = {}
        for i, nr in sorted(origins):
            outputs.setdefault(i, nr)
        return Cuts(self._cut(i, nr, self._operation_at(i)) for i, nr in outputs.items())

    def _cut(self, i: int, nr: int, operation: Operation) -> Cut:
        """The cut at output ``nr`` of note ``i``."""
        note = self._recorder.notes[i]
        dtype = note.outputs[nr].dtype if note.outputs else None
        code, variant = ("control-flow", "") if i in self._deciding else kind_of_cut(note, dtype)
        message = cut_message(code, operation.called, str(dtype).removeprefix("torch."), variant)
        follows = i not in self._leaving
        # What variants stand for, and a gradient, a library computes because the user asked for it.
        is_its_own = variant in {"", "view"} and code != "penalty-detached"
        by_library = note.by_library and is_its_own
        return Cut(operation.index, code, operation, message, follows, variant, by_library)

    def _classify(self) -> None:
        """Find out what ``_deciding``, ``_leaving``, ``_lost``, ``_bare`` and so on say."""
        notes = self._recorder.notes
        if self._classified == len(notes):
            return
        decided_by, computed_with = set[int | None](), set[int | None]()
        for i, note in reversed([*enumerate(notes)]):  # what uses a value comes before its maker
            # Also by way of whole numbers and bools, as in `if (x > 0).any():`.
            is_way = i in decided_by and i not in computed_with
            for value in note.inputs:
                is_decision = note.name in DECIDING or (is_way and not is_continuous(value.dtype))
                (decided_by if is_decision else computed_with).add(value.made_by)
        self._deciding = decided_by - computed_with
        last = [i for i, note in enumerate(notes) if note.name in LEAVING]
        upstream = self._upstream(value for i in last for value in notes[i].inputs)
        self._leaving = {i for i, _ in upstream}.union(last)
        self._has_functions = any(note.is_in_a_function for note in notes)
        self._lost, self._bare = set(), set()
        if self._has_functions:
            inside = [note for note in notes if note.is_in_a_function]
            taken = {value.origin for note in inside for value in note.inputs}
            with unseen():
                alive = self._recorder.tensors.values()
            results = [value for value in alive if value.origin not in taken]
            self._lost = self._results_without_a_node(results)
        self._has_bare_views = any(note.gives_bare_views for note in notes)
        if self._has_bare_views:
            using = [note for note in notes if note.expects_a_graph]
            self._bare = self._bare_views(value for note in using for value in note.inputs)
        self._classified = len(notes)

    def _bare_views(self, used: Iterable[Value]) -> set[Output]:
        """Views that were made with gradients off, among the values that something used.

        Only what expects a graph of them is cut off. To write into a weight by way of such a view,
        as initializers do, is no cut.
        """
        made = {(v.made_by, v.output_nr) for v in used if v.made_by is not None}
        return {(i, nr) for i, nr in made if self._recorder.notes[i].gives_bare_views}

    def _results_without_a_node(self, used: Iterable[Value]) -> set[Output]:
        """Results of ``Function.apply`` without a graph, though what ran inside took one's values.

        The Function got no Node: gradients were off around it, or nothing that it was given
        required grad. One that has a Node has marked them as not differentiable, and is left out.

        Args:
            used: values that were used after the last note, or may be.
        """
        notes = self._recorder.notes
        call_of, calls = dict[int, int](), 0  # for each note inside of a Function, which call
        previous: Note | None = None
        live = set[int]()  # such notes into which a value went that requires grad
        results = list(used)
        for i, note in enumerate(notes):
            if note.is_in_a_function:
                calls += previous is None or previous.call_site != note.call_site
                call_of[i], previous = calls, note
                if note.live or any(value.made_by in live for value in note.inputs):
                    live.add(i)
            elif not note.hidden:
                previous = None
                results += note.inputs
        lost, with_node = set[tuple[Output, int]](), set[int]()
        for value in results:
            if value.made_by is None or value.made_by not in call_of:
                continue
            call = call_of[value.made_by]
            if value.requires_grad:
                with_node.add(call)
            elif value.made_by in live and is_continuous(value.dtype):
                lost.add(((value.made_by, value.output_nr), call))
        return {origin for origin, call in lost if call not in with_node}

    def _look_for_mutations(self) -> None:
        """Compare tensors with their fingerprints, and the memory of those that are gone."""
        recorder = self._recorder
        with unseen():
            changes = recorder.tensors.changes(len(recorder.notes))
        self._mutations += [self._mutation(*each) for each in changes]

    def _mutation(self, tensor: Tensor, change: Change) -> Mutation:
        """Who changed a tensor: the last to write into its memory, or to hand the memory out."""
        with unseen():
            shape, dtype, address = shape_of(tensor), tensor.dtype, memory_of(tensor)
        shape = None if shape is None else tuple(shape)
        changed = f"a tensor of shape {shape} and dtype {str(dtype).removeprefix('torch.')}"
        notes = list(enumerate(self._recorder.notes[: change.until]))
        touching = [(i, note) for i, note in notes if address in note.addresses]
        writers = [note for i, note in touching if note.in_place and i >= change.since]
        givers = [note for _, note in touching if not note.in_place]
        source, number = None, change.number
        if writers:
            source, number = writers[-1].source, writers[-1].numbers[0]
            message = f"{writers[-1].name} wrote into {changed}"
            if writers[-1].name not in SILENT:
                message += " through an alias such as .data"
        elif givers:
            source = givers[-1].source
            message = f"{changed} was changed through what {givers[-1].name} gave"
        else:
            message = f"{changed} was changed outside of torch's operations"
        message += ", which autograd cannot notice: its gradients may be silently wrong"
        storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        return Mutation(source, message, shape, dtype, storage, number)


def watch() -> Watch:
    """Note what a forward pass does, to tell afterwards where its graph was cut.

    In the block everything computes what it always computes: values, gradients, versions, saved
    tensors and errors are the same, and nothing outlives what it would. Only a warning names a line
    of this package as its place. Of other threads nothing is seen; of this one all that runs while
    the block is open, but for backward passes. So a block that awaits something sees what other
    tasks of asyncio compute meanwhile: their operations and cuts are listed among its own, and
    ``reaching`` and ``diagnose`` tell apart what went into one's own output.

    An operation is a call that gives a tensor, writes into one or reads the values of one, but for
    printing, ``.grad`` and ``requires_grad_()``. What runs inside such a call is not seen, nor what
    compiled code does or ``torch.jit.trace`` traces. A ``TransformerEncoder`` or
    ``MultiheadAttention`` in evaluation is one operation if neither its parameters nor its
    positional arguments require grad: torch computes it in another way where anyone looks into it.
    Inside the ``forward`` of a ``torch.autograd.Function``, where gradients are always off, nothing
    is listed, but the data is followed through it. A number that ``item()`` gave is followed as
    long as it is that very float; what Python or NumPy compute from it is not.

    A model takes two to three times as long in the block, and a chain of operations on a few
    numbers each, four to nine times.

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
