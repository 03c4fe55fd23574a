"""What to give in place of what has no graph: a list, a dict, an object, a module, a number."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


def is_node(value: object) -> bool:
    """Whether this is a Node, the ``grad_fn`` of a tensor."""
    return hasattr(type(value), "next_functions")


def how_to_take_apart(output: object, *graphs: type) -> str:
    """How to get a tensor from what was given in place of one, in words; "" if there is none.

    Args:
        output: a module, or a list, tuple, dict or object with tensors in it, at any depth.
        *graphs: classes whose objects would do as well, and so would a Node.
    """
    if isinstance(output, nn.Module):
        return "call the module, and give what it returns"
    parts = list(_parts(output))
    if paths := [path for path, part in parts if _is_tensor_with_graph(part)]:
        unpacked = _unpacked(output) if graphs else ""
        of_all = f", or all: Graph.of({unpacked})" if unpacked else ""
        return f"give one of its tensors, such as {paths[0]}{of_all}"
    if paths := [path for path, part in parts if isinstance(part, graphs)]:
        return f"its Graph is {paths[0]}"
    if paths := [path for path, part in parts if graphs and is_node(part)]:
        return f"its Node is {paths[0]}"
    return ""


def is_of_numbers(output: object) -> bool:
    """Whether it is a number or an array, which has left PyTorch."""
    return isinstance(output, int | float | complex) or hasattr(type(output), "__array__")


def way_out(output: object, *graphs: type) -> str:
    """What to give in place of what is no tensor, in words; "" if that is not known.

    Args:
        output: what was given.
        *graphs: classes whose objects would have done as well, and so would a Node.
    """
    if output is None:
        return "does the function that computes it return it?"
    if is_of_numbers(output):
        return "numbers have no graph; give the tensor that they were read from"
    if inspect.isroutine(output):
        return "call it, and give what it returns"
    if words := how_to_take_apart(output, *graphs):
        return words
    has_nodes = any(is_node(part) for _, part in _parts(output))
    return "give the tensor that it is the graph of" if has_nodes else ""


def refused(output: object, *graphs: type) -> str:
    """The type of what was given in place of a tensor, and the way out, for an error."""
    words = way_out(output, *graphs)
    return type(output).__name__ + (f"; {words}" if words else "")


def check_what(what: object, *graphs: type, kinds: str = " or a Graph") -> None:
    """Raise unless this is a tensor, a Node, or of one of some classes.

    Args:
        what: what a function was given.
        *graphs: the classes.
        kinds: what their objects are called.
    """
    if not isinstance(what, (torch.Tensor, *graphs)) and not is_node(what):
        raise TypeError(
            f"what must be a tensor, a Node (the grad_fn of a tensor){kinds}, got "
            + refused(what, *graphs)
        )


def _unpacked(output: object) -> str:
    """How to unpack all tensors of a list, tuple or dict; "" if not each part of it is one."""
    if isinstance(output, Mapping):
        parts, unpacked = list[Any](output.values()), "*output.values()"
    elif isinstance(output, list | tuple):
        parts, unpacked = list[Any](output), "*output"
    else:
        return ""
    return unpacked if parts and all(map(_is_tensor_with_graph, parts)) else ""


def _is_tensor_with_graph(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _parts(output: object) -> Iterator[tuple[str, object]]:
    """An output and what is in it, each after the expression that gets it, the outermost first.

    What is in a tensor or a Node is not looked at.
    """
    waiting: list[tuple[str, object]] = [("output", output)]
    for path, value in waiting:  # the list grows
        yield path, value
        if len(waiting) < _MOST and not (isinstance(value, torch.Tensor) or is_node(value)):
            waiting += [(path + step, part) for step, part in _steps(value)]


def _steps(value: object) -> list[tuple[str, object]]:
    """The parts of a value, each after how to get it from that."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        fields = getattr(value, "_fields", ())  # of a NamedTuple
        steps = [f".{name}" for name in fields] or [f"[{i}]" for i in range(len(value))]
        return list(zip(steps, value, strict=True))
    if type(value).__module__.startswith("companion."):
        ours = ("graph", "roots", "grad_fn")
        return [(f".{name}", getattr(value, name)) for name in ours if hasattr(value, name)]
    attributes = getattr(value, "__dict__", {})
    return [(f".{name}", part) for name, part in attributes.items() if name[0] != "_"]


_MOST = 1000  # parts that are looked at
