"""The derivatives of torch's elementwise operations, computed as torch does, of what was saved.

Where such a derivative is infinite or NaN, so is the gradient, whatever comes to the Node: zero
times infinity is NaN. A test compares each with what torch gives, at all special points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor
# Its parameters are names of what was saved.
Derivative = Callable[..., Tensor]


class Slopes(NamedTuple):
    """The derivatives of an operation by its inputs.

    Attributes:
        point: where they are infinite or NaN although all values are finite, in words.
        by_input: one for each slot; None where it is finite always.
        domain: where the operation gives NaN for all that lies outside, the ends of what it takes.
        at_infinity: whether the point is one where what went in is infinite.
    """

    point: str
    by_input: tuple[Derivative | None, ...]
    domain: tuple[float, float] | None = None
    at_infinity: bool = False


def saved_for(derivative: Derivative, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a derivative is computed of; nothing where a part of it was not saved."""
    code = derivative.__code__
    names = code.co_varnames[: code.co_argcount]
    return {name: saved[name] for name in names} if saved.keys() >= set(names) else {}


def _mish(self: Tensor) -> Tensor:
    tanh = torch.nn.functional.softplus(self).tanh()
    return tanh + self * self.sigmoid() * (1 - tanh * tanh)


def _silu(self: Tensor) -> Tensor:
    return self.sigmoid() * (1 + self * (1 - self.sigmoid()))


def _sinc(self: Tensor) -> Tensor:
    angle, square = self * math.pi, self * self * math.pi
    return ((angle * angle.cos() - angle.sin()) / square).where(square != 0, 0)


def _logit(self: Tensor, eps: float | None) -> Tensor:
    slope = 1 / (self * (1 - self))
    low = 0 if eps is None else eps
    is_inside = (self >= low) & (self <= 1 - low)
    return slope.where(is_inside, torch.nan if eps is None or eps < 0 else 0.0)


