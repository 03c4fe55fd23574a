"""Derivatives along many directions at once, of a function whose rows do not meet.

The directions stand along a first dimension of all coefficients but the value, which is computed
once. It is hidden from the rules, as ``torch.vmap`` does it, but from those that broadcast. Where
the sum of the last coefficients is asked for, each operation hands on their mean in place of all of
them. This is collapsed Taylor mode: F. Dangel, T. Siebert, M. Zeinhofer and A. Walther, Collapsing
Taylor Mode Automatic Differentiation, NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from companion.higher_order.carrier import Run
from companion.higher_order.deferred import Deferred
from companion.higher_order.table import lookup
from companion.higher_order.taylor import series_of

Tensor = torch.Tensor
PROBES = 4
# Rows of one run, counted for each direction and order. More directions are split into runs, each
# of which computes the value anew. What a usual network computes of ROWS stays in the cache of a
# processor. A collapsing run goes through the cache in pieces, and so its bound is one of memory.
ROWS = 8192
ROWS_IN_PIECES = 2**17
FEWEST = 8  # directions in a run


def sum_along(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    directions: Tensor,
    order: int,
    weights: Tensor | float,
) -> Tensor:
    """The sum, over some directions, of the last coefficient of the series along each.

    Args:
        f: maps ``(*rows, d)`` to ``(*rows, ...)``, each row by itself.
        x: shape ``(*rows, d)``.
        directions: shape ``(m, d)``.
        order: of the coefficient.
        weights: of the directions in the sum, real, shape ``(m,)``, or one number for all, with
            which the run collapses.

    Returns:
        Shape and dtype of ``f(x)``.

    Raises:
        ValueError: the result has other rows, or a row of it depends on another row of ``x``.
    """
    count, rows = len(directions), x.shape[:-1]
    run = Run(lookup, collapses=not isinstance(weights, Tensor))
    bound = ROWS_IN_PIECES if run.collapses else ROWS
    size = max(FEWEST, bound // max(rows.numel() * order, 1))
    total: Any = None
    for first in range(0, count, size):
        part = directions[first : first + size]
        run.directions = len(part)
        along: Any = part.view(len(part), *[1] * len(rows), -1)
        if run.collapses:
            changes: list[Any] = [Deferred(along)] * 2
        else:
            changes = [along.expand(len(part), *x.shape), *[None] * (order - 1)]
        value, *_, last = series_of(f, [[x, *changes]], run)
        if isinstance(last, Deferred):
            last = last.mean(value)
        if value.shape[: len(rows)] != rows:
            raise ValueError(
                f"f must map each row of x to a row, so that x of shape {tuple(x.shape)} gives "
                f"({', '.join(map(str, [*rows, '...']))}), got {tuple(value.shape)}"
            )
        if last is None:
            found = torch.zeros_like(value)
        elif isinstance(weights, Tensor):
            weight = weights[first : first + size].to(last.dtype)
            found = (weight.view(-1, *[1] * (last.dim() - 1)) * last).sum(0)
        else:
            found = last * (weights * len(part))
        total = found if total is None else total + found
    if run.may_mix and rows.numel() > 1:
        _check_rows(f, x)
    return total  # type: ignore[no-any-return]


def _check_rows(f: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raise if a row of ``f(x)`` depends on another row of ``x``, judged by first derivatives.

    In each of several runs at once, some rows rest while the others move. What depends on a row
    that rests alone has the derivative 0 then, exactly.
    """
    x, rows = x.detach(), x.shape[:-1]
    generator = torch.Generator().manual_seed(0)  # the global one is the caller's
    deal = torch.randperm(rows.numel(), generator=generator, device="cpu") % PROBES
    rests = (deal.view(rows) == torch.arange(PROBES).view(-1, *[1] * len(rows))).to(x.device)
    move = torch.rand(x.shape[-1:], generator=generator, device="cpu").to(x) + 0.5
    along = torch.where(rests.unsqueeze(-1), 0, move)
    with torch.no_grad():
        _, first = series_of(f, [[x, along]], Run(lookup, PROBES))
    if first is None:
        return
    resting = first[rests]
    moved = int((resting.isfinite() & (resting != 0)).view(len(resting), -1).any(1).sum())
    if moved:
        raise ValueError(
            f"f must map each row of x by itself, but {moved} of {rows.numel()} rows of f(x) "
            "depend on other rows of x, as after a normalisation over the batch; call f on one "
            "row at a time, or change it"
        )
