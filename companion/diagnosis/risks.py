"""What the values that a Node saved say about its gradient: NaN, ties, and the like.

The saved values are those that the formula of the Node will compute with, so where it divides by
zero can be seen beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf, prod
from typing import Any, NamedTuple, TypeGuard

import torch

from companion.diagnosis.derivatives_yaml import operation_of
from companion.graph.nodes import Edge
from companion.graph.saved import Peek
from companion.internals import has_memory, is_wrapped

Tensor = torch.Tensor
Risk = tuple[str, str]  # the code of a finding, and its message


def risks(
    name: str,
    saved: Peek,
    shape: tuple[int, ...] | None,
    slots: Sequence[Edge | None],
    outputs: Collection[int],
    hidden: bool = False,
    overwritten: Tensor | None = None,
) -> Iterator[Risk]:
    """What is to be said about the values of one Node. Of one that saved what is infinite or NaN,
    where its formula would spread that, the code is ``"non-finite"``.

    Args:
        name: the class of the Node.
        saved: what it saved.
        shape: the shape of its output.
        slots: where it leads.
        outputs: the numbers of the outputs that a gradient comes to.
        hidden: whether the output of the graph is finite, whatever this Node saved. Then only what
            can spoil a gradient counts, and else also what shows where NaN was.
        overwritten: the elements of the gradient of its input that the next Node makes zero.
    """
    operation = operation_of(name)
    overwritten = overwritten if hidden and operation in _BY_ELEMENT else None
    if rule := _RULES.get(operation):
        values = {name: value for name, value in saved.values.items() if is_plain(value)}
        if risk := rule(_Saved(saved.values, values, shape, slots, outputs, overwritten)):
            yield risk
            if risk[0] == "non-finite":
                return
    for argument, value in saved.tensors:
        # Infinite values may be meant, as in a mask, where no formula multiplies by them.
        is_factor = operation in _FACTORS
        if (
            is_plain(value)
            and argument not in _UNUSED.get(operation, ())
            and not (hidden and operation in _COMPARING)
            and _arriving(value.isnan() | (value.isinf() & is_factor), overwritten).any()
        ):
            kind = "infinite or NaN" if is_factor else "NaN"
            yield "non-finite", f"{name} saved {argument}, which has {kind} values"
            return


def _arriving(spoilt: Tensor, overwritten: Tensor | None) -> Tensor:
    """The elements of a gradient that are spoilt, and that the next Node does not make zero."""
    return spoilt if overwritten is None else spoilt & ~overwritten


def is_plain(value: object) -> bool:
    """Whether it is a floating tensor whose values can be asked about."""
    return is_readable(value) and value.is_floating_point() and value.numel() > 0


def is_readable(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor whose elements can be asked for."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_nested
        and not is_wrapped(value)
        and has_memory(value)
    )


# ---- rules: what can be said of the Nodes of one operation


class _Saved(NamedTuple):
    """What a rule may look at."""

    all: Mapping[str, Any]  # what the Node saved, by name
    values: Mapping[str, Tensor]  # of these the tensors that are plain
    shape: tuple[int, ...] | None  # of its output
    slots: Sequence[Edge | None]  # where the Node leads
    outputs: Collection[int]  # the numbers of the outputs that a gradient comes to
    overwritten: Tensor | None  # the elements of its gradient that the next Node makes zero


_Rule = Callable[[_Saved], Risk | None]


def _at(names: str, is_risky: Callable[..., Tensor], point: str, gives: str = "infinite") -> _Rule:
    """The formula divides by zero where the values saved under some names are risky."""

    def rule(saved: _Saved) -> Risk | None:
        if set(names.split()) <= set(saved.values):
            risky = is_risky(*[saved.values[name] for name in names.split()])
            if _arriving(risky, saved.overwritten).any():
                return "nan-risk", f"{point}: the gradient is {gives}"
        return None

    return rule


def _within(low: float, high: float, point: str) -> _Rule:
    """At the ends of its domain the formula divides by zero, and outside it gives NaN."""
    at_the_ends = _at("self", lambda v: (v == low) | (v == high), point)

    def rule(saved: _Saved) -> Risk | None:
        value = saved.values.get("self")
        if value is None:
            return None
        if _arriving((value < low) | (value > high), saved.overwritten).any():
            domain = f"below {low:g}" if high == inf else f"outside of {low:g} to {high:g}"
            return "non-finite", f"{point.partition(' ')[0]} gave NaN for values {domain}"
        return at_the_ends(saved)

    return rule


def _between_equal(name: str, dividing: Collection[int], equal: str) -> _Rule:
    """The gradient of some outputs divides by the gaps of the spectrum saved under a name."""

    def rule(saved: _Saved) -> Risk | None:
        if name in saved.values and (saved.values[name].diff(dim=-1) == 0).any():
            if any(number in saved.outputs for number in dividing):
                return "nan-risk", f"{equal}: the gradient divides by their difference"
        return None

    return rule


def _writing(repeats_of: Callable[[_Saved], int]) -> _Rule:
    """Some values were written in vain; slot 1 leads to what the values are."""

    def rule(saved: _Saved) -> Risk | None:
        repeats = repeats_of(saved) if any(saved.slots[1:2]) else 0  # no slot 1: it is a number
        often = "once" if repeats == 1 else f"{repeats} times"
        message = f"the indices repeat {often}, and of several values one stays"
        return ("duplicate-indices", message) if repeats else None

    return rule


def _pow(saved: _Saved) -> Risk | None:
    base, exponent = saved.values.get("self"), saved.all.get("exponent")
    if base is None or exponent is None:
        return None
    if isinstance(exponent, complex) or (
        isinstance(exponent, Tensor) and (exponent.is_complex() or not is_readable(exponent))
    ):
        return None
    if len(saved.slots) > 1 and saved.slots[1] and (base < 0).any():
        return "nan-risk", "x ** y by y, of a negative x: the gradient is NaN"
    if not saved.slots[0]:
        return None  # by the exponent the slope at 0 is 0
    power = torch.as_tensor(exponent * 1.0, device=base.device)
    if ((base < 0) & (power != power.round())).any():
        return "non-finite", "a power with a fraction in its exponent gave NaN for values below 0"
    steep = torch.as_tensor(exponent < 1) & torch.as_tensor(exponent != 0)
    if not ((base == 0) & steep.to(base.device)).any():
        return None
    called = "an exponent below 1" if isinstance(exponent, Tensor) else f"{exponent:g}"
    return "nan-risk", f"x ** {called} at 0: the gradient is infinite"


def _times_log(function: str, zero: int) -> _Rule:
    """Of ``x * log(y)``, whose formula leaves out an ``x`` that is 0 by ``x`` alone."""

    def rule(saved: _Saved) -> Risk | None:
        x, y = saved.all.get("self"), saved.all.get("other")
        if not all(isinstance(v, int | float) or is_readable(v) for v in (x, y)):
            return None
        x_is_zero = torch.as_tensor(x == 0)
        y_is_zero = torch.as_tensor(y == zero).to(x_is_zero.device)
        # Of a number there is no slot.
        by_y = isinstance(y, Tensor) and bool(saved.slots[-1])
        if (~x_is_zero & y_is_zero).any():
            return "nan-risk", f"{function} at (x, {zero}): the gradient is infinite"
        if by_y and (x_is_zero & y_is_zero).any():
            return "nan-risk", f"{function} at (0, {zero}): the gradient by the second is NaN"
        return None

    return rule


def _addcdiv(saved: _Saved) -> Risk | None:
    """What is added has the slope 1."""
    return _QUOTIENT(saved) if any(saved.slots[1:]) else None


def _spread_and_mean(saved: _Saved) -> Risk | None:
    """The mean, the second output, has its gradient whatever the spread is."""
    return _spread(saved) if 0 in saved.outputs else None


def _div(saved: _Saved) -> Risk | None:
    """Rounded, as by ``//``, a quotient sends zeros."""
    return None if saved.all.get("rounding_mode") else _BY_ZERO(saved)


