"""Whether the memory of a tensor was changed, also where its version does not move."""

from __future__ import annotations

import sys
import zlib
from ctypes import c_char
from math import prod
from typing import NamedTuple
from weakref import ref

import torch

from companion.internals import base_of, has_memory, unseen_by_dispatch_modes, version_of

Tensor = torch.Tensor


def memory_of(tensor: Tensor) -> int | None:
    """The address of the memory that a tensor shares with its views and aliases."""
    if type(tensor) not in PLAIN:
        return None
    try:
        return tensor.untyped_storage().data_ptr() or None
    except RuntimeError:  # sparse, or wrapped by vmap
        return None


def fingerprint(tensor: Tensor) -> int | None:
    """A number that changes when the tensor's memory does; None where it cannot be read.

    The memory is read as bytes, so that NaN equals NaN.
    """
    if (span := span_of(tensor)) is None:
        with unseen_by_dispatch_modes():
            packed = _packed(tensor)  # which has to live while it is read
        span = None if packed is None else span_of(packed)
    return None if span is None else _hash(*span)


def fingerprint_of(storage: torch.UntypedStorage) -> int:
    """The same of all memory of a tensor on the CPU."""
    return _hash(storage.data_ptr(), storage.nbytes())


class ShownMemory(NamedTuple):
    """Which part of a memory a tensor shows, for when it is gone and the memory is not."""

    storage: ref[torch.UntypedStorage]
    dtype: torch.dtype
    offset: int  # in elements, as the others
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # empty if it has no gaps
    base: ref[Tensor] | None  # of a view: what counts the same versions

    @classmethod
    def of(cls, tensor: Tensor) -> ShownMemory:
        """What a tensor shows whose memory can be read."""
        stride = () if tensor.is_contiguous() else tensor.stride()
        storage, offset = ref(tensor.untyped_storage()), int(tensor.storage_offset())
        base = base_of(tensor)
        known = None if base is None else ref(base)
        return cls(storage, tensor.dtype, offset, tensor.shape, stride, known)

    def was_written_to(self, version: int | None) -> bool:
        """Whether its version is known, and is not this one any more."""
        base = self.base() if self.base else None
        return base is not None and version_of(base) != version

    def tensor(self) -> Tensor | None:
        """A tensor that shows it; None if the memory is gone too."""
        if (storage := self.storage()) is None:
            return None
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.shape, self.stride)

    def fingerprint_now(self) -> int | None:
        """What ``fingerprint`` of that tensor gives: where it has no gaps, without making it."""
        if self.stride or (storage := self.storage()) is None:
            tensor = self.tensor()
            return None if tensor is None else fingerprint(tensor)
        start, size = self.offset * self.dtype.itemsize, prod(self.shape) * self.dtype.itemsize
        is_there = start + size <= storage.nbytes()
        return _hash(storage.data_ptr() + start, size) if is_there else None


def span_of(tensor: Tensor) -> tuple[int, int] | None:
    """The address of a tensor's memory, and its bytes; None with gaps, or if it cannot be read."""
    if type(tensor) not in PLAIN or not tensor.is_cpu:
        return None
    try:
        if not tensor.is_contiguous():
            return None
        address, size = tensor.data_ptr(), tensor.nbytes
        if not size or tensor.untyped_storage().nbytes() < size and not has_memory(tensor):
            return None
    except RuntimeError:  # sparse, nested, or wrapped by vmap
        return None
    return address, size


def _packed(tensor: Tensor) -> Tensor | None:
    """A copy without gaps, with the elements of an expanded dimension once.

    None where there are no gaps, or it cannot be read.
    """
    if type(tensor) not in PLAIN or not tensor.is_cpu:
        return None
    try:
        if tensor.is_contiguous() or not has_memory(tensor):
            return None
        tensor = tensor.detach()
        for dim, stride in enumerate(tensor.stride()):
            if stride == 0:  # expanded
                tensor = tensor.narrow(dim, 0, min(1, tensor.shape[dim]))
        return tensor.contiguous()
    except RuntimeError:  # as in span_of
        return None


def _hash(address: int, size: int) -> int:
    return _hash_of_sums(address, size) if size >= _LARGE else zlib.crc32(_memory(address, size))


def _hash_of_sums(address: int, size: int) -> int:
    """From 64 KiB on, hash 1021 column sums instead of all bytes: ten times faster.

    Numbers that change places are noticed, unless they are in the same column. The number of
    columns is prime so that rows of usual lengths do not lie below one another: with 1024 columns
    any two rows of 1024 numbers would.
    """
    sums_hash, summed = 0, 0
    if address % 8 == 0:
        rows = size // (8 * _COLUMNS)
        summed = rows * 8 * _COLUMNS
        with unseen_by_dispatch_modes():
            numbers = torch.frombuffer(_memory(address, summed), dtype=torch.int64)
            sums = numbers.view(rows, _COLUMNS).sum(0)
        sums_hash = zlib.crc32(_memory(sums.data_ptr(), sums.nbytes))
    return zlib.crc32(_memory(address + summed, size - summed), sums_hash)


def _memory(address: int, size: int) -> memoryview:
    return _VIEW[address : address + size]


PLAIN = {torch.Tensor, torch.nn.Parameter}
DUE = -1  # in place of a fingerprint, of which none is negative: it has still to be taken
_LARGE = 64 * 1024
_COLUMNS = 1021
# All memory, byte by byte by its address. To make a ``ctypes`` array for each look takes long.
MEMORY = (c_char * sys.maxsize).from_address(0)
_VIEW = memoryview(MEMORY)
