"""Taylor mode: all derivatives of a function up to an order, in one run of the function.

The function runs on a tensor that carries a truncated power series, and each operation in it
computes with all coefficients at once: by its rule (table.py), from recurrences (series.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import companion.higher_order.series as series
from companion.higher_order.carrier import Carrier, Run, carrier_of, running
from companion.higher_order.series import Series
from companion.higher_order.table import lookup
from companion.internals import is_without_numbers
from companion.naming import check_flags

Tensor = torch.Tensor


def derivatives(
    f: Callable[..., Tensor],
    x: Tensor | tuple[Tensor, ...],
    order: int,
    *,
    direction: Tensor | tuple[Tensor, ...] | None = None,
    normalized: bool = False,
) -> Tensor:
    """The value of a function and its derivatives of the orders 1 to ``order``, in one run of it.

    For a function that works element by element, the k-th derivative at each element. For any
    other, the k-th derivative of ``f(x + t * direction)`` by t at 0. The cost grows with the square
    of the order, where nested reverse mode multiplies it with each order. Of a function of several
    tensors, ``x`` is a tuple of them, and so is ``direction``: ``f(x + t * u, y + t * v)``.

    ``f`` runs once, unchanged: operators, methods, ``torch.*``, modules, loops and branches, which
    go by the value. What ``f`` computes with ``detach()`` counts as constant, and so do whole
    numbers, such as those of ``round``. Complex functions are differentiated along the direction:
    a holomorphic one has the complex derivative.

    Where a series does not exist, the first derivative is that of torch: infinite for ``log`` and
    ``sqrt`` at 0, zero for ``norm`` and ``std`` at 0; and the higher ones are infinite or NaN. At a
    kink, such as that of ``relu``, ``abs`` or ``clamp``, the function goes on with the slope that
    torch chooses, and above its threshold ``softplus`` is a straight line, as in torch.

    Args:
        f: takes a tensor, or as many as ``x`` has, and returns one.
        x: where, of any shape, floating or complex; a tuple for several arguments of ``f``. If it
            requires grad, or a parameter of ``f`` does, the derivatives can be differentiated in
            turn.
        order: up to which, 0 to 170. Above 34 in float32, and above 8 in float16, the factor k!
            overflows, and the derivative comes out infinite or NaN.
        direction: of the shape of ``x``, a tuple if that is one; ones by default. Zeros for an
            argument hold it fixed.
        normalized: leave out the factor k!, which gives the coefficients of the Taylor series.

    Returns:
        A tensor of shape ``(order + 1, *f(x).shape)`` and the dtype of ``f(x)``.

    Raises:
        NotImplementedError: ``f`` uses an operation without a rule, one in place, one that leaves
            torch (``.item()``, ``.numpy()``), or one that goes around the rules (a custom
            ``Function``, ``torch.func``, ``no_grad`` inside ``f``, ``derivatives`` of what already
            carries a series), or one that ``torch.compile`` made. The message says which, and on
            which line.
        TypeError: an argument, or what ``f`` returns, is of the wrong type, or a tensor without
            numbers, such as one on the device ``meta``.
        ValueError: ``order`` is negative or above 170, or ``direction`` has another shape.
        RuntimeError: it is called under ``torch.autocast``.

    Examples:
        >>> x = torch.tensor(1.0, dtype=torch.float64)
        >>> derivatives(lambda x: torch.sigmoid(x) ** 2, x, 4)
        tensor([ 0.5344,  0.2875, -0.0555, -0.1588,  0.1745], dtype=torch.float64)
        >>> derivatives(torch.exp, x * 0, 4, normalized=True)
        tensor([1.0000, 1.0000, 0.5000, 0.1667, 0.0417], dtype=torch.float64)
        >>> derivatives(lambda x, y: x * y**2, (x, x), 3)
        tensor([1., 3., 6., 6.], dtype=torch.float64)

    Source: A. Griewank and A. Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, chapter 13.
    """
    points = x if isinstance(x, tuple) else (x,)
    check_function(f, points)
    check_order(order)
    check_flags(normalized=normalized)
    starts = [
        [point, along, *[None] * (order - 1)][: order + 1]
        for point, along in zip(points, _directions(x, points, direction), strict=True)
    ]
    coefficients = series_of(f, starts, Run(lookup))
    return series.filled(coefficients) if normalized else _times_factorials(coefficients)


def check_function(f: Callable[..., Tensor], points: tuple[Tensor, ...]) -> None:
    """Raise unless these are a function and tensors that it can be differentiated by."""
    if not callable(f):
        raise TypeError(f"f must be a function of a tensor, got {type(f).__name__}")
    if not points:
        raise ValueError("x must hold at least one tensor, got an empty tuple")
    for x in points:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if isinstance(x, Carrier):
            raise TypeError(
                "x carries a series already: f itself calls derivatives; ask for a higher order "
                "instead"
            )
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"x must be floating or complex, got {x.dtype}; pass x.double()")
        if x.layout is not torch.strided or x.is_nested:
            kind = "nested" if x.is_nested else x.layout
            raise TypeError(f"x must be a dense tensor, got {kind}; pass x.to_dense()")
        check_has_numbers("x", x)
        if torch.is_autocast_enabled(x.device.type):  # which the rules do not follow
            raise RuntimeError(
                "torch.autocast gives operations of f another precision than their rules; go on in "
                f'`with torch.autocast("{x.device.type}", enabled=False):`'
            )


def check_has_numbers(name: str, tensor: Tensor) -> None:
    """Raise of a tensor that is a shape alone."""
    if is_without_numbers(tensor):
        kind = "on the device meta" if tensor.is_meta else "a fake tensor"
        raise TypeError(
            f"{name} must have numbers, and is {kind}, which has a shape alone; make it on a "
            'device such as "cpu", and outside of FakeTensorMode'
        )


def check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"order must be an int, got {type(order).__name__}")
    if order < 0:
        raise ValueError(f"order must be 0 or more, got {order}")
    if order > 170:
        raise ValueError(f"order must be 170 or less, got {order}; 171! is no float64")


def _directions(x: Any, points: tuple[Tensor, ...], direction: Any) -> list[Tensor]:
    """The direction of each argument, in its dtype; ones by default."""
    if direction is None:
        return [torch.ones_like(point) for point in points]
    directions = direction if isinstance(x, tuple) else (direction,)
    if not isinstance(directions, tuple) or len(directions) != len(points):
        raise TypeError(f"direction must be a tuple of {len(points)} tensors, as x is one")
    return [_direction(point, along) for point, along in zip(points, directions, strict=True)]


def _direction(x: Tensor, direction: Any) -> Tensor:
    if not isinstance(direction, Tensor):
        raise TypeError(f"direction must be a tensor, got {type(direction).__name__}")
    check_has_numbers("direction", direction)
    if direction.shape != x.shape:
        raise ValueError(
            f"direction must have the shape of x, {tuple(x.shape)}, got {tuple(direction.shape)}"
        )
    if direction.is_complex() and not x.is_complex():
        raise TypeError("direction is complex and x is not; pass x as complex")
    return direction.to(x.dtype)


def series_of(f: Callable[..., Tensor], starts: list[Series], run: Run) -> Series:
    """The series of ``f`` of some series, in a run of ``f``."""
    with running(run):
        carriers = [carrier_of(start) for start in starts]
        with torch.enable_grad():
            y = f(*carriers)
        if not isinstance(y, Tensor):
            raise TypeError(f"f must return a tensor, got {type(y).__name__}")
        return (
            y.series_or_deferred
            if isinstance(y, Carrier)
            else series.constant(y, len(starts[0]) - 1)
        )


def _times_factorials(coefficients: Series) -> Tensor:
    """The derivatives, which are the coefficients times k!, along a new first dimension."""
    stacked = series.filled(coefficients)
    if not (stacked.is_floating_point() or stacked.is_complex()):
        return stacked  # f(x) is constant: the derivatives are zero
    factorials = [float(math.factorial(k)) for k in range(len(coefficients))]
    weights = torch.tensor(factorials, dtype=stacked.dtype, device=stacked.device)
    return stacked.mul_(weights.view(-1, *[1] * (stacked.dim() - 1)))  # nobody else has seen it
