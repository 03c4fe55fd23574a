"""What is to be said where the formula of a Node gives infinities or NaN.

Whether it does is asked of the Node (``asking.py``); the words for it come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf, log, prod
from typing import Any, NamedTuple

import torch

from companion.diagnosis.asking import Spoilt
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.values import is_finite, is_plain, is_readable
from companion.graph.saved import Peek
from companion.naming import counted

Tensor = torch.Tensor
Values = Mapping[str, Any]


class Risk(NamedTuple):
    """What is said of a Node."""

    code: str  # of a finding
    message: str
    variant: str = ""  # of the finding, where the cure is another
    is_vague: bool = False  # names the Node and no reason, so that any reason is better


class Point(NamedTuple):
    """Where a formula gives infinities or NaN of finite values.

    Attributes:
        words: what comes before "the gradient is infinite".
        variant: that of the finding.
        at_infinity: whether the point is one where what went in is infinite.
        ending: what is said in place of "the gradient is infinite".
    """

    words: str
    variant: str = ""
    at_infinity: bool = False
    ending: str = "the gradient is {gives}"


def risk_of(name: str, saved: Peek, spoilt: Spoilt) -> Risk:
    """What is to be said of a Node whose formula gives what is infinite or NaN.

    The code is ``"nan-risk"`` where the values that it saved are well, and ``"non-finite"`` where
    the cause is among these.

    Args:
        name: the class of the Node.
        saved: what it saved.
        spoilt: what its formula gives.
    """
    operation, bad = operation_of(name), ~spoilt.gradient.isfinite()
    rule = _RULES.get(operation)
    if risk := rule(saved.values, spoilt) if rule else outside_of_domain(name, saved, bad):
        return risk
    point = _POINTS.get(operation)
    of_finite = bad.clone()
    for argument, value in _fractions(saved):
        is_result = argument.startswith("result")  # whose NaN came of what the operation took
        may_be_infinite = is_result or (point and point.at_infinity)
        is_fit = ~value.isnan() if may_be_infinite else value.isfinite()
        if value.shape == bad.shape:
            of_finite &= is_fit
        elif not is_result:
            of_finite &= is_fit.all()
    if (point is None or not of_finite.any()) and (risk := infinite_or_nan(name, saved)):
        return risk
    at = of_finite if of_finite.any() else bad
    point = point or Point(f"{name}, of what it saved")
    is_near = point.words.endswith(_AT_ZERO) and not _is_exact(saved, at)
    return _at(_near(point) if is_near else point, spoilt.gradient[at])


def _is_exact(saved: Peek, at: Tensor) -> bool:
    """Whether a Node saved zero or infinity somewhere there."""
    for _, value in saved.tensors:
        if not is_readable(value):
            continue
        exact = (value == 0) | value.isinf()
        if (exact & at if exact.shape == at.shape else exact).any():
            return True
    return False


def _near(point: Point) -> Point:
    """The same where a value is not zero, and too near to it."""
    words = point.words.replace(" at 0", " near 0").replace(" by 0", " by a number near 0")
    return point._replace(words=words, variant="near", ending="the gradient overflows")


def _at(point: Point, spoilt: Tensor) -> Risk:
    gives = "NaN" if spoilt.isnan().all() else "infinite"
    if spoilt.dtype is torch.float16 and point.words.endswith(_AT_ZERO):
        point = point._replace(variant="half-zero")  # 1e-6 is not far enough from it
    return Risk("nan-risk", f"{point.words}: {point.ending.format(gives=gives)}", point.variant)


def overflow(name: str, is_half: bool) -> Risk:
    """What is to be said of a Node whose formula is well, and not for the gradient that comes.

    Args:
        name: the class of the Node.
        is_half: whether what it sends is float16.
    """
    if is_half:
        message = f"{name} sends a gradient that is too large for float16, which ends at 65504"
        return Risk("nan-risk", message, "half")
    message = f"{name}: of values as large as these the gradient overflows"
    return Risk("nan-risk", message, "large")


def gives_them(name: str, risk: Risk) -> bool:
    """Whether the result of a Node is infinite or NaN where its gradient is."""
    gives_infinity = operation_of(name) in _GIVES_INFINITY and risk.variant != "near"
    return gives_infinity or risk.variant == "one-element"


def shown_by(name: str, saved: Peek) -> Risk | None:
    """What a Node shows of where NaN came from, although its formula is well."""
    return outside_of_domain(name, saved) or infinite_or_nan(name, saved, only_nan=True)


def of_nothing(saved: Peek) -> Risk | None:
    """Whether an operation gave NaN as the mean of nothing."""
    values = saved.values
    if values.get("self_sym_numel") == 0:
        return Risk("non-finite", "the mean of no element is NaN", "nothing")
    if "correction" in values and is_readable(values["self"]) and not values["self"].numel():
        return Risk("non-finite", "std or var of no element is NaN", "nothing")
    if values.get("reduction") != _MEAN:
        return None
    given, total = values.get("self"), values.get("total_weight")
    if is_readable(given) and not given.numel():
        return Risk("non-finite", "the mean of no element is NaN", "nothing")
    if is_plain(total) and not total.any():
        return Risk("non-finite", f"{IGNORED}, and the mean over none is NaN", "ignored")
    return None


def impossible(saved: Peek) -> Risk | None:
    """Whether labels are classes whose probability is 0, so that the loss is infinite."""
    given, target = saved.values.get("self"), saved.values.get("target")
    if not is_plain(given) or not is_readable(target) or target.shape == given.shape:
        return None
    dim = min(1, given.dim() - 1)
    counts = target != saved.values["ignore_index"]
    index = torch.where(counts, target, 0).unsqueeze(dim)
    labels = int((given.gather(dim, index).squeeze(dim)[counts] == -inf).sum())
    message = f"the probability of {counted(labels, 'label')} is 0, and the loss infinite"
    return Risk("non-finite", message, "impossible") if labels else None


def infinite_or_nan(name: str, saved: Peek, only_nan: bool = False) -> Risk | None:
    """The first of the tensors that a Node saved with such a value, in words."""
    for argument, value in _fractions(saved):
        is_unread = argument in _UNREAD.get(operation_of(name), ())
        is_unread |= argument in RUNNING and saved.values.get("training") is True
        if not is_unread and not is_finite(value):
            if (has_nan := value.isnan().any()) or not only_nan:
                kind = "NaN" if has_nan and not value.isinf().any() else "infinite or NaN"
                is_given = not (value.requires_grad or argument.startswith(_COMPUTED))
                came = ", and no graph, as data and masks have none" if is_given else ""
                keeps = "keeps" if argument.startswith("ctx.") else "saved"
                message = f"{name} {keeps} {argument}, which has {kind} values{came}"
                variant = "running" if argument in RUNNING else "data" * is_given
                return Risk("non-finite", message, variant, is_vague=True)
    return None


def _fractions(saved: Peek) -> Iterator[tuple[str, Tensor]]:
    """The tensors of numbers with a fraction that a Node saved."""
    for argument, value in saved.tensors:
        if is_readable(value) and (value.is_floating_point() or value.is_complex()):
            yield argument, value


def outside_of_domain(name: str, saved: Peek, bad: Tensor | None = None) -> Risk | None:
    """Whether values that the function does not take gave NaN: of some elements, where given."""
    operation, value = operation_of(name), saved.values.get("self")
    domain, result = _DOMAINS.get(operation), saved.values.get("result")
    if operation in _DOMAINS_OF_RESULTS and is_plain(result) and result.isnan().any():
        return Risk("non-finite", _DOMAINS_OF_RESULTS[operation], "domain")
    if domain is None or not is_plain(value):
        return None
    low, high = domain
    outside = (value < low) | (value > high)
    if not (outside if bad is None else outside & bad).any():
        return None
    values = f"below {low:g}" if high == inf else f"outside of {low:g} to {high:g}"
    gave = "-inf" if operation == "SpecialEntr" else "NaN"
    name = operation.removeprefix("Special").lower()
    return Risk("non-finite", f"{name} gave {gave} for values {values}", "domain")


# ---- operations of which more is to be said


def _softmax(saved: Values, spoilt: Spoilt) -> Risk | None:
    result = saved.get("result")
    if not is_plain(result) or not (is_nan := result.isnan()).any():
        return None
    rows = int(is_nan.any(saved["dim"]).sum())
    return Risk(
        "non-finite",
        f"softmax gave NaN in {rows} {'row' if rows == 1 else 'rows'}: all that went into such a "
        "row was -inf, as where a mask leaves nothing, or something was NaN or inf",
        "empty-row",
    )


def _pow(saved: Values, spoilt: Spoilt) -> Risk | None:
    base, exponent = saved.get("self"), saved.get("exponent")
    if not is_plain(base) or isinstance(exponent, complex) or not is_finite(base):
        return None
    if spoilt.slot == 1:
        return _at(Point("x ** y by y, of a negative x"), spoilt.gradient)
    power, bad = torch.as_tensor(exponent, device=base.device), ~spoilt.gradient.isfinite()
    if ((base < 0) & (power != power.round())).any():
        message = "a power with a fraction in its exponent gave NaN for values below 0"
        return Risk("non-finite", message, "domain")
    base = base[bad] if base.shape == bad.shape else base
    called = "an exponent below 1" if isinstance(exponent, Tensor) else f"{exponent:g}"
    if not (base.abs() < 1).any():
        return _at(Point(f"x ** {called} of large values", "large"), spoilt.gradient)
    point = Point(f"x ** {called} at 0")
    return _at(point if (base == 0).any() else _near(point), spoilt.gradient)


def _spread(saved: Values, spoilt: Spoilt) -> Risk | None:
    """Of ``std`` and ``var``: whether nothing is left to divide by."""
    value, correction = saved.get("self"), saved["correction"]
    if not is_plain(value) or not is_finite(value):
        return None
    lengths = [value.shape[dim] for dim in saved["dim"] or ()] if value.shape else ()
    if prod(lengths or value.shape) > (1 if correction is None else correction):
        return None
    words = "std or var of one element, with correction=1"
    return _at(Point(words, "one-element"), spoilt.gradient)


def _exp(saved: Values, spoilt: Spoilt, name: str = "exp") -> Risk | None:
    result = saved.get("result")
    if not is_plain(result) or result.isnan().any() or not result.isinf().any():
        return None
    dtype, limit = str(result.dtype).removeprefix("torch."), log(torch.finfo(result.dtype).max)
    message = f"{name} gave infinities: what went in was above {limit:.3g}, where {dtype} ends"
    return Risk("non-finite", message, "large")


_RULES: dict[str, Callable[[Values, Spoilt], Risk | None]] = {
    "Exp": _exp,
    "Expm1": partial(_exp, name="expm1"),
    "LogSoftmax": _softmax,
    "Pow": _pow,
    "Softmax": _softmax,
    "Std": _spread,
    "StdMean": _spread,
    "Var": _spread,
    "VarMean": _spread,
}

# ---- the points of the others

# By operation the ends of what a function takes; it gives NaN for all that lies outside.
_DOMAINS = {
    "Acos": (-1, 1),
    "Acosh": (1, inf),
    "Asin": (-1, 1),
    "Atanh": (-1, 1),
    "Erfinv": (-1, 1),
    "Log": (0, inf),
    "Log10": (0, inf),
    "Log1P": (-1, inf),
    "Log2": (0, inf),
    "Logit": (0, 1),
    "SpecialEntr": (0, inf),
}
# The same of those that saved their result alone, in words.
_DOMAINS_OF_RESULTS = {
    "Rsqrt": "rsqrt gave NaN, as for values below 0",
    "SpecialNdtri": "ndtri gave NaN, as for values outside of 0 to 1",
    "Sqrt": "sqrt gave NaN, as for values below 0",
}
_AT_ZERO = (" at 0", " by 0")
_BETWEEN = "the gradient divides by their difference"
_POINTS = {
    "Acos": Point("acos at 1 or -1", "interval"),
    "Acosh": Point("acosh at 1", "interval"),
    "Addcdiv": Point("addcdiv, a division by 0", "division"),
    "Asin": Point("asin at 1 or -1", "interval"),
    "Atan2": Point("atan2 near (0, 0)"),
    "Atanh": Point("atanh at 1 or -1", "interval"),
    "Cosh": Point("cosh of large values", "large"),
    "CtcLoss": Point("ctc_loss of a target that is too long for its input", "too-long"),
    "Digamma": Point("digamma at 0"),
    "Div": Point("division by 0", "division"),
    "Erfinv": Point("erfinv at 1 or -1", "interval"),
    "Exp2": Point("exp2 of large values", "large"),
    "Fmod": Point("division by 0", "division"),
    "Hypot": Point("hypot at (0, 0)"),
    "I0": Point("i0 of large values", "large"),
    "Igamma": Point("gammainc at 0"),
    "Igammac": Point("gammaincc at 0"),
    "Ldexp": Point("ldexp of large values", "large"),
    "Lgamma": Point("lgamma at 0, -1, -2, ..."),
    "LinalgEig": Point("equal eigenvalues", "spectrum", ending=_BETWEEN),
    "LinalgEigh": Point("equal eigenvalues", "spectrum", ending=_BETWEEN),
    "LinalgLu": Point("lu with a zero on the diagonal of U", "singular"),
    "LinalgLuFactorEx": Point("lu with a zero on the diagonal of LU", "singular"),
    "LinalgQr": Point("qr with a zero on the diagonal of R", "singular"),
    "LinalgSlogdet": Point("slogdet of a singular matrix", "singular"),
    "LinalgSvd": Point("equal singular values", "spectrum", ending=_BETWEEN),
    "Log": Point("log at 0", "log"),
    "Log10": Point("log10 at 0", "log"),
    "Log1P": Point("log1p at -1"),
    "Log2": Point("log2 at 0", "log"),
    "Logaddexp": Point("logaddexp of -inf and -inf", "all-masked", at_infinity=True),
    "Logaddexp2": Point("logaddexp2 of -inf and -inf", "all-masked", at_infinity=True),
    "Logcumsumexp": Point("logcumsumexp of nothing but -inf", "all-masked", at_infinity=True),
    "Logit": Point("logit at 0 or 1", "interval"),
    "Logsumexp": Point("logsumexp of nothing but -inf", "all-masked", at_infinity=True),
    "Polygamma": Point("polygamma at 0, -1, -2, ..."),
    "Reciprocal": Point("division by 0", "division"),
    "Remainder": Point("division by 0", "division"),
    "Rsqrt": Point("rsqrt at 0"),
    "Sinh": Point("sinh of large values", "large"),
    "SpecialEntr": Point("entr at 0"),
    "SpecialErfcx": Point("erfcx of large negative values", "large"),
    "SpecialI1": Point("i1 of large values", "large"),
    "SpecialLogNdtr": Point("log_ndtr of large negative values"),
    "SpecialNdtri": Point("ndtri at 0 or 1"),
    "SpecialXlog1Py": Point("xlog1py at (x, -1)"),
    "Sqrt": Point("sqrt at 0"),
    "WeightNormInterface": Point("weight_norm of a row of zeros", "zero-rows"),
    "Xlogy": Point("xlogy at (x, 0)"),
}
DIVIDING = {"Std", "StdMean"} | {
    operation
    for operation, point in _POINTS.items()
    if point.variant not in {"all-masked", "large", "too-long"}
}
# The operations that take a mean, and how they save that it is one.
MEANS = set(
    "BinaryCrossEntropy BinaryCrossEntropyWithLogits HuberLoss Mean MseLoss NllLoss NllLoss2D "
    "SmoothL1Loss Std Var".split()
)
_MEAN = 1
IGNORED = "every label is ignore_index, or of a class whose weight is 0"
# Those that give infinities themselves at their point, and not only in the gradient.
_GIVES_INFINITY = set(
    "Addcdiv Atanh Digamma Div Erfinv Lgamma Log Log10 Log1P Log2 Logit Polygamma Reciprocal Rsqrt "
    "SpecialNdtri".split()
)
_COMPUTED = ("result", "saved_tensors", "ctx.")  # by the operation itself, as their names tell
# What batch normalization saves, and in training its formula leaves alone.
RUNNING = {"running_mean", "running_var"}
# By operation what was saved and has elements that nobody set and no formula reads.
_UNREAD = {"CtcLoss": ("result1",)}  # of short targets