def _remainder(saved: _Saved) -> Risk | None:
    """The gradient of the divisor is rounded quotients."""
    return _BY_ZERO(saved) if saved.slots[1:] and saved.slots[1] else None


def _logit(saved: _Saved) -> Risk | None:
    """Where it has an ``eps`` it clamps."""
    return None if (saved.all.get("eps") or 0) > 0 else _LOGIT(saved)


def _spread(saved: _Saved) -> Risk | None:
    """Of ``std`` and ``var``: whether nothing is left to divide by."""
    if "self" not in saved.values:
        return None
    shape, dims = saved.values["self"].shape, saved.all["dim"] or ()
    lengths = [shape[dim] for dim in dims] if dims and shape else shape
    correction = saved.all["correction"]
    if prod(lengths) > (1 if correction is None else correction):
        return None
    return "nan-risk", "std or var of one element, with correction=1: the gradient is NaN"


def _softmax(saved: _Saved) -> Risk | None:
    if "result" not in saved.values:
        return None
    # Of a row with NaN all elements are, and so are those of its gradient.
    spoilt = _arriving(saved.values["result"].isnan(), saved.overwritten)
    if not spoilt.any():
        return None
    rows = int(spoilt.any(saved.all["dim"]).sum())
    return "non-finite", (
        f"softmax gave NaN in {rows} {'row' if rows == 1 else 'rows'}: all that went into such a "
        "row was -inf, as where a mask leaves nothing, or something was NaN or inf"
    )


