"""Truncated power series, and a recurrence for each elementary function.

A series of order n is the list of its coefficients c_0, …, c_n: tensors of one shape and dtype,
where c_k is the k-th derivative divided by k!. A coefficient that is zero everywhere may be None,
c_0 excepted. A recurrence finds one coefficient of the result after the other, from sums of at most
k products, so all of them cost O(n²). The coefficients can be differentiated themselves: only sums
that nothing has used yet are changed in place.

Source: A. Griewank and A. Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, chapter 13; for
powers D. E. Knuth, The Art of Computer Programming, vol. 2, 3rd ed., 1997, section 4.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from companion.internals import is_batched

Tensor = torch.Tensor
Coefficient = Tensor | None
Series = list[Any]  # of Coefficient; the first is never None
Terms = list[tuple[int, Tensor]]

# A whole power up to here is a product, which is right at 0 as well. No order is above it.
WHOLE = 170

# Elements from which on copying coefficients together takes longer than it saves.
LARGE = 4096


# ---- sums of products


def dot(a: Series, b: Series, k: int, low: int, high: int) -> Coefficient:
    """The sum of ``a[j] * b[k - j]`` for j from ``low`` to ``high``."""
    total = None
    for j in range(low, high + 1):
        p, q = a[j], b[k - j]
        if p is not None and q is not None:
            total = p * q if total is None else plus_product(total, p, q)
    return total


def plus_product(total: Tensor, p: Tensor, q: Tensor, factor: float = 1.0) -> Tensor:
    """``total + factor * p * q``, in the memory of the total where that can be."""
    if not (is_batched(p) or is_batched(q) or is_batched(total)):
        try:  # which costs nothing, where looking at the shapes costs as much as the sum
            return total.addcmul_(p, q, value=factor)
        except RuntimeError:
            pass  # the product goes along many directions, and the total does not
    return torch.addcmul(total, p, q, value=factor)


def spread(
    y: Series, terms: Terms, w: Coefficient, k: int, zero: Tensor, sign: float = 1.0
) -> None:
    """Add to y, where y' = ``sign`` w a', all terms that hold the coefficient k of w.

    That is ``j / (j + k) * a[j] * w[k]``, added to ``y[j + k]``, for each j. Nothing needs this
    coefficient of w afterwards, so its memory can be used again: in a large batch, getting new
    memory takes most of the time.
    """
    if w is None:
        return
    for j, p in terms:
        m = j + k
        if m >= len(y):
            break
        if y[m] is None:  # in one pass over memory, where p * w * factor takes two
            y[m] = torch.addcmul(zero, p, w, value=sign * j / m)
        else:
            y[m] = plus_product(y[m], p, w, sign * j / m)


def terms_of(a: Series) -> Terms:
    """The coefficients of ``a`` that ``spread`` multiplies by, each after its number."""
    return [(j, p) for j, p in enumerate(a) if j and p is not None]


def square_at(
    a: Series, k: int, zero: Tensor, low: int = 0, total: Coefficient = None
) -> Coefficient:
    """The sum of ``a[j] * a[k - j]`` for j from ``low`` to ``k - low``, added to ``total``.

    Each pair is multiplied once.
    """
    half = (k + 1) // 2
    for j in range(low, half):
        p, q = a[j], a[k - j]
        if p is not None and q is not None:
            if total is None:
                total = torch.addcmul(zero, p, q, value=2)
            else:
                total = plus_product(total, p, q, 2)
    middle = a[k // 2] if k == 2 * half and half >= low else None
    if middle is None:
        return total
    return middle * middle if total is None else plus_product(total, middle, middle)


def plus(p: Coefficient, q: Coefficient) -> Coefficient:
    return q if p is None else p if q is None else p + q


def minus(p: Coefficient, q: Coefficient) -> Coefficient:
    return p if q is None else -q if p is None else p - q


def times(p: Coefficient, factor: Any) -> Coefficient:
    return None if p is None else p * factor


def each(a: Series, of: Callable[[Tensor], Any]) -> Series:
    """A function of each coefficient that is not zero."""
    return [None if p is None else of(p) for p in a]


# ---- arithmetic


def narrow(c: Tensor, rank: int) -> Tensor:
    """A coefficient without repeating what is the same in all rows, as at first it is.

    Operations that broadcast need no more. The value has ``rank`` dimensions, and a coefficient
    that differs along many directions has one more before them.
    """
    strides = c.stride()[:-1]
    if c.dim() > rank:
        strides = (1, *strides[1:])
    if all(strides):
        return c
    return c[tuple(slice(None if stride else 1) for stride in strides)]


def add(a: Series, b: Series, alpha: Any = 1) -> Series:
    return [plus(p, q if alpha == 1 else times(q, alpha)) for p, q in zip(a, b, strict=True)]


def scale(a: Series, factor: Any) -> Series:
    return [times(p, factor) for p in a]


def multiply(a: Series, b: Series) -> Series:
    if a is b:
        return square(a)
    return [dot(a, b, k, 0, k) for k in range(len(a))]


def square(a: Series) -> Series:
    zero = a[0].new_zeros(())
    return [square_at(a, k, zero) for k in range(len(a))]


def divide(a: Series, b: Series) -> Series:
    """From y b = a."""
    y = [a[0] / b[0]]
    inverse = 1 / b[0].to(y[0].dtype)  # which is the wider one, if a has that
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
    """``a`` to a constant power: a number, or a tensor of numbers in the dtype of ``a``."""
    if isinstance(exponent, int | float) and abs(exponent) <= WHOLE and exponent % 1 == 0:
        found = natural_power(a, abs(int(exponent)))
        return found if exponent >= 0 else reciprocal(found)
    y = [a[0] ** exponent]
    if len(a) > 1:
        # The first as torch's own derivative has it, which exists at 0 if the exponent is above 1.
        y.append(times(a[1], exponent * a[0] ** (exponent - 1)))
    inverse = 1 / a[0]
    above = inverse.masked_fill(a[0] == 0, 0)  # at 0, all that are below the exponent are 0
    for k in range(2, len(a)):
        total = None
        for j in range(1, k + 1):
            if a[j] is not None and y[k - j] is not None:
                weight = ((exponent + 1) * j - k) / k
                total = plus(total, a[j] * y[k - j] * weight)
        smooth: Any = exponent.real > k
        if isinstance(smooth, Tensor):
            y.append(times(total, torch.where(smooth, above, inverse)))
        else:
            y.append(times(total, above if smooth else inverse))
    return y


# ---- y' = w a', where w follows from y


def solve(
    a: Series, start: Tensor, rate: Callable[[Series, int], Coefficient], sign: float = 1.0
) -> Series:
    """The series y that starts so, with y' = ``sign`` w a'; ``rate(y, k)`` is w's coefficient k."""
    y, terms, zero = constant(start, len(a) - 1), terms_of(a), start.new_zeros(())
    for k in range(len(a) - 1):  # y is known up to k
        spread(y, terms, rate(y, k), k, zero, sign)
    return y


