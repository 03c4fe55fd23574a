"""What an error passed on its way: the user's line, and what torch was called with."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from companion.source import Source, is_users, source_at


def users_frame(error: BaseException) -> tuple[FrameType, Source] | None:
    """The innermost frame of the user that an error passed, and the line there."""
    innermost = None
    for frame, instruction in _frames(error):
        if is_users(frame.f_code.co_filename):
            innermost = frame, instruction
    return innermost and (innermost[0], source_at(innermost[0].f_code, innermost[1]))


def engine_call(error: BaseException) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The outputs and inputs of the call of the engine that raised an error; empty if unknown."""
    outputs = inputs = None
    for frame, _ in _frames(error):
        given = frame.f_locals
        if frame.f_code is torch.autograd.backward.__code__:
            outputs, inputs = given["tensors"], given.get("inputs_tuple", ())
        elif frame.f_code is torch.autograd.grad.__code__:
            outputs, inputs = given["outputs"], given.get("inputs_tuple", ())
    return _as_tuple(outputs), _as_tuple(inputs)


def distributed_module(error: BaseException) -> DistributedDataParallel | None:
    """The wrapped model whose method an error passed."""
    modules = (frame.f_locals.get("self") for frame, _ in _frames(error))
    return next((each for each in modules if isinstance(each, DistributedDataParallel)), None)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Each frame that an error passed, the innermost last, with the instruction there."""
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lasti
        traceback = traceback.tb_next


def _as_tuple(tensors: Any) -> tuple[Any, ...]:
    return tuple(tensors) if isinstance(tensors, (tuple, list)) else ()
