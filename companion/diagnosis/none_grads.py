"""An error because a gradient or a Node is None: of which tensor, and why there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import FrameType
from typing import Any

from torch import Tensor, nn

from companion.diagnosis.tracebacks import users_frames
from companion.findings import Finding, finding
from companion.naming import is_tensor, variables_of
from companion.source import Source

_NAMED = re.compile(r"\b(\w+(?:\.\w+)*)\.(grad|grad_fn)\b")

_LIKELY = "something in this line is None, most likely the .grad"


def about_none(error: BaseException, frame: FrameType, source: Source) -> Finding | None:
    """A finding, if the error is about None and the line reads a gradient or Node that is None."""
    if "NoneType" not in str(error):
        return None
    for match in _NAMED.finditer(source.text):
        name = match[1]
        tensor = _value(name, frame)
        if not is_tensor(tensor):
            continue
        if match[2] == "grad_fn":
            if tensor.grad_fn is None:
                return _about_no_node(name, tensor.requires_grad, source)
            continue
        if not tensor.is_leaf and not tensor.retains_grad:
            message = f"{name}.grad is None, since {name} is the result of an operation"
            return finding("grad-is-none", message, source=source, variant="result")
        if tensor.grad is not None:
            continue
        if not tensor.requires_grad:
            message = f"{name}.grad is None, since {name} does not require grad"
            return finding("grad-is-none", message, source=source, variant="frozen")
        message = f"{name}.grad is None: no backward pass has come to {name}"
        if (path := _path_of(tensor, users_frames(error))) not in ("", name):
            message += f", which is {path}"
        return finding("grad-is-none", message, source=source)
    if re.search(r"[])]\.grad\b", source.text):  # of something that has no name
        return finding("grad-is-none", _LIKELY, source=source)
    if any(_asks_for_unused(each) for each in users_frames(error)):
        message = "something in this line is None, most likely a gradient of autograd.grad"
        return finding("grad-is-none", message, source=source, variant="unused")
    return None


def _path_of(parameter: Tensor, frames: Sequence[FrameType]) -> str:
    """The path to a parameter by a module that is a variable, or an attribute of ``self``."""
    for frame in reversed(frames):
        variables = dict(variables_of(frame))
        parts = getattr(variables.get("self"), "__dict__", {})
        variables |= {f"self.{name}": value for name, value in parts.items()}
        for name, value in variables.items():
            paths = value.named_parameters() if isinstance(value, nn.Module) else ()
            if path := next((path for path, each in paths if each is parameter), ""):
                return f"{name}.{path}"
    return ""


def _about_no_node(name: str, requires_grad: bool, source: Source) -> Finding:
    """What is said of a ``.grad_fn`` that is None."""
    if requires_grad:
        message = f"{name}.grad_fn is None, since {name} is a leaf: no operation made it"
        return finding("no-graph", message, source=source, variant="leaf")
    message = f"{name}.grad_fn is None: {name} does not require grad"
    return finding("no-graph", message, source=source)


def _asks_for_unused(frame: FrameType) -> bool:
    """Whether the code of a frame calls something with ``allow_unused=...``."""
    return any(isinstance(c, tuple) and "allow_unused" in c for c in frame.f_code.co_consts)


def about_none_in_text(error: BaseException, line: str) -> Finding | None:
    """A finding, if an error that came as text is about None and the line reads a ``.grad``."""
    is_likely = "NoneType" in str(error) and re.search(r"\.grad\b", line)
    return finding("grad-is-none", _LIKELY) if is_likely else None


def _value(dotted: str, frame: FrameType) -> Any:
    """What a name with attributes stands for in a frame; None if that cannot be told."""
    first, *attributes = dotted.split(".")
    value = frame.f_locals.get(first, frame.f_globals.get(first))
    for attribute in attributes:
        try:
            value = getattr(value, attribute)
        except Exception:  # a property may raise anything
            return None
    return value
