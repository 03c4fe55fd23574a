"""Tests for companion.taylor and companion.rules: every rule, every refusal, every promise."""

import gc
import math
import re
import threading
import weakref
from pathlib import Path

import mpmath
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from companion import derivatives, nth_derivative, rules

X = torch.tensor([[0.3, -1.2, 2.0], [0.7, 0.9, -0.4]], dtype=torch.float64)
Y = torch.tensor([[1.5, 0.2, -0.6], [-0.8, 1.1, 0.5]], dtype=torch.float64)


def jets(f, x, order, direction):
    """The derivatives along a direction by nested forward mode: the second route."""
    g = lambda t: (f(x + t * direction),)  # noqa: E731
    for _ in range(order):
        g = raised(g)
    return torch.stack(g(torch.zeros((), dtype=x.dtype)))


def raised(g):
    def with_one_more(t):
        values, slopes = torch.func.jvp(g, (t,), (torch.ones_like(t),))
        return (*values, slopes[-1])

    return with_one_more


def same(f, x, second=None, order=4):
    """Compare f, and f of a curved path to x, with nested forward mode, of ``second`` if given."""
    second = second or f
    direction = torch.linspace(-0.9, 1.3, x.numel(), dtype=x.dtype).reshape(x.shape)
    got = derivatives(f, x, 2, direction=direction)
    torch.testing.assert_close(got, jets(second, x, 2, direction), rtol=1e-10, atol=1e-10)
    got = derivatives(lambda x: f(x * (1 + 0.1 * x)), x, order, direction=direction)
    wanted = jets(lambda x: second(x * (1 + 0.1 * x)), x, order, direction)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


# ---- vectors and matrices, against nested forward mode

W = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.4]], dtype=torch.float64)
V = torch.tensor([0.4, -1.1, 0.8], dtype=torch.float64)
IMAGE = torch.linspace(-1, 1, 2 * 4 * 5 * 5, dtype=torch.float64).sin().reshape(2, 4, 5, 5)
SIGNAL = IMAGE.reshape(2, 4, 25)[..., :7]
KERNEL = torch.linspace(-2, 2, 6 * 2 * 3 * 3, dtype=torch.float64).cos().reshape(6, 2, 3, 3)
ROWS = torch.tensor([[0, 2], [1, 1]])
MASK = torch.tensor([[True, False, True], [False, False, True]])
LINEAR = {
    "neg": lambda x: -x,
    "negative": torch.negative,
    "positive": lambda x: +x,
    "sum": lambda x: x.sum(),
    "sum of rows": lambda x: torch.sum(input=x, dim=1, keepdim=True),
    "mean": lambda x: x.mean(0),
    "mean of all": torch.mean,
    "reshape": lambda x: x.reshape(3, 2),
    "view": lambda x: x.view(-1),
    "view of what was expanded": lambda x: (x[0] + Y).view(-1) + (x[0] + Y).view_as(x).view(6),
    "flatten": lambda x: x.flatten(),
    "unflatten": lambda x: x.unflatten(1, (3, 1)),
    "ravel": lambda x: x.ravel(),
    "permute": lambda x: x.permute(1, 0),
    "transpose": lambda x: x.transpose(0, 1),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "swapdims": lambda x: x.swapdims(0, 1),
    "movedim": lambda x: x.movedim(0, 1),
    "moveaxis": lambda x: x.moveaxis(0, 1),
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "H": lambda x: x.H,
    "mH": lambda x: x.mH,
    "adjoint": lambda x: x.adjoint(),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "expand": lambda x: x.expand(2, 2, 3),
    "expand_as": lambda x: x.expand_as(torch.ones(2, 2, 3)),
    "broadcast_to": lambda x: x.broadcast_to(2, 2, 3),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[0], V)[1] * 2,
    "view_as": lambda x: x.view_as(torch.ones(3, 2)),
    "reshape_as": lambda x: x.reshape_as(torch.ones(3, 2)),
    "a shape alone": lambda x: Y.view_as(x) * Y.reshape_as(x.t()).t() * V.expand_as(x) * x,
    "type_as": lambda x: x.type_as(Y),
    "repeat": lambda x: x.repeat(2, 1),
    "tile": lambda x: x.tile(2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "index": lambda x: x[1, ::2],
    "index with tensors": lambda x: x[torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0])],
    "index with a mask": lambda x: x[MASK],
    "index with None": lambda x: x[None, ..., 0],
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "gather": lambda x: x.gather(1, ROWS),
    "take": lambda x: x.take(ROWS),
    "take_along_dim": lambda x: x.take_along_dim(ROWS, 1),
    "masked_select": lambda x: x.masked_select(MASK),
    "diagonal": lambda x: x.diagonal(),
    "diag": lambda x: x[0].diag(),
    "diag_embed": lambda x: x.diag_embed(),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "flip": lambda x: x.flip(0),
    "fliplr": lambda x: x.fliplr(),
    "flipud": lambda x: x.flipud(),
    "roll": lambda x: x.roll(1, 1),
    "rot90": lambda x: x.rot90(),
    "cumsum": lambda x: x.cumsum(1),
    "diff": lambda x: x.diff(dim=1),
    "trace": lambda x: x[:, :2].trace(),
    "split": lambda x: x.split(2, 1)[1],
    "split_with_sizes": lambda x: x.split_with_sizes([1, 2], 1)[1],
    "chunk": lambda x: x.chunk(2, 1)[0],
    "tensor_split": lambda x: x.tensor_split(2, 1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "rows": lambda x: [row for row in x][1],
    "unfold": lambda x: x.unfold(1, 2, 1),
    "unfold an image": lambda x: F.unfold(x[None, None], 2),
    "contiguous": lambda x: x.t().contiguous(),
    "clone": lambda x: x.clone(),
    "to": lambda x: x.to(torch.float64),
    "to another": lambda x: x.to(Y) + Y.to(x),
    "double": lambda x: x.double(),
    "cpu": lambda x: x.cpu(),
    "resolve_conj": lambda x: x.resolve_conj(),
    "resolve_neg": lambda x: x.resolve_neg(),
    "conj of a real one": lambda x: x.conj() + x.conj_physical() + x.real + torch.real(x),
    "sum_to_size": lambda x: x.sum_to_size(1, 3),
    "deg2rad": lambda x: x.deg2rad(),
    "rad2deg": lambda x: x.rad2deg(),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x[None], 2),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x[None], 1),
    "interpolate": lambda x: F.interpolate(x[None], 5, mode="linear"),
    "interpolate to bicubic": lambda x: F.interpolate(x[None, None], (5, 4), mode="bicubic"),
    "cat": lambda x: torch.cat([x, Y, x], 1),
    "cat by name": lambda x: torch.cat(tensors=(Y, x), dim=1),
    "concat": lambda x: torch.concat([x, x]),
    "concatenate": lambda x: torch.concatenate([x, x]),
    "stack": lambda x: torch.stack([Y, x * x, x], -1),
    "hstack": lambda x: torch.hstack([x, Y]),
    "vstack": lambda x: torch.vstack([x, Y]),
    "dstack": lambda x: torch.dstack([x, Y]),
    "pad": lambda x: F.pad(x, (1, 2), value=3.0),
    "pad by reflection": lambda x: F.pad(x, (1, 2), mode="reflect"),
    "pad by repetition": lambda x: F.pad(x, (1, 2), mode="replicate"),
    "pad in a circle": lambda x: F.pad(x, (1, 2), mode="circular"),
    "masked_fill": lambda x: x.masked_fill(MASK, 5.0) + x.masked_fill(mask_of(x), value=2.0),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0, 2]), 4.0),
    "where": lambda x: torch.where(MASK, x, Y) + torch.where(MASK, 1.0, x),
    "where both": lambda x: torch.where(x > 0, x, x * x),
    "x.where": lambda x: x.where(MASK, Y) + Y.where(MASK, x) + x.where(x > 0, 0.0),
    "where as places": lambda x: x[torch.where(x > 0)],
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
}


def mask_of(x):
    return x > 0.5


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_operation_agrees_with_nested_forward_mode(name):
    same(LINEAR[name], X, order=2)


