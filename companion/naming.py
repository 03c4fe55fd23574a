"""What tensors are called: by the variables of the caller, or by a mapping that the caller gave."""

from __future__ import annotations

import inspect
import os
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

from companion.source import calls_around, is_installed, is_ours, is_users


def callers_names() -> dict[str, torch.Tensor]:
    """The tensors that the caller's variables refer to: its locals first, then its globals.

    The caller is the first function outside the companion, however deep inside it this is asked.

    A tensor with several names goes by the first. Names with a leading underscore are skipped,
    among them those that IPython gives to outputs; and those that nobody can write, such as the
    ``@py_assert1`` of pytest.
    """
    return _callers_variables(is_tensor)


def callers_modules() -> dict[str, nn.Module]:
    """The modules that the caller's variables refer to, by the same rules.

    A module comes before its own parts.
    """
    modules = _callers_variables(_is_module)
    if len(modules) < 2:
        return modules
    sizes = {name: sum(1 for _ in module.modules()) for name, module in modules.items()}
    return {name: modules[name] for name in sorted(modules, key=lambda name: -sizes[name])}


def _is_module(value: object) -> bool:
    """Whether it is a module that can be looked up in a dict, and whose ``__init__`` was begun."""
    cls = type(value)
    if not issubclass(cls, nn.Module) or cls.__hash__ is None:
        return False
    return "training" in vars(value) or issubclass(cls, torch.jit.ScriptModule)


def _callers_variables(is_wanted: Callable[[object], bool]) -> dict[str, Any]:
    frame = next(_frames_outside(), None)
    if frame is None:  # called from C, with no Python around it
        return {}
    variables = _variables_in(frame, is_wanted)
    _drop_copy_of_variables(frame)
    return variables


def _variables_in(frame: FrameType, is_wanted: Callable[[object], bool]) -> dict[str, Any]:
    local = frame.f_locals
    names: dict[Any, str] = {}
    for scope in (local, frame.f_globals):
        # Few values are wanted, so that question comes first. Another thread may change the
        # variables meanwhile, hence the list.
        for name, value in [item for item in list(scope.items()) if is_wanted(item[1])]:
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


class Variable(NamedTuple):
    """A variable of a function that is running.

    Attributes:
        name: its name.
        value: what it refers to.
        function: the name of the function.
        is_users: whether the user wrote the function, and not a library.
    """

    name: str
    value: Any
    function: str
    is_users: bool


def running_variables() -> Iterator[Variable]:
    """The variables of the functions that run in this thread outside the companion."""
    for frame in _frames_outside():
        code = frame.f_code
        if code.co_name != "<module>":
            own = is_users(code.co_filename) and not is_installed(code.co_filename)
            for name, value in variables_of(frame):
                yield Variable(name, value, code.co_qualname, own)


def running_modules() -> Iterator[dict[str, Any]]:
    """The variables of the modules, scripts and cells that run in this thread, by name."""
    for frame in _frames_outside():
        if frame.f_code.co_name == "<module>":
            yield frame.f_globals


def variables_of(frame: FrameType) -> list[tuple[str, Any]]:
    """The variables of a frame: names and what they refer to."""
    variables = list(frame.f_locals.items())
    _drop_copy_of_variables(frame)
    return variables


def _frames_outside() -> Iterator[FrameType]:
    """The frames that run in this thread and are not the companion's, inner ones first."""
    for frame in calls_around(sys._getframe(1)):
        if not is_ours(frame.f_code.co_filename):
            yield frame


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
                f"names must map names to tensors, as {{'w': w}} does, got the key "
                f"{in_short(name)} with a value of type {type(tensor).__name__}"
            )


def check_flags(**flags: object) -> None:
    """Raise unless each argument, after its name, is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def listed(names: Sequence[str], noun: str) -> str:
    """Names in words: all of up to three, and of more how many are in which module.

    Args:
        names: one or more, such as ``"decoder.0.weight"``.
        noun: what they are called together, such as ``"parameters"``.

    Examples:
        >>> listed(["x", "net.0.weight", "net.0.bias"], "inputs")
        'x, net.0.weight and net.0.bias'
        >>> listed([f"decoder.{i}.bias" for i in range(34)], "parameters")
        '34 parameters of decoder'
        >>> listed([*(f"encoder.{i}" for i in range(9)), "head.weight", "scale"], "parameters")
        '11 parameters (9 of encoder, 1 of head and scale)'
        >>> listed(["0.weight", "0.bias", "2.weight", "2.bias"], "parameters")
        '4 parameters (0.weight, 0.bias and 2 more)'
    """
    if len(names) <= 3:
        return _and(list(names))
    split = [name.split(".") for name in names]
    common = os.path.commonprefix([path[:-1] for path in split])
    if common:
        return f"{len(names)} {noun} of {'.'.join(common)}"
    parts = Counter(path[0] if path[1:] else name for path, name in zip(split, names, strict=True))
    words = [part if part in names else f"{count} of {part}" for part, count in parts.items()]
    if len(words) > 3 or any(part.isdigit() for part in parts):  # "2 of 0" would say little
        words = [*names[:2], f"{len(names) - 2} more"]
    return f"{len(names)} {noun} ({_and(words)})"


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def one_line(text: str, width: int) -> str:
    """Text for one line: what cannot be printed as its escape, and no longer than ``width``."""
    line = text[: width + 1]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= width else line[: width - 1] + "…"


def in_short(value: object) -> str:
    """What somebody gave, for an error: its repr in one line, cut where it is long."""
    return one_line(_SHORT.repr(value), 100)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def counted(number: int, noun: str, plural: str = "") -> str:
    """The number and the noun: ``1 leaf``, ``2 leaves``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
