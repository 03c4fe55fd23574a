"""A rule of Taylor mode for an operation of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from companion.higher_order.carrier import Carrier, value_of

Tensor = torch.Tensor


def taylor_rule(
    operation: Callable[..., Tensor], same: Callable[..., Tensor]
) -> Callable[..., Any]:
    """Give an operation of one's own a rule, so that ``derivatives`` can go through it.

    A custom Function, an operation of a library or of C++, and a compiled function have no rule.
    ``same`` computes the same with operations that have one. The function that comes back calls
    ``operation``, and ``same`` only where ``derivatives``, ``laplacian`` or ``mixed`` run.

    Args:
        operation: takes tensors and more, and returns a tensor, such as ``Cube.apply``.
        same: takes the same arguments.

    Returns:
        A function to call in place of ``operation``. In ``derivatives`` it raises a ValueError
        where the two give different values at this ``x``.

    Raises:
        TypeError: one of the two cannot be called.

    Examples:
        >>> from companion import derivatives
        >>> class Cube(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x**3
        ...     @staticmethod
        ...     def backward(ctx, grad_output):
        ...         return grad_output * 3 * ctx.saved_tensors[0] ** 2
        >>> cube = taylor_rule(Cube.apply, lambda x: x**3)
        >>> derivatives(lambda x: cube(x) + x, torch.tensor(2.0), 3)
        tensor([10., 13., 12.,  6.])
    """
    for name, function in (("operation", operation), ("same", same)):
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}")
    called = getattr(operation, "__name__", type(operation).__name__)
    owner = getattr(operation, "__self__", None)
    called = f"{owner.__name__}.{called}" if isinstance(owner, type) else called

    @functools.wraps(operation, updated=())
    def either(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(argument, Carrier) for argument in (*args, *kwargs.values())):
            return operation(*args, **kwargs)
        result = same(*args, **kwargs)
        with torch.no_grad():
            values = [value_of(argument) for argument in args]
            options = {name: value_of(argument) for name, argument in kwargs.items()}
            _check_same(called, value_of(result), operation(*values, **options))
        return result

    return either


def _check_same(called: str, value: Any, expected: Tensor) -> None:
    """Raise unless the rule has the value of the operation, up to half of the digits."""
    if not isinstance(value, Tensor) or value.shape != expected.shape:
        raise ValueError(
            f"the rule of {called} must return a tensor of shape {tuple(expected.shape)}, got "
            f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        )
    tolerance = torch.finfo(value.dtype).eps ** 0.5 if value.is_floating_point() else 0.0
    if not torch.allclose(value, expected.to(value), tolerance, tolerance, equal_nan=True):
        difference = (value - expected).abs().max().item()
        raise ValueError(
            f"the rule of {called} gives another value than {called} itself, by up to "
            f"{difference:.3g}; both must compute the same"
        )