VECTORS = {
    "matmul": lambda x: x @ W,
    "matmul on the left": lambda x: Y @ x.t(),
    "matmul of both": lambda x: x @ x.t(),
    "matmul of vectors": lambda x: x[0] @ x[1] + V @ x[0] + x[1] @ V,
    "matmul of a matrix and a vector": lambda x: x @ V + x @ x[0] + W.t() @ x[1],
    "matmul of a vector and a matrix": lambda x: x[0] @ W + x[0] @ x.t(),
    "matmul of batches": lambda x: x[:, None, :] @ x[:, :, None] + x[:, None, :] @ W,
    "matmul that broadcasts": lambda x: torch.matmul(x.expand(4, 1, 2, 3), x.t().expand(5, 3, 2)),
    "matmul by name": lambda x: torch.matmul(x, other=W),
    "__matmul__": lambda x: x.__matmul__(W),
    "mm": lambda x: x.mm(W) + torch.mm(Y, x.t()) + x.mm(x.t()),
    "mm by name": lambda x: torch.mm(x, mat2=x.t()),
    "bmm": lambda x: torch.bmm(x[:, None, :], x[:, :, None]),
    "mv": lambda x: torch.mv(x, x[0]) + x.mv(V),
    "dot": lambda x: torch.dot(x[0], x[1]) + x[0].dot(V),
    "vdot": lambda x: torch.vdot(V, x[1]) * torch.vdot(x[0], x[1]),
    "inner": lambda x: torch.inner(x, x),
    "outer": lambda x: torch.outer(x[0], x[1]) + torch.outer(V, x[0]),
    "ger": lambda x: torch.ger(x[0], x[1]),
    "kron": lambda x: torch.kron(x, W) + torch.kron(W, x) + torch.kron(x, x.t().contiguous()),
    "cross": lambda x: torch.cross(x, Y, dim=1) + torch.cross(x, x.flip(0), dim=1),
    "tensordot": lambda x: (
        torch.tensordot(x, x, dims=2) + torch.tensordot(x, Y, dims=([0, 1],) * 2)
    ),
    "einsum of one": lambda x: torch.einsum("ij->ji", x),
    "einsum of two": lambda x: torch.einsum("ij,kj->ik", x, x) + torch.einsum("ij,kj", Y, x),
    "einsum of three": lambda x: torch.einsum("ij,jk,lj->ikl", x, W, x),
    "einsum of three series": lambda x: torch.einsum("ij,kj,lj->ikl", [x, x * x, x]),
    "einsum by numbers": lambda x: torch.einsum(x, [0, 1], x, [2, 1], [0, 2]),
    "addmm": lambda x: torch.addmm(x[:, :2], x, W, beta=0.5, alpha=2),
    "addmv": lambda x: torch.addmv(x[:, 0], x, x[1]),
    "baddbmm": lambda x: torch.baddbmm(x[:, :1, None], x[:, None], x[:, :, None], alpha=3),
    "linear": lambda x: F.linear(x, W.t()),
    "linear with a bias": lambda x: F.linear(x, W.t(), bias=W[0]),
    "linear in its weight": lambda x: F.linear(Y, x, x[:, 0]) + F.linear(x, weight=x),
    "linear in its bias": lambda x: F.linear(Y, Y, x[:, 0]),
    "linear of a vector": lambda x: F.linear(x[0], W.t()) + F.linear(x, V),
    "softmax": lambda x: torch.softmax(x, 1) + F.softmax(x, dim=-1) + x.softmax(0),
    "softmax with a mask": lambda x: x.masked_fill(MASK, -math.inf).softmax(1),
    "log_softmax": lambda x: F.log_softmax(x, 0) + x.log_softmax(1, dtype=torch.float64),
    "special": lambda x: torch.special.softmax(x, 1) + torch.special.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "logsumexp of more": lambda x: x.logsumexp((0, 1)) + x.logsumexp(0, keepdim=True),
    "var": lambda x: x.var() + x.var(1, unbiased=False).sum() + torch.var(x, 1, keepdim=True),
    "var with a correction": lambda x: torch.var(x, dim=(0, 1), correction=2) + x.var(False),
    "std": lambda x: x.std(1) + torch.std(x, (0, 1), correction=0) + x.std(),
    "norm": lambda x: x.norm() + x.norm(dim=1, keepdim=True) + torch.norm(x, p="fro"),
    "norm with p=1": lambda x: x.norm(1, dim=0),
    "linalg.norm": lambda x: (
        torch.linalg.norm(x) + torch.linalg.norm(x[0], 1) + torch.linalg.norm(x, 2, dim=1)
    ),
    "linalg.vector_norm": lambda x: (
        torch.linalg.vector_norm(x, ord=1, dim=1) + torch.linalg.vector_norm(x)
    ),
    "prod": lambda x: x.prod() + x.prod(1) + torch.prod(x, 0, keepdim=True).sum(),
    "prod of another type": lambda x: torch.prod(x, dtype=torch.float64),
    "lerp": lambda x: torch.lerp(x, Y, x * x) + x.lerp(Y, 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, Y, value=2),
    "addcdiv": lambda x: torch.addcdiv(Y, x, x * x + 1, value=2),
    "hypot": lambda x: torch.hypot(x, Y) + torch.hypot(x, x * x),
    "mse_loss": lambda x: F.mse_loss(x, Y),
    "mse_loss summed": lambda x: F.mse_loss(Y, x, reduction="sum"),
    "mse_loss of each": lambda x: F.mse_loss(x, x * x, reduction="none"),
    "add with alpha": lambda x: torch.add(x, x * x, alpha=3) + x.sub(Y, alpha=2) + torch.add(Y, x),
    "subtract": lambda x: torch.subtract(Y, x) - x.subtract(1) + torch.rsub(x, x * x, alpha=2),
    "operators": lambda x: (1 + x) * 2 - 3 / (x + 4) - (5 - x) + 2 * x - x / Y + Y / (x + 4),
    "true_divide": lambda x: x.true_divide(Y) + torch.divide(Y, other=x) + x.div(x + 3),
    "multiply": lambda x: x.multiply(x) * torch.mul(Y, x),
    "dunders": lambda x: x.__add__(x).__radd__(Y).__mul__(x).__rmul__(2).__sub__(x).__truediv__(3),
    "power of two series": lambda x: (x * x + 1) ** (x + 1),
    "power of tensors": lambda x: x ** torch.tensor([2, 0, 3]) + (x + 3) ** Y + x.pow(exponent=3),
    "power with a tensor below": lambda x: (Y * Y) ** x + torch.tensor([1, 2, 3]) ** x,
    "power with a 0 below": lambda x: 0.0 ** (x * x),
    "abs": lambda x: x.abs() + torch.absolute(x) + abs(x),
    "relu": lambda x: F.relu(x) + x.relu(),
    "relu6": lambda x: F.relu6(4 * x),
    "hardtanh": lambda x: F.hardtanh(x),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "threshold": lambda x: F.threshold(x, 0.5, 7.0),
    "maximum": lambda x: torch.maximum(x, Y) + torch.minimum(x * x, x[0]),
    "fmax": lambda x: torch.fmax(x, Y) + torch.fmin(Y, x),
    "clamp": lambda x: x.clamp(-0.5, 0.8) + x.clip(min=x[0] - 0.1) + torch.clamp(Y, max=x),
    "clamp_min": lambda x: x.clamp_min(0.5) + x.clamp_max(0.8),
    "max": lambda x: x.max() + x.max(1).values + torch.max(x, dim=1, keepdim=True)[0],
    "min": lambda x: x.min() + x.min(0)[0].sum(),
    "max of two": lambda x: torch.max(x, Y) + torch.min(Y, x) + torch.max(x, other=x * x),
    "median": lambda x: x.median() + x.median(dim=1).values.sum(),
    "sort": lambda x: x.sort(1)[0] + torch.sort(x, 1, True).values + x.sort(dim=0, stable=True)[0],
    "topk": lambda x: x.topk(2)[0] + torch.topk(x.t(), 2, 0).values.t(),
    "kthvalue": lambda x: x.kthvalue(2)[0] + torch.kthvalue(x, 2, dim=1).values,
    "amax": lambda x: x.amax() + x.amax(1) + x.amin((0, 1), keepdim=True),
    "amin of a row": lambda x: torch.amin(x, dim=0),
}