def integral(a: Series, start: Tensor, w: Series) -> Series:
    """The series y that starts so, with y' = w a'."""
    return solve(a, start, lambda y, k: w[k])


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


def sqrt(a: Series, start: Tensor | None = None) -> Series:
    """From y² = a."""
    y: Series = [a[0].sqrt() if start is None else start]
    inverse, zero = 0.5 / y[0], y[0].new_zeros(())
    for k in range(1, len(a)):
        y.append(times(minus(a[k], square_at(y, k, zero, 1)), inverse))
    return y


def sincos(a: Series, sign: float = -1.0) -> tuple[Series, Series]:
    """Sine and cosine, which are each other's rates; with ``sign=1`` the hyperbolic ones."""
    s = constant(a[0].sin() if sign < 0 else a[0].sinh(), len(a) - 1)
    c = constant(a[0].cos() if sign < 0 else a[0].cosh(), len(a) - 1)
    terms, zero = terms_of(a), a[0].new_zeros(())
    for k in range(len(a) - 1):
        spread(s, terms, c[k], k, zero)
        spread(c, terms, s[k], k, zero, sign)
    return s, c


def tan(a: Series) -> Series:
    zero = a[0].new_zeros(())

    def rate(y: Series, k: int) -> Coefficient:
        return 1 + y[0] * y[0] if k == 0 else square_at(y, k, zero)

    return solve(a, a[0].tan(), rate)


