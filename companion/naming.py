"""What tensors are called: by the variables of the caller, or by a mapping that the caller gave."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

from companion.source import is_ours


def callers_names() -> dict[str, torch.Tensor]:
    """The tensors that the caller's variables refer to: its locals first, then its globals.

    The caller is the first function outside the companion, however deep inside it this is asked.

    A tensor with several names goes by the first. Names with a leading underscore are skipped,
    among them those that IPython gives to outputs; and those that nobody can write, such as the
    ``@py_assert1`` of pytest.
    """
    frame = _callers_frame()
    if frame is None:
        return {}
    names = _names_in(frame, is_tensor)
    _drop_copy_of_variables(frame)
    return names


def callers_modules() -> dict[str, nn.Module]:
    """The modules that the caller's variables refer to, in the same way."""
    frame = _callers_frame()
    if frame is None:
        return {}
    names = _names_in(frame, lambda value: issubclass(type(value), nn.Module))
    _drop_copy_of_variables(frame)
    return names


def _callers_frame() -> FrameType | None:
    """The first function outside the companion; None if C called, with no Python around it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _names_in(frame: FrameType, is_meant: Callable[[object], bool]) -> dict[str, Any]:
    local = frame.f_locals
    names: dict[Any, str] = {}
    for scope in (local, frame.f_globals):
        # Few values are meant, so that question comes first. Another thread may change the
        # variables meanwhile, hence the list.
        for name, value in [item for item in list(scope.items()) if is_meant(item[1])]:
            is_public = isinstance(name, str) and name.isidentifier() and name[0] != "_"
            # In the caller's code the name of a local does not mean the global.
            if is_public and (scope is local or name not in local):
                names.setdefault(value, name)
    return {name: value for value, name in names.items()}


def _drop_copy_of_variables(frame: FrameType) -> None:
    """Empty the dict that ``f_locals`` made of a function's variables, up to Python 3.12.

    The frame keeps that dict, so the tensors in it would outlive the variables. Where somebody else
    has the dict too, who called ``locals()``, it is left alone.
    """
    copy, code = frame.f_locals, frame.f_code
    if not isinstance(copy, dict) or not code.co_flags & inspect.CO_OPTIMIZED:
        return  # Python 3.13 gives no copy; and of a module or a class it is no copy
    # The frame, ``copy`` and the argument of getrefcount refer to it; anything more is another's.
    if sys.getrefcount(copy) <= 3:
        for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
            copy.pop(name, None)  # what exec() may have put there stays


def is_tensor(value: object) -> bool:
    """Whether it is a tensor that can be looked up in a dict."""
    # Not isinstance, which would run the __class__ property of a stranger's object. A tensor of a
    # class without a hash cannot be looked up.
    return issubclass(type(value), torch.Tensor) and type(value).__hash__ is not None


def check_names(names: Mapping[str, torch.Tensor]) -> None:
    """Raise unless ``names`` maps strings to tensors."""
    if not isinstance(names, Mapping):
        raise TypeError(
            f"names must map names to tensors, as {{'w': w}} does, got {type(names).__name__}"
        )
    for name, tensor in names.items():
        if not isinstance(name, str) or not is_tensor(tensor):
            raise TypeError(
                f"names must map names to tensors, as {{'w': w}} does, got the key {name!r} with "
                f"a value of type {type(tensor).__name__}"
            )


def one_line(text: str, width: int) -> str:
    """Text for one line: what cannot be printed as its escape, and no longer than ``width``."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: width + 1])
    return line if len(line) <= width else line[: width - 1] + "…"