@pytest.mark.parametrize("name", VECTORS)
def test_an_operation_on_vectors_agrees_with_nested_forward_mode(name):
    same(VECTORS[name], X)


CONVOLUTIONS = [
    lambda x: F.conv2d(x, KERNEL[:, :, :, :], None, 1, 0, 1, 2),
    lambda x: F.conv2d(x, KERNEL, bias=KERNEL[:, 0, 0, 0], stride=2, padding=1, groups=2),
    lambda x: F.conv2d(x, KERNEL * x[0, 0, 0, 0], x[0, 0, 0, :1].expand(6), groups=2),
    lambda x: F.conv2d(IMAGE, weight=x[:1, :, :3, :3].reshape(2, 2, 3, 3), groups=2),
    lambda x: F.conv2d(input=IMAGE, weight=KERNEL, bias=x[0, 0, 0, :3].repeat(2), groups=2),
    lambda x: F.conv2d(x[0], KERNEL.repeat(1, 2, 1, 1), KERNEL[:, 0, 0, 0], padding="same"),
    lambda x: F.conv1d(x[:, :, 0], KERNEL[:, :, 0], KERNEL[:, 0, 0, 0], dilation=2, groups=2),
    lambda x: F.conv3d(x[:, :2, None], KERNEL[:, :, None]),
    lambda x: F.conv_transpose2d(x, KERNEL[:4], KERNEL[0, :, 0, 0], stride=2),
    lambda x: F.conv_transpose1d(x[:, :, 0], KERNEL[:4, :, 0] * x[0, 0, 0, 0], padding=1),
]


