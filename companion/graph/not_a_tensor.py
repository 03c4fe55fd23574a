"""What to give in place of an output that is no tensor: a list, a dict, an object, a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


def how_to_take_apart(output: object) -> str:
    """How to get a tensor from what was given in place of one, in words; "" if there is none.

    Args:
        output: a module, or a list, tuple, dict or object with tensors in it, at any depth.
    """
    if isinstance(output, nn.Module):
        return "call the module, and give what it returns"
    paths = [path for path, tensor in _parts(output) if tensor.requires_grad]
    return f"give one of its tensors, such as {paths[0]}" if paths else ""


def refused(output: object) -> str:
    """The type of what was given in place of a tensor, and the way out, for an error."""
    way_out = how_to_take_apart(output)
    return type(output).__name__ + (f"; {way_out}" if way_out else "")


def all_of(output: object) -> str:
    """How to unpack all tensors of a list, tuple or dict; "" if not each part of it is one."""
    if isinstance(output, Mapping):
        parts, unpacked = list[Any](output.values()), "*output.values()"
    elif isinstance(output, list | tuple):
        parts, unpacked = list[Any](output), "*output"
    else:
        return ""
    all_fit = all(isinstance(part, torch.Tensor) and part.requires_grad for part in parts)
    return unpacked if parts and all_fit else ""


def _parts(output: object) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in an output, each after the expression that gets it, the outermost first."""
    waiting: list[tuple[str, object]] = [("output", output)]
    for path, value in waiting:  # the list grows
        if isinstance(value, torch.Tensor):
            yield path, value
        elif len(waiting) < _MOST:
            waiting += [(path + step, part) for step, part in _steps(value)]


def _steps(value: object) -> list[tuple[str, object]]:
    """The parts of a value, each after how to get it from that."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    attributes = getattr(value, "__dict__", {})
    return [(f".{name}", part) for name, part in attributes.items() if name[0] != "_"]


_MOST = 1000  # parts that are looked at
