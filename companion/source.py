"""Where in the user's code something happened: the line of the user, and that of a library in it.

A place in running code is a code object and the offset of an instruction. From these Python knows
the exact segment, such as ``x @ w`` of ``y = (x @ w).relu()``. It is looked up when asked for.
"""

from __future__ import annotations

import dis
import linecache
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from types import CodeType, FrameType

import torch

_OURS, _TORCHS = (os.path.dirname(file) + os.sep for file in (__file__, torch.__file__))
_STANDARD = os.path.dirname(os.__file__) + os.sep
_PACKAGES = tuple(f"{os.sep}{folder}{os.sep}" for folder in ("site-packages", "dist-packages"))
_WRITTEN_BY_FX = "<eval_with_key>"  # and so by torch.compile
_NOT_THE_USERS = (_TORCHS, "<frozen ", _WRITTEN_BY_FX)

_DECORATORS = os.path.join(_TORCHS, "utils", "_contextlib.py")

# In torch: functions that stand for an operation, or for a switch, when Python calls it.
_WRAPPERS = set(
    "__init__.py _jit_internal.py _lobpcg.py _lowrank.py _ops.py _tensor.py functional.py "
    "foreach/__init__.py overrides.py autograd/__init__.py autograd/grad_mode.py nn/functional.py "
    "nn/init.py utils/_contextlib.py".replace("/", os.sep).split()
)

Place = tuple[CodeType, int]  # the code, and the instruction in it that is running


@dataclass(frozen=True, slots=True)
class Source:
    """The place in the user's code that made a Node or ran an operation.

    As a string it is ``path:line``, which terminals and editors open, and the text. The path is
    relative to the working directory if it is below it. Of what was typed it is the line alone.

    Attributes:
        file: the name of the file.
        line: the number of the line.
        text: what the source says there: for an operation under ``watch`` its own segment, such as
            ``x @ w``; else the line. ``""`` where the source cannot be found. Of code that
            torch.compile wrote the line is not known: ``line`` is the first of the function, and
            this says ``somewhere in f, which is compiled``.
        inside: the line of an installed library that this line led to, and that called torch; None
            if this line called torch itself.
    """

    file: str
    line: int
    text: str
    inside: Source | None = None

    def __str__(self) -> str:
        path = os.path.abspath(self.file).removeprefix(os.path.join(os.getcwd(), ""))
        # What was typed, or given to ``python -c``, has neither a file nor a text.
        own = self._with_path(path) or f"line {self.line} of {path}"
        return own + (f", in {self.inside}" if self.inside else "")

    @property
    def short(self) -> str:
        """The same with the name of the file alone: for a drawing, which may be shown elsewhere."""
        return self._with_path(os.path.basename(self.file))

    def _with_path(self, path: str) -> str:
        parts = list[str]()
        # The cell of a notebook and the snippet of a page are no files with lines of their own.
        if self.file.endswith(".py") and os.path.exists(self.file):
            parts.append(f"{path}:{self.line}")
        if self.text:
            parts.append(f"`{self.text}`")
        return ": ".join(parts)

    @property
    def innermost(self) -> Source:
        """The line that called torch itself, be it the user's or a library's."""
        return self.inside or self


@cache
def is_ours(file: str) -> bool:
    """Whether code of this file is the companion's; the snippets of its README are the reader's."""
    return file.startswith(_OURS) and file.endswith(".py")


@cache
def is_users(file: str) -> bool:
    """Whether code of this file is the user's, or of a library that is neither torch nor ours."""
    is_pythons = file.startswith(_STANDARD) and not is_installed(file)
    return not (is_pythons or is_ours(file) or file.startswith(_NOT_THE_USERS))


@cache
def is_installed(file: str) -> bool:
    """Whether code of this file came with a package, so that the user did not write it."""
    return any(folder in file for folder in _PACKAGES)


def is_call_of_library(frame: FrameType | None) -> bool:
    """Whether the call of torch that runs in a frame was written by a library, and not by the user.

    What torch itself calls counts as well: modules, optimizers, distributions.
    """
    is_compiled = False
    for caller in calls_around(frame):
        code = caller.f_code
        if code.co_filename == _DECORATORS:  # who wrote the function below @torch.no_grad()
            code = getattr(caller.f_locals.get("func"), "__code__", code)
        file = code.co_filename
        is_compiled = is_compiled or file.startswith(_WRITTEN_BY_FX)
        # What torch.fx wrote has the calls of a function around it, and torch stands between them.
        is_between = is_compiled and file.startswith((_WRITTEN_BY_FX, _TORCHS))
        if not (is_between or is_ours(file) or file.removeprefix(_TORCHS) in _WRAPPERS):
            return is_installed(file) or not is_users(file)
    return False


def users_source() -> Source | None:
    """The line of the user that is running, and that of a library which it led to."""
    return source_among((f.f_code, f.f_lasti) for f in calls_around(sys._getframe(1)))


def calls_around(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, and those of the calls around it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def source_among(places: Iterable[Place]) -> Source | None:
    """The user's own line among nested calls, and that of a library inside it.

    Args:
        places: where each call stands, the innermost first.

    Returns:
        The innermost line of a file that is not installed; where there is none, that of a library.
    """
    library_place: Place | None = None
    for code, instruction in places:
        file = code.co_filename
        if not is_users(file):
            continue
        if not is_installed(file):
            return source_at(code, instruction, library_place)
        library_place = library_place or (code, instruction)
    return source_at(*library_place) if library_place else None


def source_at(code: CodeType, instruction: int, library_place: Place | None = None) -> Source:
    """The source that an instruction was compiled from.

    Args:
        code: the code object.
        instruction: the offset of the instruction, as in ``frame.f_lasti``.
        library_place: the place in a library which that instruction led to.
    """
    source = _source_at(code, instruction)
    return replace(source, inside=_source_at(*library_place)) if library_place else source


def _source_at(code: CodeType, instruction: int) -> Source:
    file = code.co_filename
    positions = islice(code.co_positions(), max(instruction, 0) // 2, None)
    line, last, start, end = next(positions, (None, None, None, None))
    line = line or code.co_firstlineno
    if start is None and line == code.co_firstlineno and (name := _compiled_function(code)):
        return Source(file, line, f"somewhere in {name}, which is compiled")
    whole_line = Source(file, line, line_of(file, line).strip())
    if last is None or start is None or end is None:  # under python -X no_debug_ranges
        return whole_line
    if dis.opname[code.co_code[instruction]].startswith("STORE_"):  # of x[0] = y it would be x[0]
        return whole_line
    # Columns count bytes.
    lines = [line_of(file, number).encode() for number in range(line, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    text = " ".join(part.decode(errors="replace").strip() for part in lines)
    return Source(file, line, text.strip())


def _compiled_function(code: CodeType) -> str:
    """The function that torch.compile wrote this code of, in which few lines are known; else ""."""
    resumed = re.fullmatch(r"torch_dynamo_resume_in_(.*)_at_\d+", code.co_name)
    if resumed:
        return resumed[1]
    # Where columns are known at all they are known of every call, but in such code.
    return code.co_name if any(position[2] for position in code.co_positions()) else ""


def line_of(file: str, number: int) -> str:
    """A line of the source; ``""`` where it cannot be found."""
    # All code of exec() has this name, and since Python 3.13 the program of python -c as well.
    return "" if file == "<string>" else linecache.getline(file, number)
