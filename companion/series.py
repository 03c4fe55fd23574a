"""Truncated power series, and a recurrence for each elementary function.

A series of order n is the list of its coefficients c_0, …, c_n: tensors of one shape and dtype,
where c_k is the k-th derivative divided by k!. None stands for a coefficient that is zero
everywhere, except in c_0. A recurrence finds one coefficient of the result after the other, from
sums of at most k products, so all of them cost O(n²). They can be differentiated themselves: the
one operation in place is on a sum that nobody else has seen.

Source: A. Griewank and A. Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, chapter 13; for
powers D. E. Knuth, The Art of Computer Programming, vol. 2, 3rd ed., 1997, section 4.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Tensor = torch.Tensor
Coefficient = Tensor | None
Series = list[Any]  # of Coefficient; the first is never None
Product = Callable[[Tensor, Tensor], Tensor]


# ---- sums of products


def dot(a: Series, b: Series, k: int, low: int, high: int) -> Coefficient:
    """The sum of ``a[j] * b[k - j]`` for j from ``low`` to ``high``."""
    total = None
    for j in range(low, high + 1):
        p, q = a[j], b[k - j]
        if p is not None and q is not None:
            total = p * q if total is None else total.addcmul_(p, q)
    return total


def rise(a: Series, w: Series, k: int) -> Coefficient:
    """The coefficient k of y where y' = w a': the sum of ``j / k * a[j] * w[k - j]``."""
    total = None
    for j in range(1, k + 1):
        p, q = a[j], w[k - j]
        if p is not None and q is not None:
            if total is None:
                total = p * q if j == k else (p * q).mul_(j / k)
            else:
                total.addcmul_(p, q, value=j / k)
    return total


def square_at(a: Series, k: int, low: int = 0, sign: int = 1) -> Coefficient:
    """``sign`` times the sum of ``a[j] * a[k - j]`` for j from ``low`` to ``k - low``.

    Each pair is multiplied once.
    """
    middle = a[k // 2] if k % 2 == 0 and k // 2 >= low else None
    total = None if middle is None else middle * middle if sign > 0 else middle * -middle
    for j in range(low, (k + 1) // 2):
        p, q = a[j], a[k - j]
        if p is not None and q is not None:
            if total is None:
                total = (p * q).mul_(2 * sign)
            else:
                total.addcmul_(p, q, value=2 * sign)
    return total


def plus(p: Coefficient, q: Coefficient) -> Coefficient:
    return q if p is None else p if q is None else p + q


def minus(p: Coefficient, q: Coefficient) -> Coefficient:
    return p if q is None else -q if p is None else p - q


def times(p: Coefficient, factor: Any) -> Coefficient:
    return None if p is None else p * factor


# ---- arithmetic


def add(a: Series, b: Series, alpha: Any = 1) -> Series:
    return [plus(p, q if alpha == 1 else times(q, alpha)) for p, q in zip(a, b, strict=True)]


def scale(a: Series, factor: Any) -> Series:
    return [times(p, factor) for p in a]


def multiply(a: Series, b: Series) -> Series:
    if a is b:
        return square(a)
    return [dot(a, b, k, 0, k) for k in range(len(a))]


def square(a: Series) -> Series:
    return [square_at(a, k) for k in range(len(a))]


def product(a: Series, b: Series, of: Product) -> Series:
    """Any product of two series: matrices, convolutions, ``einsum``."""
    result: Series = []
    for k in range(len(a)):
        total = None
        for p, q in zip(a[: k + 1], b[k::-1], strict=True):
            if p is not None and q is not None:
                total = plus(total, of(p, q))
        result.append(total)
    return result


def divide(a: Series, b: Series) -> Series:
    """From y b = a."""
    inverse = 1 / b[0]
    y = [a[0] / b[0]]
    for k in range(1, len(a)):
        y.append(times(minus(a[k], dot(b, y, k, 1, k)), inverse))
    return y


def reciprocal(a: Series) -> Series:
    inverse = 1 / a[0]
    y = [inverse]
    for k in range(1, len(a)):
        y.append(times(dot(a, y, k, 1, k), -inverse))
    return y


def natural_power(a: Series, exponent: int) -> Series:
    """By repeated squaring, which is right at 0 as well."""
    result, base = None, a
    while exponent:
        if exponent & 1:
            result = base if result is None else multiply(result, base)
        exponent >>= 1
        base = square(base) if exponent else base
    return constant(torch.ones_like(a[0]), len(a) - 1) if result is None else result


def power(a: Series, exponent: Any) -> Series:
    """``a`` to a constant power: a number, or a tensor of numbers."""
    if isinstance(exponent, int | float) and abs(exponent) <= 64 and int(exponent) == exponent:
        found = natural_power(a, abs(int(exponent)))
        return found if exponent >= 0 else reciprocal(found)
    y = [a[0] ** exponent]
    if len(a) > 1:
        # The first as torch's own derivative has it, which exists at 0 if the exponent is above 1.
        y.append(times(a[1], exponent * a[0] ** (exponent - 1)))
    inverse = 1 / a[0]
    for k in range(2, len(a)):
        total = None
        for j in range(1, k + 1):
            if a[j] is not None and y[k - j] is not None:
                weight = ((exponent + 1) * j - k) / k
                total = plus(total, a[j] * y[k - j] * weight)
        y.append(times(total, inverse))
    return y


# ---- y' = w a', where w follows from y


def solve(a: Series, start: Tensor, rate: Callable[[Series, int], Coefficient]) -> Series:
    """The series y that starts so, with y' = w a', where ``rate(y, k)`` is w's coefficient k."""
    y: Series = [start]
    w: Series = []
    for k in range(1, len(a)):
        w.append(rate(y, k - 1))
        y.append(rise(a, w, k))
    return y