def _relu(saved: _Saved) -> Risk | None:
    if "result" not in saved.values or (saved.values["result"] > 0).any():
        return None
    return "dead-relu", "every output of relu is 0"


def _extremum_of_all(saved: _Saved) -> Risk | None:
    # The Node of max(dim) saved indices instead, and chooses one of several.
    if not {"self", "result"} <= set(saved.values):
        return None
    ties = int((saved.values["self"] == saved.values["result"]).sum())
    message = f"{ties} elements tie: each gets 1/{ties} of the gradient"
    return ("ties", message) if ties > 1 else None


def _extremum_of_some(saved: _Saved) -> Risk | None:
    if not {"self", "result"} <= set(saved.values):
        return None
    values, result = saved.values["self"], saved.values["result"]
    dims = saved.all["dim"]
    if not saved.all["keepdim"] and dims and values.dim():
        for dim in sorted(dim % values.dim() for dim in dims):
            result = result.unsqueeze(dim)
    equal = values == result
    ties = int((equal & (equal.sum(dims, keepdim=True) > 1)).sum())
    message = f"{ties} elements tie: those of one result share its gradient"
    return ("ties", message) if ties else None


def _extremum_of_two(saved: _Saved) -> Risk | None:
    if not {"self", "other"} <= set(saved.values):
        return None
    ties = int((saved.values["self"] == saved.values["other"]).sum())
    message = f"{ties} pairs tie: each of the two gets half of the gradient"
    return ("ties", message) if ties else None


def _written_twice(saved: _Saved) -> int:
    """How many elements ``index_put`` wrote to that its indices name a second time."""
    given = {dim: i for dim, i in enumerate(saved.all.get("indices", ())) if i is not None}
    if not given or saved.all["accumulate"] or not all(map(is_readable, given.values())):
        return 0
    if any(index.dtype is not torch.long for index in given.values()):
        return 0  # a mask names each element once
    # A negative one counts from the end.
    indices = [index % saved.shape[dim] if saved.shape else index for dim, index in given.items()]
    shape = torch.broadcast_shapes(*(index.shape for index in indices))  # type: ignore[no-untyped-call]
    elements = torch.stack([index.expand(shape).flatten() for index in indices])
    return int(elements.shape[1] - torch.unique(elements, dim=1).shape[1])


def _scattered_twice(saved: _Saved) -> int:
    """The same of ``scatter``, whose index names elements along one dimension."""
    index, dim = saved.all.get("index"), saved.all.get("dim", 0)
    if not is_readable(index) or index.dim() == 0:
        return 0
    return int((index.sort(dim).values.diff(dim=dim) == 0).sum())


_BY_ZERO = _at("other", lambda v: v == 0, "division by 0")
_QUOTIENT = _at("tensor2", lambda v: v == 0, "addcdiv, a division by 0")
_LOGIT = _within(0, 1, "logit at 0 or 1")


def _both_empty(a: Tensor, b: Tensor) -> Tensor:
    return (a == -inf) & (b == -inf)


def _pole(function: str) -> _Rule:
    return _at("self", lambda v: (v <= 0) & (v == v.round()), f"{function} at 0, -1, -2, ...")