def _logsumexp(self: Tensor, result: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    if not keepdim and self.dim():
        for each in sorted(number % self.dim() for number in dim or range(self.dim())):
            result = result.unsqueeze(each)
    return (self - result).exp()


def _reciprocal_square(self: Tensor, other: Tensor) -> Tensor:
    square = self * self + other * other
    return square.reciprocal().where(square != 0, 0)


def _quotient(self: Tensor, other: Tensor, rounding: str) -> Tensor:
    return -torch.div(self, other, rounding_mode=rounding)


def _igamma(self: Tensor, other: Tensor) -> Tensor:
    return ((self - 1) * other.log() - other - self.lgamma()).exp()


def _erfcx(self: Tensor, result: Tensor) -> Tensor:
    return 2 * self * result - 2 / math.sqrt(math.pi)


def _on_interval(low: float, high: float, point: str, derivative: Derivative) -> Slopes:
    return Slopes(point, (derivative,), (low, high))


def _one(point: str, derivative: Derivative) -> Slopes:
    return Slopes(point, (derivative,))


SLOPES: dict[str, Slopes] = {
    "Acos": _on_interval(-1, 1, "acos at 1 or -1", lambda self: -(-self * self + 1).rsqrt()),
    "Acosh": _on_interval(1, math.inf, "acosh at 1", lambda self: (self * self - 1).rsqrt()),
    "Asin": _on_interval(-1, 1, "asin at 1 or -1", lambda self: (-self * self + 1).rsqrt()),
    "Addcdiv": Slopes(
        "addcdiv, a division by 0",
        (
            None,
            lambda tensor2: 1 / tensor2,
            lambda tensor1, tensor2: -tensor1 / (tensor2 * tensor2),
        ),
    ),
    "Atan2": Slopes(
        "atan2 near (0, 0)",
        (
            lambda self, other: other * _reciprocal_square(self, other),
            lambda self, other: -self * _reciprocal_square(self, other),
        ),
    ),
    "Atanh": _on_interval(-1, 1, "atanh at 1 or -1", lambda self: 1 / (1 - self * self)),
    "Copysign": Slopes(
        "copysign", (lambda self, result: (result / self).where(self != 0, 0), None)
    ),
    "Cos": _one("cos", lambda self: -self.sin()),
    "Cosh": _one("cosh of large values", lambda self: self.sinh()),
    "Digamma": _one("digamma at 0", lambda self: torch.polygamma(1, self)),
    "Div": Slopes(
        "division by 0",
        (lambda other: 1 / other, lambda self, other: -self / other / other),
    ),
    "Erfinv": _on_interval(
        -1,
        1,
        "erfinv at 1 or -1",
        lambda self: math.sqrt(math.pi) / 2 * self.erfinv().square().exp(),
    ),
    "Exp2": _one("exp2 of large values", lambda result: result * math.log(2)),
    "Fmod": Slopes("division by 0", (None, lambda self, other: _quotient(self, other, "trunc"))),
    "Hypot": Slopes(
        "hypot at (0, 0)",
        (lambda self, result: self / result, lambda other, result: other / result),
    ),
    "I0": _one("i0 of large values", lambda self: torch.special.i1(self)),
    "Igamma": Slopes("gammainc at 0", (None, lambda self, other: _igamma(self, other))),
    "Igammac": Slopes("gammaincc at 0", (None, lambda self, other: -_igamma(self, other))),
    "Ldexp": Slopes(
        "ldexp of large values",
        (lambda other: other.exp2(), lambda result: result * math.log(2)),
    ),
    "Lgamma": _one("lgamma at 0, -1, -2, ...", lambda self: self.digamma()),
    "Log": _one("log at 0", lambda self: 1 / self),
    "Log10": _one("log10 at 0", lambda self: 1 / (self * math.log(10))),
    "Log1P": _one("log1p at -1", lambda self: 1 / (self + 1)),
    "Log2": _one("log2 at 0", lambda self: 1 / (self * math.log(2))),
    "Logaddexp": Slopes(
        "logaddexp of -inf and -inf",
        (
            lambda self, other: 1 / (1 + (other - self).exp()),
            lambda self, other: 1 / (1 + (self - other).exp()),
        ),
        at_infinity=True,
    ),
    "Logaddexp2": Slopes(
        "logaddexp2 of -inf and -inf",
        (
            lambda self, other: 1 / (1 + (other - self).exp2()),
            lambda self, other: 1 / (1 + (self - other).exp2()),
        ),
        at_infinity=True,
    ),
    "Logit": _on_interval(0, 1, "logit at 0 or 1", _logit),
    "Logsumexp": Slopes("logsumexp of nothing but -inf", (_logsumexp,), at_infinity=True),
    "Mish": _one("mish", _mish),
    "Polygamma": _one("polygamma at 0, -1, -2, ...", lambda self, n: torch.polygamma(n + 1, self)),
    "Reciprocal": _one("division by 0", lambda result: -result * result),
    "Rsqrt": _one("rsqrt at 0", lambda result: -0.5 * result**3),
    "Silu": _one("silu", _silu),
    "Sin": _one("sin", lambda self: self.cos()),
    "Sinc": _one("sinc", _sinc),
    "Sinh": _one("sinh of large values", lambda self: self.cosh()),
    "SpecialEntr": _one("entr at 0", lambda self: -(1 + self.log())),
    "SpecialErfcx": _one("erfcx of large negative values", _erfcx),
    "SpecialI1": _one(
        "i1 of large values", lambda self, result: (self.i0() - result / self).where(self != 0, 0.5)
    ),
    "SpecialLogNdtr": _one(
        "log_ndtr of large negative values",
        lambda self: math.sqrt(2 / math.pi) / torch.special.erfcx(-self / math.sqrt(2)),
    ),
    "SpecialNdtri": _one(
        "ndtri at 0 or 1", lambda result: math.sqrt(2 * math.pi) * (result.square() / 2).exp()
    ),
    "Sqrt": _one("sqrt at 0", lambda result: 1 / (2 * result)),
    "Remainder": Slopes(
        "division by 0", (None, lambda self, other: _quotient(self, other, "floor"))
    ),
}
