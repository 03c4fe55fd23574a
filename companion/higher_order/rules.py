"""The rule of each operation on tensors that carry a truncated power series.

PyTorch hands an operation on a ``Carrier`` to ``__torch_function__``, which looks its rule up by
its name. Linear operations work on each coefficient; products sum up pairs of coefficients;
elementary functions have a recurrence (series.py); functions made of straight pieces go on with
the slope that torch finds; and all else is written with those. What has no rule is refused.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.nn import functional as F

import companion.higher_order.series as series
from companion.higher_order.series import Series
from companion.internals import THRESHOLD, VERSION
from companion.source import line_of, source_at, users_place

Tensor = torch.Tensor
Rule = Callable[..., Any]

# As in torch, what takes several steps takes them in float32: the square of 300 is no float16.
_HALF = {torch.float16, torch.bfloat16}


class _Run:
    """One run of ``derivatives``: what it carries means nothing in another.

    ``f`` runs with gradients enabled, so that a ``no_grad`` of its own can be told. If they were
    not enabled outside, only the rules run without them, and nothing is recorded.
    """

    def __init__(self) -> None:
        self.records = torch.is_grad_enabled()
        self.in_rule = False


_RUN: ContextVar[_Run | None] = ContextVar("run", default=None)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The time in which the carriers that are made belong together."""
    before = _RUN.set(_Run())
    try:
        yield
    finally:
        _RUN.reset(before)


class Carrier(Tensor):
    """A tensor with the value of a series, which carries the series along."""

    carried: Series
    run: _Run | None

    @property
    def series(self) -> Series:
        if self.run is not _RUN.get():
            _refuse(
                "a tensor of another run of derivatives; runs cannot be nested, and what f keeps "
                "for later must be kept with detach()"
            )
        return self.carried

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # of a property
            name = getattr(func.__self__, "__name__", "a property")
            rule = _PROPERTIES.get(name)
        else:
            rule = _RULES.get(name)
        if rule is None:
            rule = _find(name)
        run = _RUN.get()
        in_rule = run is not None and run.in_rule
        if rule is not _plain and not in_rule and not torch.is_grad_enabled():
            _refuse(
                f"{name} under no_grad or in a custom Function, where torch does not "
                "differentiate; use detach() for what is constant"
            )
        if kwargs:
            if kwargs.get("inplace") or kwargs.get("out") is not None:
                _refuse(f"{name} in place; leave out inplace and out")
            args, kwargs = _ordered(args, {n: one for n, one in kwargs.items() if n != "out"})
        if run is None or run.records or in_rule:
            return rule(func, args, kwargs or {})
        run.in_rule = True
        try:
            with torch.no_grad():
                return rule(func, args, kwargs or {})
        finally:
            run.in_rule = False

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What comes here has gone around the rules, and would lose the series without a word."""
        _refuse(f"{func}, as torch.func and copies call it, has no rule; write it with operations")


def carry(coefficients: Series) -> Any:
    """A tensor that carries a series, whose coefficients are brought to one shape and dtype."""
    value = coefficients[0]
    shape, dtype = value.shape, value.dtype
    for k, c in enumerate(coefficients):
        if c is not None and (c.shape != shape or c.dtype != dtype):
            coefficients[k] = c.to(dtype).expand(shape)
    carrier: Any = value.as_subclass(Carrier)
    carrier.carried, carrier.run = coefficients, _RUN.get()
    return carrier


# ---- arguments


def _value(argument: Any) -> Any:
    """An argument with the values alone."""
    if type(argument) in (list, tuple):
        return [one.series[0] if isinstance(one, Carrier) else one for one in argument]
    return argument.series[0] if isinstance(argument, Carrier) else argument


def _ordered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The operands by position, and numpy's names of options in torch's words."""
    for place, names in enumerate((("input", "self", "x"), ("other", "exponent"))):
        for name in names:
            if len(args) == place and name in kwargs:
                args = (*args, kwargs.pop(name))
    words = {"axis": "dim", "keepdims": "keepdim"}
    return args, {words.get(name, name): one for name, one in kwargs.items()}


def _plain(func: Any, args: Any, kwargs: Any) -> Any:
    """What depends on the value alone: shapes, comparisons, random numbers of its shape."""
    return func(*_value(args), **{name: _value(one) for name, one in kwargs.items()})


