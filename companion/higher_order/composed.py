"""Functions of torch that are written with others that have rules."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import companion.higher_order.series as series
from companion.higher_order.carrier import (
    Carrier,
    Rule,
    Run,
    broadcasting,
    carry,
    elementary,
    plain,
    refuse,
    running,
    value_of,
)
from companion.higher_order.rules import HALF, bent_along_many, call_with, is_bent_along_many
from companion.higher_order.series import Series
from companion.naming import in_short, variables_of
from companion.source import calls_around

Tensor = torch.Tensor


def composed(function: Callable[..., Any]) -> Rule:
    """The rule that calls a function of this file, in float32 if all tensors are in half."""
    signature = inspect.signature(function)

    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        dtype = _bound(signature, func, args, kwargs).get("dtype")
        if args and isinstance(args[0], Tensor) and not args[0].numel():
            return plain(func, args, kwargs)  # it has no elements, and so it is constant
        tensors = {
            slot: argument
            for slot, argument in (*enumerate(args), *kwargs.items())
            if isinstance(argument, Tensor)
        }
        dtypes = {value_of(tensor).dtype for tensor in tensors.values()}
        if len(dtypes) > 1 or not dtypes <= HALF:
            return function(*args, **kwargs)
        wide = {slot: tensor.float() for slot, tensor in tensors.items()}
        return call_with(function, args, kwargs, wide).to(dtype or dtypes.pop())

    return rule


def _bound(signature: inspect.Signature, func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError:
        refuse(f"{func.__name__} with these arguments")


def pointwise(function: Callable[..., Any]) -> Rule:
    """The same, of a function that works on each element by itself.

    Along many directions, the chain rule takes much less work than all that it is composed of.
    """
    general, signature = composed(function), inspect.signature(function)

    def rule(func: Any, args: Any, kwargs: Any) -> Any:
        _bound(signature, func, args, kwargs)
        x, *options = args
        if not isinstance(x, Carrier) or x.run is None:
            return general(func, args, kwargs)
        many = is_bent_along_many(x)
        if not (many or x.run.partials) or value_of(x).dtype in HALF:
            return x.run.apply(general, func, args, kwargs)
        outer = x.run

        def recurrence(a: Series) -> Series:
            with running(Run(outer.lookup)), torch.enable_grad():
                return function(carry(a), *options, **kwargs).series  # type: ignore[no-any-return]

        if many:
            return bent_along_many(functools.partial(series.curve, recurrence), x)
        return carry(elementary(recurrence, x.narrow_series))

    return broadcasting(rule)


# ---- softmax


def softmax(x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    x = x if dtype is None else x.to(dtype)
    e = torch.exp(x - value_of(x).detach().amax(_one_dim(dim), keepdim=True))
    return e / e.sum(dim, keepdim=True)


def log_softmax(x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    x = x if dtype is None else x.to(dtype)
    return x - logsumexp(x, _one_dim(dim), True)


def _one_dim(dim: Any) -> int:
    if not isinstance(dim, int):
        refuse("softmax without dim")
    return int(dim)


def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    largest = value_of(x).detach().amax(dim, keepdim=True)
    largest = largest.masked_fill(largest.isinf(), 0)
    result = torch.exp(x - largest).sum(dim, keepdim=True).log() + largest
    return result if keepdim else result.squeeze(dim)


# ---- sums of squares, and products


def var(
    x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = 1
) -> Any:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = 1 if unbiased else 0
    correction = 1 if correction is None else correction
    if x.is_complex():
        refuse("var of complex numbers")
    dims = _dims(x, dim)
    count = math.prod(x.shape[d] for d in dims)
    centred = x - x.mean(dims, keepdim=True)
    return (centred * centred).sum(dims, keepdim=keepdim) / max(count - correction, 0)


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
        refuse(f"norm with p={in_short(p)} of {x.dtype}")
    x, dims = x if dtype is None else x.to(dtype), _dims(x, dim)
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    return _root((x * x).sum(dims, keepdim=keepdim))


def linalg_norm(
    x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if ord not in (None, "fro") and (x.dim() if dim is None else len(_dims(x, dim))) != 1:
        refuse(f"linalg.norm of a matrix with ord={in_short(ord)}")
    return norm(x, ord, dim, keepdim, dtype)


def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    return norm(x, ord, dim, keepdim, dtype)


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    return _affine(_normalized(x, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(x * torch.rsqrt((x * x).mean(dims, keepdim=True) + eps), weight, None)


def group_norm(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    groups = x.reshape(x.shape[0], num_groups, -1)
    return _of_channels(_normalized(groups, (-1,), eps).reshape(x.shape), weight, bias)


def instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        refuse("instance_norm that writes into its running statistics; call eval() first")
    return _of_channels(_normalized(x, tuple(range(2, x.dim())), eps), weight, bias)


def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training:
        _take_back_the_count(running_mean)
        refuse("batch_norm in training, where the points of a batch meet; call eval() first")
    slope = (running_var + eps).rsqrt()
    if weight is None:
        return _of_channels(x, slope, -running_mean * slope)
    centred = _of_channels(x, None, -running_mean)
    return _of_channels(centred, slope * weight, bias)


def _take_back_the_count(running_mean: Any) -> None:
    """Leave a module as it was, which has counted a batch before it called ``batch_norm``."""
    if running_mean is None:
        return
    for frame in calls_around(sys._getframe(1)):
        module = dict(variables_of(frame)).get("self")
        if isinstance(module, nn.Module) and getattr(module, "running_mean", 0) is running_mean:
            count = getattr(module, "num_batches_tracked", None)
            if count is not None:
                count.sub_(1)
            return


def _normalized(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(dims, keepdim=True)
    return centred * ((centred * centred).mean(dims, keepdim=True) + eps).rsqrt()


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _of_channels(x: Any, weight: Any, bias: Any) -> Any:
    """The same, with a weight and a bias for each channel, which stands in dimension 1."""
    shape = (-1, *[1] * (x.dim() - 2))
    parts = [None if part is None else part.reshape(shape) for part in (weight, bias)]
    return _affine(x, *parts)


def hypot(a: Any, b: Any) -> Any:
    value = torch.hypot(value_of(a), value_of(b))
    return carry(elementary(lambda c: series.sqrt(c, value), (a * a + b * b).series))


def mse_loss(
    x: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    if (size_average, reduce, weight) != (None, None, None):
        refuse("mse_loss with other options than reduction")
    square = (x - target) ** 2
    return square if reduction == "none" else square.sum() if reduction == "sum" else square.mean()


def prod(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else x.to(dtype)
    if dim is None or x.dim() == 0:
        x, dim, keepdim = x.flatten(), 0, False
    factors = list(x.unbind(dim))
    while len(factors) > 1:  # multiply neighbours
        pairs = zip(factors[::2], factors[1::2], strict=False)
        factors = [p * q for p, q in pairs] + factors[len(factors) // 2 * 2 :]
    result = factors[0] if factors else torch.ones_like(value_of(x).sum(dim))
    return result.unsqueeze(dim) if keepdim else result


def add_matrix_product(first: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``addmm``, ``baddbmm`` and ``addmv``."""
    return beta * first + alpha * (a @ b)


