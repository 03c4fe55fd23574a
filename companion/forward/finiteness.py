"""Whether the values of a tensor are finite; which operation of a block gave the first others."""

from __future__ import annotations

from cmath import isfinite

import torch

from companion.forward.fingerprints import PLAIN
from companion.internals import has_dispatch_mode

Tensor = torch.Tensor
UNSET, FINITE, INFINITE, NAN = -1, 0, 1, 2  # how bad the worst value is; UNSET: from empty()


def worst_of(tensor: Tensor) -> int | None:
    """How bad the worst value of a tensor is; None where that cannot be asked.

    The sum is finite only if all values are, and costs a third of asking for each.
    """
    if type(tensor) not in PLAIN or has_dispatch_mode():  # which would see the sum
        return None
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return FINITE
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():  # which must not be waited for
        return None
    try:
        if isfinite(_sum_of(tensor)):
            return FINITE
        values = tensor.detach()
        if values.isfinite().all().item():  # their sum overflows
            return FINITE
        return NAN if values.isnan().any().item() else INFINITE
    except (RuntimeError, NotImplementedError):  # wrapped by vmap, nested, without values
        return None


def _sum_of(tensor: Tensor) -> complex:
    """The sum of the values: of a few Python makes it in a third of the time."""
    dim = tensor.dim()
    if dim == 0:
        return tensor.item()
    if dim == 1 and tensor.numel() <= _FEW and tensor.is_cpu:
        return sum(tensor.tolist())  # type: ignore[no-any-return]
    return tensor.detach().sum().item()


_FEW = 32