def _carriers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Where the arguments carry a series: positions and names."""
    places: list[Any] = [i for i, one in enumerate(args) if isinstance(one, Carrier)]
    return places + [name for name, one in kwargs.items() if isinstance(one, Carrier)]


def _put(func: Any, args: Any, kwargs: Any, new: Mapping[Any, Any]) -> Any:
    """Call a function with some arguments replaced."""
    args = [new.get(i, one) for i, one in enumerate(args)]
    return func(*args, **{name: new.get(name, one) for name, one in kwargs.items()})


def _at(args: Any, kwargs: Any, place: Any) -> Series:
    carrier = args[place] if isinstance(place, int) else kwargs[place]
    result: Series = carrier.series
    return result


# ---- kinds of rules


def _elementwise(recurrence: Callable[[Series], Series]) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        if len(args) != 1 or kwargs:
            _refuse(f"{func.__name__} with more arguments than one")
        a = args[0].series
        if a[0].dtype in _HALF:
            return carry(recurrence(args[0].float().series)).to(a[0].dtype)
        return carry(recurrence(a))

    return rule


def _linear(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in its first argument, with whatever options."""
    if _carriers(args, kwargs) != [0]:
        _refuse(f"{func.__name__} with a series in another argument than the first")
    if func.__name__ == "view" and (isinstance(args[-1], torch.dtype) or "dtype" in kwargs):
        _refuse("view as another dtype; use to()")
    func = _ANY_STRIDES.get(func.__name__, func)
    return _linear_at(0, func, args, kwargs)


def _linear_at(place: Any, func: Any, args: Any, kwargs: Any) -> Any:
    results: list[Any] = [
        None if c is None else _put(func, args, kwargs, {place: c})
        for c in _at(args, kwargs, place)
    ]
    if isinstance(results[0], Tensor):
        if not (results[0].is_floating_point() or results[0].is_complex()):
            return results[0]  # whole numbers, whose derivative is zero
        return carry(results)
    parts = len(results[0])  # of a function such as split
    rows = [[None] * parts if r is None else r for r in results]
    return tuple(carry([*part]) for part in zip(*rows, strict=True))


