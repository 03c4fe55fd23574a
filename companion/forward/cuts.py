"""What a ``Watch`` tells: the operations, where the graph was cut, what was changed unseen."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from companion.findings import as_html
from companion.forward.notes import DETACHING, Note, Value
from companion.forward.places import DEEPCOPY, SAMPLE
from companion.forward.torch_functions import DECIDING, LEAVING, PROPERTIES
from companion.source import Source


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
        return _SPELLINGS.get(self.name, self.name.strip("_") + "()")


@dataclass(frozen=True, slots=True)
class Cut:
    """A tensor that required grad went into an operation, and no Node leads back to it.

    What came out does not require grad; or it is a leaf, as ``nn.Parameter(result)`` is one.

    Attributes:
        index: the index of the operation.
        code: the kind: ``"detached"``, ``"left-torch"``, ``"copied"``, ``"not-differentiable"``,
            ``"no-formula"``, ``"no-grad"``, ``"inference-mode"`` or ``"control-flow"``; of
            ``torch.autograd.grad`` ``"penalty-detached"`` or ``"constant-gradient"``.
        operation: the operation.
        message: what happened, in a sentence.
        follows: whether all that became of the value could be followed. False where it became a
            number, a list or an array: computed with outside of torch, it may have come back.
        variant: the way in which it came about, in a word, where the code has several: of copied
            values parameter, written or deepcopy; with gradients off view, sample, checkpoint or
            function; else ``""``.
        by_library: whether torch itself or an installed library made it, and no line of the user:
            a ``detach()`` or ``torch.no_grad()`` of its authors.
    """

    index: int
    code: str
    operation: Operation
    message: str
    follows: bool
    variant: str = ""
    by_library: bool = False

    @property
    def source(self) -> Source | None:
        """Where in the user's code the cut is."""
        return self.operation.source

    def __str__(self) -> str:
        return f"cut at {self.source or _SOMEWHERE} ({self.code}): {self.message}"


class Cuts(tuple[Cut, ...]):
    """A tuple of cuts, of which a notebook shows a sentence for each."""

    def _repr_html_(self) -> str:
        return as_html("\n".join(map(str, self)) or "no cuts")


@dataclass(frozen=True, slots=True)
class Mutation:
    """A tensor that was changed while autograd could not notice: its version did not move.

    Attributes:
        source: where that happened, as far as it was seen; else None.
        message: what happened, in a sentence.
        shape: the shape of the tensor.
        dtype: its dtype.
        storage: a weak reference to its storage.
        number: the number of the Node that was made next after it was changed; None where it is not
            known when that was. A Node with a lower number may have saved what it was before.
    """

    source: Source | None
    message: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype
    storage: StorageWeakRef = field(repr=False, compare=False)
    number: int | None = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"mutation at {self.source or _SOMEWHERE}: {self.message}"


def is_continuous(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def kind_of_cut(note: Note, dtype: torch.dtype | None) -> tuple[str, str]:
    """The code of a cut, and its variant. What the call itself does comes before where it ran."""
    if note.name == "__deepcopy__" or note.runs_inside == DEEPCOPY:
        return "copied", DEEPCOPY
    if note.name == "Parameter":
        return "copied", "parameter"
    if note.severed and note.in_place:
        return "copied", "written"
    if note.gives_bare_views:
        return note.mode_code, "view"
    if note.runs_inside == SAMPLE or note.hidden:
        return "no-grad", note.runs_inside
    return _code(note, dtype), ""


def variant_of_harm(cut: Cut) -> str:
    """The variant of what is said of a cut that takes a gradient away: whose line is to change?"""
    is_theirs = cut.by_library and cut.code in {"detached", "no-grad"}
    return cut.variant or ("library" if is_theirs else "harmful")


def _code(note: Note, dtype: torch.dtype | None) -> str:
    """The code of a cut that is a call of its own."""
    if note.name.partition(".")[0] in {
        "data",
        "Variable",
        *DETACHING,
    }:  # torch.ops.aten.detach.default as well
        return "detached"
    if note.name in _COPYING:
        return "copied"
    if note.name in DECIDING:
        return "control-flow"
    if note.name in LEAVING:
        return "left-torch"
    if dtype is not None and not is_continuous(dtype):
        return "not-differentiable"
    return note.mode_code or "no-formula"


_SOMEWHERE = "an unknown place"
_COPYING = set("tensor new_tensor as_tensor asarray".split())
_SPELLINGS = {
    "Parameter": "nn.Parameter()",
    "Variable": "Variable(), or a copy in the same memory,",
    "__array__": "the conversion to NumPy",
    "__index__": "the use as an index",
    "__contains__": "in",
    "__getitem__": "indexing",
    "__setitem__": "assigning to a part",
}