def integral(a: Series, start: Tensor, w: Series) -> Series:
    """The series y that starts so, with y' = w a'."""
    return [start, *(rise(a, w, k) for k in range(1, len(a)))]


def exp(a: Series) -> Series:
    return solve(a, a[0].exp(), lambda y, k: y[k])


def expm1(a: Series) -> Series:
    return [torch.expm1(a[0]), *exp(a)[1:]]


def log(a: Series, start: Tensor | None = None) -> Series:
    """From a y' = a'."""
    y: Series = [a[0].log() if start is None else start]
    inverse = 1 / a[0]
    for k in range(1, len(a)):
        total = None
        for j in range(1, k):
            if y[j] is not None and a[k - j] is not None:
                total = plus(total, y[j] * a[k - j] * (j / k))
        y.append(times(minus(a[k], total), inverse))
    return y


def log1p(a: Series) -> Series:
    return log([a[0] + 1, *a[1:]], torch.log1p(a[0]))


def sqrt(a: Series) -> Series:
    """From y² = a."""
    y: Series = [a[0].sqrt()]
    inverse = 0.5 / y[0]
    for k in range(1, len(a)):
        y.append(times(minus(a[k], square_at(y, k, 1)), inverse))
    return y


def sincos(a: Series, sign: int = -1) -> tuple[Series, Series]:
    """Sine and cosine, which are each other's rates; with ``sign=1`` the hyperbolic ones."""
    s: Series = [a[0].sin() if sign < 0 else a[0].sinh()]
    c: Series = [a[0].cos() if sign < 0 else a[0].cosh()]
    for k in range(1, len(a)):
        s_k, c_k = rise(a, c, k), rise(a, s, k)
        s.append(s_k)
        c.append(times(c_k, -1) if sign < 0 else c_k)
    return s, c


def tan(a: Series) -> Series:
    def rate(y: Series, k: int) -> Coefficient:
        return 1 + y[0] * y[0] if k == 0 else square_at(y, k)

    return solve(a, a[0].tan(), rate)


def sigmoid(a: Series) -> Series:
    """From y' = y (1 - y) a'; no digit is lost in 1 - y = sigmoid(-a) and 1 - 2y = -tanh(a/2)."""
    y0 = a[0].sigmoid()
    slope, tilt = y0 * (-a[0]).sigmoid(), -(a[0] / 2).tanh()

    def rate(y: Series, k: int) -> Coefficient:
        if k == 0 or y[k] is None:
            return slope if k == 0 else square_at(y, k, 1, -1)
        rest = square_at(y, k, 1, -1)
        return y[k] * tilt if rest is None else rest.addcmul_(y[k], tilt)

    return solve(a, y0, rate)


def tanh(a: Series) -> Series:
    """Twice the sigmoid of 2a, less 1."""
    return [a[0].tanh(), *scale(sigmoid(scale(a, 2)), 2)[1:]]


def asin(a: Series) -> Series:
    return integral(a, a[0].asin(), power(one_minus_square(a), -0.5))


def acos(a: Series) -> Series:
    return [a[0].acos(), *scale(asin(a), -1)[1:]]


def atan(a: Series) -> Series:
    return integral(a, a[0].atan(), reciprocal(one_plus_square(a)))


def asinh(a: Series) -> Series:
    return integral(a, a[0].asinh(), power(one_plus_square(a), -0.5))


def acosh(a: Series) -> Series:
    below, above = [a[0] - 1, *a[1:]], [a[0] + 1, *a[1:]]
    return integral(a, a[0].acosh(), power(multiply(below, above), -0.5))


def atanh(a: Series) -> Series:
    return integral(a, a[0].atanh(), reciprocal(one_minus_square(a)))


def erf(a: Series) -> Series:
    bell = exp(scale(square(a), -1))
    return integral(a, torch.erf(a[0]), scale(bell, 2 / math.sqrt(math.pi)))


def erfc(a: Series) -> Series:
    return [torch.erfc(a[0]), *scale(erf(a), -1)[1:]]


def logsigmoid(a: Series) -> Series:
    start = torch.nn.functional.logsigmoid(a[0])
    return integral(a, start, sigmoid(scale(a, -1)))


def softplus(a: Series) -> Series:
    """log(1 + exp(a)), without torch's threshold."""
    start = torch.nn.functional.softplus(a[0], threshold=float("inf"))
    return integral(a, start, sigmoid(a))


def one_plus_square(a: Series) -> Series:
    y = square(a)
    return [y[0] + 1, *y[1:]]


def one_minus_square(a: Series) -> Series:
    """1 - a², its first as (1 - a)(1 + a), which keeps the digits near 1."""
    return [(1 - a[0]) * (1 + a[0]), *scale(square(a), -1)[1:]]


def constant(value: Tensor, order: int) -> Series:
    return [value] + [None] * order


def filled(a: Series) -> Tensor:
    """All coefficients in one tensor, along a new first dimension."""
    if any(p is None for p in a):
        zero = torch.zeros_like(a[0])
        return torch.stack([zero if p is None else p for p in a])
    return torch.stack(a)


def stacked(a: Sequence[Coefficient], of: Callable[[Tensor], Tensor]) -> Series:
    """A linear function of all coefficients, computed at once along a new first dimension."""
    known = [p for p in a if p is not None]
    results = iter(of(torch.stack(known)).unbind(0))
    return [None if p is None else next(results) for p in a]
