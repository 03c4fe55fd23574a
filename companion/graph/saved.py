"""What a Node saved for the backward pass, and whether that can still be used.

There are two ways to look. ``saved_tensors`` unpacks each of them, which runs the hooks through
which it was saved; ``peek`` leaves alone what was saved through hooks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal

import torch

from companion.internals import (
    address_of,
    forward_class_of,
    saved_names,
    saved_raw,
    saved_value,
    sparse_parts,
    version_of,
)

_State = Literal["kept", "freed", "modified in place"]


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """What a Node kept of one tensor for the backward pass.

    Attributes:
        name: the argument of the formula that uses it, such as ``"self"`` or ``"result"``; a
            custom Function gives numbers only, as in ``"saved_tensors[0]"``.
        shape: its shape; None once it is freed, and of a nested tensor of the strided layout.
        dtype: its dtype; None once it is freed.
        nbytes: the bytes of its elements; 0 once it is freed.
        version: its version counter now; None once it is freed.
        state: ``"kept"``; ``"freed"`` after a backward pass without ``retain_graph=True``; or
            ``"modified in place"`` where its version counter has moved on since it was saved, so
            that a backward pass will be refused. Of tensors saved as one list, each whose counter
            has ever moved counts as modified if one is. Torch does not notice a change under
            ``torch.autograd.graph.saved_tensors_hooks``.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    nbytes: int
    version: int | None
    state: _State


@dataclass(frozen=True, slots=True)
class Peek:
    """What could be seen of the saved values of a Node without running a hook.

    Attributes:
        values: tensors, lists and numbers by name, as the formula uses them.
        broken: the names of what the formula cannot use any more, and why. Of a custom Function
            only if the code of its backward names ``saved_tensors``.
        changed: of those the tensors that were modified in place, as they are now.
        hooked: whether something was left alone since looking would run hooks.
    """

    values: dict[str, Any]
    broken: dict[str, _State | Literal["a stale view"]]
    changed: list[torch.Tensor]
    hooked: bool


def peek(fn: Any) -> Peek:
    """The saved values of a Node. Runs no hooks and recomputes nothing."""
    values, broken, hooked = dict[str, Any](), dict[str, Any](), False
    changed = list[torch.Tensor]()
    is_function = isinstance(fn, torch.autograd.function.BackwardCFunction)
    for name in saved_names(fn):
        packed: tuple[Any, ...] = ()
        try:
            packed = _flat(saved_raw(fn, name))
            if any(one.unpack_hook for one in packed):
                hooked = True
                continue
            value = values[name] = saved_value(fn, name)
            if isinstance(value, torch.Tensor) and not value.requires_grad and not is_function:
                packed[0].unpack()  # as the engine does, which asks for more than Python
        except RuntimeError as error:
            broken[name] = "a stale view" if _STALE in str(error) else _state_told_by(error)
            if broken[name] == "modified in place":
                changed += [one.data for one in packed if one.data is not None]
    if broken and is_function:
        broken = broken if _reads_saved_tensors(fn) else {}
    return Peek(values, broken, changed, hooked)


def _reads_saved_tensors(fn: Any) -> bool:
    """Whether the backward of a custom Function asks for ``saved_tensors``, as its code tells."""
    named = [getattr(forward_class_of(fn), name) for name in ("backward", "vjp")]
    functions = [inspect.unwrap(function) for function in named]
    for function in functions:  # the list grows by the functions of its module that it names
        codes = [code] if (code := getattr(function, "__code__", None)) else []
        for code in codes:  # and this one by the functions inside
            told = {*code.co_names, *(one for one in code.co_consts if isinstance(one, str))}
            if told & {"saved_tensors", "saved_variables"}:
                return True
            codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
            for name in code.co_names:
                helper = function.__globals__.get(name)
                of_its_module = getattr(helper, "__module__", "") == function.__module__
                if inspect.isfunction(helper) and of_its_module and helper not in functions:
                    functions.append(helper)
    return False


_STALE = "its base or another view of its base has been modified inplace"


def _state_told_by(error: RuntimeError) -> _State:
    """The state of a saved tensor that torch refused to unpack."""
    if "backward through the graph a second time" in str(error):
        return "freed"
    told = ("modified by an inplace operation", "detached in-place", _STALE)
    if any(part in str(error) for part in told):
        return "modified in place"
    raise error


def memory_kept(fns: Iterable[Any]) -> int:
    """The bytes of the storages that the saved tensors of Nodes keep alive. Runs unpack hooks."""
    kept = [tensor for fn in fns for _, tensor, _ in _unpacked(fn) if tensor is not None]
    storages = [part.untyped_storage() for tensor in kept for part in _parts(tensor)]
    # The storages are alive all at once here, so an address stands for one of them.
    return sum({address_of(s): s.nbytes() for s in storages}.values())


def saved_tensors(fn: Any) -> Iterator[SavedTensor]:
    """What a Node holds for the backward pass, by name. Runs unpack hooks."""
    for name, tensor, state in _unpacked(fn):
        if tensor is None:
            yield SavedTensor(name, None, None, 0, None, state)
        else:
            nbytes = sum(part.nbytes for part in _parts(tensor))
            has_shape = not tensor.is_nested or tensor.layout != torch.strided
            shape = tuple(tensor.shape) if has_shape else None
            yield SavedTensor(name, shape, tensor.dtype, nbytes, version_of(tensor), state)


def _unpacked(fn: Any) -> Iterator[tuple[str, torch.Tensor | None, _State]]:
    """Name, tensor and state of each tensor that a Node saved; no tensor once it is freed."""
    for name in saved_names(fn):
        state: _State = "kept"
        try:
            if (packed := saved_raw(fn, name)) is None:  # a number
                continue
            tensors = saved_value(fn, name)
        except RuntimeError as error:
            state = _state_told_by(error)
            if state == "freed":
                yield name, None, state
                continue
            several = isinstance(packed, tuple)
            tensors = tuple(one.data for one in packed) if several else packed.data
        if isinstance(tensors, tuple | list):
            named = [(f"{name}[{i}]", tensor) for i, tensor in enumerate(tensors)]
        else:
            named = [(name, tensors)]
        for name, tensor in named:
            if tensor is not None:
                # Torch says of several tensors only that one was modified; of an untouched one the
                # version counter never moved.
                several = state == "modified in place" and len(named) > 1
                yield name, tensor, "kept" if several and version_of(tensor) == 0 else state


def _flat(packed: Any) -> tuple[Any, ...]:
    """What ``saved_raw`` gave, as a tuple."""
    return packed if isinstance(packed, tuple) else () if packed is None else (packed,)


_INDICES = {
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors with memory of their own that make up a tensor: itself, unless it is sparse."""
    if tensor.layout is torch.sparse_coo:
        return list(sparse_parts(tensor))
    return [getattr(tensor, part)() for part in _INDICES.get(tensor.layout, ())] or [tensor]
