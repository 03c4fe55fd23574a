"""Where in the user's code something happened: the innermost line of a file that is the user's.

A place in running code is a code object and the offset of an instruction. From these Python knows
the exact segment, such as ``x @ w`` of ``y = (x @ w).relu()``. It is looked up when asked for.
"""

from __future__ import annotations

import dis
import linecache
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from itertools import islice
from types import CodeType

import torch

_FOLDERS = [os.path.dirname(file) + os.sep for file in (__file__, torch.__file__)]
_STANDARD = os.path.dirname(os.__file__) + os.sep
_INSTALLED = tuple(_STANDARD + folder for folder in ("site-packages", "dist-packages"))
_NOT_THE_USERS = (*_FOLDERS, "<frozen ", "<eval_with_key>")  # the last is what torch.fx wrote


@dataclass(frozen=True, slots=True)
class Source:
    """The place in the user's code that made a Node or ran an operation.

    Attributes:
        file: the name of the file.
        line: the number of the line.
        text: what the source says there: for an operation under ``watch`` its own segment, such as
            ``x @ w``; else the line. ``""`` where the source cannot be found. Of code that
            torch.compile wrote the line is not known: ``line`` is the first of the function, and
            this says ``somewhere in f, which is compiled``.
    """

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        parts = list[str]()
        # The cell of a notebook and the snippet of a page are no files with lines of their own.
        if self.file.endswith(".py") and os.path.exists(self.file):
            parts.append(f"{os.path.basename(self.file)}:{self.line}")
        if self.text:
            parts.append(f"`{self.text}`")
        return ": ".join(parts)


@cache
def is_ours(file: str) -> bool:
    """Whether code of this file is the companion's."""
    return file.startswith(_FOLDERS[0])


@cache
def is_users(file: str) -> bool:
    """Whether code of this file is the user's: not torch's, ours, or a module such as copy."""
    is_pythons = file.startswith(_STANDARD) and not file.startswith(_INSTALLED)
    return not is_pythons and not file.startswith(_NOT_THE_USERS)


def users_place() -> tuple[CodeType, int] | None:
    """The code object and the instruction that are running in the innermost frame of the user."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return frame.f_code, frame.f_lasti
        frame = frame.f_back  # type: ignore[assignment]
    return None


def source_at(code: CodeType, instruction: int) -> Source:
    """The source that an instruction was compiled from.

    Args:
        code: the code object.
        instruction: the offset of the instruction, as in ``frame.f_lasti``.
    """
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
