"""A coefficient along many directions, computed in pieces, and only if something needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

Tensor = torch.Tensor
ELEMENTS = 2**16  # of a piece, so that the cache of a processor holds it


class Made:
    """Pieces of some directions each, made when they are first asked for, and kept."""

    def __init__(self, make: Callable[[], Iterable[Tensor]]) -> None:
        self._make: Callable[[], Iterable[Tensor]] | None = make
        self._pieces: list[Tensor] = []
        self._mean: Tensor | None = None

    def pieces(self) -> list[Tensor]:
        if self._make is not None:
            self._pieces, self._make = [*self._make()], None
        return self._pieces

    def mean_of_squares(self) -> Tensor:
        """The mean over all directions."""
        if self._mean is None:
            first, *others = self.pieces()
            total, count = (first * first).sum(0), first.shape[0]
            for piece in others:
                total += (piece * piece).sum(0)
                count += piece.shape[0]
            self._mean = total / count
        return self._mean


@dataclass(frozen=True, eq=False)
class Pieces:
    """The first coefficient of a Laplacian: pieces, each times a factor if there is one.

    It is needed only where an operation bends, so behind the last one it is never computed. Small
    pieces are still in the cache for the next step, and their memory is used again, where that of a
    large tensor comes anew from the system.
    """

    made: Made
    factor: Tensor | None = None

    @staticmethod
    def of(c: Tensor) -> Pieces:
        """Of a coefficient that has the directions first."""
        return Pieces(Made(lambda: [c]))

    def times(self, factor: Tensor) -> Pieces:
        return Pieces(self.made, factor if self.factor is None else self.factor * factor)

    def each(self, function: Callable[[Tensor], Tensor]) -> Pieces:
        """A linear function of it, which takes each direction by itself."""
        return Pieces(Made(lambda: map(function, self)))

    def mean_of_squares(self) -> Tensor:
        mean = self.made.mean_of_squares()
        return mean if self.factor is None else self.factor * self.factor * mean

    def __iter__(self) -> Iterator[Tensor]:
        if self.factor is None:
            return iter(self.made.pieces())
        size = max(1, ELEMENTS // max(self.factor.numel(), 1))
        parts = (part for piece in self.made.pieces() for part in torch.split(piece, size))
        return (part * self.factor for part in parts)

    def joined(self, value: Tensor) -> Tensor:
        """All directions in one tensor, each of the shape of the value."""
        pieces = [*self]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return whole.expand(whole.shape[0], *value.shape)
