"""The kinds of rules: what an operation does to the series that its arguments carry.

Linear operations work on each coefficient; products sum up products of coefficients; elementary
functions have a recurrence (series.py); functions made of straight pieces go on with the slope that
torch finds. Which function of torch has which rule stands in table.py.

A rule takes what ``__torch_function__`` takes: a function of torch, its args and its kwargs. A slot
is where an argument stands: a position in args, or a name in kwargs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch.nn import functional as F

import companion.higher_order.series as series
from companion.higher_order.carrier import (
    Carrier,
    Rule,
    broadcasting,
    carrier_of,
    carry,
    elementary,
    plain,
    refuse,
    several_variables,
    value_of,
)
from companion.higher_order.deferred import Bend, Collapsed, Deferred, Linear, in_shape_of
from companion.higher_order.partials import Later
from companion.higher_order.series import Coefficient, Series
from companion.internals import is_wrapped, nothing_hidden

Tensor = torch.Tensor
Slot = int | str

# As in torch, what takes several steps takes them in float32: the square of 300 is no float16.
HALF = {torch.float16, torch.bfloat16}


# ---- arguments


def carrier_slots(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The slots whose arguments carry a series."""
    arguments = (*enumerate(args), *kwargs.items())
    return [slot for slot, argument in arguments if isinstance(argument, Carrier)]


def series_in(slot: Slot, args: Any, kwargs: Any) -> Series:
    carrier: Carrier = args[slot] if isinstance(slot, int) else kwargs[slot]
    return carrier.series


def call_with(func: Any, args: Any, kwargs: Any, new: Mapping[Any, Any]) -> Any:
    """Call a function with the arguments in some slots replaced."""
    args = [new.get(i, argument) for i, argument in enumerate(args)]
    return func(*args, **{key: new.get(key, argument) for key, argument in kwargs.items()})


# ---- element by element


def elementwise(
    recurrence: Callable[[Series], Series], curve: Callable[[Tensor], Series] | None = None
) -> Rule:
    """The rule of an elementary function; ``curve`` is its own series of order 2, if known."""

    def curve_of(value: Tensor, order: int) -> Series:
        if order == 2 and curve is not None:
            return curve(value)
        return series.curve(recurrence, value, order)

    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        if len(args) != 1 or kwargs:
            refuse(f"{func.__name__} with more arguments than one")
        dtype = value_of(args[0]).dtype
        x = args[0].float() if dtype in HALF else args[0]
        if is_bent_along_many(x):
            result = bent_along_many(curve_of, x)
        else:
            result = carry(elementary(recurrence, x.narrow_series, curve_of))
        return result.to(dtype) if dtype in HALF else result

    return broadcasting(rule)


def is_bent_along_many(x: Any) -> bool:
    """Whether it is a series that the chain rule of order 2 goes through at once.

    Such a one is that of a Laplacian whose directions are not hidden, and that of a mixed
    derivative by two coordinates.
    """
    if not isinstance(x, Carrier) or x.run is None or x.run.level:
        return False
    if x.run.partials is not None:
        return x.run.partials.order == 2
    value, first, *_ = (*x.series_or_deferred, None)
    if not x.run.collapses or first is None:
        return False
    return isinstance(first, Deferred) or first.dim() > value.dim()


def bent_along_many(curve: Callable[[Tensor, int], Series], x: Any) -> Any:
    """An elementary function of such a series, by the chain rule.

    That is much less work than its recurrence along each direction. ``curve`` gives the series of
    the function itself at a value, up to an order.
    """
    a = x.series_or_deferred
    value, slope, half = curve(a[0], 2)
    before = a[1]
    if not isinstance(before, Collapsed):
        a = x.series
        if x.run.partials is None:
            before = Collapsed(series.narrow(a[1], a[0].dim()), a[2])
        else:
            before = Collapsed(series.filled(a[:3])[1:], a[3], crossed=True)  # of both variables
    behind = before.followed_by(Bend(slope, half))
    return carrier_of([value, *[behind] * (len(a) - 1)])


# ---- linear in one argument

# A coefficient may be laid out in another way than the value, and some have no rule of vmap.
_FOR_COEFFICIENTS: dict[str, Callable[..., Any]] = {
    "moveaxis": torch.movedim,
    "take": lambda c, index: c.reshape(-1)[index],
    "view": Tensor.reshape,
    "view_as": Tensor.reshape_as,
    "view_as_complex": lambda c: torch.view_as_complex(c.contiguous()),
}