def bilinear(a: Any, b: Any, weight: Any, bias: Any = None) -> Any:
    result = torch.einsum("...i,oij,...j->...o", a, weight, b)
    return result if bias is None else result + bias


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``scaled_dot_product_attention``."""
    if dropout_p:
        refuse("scaled_dot_product_attention with dropout; call eval() first")
    if is_causal:
        if attn_mask is not None:
            refuse("scaled_dot_product_attention with attn_mask and is_causal; pass one of them")
        shape = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return softmax(scores, -1) @ value
    if attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    else:
        scores = scores + attn_mask
    sees_nothing = value_of(scores).isneginf().all(-1, keepdim=True)
    weights = softmax(scores.masked_fill(sees_nothing, 0), -1)
    return weights.masked_fill(sees_nothing, 0) @ value


# ---- activations


def silu(x: Any, inplace: bool = False) -> Any:
    return x * torch.sigmoid(x)


def gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "tanh":
        # Half of 1 + tanh(u) is the sigmoid of 2u, which keeps the digits far below 0.
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * torch.special.erfc(x * -math.sqrt(0.5))


def softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    value = F.softplus(value_of(x), beta, threshold)
    curved = carry([value, *elementary(series.softplus, (x * beta).series)[1:]])
    curved = carry([value, *series.scale(curved.series, 1 / beta)[1:]])
    return torch.where(value_of(x) * beta > threshold, x, curved)


def elu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0, x)))


def selu(x: Any, inplace: bool = False) -> Any:
    return _SELU_SCALE * elu(x, _SELU_ALPHA)


def celu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0, x) / alpha))


# So that what has mean 0 and variance 1 keeps them.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def prelu(x: Any, weight: Any) -> Any:
    slopes = weight.reshape(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else weight
    return torch.where(x > 0, x, slopes * x)


def glu(x: Any, dim: int = -1) -> Any:
    half, gate = x.chunk(2, dim)
    return half * torch.sigmoid(gate)


def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return refuse("dropout in training; call eval() first") if training else x


def logit(x: Any) -> Any:
    # log(x / (1 - x)) would lose digits near 1/2, and near 1 overflow an order too early.
    return torch.log(x) - torch.log1p(-x)
