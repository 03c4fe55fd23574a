"""What the values that a Node saved say about its gradient: NaN, ties, and the like.

The saved values are those that the formula of the Node will compute with, so where it divides by
zero can be seen beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch

from companion.graph.nodes import Edge
from companion.graph.saved import Peek
from companion.internals import is_wrapped

Tensor = torch.Tensor
Risk = tuple[str, str]  # the code of a finding, and its message


def risks(
    name: str, one: Peek, slots: Sequence[Edge | None], outputs: Collection[int]
) -> Iterator[Risk]:
    """What is to be said about the values of one Node.

    Args:
        name: the class of the Node.
        one: what it saved.
        slots: where it leads.
        outputs: the numbers of the outputs that a gradient comes to.
    """
    kind = re.sub(r"Backward\d+$", "", name)
    values = {name: value for name, value in one.values.items() if is_plain(value)}
    if kind in _POINTS and _POINTS[kind][0] in values:
        saved, is_risky, told = _POINTS[kind]
        if is_risky(values[saved]).any():
            yield "nan-risk", f"{told}: the gradient is infinite"
    if kind in _SPECTRA and _SPECTRA[kind][0] in values:
        saved, needed, told = _SPECTRA[kind]
        if (values[saved].diff(dim=-1) == 0).any() and any(nr in outputs for nr in needed):
            yield "nan-risk", f"{told}: the gradient divides by their difference"
    if kind in _RULES:
        yield from _RULES[kind](one.values, values)
    if kind in _WRITERS and slots[1] and (repeats := _WRITERS[kind](one.values)):
        often = "once" if repeats == 1 else f"{repeats} times"
        yield "duplicate-indices", f"the indices repeat {often}, and of several values one stays"
    for saved, value in tensors_in(one):
        # Infinite values may be meant, as in a mask, where no formula multiplies by them.
        if is_plain(value) and (value.isnan() | (value.isinf() & (kind in _FACTORS))).any():
            what = "infinite or NaN" if kind in _FACTORS else "NaN"
            yield "non-finite", f"{name} saved {saved}, which has {what} values"
            break


def tensors_in(one: Peek) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a Node saved, those in lists too."""
    for name, value in one.values.items():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Tensor):
                yield name, part


def is_plain(value: object) -> bool:
    """Whether it is a floating tensor whose values can be asked about."""
    return _readable(value) and value.is_floating_point() and value.numel() > 0


def _readable(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor whose elements can be asked for."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type != "meta"
        and not value.is_nested
        and not is_wrapped(value)
    )


# ---- rules: all that was saved, and of it what is_plain


def _pow(saved: Mapping[str, Any], values: Mapping[str, Tensor]) -> Iterator[Risk]:
    exponent = saved.get("exponent")
    if "self" in values and exponent is not None:
        steep = torch.as_tensor(exponent < 1) & torch.as_tensor(exponent != 0)
        if ((values["self"] == 0) & steep.to(values["self"].device)).any():
            told = "an exponent below 1" if isinstance(exponent, Tensor) else f"{exponent:g}"
            yield "nan-risk", f"x ** {told} at 0: the gradient is infinite"


def _relu(saved: Mapping[str, Any], values: Mapping[str, Tensor]) -> Iterator[Risk]:
    if "result" in values and not (values["result"] > 0).any():
        yield "dead-relu", "every output of relu is 0"


def _maximum_of_all(saved: Mapping[str, Any], values: Mapping[str, Tensor]) -> Iterator[Risk]:
    # The Node of max(dim) saved indices instead, and chooses one of several.
    if {"self", "result"} <= set(values):
        ties = int((values["self"] == values["result"]).sum())
        if ties > 1:
            yield "ties", f"{ties} elements tie: each gets 1/{ties} of the gradient"


def _maximum_of_some(saved: Mapping[str, Any], values: Mapping[str, Tensor]) -> Iterator[Risk]:
    if {"self", "result"} <= set(values):
        dims = [_signed(dim) for dim in saved["dim"]]
        result = values["result"]
        if not saved["keepdim"] and dims:
            for dim in sorted(dim % values["self"].dim() for dim in dims):
                result = result.unsqueeze(dim)
        equal = values["self"] == result
        ties = int((equal & (equal.sum(dims, keepdim=True) > 1)).sum())
        if ties:
            yield "ties", f"{ties} elements tie: those of one result share its gradient"