def linear(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in its first argument, with whatever options."""
    if carrier_slots(args, kwargs) != [0]:
        refuse(f"{func.__name__} with a series in another argument than the first")
    if func.__name__ == "view" and (isinstance(args[-1], torch.dtype) or "dtype" in kwargs):
        refuse("view as another dtype; use to()")
    func = _FOR_COEFFICIENTS.get(func.__name__, func)
    return _linear_in(0, func, args, kwargs)


def _linear_in(slot: Slot, func: Any, args: Any, kwargs: Any) -> Any:
    def apply(c: Any) -> Any:
        return call_with(func, args, kwargs, {slot: c})

    carrier = args[slot] if isinstance(slot, int) else kwargs[slot]
    value, *changes = carrier.series_or_deferred
    if changes and isinstance(changes[0], Later) and not _holds_tensors(slot, args, kwargs):
        result = apply(value)
        if isinstance(result, Tensor) and (result.is_floating_point() or result.is_complex()):
            behind = changes[0].followed_by(lambda c: apply(in_shape_of(value, c)))
            return carrier_of([result, *[behind] * len(changes)])
    results = series.each(series_in(slot, args, kwargs), apply)
    if not isinstance(results[0], Tensor):
        return _carry_parts(results)
    if not (results[0].is_floating_point() or results[0].is_complex()):
        return results[0]  # whole numbers, whose derivative is zero
    return carry(results)


def _holds_tensors(slot: Slot, args: Any, kwargs: Any) -> bool:
    """Whether another argument is a tensor, which ``f`` may change later, or has one in it."""
    others = [x for i, x in (*enumerate(args), *kwargs.items()) if i != slot]
    parts = [part for x in others for part in (x if isinstance(x, list | tuple) else (x,))]
    return any(isinstance(part, Tensor) for part in parts)


def _carry_parts(results: list[Any]) -> tuple[Any, ...]:
    """The parts that a function such as ``split`` returns, from the parts of each coefficient."""
    count = len(results[0])
    rows = [[None] * count if parts is None else parts for parts in results]
    return tuple(carry([*part]) for part in zip(*rows, strict=True))


def like(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in the first argument and asks others for their shape alone."""
    first, *rest = args
    args = (first, *[value_of(argument) for argument in rest])
    kwargs = {key: value_of(argument) for key, argument in kwargs.items()}
    return (linear if isinstance(first, Carrier) else plain)(func, args, kwargs)


def full(func: Any, args: Any, kwargs: Any) -> Any:
    if carrier_slots(args, kwargs) != [0]:
        refuse(f"{func.__name__} with a series to fill in; use expand")
    return plain(func, args, kwargs)


def broadcast_tensors(func: Any, args: Any, kwargs: Any) -> Any:
    shape = torch.broadcast_shapes(*(t.shape for t in args))  # type: ignore[no-untyped-call]
    return tuple(tensor.expand(shape) for tensor in args)


def diff(func: Any, args: Any, kwargs: Any) -> Any:
    if len(args) > 3 or {"prepend", "append"} & {*kwargs}:
        refuse("diff with prepend or append; use torch.cat first")
    return linear(func, args, kwargs)


def of_lists(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in a list of tensors, such as ``cat``."""
    tensors, *rest = args if args else (kwargs.pop("tensors"),)
    lists = _as_series(tensors)
    values = [a[0] for a in lists]

    def apply(coefficients: tuple[Coefficient, ...]) -> Coefficient:
        if all(c is None for c in coefficients):
            return None
        pairs = zip(coefficients, values, strict=True)
        known = [torch.zeros_like(value) if c is None else c for c, value in pairs]
        result: Tensor = func(known, *rest, **kwargs)
        return result

    return carry([apply(coefficients) for coefficients in zip(*lists, strict=True)])


def _as_series(operands: Sequence[Any]) -> list[Series]:
    """Operands, of which at least one carries a series, as series of one order."""
    carried = [x.series if isinstance(x, Carrier) else None for x in operands]
    order = len(next(filter(None, carried))) - 1
    pairs = zip(operands, carried, strict=True)
    return [series.constant(x, order) if a is None else a for x, a in pairs]


def filled(func: Any, args: Any, kwargs: Any) -> Any:
    """``masked_fill`` and ``index_fill``, which put in a constant."""
    carrier, *where = args
    value = kwargs["value"] if "value" in kwargs else where.pop()
    if not isinstance(carrier, Carrier) or isinstance(value, Carrier) or {*kwargs} - {"value"}:
        refuse(f"{func.__name__} with such arguments; use torch.where")
    return _put_constant(carrier, value, lambda c, constant: func(c, *where, constant))


def pad(func: Any, args: Any, kwargs: Any) -> Any:
    def apply(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
        if mode != "constant":
            return linear(func, (input, pad, mode), {})
        return _put_constant(input, value, lambda c, constant: func(c, pad, mode, constant))

    return apply(*args, **kwargs)


def _put_constant(carrier: Carrier, constant: Any, put: Callable[[Tensor, Any], Tensor]) -> Any:
    """Put a constant into the value, and so 0 into the other coefficients."""
    value, *others = carrier.series
    return carry([put(value, constant), *series.each(others, lambda c: put(c, 0))])


# ---- made of straight pieces


def sloped(func: Any, args: Any, kwargs: Any) -> Any:
    """A function made of straight pieces: it goes on with the slopes that torch finds."""
    value = plain(func, args, kwargs)
    carried = {slot: series_in(slot, args, kwargs) for slot in carrier_slots(args, kwargs)}
    points = {slot: a[0].expand(value.shape) for slot, a in carried.items()}
    slopes = _slopes(func, args, kwargs, points)
    changes = [series.scale(carried[slot][1:], slope) for slot, slope in slopes.items()]
    return carry([value, *reduce(series.add, changes)])


def _slopes(func: Any, args: Any, kwargs: Any, points: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """The gradients of the sum of a function by the arguments in some slots, as constants."""
    if any(point.is_complex() for point in points.values()):
        refuse(f"{func.__name__} of complex numbers, which has no derivative")
    tensors = (*points.values(), *args, *kwargs.values())
    if any(isinstance(x, Tensor) and is_wrapped(value_of(x)) for x in tensors):
        refuse(f"{func.__name__} inside torch.vmap or torch.func; call derivatives outside of it")
    with nothing_hidden(), torch.inference_mode(False), torch.enable_grad():
        leaves = {slot: point.detach().clone().requires_grad_() for slot, point in points.items()}
        others = {
            slot: argument.detach().clone()
            for slot, argument in (*enumerate(args), *kwargs.items())
            if isinstance(argument, Tensor) and slot not in leaves
        }
        result = call_with(func, args, kwargs, {**others, **leaves})
        gradients = torch.autograd.grad(result.sum(), list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))


def chosen(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that picks elements along a dimension and says which, such as ``sort``."""
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    if len(tensors) == 2:
        return sloped({"max": torch.maximum, "min": torch.minimum}[func.__name__], tensors, {})
    result = plain(func, args, kwargs)
    if isinstance(result, Tensor):  # of all elements
        return reduced(func, args, kwargs)
    values, indices = result
    dim = _dim(args, kwargs, 1 if func.__name__ not in ("kthvalue", "topk") else 2)
    has_dim = values.dim() == args[0].dim()

    def pick(c: Tensor) -> Tensor:
        if has_dim:
            return c.gather(dim, indices)
        return c.gather(dim, indices.unsqueeze(dim)).squeeze(dim)

    return type(result)((carry([values, *series.each(args[0].series[1:], pick)]), indices))


def _dim(args: Any, kwargs: Any, position: int) -> int:
    found = kwargs.get("dim", args[position] if len(args) > position else -1)
    return int(found) if isinstance(found, int) else -1


def reduced(func: Any, args: Any, kwargs: Any) -> Any:
    """The largest or smallest of many: where several are, torch's slopes say how they share."""
    (value, *others), rest = args[0].series, args[1:]
    result = plain(func, args, kwargs)
    slope = _slopes(func, args, kwargs, {0: value})[0]
    dims = kwargs.get("dim", rest[0] if rest else None)
    keepdim = kwargs.get("keepdim", rest[1] if len(rest) > 1 else False)
    dims = dims if dims is not None and dims != () else tuple(range(slope.dim()))
    return carry([result, *series.each(others, lambda c: (c * slope).sum(dims, keepdim=keepdim))])


MAX_POOLS = {
    "max_pool1d": (1, F.max_pool1d_with_indices),
    "max_pool2d": (2, F.max_pool2d_with_indices),
    "max_pool3d": (3, F.max_pool3d_with_indices),
}


def max_pool(func: Any, args: Any, kwargs: Any) -> Any:
    """A function such as ``max_pool2d`` goes on with the elements that torch picks."""
    rank, with_indices = MAX_POOLS[func.__name__]
    value, indices = plain(with_indices, args, {**kwargs, "return_indices": True})

    def pick(c: Tensor) -> Tensor:
        return c.flatten(-rank).gather(-1, indices.flatten(-rank)).view_as(value)

    return carry([value, *series.each(args[0].series[1:], pick)])


def where(func: Any, args: Any, kwargs: Any) -> Any:
    """``torch.where(condition, a, b)`` and ``a.where(condition, b)``."""
    if len(args) == 1 and not kwargs:  # the indices where it holds
        return plain(func, args, kwargs)
    if len(args) != 3:
        refuse("where with such arguments; use torch.where(condition, a, b)")
    condition, a, b = args if func is torch.where else (args[1], args[0], args[2])
    condition = value_of(condition)
    if not isinstance(a, Carrier) and not isinstance(b, Carrier):
        return torch.where(condition, a, b)
    return carry(_pick(condition, *_as_series((a, b))))


def _pick(condition: Tensor, a: Series, b: Series) -> Series:
    """The coefficients of the one series where a condition holds, and of the other elsewhere."""
    return [
        None
        if p is None and q is None
        else torch.where(condition, 0 if p is None else p, 0 if q is None else q)
        for p, q in zip(a, b, strict=True)
    ]


# ---- arithmetic


def add(sign: int = 1, swapped: bool = False) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        a, b = _as_series(args[::-1] if swapped else args)
        alpha = kwargs.get("alpha", 1)
        if isinstance(alpha, Carrier):
            refuse(f"{func.__name__} with a series as alpha; use *")
        return carry([plain(func, args, kwargs), *series.add(a[1:], b[1:], sign * alpha)])

    return rule


def multiply(func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args
    if isinstance(a, Carrier) and isinstance(b, Carrier):
        return carry(product(a.series, b.series))
    slot = 0 if isinstance(a, Carrier) else 1
    if not isinstance(args[1 - slot], Tensor):
        return _linear_in(slot, func, args, kwargs)
    return carry(series.scale(args[slot].series, args[1 - slot]))


def product(a: Series, b: Series) -> Series:
    partials = several_variables()
    return partials.multiply(a, b) if partials else series.multiply(a, b)


def divide(swapped: bool = False) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("rounding_mode") is not None:
            return plain(func, args, kwargs)  # a whole number, whose derivative is zero
        a, b = args[::-1] if swapped else args
        if not isinstance(b, Carrier):
            return carry(series.each(a.series, lambda c: c / b))
        if several_variables():
            quotient = a * carry(elementary(series.reciprocal, b.series))
            return carry([plain(func, args, kwargs), *quotient.series_or_deferred[1:]])
        return carry(series.divide(*_as_series((a, b))))

    return rule


def power(swapped: bool = False) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        base, exponent = args[::-1] if swapped else args
        value = plain(func, args, kwargs)
        if not isinstance(exponent, Carrier):
            found = elementary(lambda a: _constant_power(a, exponent), _cast(base, value))
            return carry([value, *found[1:]])
        if not isinstance(base, Carrier):
            return carry(_exponential(base, _cast(exponent, value), value))
        return carry(_power_of_both(_cast(base, value), _cast(exponent, value), value))

    return rule


def _cast(carrier: Carrier, value: Tensor) -> Series:
    """A series in the dtype of a value."""
    a = carrier.series
    return a if a[0].dtype == value.dtype else series.each(a, lambda c: c.to(value.dtype))


def _constant_power(base: Series, exponent: Any) -> Series:
    if not isinstance(exponent, Tensor):
        return series.power(base, exponent.item() if hasattr(exponent, "item") else exponent)
    if exponent.dim() == 0 and not exponent.requires_grad:
        return series.power(base, exponent.item())
    exponent = exponent.to(base[0].dtype)  # the recurrence computes with it
    if exponent.is_complex() or exponent.requires_grad:
        return series.power(base, exponent)
    # Each whole number by itself, which is right at 0 as well.
    whole = (exponent % 1 == 0) & (exponent.abs() <= series.WHOLE)
    result = [None] * len(base) if whole.all() else series.power(base, exponent)
    for n in {*exponent[whole].tolist()}:
        result = _pick(exponent == n, series.power(base, int(n)), result)
    return result


def _exponential(base: Any, exponent: Series, value: Tensor) -> Series:
    """A constant to the power of a series: e to the exponent times the logarithm."""
    base = torch.as_tensor(base, dtype=value.dtype, device=value.device)
    inside = series.scale(exponent, torch.log(base).masked_fill(base == 0, 0))
    return elementary(lambda a: series.solve(a, value, lambda y, k: y[k]), inside)


def _power_of_both(base: Series, exponent: Series, value: Tensor) -> Series:
    """A series to the power of a series: e to the exponent times the logarithm."""
    inside = carry(product(exponent, carry(elementary(series.log, base)).series)).series
    y: Series = carry(
        elementary(lambda a: series.solve(a, value, lambda y, k: y[k]), inside)
    ).series
    if len(y) > 1:  # at 0, where there is no logarithm, the slope of torch
        slope = (exponent[0] * base[0] ** (exponent[0] - 1)).masked_fill(exponent[0] == 0, 0)
        at_zero = series.times(base[1], slope)
        y[1] = torch.where(base[0] == 0, 0 if at_zero is None else at_zero, y[1])
    return y


# ---- products of matrices and the like


def multilinear(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in each of the arguments that carry series."""
    slots = carrier_slots(args, kwargs)
    if not slots:
        return func(*args, **kwargs)
    if len(slots) == 1:
        return _linear_in(slots[0], func, args, kwargs)
    factors = [series_in(slot, args, kwargs) for slot in slots]
    total: Series = [None] * len(factors[0])
    for k in range(len(total)):
        for numbers in _splits(k, len(slots)):
            new = {slot: a[j] for slot, a, j in zip(slots, factors, numbers, strict=True)}
            if all(c is not None for c in new.values()):
                total[k] = series.plus(total[k], call_with(func, args, kwargs, new))
    return carry(total)


def _splits(k: int, count: int) -> list[tuple[int, ...]]:
    """The numbers of coefficients, one of each of some factors, whose product has the number k."""
    partials = several_variables()
    found: list[tuple[tuple[int, ...], int]] = [((), k)]
    for _ in range(count - 1):
        found = [
            ((*numbers, j), rest - j)
            for numbers, rest in found
            for j in (partials.below[rest] if partials else range(rest + 1))
        ]
    return [(*numbers, rest) for numbers, rest in found]


def matmul(func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args
    if isinstance(a, Carrier) and a.dim() and not isinstance(b, Carrier) and b.dim() == 2:
        return carry(series.stacked(a.series, lambda rows: torch.matmul(rows, b)))
    return multilinear(func, args, kwargs)


@broadcasting
def linear_layer(func: Any, args: Any, kwargs: Any) -> Any:
    return _linear_layer(*args, **kwargs)


def _linear_layer(input: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(input, Carrier) and not isinstance(weight, Carrier) and input.value.dim():
        a = input.series_or_deferred
        if len(a) > 1 and isinstance(a[1], Deferred) and not isinstance(bias, Carrier):
            behind = a[1].followed_by(Linear(F.linear, weight))
            return carrier_of([F.linear(a[0], weight, bias), *[behind] * (len(a) - 1)])
        a, rank = input.series, input.value.dim()
        changes = [None if c is None else series.narrow(c, rank) for c in a[1:]]
        rows = series.stacked([a[0], *changes], lambda c: F.linear(c, weight))
        if bias is not None and not isinstance(bias, Carrier) and bias.dim() <= rank:
            rows[0] = rows[0] + bias
            bias = None
        result = carry(rows)
    else:
        result = multilinear(F.linear, (input, weight), {})
    return result if bias is None else result + bias


def convolution(func: Any, args: Any, kwargs: Any) -> Any:
    def apply(input: Any, weight: Any, bias: Any = None, *rest: Any, **options: Any) -> Any:
        result = multilinear(func, (input, weight, None, *rest), options)
        return result if bias is None else result + bias.view(-1, *[1] * (weight.dim() - 2))

    return apply(*args, **kwargs)


def einsum(func: Any, args: Any, kwargs: Any) -> Any:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = operands[0]
    return multilinear(torch.einsum, (equation, *operands), kwargs)
