"""A rule of Taylor mode for an operation of one's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from companion.higher_order.carrier import Carrier, value_of
from companion.higher_order.series import Coefficient

Tensor = torch.Tensor


def taylor_rule(
    operation: Callable[..., Tensor], same: Callable[..., Tensor]
) -> Callable[..., Any]:
    """Give an operation of one's own a rule, so that ``derivatives`` can go through it.

    A custom Function, an operation of a library or of C++, and a compiled function have no rule.
    ``same`` computes the same with operations that have one. The function that comes back calls
    ``operation``, and ``same`` only where ``derivatives``, ``laplacian`` or ``mixed`` run.

    Args:
        operation: such as ``Cube.apply``. It takes tensors, lists of them and more, and returns a
            tensor or several.
        same: takes the same arguments, and returns as many.

    Returns:
        A function to call in place of ``operation``. In ``derivatives`` it raises a ValueError
        where the two have different values at this ``x``, or different first derivatives, if
        torch can differentiate ``operation``. The higher ones rest on ``same`` alone.

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
        arguments = [part for argument in (*args, *kwargs.values()) for part in _parts(argument)]
        if not any(isinstance(argument, Carrier) for argument in arguments):
            return operation(*args, **kwargs)
        result = same(*args, **kwargs)
        _check_same(called, operation, result, args, kwargs)
        return result

    return either


def _parts(value: Any) -> list[Any]:
    """What is in a list or tuple; anything else is one part."""
    return [*value] if isinstance(value, list | tuple) else [value]


def _check_same(called: str, operation: Any, result: Any, args: Any, kwargs: Any) -> None:
    """Raise unless the rule has the value of the operation, and its slope where torch knows it."""
    starts: list[tuple[Tensor, Coefficient]] = []

    def constant(part: Any) -> Any:
        if not isinstance(part, Carrier):
            return part
        leaf = part.value.detach().clone().requires_grad_()
        starts.append((leaf, _first_change(part)))
        return leaf.clone()  # which the operation may change in place

    def constants(argument: Any) -> Any:
        if isinstance(argument, list):
            return [constant(part) for part in argument]
        return tuple(map(constant, argument)) if isinstance(argument, tuple) else constant(argument)

    with torch.inference_mode(False), torch.enable_grad():
        options = {name: constants(argument) for name, argument in kwargs.items()}
        expected = operation(*map(constants, args), **options)
        several = isinstance(expected, list | tuple)
        if several != isinstance(result, list | tuple) or (
            several and len(result) != len(expected)
        ):
            _refuse_result(called, result, expected)
        ours, theirs = _parts(result), _parts(expected)
        for part, wanted in zip(ours, theirs, strict=True):
            _check_value(called, value_of(part), wanted)
        for part, wanted in zip(ours, theirs, strict=True):
            if isinstance(wanted, Tensor) and wanted.requires_grad:
                _check_slope(called, part, wanted, starts)


def _refuse_result(called: str, result: Any, expected: Any) -> NoReturn:
    def described(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"a tensor of shape {tuple(value.shape)}"
        return f"a {type(value).__name__}" + (
            f" of {len(value)}" if isinstance(value, list | tuple) else ""
        )

    raise ValueError(
        f"the rule of {called} must return {described(expected)}, as {called} does, got "
        f"{described(result)}"
    )


def _check_value(called: str, value: Any, expected: Any) -> None:
    """Raise unless they are equal up to half of the digits."""
    if not isinstance(value, Tensor) and not isinstance(expected, Tensor):
        return  # they carry no derivative
    tensors = isinstance(value, Tensor) and isinstance(expected, Tensor)
    if not tensors or value.shape != expected.shape:
        _refuse_result(called, value, expected)
    tolerance = _tolerance(value)
    if not torch.allclose(value, expected.to(value), tolerance, tolerance, equal_nan=True):
        difference = (value - expected).abs().max().item()
        raise ValueError(
            f"the rule of {called} gives another value than {called} itself, by up to "
            f"{difference:.3g}; both must compute the same"
        )


def _check_slope(
    called: str, result: Any, expected: Tensor, starts: list[tuple[Tensor, Coefficient]]
) -> None:
    """Raise unless a weighted sum of first coefficients is what ``backward`` makes of it."""
    generator = torch.Generator().manual_seed(0)  # the global one is the caller's
    weights = torch.rand(expected.shape, generator=generator).to(expected) + 0.5
    leaves = [leaf for leaf, _ in starts]
    try:
        gradients = torch.autograd.grad(
            expected, leaves, weights, retain_graph=True, allow_unused=True
        )
    except RuntimeError:
        return  # torch cannot differentiate the operation, and its rule is there for that
    # Both sides of one equation: the weights times what comes out, and the gradients times what
    # goes in. To both belongs the size of their summands.
    changes = [_first_change(result), *(change for _, change in starts)]
    products = [
        (sign * factor.conj() * change).detach().real.double()
        for sign, factor, change in zip(
            (1, *[-1] * len(leaves)), (weights, *gradients), changes, strict=True
        )
        if factor is not None and change is not None
    ]
    tolerance = _tolerance(expected)
    size: Any = tolerance * expected.detach().abs().double().sum()  # of what rounding leaves
    size += sum(product.abs().sum() for product in products)
    difference = abs(sum(product.sum() for product in products))
    if size < math.inf and difference > tolerance * size:
        raise ValueError(
            f"the rule of {called} has another first derivative than the backward of {called}; "
            "both must compute the same"
        )


def _first_change(result: Any) -> Coefficient:
    """The first coefficient of what carries a series, along the first direction."""
    if not isinstance(result, Carrier) or len(result.series) == 1:
        return None
    value: Tensor = result.value
    change: Coefficient = result.series[1]
    return change[0] if change is not None and change.dim() > value.dim() else change


def _tolerance(value: Tensor) -> float:
    floating = value.is_floating_point() or value.is_complex()
    return torch.finfo(value.dtype).eps ** 0.5 if floating else 0.0
