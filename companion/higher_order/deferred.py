"""What is computed behind the values of a function, and only when something asks for it.

The first coefficients are needed only where an operation bends, and the last ones only at the end.
So an operation that can do so adds a step here, and computes nothing but its value. When something
asks, some directions at a time go through all steps. What these need stays in the cache of a
processor, where all directions would take memory that comes anew from the system each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from companion.internals import version_of

Tensor = torch.Tensor
Coefficient = Tensor | None
SQUARED_AT_ONCE = 2**12  # elements, for which it is faster to square all directions at once
ELEMENTS_AT_A_TIME = 2**15  # of a coefficient, along as many directions as go at a time
IN_PRODUCT = 2**18  # the same, where one product of matrices makes them all


class Deferred:
    """The coefficients of a series but for its value, which are computed when something asks."""

    def followed_by(self, step: Any) -> Deferred:
        """The coefficients behind one more step."""
        raise NotImplementedError

    def coefficients_of(self, value: Tensor) -> list[Coefficient]:
        """All of them, of a series that begins with this value."""
        raise NotImplementedError

    def last_coefficient_of(self, value: Tensor) -> Coefficient:
        """The last one alone, which is less work."""
        raise NotImplementedError


class Collapsed(Deferred):
    """The first and the last coefficient of a series of order 2, behind the steps that lead there.

    The first has the directions along a first dimension; the last is a mean over them. Both are
    broadcast over what is the same in all rows. If it is ``crossed``, there are two directions, and
    the last is the derivative by one and the other.
    """

    def __init__(
        self,
        first: Any = None,
        last: Coefficient = None,
        before: Collapsed | None = None,
        step: Linear | Bend | None = None,
        crossed: bool = False,
    ) -> None:
        self.crossed = crossed
        self.first, self.last = first, last  # a first one of None is not known yet
        self.before, self.step = before, step
        self.followers = 0

    def followed_by(self, step: Linear | Bend) -> Collapsed:
        self.followers += 1
        return Collapsed(before=self, step=step, crossed=self.crossed)

    def coefficients_of(self, value: Tensor) -> list[Coefficient]:
        self._compute(with_first=True)
        first = self.first.to(value.dtype).expand(-1, *value.shape)
        return [*(first if self.crossed else [first]), in_shape_of(value, self.last)]

    def last_coefficient_of(self, value: Tensor) -> Coefficient:
        self._compute(with_first=False)
        return in_shape_of(value, self.last)

    def _compute(self, with_first: bool) -> None:
        ahead: list[Collapsed] = []
        start: Any = self
        while start.first is None:
            ahead.append(start)
            start = start.before
        steps: list[Any] = []
        while ahead:
            node = ahead.pop()
            steps.append(node.step)
            if node is self or node.followers > 1:  # from which each follower can go on
                first = with_first or node is not self
                node.first, node.last = start._passed(steps, first)
                if first:
                    node.before = node.step = None  # which nothing asks any more
                start, steps = node, []

    def _passed(
        self, steps: list[Linear | Bend], with_first: bool
    ) -> tuple[Coefficient, Coefficient]:
        """Both coefficients behind some steps, the first one only if it is asked for."""
        bends = [i for i, step in enumerate(steps) if step.half is not None]
        end = len(steps) if with_first else max(bends, default=0)
        pieces, squares = self._first_passed(steps, end, with_first)
        weight = 2 if self.crossed else 1 / self.first.shape[0]  # in a mean
        last = self.last
        for i, step in enumerate(steps):
            last = None if last is None else step.applied_to(last)
            if step.half is not None:
                if last is None:
                    last = squares[i] * weight * step.half
                else:
                    last = torch.addcmul(last, squares[i], step.half, value=weight)
        if not with_first:
            return None, last
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces), last

    def _first_passed(
        self, steps: list[Any], end: int, with_first: bool
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The first coefficient behind the steps before ``end``, in pieces of some directions each.

        And for each step that bends, the sum over all directions of the squares of what comes to
        it, or the product of both directions.
        """
        pieces: list[Tensor] = []
        squares: dict[int, Tensor] = {}
        todo = [(self.first, 0, True)]  # a piece, the step it comes to, and whether it is new there
        while todo:
            c, i, is_new = todo.pop()
            if is_new and i < len(steps) and steps[i].half is not None:
                if self.crossed:
                    squares[i] = c[0] * c[1]
                else:
                    is_spare = i == end and not with_first and c is not self.first
                    squares[i] = _plus_squares(squares.get(i), c, is_spare)
            if i == end:
                pieces.append(c)
                continue
            count = c.shape[0]
            size = max(c.numel() // count, steps[i].size)
            step = steps[i]
            folds = i + 1 < end and _folds(c, step, steps[i + 1])
            parts = -(-count * size // (IN_PRODUCT if folds else ELEMENTS_AT_A_TIME))
            if min(count, parts) > 1 and not self.crossed:
                todo += [(part, i, False) for part in reversed(c.chunk(parts))]
            elif folds:
                todo.append((steps[i + 1].of_products(step.slope, c), i + 2, True))
            else:
                todo.append((step.applied_to(c), i + 1, True))
        return pieces, squares


class Linear:
    """A step through a function with a weight, which is linear in each direction by itself."""

    half: Coefficient = None
    size = 0

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> None:
        self.function, self.weight, self.version = function, weight, version_of(weight)

    def applied_to(self, c: Tensor) -> Tensor:
        return self.function(c, self._unchanged())

    def folds(self, rows: Tensor) -> bool:
        """Whether it is less work to multiply the weight by a factor than so many rows."""
        return rows.numel() >= self.weight.numel()

    def of_products(self, rows: Tensor, factors: Tensor) -> Tensor:
        """The same of ``rows * factor``, for each of some factors that are the same in all rows.

        They go into the weight, so that one product of matrices finds all.
        """
        size = rows.shape[-1]
        factors = factors.reshape(-1, *[1] * (self.weight.dim() - 1), size)
        weights = self._unchanged() * factors
        found = self.function(rows, weights.view(-1, size))
        return found.view(*rows.shape[:-1], *weights.shape[:-1]).movedim(rows.dim() - 1, 0)

    def _unchanged(self) -> Tensor:
        if version_of(self.weight) != self.version:
            raise RuntimeError(
                f"f wrote into a weight of shape {tuple(self.weight.shape)} after it had used it, "
                "but its derivatives still need what it was; let f use weight.clone()"
            )
        return self.weight


class Bend:
    """A step through an elementary function, by its slope and half its second derivative."""

    def __init__(self, slope: Tensor, half: Coefficient) -> None:
        self.slope, self.half = slope, half
        self.size = slope.numel()

    def applied_to(self, c: Tensor) -> Tensor:
        return c * self.slope


def _folds(c: Tensor, step: Any, after: Any) -> bool:
    """Whether a linear step after a bend can take a coefficient that is the same in all rows."""
    if not isinstance(step, Bend) or not isinstance(after, Linear):
        return False
    return c.shape[1:-1].numel() == 1 and after.folds(step.slope)


def _plus_squares(total: Coefficient, c: Tensor, is_spare: bool) -> Tensor:
    """A sum, and the squares along all directions, which take no more memory if they are large.

    ``is_spare``: nobody needs ``c`` afterwards.
    """
    in_place = is_spare and not c.is_contiguous()  # what lies scattered is slow to go through
    if in_place or c.numel() < SQUARED_AT_ONCE * c.shape[0]:
        square = (c.square_() if in_place else c * c).sum(0)
        return square if total is None else total.add_(square)
    for along in c:
        total = along * along if total is None else total.addcmul_(along, along)
    return total  # type: ignore[return-value]


def in_shape_of(value: Tensor, c: Coefficient) -> Coefficient:
    """A coefficient in the shape and dtype of a value."""
    if c is None or (c.shape == value.shape and c.dtype == value.dtype):
        return c
    return c.to(value.dtype).expand(value.shape)
