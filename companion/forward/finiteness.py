"""Whether the values of a tensor are finite; which operation of a block gave the first others."""

from __future__ import annotations

import sys
from cmath import isfinite
from typing import Any

import torch

from companion.forward.fingerprints import MEMORY, PLAIN, span_of
from companion.internals import has_memory, unseen_by_dispatch_modes

Tensor = torch.Tensor
UNSET, FINITE, INFINITE, NAN = -1, 0, 1, 2  # how bad the worst value is; UNSET: from empty()


def worst_of(tensor: Tensor) -> int | None:
    """How bad the worst value of a tensor is; None where that cannot be asked.

    The sum is finite only if all values are, and costs a third of asking for each.
    """
    signs = _SIGNS.get(tensor.dtype)
    if signs and (span := span_of(tensor)) and _has_no_huge_value(*span, signs):
        return FINITE
    if type(tensor) not in PLAIN:
        return None
    if not (signs or tensor.is_floating_point() or tensor.is_complex()):
        return FINITE
    if not has_memory(tensor):
        return None
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():  # which must not be waited for
        return None
    with unseen_by_dispatch_modes():
        return _worst_by_operations(tensor)


def _worst_by_operations(tensor: Tensor) -> int | None:
    try:
        values = tensor.detach()
        if isfinite(values.sum().item()):
            return FINITE
        if values.isfinite().all().item():  # their sum overflows
            return FINITE
        return NAN if values.isnan().any().item() else INFINITE
    except RuntimeError:  # wrapped by vmap, nested, without values
        return None


def are_finite(tensor: Tensor, memory: torch.UntypedStorage) -> bool:
    """Whether all values of a result are finite, where that is seen faster than by ``worst_of``.

    Args:
        tensor: the result, which was just computed.
        memory: its memory, which has nothing else.
    """
    signs = _SIGNS.get(tensor.dtype)
    if not signs or not tensor.is_cpu:
        return False
    return _has_no_huge_value(memory.data_ptr(), memory.nbytes(), signs)


def _has_no_huge_value(address: int, size: int, signs: tuple[int, int]) -> bool:
    """Whether no value in some memory is infinite, NaN or huge, as the bytes with the signs show.

    Such a value alone has 0x7F or 0xFF there: huge is from 2**127 on, of 64 bits from 2**1009. To
    look at these bytes takes a third of the time of a sum; of more than 8 KiB it takes longer.
    """
    if not 0 < size <= _MANY:
        return False
    first, step = signs
    # They are bytes, which mypy does not know.
    with_signs: Any = MEMORY[address + first : address + size : step]
    return 0x7F not in with_signs and 0xFF not in with_signs


def _signs(size: int) -> tuple[int, int]:
    """Where the first byte is that has the sign of a number of so many bytes; how far the next."""
    return size - 1 if sys.byteorder == "little" else 0, size


_SIGNS = {
    torch.bfloat16: _signs(2),
    torch.float32: _signs(4),
    torch.float64: _signs(8),
    torch.complex64: _signs(4),
    torch.complex128: _signs(8),
}
_MANY = 8192  # of more bytes the sum takes less time
