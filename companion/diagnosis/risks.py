"""What the values that a Node saved say about its gradient: NaN, ties, and the like.

The saved values are those that the formula of the Node will compute with, so where it divides by
zero can be seen beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import inf, isfinite, prod
from typing import Any, NamedTuple, TypeGuard

import torch

from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.slopes import SLOPES, Derivative, Slopes, saved_for
from companion.graph.nodes import Edge
from companion.graph.saved import Peek
from companion.internals import has_memory, is_wrapped

Tensor = torch.Tensor


class Risk(NamedTuple):
    """What is said of a Node."""

    code: str  # of a finding
    message: str
    variant: str = ""  # of the finding, where the cure is another


def risks(
    name: str,
    saved: Peek,
    shape: tuple[int, ...] | None,
    slots: Sequence[Edge | None],
    outputs: Collection[int],
    hidden: bool = False,
    overwritten: Mapping[int, Tensor] = {},
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
        overwritten: by Node the elements of the gradient that comes to it which are made zero.
    """
    operation = operation_of(name)
    overwritten = overwritten if hidden else {}
    if rule := _by_slopes if operation in SLOPES else _RULES.get(operation):
        values = {name: value for name, value in saved.values.items() if is_plain(value)}
        about = _Saved(name, saved.values, values, shape, slots, outputs, hidden, overwritten)
        if risk := rule(about):
            yield risk
            if risk[0] == "non-finite":
                return
    if hidden and (operation in _COMPARING or operation in SLOPES):
        return
    zeros = _zeros_at(0, slots, overwritten) if operation in _BY_ELEMENT else None
    for argument, value in saved.tensors:
        # Infinite values may be meant, as in a mask, where no formula multiplies by them.
        is_factor = operation in _FACTORS
        if (
            is_plain(value)
            and argument not in _UNUSED.get(operation, ())
            and not (argument in RUNNING and saved.values.get("training") is True)
            and not is_finite(value)
            and _arriving(value.isnan() | (value.isinf() & is_factor), zeros).any()
        ):
            yield _spoilt(name, argument, "infinite or NaN" if is_factor else "NaN")
            return


def _zeros_at(
    slot: int, slots: Sequence[Edge | None], overwritten: Mapping[int, Tensor]
) -> Tensor | None:
    edge = slots[slot] if overwritten and slot < len(slots) else None
    return overwritten.get(edge.target) if edge else None


def _spoilt(name: str, argument: str, kind: str) -> Risk:
    return Risk("non-finite", f"{name} saved {argument}, which has {kind} values")


def _arriving(spoilt: Tensor, overwritten: Tensor | None) -> Tensor:
    """The elements of a gradient that are spoilt, and that the next Node does not make zero."""
    return spoilt if overwritten is None else spoilt & ~overwritten


def is_plain(value: object) -> bool:
    """Whether it is a floating tensor whose values can be asked about: none of float8 can."""
    if not is_readable(value) or not value.is_floating_point():
        return False
    return value.itemsize > 1 and value.numel() > 0


def is_finite(value: Tensor) -> bool:
    """Whether all elements of a plain tensor are, in a tenth of the time of asking each."""
    low, high = torch.aminmax(value)  # both NaN where one element is
    return isfinite(low.item()) and isfinite(high.item())


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

    name: str  # of the Node
    all: Mapping[str, Any]  # what the Node saved, by name
    values: Mapping[str, Tensor]  # of these the tensors that are plain
    shape: tuple[int, ...] | None  # of its output
    slots: Sequence[Edge | None]  # where the Node leads
    outputs: Collection[int]  # the numbers of the outputs that a gradient comes to
    hidden: bool  # whether the output of the graph is finite
    overwritten: Mapping[int, Tensor]  # by Node the elements of its gradient that are made zero

    def zeros_at(self, slot: int) -> Tensor | None:
        """The elements of the gradient along a slot that are made zero further on."""
        return _zeros_at(slot, self.slots, self.overwritten)


_Rule = Callable[[_Saved], Risk | None]


