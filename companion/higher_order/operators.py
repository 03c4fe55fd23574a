"""Operators of partial derivatives, as differential equations have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from companion.higher_order.carrier import Run
from companion.higher_order.directions import check_rows, last_of, sum_of_second
from companion.higher_order.partials import Partials
from companion.higher_order.table import lookup
from companion.higher_order.taylor import check_function, check_order
from companion.naming import in_short

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
        TypeError: ``f`` is no function, ``x`` no floating or complex tensor or one without
            numbers, such as one on the device ``meta``, or ``f(x)`` none.
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
    return sum_of_second(f, x, torch.eye(size, dtype=x.dtype, device=x.device))


def mixed(f: Callable[[Tensor], Tensor], x: Tensor, dims: Sequence[int]) -> Tensor:
    """The partial derivative of a function along some coordinates, one after the other.

    ``mixed(f, x, (0, 0, 1))`` is the derivative by the first coordinate twice and by the second
    once. ``f`` maps ``(..., d)`` to ``(..., k)``, each row by itself, as in ``laplacian``.

    ``f`` runs once, and carries all partial derivatives that are part of this one: 8 for
    ``(0, 0, 1, 1)``, and 255 for eight different coordinates. With one more different coordinate
    these are twice as many, and the products that a nonlinear operation takes of them three times.
    Behind the last such operation this one alone is computed. Once more ``f`` runs where an
    operation might mix rows.

    Args:
        f: takes a tensor of the shape of ``x`` and returns one of shape ``(..., k)``, or ``(...)``.
        x: shape ``(..., d)``, floating or complex; need not require grad.
        dims: the coordinates, from ``-d`` to ``d - 1``, at least one of them, in any order. As in
            ``derivatives``, more than 34 may overflow in float32, and more than 8 in float16.

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

    Source: A. Griewank and A. Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, chapter 13, by
    each coordinate in turn.
    """
    size = _size(f, x)
    times = Counter(_coordinates(dims, size))
    directions = torch.eye(size, dtype=x.dtype, device=x.device)
    if len(dims) == 2 and len(times) == 1:
        return sum_of_second(f, x, directions[[*times]])
    if len(times) > 1:
        partials = Partials([*times.values()])
        start = partials.start(x, [directions[dim] for dim in times])
    else:
        partials = None
        start = [x, directions[dims[0]].expand(x.shape), *[None] * (len(dims) - 1)]
    run = Run(lookup, by_rows=True, partials=partials)
    last = last_of(f, start, run)
    check_rows(f, x, run)
    return last * math.prod(math.factorial(degree) for degree in times.values())


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
        raise TypeError(f"dims must be a tuple of ints, such as (0, 0, 1), got {in_short(dims)}")
    if not dims:
        raise ValueError("dims must name a coordinate at least, got none")
    check_order(len(dims))
    for dim in dims:
        if not -size <= dim < size:
            raise IndexError(
                f"x has {size} coordinates, so dims must be from {-size} to {size - 1}, got {dim}"
            )
    return [dim % size for dim in dims]
