"""Operators of partial derivatives, as differential equations have them: from many directions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from companion.higher_order.directions import sum_along
from companion.higher_order.taylor import check_function, check_order

Tensor = torch.Tensor


def laplacian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The sum of the second derivatives of a function by each coordinate.

    ``f`` maps ``(..., d)`` to ``(..., k)``, each row by itself: the last axis of ``x`` holds the
    coordinates of a point, and the row of ``f(x)`` at this point depends on no other point. Then
    the derivatives of all points are found at once. Other arguments of ``f`` are held fixed:
    ``laplacian(lambda x: f(x, t), x)``.

    ``f`` runs once, or a few times if the points and coordinates are many. The sum is carried
    through it in place of its d summands (collapsed Taylor mode), so that time and memory are about
    those of d + 2 runs. Once more ``f`` runs where an operation might mix rows, to see whether it
    does. What is said of kinks and singular points at ``derivatives`` holds here too.

    Args:
        f: takes a tensor of the shape of ``x`` and returns one of shape ``(..., k)``, or ``(...)``.
        x: shape ``(..., d)``, floating or complex; need not require grad.

    Returns:
        Shape and dtype of ``f(x)``. It can be differentiated by the parameters of ``f``, and by
        ``x`` if that requires grad.

    Raises:
        NotImplementedError: ``f`` uses something without a rule, as in ``derivatives``. One of
            these is batch normalisation in training, where the points of a batch meet.
        TypeError: ``f`` is no function, ``x`` no floating or complex tensor, or ``f(x)`` none.
        ValueError: ``x`` has no last axis, or one of length 0; ``f(x)`` has other rows than ``x``;
            or a row of it depends on other rows of ``x``. That is judged by the first derivatives
            at this ``x``: in one run for each direction every row rests while others move.

    Examples:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> laplacian(lambda x: (x**3).sum(-1, keepdim=True), x)
        tensor([[18.],
                [42.]])
        >>> laplacian(lambda x: x**2 - (x**2).mean(0), x)
        Traceback (most recent call last):
        ValueError: f must map each row of x by itself, but 2 of 2 rows of f(x) depend on other \
rows of x, as after a normalisation over the batch; call f on one row at a time, or change it

    Source: F. Dangel, T. Siebert, M. Zeinhofer and A. Walther, Collapsing Taylor Mode Automatic
    Differentiation, NeurIPS 2025.
    """
    size = _size(f, x)
    each = torch.eye(size, dtype=x.dtype, device=x.device)
    return sum_along(f, x, each, 2, 2.0)  # a coefficient is half a derivative


def mixed(f: Callable[[Tensor], Tensor], x: Tensor, dims: Sequence[int]) -> Tensor:
    """The partial derivative of a function along some coordinates, one after the other.

    ``mixed(f, x, (0, 0, 1))`` is the derivative by the first coordinate twice and by the second
    once. ``f`` maps ``(..., d)`` to ``(..., k)``, each row by itself, as in ``laplacian``.

    It is found from ordinary derivatives along several directions at once (polarization): 1 for one
    coordinate, however often, and 128 for eight different ones, at most half the product of the
    numbers of times that each is named, each plus 1. Rounding errors grow with the order.

    Args:
        f: takes a tensor of the shape of ``x`` and returns one of shape ``(..., k)``, or ``(...)``.
        x: shape ``(..., d)``, floating or complex; need not require grad.
        dims: the coordinates, from ``-d`` to ``d - 1``, at least one of them, in any order.

    Returns:
        Shape and dtype of ``f(x)``. It can be differentiated by the parameters of ``f``, and by
        ``x`` if that requires grad.

    Raises:
        NotImplementedError, TypeError, ValueError: as in ``laplacian``.
        TypeError: ``dims`` is no sequence of ints.
        ValueError: ``dims`` is empty or longer than 170.
        IndexError: ``x`` has no such coordinate.

    Examples:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> mixed(lambda x: x[..., 0] ** 3 * x[..., 1] ** 2, x, (0, 0, 1))
        tensor([ 24., 144.])

    Source: A. Griewank, J. Utke and A. Walther, Evaluating higher derivative tensors by forward
    propagation of univariate Taylor series, Mathematics of Computation 69, 2000.
    """
    size = _size(f, x)
    found = _polarized(_coordinates(dims, size), size)
    directions = torch.tensor([*found], dtype=x.dtype, device=x.device)
    weights = torch.tensor([*found.values()], dtype=x.dtype.to_real(), device=x.device)
    return sum_along(f, x, directions, len(dims), weights)


def _size(f: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """How many coordinates a point has."""
    check_function(f, (x,))
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"the last axis of x must hold the coordinates, got shape {tuple(x.shape)}; pass "
            "x.unsqueeze(-1) if there is one"
        )
    return x.shape[-1]


def _coordinates(dims: Sequence[int], size: int) -> list[int]:
    """The coordinates in ``dims``, counted from the front."""
    if not isinstance(dims, Sequence) or any(
        isinstance(dim, bool) or not isinstance(dim, int) for dim in dims
    ):
        raise TypeError(f"dims must be a tuple of ints, such as (0, 0, 1), got {dims!r}")
    if not dims:
        raise ValueError("dims must name a coordinate at least, got none")
    check_order(len(dims))
    for dim in dims:
        if not -size <= dim < size:
            raise IndexError(
                f"x has {size} coordinates, so dims must be from {-size} to {size - 1}, got {dim}"
            )
    return [dim % size for dim in dims]


def _polarized(dims: Sequence[int], size: int) -> dict[tuple[int, ...], float]:
    """Directions, and their weights in the sum that is the mixed derivative along ``dims``.

    The sum goes over the last coefficients of the series. It takes each coordinate with each of the
    two signs, once for each time that it is named; signs that sum up to a multiple of the same
    direction are taken together. All signs the other way round would add the same once more.
    """
    counts = Counter(dims)
    signs = itertools.product(*(range(times + 1) for times in counts.values()))
    half = math.prod(times + 1 for times in counts.values()) // 2
    found: Counter[tuple[int, ...]] = Counter()
    for minus in itertools.islice(signs, half):
        direction, weight = [0] * size, 1
        for (dim, times), negative in zip(counts.items(), minus, strict=True):
            direction[dim] = times - 2 * negative
            weight *= (-1) ** negative * math.comb(times, negative)
        longest = math.gcd(*direction)
        found[tuple(part // longest for part in direction)] += weight * longest ** len(dims)
    return {along: 2 * weight / 2 ** len(dims) for along, weight in found.items() if weight}
