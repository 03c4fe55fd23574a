"""Where in the user's code a call of torch stands, and what it runs inside of."""

from __future__ import annotations

import copy
import inspect
import os
from types import CodeType, FrameType

import torch
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from companion.source import Place, is_installed, is_users

# What a call may run inside of; of the first two it is the user's line that calls apply().
FUNCTION, CHECKPOINT, SAMPLE, DEEPCOPY = "function", "checkpoint", "sample", "deepcopy"
RECOMPUTED = "recomputed"  # by a checkpoint that is not reentrant
FUNCTIONS = {FUNCTION, CHECKPOINT}


class Places:
    """Finds the place of a call by its frames, out to the code that entered the block.

    Every operation comes through here, so it asks no more of a code object than its names: the hash
    of one takes long.
    """

    def __init__(self, entry_code: CodeType) -> None:
        self._entry_code = entry_code
        self._meanings: dict[CodeType, str] = {}  # of code that calls may run inside of

    def of(self, frame: FrameType | None) -> tuple[Place | None, Place | None, str]:
        """The user's place, the library's place below it, and what the call runs inside of.

        The user's is the innermost in code of their own; the last is "" for nothing.
        """
        place, library_place, runs_inside = None, None, ""
        while frame is not None:
            code = frame.f_code
            if place is None and is_users(code.co_filename):
                if not is_installed(code.co_filename):
                    place = code, frame.f_lasti
                else:
                    library_place = library_place or (code, frame.f_lasti)
            if code is self._entry_code:
                break
            if code.co_name in _NAMES and (meaning := self._meaning_of(frame)):
                if meaning in FUNCTIONS:
                    place, library_place, runs_inside = None, None, meaning
                runs_inside = runs_inside or meaning
            frame = frame.f_back
        if place is None:
            return library_place, None, runs_inside
        return place, library_place, runs_inside

    def _meaning_of(self, frame: FrameType) -> str:
        code, caller = frame.f_code, frame.f_back
        if caller and caller.f_code.co_filename == _CALLS_OF_MODULES:
            return ""  # the usual case, without a look at all classes of Functions
        if code not in self._meanings:
            self._meanings[code] = _meaning(code)
        return self._meanings[code]


def _meaning(code: CodeType) -> str:
    """What it means for a call to run inside of this code; "" for nothing."""
    if code.co_name in ("forward", "setup_context") and _is_of_a_function(code):
        is_checkpoint = code is inspect.unwrap(CheckpointFunction.forward).__code__
        return CHECKPOINT if is_checkpoint else FUNCTION
    if code is inspect.unwrap(checkpoint).__code__:
        return RECOMPUTED
    if code is copy.deepcopy.__code__:
        return DEEPCOPY
    if code.co_name == "sample" and code.co_filename.startswith(_DISTRIBUTIONS):
        return SAMPLE
    return ""


def _is_of_a_function(code: CodeType) -> bool:
    """Whether it is the code of a ``torch.autograd.Function``, and not of a module, say."""
    classes = [torch.autograd.Function]
    for cls in classes:  # the list grows by the classes made from these
        classes += cls.__subclasses__()
    methods = (inspect.unwrap(getattr(cls, code.co_name)) for cls in classes)
    return any(getattr(method, "__code__", None) is code for method in methods)


_NAMES = {
    "forward",
    "setup_context",
    "checkpoint",
    "deepcopy",
    "sample",
}  # of the code that _meaning knows
_CALLS_OF_MODULES = torch.nn.Module.__call__.__code__.co_filename
_DISTRIBUTIONS = os.path.dirname(torch.distributions.__file__) + os.sep
