"""Tensors that a module has in a place where ``parameters()`` does not look.

Those are attributes that are plain tensors, and what a Python list or dict holds: tensors, and
modules with their parameters. An optimizer on ``model.parameters()`` does not change them. Such a
tensor may also be the result of what nobody has any more, as of ``nn.Parameter(values).double()``.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from companion.diagnosis.inputs import trouble_of
from companion.graph.reading import edge_of
from companion.naming import is_tensor

_LONG = 1000  # a longer list is data, and not looked through
_DEEP = 3  # lists in lists, so many at most
_STEPS = 5  # from a result to its leaf, so many at most


class Kept(NamedTuple):
    """Where a module has a leaf: the way there, such as ``"net.layers[0].weight"``."""

    way: str
    is_result: bool  # it has not the leaf itself, but what was computed from it


def unregistered_in(
    modules: Mapping[str, nn.Module], held: Container[torch.Tensor]
) -> dict[torch.Tensor, Kept]:
    """The leaves that require grad and that modules have in attributes of the user.

    Args:
        modules: the modules, by their names.
        held: their parameters.

    Returns:
        By tensor the first way to it.
    """
    found = dict[torch.Tensor, Kept]()
    for name, module in modules.items():
        for path, part in module.named_modules(prefix=name):
            for way, value in _attributes(part, path):
                for end, tensor in _tensors_in(value):
                    leaf = _leaf_of(tensor)
                    if leaf is not None and leaf not in held:
                        found.setdefault(leaf, Kept(way + end, leaf is not tensor))
    return found


def _leaf_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor, if it is a leaf that requires grad; or the Parameter that it is a result of."""
    if tensor.is_leaf or trouble_of(tensor):
        return tensor if tensor.requires_grad else None
    node: Any = edge_of(tensor)[0]
    for _ in range(_STEPS):
        if hasattr(node, "variable"):
            return node.variable if isinstance(node.variable, nn.Parameter) else None
        nodes = [each for each, _ in node.next_functions if each is not None]
        if len(nodes) != 1:
            return None
        node = nodes[0]
    return None


def _attributes(module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """The attributes that the user gave a module, without those that are registered."""
    for name, value in vars(module).items():
        if not name.startswith("_"):
            yield f"{path}.{name}", value


def _tensors_in(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in what an attribute holds, each with the rest of the way to it."""
    waiting = [("", value, 0)]
    for way, each, depth in waiting:  # the list grows
        if is_tensor(each):
            yield way, each
        elif issubclass(type(each), nn.Module):
            yield from ((f"{way}.{name}", tensor) for name, tensor in each.named_parameters())
        elif type(each) in (list, tuple, dict) and len(each) <= _LONG and depth < _DEEP:
            items = each.items() if type(each) is dict else enumerate(each)
            waiting += [(f"{way}[{key!r}]", item, depth + 1) for key, item in list(items)]
