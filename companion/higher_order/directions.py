"""Operators of a function whose rows do not meet: each is a coefficient of one run.

In a Laplacian, many directions go through the function at once. They stand along a first dimension
of all coefficients but the value, which is computed once. It is hidden from the rules, as
``torch.vmap`` does it, but from those that broadcast. In place of the last coefficients, each
operation hands on their mean. This is collapsed Taylor mode: F. Dangel, T. Siebert, M. Zeinhofer
and A. Walther, Collapsing Taylor Mode Automatic Differentiation, NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from companion.higher_order.carrier import Run
from companion.higher_order.deferred import Collapsed, Deferred
from companion.higher_order.series import Series
from companion.higher_order.table import lookup
from companion.higher_order.taylor import series_of

Tensor = torch.Tensor
PROBES = 4
# Rows of one run, counted for each direction. More directions are split into runs, each of which
# computes the value anew; the bound is one of memory.
ROWS = 2**16
FEWEST = 8  # directions in a run


def sum_of_second(f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> Tensor:
    """The sum of the second derivatives along some directions, of shape ``(m, d)``."""
    count, rank = len(directions), x.dim()
    size = max(FEWEST, ROWS // max(x.shape[:-1].numel(), 1))
    run, total = Run(lookup, collapses=True), None
    for i in range(0, count, size):
        part = directions[i : i + size] if size < count else directions
        run.directions = min(size, count - i)
        along = Collapsed(part.view(run.directions, *[1] * (rank - 1), -1))
        found = last_of(f, [x, along, along], run) * (2 * run.directions)  # of a mean of halves
        total = found if total is None else total + found
    check_rows(f, x, run)
    return total  # type: ignore[return-value]


def last_of(f: Callable[[Tensor], Tensor], start: Series, run: Run) -> Tensor:
    """The last coefficient of ``f`` of a series.

    Args:
        f: maps ``(*rows, d)`` to ``(*rows, ...)``, each row by itself.
        start: begins with a value of shape ``(*rows, d)``.
        run: in which ``f`` runs.

    Returns:
        Shape and dtype of ``f`` of the value.

    Raises:
        ValueError: the result has other rows.
    """
    x, rows = start[0], start[0].shape[:-1]
    value, *_, last = series_of(f, [start], run)
    if value.shape[: len(rows)] != rows:
        raise ValueError(
            f"f must map each row of x to a row, so that x of shape {tuple(x.shape)} gives "
            f"({', '.join(map(str, [*rows, '...']))}), got {tuple(value.shape)}"
        )
    if isinstance(last, Deferred):
        last = last.last_coefficient_of(value)
    return torch.zeros_like(value) if last is None else last


def check_rows(f: Callable[[Tensor], Tensor], x: Tensor, run: Run) -> None:
    """Raise if a row of ``f(x)`` depends on another row of ``x``, judged by first derivatives.

    Nothing is computed if the operations of a run of ``f`` rule it out.

    In each of several runs at once, some rows rest while the others move. What depends on a row
    that rests alone has the derivative 0 then, exactly.
    """
    if not run.may_mix or x.shape[:-1].numel() < 2:
        return
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
