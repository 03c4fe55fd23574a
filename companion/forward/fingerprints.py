"""Whether a tensor was changed: by its version, which autograd counts, and by its memory."""

from __future__ import annotations

import zlib
from ctypes import c_int, c_ssize_t, c_void_p, py_object, pythonapi

import torch

from companion.internals import has_dispatch_mode

Tensor = torch.Tensor


def memory_of(tensor: Tensor) -> int | None:
    """The address of the memory that a tensor shares with its views and aliases."""
    if type(tensor) not in PLAIN:
        return None
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # sparse, or wrapped by vmap
        return None


def fingerprint(tensor: Tensor) -> int | None:
    """A number that changes when the tensor's memory does; None where it cannot be read.

    Read as bytes, so that NaN equals NaN. Of much memory columns of integers are added up, since
    that takes a tenth of the time; there are a prime number of them, so that rows that change
    places change the sums.
    """
    if type(tensor) not in PLAIN or not tensor.is_cpu:
        return None
    try:
        if not tensor.is_contiguous():
            if has_dispatch_mode():  # a mode of the user's would see the copy
                return None
            tensor = tensor.detach()
            for dim, stride in enumerate(tensor.stride()):
                if stride == 0:  # expanded
                    tensor = tensor.narrow(dim, 0, min(1, tensor.shape[dim]))
            tensor = tensor.contiguous()
        address, size = tensor.data_ptr(), tensor.nbytes
    except (RuntimeError, NotImplementedError):  # sparse, nested, or wrapped by vmap
        return None
    if not address or not size:
        return None
    if size < 65536:
        return zlib.crc32(_bytes(address, size, _WRITABLE))
    bits = 0
    rows = size // (8 * _COLUMNS)
    if address % 8 == 0 and not has_dispatch_mode():
        summed = rows * 8 * _COLUMNS
        whole = torch.frombuffer(_bytes(address, summed, _WRITABLE), dtype=torch.int64)
        sums = whole.view(rows, _COLUMNS).sum(0)
        bits = zlib.crc32(_bytes(sums.data_ptr(), sums.nbytes, _WRITABLE))
        address, size = address + summed, size - summed
    return zlib.crc32(_bytes(address, size, _WRITABLE), bits)


PLAIN = {torch.Tensor, torch.nn.Parameter}
_COLUMNS = 1021
_WRITABLE = 0x200  # PyBUF_WRITE; frombuffer warns of others
_bytes = pythonapi.PyMemoryView_FromMemory
_bytes.restype, _bytes.argtypes = py_object, (c_void_p, c_ssize_t, c_int)
