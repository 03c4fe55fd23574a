"""What an error passed on its way: the user's line, and what torch was called with.

Of an error that was pasted as text, what the text has of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from companion.source import Source, is_installed, is_users, line_of, source_among


def users_frame(error: BaseException) -> tuple[FrameType, Source] | None:
    """The user's own innermost frame that an error passed, and the line there.

    A frame of a library, if there is none of the user's own.
    """
    frames = [each for each in _frames(error) if is_users(each[0].f_code.co_filename)][::-1]
    own = (frame for frame, _ in frames if not is_installed(frame.f_code.co_filename))
    source = source_among((frame.f_code, instruction) for frame, instruction in frames)
    return None if source is None else (next(own, frames[0][0]), source)


def users_frames(error: BaseException) -> list[FrameType]:
    """The frames of the user's own code that an error passed."""
    frames = [frame for frame, _ in _frames(error) if is_users(frame.f_code.co_filename)]
    return [frame for frame in frames if not is_installed(frame.f_code.co_filename)]


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Each frame that an error passed, the innermost last."""
    return (frame for frame, _ in _frames(error))


def runs_checkpoint_again(error: BaseException) -> bool:
    """Whether an error came from a checkpoint that runs its function again in a backward pass."""
    files = [frame.f_code.co_filename for frame in frames_of(error)]
    engine = torch.autograd.graph.__file__
    return engine in files and torch.utils.checkpoint.__file__ in files[files.index(engine) :]


def calling_line(error: BaseException) -> str:
    """The line that an error passed last, if it is torch's; empty where that was another's.

    From torch 2.15 on, forward of a custom Function is called by C++: by the line with ``apply``.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    file = traceback.tb_frame.f_code.co_filename
    line = line_of(file, traceback.tb_lineno).strip()
    return line if ".apply(" in line or not is_users(file) else ""


def engine_call(error: BaseException) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The outputs and inputs of the call of the engine that raised an error; empty if unknown."""
    outputs = inputs = None
    for frame, _ in _frames(error):
        given = frame.f_locals
        # Up to torch 2.12 the tuple of the inputs has the name of the argument.
        if frame.f_code is torch.autograd.backward.__code__:
            outputs, inputs = given["tensors"], given.get("inputs_tuple", given["inputs"])
        elif frame.f_code is torch.autograd.grad.__code__:
            outputs, inputs = given["outputs"], given.get("inputs_tuple", given["inputs"])
    return _as_tuple(outputs), _as_tuple(inputs)


def distributed_module(error: BaseException) -> DistributedDataParallel | None:
    """The wrapped model whose method an error passed."""
    modules = (frame.f_locals.get("self") for frame, _ in _frames(error))
    return next((each for each in modules if isinstance(each, DistributedDataParallel)), None)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error, those that led to it, and those of a group, as Python shows them."""
    errors = [error]
    for each in errors:  # the list grows
        yield each
        before = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        others = [before] if before else []
        others += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        errors += [other for other in others if not any(other is known for known in errors)]


def errors_in(text: str) -> Iterator[tuple[BaseException, str]]:
    """The errors of a text, the last first, each with the line of code that is quoted above it.

    The text may be a message by itself, or a log. Each error comes a second time with its message
    on one line, because a terminal, a box or an e-mail may have broken it.
    """
    text = _DECORATION.sub("", text)
    parts, end = list[tuple[str, str, str]](), len(text)
    for match in reversed(list(_NAMED_ERROR.finditer(text))):
        above = text[: match.start()]
        parts.append((match[1], text[match.end() : end], _code_above(above)))
        end = match.start()
    for name, message, code in parts or [("RuntimeError", text, "")]:
        kind = type(name, (RuntimeError,), {})
        yield kind(message), code
        yield kind(" ".join(message.split())), code


def _code_above(text: str) -> str:
    """The last line of a traceback, without the marks that Python puts below it.

    From Python 3.13 on, a call has all its lines there: they are made one.
    """
    frame = _LAST_FRAME.search(text)
    lines = [line.strip() for line in (frame[2] if frame else text).splitlines()]
    code = [line for line in lines if line.strip("^~ ")]
    return " ".join(code if frame else code[-1:])


# What launchers, pytest and boxes around tracebacks put before and behind the lines.
_DECORATION = re.compile(r"^\[\w+\]:(?: |$)|^E {3}|^│ ?|\s*│$|^[╭╰].*", re.MULTILINE)
_LAST_FRAME = re.compile(r'^( *)File "[^"\n]*", line \d+.*\n((?:\1 +\S.*\n)+)\s*\Z', re.MULTILINE)
_NAMED_ERROR = re.compile(r"^.*?(\w*(?:Error|Exception|Warning)): ", re.MULTILINE)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Each frame that an error passed, the innermost last, with the instruction there."""
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lasti
        traceback = traceback.tb_next


def _as_tuple(tensors: Any) -> tuple[Any, ...]:
    return tuple(tensors) if isinstance(tensors, (tuple, list)) else ()
