"""Modules of attention leave their fast path as soon as a mode looks on, and compute otherwise.

Without it padded places are not zero, and other numbers are rounded in another way. So the mode of
a watch steps aside while such a module runs that makes no graph, and notes it as one call.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from companion.internals import enter_mode, leave_mode, next_number, remove_hook_on_all

NoteModule = Callable[[str, list[Any], int, Any], None]  # name, arguments, first Node, result


class FastPaths:
    """Lets one mode step aside.

    Args:
        mode: the mode.
        note: notes a module that ran meanwhile.
    """

    def __init__(self, mode: TorchFunctionMode, note: NoteModule) -> None:
        self._mode, self._note = mode, note
        self._thread = get_ident()
        self._handles: list[Any] = []  # of the hook before each module, and of one after it
        self._running: nn.Module | None = None
        self._above = self._first = 0  # modes above ours; the number of the next Node

    def open(self) -> None:
        """Look at the calls of modules. Torch has such hooks for those of all threads alone."""
        self._handles = [register_module_forward_pre_hook(self._begin)]

    def close(self) -> None:
        for handle in self._handles:
            remove_hook_on_all(handle)

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training or not isinstance(module, _WITH_FAST_PATH) or self._running:
            return
        if is_dynamo_compiling() or get_ident() != self._thread:
            return
        # Torch gives keywords to no hook on all modules: their tensors are not looked at.
        tensors = [t for t in (*args, *module.parameters()) if isinstance(t, torch.Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return  # it will not take its fast path
        above = leave_mode(self._mode)
        if above is not None:
            self._running, self._above, self._first = module, above, next_number()
            if len(self._handles) == 1:  # not before, since it costs time at every module
                after = register_module_forward_hook(self._end, with_kwargs=True, always_call=True)
                self._handles.append(after)

    def _end(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        if self._running is not module or get_ident() != self._thread:
            return
        self._running = None
        if len(rest) == 2:  # after an error there are no keywords, and no result
            arguments = [*args, *rest[0].values(), *module.parameters()]
            self._note(type(module).__name__, arguments, self._first, rest[1])
        enter_mode(self._mode, self._above)


_WITH_FAST_PATH = nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention
