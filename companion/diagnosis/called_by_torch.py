"""An error at a function of the user's that torch calls: a hook, or one of a custom Function.

It does not take what torch gives it, or an operation in it raised. Torch's message then says
nothing of gradients; the line of torch that called the function tells what it is.
"""

from __future__ import annotations

import re
from types import FrameType

import torch

from companion.diagnosis.tracebacks import frames_of
from companion.findings import Finding, finding
from companion.source import Source, is_users

_REFUSED = re.compile(r"([\w.<>]+)\(\) (?:takes|missing) ")
_APPLY = re.compile(r"\buser_fn\(self, |\.apply\(")
_HOOK = re.compile(r"hook\((?:self|module)\b[^)]*\)")
_ENGINE = re.compile(r"\brun_backward\(")


def about_arguments(error: BaseException, line: str, source: Source | None) -> Finding | None:
    """A finding, if torch called a function of the user's that takes other arguments.

    Args:
        error: the error, or what a text has of it.
        line: the line that made the call; of a text the last line of code.
        source: the user's line.
    """
    match = _REFUSED.search(str(error))
    if type(error).__name__ != "TypeError" or match is None:
        return None
    code, name = "hook", f"the hook {_short(match[1])}"
    if _APPLY.search(line) and not match[1].endswith("apply"):
        code, name = "function-form", f"{_short(match[1])} of a custom Function"
        message = f"{name} takes other arguments than it is given"
    elif call := _HOOK.search(line):
        message = f"{name} is called as {call[0]}, and takes other arguments"
    elif _ENGINE.search(line):
        message = f"{name} takes other arguments than the backward pass gives it"
    else:
        return None
    return finding(code, message, severity="error", source=source, variant="arguments")


def about_own_code(error: BaseException, source: Source | None) -> Finding | None:
    """A finding, if the error was raised in a hook or a custom Function in a backward pass."""
    frames, called = list(frames_of(error)), None
    for index in range(1, len(frames)):
        if is_users(frames[index].f_code.co_filename):
            if code := _code_of_call(frames[index - 1], frames[:index]):
                called = code, frames[index].f_code.co_qualname
    if called is None:
        return None
    reason, *_ = (str(error) or type(error).__name__).splitlines()
    message = f"{_short(called[1])} raised in the backward pass: {reason.rstrip('.')}"
    return finding(called[0], message, severity="error", source=source, variant="raised")


def _code_of_call(caller: FrameType, before: list[FrameType]) -> str:
    """What a frame of torch calls while the engine runs: a Function, a hook; "" for all else."""
    if not any(frame.f_code.co_filename == torch.autograd.graph.__file__ for frame in before):
        return ""
    if caller.f_code.co_filename == torch.autograd.function.__file__:
        return "custom-gradients" if "user_fn" in caller.f_locals else ""  # else it calls forward
    hooks = torch.autograd.graph.__file__, torch.utils.hooks.__file__
    return "hook" if caller.f_code.co_filename in hooks else ""


def _short(name: str) -> str:
    """The name of a function without that of the function it was written in."""
    return name.rpartition("<locals>.")[2] + "()"
