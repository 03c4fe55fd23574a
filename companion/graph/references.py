"""How one Python object refers to another, as one would write it: ``[3]``, ``.head``.

``path_from`` puts that before a path that begins at the other object. So a way through many objects
is written from its end. None of this runs code of the user, such as a property.
"""

from __future__ import annotations

import gc
import re
from collections import deque
from types import CellType, FrameType, FunctionType, MemberDescriptorType, TracebackType
from typing import Any

from torch import nn

from companion.internals import PARTS_OF_MODULES
from companion.naming import one_line, variables_of

_PLAIN_KEYS = (str, int, float, bool, type(None))


def path_from(holder: Any, held: Any, path: str) -> str | None:
    """The path from ``holder``, given one from what it holds; None if it does not hold that.

    Args:
        holder: any object.
        held: an object that it refers to.
        path: the way from there, such as ``".grad"``.
    """
    kind = type(holder)
    if issubclass(kind, dict):
        return _from_dict(holder, held, path)
    if issubclass(kind, list | tuple | deque):
        return _from_sequence(holder, held, path)
    if issubclass(kind, CellType | TracebackType):
        return path if _holds(holder, held) else None
    if issubclass(kind, FrameType):
        return _from_frame(holder, held, path)
    if issubclass(kind, BaseException) and holder.__traceback__ is held:
        return f".__traceback__{path}"
    if issubclass(kind, FunctionType) and (holder.__globals__ is held or holder.__code__ is held):
        return None
    if issubclass(kind, FunctionType) and holder.__closure__ is held:
        index, rest = re.fullmatch(r"\[(\d+)\](.*)", path, re.S).groups()  # type: ignore[union-attr]
        return f" → its {holder.__code__.co_freevars[int(index)]}{rest}"
    frames = (getattr(holder, name, None) for name in _FRAMES.get(kind.__name__, ()))
    for frame in filter(None, frames):
        return _from_frame(frame, held, path)
    return _from_attributes(holder, held, path)


_FRAMES = {
    "generator": ("gi_frame",),
    "coroutine": ("cr_frame",),
    "async_generator": ("ag_frame",),
}


def _from_dict(holder: dict[Any, Any], held: Any, path: str) -> str | None:
    for key, value in list(dict.items(holder)):
        if value is held:
            # The repr of another key may be code of the user.
            plain = type(key) in _PLAIN_KEYS
            return f"[{one_line(repr(key), 60) if plain else type(key).__name__}]{path}"
        if key is held:
            return f"[a key]{path}"
    return None


def _from_sequence(holder: Any, held: Any, path: str) -> str | None:
    base = next(base for base in (list, tuple, deque) if issubclass(type(holder), base))
    index = next((i for i, x in enumerate(base.__iter__(holder)) if x is held), None)
    if index is None:
        return _from_attributes(holder, held, path)
    fields = getattr(type(holder), "_fields", ())  # of a NamedTuple
    return f".{fields[index]}{path}" if index < len(fields) else f"[{index}]{path}"


def _from_frame(frame: FrameType, held: Any, path: str) -> str | None:
    function = frame.f_code.co_qualname
    key = re.match(r"\['(\w+)'\]", path)
    if key and type(held) is dict and key[1] in frame.f_code.co_varnames:  # what locals() gave
        return f" → {key[1]} of {function}{path[key.end() :]}"
    for name, value in variables_of(frame):
        if value is held:
            return f" → {name} of {function}{path}"
    return path if frame.f_back is held else None


def _from_attributes(holder: Any, held: Any, path: str) -> str | None:
    """The path by an attribute; ``.…`` where it holds the object in a way that has no name."""
    try:
        namespace = object.__getattribute__(holder, "__dict__")
    except AttributeError:
        namespace = {}
    key = re.match(r"\['(\w+)'\]", path)
    if key and (namespace is held or _is_namespace_of(holder, held)):
        return _short(holder, f".{key[1]}{path[key.end() :]}")
    for name, value in list(namespace.items()):
        if value is held:
            return _short(holder, f".{name}{path}")
    for cls in type(holder).__mro__:
        for name, member in list(vars(cls).items()):
            if isinstance(member, MemberDescriptorType):
                try:
                    if member.__get__(holder) is held:
                        return f".{name}{path}"
                except AttributeError:  # the slot is empty
                    continue
    return f".…{path}" if _holds(holder, held) else None


def _holds(holder: Any, held: Any) -> bool:
    return any(x is held for x in gc.get_referents(holder))


def _is_namespace_of(holder: Any, held: Any) -> bool:
    """Whether this is the dict in which a class has its attributes, which nobody can get at."""
    is_class = issubclass(type(holder), type) and type(held) is dict
    return is_class and _holds(holder, held)


def _short(holder: Any, path: str) -> str:
    """A path from a module as torch writes it: ``.encoder``, not ``._modules['encoder']``."""
    if not issubclass(type(holder), nn.Module):
        return path
    return re.sub(rf"^\.({'|'.join(PARTS_OF_MODULES)})\['([^']*)'\]", r".\2", path)