def _by_slopes(saved: _Saved) -> Risk | None:
    """Whether a derivative of an elementwise operation is infinite or NaN somewhere."""
    if saved.all.get("rounding_mode"):  # of torch.div: all zeros
        return None
    slopes = SLOPES[operation_of(saved.name)]
    asked = [
        (slot, derivative)
        for slot, derivative in enumerate(slopes.by_input)
        if derivative and any(saved.slots[slot : slot + 1])
    ]
    found = (_by_slope(saved, slopes, slot, derivative) for slot, derivative in asked)
    return next(filter(None, found), None)


def _by_slope(saved: _Saved, slopes: Slopes, slot: int, derivative: Derivative) -> Risk | None:
    """The same of the derivative by one input."""
    given = saved_for(derivative, saved.all)
    tensors = {name: v for name, v in given.items() if isinstance(v, Tensor)}
    if not tensors or not tensors.keys() <= saved.values.keys():
        return None
    slope = derivative(**given)
    if is_finite(slope) and (saved.hidden or not slopes.domain):
        return None
    bad = _arriving(~slope.isfinite(), saved.zeros_at(slot))
    if risk := _outside(slopes, tensors, bad if saved.hidden else None):
        return risk
    inputs = {name: v for name, v in tensors.items() if name != "result"}
    return _cause(saved, slopes, inputs, slope, bad) if bad.any() else None


def _cause(
    saved: _Saved, slopes: Slopes, inputs: Mapping[str, Tensor], slope: Tensor, bad: Tensor
) -> Risk:
    """Whether a slope is bad at values that are well, or because of what was saved."""
    of_finite = bad
    for value in inputs.values():
        is_fit = ~value.isnan() if slopes.at_infinity else value.isfinite()
        of_finite = of_finite & is_fit
    if of_finite.any():
        is_nan = slope.isnan() | ~of_finite
        gives = "NaN" if is_nan.all() else "infinite"
        is_interval = slopes.domain is not None and slopes.domain != (0, inf)
        variant = "interval" if is_interval else ""
        return Risk("nan-risk", f"{slopes.point}: the gradient is {gives}", variant)
    argument = next((name for name, v in inputs.items() if not is_finite(v)), "result")
    return _spoilt(saved.name, argument, "infinite or NaN")


def _outside(slopes: Slopes, tensors: Mapping[str, Tensor], bad: Tensor | None) -> Risk | None:
    """Whether values outside of the domain of an operation gave NaN: of some, where given."""
    if slopes.domain is None:
        return None
    (low, high), value = slopes.domain, tensors["self"]
    outside = (value < low) | (value > high)
    if not (outside if bad is None else outside & bad).any():
        return None
    domain = f"below {low:g}" if high == inf else f"outside of {low:g} to {high:g}"
    return Risk("non-finite", f"{slopes.point.partition(' ')[0]} gave NaN for values {domain}")


_EQUAL = "equal {}: the gradient divides by their difference"


def _between_equal(name: str, dividing: Collection[int], equal: str) -> _Rule:
    """The gradient of some outputs divides by the gaps of the spectrum saved under a name."""

    def rule(saved: _Saved) -> Risk | None:
        if name in saved.values and (saved.values[name].diff(dim=-1) == 0).any():
            if any(number in saved.outputs for number in dividing):
                return Risk("nan-risk", _EQUAL.format(equal), "spectrum")
        return None

    return rule


def _eig(saved: _Saved) -> Risk | None:
    """The same of complex eigenvalues, which stand in no order."""
    values = saved.all.get("eigenvalues")
    if 1 not in saved.outputs or not is_readable(values):
        return None
    equal = (values[..., None] == values[..., None, :]).sum()
    if equal <= values.numel():
        return None
    return Risk("nan-risk", _EQUAL.format("eigenvalues"), "spectrum")


def _by_factor(name: str, called: str) -> _Rule:
    """The gradient divides by the diagonal of a triangular factor saved under a name."""

    def rule(saved: _Saved) -> Risk | None:
        factor = saved.all.get(name)
        if not is_readable(factor) or factor.diagonal(dim1=-2, dim2=-1).all():
            return None
        zero = f"{called} with a zero on the diagonal of {name}"
        return Risk("nan-risk", f"{zero}: the gradient is infinite or NaN", "singular")

    return rule