@pytest.mark.parametrize("convolve", CONVOLUTIONS)
def test_a_convolution_agrees_with_nested_forward_mode(convolve):
    same(convolve, IMAGE, order=3)


def plain_layer_norm(x, dims, weight=1, bias=0, eps=1e-5):
    far = x - x.mean(dims, keepdim=True)
    return far / ((far * far).mean(dims, keepdim=True) + eps).sqrt() * weight + bias


def test_layer_norm_agrees_with_nested_forward_mode_of_its_formula():
    # torch's own layer_norm is wrong from the second derivative on in nested forward mode.
    formula = plain_layer_norm
    same(lambda x: F.layer_norm(x, (3,)), X, lambda x: formula(x, -1))
    same(lambda x: F.layer_norm(x, (2, 3), eps=0.1), X, lambda x: formula(x, (0, 1), eps=0.1))
    same(lambda x: F.layer_norm(x, (3,), V, x[0]), X, lambda x: formula(x, -1, V, x[0]))
    same(lambda x: F.layer_norm(Y, (3,), x[0], x[1]), X, lambda x: formula(Y, -1, x[0], x[1]))


def test_a_product_with_zeros_agrees_with_nested_forward_mode_factor_by_factor():
    # torch's own prod is wrong from the third derivative on where a factor is 0.
    x = torch.tensor([0.0, 1.5, 0.0, -2.0], dtype=torch.float64)
    same(lambda x: x.prod(), x, lambda x: x[0] * x[1] * x[2] * x[3])
    same(lambda x: x[:2].prod(0, True), x, lambda x: x[:1] * x[1])
    assert derivatives(lambda x: x[:0].prod(), x, 1).tolist() == [1, 0]


def attention(x):
    q, k, v = (x @ part for part in W.repeat(1, 3).reshape(3, 3, 2))
    scores = torch.einsum("id,jd->ij", q, k) / math.sqrt(2)
    return scores.masked_fill(~torch.ones(2, 2).tril().bool(), -math.inf).softmax(-1) @ v


def test_modules_and_attention_by_hand_agree_with_nested_forward_mode():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Dropout(), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)
    )
    net.double().eval()
    same(net, X, lambda x: net[4:](plain_layer_norm(net[1](net[0](x)), -1)))
    same(nn.Sequential(nn.Conv1d(2, 3, 2), nn.SiLU(), nn.Softplus(), nn.Flatten(0)).double(), X)
    same(attention, X)


