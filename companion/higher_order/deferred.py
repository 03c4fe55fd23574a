"""What a Laplacian computes behind the values of a function, and only when something asks for it.

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
FEW = 2**12  # elements, for which it is faster to square all directions at once
ELEMENTS = 2**15  # of a coefficient, along as many directions as go at a time


class Deferred:
    """The first and the last coefficient of a series of order 2, behind the steps that lead there.

    The first has the directions along a first dimension; the last is a mean over them. Both are
    broadcast over what is the same in all rows.
    """

    def __init__(
        self,
        first: Any = None,
        last: Coefficient = None,
        before: Deferred | None = None,
        step: Linear | Bend | None = None,
    ) -> None:
        self.first, self.last = first, last  # a first one of None is not known yet
        self.before, self.step = before, step
        self.followers = 0

    def behind(self, step: Linear | Bend) -> Deferred:
        """The coefficients behind one more step."""
        self.followers += 1
        return Deferred(before=self, step=step)

    def both(self, value: Tensor) -> tuple[Tensor, Coefficient]:
        """The first and the last coefficient of a series that begins with this value."""
        self._compute(with_first=True)
        first = self.first.to(value.dtype).expand(-1, *value.shape)
        return first, _like(value, self.last)

    def mean(self, value: Tensor) -> Coefficient:
        """The last coefficient alone, which is less work."""
        self._compute(with_first=False)
        return _like(value, self.last)

    def _compute(self, with_first: bool) -> None:
        ahead: list[Deferred] = []
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
                node.first, node.last = _passed(start.first, start.last, steps, first)
                if first:
                    node.before = node.step = None  # which nothing asks any more
                start, steps = node, []


class Linear:
    """A step through a function with a weight, which is linear in each direction by itself."""

    half: Coefficient = None
    size = 0

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> None:
        self.function, self.weight, self.version = function, weight, version_of(weight)

    def of(self, c: Tensor) -> Tensor:
        if version_of(self.weight) != self.version:
            raise RuntimeError(
                f"f wrote into a weight of shape {tuple(self.weight.shape)} after it had used it, "
                "but laplacian still needs what it was; let f use weight.clone()"
            )
        return self.function(c, self.weight)


class Bend:
    """A step through an elementary function, by its slope and half its second derivative."""

    def __init__(self, slope: Tensor, half: Coefficient) -> None:
        self.slope, self.half = slope, half
        self.size = slope.numel()

    def of(self, c: Tensor) -> Tensor:
        return c * self.slope


def _passed(
    first: Tensor, last: Coefficient, steps: list[Linear | Bend], with_first: bool
) -> tuple[Coefficient, Coefficient]:
    """Both coefficients behind some steps, the first one only if it is asked for."""
    bends = [i for i, step in enumerate(steps) if step.half is not None]
    end = len(steps) if with_first else max(bends, default=0)
    pieces, squares = _first_passed(first, steps, end)
    each = 1 / first.shape[0]  # what a direction counts for in a mean
    for i, step in enumerate(steps):
        last = None if last is None else step.of(last)
        if step.half is not None:
            if last is None:
                last = squares[i] * each * step.half
            else:
                last = torch.addcmul(last, squares[i], step.half, value=each)
    if not with_first:
        return None, last
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces), last


def _first_passed(
    first: Tensor, steps: list[Linear | Bend], end: int
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """The first coefficient behind the steps before ``end``, in pieces of some directions each.

    And for each step that bends, the sum over all directions of the squares of what comes to it.
    """
    pieces: list[Tensor] = []
    squares: dict[int, Tensor] = {}
    todo = [(first, 0, True)]  # a piece, the step it comes to, and whether it is new there
    while todo:
        c, i, is_new = todo.pop()
        if is_new and i < len(steps) and steps[i].half is not None:
            squares[i] = _plus_squares(squares.get(i), c)
        if i == end:
            pieces.append(c)
            continue
        count = c.shape[0]
        size = max(c.numel() // count, steps[i].size)
        if count > 1 and count * size > ELEMENTS:
            parts = torch.split(c, max(1, ELEMENTS // size))
            todo += [(part, i, False) for part in reversed(parts)]
        else:
            todo.append((steps[i].of(c), i + 1, True))
    return pieces, squares


def _plus_squares(total: Coefficient, c: Tensor) -> Tensor:
    """A sum, and the squares along all directions, which take no more memory if they are large."""
    if c.numel() < FEW * c.shape[0]:
        square = (c * c).sum(0)
        return square if total is None else total.add_(square)
    for along in c:
        total = along * along if total is None else total.addcmul_(along, along)
    return total  # type: ignore[return-value]


def _like(value: Tensor, c: Coefficient) -> Coefficient:
    return None if c is None else c.to(value.dtype).expand(value.shape)