def _writing(repeats_of: Callable[[_Saved], int]) -> _Rule:
    """Some values were written in vain; slot 1 leads to what the values are."""

    def rule(saved: _Saved) -> Risk | None:
        repeats = repeats_of(saved) if any(saved.slots[1:2]) else 0  # no slot 1: it is a number
        often = "once" if repeats == 1 else f"{repeats} times"
        message = f"the indices repeat {often}, and of several values one stays"
        return Risk("duplicate-indices", message) if repeats else None

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
        return Risk("nan-risk", "x ** y by y, of a negative x: the gradient is NaN")
    if not saved.slots[0]:
        return None  # by the exponent the slope at 0 is 0
    power, zeros = torch.as_tensor(exponent * 1.0, device=base.device), saved.zeros_at(0)
    if _arriving((base < 0) & (power != power.round()), zeros).any():
        return Risk(
            "non-finite", "a power with a fraction in its exponent gave NaN for values below 0"
        )
    slope = power * base ** (power - 1)
    bad = _arriving(~slope.isfinite() & (power != 0) & base.isfinite(), zeros)
    if not bad.any():
        return None
    called = "an exponent below 1" if isinstance(exponent, Tensor) else f"{exponent:g}"
    point = "at 0" if (bad & (base.abs() < 1)).any() else "of large values"
    return Risk("nan-risk", f"x ** {called} {point}: the gradient is infinite")


def _times_log(function: str, zero: int) -> _Rule:
    """Of ``x * log(y)``, whose formula leaves out an ``x`` that is 0 by ``x`` alone."""

    def rule(saved: _Saved) -> Risk | None:
        x, y = saved.all.get("self"), saved.all.get("other")
        if not all(isinstance(v, int | float) or is_readable(v) for v in (x, y)):
            return None
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        x_is_zero, y_is_zero = x == 0, (y == zero).to(x.device)
        # Of a number there is no slot.
        by_x, by_y = (isinstance(saved.all[name], Tensor) for name in ("self", "other"))
        by_x, by_y = by_x and bool(saved.slots[0]), by_y and bool(saved.slots[-1])
        if (~x_is_zero & y_is_zero).any():
            return Risk("nan-risk", f"{function} at (x, {zero}): the gradient is infinite")
        if by_y and x.isinf().any():
            return _spoilt(saved.name, "self", "infinite")
        if by_y and (x_is_zero & y_is_zero).any():
            return Risk("nan-risk", f"{function} at (0, {zero}): the gradient by the second is NaN")
        if by_y and ((x / (y - zero)).isinf() & (y >= zero)).any():
            return Risk("nan-risk", f"{function} near (x, {zero}): the gradient is infinite")
        if by_x and (x_is_zero & (y == inf)).any():
            return _spoilt(saved.name, "other", "infinite")
        return None

    return rule


def _singular(saved: _Saved) -> Risk | None:
    if "sign" not in saved.values or not (saved.values["sign"] == 0).any():
        return None
    return Risk("nan-risk", "slogdet of a singular matrix: the gradient is infinite", "singular")


def _logcumsumexp(saved: _Saved) -> Risk | None:
    result = saved.values.get("result")
    if result is None or not (result == -inf).any():
        return None
    return Risk("nan-risk", "logcumsumexp of nothing but -inf: the gradient is NaN")


def _spread_and_mean(saved: _Saved) -> Risk | None:
    """The mean, the second output, has its gradient whatever the spread is."""
    return _spread(saved) if 0 in saved.outputs else None


def _spread(saved: _Saved) -> Risk | None:
    """Of ``std`` and ``var``: whether nothing is left to divide by."""
    if "self" not in saved.values:
        return None
    shape, dims = saved.values["self"].shape, saved.all["dim"] or ()
    lengths = [shape[dim] for dim in dims] if dims and shape else shape
    correction = saved.all["correction"]
    if prod(lengths) > (1 if correction is None else correction):
        return None
    message = "std or var of one element, with correction=1: the gradient is NaN"
    return Risk("nan-risk", message, "one-element")