def _maximum_of_two(saved: Mapping[str, Any], values: Mapping[str, Tensor]) -> Iterator[Risk]:
    if {"self", "other"} <= set(values):
        ties = int((values["self"] == values["other"]).sum())
        if ties:
            yield "ties", f"{ties} pairs tie: each of the two gets half of the gradient"


def _written_twice(saved: Mapping[str, Any]) -> int:
    """How many places ``index_put`` wrote to that another place of its index names as well."""
    indices = [index for index in saved.get("indices", ()) if index is not None]
    if not indices or saved["accumulate"] or not all(map(_readable, indices)):
        return 0
    if any(index.dtype is not torch.long for index in indices):  # a mask names each place once
        return 0
    shape = torch.broadcast_shapes(*(index.shape for index in indices))  # type: ignore[no-untyped-call]
    places = torch.stack([index.expand(shape).flatten() for index in indices])
    return int(places.shape[1] - torch.unique(places, dim=1).shape[1])


def _scattered_twice(saved: Mapping[str, Any]) -> int:
    """The same of ``scatter``, whose index names places along one dimension."""
    if not _readable(saved.get("index")) or saved["index"].dim() == 0:
        return 0
    dim = _signed(saved["dim"])
    return int((saved["index"].sort(dim).values.diff(dim=dim) == 0).sum())


def _signed(dim: int) -> int:
    """A dimension that a Node saved, where Python finds a negative one as a very large number."""
    return dim - 2**64 if dim >= 2**63 else dim


# By Node: the saved value to look at, where it is dangerous, and what to say.
_POINTS: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "Acos": ("self", lambda v: v.abs() == 1, "acos at 1 or -1"),
    "Acosh": ("self", lambda v: v == 1, "acosh at 1"),
    "Asin": ("self", lambda v: v.abs() == 1, "asin at 1 or -1"),
    "Atanh": ("self", lambda v: v.abs() == 1, "atanh at 1 or -1"),
    "Div": ("other", lambda v: v == 0, "division by 0"),
    "Erfinv": ("self", lambda v: v.abs() == 1, "erfinv at 1 or -1"),
    "Log": ("self", lambda v: v == 0, "log at 0"),
    "Log10": ("self", lambda v: v == 0, "log10 at 0"),
    "Log1P": ("self", lambda v: v == -1, "log1p at -1"),
    "Log2": ("self", lambda v: v == 0, "log2 at 0"),
    "Reciprocal": ("result", lambda v: v.isinf(), "division by 0"),
    "Rsqrt": ("result", lambda v: v.isinf(), "rsqrt at 0"),
    "Sqrt": ("result", lambda v: v == 0, "sqrt at 0"),
    "Xlogy": ("other", lambda v: v == 0, "xlogy at (x, 0)"),
}
# Decompositions: the saved spectrum, the outputs whose gradient divides by its gaps.
_SPECTRA = {
    "LinalgEigh": ("eigenvalues", (1,), "equal eigenvalues"),
    "LinalgSvd": ("S", (0, 2), "equal singular values"),
}
_RULES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Iterator[Risk]]] = {
    "Amax": _maximum_of_some,
    "Amin": _maximum_of_some,
    "Max": _maximum_of_all,
    "Maximum": _maximum_of_two,
    "Min": _maximum_of_all,
    "Minimum": _maximum_of_two,
    "Pow": _pow,
    "Relu": _relu,
}
# How often a Node wrote a value in vain; its second slot leads to what the values are.
_WRITERS: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "IndexPut": _written_twice,
    "Scatter": _scattered_twice,
}
# Those whose formula multiplies the gradient by what they saved.
_FACTORS = set(
    "Addbmm Addcdiv Addcmul Addmm Addmv Addr Baddbmm Bmm Convolution Cosh Cumprod Div Dot Exp "
    "Expm1 Linear Mm Mul Mv Pow Prod Sinh Tan".split()
)
