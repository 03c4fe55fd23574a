"""The tensors that a call of torch gives and writes into, in whatever they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from companion.forward.fingerprints import PLAIN
from companion.forward.notes import TorchCall
from companion.forward.torch_functions import ASSIGNING, SILENT, written_silently
from companion.internals import base_of, version_of

Tensor = torch.Tensor


def given_by(result: Any) -> list[Tensor]:
    """The tensors that a call gave, in whatever they come."""
    given, parts = [], [result]
    for part in parts:  # the list grows by what is in lists, tuples and dicts
        if type(part) in PLAIN or is_followed(part):
            given.append(part)
        else:
            parts += items_in(part)
    return given


def written_by(call: TorchCall, result: Any) -> list[Tensor]:
    """The tensors that a call wrote into."""
    if result is None and call.name in ASSIGNING:  # the version need not move
        return [tensor for tensor, _ in call.inputs[:1]]
    written = []
    for tensor, state in call.inputs:
        if version_of(tensor) != state.version:
            written.append(tensor)
    if call.name in SILENT:
        written += written_silently(call.name, call.args, call.kwargs)
    return written


def given_or_written(given: list[Tensor], written: list[Tensor]) -> list[Tensor]:
    """What a call gave, and what it wrote into and did not give."""
    # Not ``in``, which would compare the elements.
    return [*given, *[t for t in written if not any(t is other for other in given)]]


def flattened(result: Any) -> list[Any]:
    """All that is in nested lists, tuples and dicts, and those themselves."""
    flat = [result]
    for part in flat:  # the list grows by what is in them
        flat += items_in(part)
    return flat


def items_in(argument: Any) -> Iterable[Any]:
    """What is in a list, a tuple or a dict."""
    if isinstance(argument, _SEQUENCES):
        return argument
    return argument.values() if isinstance(argument, dict) else ()


def is_followed(argument: Any) -> bool:
    """Whether it is a tensor that can be looked up."""
    return isinstance(argument, Tensor) and type(argument).__hash__ is not None


_SEQUENCES = list, tuple  # ``list | tuple`` would be made anew at each call


def is_bare_view(tensor: Tensor) -> bool:
    """Whether it is a view that was made with gradients off, or before its base required grad.

    It says that it requires grad since its base does, and has no Node: no gradient comes to either.
    """
    base = base_of(tensor) if tensor.is_leaf and tensor.requires_grad else None
    return base is not None and base.requires_grad