_RULES: dict[str, _Rule] = {
    "Acos": _within(-1, 1, "acos at 1 or -1"),
    "Acosh": _within(1, inf, "acosh at 1"),
    "Addcdiv": _addcdiv,
    "Amax": _extremum_of_some,
    "Amin": _extremum_of_some,
    "Asin": _within(-1, 1, "asin at 1 or -1"),
    "Atanh": _at("self", lambda v: v.abs() == 1, "atanh at 1 or -1"),
    "Digamma": _at("self", lambda v: v == 0, "digamma at 0"),
    "Div": _div,
    "Erfinv": _within(-1, 1, "erfinv at 1 or -1"),
    "Fmod": _remainder,
    "Hypot": _at("result", lambda v: v == 0, "hypot at (0, 0)", "NaN"),
    "IndexPut": _writing(_written_twice),
    "Lgamma": _pole("lgamma"),
    "LinalgEigh": _between_equal("eigenvalues", (1,), "equal eigenvalues"),
    "LinalgSlogdet": _at("sign", lambda v: v == 0, "slogdet of a singular matrix"),
    "LinalgSvd": _between_equal("S", (0, 2), "equal singular values"),
    "Log": _at("self", lambda v: v == 0, "log at 0"),
    "Log10": _at("self", lambda v: v == 0, "log10 at 0"),
    "Log1P": _at("self", lambda v: v == -1, "log1p at -1"),
    "Log2": _at("self", lambda v: v == 0, "log2 at 0"),
    "Logaddexp": _at("self other", _both_empty, "logaddexp of -inf and -inf", "NaN"),
    "Logaddexp2": _at("self other", _both_empty, "logaddexp2 of -inf and -inf", "NaN"),
    "Logcumsumexp": _at("result", lambda v: v == -inf, "logcumsumexp of nothing but -inf", "NaN"),
    "Logit": _logit,
    "LogSoftmax": _softmax,
    "Logsumexp": _at("result", lambda v: v == -inf, "logsumexp of nothing but -inf", "NaN"),
    "Max": _extremum_of_all,
    "Maximum": _extremum_of_two,
    "Min": _extremum_of_all,
    "Minimum": _extremum_of_two,
    "Polygamma": _pole("polygamma"),
    "Pow": _pow,
    "Reciprocal": _at("result", lambda v: v.isinf(), "division by 0"),
    "Relu": _relu,
    "Remainder": _remainder,
    "Rsqrt": _at("result", lambda v: v.isinf(), "rsqrt at 0"),
    "Scatter": _writing(_scattered_twice),
    "Softmax": _softmax,
    "SpecialEntr": _at("self", lambda v: v == 0, "entr at 0"),
    "SpecialNdtri": _at("result", lambda v: v.isinf(), "ndtri at 0 or 1"),
    "SpecialXlog1Py": _times_log("xlog1py", -1),
    "Sqrt": _at("result", lambda v: v == 0, "sqrt at 0"),
    "Std": _spread,
    "StdMean": _spread_and_mean,
    "Var": _spread,
    "VarMean": _spread_and_mean,
    "Xlogy": _times_log("xlogy", 0),
}
# By operation what was saved and has elements that nobody set and no formula reads.
_UNUSED = {"CtcLoss": ("result1",)}  # of short targets
# Those of one input where what was saved spoils the gradient of that element alone.
_BY_ELEMENT = set(
    "Acos Acosh Asin Atanh Erfinv Exp Expm1 Log Log10 Log1P Log2 LogSoftmax Logit Reciprocal Rsqrt "
    "Softmax Sqrt".split()
)
# Those whose formula does no more with what they saved than compare it, which NaN does no harm to.
_COMPARING = set(
    "Abs Clamp ClampMax ClampMin Fmax Fmin Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu "
    "Maximum Minimum NanToNum Relu Softshrink Threshold".split()
)
# Those whose formula multiplies the gradient by what they saved.
_FACTORS = set(
    "Addbmm Addcdiv Addcmul Addmm Addmv Addr Baddbmm Bmm Convolution Cosh Cumprod Div Dot Exp "
    "Expm1 Linear Mm Mul Mv Pow Prod Sinh Tan".split()
)