def _softmax(saved: _Saved) -> Risk | None:
    if "result" not in saved.values or is_finite(saved.values["result"]):
        return None
    # Of a row with NaN all elements are, and so are those of its gradient.
    spoilt = _arriving(saved.values["result"].isnan(), saved.zeros_at(0))
    if not spoilt.any():
        return None
    rows = int(spoilt.any(saved.all["dim"]).sum())
    return Risk(
        "non-finite",
        f"softmax gave NaN in {rows} {'row' if rows == 1 else 'rows'}: all that went into such a "
        "row was -inf, as where a mask leaves nothing, or something was NaN or inf",
    )


def _relu(saved: _Saved) -> Risk | None:
    if "result" not in saved.values or (saved.values["result"] > 0).any():
        return None
    return Risk("dead-relu", "every output of relu is 0")


def _extremum_of_all(saved: _Saved) -> Risk | None:
    # The Node of max(dim) saved indices instead, and chooses one of several.
    if not {"self", "result"} <= set(saved.values):
        return None
    ties = int((saved.values["self"] == saved.values["result"]).sum())
    message = f"{ties} elements tie: each gets 1/{ties} of the gradient"
    return Risk("ties", message) if ties > 1 else None


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
    return Risk("ties", message) if ties else None


def _extremum_of_two(saved: _Saved) -> Risk | None:
    if not {"self", "other"} <= set(saved.values):
        return None
    ties = int((saved.values["self"] == saved.values["other"]).sum())
    message = f"{ties} pairs tie: each of the two gets half of the gradient"
    return Risk("ties", message) if ties else None


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


_RULES: dict[str, _Rule] = {
    "Amax": _extremum_of_some,
    "Amin": _extremum_of_some,
    "IndexPut": _writing(_written_twice),
    "LinalgEig": _eig,
    "LinalgEigh": _between_equal("eigenvalues", (1,), "eigenvalues"),
    "LinalgLu": _by_factor("U", "lu"),
    "LinalgLuFactorEx": _by_factor("LU", "lu"),
    "LinalgQr": _by_factor("R", "qr"),
    "LinalgSlogdet": _singular,
    "LinalgSvd": _between_equal("S", (0, 2), "singular values"),
    "Logcumsumexp": _logcumsumexp,
    "LogSoftmax": _softmax,
    "Max": _extremum_of_all,
    "Maximum": _extremum_of_two,
    "Min": _extremum_of_all,
    "Minimum": _extremum_of_two,
    "Pow": _pow,
    "Relu": _relu,
    "Scatter": _writing(_scattered_twice),
    "Softmax": _softmax,
    "SpecialXlog1Py": _times_log("xlog1py", -1),
    "Std": _spread,
    "StdMean": _spread_and_mean,
    "Var": _spread,
    "VarMean": _spread_and_mean,
    "Xlogy": _times_log("xlogy", 0),
}
# What batch normalization saves, and in training its formula leaves alone.
RUNNING = {"running_mean", "running_var"}
# By operation what was saved and has elements that nobody set and no formula reads.
_UNUSED = {"CtcLoss": ("result1",)}  # of short targets
# Those of one input where what was saved spoils the gradient of that element alone, or of its row.
_BY_ELEMENT = {"Exp", "Expm1", "LogSoftmax", "Pow", "Softmax", "Tan"}
# Those whose formula does no more with what they saved than compare it, which NaN does no harm to.
_COMPARING = set(
    "Abs Clamp ClampMax ClampMin Fmax Fmin Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu "
    "Maximum Minimum NanToNum Relu Softshrink Threshold".split()
)
# Those whose formula multiplies the gradient by what they saved.
_FACTORS = set(
    "Addbmm Addcmul Addmm Addmv Addr Baddbmm Bmm Convolution Cumprod Dot Exp Expm1 Linear "
    "LinalgCross LinalgVectorNorm Mm Mul Mv NativeBatchNorm NativeGroupNorm NativeLayerNorm Norm "
    "Pow Prod Tan Vdot".split()
)