def _like(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in the first argument and asks others for their shape alone."""
    first, *rest = args
    args = (first, *[_value(one) for one in rest])
    kwargs = {name: _value(one) for name, one in kwargs.items()}
    return (_linear if isinstance(first, Carrier) else _plain)(func, args, kwargs)


def _full(func: Any, args: Any, kwargs: Any) -> Any:
    if _carriers(args, kwargs) != [0]:
        _refuse(f"{func.__name__} with a series to fill in; use expand")
    return _plain(func, args, kwargs)


def _broadcast_tensors(func: Any, args: Any, kwargs: Any) -> Any:
    shape = torch.broadcast_shapes(*(t.shape for t in args))  # type: ignore[no-untyped-call]
    return tuple(one.expand(shape) for one in args)


def _diff(func: Any, args: Any, kwargs: Any) -> Any:
    if len(args) > 3 or {"prepend", "append"} & {*kwargs}:
        _refuse("diff with prepend or append; use torch.cat first")
    return _linear(func, args, kwargs)


def _of_lists(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in a list of tensors, such as ``cat``."""
    tensors, *rest = args if args else (kwargs.pop("tensors"),)
    (order,) = {len(one.series) - 1 for one in tensors if isinstance(one, Carrier)}
    lists = [
        one.series if isinstance(one, Carrier) else series.constant(one, order) for one in tensors
    ]
    results: Series = []
    for coefficients in zip(*lists, strict=True):
        if all(c is None for c in coefficients):
            results.append(None)
            continue
        filled = [
            torch.zeros_like(own[0]) if c is None else c
            for c, own in zip(coefficients, lists, strict=True)
        ]
        results.append(func(filled, *rest, **kwargs))
    return carry(results)


def _sloped(func: Any, args: Any, kwargs: Any) -> Any:
    """A function made of straight pieces: it goes on with the slopes that torch finds."""
    places = _carriers(args, kwargs)
    value = _plain(func, args, kwargs)
    carried = {place: _at(args, kwargs, place) for place in places}
    slopes = _slopes(
        func, args, kwargs, {place: c[0].expand(value.shape) for place, c in carried.items()}
    )
    result: Series = [value]
    for k in range(1, len(carried[places[0]])):
        total = None
        for place, slope in zip(places, slopes, strict=True):
            total = series.plus(total, series.times(carried[place][k], slope))
        result.append(total)
    return carry(result)


def _slopes(func: Any, args: Any, kwargs: Any, at: Mapping[Any, Tensor]) -> Sequence[Tensor]:
    """The gradients of the sum of a function by some arguments, which are constants."""
    if any(one.is_complex() for one in at.values()):
        _refuse(f"{func.__name__} of complex numbers, which has no derivative")
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {place: one.detach().clone().requires_grad_() for place, one in at.items()}
        others = {
            place: one.detach().clone()
            for place, one in (*enumerate(args), *kwargs.items())
            if isinstance(one, Tensor) and place not in leaves
        }
        result = _put(func, args, kwargs, {**others, **leaves})
        return torch.autograd.grad(result.sum(), list(leaves.values()))


def _chosen(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that picks elements along a dimension and says which, such as ``sort``."""
    operands = [one for one in args if isinstance(one, Tensor)]
    if len(operands) == 2:
        return _sloped({"max": torch.maximum, "min": torch.minimum}[func.__name__], operands, {})
    result = _plain(func, args, kwargs)
    if isinstance(result, Tensor):  # of all elements
        return _reduced(func, args, kwargs)
    values, indices = result
    dim = _dim(args, kwargs, 1 if func.__name__ not in ("kthvalue", "topk") else 2)
    keep = values.dim() == args[0].dim()
    picked = [values]
    for c in args[0].series[1:]:
        if c is not None:
            c = c.gather(dim, indices if keep else indices.unsqueeze(dim))
            c = c if keep else c.squeeze(dim)
        picked.append(c)
    return type(result)((carry(picked), indices))


def _dim(args: Any, kwargs: Any, place: int) -> int:
    found = kwargs.get("dim", args[place] if len(args) > place else -1)
    return int(found) if isinstance(found, int) else -1


def _reduced(func: Any, args: Any, kwargs: Any) -> Any:
    """The largest or smallest of many: where several are, torch's slopes say how they share."""
    carried, rest = args[0].series, args[1:]
    value = _plain(func, args, kwargs)
    (slope,) = _slopes(func, args, kwargs, {0: carried[0]})
    dims = kwargs.get("dim", rest[0] if rest else None)
    keep = kwargs.get("keepdim", rest[1] if len(rest) > 1 else False)
    dims = dims if dims is not None and dims != () else tuple(range(slope.dim()))
    return carry(
        [value] + [None if c is None else (c * slope).sum(dims, keepdim=keep) for c in carried[1:]]
    )


def _composed(function: Callable[..., Any]) -> Rule:
    """A function that is written with others that have rules."""
    signature = inspect.signature(function)

    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        try:
            dtype = signature.bind(*args, **kwargs).arguments.get("dtype")
        except TypeError:
            _refuse(f"{func.__name__} with these arguments")
        if args and isinstance(args[0], Tensor) and not args[0].numel():
            return _plain(func, args, kwargs)  # of no elements, and so a constant
        values = map(_value, (*args, *kwargs.values()))
        dtypes = {one.dtype for one in values if isinstance(one, Tensor)}
        if len(dtypes) > 1 or not dtypes <= _HALF:
            return function(*args, **kwargs)
        wide = {i: one.float() for i, one in enumerate(args) if isinstance(one, Tensor)}
        wide |= {name: one.float() for name, one in kwargs.items() if isinstance(one, Tensor)}
        return _put(function, args, kwargs, wide).to(dtype or dtypes.pop())

    return rule


# ---- arithmetic


def _both(a: Any, b: Any) -> tuple[Series, Series]:
    """Two operands, of which one at least carries a series, as series."""
    order = len((a if isinstance(a, Carrier) else b).series) - 1
    found = [
        one.series if isinstance(one, Carrier) else series.constant(one, order) for one in (a, b)
    ]
    return found[0], found[1]


def _add(sign: int = 1, swapped: bool = False) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        a, b = _both(*(reversed(args) if swapped else args))
        alpha = kwargs.get("alpha", 1)
        if isinstance(alpha, Carrier):
            _refuse(f"{func.__name__} with a series as alpha; use *")
        tail = series.add(a[1:], b[1:], sign * alpha)
        return carry([_plain(func, args, kwargs), *tail])

    return rule


def _multiply(func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args
    if isinstance(a, Carrier) and isinstance(b, Carrier):
        return carry(series.multiply(a.series, b.series))
    carrier, factor = (a, b) if isinstance(a, Carrier) else (b, a)
    return carry(series.scale(carrier.series, factor))


def _divide(swapped: bool = False) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("rounding_mode") is not None:
            return _plain(func, args, kwargs)  # a whole number, whose derivative is zero
        a, b = reversed(args) if swapped else args
        if not isinstance(b, Carrier):
            return carry([None if c is None else c / b for c in a.series])
        return carry(series.divide(*_both(a, b)))

    return rule


def _power(swapped: bool = False) -> Rule:
    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        base, exponent = reversed(args) if swapped else args
        value = _plain(func, args, kwargs)
        below = _as(value, base) if isinstance(base, Carrier) else []
        if not isinstance(exponent, Carrier):
            return carry([value, *_constant_power(below, exponent)[1:]])
        # e to the exponent times the logarithm, from the power that torch computes.
        powers = _as(value, exponent)
        if not isinstance(base, Carrier):
            base = torch.as_tensor(base, dtype=value.dtype, device=value.device)
            inside = series.scale(powers, torch.log(base).masked_fill(base == 0, 0))
            return carry(series.solve(inside, value, lambda y, k: y[k]))
        inside = series.multiply(powers, series.log(below))
        y = series.solve(inside, value, lambda y, k: y[k])
        if len(y) > 1:  # at 0, where there is no logarithm, the slope of torch
            slope = (powers[0] * below[0] ** (powers[0] - 1)).masked_fill(powers[0] == 0, 0)
            at_zero = series.times(below[1], slope)
            y[1] = torch.where(below[0] == 0, 0 if at_zero is None else at_zero, y[1])
        return carry(y)

    return rule


def _as(value: Tensor, carrier: Carrier) -> Series:
    """A series in the dtype of a value."""
    a = carrier.series
    if a[0].dtype == value.dtype:
        return a
    return [None if c is None else c.to(value.dtype) for c in a]


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
        for k, c in enumerate(series.power(base, int(n))):
            others = result[k]
            if c is not None or others is not None:
                zero: Any = 0
                here, there = (zero if one is None else one for one in (c, others))
                result[k] = torch.where(exponent == n, here, there)
    return result


def _linear_layer(func: Any, args: Any, kwargs: Any) -> Any:
    def apply(input: Any, weight: Any, bias: Any = None) -> Any:
        if isinstance(input, Carrier) and not isinstance(weight, Carrier) and input.dim():
            result = carry(series.stacked(input.series, lambda rows: F.linear(rows, weight)))
        else:
            result = _multilinear(func, (input, weight), {})
        return result if bias is None else result + bias

    return apply(*args, **kwargs)


def _matrix_product(func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args
    if isinstance(a, Carrier) and a.dim() and not isinstance(b, Carrier) and b.dim() == 2:
        return carry(series.stacked(a.series, lambda rows: torch.matmul(rows, b)))
    return _multilinear(func, args, kwargs)


def _convolution(func: Any, args: Any, kwargs: Any) -> Any:
    def apply(input: Any, weight: Any, bias: Any = None, *rest: Any, **options: Any) -> Any:
        result = _multilinear(func, (input, weight, None, *rest), options)
        return result if bias is None else result + bias.view(-1, *[1] * (weight.dim() - 2))

    return apply(*args, **kwargs)


def _multilinear(func: Any, args: Any, kwargs: Any) -> Any:
    """A function that is linear in each of the arguments that carry series."""
    places = _carriers(args, kwargs)
    if not places:
        return func(*args, **kwargs)
    if len(places) == 1:
        return _linear_at(places[0], func, args, kwargs)
    order = len(_at(args, kwargs, places[0])) - 1
    total: Series = [None] * (order + 1)
    for j, c in enumerate(_at(args, kwargs, places[0])):
        if c is not None:
            part = _put(func, args, kwargs, {places[0]: c}).series  # comes here again
            for k in range(order + 1 - j):
                total[j + k] = series.plus(total[j + k], part[k])
    return carry(total)


def _einsum(func: Any, args: Any, kwargs: Any) -> Any:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = operands[0]
    return _multilinear(torch.einsum, (equation, *operands), kwargs)


# ---- by branch, and in parts


def _where(func: Any, args: Any, kwargs: Any) -> Any:
    if len(args) == 1 and not kwargs:  # the places where it holds
        return _plain(func, args, kwargs)
    if len(args) != 3:
        _refuse("where with such arguments; use torch.where(condition, a, b)")
    a, condition, b = args
    if func is torch.where:
        a, condition = condition, a
    condition = _value(condition)
    if not isinstance(a, Carrier) and not isinstance(b, Carrier):
        return torch.where(condition, a, b)
    rows = zip(*_both(a, b), strict=True)
    return carry(
        [
            None
            if p is None and q is None
            else torch.where(condition, 0 if p is None else p, 0 if q is None else q)
            for p, q in rows
        ]
    )


def _filled(func: Any, args: Any, kwargs: Any) -> Any:
    """``masked_fill`` and its like: what is put in is constant."""
    carrier, *places = args
    value = kwargs["value"] if "value" in kwargs else places.pop()
    if not isinstance(carrier, Carrier) or isinstance(value, Carrier) or {*kwargs} - {"value"}:
        _refuse(f"{func.__name__} with such arguments; use torch.where")
    head, *tail = carrier.series
    return carry(
        [func(head, *places, value), *(None if c is None else func(c, *places, 0) for c in tail)]
    )


def _pad(func: Any, args: Any, kwargs: Any) -> Any:
    def apply(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
        if mode != "constant":
            return _linear(func, (input, pad, mode), {})
        head, *tail = input.series
        return carry(
            [
                func(head, pad, mode, value),
                *(None if c is None else func(c, pad, mode, 0) for c in tail),
            ]
        )

    return apply(*args, **kwargs)


def softmax(x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    x = x if dtype is None else x.to(dtype)
    e = torch.exp(x - _value(x).detach().amax(_checked(dim), keepdim=True))
    return e / e.sum(dim, keepdim=True)


def log_softmax(x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    x = x if dtype is None else x.to(dtype)
    return x - logsumexp(x, _checked(dim), True)


def _checked(dim: Any) -> int:
    if not isinstance(dim, int):
        _refuse("softmax without dim")
    return int(dim)


def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    most = _value(x).detach().amax(dim, keepdim=True)
    most = most.masked_fill(most.isinf(), 0)
    result = torch.exp(x - most).sum(dim, keepdim=True).log() + most
    return result if keepdim else result.squeeze(dim)


def var(
    x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = 1
) -> Any:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = 1 if unbiased else 0
    correction = 1 if correction is None else correction
    if x.is_complex():
        _refuse("var of complex numbers")
    dims = _dims(x, dim)
    count = math.prod(x.shape[d] for d in dims)
    far = x - x.mean(dims, keepdim=True)
    return (far * far).sum(dims, keepdim=keepdim) / max(count - correction, 0)


def _dims(x: Any, dim: Any) -> tuple[int, ...]:
    if isinstance(dim, int):
        return (dim,)
    return tuple(dim) if dim else tuple(range(x.dim()))


def std(*args: Any, **kwargs: Any) -> Any:
    return _root(var(*args, **kwargs))


def _root(x: Any) -> Any:
    """The square root whose first derivative at 0 is 0, as torch has it for ``norm``."""
    y = x.sqrt().series
    if len(y) > 1 and y[1] is not None:
        y[1] = y[1].masked_fill(y[0] == 0, 0)
    return carry(y)


def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    p = 2 if p in (None, "fro") else p
    if p not in (1, 2) or x.is_complex():
        _refuse(f"norm with p={p!r} of {x.dtype}")
    x, dims = x if dtype is None else x.to(dtype), _dims(x, dim)
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    return _root((x * x).sum(dims, keepdim=keepdim))


def linalg_norm(
    x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if ord not in (None, "fro") and (x.dim() if dim is None else len(_dims(x, dim))) != 1:
        _refuse(f"linalg.norm of a matrix with ord={ord!r}")
    return norm(x, ord, dim, keepdim, dtype)


def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    return norm(x, ord, dim, keepdim, dtype)


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    dims = tuple(range(-len(normalized_shape), 0))
    far = x - x.mean(dims, keepdim=True)
    result = far * ((far * far).mean(dims, keepdim=True) + eps).rsqrt()
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def prod(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else x.to(dtype)
    if dim is None or x.dim() == 0:
        x, dim, keepdim = x.flatten(), 0, False
    parts = list(x.unbind(dim))
    while len(parts) > 1:  # in pairs, which takes fewest products
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [p * q for p, q in pairs] + parts[len(parts) // 2 * 2 :]
    result = parts[0] if parts else torch.ones_like(_value(x).sum(dim))
    return result.unsqueeze(dim) if keepdim else result


def times_added(first: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``addmm`` and its like."""
    return beta * first + alpha * (a @ b)


def silu(x: Any, inplace: bool = False) -> Any:
    return x * torch.sigmoid(x)


def gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "tanh":
        # Half of 1 + tanh(u) is the sigmoid of 2u, which keeps the digits far below 0.
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * torch.special.erfc(x * -math.sqrt(0.5))


def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    start = F.softplus(_value(x), beta, threshold)
    curved = carry([start, *(series.softplus((x * beta).series)[1:])])
    curved = carry([start, *series.scale(curved.series, 1 / beta)[1:]])
    return torch.where(_value(x) * beta > threshold, x, curved)


def elu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0, x)))


def mse_loss(
    x: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    if (size_average, reduce, weight) != (None, None, None):
        _refuse("mse_loss with other options than reduction")
    square = (x - target) ** 2
    return square if reduction == "none" else square.sum() if reduction == "sum" else square.mean()


def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return _refuse("dropout in training; call eval() first") if training else x


def hypot(a: Any, b: Any) -> Any:
    return carry(series.sqrt((a * a + b * b).series, torch.hypot(_value(a), _value(b))))


# ---- the table


_PLAIN = """
eq ne lt le gt ge __eq__ isnan isinf isfinite isclose allclose equal size dim numel
stride storage_offset element_size get_device __len__ is_floating_point is_complex is_contiguous
is_signed is_nonzero is_inference argmax argmin argsort nonzero any all detach ones_like zeros_like
empty_like rand_like randn_like randint_like new_zeros new_ones new_empty __bool__ bool long int
short char byte floor ceil round trunc fix sign signbit floor_divide __floordiv__ __repr__
__format__ searchsorted bucketize logical_not logical_and logical_or count_nonzero result_type
__dir__ dim_order
""".split()
_LINEAR = """
neg negative positive sum mean reshape view flatten unflatten ravel permute transpose swapaxes
swapdims movedim moveaxis t adjoint squeeze unsqueeze expand broadcast_to repeat tile
repeat_interleave __getitem__ select narrow index_select gather take take_along_dim masked_select
diagonal diag diag_embed tril triu flip fliplr flipud roll rot90 cumsum trace split
split_with_sizes chunk tensor_split unbind unfold real imag conj conj_physical resolve_conj
resolve_neg contiguous clone float double half bfloat16 cpu sum_to_size view_as_real
view_as_complex avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d interpolate deg2rad
rad2deg
""".split()
# A coefficient may be laid out in another way than the value.
_ANY_STRIDES: dict[str, Callable[..., Any]] = {
    "view": Tensor.reshape,
    "view_as": Tensor.reshape_as,
    "view_as_complex": lambda c: torch.view_as_complex(c.contiguous()),
}
_LIKE = "to expand_as view_as reshape_as type_as".split()
_SLOPED = """
relu abs absolute maximum minimum fmax fmin clamp clip clamp_min clamp_max relu6 hardtanh
leaky_relu threshold hardsigmoid
""".split()
_RECURRENCES: dict[str, Callable[[Series], Series]] = {
    "exp": series.exp,
    "exp2": lambda a: series.exp(series.scale(a, math.log(2))),
    "expm1": series.expm1,
    "log": series.log,
    "log2": lambda a: series.scale(series.log(a), 1 / math.log(2)),
    "log10": lambda a: series.scale(series.log(a), 1 / math.log(10)),
    "log1p": series.log1p,
    "sqrt": series.sqrt,
    "rsqrt": lambda a: series.power(a, -0.5),
    "reciprocal": series.reciprocal,
    "square": series.square,
    "sin": lambda a: series.sincos(a)[0],
    "cos": lambda a: series.sincos(a)[1],
    "tan": series.tan,
    "sinh": lambda a: series.sincos(a, 1)[0],
    "cosh": lambda a: series.sincos(a, 1)[1],
    "tanh": series.tanh,
    "asin": series.asin,
    "acos": series.acos,
    "atan": series.atan,
    "asinh": series.asinh,
    "acosh": series.acosh,
    "atanh": series.atanh,
    "sigmoid": series.sigmoid,
    "logsigmoid": series.logsigmoid,
    "erf": series.erf,
    "erfc": series.erfc,
}
_ALIASES = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
    THRESHOLD: "threshold",
}
_COMPOSED: dict[str, Callable[..., Any]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "var": var,
    "std": std,
    "norm": norm,
    "linalg_norm": linalg_norm,
    "linalg_vector_norm": vector_norm,
    "layer_norm": layer_norm,
    "prod": prod,
    "silu": silu,
    "gelu": gelu,
    "softplus": softplus,
    "elu": elu,
    "mish": lambda x, inplace=False: x * torch.tanh(F.softplus(x)),
    "softsign": lambda x: x / (1 + x.abs()),
    "tanhshrink": lambda x: x - torch.tanh(x),
    "mse_loss": mse_loss,
    "dropout": dropout,
    "lerp": lambda a, b, weight: a + weight * (b - a),
    "addcmul": lambda a, p, q, value=1: a + value * p * q,
    "addcdiv": lambda a, p, q, value=1: a + value * p / q,
    **dict.fromkeys("addmm baddbmm addmv".split(), times_added),
    "hypot": hypot,
    "logit": lambda x: torch.log(x) - torch.log1p(-x),
}
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_PLAIN, _plain),
    **dict.fromkeys(_LINEAR, _linear),
    **dict.fromkeys(_LIKE, _like),
    "broadcast_tensors": _broadcast_tensors,
    "diff": _diff,
    **dict.fromkeys("full_like new_full".split(), _full),
    **dict.fromkeys(_SLOPED, _sloped),
    **{name: _elementwise(recurrence) for name, recurrence in _RECURRENCES.items()},
    "add": _add(),
    **dict.fromkeys("sub subtract".split(), _add(-1)),
    **dict.fromkeys("__rsub__ rsub".split(), _add(-1, swapped=True)),
    **dict.fromkeys("mul multiply".split(), _multiply),
    **dict.fromkeys("div divide true_divide".split(), _divide()),
    "__rdiv__": _divide(swapped=True),
    "pow": _power(),
    "__rpow__": _power(swapped=True),
    "matmul": _matrix_product,
    **dict.fromkeys(
        "mm bmm mv dot vdot inner outer ger kron cross tensordot".split(), _multilinear
    ),
    **dict.fromkeys("conv1d conv2d conv3d".split(), _convolution),
    **dict.fromkeys("conv_transpose1d conv_transpose2d".split(), _convolution),
    "linear": _linear_layer,
    "einsum": _einsum,
    **dict.fromkeys("cat concat concatenate stack hstack vstack dstack".split(), _of_lists),
    "where": _where,
    **dict.fromkeys("masked_fill index_fill".split(), _filled),
    "pad": _pad,
    **dict.fromkeys("max min median sort topk kthvalue".split(), _chosen),
    **dict.fromkeys("amax amin".split(), _reduced),
    **{name: _composed(function) for name, function in _COMPOSED.items()},
}
_PROPERTIES: dict[str, Rule] = {
    **dict.fromkeys("T mT H mH real imag".split(), _linear),
    **dict.fromkeys(
        "shape dtype device layout ndim requires_grad is_leaf data grad grad_fn is_sparse "
        "is_nested is_quantized is_cpu is_cuda is_meta itemsize nbytes output_nr".split(),
        _plain,
    ),
    VERSION: _plain,
}
_LEAVES = "item tolist numpy __float__ __int__ __complex__ __index__ __array__ __dlpack__".split()


def _find(name: str) -> Rule:
    """The rule of a function under another name; or an error that says what to do."""
    short = name.removeprefix("special_")
    short = _ALIASES.get(short, short)
    if short in _RULES:
        return _RULES[short]
    if name in _LEAVES:
        _refuse(f"{name.strip('_')}() leaves torch, and with it the derivatives; stay with tensors")
    dunder = name.startswith("__i") and name.endswith("__")
    if name == "__setitem__" or dunder or (name.endswith("_") and not name.endswith("__")):
        _refuse(f"{name} works in place; write it as y = y + 1 or with torch.where")
    _refuse(
        f"{name} has no rule; write it with operations that have one, or differentiate a graph "
        "with nth_derivative"
    )


def _refuse(what: str) -> NoReturn:
    place = users_place()
    if place is None:
        raise NotImplementedError(f"derivatives: {what} (place unknown)")
    source = source_at(*place)
    line = line_of(source.file, source.line).strip()
    at = f"{Path(source.file).name}:{source.line}" + (f": {line}" if line else "")
    raise NotImplementedError(f"derivatives: {what} ({at})")
