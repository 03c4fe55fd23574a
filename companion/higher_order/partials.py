"""Power series in several variables, as far as a mixed partial derivative needs them.

Each variable has a degree, how often the derivative names its coordinate. A coefficient belongs to
an exponent for each variable, from 0 to its degree: these are the digits of its number, those of
the first variable count least. So the series is a list again, and begins with the value. The number
of a product is the sum of the numbers of its factors, unless a digit becomes too large.

Source: A. Griewank and A. Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, chapter 13, for the
coefficients of a product and of f(a), here by each variable in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

import companion.higher_order.series as series
from companion.higher_order.deferred import Collapsed, Deferred, Linear, in_shape_of
from companion.higher_order.series import Coefficient, Series
from companion.internals import is_batched

Tensor = torch.Tensor
Coefficients = list[Any]  # of all numbers but 0; each a tensor, Scaled, or None where it is 0


class Partials:
    """The series in several variables up to a degree in each, and how one computes with them."""

    def __init__(self, degrees: Sequence[int]) -> None:
        self.degrees, self.order = degrees, sum(degrees)
        self.places: list[int] = []  # the number of each variable itself
        self.below = [[0]]  # for each number, the numbers none of whose digits is larger, ascending
        for degree in degrees:
            place = len(self.below)
            self.places.append(place)
            self.below += [
                [b + place * i for i in range(digit + 1) for b in lower]
                for digit in range(1, degree + 1)
                for lower in self.below[:place]
            ]

    def start(self, value: Tensor, directions: Sequence[Tensor]) -> Series:
        """A value, and for each variable a direction away from it, the same in all rows."""
        if self.order == 2:
            along = torch.stack([*directions]).view(2, *[1] * (value.dim() - 1), -1)
            return [value, *[Collapsed(along, crossed=True)] * 3]
        of_variables = dict(zip(self.places, directions, strict=True))
        return self._later(
            value, lambda only_last: [of_variables.get(k) for k in self._numbers(only_last)]
        )

    def multiply(self, a: Series, b: Series) -> Series:
        """The product of two series whose coefficients are known."""

        def coefficient(k: int) -> Coefficient:
            total = None
            for j in self.below[k]:
                p, q = a[j], b[k - j]
                if p is not None and q is not None:
                    total = p * q if total is None else series.plus_product(total, p, q)
            return total

        return self._later(
            a[0] * b[0], lambda only_last: [coefficient(k) for k in self._numbers(only_last)]
        )

    def elementary(self, curve: Callable[[Tensor, int], Series], a: Series) -> Series:
        """An elementary function of a series whose coefficients are known.

        ``curve`` gives the series of the function itself at a value, up to an order.
        """
        value, *others = curve(a[0], self.order)
        derivatives = [value]
        for k, c in enumerate(others, 1):
            of_order: Any = torch.zeros_like(value) if c is None else in_shape_of(value, c)
            derivatives.append(of_order if k == 1 else of_order * math.factorial(k))
        slopes = self._slopes(a)
        if slopes is None:
            return self._later(value, lambda last: self._by_chain_rule(derivatives, a, last))
        return self._later(value, lambda last: self._along_a_line(derivatives, slopes, last))

    def _numbers(self, only_last: bool) -> range:
        return range(len(self.below) - 1 if only_last else 1, len(self.below))

    def _later(self, value: Tensor, compute: Callable[[bool], Coefficients]) -> Series:
        return [value, *[Later(compute)] * (len(self.below) - 1)]

    def _by_chain_rule(self, derivatives: list[Tensor], a: Series, only_last: bool) -> Coefficients:
        """The coefficients of f(a), from all derivatives of f at the value of ``a``.

        By a variable t, the derivative of f(a) is f'(a) a', and so its coefficient i, that at t^i,
        is the sum over j of j / i times a's coefficient j times the coefficient i - j of f'(a).
        These are series in the variables before t. Those of f'(a) come from f''(a), and so on: each
        step knows one derivative less, and the last knows f(a) alone. A coefficient holds those of
        f(a), f'(a), … along a first dimension. If the last one is all that is asked for, f(a)
        itself is left out up to the last step.
        """
        found: list[Any] = [torch.stack(derivatives[only_last:])]
        rows = len(found[0])
        for degree, place in zip(self.degrees, self.places, strict=True):
            for i in range(1, degree + 1):
                at_end = only_last and place * (i + 1) == len(self.below)
                rows -= not at_end
                part = slice(0, 1) if at_end else slice(1, rows + 1)
                of_slope = [None if c is None else c[part] for c in found]
                for k in [place - 1] if at_end else range(place):
                    found.append(self._from_slope(of_slope, a, place, i, k))
        return [None if c is None else c[0] for c in (found[-1:] if only_last else found[1:])]

    def _from_slope(self, of_slope: Series, a: Series, place: int, i: int, k: int) -> Coefficient:
        """The coefficient ``place * i + k`` of f(a), from those of f'(a) below it."""
        total = None
        add = torch.addcmul if is_batched(a[0]) else Tensor.addcmul_  # a[0] is in all that is added
        for j in range(1, i + 1):
            weight = j / i
            for b in self.below[k]:
                p, q = a[b + place * j], of_slope[k - b + place * (i - j)]
                if p is None or q is None:
                    continue
                if total is None:
                    total = p * q if weight == 1 else p * q * weight
                else:
                    total = add(total, p, q, value=weight)
        return total

    def _slopes(self, a: Series) -> list[Coefficient] | None:
        """The slope of ``a`` in each variable, if it is a line, and the same in all rows.

        So it is behind the first layer of a network.
        """
        rank = a[0].dim()
        known = {k: series.narrow(c, rank) for k, c in enumerate(a) if k and c is not None}
        if not {*known} <= {*self.places} or any(c.shape[:-1].numel() > 1 for c in known.values()):
            return None
        return [known.get(place) for place in self.places]

    def _along_a_line(
        self, derivatives: list[Tensor], slopes: list[Coefficient], only_last: bool
    ) -> Coefficients:
        """The coefficients of f(a), where ``a`` is a line: Taylor's formula."""
        powers: list[Any] = [(0, None)]  # of the slopes, after their degree; the first is 1
        for degree, place, slope in zip(self.degrees, self.places, slopes, strict=True):
            for i in range(1, degree + 1):
                part = series.times(slope, 1 / i) if i > 1 else slope
                powers += [
                    (total + 1, part if total == 0 else _product(power, part))
                    for total, power in powers[-place:]
                ]
        return [
            None if power is None else Scaled(derivatives[total], power)
            for total, power in (powers[k] for k in self._numbers(only_last))
        ]


