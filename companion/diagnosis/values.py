"""What can be asked about the elements of a tensor."""

from __future__ import annotations

from math import isfinite
from typing import TypeGuard

import torch

from companion.forward.fingerprints import fingerprint
from companion.internals import has_memory, is_wrapped

Tensor = torch.Tensor
Values = tuple[tuple[int, ...], torch.dtype, int]  # shape, dtype, fingerprint


def is_readable(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor whose elements can be asked for: of float8 none can be compared."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_nested
        and not (value.is_floating_point() and value.itemsize == 1)
        and not is_wrapped(value)
        and has_memory(value)
    )


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a floating tensor whose elements can be asked for."""
    return is_readable(value) and value.is_floating_point() and value.numel() > 0


def is_finite(value: Tensor) -> bool:
    """Whether all elements are, of a dense tensor, in a tenth of the time of asking each."""
    return not value.numel() or all(map(isfinite, bounds_of(value)))


def bounds_of(value: Tensor) -> tuple[float, float]:
    """The least and the largest element; both are NaN where one element is."""
    parts = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    low, high = torch.aminmax(parts)
    return low.item(), high.item()


def is_one_number(tensor: Tensor) -> bool:
    """Whether all values of a tensor that can be read are equal."""
    return bool((tensor == tensor.flatten()[0]).all())


def values_of(tensor: Tensor) -> Values | None:
    """What is equal for two tensors of equal values; None where they cannot be read."""
    if not is_readable(tensor) or (number := fingerprint(tensor)) is None:
        return None
    return tuple(tensor.shape), tensor.dtype, number
