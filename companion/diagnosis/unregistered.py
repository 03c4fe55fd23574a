"""Tensors that a module has in a place where ``parameters()`` does not look.

Those are attributes that are plain tensors, and what a Python list or dict holds: tensors, and
modules with their parameters. An optimizer on ``model.parameters()`` does not change them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from companion.naming import is_tensor

_LONG = 1000  # a longer list is data, and not looked through
_DEEP = 3  # lists in lists, so many at most


def unregistered_in(modules: Mapping[str, nn.Module]) -> dict[torch.Tensor, str]:
    """The leaves that require grad and that modules have in attributes of the user.

    Args:
        modules: the modules, by their names.

    Returns:
        By tensor the first way to it, such as ``"net.layers[0].weight"``.
    """
    found = dict[torch.Tensor, str]()
    for name, module in modules.items():
        for path, part in module.named_modules(prefix=name):
            for way, value in _attributes(part, path):
                for end, tensor in _tensors_in(value):
                    if tensor.requires_grad and tensor.is_leaf:
                        found.setdefault(tensor, way + end)
    return found


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