@pytest.mark.parametrize(
    "pick", ["hardsigmoid", "amax", "max of all", "max", "sort", "topk", "maximum", "clamp"]
)
def test_ties_are_shared_as_torch_shares_them(pick):
    x = torch.tensor([2.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    f = {
        "hardsigmoid": lambda x: F.hardsigmoid(x) + F.hardsigmoid(3 * x),
        "amax": lambda x: x.amax() + x.amin(0),
        "max of all": lambda x: x.max() + x.min(),
        "max": lambda x: x.max(0)[0] + x.min(0)[0],
        "sort": lambda x: x.sort(stable=True)[0],
        "topk": lambda x: x.topk(3)[0],
        "maximum": lambda x: torch.maximum(x, x.flip(0) * 0 + 2.0),
        "clamp": lambda x: x.clamp(1.0, 2.0),
    }[pick]
    direction = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(f, x) @ direction
    got = derivatives(f, x, 2, direction=direction)
    torch.testing.assert_close(got[:2], torch.stack([f(x), slope]))
    assert not got[2].any()


# ---- functions of each element, against nested reverse mode


def nested(f, x, order):
    """The derivatives of an elementwise function, one gradient after the other."""
    x = x.detach().clone().requires_grad_()
    found = [f(x)]
    for _ in range(order):
        (slope,) = torch.autograd.grad(found[-1].sum(), x, create_graph=True)
        found.append(slope + 0 * x)  # still connected where it no longer depends on x
    return torch.stack(found).detach()


ELEMENTWISE = {
    **{name: getattr(torch, name, None) or getattr(F, name) for name in rules._RECURRENCES},
    **{name: getattr(torch, name) for name in rules._ALIASES if name.startswith("arc")},
    **{name: getattr(torch.special, name) for name in "expit erf exp2 log1p logit".split()},
    **{name: getattr(F, name) for name in "silu softplus elu mish softsign tanhshrink".split()},
    "logit": torch.logit,
    "gelu": F.gelu,
    "gelu by tanh": nn.GELU("tanh"),
    "softplus by its place": lambda x: F.softplus(x, 3, 1.5),
    "elu by its place": nn.ELU(0.5),
    "pow": lambda x: x**3 + torch.pow(x, 2.5) + x ** torch.tensor(-2),
    "__rpow__": lambda x: 2.5**x,
    "__rsub__": lambda x: 1 - x,
    "__rdiv__": lambda x: 2 / x,
    "__truediv__": lambda x: x.__truediv__(3),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_rule_agrees_with_nested_reverse_mode(name):
    x = torch.tensor([0.2, 0.45, 0.8], dtype=torch.float64) + (name in ("acosh", "arccosh"))
    got = derivatives(lambda x: ELEMENTWISE[name](x), x, 5)
    torch.testing.assert_close(got, nested(ELEMENTWISE[name], x, 5), rtol=1e-9, atol=1e-12)


UNARY = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "erf": torch.erf,
    "square": torch.square,
    "cube": lambda x: x**3,
    "bell": lambda x: torch.exp(-x * x),
    "root": lambda x: torch.sqrt(x * x + 1),
    "rsqrt": lambda x: torch.rsqrt(x.square() + 2),
    "log": lambda x: torch.log(1.5 + x * x),
    "log1p": lambda x: x.square().log1p(),
    "power": lambda x: (x * x + 1) ** -0.7,
    "inverse": lambda x: 1 / (2 + x.cos()),
    "expm1": lambda x: torch.expm1(x.sin()),
    "asin": lambda x: torch.asin(x.sin() / 2),
    "tan": lambda x: torch.tan(x.tanh()),
    "relu": F.relu,
    "where": lambda x: torch.where(x > 0, x, -x * x),
}
BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (b * b + 1),
    "**": lambda a, b: (a * a + 0.5) ** b.tanh(),
    "max": torch.maximum,
}
PROGRAMS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 5)),
        st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 5), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=200)
@given(program=PROGRAMS)
def test_a_random_program_agrees_with_nested_reverse_mode(program):
    def f(x):
        values = [x]
        for name, *where in program:
            operands = [values[-1 - i % len(values)] for i in where]
            values.append({**UNARY, **BINARY}[name](*operands))
        return values[-1]

    x = torch.tensor([-0.83, 0.41, 1.27], dtype=torch.float64)
    wanted = nested(f, x, 5)
    for k, got in enumerate(derivatives(f, x, 5)):
        allowed = 1e-9 * wanted[: k + 1].abs().amax().item()
        torch.testing.assert_close(got, wanted[k], rtol=1e-9, atol=allowed)


# ---- what depends on the value alone

