"""What a Node saved for the backward pass, and whether that can still be used.

There are two ways to look. ``saved_tensors`` unpacks each saved tensor, which runs the hooks
through which it was saved; ``peek`` leaves alone what was saved through hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from companion.internals import (
    Node,
    address_of,
    has_memory,
    is_without_numbers,
    parts_of,
    saved_names,
    saved_raw,
    saved_value,
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


@dataclass(frozen=True)
class Peek:
    """What could be seen of the saved values of a Node without running a hook.

    Attributes:
        values: tensors, lists and numbers by name, as the formula uses them.
        broken: the names of what the formula cannot use any more, and why.
        changed: of those the tensors that were modified in place, as they are now.
        hooked: whether something was left alone since looking would run hooks.
    """

    values: dict[str, Any]
    broken: dict[str, _State | Literal["a stale view"]]
    changed: list[torch.Tensor]
    hooked: bool

    @cached_property
    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The tensors among the values, those in lists too, each after the name of its value."""
        return [
            (name, part)
            for name, value in self.values.items()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(part, torch.Tensor)
        ]

    @property
    def emptied(self) -> list[str]:
        """The names of tensors whose storage was freed while the Node kept them."""
        tensors = [(n, part) for n, part in self.tensors if not is_without_numbers(part)]
        return [name for name, part in tensors if not has_memory(part)]


def peek(node: Node) -> Peek:
    """The saved values of a Node. Runs no hooks and recomputes nothing."""
    values, broken, hooked = dict[str, Any](), dict[str, Any](), False
    changed = list[torch.Tensor]()
    is_function = isinstance(node, torch.autograd.function.BackwardCFunction)
    for name in saved_names(node):
        raw: tuple[Any, ...] = ()
        try:
            raw = _as_tuple(saved_raw(node, name))
            if any(saved.unpack_hook for saved in raw):
                hooked = True
                continue
            value = values[name] = saved_value(node, name)
            if isinstance(value, torch.Tensor) and not value.requires_grad and not is_function:
                raw[0].unpack()  # as the engine does, which checks more than Python's getter
        except RuntimeError as error:
            broken[name] = "a stale view" if _STALE in str(error) else _state_after(error)
            if broken[name] == "modified in place":
                changed += [saved.data for saved in raw if saved.data is not None]
    return Peek(values, broken, changed, hooked)


_STALE = "its base or another view of its base has been modified inplace"


def _state_after(error: RuntimeError) -> _State:
    """The state of a saved tensor that torch refused to unpack with this error."""
    message = str(error)
    if "backward through the graph a second time" in message:
        return "freed"
    causes = ("modified by an inplace operation", "detached in-place", _STALE)
    if any(cause in message for cause in causes):
        return "modified in place"
    raise error


def held_by(node: Node) -> Iterator[tuple[str, torch.Tensor | None]]:
    """What a Node holds for the backward pass, by name. Runs no hooks and recomputes nothing.

    None stands for a tensor that was saved through hooks, which may hold anything in its place.
    """
    for name in saved_names(node):
        try:
            raw = saved_raw(node, name)
        except RuntimeError:  # a custom Function that freed them
            continue
        for i, saved in enumerate(_as_tuple(raw)):
            if saved.unpack_hook or saved.data is not None:
                held = None if saved.unpack_hook else saved.data
                yield (f"{name}[{i}]" if isinstance(raw, tuple) else name), held


def memory_kept(nodes: Iterable[Node]) -> int:
    """The bytes of the storages that the saved tensors of Nodes keep alive. Runs unpack hooks."""
    kept = [tensor for node in nodes for _, tensor, _ in _unpacked(node) if tensor is not None]
    storages = [storage for tensor in kept for storage in storages_of(tensor)]
    # The storages are alive all at once here, so an address stands for one of them.
    return sum({address_of(s): s.nbytes() for s in storages}.values())


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """The memory of a tensor; of one without storages of the usual kind, as of mkldnn, none."""
    try:
        return [part.untyped_storage() for part in parts_of(tensor)]
    except RuntimeError:
        return []


def saved_tensors(node: Node) -> Iterator[SavedTensor]:
    """What a Node holds for the backward pass, by name. Runs unpack hooks."""
    for name, tensor, state in _unpacked(node):
        if tensor is None:
            yield SavedTensor(name, None, None, 0, None, state)
        else:
            has_shape = not tensor.is_nested or tensor.layout != torch.strided
            shape = tuple(tensor.shape) if has_shape else None
            nbytes, version = nbytes_of(tensor), version_of(tensor)
            yield SavedTensor(name, shape, tensor.dtype, nbytes, version, state)


def nbytes_of(tensor: torch.Tensor) -> int:
    """The bytes of the elements of a tensor."""
    return sum(part.nbytes for part in parts_of(tensor))


def _unpacked(node: Node) -> Iterator[tuple[str, torch.Tensor | None, _State]]:
    """Name, tensor and state of each tensor that a Node saved; no tensor once it is freed."""
    for name in saved_names(node):
        value, state = _unpack(node, name)
        if isinstance(value, tuple | list):
            for i, tensor in enumerate(value):
                if tensor is not None:
                    # Torch says of a list only that one of it was modified. The version counter of
                    # an untouched one never moved.
                    is_untouched = len(value) > 1 and version_of(tensor) == 0
                    yield f"{name}[{i}]", tensor, "kept" if is_untouched else state
        elif value is not None or state == "freed":
            yield name, value, state


def _unpack(node: Node, name: str) -> tuple[Any, _State]:
    """The tensor or list of tensors that a Node saved under a name, and its state.

    None stands for a number, for an optional tensor that was not given, and for what was freed.
    """
    try:
        raw = saved_raw(node, name)
        return None if raw is None else saved_value(node, name), "kept"
    except RuntimeError as error:
        state = _state_after(error)
    if state == "freed":
        return None, state
    return tuple(saved.data for saved in raw) if isinstance(raw, tuple) else raw.data, state


def _as_tuple(raw: Any) -> tuple[Any, ...]:
    """What ``saved_raw`` gave, as a tuple."""
    return raw if isinstance(raw, tuple) else () if raw is None else (raw,)