def tanh(a: Series) -> Series:
    """From y' = (1 - y²) a'; 1 - y² is at first a product that loses no digit."""
    double = a[0] + a[0]
    slope, zero = -4.0 * double.sigmoid() * (-double).sigmoid(), a[0].new_zeros(())

    def rate(y: Series, k: int) -> Coefficient:
        return slope if k == 0 else square_at(y, k, zero)

    return solve(a, a[0].tanh(), rate, -1.0)


def sigmoid(a: Series) -> Series:
    """From y' = (1 - y) y a'; no digit is lost in 1 - y = sigmoid(-a) and 2 y - 1 = tanh(a / 2)."""
    start = a[0].sigmoid()
    slope, ends = start * -(-a[0]).sigmoid(), (a[0] * 0.5).tanh()
    zero = start.new_zeros(())

    def rate(y: Series, k: int) -> Coefficient:  # of y² - y
        return slope if k == 0 else square_at(y, k, zero, 1, times(y[k], ends))

    return solve(a, start, rate, -1.0)


# ---- the series of a function itself; of order 2: its value, slope, half its second derivative


def curve(recurrence: Callable[[Series], Series], x: Tensor, order: int) -> Series:
    return recurrence([x, x.new_ones(()), *[None] * (order - 1)])


def curve_of_exp(x: Tensor) -> Series:
    y = x.exp()
    return [y, y, 0.5 * y]


def curve_of_sin(x: Tensor) -> Series:
    y = x.sin()
    return [y, x.cos(), -0.5 * y]


def curve_of_cos(x: Tensor) -> Series:
    y = x.cos()
    return [y, -x.sin(), -0.5 * y]


def curve_of_tanh(x: Tensor) -> Series:
    y, double, zero = x.tanh(), x + x, x.new_zeros(())
    # 1 - y², and no digit is lost.
    slope = torch.addcmul(zero, double.neg().sigmoid_(), double.sigmoid_(), value=4)
    return [y, slope, torch.addcmul(zero, y, slope, value=-1)]


def asin(a: Series) -> Series:
    return integral(a, a[0].asin(), power(one_minus_square(a), -0.5))


def acos(a: Series) -> Series:
    return [a[0].acos(), *scale(asin(a), -1)[1:]]


def atan(a: Series) -> Series:
    return integral(a, a[0].atan(), reciprocal(one_plus_square(a)))


def asinh(a: Series) -> Series:
    return integral(a, a[0].asinh(), power(one_plus_square(a), -0.5))


def acosh(a: Series) -> Series:
    # The root of the product would be that of the other branch where a is complex and left of 0.
    below, above = power([a[0] - 1, *a[1:]], -0.5), power([a[0] + 1, *a[1:]], -0.5)
    return integral(a, a[0].acosh(), multiply(below, above))


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


def stacked(a: Series, of: Callable[[Tensor], Tensor]) -> Series:
    """A linear function of all coefficients, computed at once along a new first dimension.

    Large ones are not copied together, which would take longer than it saves.
    """
    known = [p for p in a if p is not None]
    if not known or known[0].numel() >= LARGE or known[0].numel() * len(known) >= LARGE * 32:
        return each(a, of)
    if any(is_batched(p) or p.shape != known[0].shape for p in known):
        return each(a, of)
    results = iter(of(torch.stack(known)).unbind(0))
    return [None if p is None else next(results) for p in a]