PLAIN = {
    "eq": lambda x: x == 0.3,
    "eq by name": lambda x: torch.eq(x, Y) & x.__eq__(x),
    "ne": lambda x: x != 0.3,
    "lt": lambda x: x < Y,
    "le": lambda x: x <= 0.3,
    "gt": lambda x: Y > x,
    "ge": lambda x: torch.ge(x, other=Y),
    "isnan": lambda x: x.isnan(),
    "isinf": lambda x: x.isinf(),
    "isfinite": lambda x: x.isfinite(),
    "isclose": lambda x: x.isclose(Y),
    "allclose": lambda x: torch.allclose(x, Y),
    "equal": lambda x: torch.equal(x, Y),
    "size": lambda x: (x.size(), x.size(1)),
    "dim": lambda x: (x.dim(), x.ndimension(), x.numel(), x.nelement(), len(x)),
    "layout": lambda x: (x.stride(), x.storage_offset(), x.element_size(), x.dim_order()),
    "get_device": lambda x: x.get_device(),
    "kind": lambda x: (x.is_floating_point(), x.is_complex(), x.is_contiguous(), x.is_signed()),
    "is_nonzero": lambda x: (x[0, 0].is_nonzero(), bool(x[0, 0]), x.is_inference()),
    "argmax": lambda x: (x.argmax(), x.argmin(1), x.argsort(0)),
    "nonzero": lambda x: (torch.nonzero(x), torch.count_nonzero(x)),
    "any": lambda x: (x.any(), x.all()),
    "detach": lambda x: x.detach() * 2,
    "ones_like": lambda x: (torch.ones_like(x), torch.zeros_like(x), torch.full_like(x, 2.0)),
    "new": lambda x: (x.new_zeros(2), x.new_ones(2), x.new_full((2,), 3.0)),
    "empty": lambda x: (torch.empty_like(x).shape, x.new_empty(2).shape),
    "random": lambda x: (torch.rand_like(x).shape, torch.randn_like(x).shape),
    "randint_like": lambda x: torch.randint_like(x, 3).shape,
    "whole": lambda x: (x.bool(), x.long(), x.int(), x.short(), x.char(), x.abs().detach().byte()),
    "to whole": lambda x: (x.to(torch.int64), x.sum(dtype=torch.int64), x.byte().dtype),
    "steps": lambda x: (x.floor(), x.ceil(), x.round(decimals=1), x.trunc(), x.fix(), x.sign()),
    "signbit": lambda x: x.signbit(),
    "floor_divide": lambda x: (x // 0.3, x.floor_divide(0.3), x.div(0.3, rounding_mode="floor")),
    "__floordiv__": lambda x: x.__floordiv__(2),
    "searchsorted": lambda x: torch.searchsorted(V.sort()[0], x),
    "bucketize": lambda x: torch.bucketize(x, V.sort()[0]),
    "logic": lambda x: (x.logical_not(), x.logical_and(Y), torch.logical_or(Y, x)),
    "result_type": lambda x: torch.result_type(x, 1j),
    "text": lambda x: (repr(x), str(x), f"{x[0, 0]:.2f}"),
    "__dir__": lambda x: "sin" in dir(x),
    "properties": lambda x: [getattr(x, name) for name in PROPERTIES],
}
PROPERTIES = (
    "shape dtype device layout ndim requires_grad is_leaf data grad grad_fn is_sparse is_nested "
    "is_quantized is_cpu is_cuda is_meta itemsize nbytes output_nr _version"
).split()


@pytest.mark.parametrize("name", PLAIN)
def test_what_depends_on_the_value_alone_is_that_of_the_value(name):
    seen = []

    def f(x):
        seen.append(PLAIN[name](x))
        return x

    derivatives(f, X, 2)
    wanted = PLAIN[name](X)
    got, wanted = ([one] if not isinstance(one, tuple | list) else one for one in (*seen, wanted))
    for one, other in zip(got, wanted, strict=True):
        assert not isinstance(one, rules.Carrier)
        assert type(one) is type(other)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one, other)
        else:
            assert re.sub("Carrier", "tensor", str(one)) == str(other)


# ---- the table


def test_every_name_in_the_table_is_used_by_a_test_above(monkeypatch):
    used = set()

    class Noting(dict):
        def get(self, name):
            used.add(name)
            return super().get(name)

        def __getitem__(self, name):
            used.add(name)
            return super().__getitem__(name)

    monkeypatch.setattr(rules, "_RULES", Noting(rules._RULES))
    monkeypatch.setattr(rules, "_PROPERTIES", Noting(rules._PROPERTIES))
    above = [*LINEAR.values(), *VECTORS.values(), *PLAIN.values(), *COMPLEX.values()]
    for function, x in (
        *((f, X) for f in above),
        *((f, IMAGE) for f in CONVOLUTIONS),
        *((f, 0.3 + (name[-5:] == "acosh") + V[:1] * 0) for name, f in ELEMENTWISE.items()),
        *((f, X.float()) for f in CASTS.values()),
        (F.hardsigmoid, X),
        (lambda x: F.layer_norm(x, (3,)), X),
        (attention, X),
    ):

        def f(x, function=function):
            function(x)
            return x

        derivatives(f, x, 1)
    missing = ({*rules._RULES} | {*rules._PROPERTIES}) - used
    assert not missing, sorted(missing)


COMPLEX = {}
CASTS = {}