class Scaled:
    """A product of what differs in the rows, and a factor that is the same in all rows."""

    def __init__(self, rows: Tensor, factor: Tensor) -> None:
        self.rows, self.factor = rows, factor


class Later(Deferred):
    """All coefficients but the value, which are computed when something asks for them.

    Behind the last operation that bends or multiplies, the last coefficient alone is needed.
    """

    def __init__(self, compute: Callable[[bool], Coefficients]) -> None:
        self._compute = compute
        self._known: dict[bool, Coefficients] = {}  # also for all that goes on from here
        self._steps: tuple[Linear | Callable[[Tensor], Tensor], ...] = ()

    def followed_by(self, step: Linear | Callable[[Tensor], Tensor]) -> Later:
        """The coefficients behind one more step, which is linear."""
        behind = Later(self._compute)
        behind._known, behind._steps = self._known, (*self._steps, step)
        return behind

    def coefficients_of(self, value: Tensor) -> list[Coefficient]:
        return [in_shape_of(value, c) for c in self.narrow()]

    def last_coefficient_of(self, value: Tensor) -> Coefficient:
        return in_shape_of(value, self.narrow(only_last=True)[0])

    def narrow(self, only_last: bool = False) -> list[Coefficient]:
        """The coefficients, where what is the same in all rows may stand once."""
        if only_last not in self._known:
            self._known[only_last] = self._compute(only_last)
        found = self._known[only_last]
        for step in self._steps:
            if not isinstance(step, Linear):
                found = series.each(_multiplied(found), step)
            elif any(isinstance(c, Scaled) and step.folds(c.rows) for c in found):
                found = [None if c is None else _folded(c, step) for c in found]
            else:
                found = series.stacked(_multiplied(found), step.applied_to)
        return _multiplied(found)


def _product(p: Coefficient, q: Coefficient) -> Coefficient:
    return None if p is None or q is None else p * q


def _folded(c: Scaled, step: Linear) -> Tensor:
    return step.of_products(c.rows, c.factor)[0]


def _multiplied(found: Coefficients) -> list[Coefficient]:
    return [c.rows * c.factor if isinstance(c, Scaled) else c for c in found]
