"""taylor.py, carrier.py and the table: every rule, every refusal, every promise."""

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
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion import derivatives, laplacian, nth_derivative
from companion.higher_order import carrier, table
from tests.cases import each
from tests.programs import programs, run
from tests.slices import every, examples

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
    "avg_pool3d": lambda x: F.avg_pool3d(x[None, None].expand(1, 2, 2, 3), 2),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[None, None], 1),
    **{
        f"fft.{name}": lambda x, name=name: real_of(getattr(torch.fft, name)(x))
        for name in """
        fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn fftshift
        ifftshift
        """.split()
    },
    "fft to another length": lambda x: torch.fft.fft(x, n=4, dim=0, norm="ortho").imag,
    "batch_norm in eval": lambda x: F.batch_norm(x, V, V * V),
    "batch_norm with a weight": lambda x: F.batch_norm(x[None], V[:2], (V * V)[:2], W[0], W[1]),
    "instance_norm in eval": lambda x: F.instance_norm(
        x[None], V[:2], (V * V)[:2], W[0], use_input_stats=False
    ),
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
    "where as indices": lambda x: x[torch.where(x > 0)],
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
}


def real_of(x):
    return x.real - 2 * x.imag if x.is_complex() else x


def mask_of(x):
    return x > 0.5


@each("name", LINEAR)
def test_a_linear_operation_agrees_with_nested_forward_mode(name):
    same(LINEAR[name], X, order=2)


def attention_in_groups(x):
    with sdpa_kernel(SDPBackend.MATH):  # torch 2.15 would take one without forward mode
        return F.scaled_dot_product_attention(
            x.repeat(4, 1, 1), x.repeat(2, 1, 1), Y.repeat(2, 1, 1), enable_gqa=True
        )


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
    "var with the usual correction": lambda x: torch.var(x, 1, correction=None),
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
    "prod of a number": lambda x: x[0, 0].prod(0) * x[1, 1].prod(-1, keepdim=True) * x,
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
    "power by name": lambda x: torch.pow(self=2.0, exponent=x) + torch.pow(input=x, exponent=3),
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
    "max_pool1d": lambda x: (
        F.max_pool1d(x, 2, 1, 1) + nn.MaxPool1d(3, 1, 1, ceil_mode=True)(x)[0, 0]
    ),
    "max_pool2d": lambda x: (
        F.max_pool2d(x[None], 2, stride=1) * torch.max_pool2d(x[None], (1, 2), 1)[:, :1]
    ),
    "max_pool3d": lambda x: F.max_pool3d(x.reshape(1, 2, 1, 3).repeat(1, 1, 2, 1), 2),
    "prelu": lambda x: F.prelu(x, V[:1]) + F.prelu(x - 0.31, V) + F.prelu(Y, x[0]),
    "rms_norm": lambda x: (
        F.rms_norm(x, (3,)) + F.rms_norm(x, (2, 3), eps=0.1) + F.rms_norm(Y, (3,), x[0])
    ),
    "bilinear": lambda x: (
        F.bilinear(x, x * x, W.repeat(3, 1, 2)[:, :, :3], V)
        + F.bilinear(Y, x, W.repeat(3, 1, 2)[:, :, :3])
    ),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * x, Y),
    "attention that looks back": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention with a mask": lambda x: F.scaled_dot_product_attention(
        x, Y, x, torch.tensor([[True, False], [False, False]]), scale=0.3
    ),
    "attention with a sum as a mask": lambda x: F.scaled_dot_product_attention(
        Y, x, Y, x[:, :2], enable_gqa=False
    ),
    "attention in groups": attention_in_groups,
    "axis": lambda x: x.amax(axis=0) + x.max(axis=0)[0] + x.sort(axis=0)[0] + x.softmax(axis=0),
    "axis and keepdims": lambda x: x.amin(axis=0, keepdims=True) * x.sum(axis=0, keepdims=True),
    "numbers on the left": lambda x: torch.sub(1.0, x) + torch.rsub(x, 1.0, alpha=2),
    "amin of a row": lambda x: torch.amin(x, dim=0),
}


FOUR_TIMES = every(6, VECTORS)  # an order more takes twice the time


@each("name", VECTORS)
def test_an_operation_on_vectors_agrees_with_nested_forward_mode(name):
    same(VECTORS[name], X, order=4 if name in FOUR_TIMES else 3)


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


@each("convolve", CONVOLUTIONS)
def test_a_convolution_agrees_with_nested_forward_mode(convolve):
    same(convolve, IMAGE, order=3)


def plain_layer_norm(x, dims, weight=1, bias=0, eps=1e-5):
    far = x - x.mean(dims, keepdim=True)
    return far / ((far * far).mean(dims, keepdim=True) + eps).sqrt() * weight + bias


def test_glu_agrees_with_nested_forward_mode_of_its_formula():
    # torch's own glu has no second derivative in nested forward mode.
    same(lambda x: F.glu(torch.cat([x, x * Y], 1)), X, lambda x: x * (x * Y).sigmoid())
    same(lambda x: nn.GLU(0)(torch.cat([x * x, x])), X, lambda x: x * x * x.sigmoid())


def test_layer_norm_agrees_with_nested_forward_mode_of_its_formula():
    # torch's own layer_norm is wrong from the second derivative on in nested forward mode.
    formula = plain_layer_norm
    same(lambda x: F.layer_norm(x, (3,)), X, lambda x: formula(x, -1))
    same(lambda x: F.layer_norm(x, (2, 3), eps=0.1), X, lambda x: formula(x, (0, 1), eps=0.1))
    same(lambda x: F.layer_norm(x, (3,), V, x[0]), X, lambda x: formula(x, -1, V, x[0]))
    same(lambda x: F.layer_norm(Y, (3,), x[0], x[1]), X, lambda x: formula(Y, -1, x[0], x[1]))


def test_norms_of_groups_agree_with_nested_forward_mode_of_their_formula():
    x = torch.linspace(-1, 2, 2 * 4 * 3, dtype=torch.float64).cos().view(2, 4, 3)
    weight, bias = x[0, :, :1].detach(), x[1, :, :1].detach()

    def formula(x, groups):
        return plain_layer_norm(x.reshape(2, groups, -1), -1).reshape(x.shape) * weight + bias

    same(lambda x: F.group_norm(x, 2, weight[:, 0], bias[:, 0]), x, lambda x: formula(x, 2))
    norm = lambda x: F.instance_norm(x, weight=weight[:, 0], bias=bias[:, 0])  # noqa: E731
    same(norm, x, lambda x: formula(x, 4))


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


@each("pick", ["hardsigmoid", "amax", "max of all", "max", "sort", "topk", "maximum", "clamp"])
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
    **{name: getattr(torch, name, None) or getattr(F, name) for name in table.RECURRENCES},
    **{name: getattr(torch, name) for name in table.ALIASES if name.startswith("arc")},
    **{name: getattr(torch.special, name) for name in "expit erf exp2 log1p logit".split()},
    **{name: getattr(F, name) for name in "silu softplus elu selu celu mish softsign".split()},
    **{name: getattr(F, name) for name in "tanhshrink hardswish".split()},
    "elu left of 0": lambda x: F.elu(-x) + F.selu(-x) + F.celu(-x, 0.5),
    "logit": torch.logit,
    "gelu": F.gelu,
    "gelu by tanh": nn.GELU("tanh"),
    "softplus by position": lambda x: F.softplus(x, 3, 1.5),
    "elu by position": nn.ELU(0.5),
    "pow": lambda x: x**3 + torch.pow(x, 2.5) + x ** torch.tensor(-2),
    "__rpow__": lambda x: 2.5**x,
    "__rsub__": lambda x: 1 - x,
    "__rdiv__": lambda x: 2 / x,
    "__truediv__": lambda x: x.__truediv__(3),
}


@each("name", ELEMENTWISE)
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
SMOOTH = {name: lambda a, b, f=f: f(a) for name, f in UNARY.items()} | BINARY


@settings(deadline=None, max_examples=examples(400))
@given(program=programs(SMOOTH, max_size=5))
def test_a_random_program_agrees_with_nested_reverse_mode(program):
    def steps(x):
        return torch.stack(run(program, [x], SMOOTH))

    x = torch.tensor([-0.83, 0.41, 1.27], dtype=torch.float64)
    wanted = nested(lambda x: steps(x)[-1], x, 5)
    found = derivatives(steps, x, 5)
    # Two steps that cancel leave their last digits: these are measured by the steps before.
    for k, got in enumerate(found[:, -1]):
        allowed = 1e-9 * max(a[: k + 1].abs().amax() for a in (wanted, found[:, :-1])).item()
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


@each("name", PLAIN)
def test_what_depends_on_the_value_alone_is_that_of_the_value(name):
    seen = []

    def f(x):
        seen.append(PLAIN[name](x))
        return x

    derivatives(f, X, 2)
    wanted = PLAIN[name](X)
    results = ([y] if not isinstance(y, tuple | list) else y for y in (*seen, wanted))
    for got, wanted in zip(*results, strict=True):
        assert not isinstance(got, carrier.Carrier)
        assert type(got) is type(wanted)
        if isinstance(got, torch.Tensor):
            assert got.dtype == wanted.dtype and torch.equal(got, wanted)
        else:
            assert re.sub("Carrier", "tensor", str(got)) == str(wanted)


# ---- kinds of numbers, and shapes

COMPLEX = {
    "real": lambda z: z.real + torch.imag(z),
    "conj": lambda z: z.conj() * z.conj_physical() + z.imag,
    "pairs": lambda z: torch.view_as_complex(torch.view_as_real(z) * 2),
    "vdot": lambda z: torch.vdot(z, z * (1 + 2j)),
    "is_complex": lambda z: z * (2 if z.is_complex() else 0),
}
CASTS = {
    "float": lambda x: x.float() * 2,
    "double": lambda x: x.double() ** 2,
    "half": lambda x: x.half(),
    "softmax": lambda x: F.softmax(x, 0, dtype=torch.float64),
    "log_softmax": lambda x: F.log_softmax(x, 0, dtype=torch.float64),
    "reductions": lambda x: x.prod(dtype=torch.float64) + x.norm(dtype=torch.float64),
    "bfloat16": lambda x: x.bfloat16(),
    "to": lambda x: x.to(torch.float16) + x.to(dtype=torch.float64),
}
HOLOMORPHIC = {
    name: function
    for name, function in ELEMENTWISE.items()
    if name
    in "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square sin cos tan sinh "
    "cosh tanh asin acos atan asinh acosh atanh sigmoid silu".split()
}
PRECISE = {
    "exp2": lambda t: mpmath.mpf(2) ** t,
    "log2": lambda t: mpmath.log(t) / mpmath.log(2),
    "log10": lambda t: mpmath.log(t) / mpmath.log(10),
    "rsqrt": lambda t: 1 / mpmath.sqrt(t),
    "reciprocal": lambda t: 1 / t,
    "square": lambda t: t * t,
    "sigmoid": lambda t: 1 / (1 + mpmath.exp(-t)),
    "silu": lambda t: t / (1 + mpmath.exp(-t)),
}


@each("point", [0.6 - 0.8j, -0.6 - 0.8j, -1.7 + 0.3j])
@each("name", HOLOMORPHIC)
def test_complex_derivatives_agree_with_thirty_digits(name, point):
    with mpmath.workdps(30):
        precise = PRECISE.get(name) or getattr(mpmath, name)
        wanted = mpmath.taylor(precise, mpmath.mpc(point), 6)
        wanted = [complex(c * mpmath.factorial(k)) for k, c in enumerate(wanted)]
        wanted = torch.tensor(wanted, dtype=torch.complex128)
    for dtype, rtol in ((torch.complex128, 1e-11), (torch.complex64, 2e-4)):
        z = torch.tensor([point], dtype=dtype)
        got = derivatives(HOLOMORPHIC[name], z, 6)
        assert got.dtype == dtype and got.shape == (7, 1)
        torch.testing.assert_close(got[:, 0], wanted.to(dtype), rtol=rtol, atol=0)


def test_a_real_number_to_a_complex_power_agrees_with_thirty_digits():
    # torch's own nested forward mode is wrong here.
    x, c = torch.tensor(0.6, dtype=torch.float64), 1.5 + 0.5j
    for f, precise in ((lambda x: x**c, lambda t: t**c), (lambda x: c**x, lambda t: c**t)):
        wanted = [complex(mpmath.diff(precise, x.item(), k)) for k in range(4)]
        wanted = torch.tensor(wanted, dtype=torch.complex128)
        torch.testing.assert_close(derivatives(f, x, 3), wanted)


@each("name", COMPLEX)
def test_what_is_not_holomorphic_is_differentiated_along_the_direction(name):
    z = torch.tensor([0.3 + 1j, -0.8 + 0.2j], dtype=torch.complex128)
    direction = torch.tensor([1 - 1j, 0.5 + 2j], dtype=torch.complex128)
    t = torch.tensor(0.0, dtype=torch.float64)
    g = lambda t: (COMPLEX[name](z + t * direction),)  # noqa: E731
    for _ in range(3):
        g = raised(g)
    got = derivatives(COMPLEX[name], z, 3, direction=direction)
    torch.testing.assert_close(got, torch.stack(g(t)), rtol=1e-12, atol=1e-12)


@each("f", [torch.abs, torch.var, lambda z: z.norm(), lambda z: z.norm(1), torch.sgn])
def test_what_has_no_derivative_for_complex_numbers_is_refused(f):
    with pytest.raises(NotImplementedError, match="complex|has no rule"):
        derivatives(f, torch.tensor([1 + 2j, 2 - 1j]), 1)


@each("name", CASTS)
def test_a_cast_has_the_type_that_torch_gives(name):
    x = torch.tensor([0.5, -1.5])
    got = derivatives(CASTS[name], x, 2)
    assert got.dtype == CASTS[name](x).dtype
    torch.testing.assert_close(got, jets(CASTS[name], x, 2, torch.ones(2)).to(got.dtype))


@each("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_type_goes_through(dtype):
    x = torch.tensor([0.5, -1.5], dtype=dtype)
    f = lambda x: torch.sigmoid(2 * x + 1) * x.exp() / (1 + x**2)  # noqa: E731
    got = derivatives(f, x, 4)
    assert got.dtype == dtype
    rtol = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), derivatives(f, x.double(), 4), rtol=rtol, atol=rtol)


STEPS = {
    "asinh": torch.asinh,
    "atan": torch.atan,
    "norm": lambda x: x.norm(),
    "std": lambda x: x.std(),
    "hypot": lambda x: torch.hypot(x, x.flip(0)),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "layer_norm with a weight": lambda x: F.layer_norm(x, (4,), x / 400, bias=x),
    "prod": lambda x: (x / 30).prod() / 300,
    "logsumexp": lambda x: x.logsumexp(0),
    "softmax": lambda x: F.softmax(x / 300, 0, dtype=torch.float64).to(x.dtype),
}


@each("name", STEPS)
def test_in_half_precision_no_step_on_the_way_overflows(name):
    x = torch.tensor([300.0, -310.0, 280.0, 400.0])
    got = derivatives(STEPS[name], x.half(), 1, direction=x)
    assert got.dtype == torch.float16
    wanted = derivatives(STEPS[name], x.double(), 1, direction=x)
    torch.testing.assert_close(got.double(), wanted, rtol=4e-3, atol=4e-3)


def test_hypot_of_large_numbers_is_finite():
    x = torch.tensor(3e200, dtype=torch.float64)
    got = derivatives(lambda x: torch.hypot(x, x / 3 * 4), x, 1)
    torch.testing.assert_close(got, torch.tensor([5e200, 5 / 3], dtype=torch.float64))


@each("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)])
def test_every_shape_goes_through(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = derivatives(lambda x: x * torch.sin(x) + 1, x, 5)
    assert got.shape == (6, *shape)
    torch.testing.assert_close(got, nested(lambda x: x * torch.sin(x) + 1, x, 5))
    assert derivatives(lambda x: x.sin().sum(), x, 2).shape == (3,)


CONSTANTS = {
    "larger": torch.ones(2, 1, 3, dtype=torch.float64) * 3,
    "int": 3,
    "bool": True,
    "integers": torch.tensor([3, 1, 2]),
    "bytes": torch.tensor([200, 1, 2], dtype=torch.uint8),
    "booleans": torch.tensor([True, False, True]),
    "of numpy": numpy.float64(1.7),
    "of numpy, single": numpy.float32(1.5),
    "of numpy, whole": numpy.int64(3),
    "without dimension": torch.tensor(2.5, dtype=torch.float16),
    "double": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
}


@each(
    "f",
    [
        lambda x: x.softmax(1),
        lambda x: F.log_softmax(x, 1),
        lambda x: x.logsumexp(1),
        lambda x: x.norm(),
        lambda x: torch.linalg.vector_norm(x, dim=1) + x.sum(1),
        lambda x: torch.linalg.vector_norm(x=x),
    ],
)
def test_of_no_elements_the_value_is_that_of_torch_and_a_constant(f):
    x = torch.empty(2, 0, dtype=torch.float64)
    found = derivatives(f, x, 3)
    assert torch.equal(found[0], f(x))
    assert torch.equal(found[1:], torch.zeros_like(found[1:]))


@each("dtype", [torch.float64, torch.float32])
@each("name", CONSTANTS)
def test_constants_of_every_kind_stand_on_both_sides(name, dtype):
    c = CONSTANTS[name]
    x = torch.tensor([0.6, 1.7, 0.4], dtype=dtype)
    for f in (
        lambda x: (x + c) * 2 + (c + x),
        lambda x: c - x if name not in ("bool", "booleans") else c * x,
        lambda x: x - c if name not in ("bool", "booleans") else x * c,
        lambda x: (x * c) * (c * x),
        lambda x: c / (x + 2) + (x / c if name not in ("bool", "booleans") else x),
        lambda x: x**c if name != "booleans" else x,  # which torch cannot differentiate
        lambda x: c**x if name not in ("bool", "booleans") else x,
        lambda x: torch.where(x > 0.5, x, c) * x,
    ):
        got = derivatives(f, x, 3)
        wanted = jets(f, x, 3, torch.ones_like(x))
        assert got.dtype == f(x).dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(got, wanted.to(got.dtype), rtol=tolerance, atol=tolerance)


def test_the_default_dtype_changes_nothing():
    x = torch.tensor([0.5, -1.5])
    got = derivatives(lambda x: 2.0**x * F.gelu(x), x, 3)
    torch.set_default_dtype(torch.float64)
    try:
        again = derivatives(lambda x: 2.0**x * F.gelu(x), x, 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.dtype == torch.float32 and torch.equal(got, again)


def test_series_of_two_types_meet_in_the_wider():
    x = torch.tensor([0.5, 1.5])
    for f in (
        lambda x: x.double().exp() * x + x / x.double(),
        lambda x: x.double() ** x + x ** x.double(),
        lambda x: torch.cat([x, x.double()]) + torch.maximum(x, x.double() * x)[0],
    ):
        got = derivatives(f, x, 4)
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, derivatives(f, x.double(), 4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "exponent",
    [
        torch.tensor([200, 1, 2], dtype=torch.uint8),
        torch.tensor([100, 1, -2], dtype=torch.int8),
        torch.tensor([300, 0, -200]),
        torch.tensor([0.1, 1.3, 2.7]),
        torch.tensor([0.1, 1.3, -2.7], dtype=torch.float16),
    ],
    ids=str,
)
def test_the_dtype_of_an_exponent_takes_no_digit_from_a_wider_base(exponent):
    x = torch.tensor([1.01, 1.02, 0.97], dtype=torch.float64)
    got = derivatives(lambda x: (x * x) ** exponent, x, 5)
    wanted = nested(lambda x: (x * x) ** exponent.double(), x, 5)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_a_narrow_series_takes_no_digit_from_a_wider_partner():
    x = torch.tensor([1.3, 0.7, 2.1])
    wide = torch.tensor([0.1, 1.3, 2.7], dtype=torch.float64)
    for f in (lambda x: x**wide, lambda x: wide / x, lambda x: wide**x):
        wanted = derivatives(f, x.double(), 4)
        torch.testing.assert_close(derivatives(f, x, 4), wanted, rtol=1e-13, atol=0)


# ---- what is asked of x, and what comes out


def test_the_value_and_the_direction_are_the_first_two():
    x = torch.tensor([1.0, 2.0])
    assert derivatives(torch.exp, x, 0).tolist() == [x.exp().tolist()]
    assert derivatives(lambda x: x, x, 0).shape == (1, 2)
    direction = torch.tensor([3, -1])
    assert derivatives(lambda x: x, x, 2, direction=direction).tolist() == [[1, 2], [3, -1], [0, 0]]
    assert derivatives(lambda x: x, x, 1)[1].tolist() == [1, 1]


def test_what_does_not_depend_on_x_has_the_derivatives_zero():
    x = torch.tensor([1.0, 2.0])
    for f in (
        lambda x: torch.ones(3),
        lambda x: x.detach() * 3,
        lambda x: x.round(),
        lambda x: x > 1,
        lambda x: x.long() + 3,
        lambda x: x.byte(),
    ):
        got = derivatives(f, x, 30)
        assert got.shape[0] == 31 and got.dtype == f(x).dtype
        assert torch.equal(got[0], f(x)) and not got[1:].any()
    assert not derivatives(lambda x: x**2 + x.detach() * x, x, 3)[2].sub(2).any()


def test_a_parameter_a_view_and_a_tensor_that_requires_grad_give_the_same():
    x = torch.tensor([[0.5, 1.0], [2.0, -1.0]], dtype=torch.float64)
    f = lambda x: (x.tanh() * x).cumsum(0)  # noqa: E731
    wanted = derivatives(f, x[:, 0], 3)
    assert not wanted.requires_grad
    for leaf in (nn.Parameter(x[:, 0].clone()), x[:, 0].clone().requires_grad_()):
        got = derivatives(f, leaf, 3)
        assert got.requires_grad and torch.equal(got, wanted)
        assert type(leaf) is not carrier.Carrier and not hasattr(leaf, "series")


def test_under_no_grad_and_inference_mode_nothing_is_recorded_or_kept():
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    inside = []

    def f(x):
        y = torch.relu(weight * x.sin()) + x.amax() + torch.maximum(weight, x)
        inside.extend(map(weakref.ref, y.series))
        return y.exp()

    wanted = derivatives(f, x, 3).detach()
    inside.clear()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            got = derivatives(f, x, 3)
            assert not got.requires_grad and torch.equal(got, wanted)
    gc.collect()
    assert len(inside) == 8 and not any(tensor() is not None for tensor in inside)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_what_f_hides_from_torch_is_refused_in_every_mode(mode):
    for f in (silence, Straight.apply, lambda x: torch.inference_mode()(torch.softmax)(x, 0)):
        with mode(), pytest.raises(NotImplementedError, match="under no_grad or in a custom Func"):
            derivatives(f, torch.ones(2), 2)
    with mode():  # and the next one runs
        assert derivatives(torch.square, torch.ones(2), 2).tolist() == [[1, 1], [2, 2], [2, 2]]


def test_neither_x_nor_the_direction_is_changed():
    x, direction = torch.tensor([0.5, 1.5]), torch.tensor([1.0, 2.0])
    f = lambda x: (x.exp() + x) * x / x.sqrt() - x.where(x > 1, 0)  # noqa: E731
    derivatives(f, x, 4, direction=direction)
    assert x.tolist() == [0.5, 1.5] and direction.tolist() == [1.0, 2.0]


# ---- differentiated in turn


def test_the_gradient_of_a_derivative_is_the_next_one():
    x = torch.tensor([0.3, 1.2, 2.0], dtype=torch.float64, requires_grad=True)
    for f in (lambda x: torch.sigmoid(x) ** 2, lambda x: x**2.5 * x.log(), F.gelu, F.softplus):
        found = derivatives(f, x, 5)
        for k in range(5):
            (slope,) = torch.autograd.grad(found[k].sum(), x, retain_graph=True)
            torch.testing.assert_close(slope, found[k + 1], rtol=1e-9, atol=1e-12)


def test_the_gradient_by_parameters_is_that_of_the_nested_way():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 1)).double()
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None].requires_grad_()
    loss = (derivatives(net, x, 2)[2] + derivatives(net, x, 2)[0]).square().sum()
    y = net[3](plain_layer_norm(net[:2](x), -1, net[2].weight, net[2].bias))
    other = (nth_derivative(y, x, 2) + y).square().sum()
    torch.testing.assert_close(loss, other)
    for got, wanted in zip(
        torch.autograd.grad(loss, [*net.parameters()]),
        torch.autograd.grad(other, [*net.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@each(
    "f",
    [
        lambda x, w: torch.tanh(x * w).prod() + x.softmax(0) @ w,
        lambda x, w: F.elu(1000 * x * w) + torch.atan(w * x) ** w,
        lambda x, w: torch.einsum("i,i->", x, w) * x.norm() + x.std() * w,
        lambda x, w: torch.where(x > 0, x * w, w) + F.layer_norm(x, (3,), w),
        lambda x, w: x ** w.abs().mean() + w.abs() ** x,
    ],
)
def test_gradcheck_passes(f):
    x = torch.tensor([0.4, 0.9, 1.7], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.7, 1.2, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: derivatives(lambda x: f(x, w), x, 3), (x, w))


def test_vmap_and_grad_of_torch_func_go_around_derivatives():
    x = torch.tensor([0.4, 0.9], dtype=torch.float64)
    rows = torch.func.vmap(lambda element: derivatives(torch.sin, element, 3))(x)
    torch.testing.assert_close(rows, derivatives(torch.sin, x, 3).T)
    slope = torch.func.grad(lambda x: derivatives(torch.sin, x, 3)[2].sum())(x)
    torch.testing.assert_close(slope, -x.cos())


# ---- branches and loops


def test_branches_and_loops_go_by_the_value():
    def f(x):
        steps = 0
        while x.abs().max() < 100 and steps < 50:
            x = x * x + 1 if x[0] > 1 else x.exp()
            steps += 1
        for row in x:
            x = x + row * 2
        return x

    def straight(x):
        x = (((x.exp() ** 2 + 1) ** 2 + 1) ** 2 + 1) ** 2 + 1
        return x + 2 * x[0] + 2 * x[1]

    x = torch.tensor([0.3, 0.2], dtype=torch.float64)
    torch.testing.assert_close(f(x), straight(x))
    torch.testing.assert_close(derivatives(f, x, 4), derivatives(straight, x, 4))


def test_checkpointing_changes_nothing():
    x = torch.tensor([0.3, 0.2], dtype=torch.float64)
    f = lambda x: torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=False)  # noqa: E731
    torch.testing.assert_close(derivatives(f, x, 3), derivatives(torch.sin, x, 3))


# ---- points where there is no series

INF = math.inf


@each(
    ("f", "point"),
    [
        (torch.log, 0.0),
        (torch.sqrt, 0.0),
        (torch.abs, 0.0),
        (F.relu, 0.0),
        (lambda x: x**2.5, 0.0),
        (lambda x: x**1.0, 0.0),
        (lambda x: x**0.5, 0.0),
        (lambda x: x ** torch.tensor([3]), 0.0),
        (lambda x: x.norm(), 0.0),
        (lambda x: x.norm(dim=0), 0.0),
        (lambda x: torch.stack([x, x]).std(0), 0.0),
        (F.softplus, 20.0),
        (F.softplus, 20.5),
        (F.elu, 0.0),
        (lambda x: F.softplus(x, 2.0, 3.0), 1.6),
        (lambda x: x.clamp(0, 1), 0.0),
        (lambda x: x.clamp(0, 1), 1.0),
        (F.hardtanh, 1.0),
        (F.relu6, 6.0),
        (lambda x: F.leaky_relu(x, 0.3), 0.0),
        (lambda x: F.threshold(x, 1.0, 5.0), 1.0),
        (torch.acosh, 1.0),
        (torch.asin, 1.0),
        (torch.reciprocal, 0.0),
        (torch.rsqrt, 0.0),
        (F.softsign, 0.0),
        (lambda x: torch.maximum(x, x * x), 1.0),
        (lambda x: x.prod(), 0.0),
        (lambda x: 0 ** (x + 1), 0.0),
        (lambda x: x**x, 0.0),
        (lambda x: x ** (2 + 0 * x), 0.0),
        (lambda x: x ** (2 + x.detach() * x), 0.0),
    ],
)
def test_where_the_series_does_not_exist_the_first_derivative_is_that_of_torch(f, point):
    x = torch.tensor([point], dtype=torch.float64)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
    got = derivatives(f, x, 3)
    torch.testing.assert_close(got[0], f(x))
    torch.testing.assert_close(got[1].reshape(1), slope, equal_nan=True)


@each(
    ("f", "point", "second"),
    [
        (torch.log, 0.0, -INF),
        (torch.sqrt, 0.0, -INF),
        (torch.abs, 0.0, 0),
        (F.relu, 0.0, 0),
        (lambda x: x.clamp(0, 1), 1.0, 0),
        (F.softplus, 25.0, 0),
        (lambda x: x ** torch.tensor([3, 2]), 0.0, [0, 2]),
    ],
)
def test_where_the_series_does_not_exist_the_second_is_infinite_or_that_of_the_branch(
    f, point, second
):
    got = derivatives(f, torch.tensor([point, point], dtype=torch.float64), 2)[2]
    assert got.tolist() == (second if isinstance(second, list) else [second] * 2)


@pytest.mark.parametrize(
    ("exponent", "exist"),
    [(100, 5), (171, 5), (1000, 5), (2.5, 3), (torch.tensor([200]), 5), (torch.tensor([3.5]), 4)],
    ids=str,
)
def test_a_power_at_0_has_the_derivatives_zero_below_the_exponent(exponent, exist):
    got = derivatives(lambda x: x**exponent, torch.zeros(1, dtype=torch.float64), 4)
    assert not got[:exist].any() and got[exist:].isnan().all()


def test_each_whole_exponent_is_right_at_0_whatever_stands_beside_it():
    exponents = torch.tensor([2, 3, 100, 200])
    got = derivatives(lambda x: x**exponents, torch.zeros(4, dtype=torch.float64), 3)
    assert got.tolist() == [[0] * 4, [0] * 4, [2, 0, 0, 0], [0, 6, 0, 0]]


def test_the_norm_at_0_has_no_second_derivative():
    assert derivatives(lambda x: x.norm(), torch.zeros(2), 2).isnan().tolist() == [
        False,
        False,
        True,
    ]


def test_a_row_that_is_masked_out_has_the_value_that_torch_gives():
    mask = torch.tensor([[True, True, True], [False, True, False]])
    f = lambda x: x.masked_fill(mask, -INF).logsumexp(1)  # noqa: E731
    got = derivatives(f, X, 2)
    assert torch.equal(got[0], f(X)) and got[0, 0] == -INF
    torch.testing.assert_close(got[:, 1], derivatives(lambda x: x[1, ::2].logsumexp(0), X, 2))


def test_a_power_by_true_and_false_is_that_by_1_and_0():
    got = derivatives(lambda x: x ** torch.tensor([True, False]), torch.tensor([0.0, 2.0]), 2)
    assert got.tolist() == [[0, 1], [1, 0], [0, 0]]


# ---- what is refused


def at_zero(x):
    """A function in this file, whose lines an error must name."""
    y = x * 2
    y += 1
    return y


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        return (a * a).round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def write(x):
    y = torch.zeros(2)
    y[0] = x[0]
    return y


def silence(x):
    with torch.no_grad():
        return x * x


def keep(x):
    KEPT.append(x * 2)
    return x


KEPT = []
REFUSED = {
    "add_": (lambda x: x.add_(1), "add_ works in place"),
    "+=": (at_zero, "add_ works in place"),
    "x[0] = 1": (lambda x: x.__setitem__(0, 1), "__setitem__ works in place"),
    "y[0] = x[0]": (write, "__setitem__ works in place"),
    "copy_": (lambda x: torch.zeros(2).copy_(x), "copy_ works in place"),
    "requires_grad_": (lambda x: x.requires_grad_(), "requires_grad_ works in place"),
    "out": (lambda x: torch.exp(x, out=torch.zeros(2)), "exp in place; leave out inplace and out"),
    "out of add": (lambda x: torch.add(x, 1, out=torch.zeros(2)), "add in place"),
    "inplace": (lambda x: F.relu(x, inplace=True), "relu in place"),
    "nn.ReLU": (lambda x: nn.SiLU(inplace=True)(x), "silu in place"),
    "item": (lambda x: x[0].item() * x, r"item\(\) leaves torch"),
    "tolist": (lambda x: x.tolist(), r"tolist\(\) leaves torch"),
    "float": (lambda x: float(x[0]) * x, r"float\(\) leaves torch"),
    "int": (lambda x: int(x[0]) * x, r"int\(\) leaves torch"),
    "math.sin": (lambda x: x * math.sin(x[0]), r"float\(\) leaves torch"),
    "numpy": (lambda x: x.numpy(), r"numpy\(\) leaves torch"),
    "numpy.sin": (lambda x: numpy.sin(x), r"array\(\) leaves torch"),
    "torch.tensor": (lambda x: torch.tensor([x[0], x[1]]), r"float\(\) leaves torch"),
    "torch.tensor of x": (lambda x: torch.tensor(x), "as torch.func and copies call it"),
    "new_tensor": (lambda x: x.new_tensor(x), "new_tensor has no rule"),
    "bessel": (lambda x: torch.special.bessel_j0(x), "special_bessel_j0 has no rule; write it"),
    "solve": (lambda x: torch.linalg.solve(torch.outer(x, x), x), "linalg_solve has no rule"),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor(1)), "cross_entropy has no rule"),
    "dropout": (lambda x: F.dropout(x), "dropout in training; call eval"),
    "remainder": (lambda x: x % 2, "remainder has no rule"),
    "float_power": (lambda x: torch.float_power(x, 2), "float_power has no rule"),
    "mode": (lambda x: x.mode(), "mode has no rule"),
    "renorm": (lambda x: x[None].renorm(2, 0, 1), "renorm has no rule"),
    "type": (lambda x: x.type(torch.float64), "type has no rule"),
    "view": (lambda x: x.view(torch.int32), "view as another dtype"),
    "view by name": (lambda x: x.view(dtype=torch.int32), "view as another dtype"),
    "alpha": (lambda x: torch.add(x, x, alpha=x[0]), "add with a series as alpha"),
    "gather": (lambda x: torch.ones(2).gather(0, x), "gather with a series in another argument"),
    "slope": (lambda x: F.leaky_relu(-torch.ones(2), x[0]), "as torch.func and copies call it"),
    "diff": (lambda x: x.diff(prepend=torch.ones(1)), "diff with prepend or append"),
    "diff of 4": (
        lambda x: torch.diff(x, 1, 0, torch.ones(1)),
        "diff with prepend or append",
    ),
    "full_like": (lambda x: torch.full_like(x, x[0]), "full_like with a series to fill in"),
    "new_full": (lambda x: torch.ones(2).new_full((2,), x[0]), "new_full with a series"),
    "masked_fill": (lambda x: x.masked_fill(x > 0, x[0]), "masked_fill with such arguments"),
    "masked_fill by name": (lambda x: x.masked_fill(mask=x > 0, value=1), "masked_fill with such"),
    "where": (lambda x: torch.where(x > 0, input=x, other=x), "where with such arguments"),
    "norm": (lambda x: x.norm(3), "norm with p=3"),
    "norm of a matrix": (lambda x: torch.linalg.norm(torch.outer(x, x), 2), "matrix with ord=2"),
    "norm to infinity": (lambda x: torch.linalg.vector_norm(x, ord=math.inf), "norm with p=inf"),
    "logit": (lambda x: torch.logit(x, eps=0.1), "logit with these arguments"),
    "addmv": (lambda x: torch.addmv(x, mat=torch.eye(2), vec=x), "addmv with these arguments"),
    "softmax": (lambda x: F.softmax(x), "softmax without dim"),
    "exp": (lambda x: torch.Tensor.relu(x).exp2().sigmoid().requires_grad_(), "requires_grad_"),
    "backward": (lambda x: x.sum().backward(), "backward has no rule"),
    "grad": (lambda x: torch.autograd.grad(x.sum(), x), "grad has no rule"),
    "register_hook": (lambda x: x.register_hook(print), "register_hook has no rule"),
    "vmap": (
        lambda x: torch.func.vmap(torch.square)(x),
        "as torch.func and copies",
    ),
    "func.grad": (lambda x: torch.func.grad(lambda x: x.sum())(x), "as torch.func and copies"),
    "custom": (Straight.apply, "mul under no_grad or in a custom Function"),
    "no_grad": (silence, "mul under no_grad or in a custom Function"),
    "deepcopy": (lambda x: x.__deepcopy__({}), "__deepcopy__ has no rule"),
    "nested": (
        lambda x: derivatives(lambda z: z * x, torch.ones(2), 1)[1],
        "a tensor of another run of derivatives",
    ),
}


@each("name", REFUSED)
@pytest.mark.filterwarnings("ignore:To copy construct", "ignore:Implicit dimension")
def test_what_has_no_rule_is_refused_with_its_place_and_a_cure(name):
    f, message = REFUSED[name]
    with pytest.raises(NotImplementedError, match=message) as caught:
        derivatives(f, torch.tensor([0.5, 1.5]), 2)
    found = re.search(r"\(test_taylor\.py:(\d+): (.*)\)$", str(caught.value))
    assert found, str(caught.value)
    lines = Path(__file__).read_text().splitlines()
    assert lines[int(found[1]) - 1].strip() == found[2]
    assert str(caught.value).startswith("derivatives: ")


def test_the_line_that_is_named_is_that_of_the_operation():
    with pytest.raises(NotImplementedError, match=r"test_taylor\.py:\d+: y \+= 1\)$"):
        derivatives(at_zero, torch.ones(2), 1)


def test_a_tensor_that_outlives_its_run_is_refused_in_the_next():
    KEPT.clear()
    derivatives(keep, torch.ones(2), 2)
    with pytest.raises(NotImplementedError, match="another run"):
        derivatives(lambda x: x * KEPT[0], torch.ones(2), 2)
    with pytest.raises(NotImplementedError, match="another run"):
        KEPT[0] + 1
    KEPT.clear()
    x = torch.ones(2)
    inner = derivatives(lambda x: x * derivatives(torch.exp, torch.zeros(()), 2)[1], x, 1)
    assert inner.tolist() == [[1, 1], [1, 1]]


def test_two_threads_do_not_meet():
    found = {}

    def run(order):
        x = torch.full((3,), 0.1 * order, dtype=torch.float64)
        for _ in range(20):
            found[order] = derivatives(lambda x: x.sin() * x, x, order)[order] / 1

    threads = [threading.Thread(target=run, args=(k,)) for k in range(1, 5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for order in range(1, 5):
        x = torch.full((3,), 0.1 * order, dtype=torch.float64)
        torch.testing.assert_close(found[order], nested(lambda x: x.sin() * x, x, order)[order])


def test_a_wrong_argument_is_refused():
    x, meta = torch.ones(2), torch.ones(2, device="meta")
    with FakeTensorMode():
        fake = torch.ones(2)
    for error, message, call in (
        (TypeError, "f must be a function of a tensor, got Tensor", lambda: derivatives(x, x, 1)),
        (TypeError, "x must be a tensor, got float", lambda: derivatives(torch.sin, 1.0, 1)),
        (TypeError, "pass x.double", lambda: derivatives(torch.sin, x.long(), 1)),
        (
            TypeError,
            "x must have numbers.*the device meta",
            lambda: derivatives(torch.sin, meta, 1),
        ),
        (TypeError, "x must have numbers.*a fake", lambda: derivatives(torch.sin, fake, 1)),
        (TypeError, "x must have", lambda: derivatives(torch.add, (x, meta), 1)),
        (
            TypeError,
            "direction must have numbers",
            lambda: derivatives(torch.sin, x, 1, direction=meta),
        ),
        (
            TypeError,
            "normalized must be True or False, got Tensor",
            lambda: derivatives(torch.sin, x, 1, normalized=x),
        ),
        (TypeError, "order must be an int, got float", lambda: derivatives(torch.sin, x, 1.0)),
        (TypeError, "order must be an int, got bool", lambda: derivatives(torch.sin, x, True)),
        (ValueError, "order must be 0 or more, got -1", lambda: derivatives(torch.sin, x, -1)),
        (ValueError, "order must be 170 or less", lambda: derivatives(torch.sin, x, 171)),
        (
            TypeError,
            "direction must be a tensor, got int",
            lambda: derivatives(torch.sin, x, 1, direction=1),
        ),
        (
            ValueError,
            r"the shape of x, \(2,\), got \(3,\)",
            lambda: derivatives(torch.sin, x, 1, direction=torch.ones(3)),
        ),
        (
            TypeError,
            "direction is complex and x is not",
            lambda: derivatives(torch.sin, x, 1, direction=x * 1j),
        ),
        (TypeError, "f must return a tensor, got tuple", lambda: derivatives(lambda x: (x,), x, 1)),
        (TypeError, "f must return a tensor, got float", lambda: derivatives(lambda x: 1.0, x, 1)),
        (
            TypeError,
            "x carries a series already",
            lambda: derivatives(lambda x: derivatives(torch.sin, x, 1)[1], x, 1),
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_normalized_leaves_out_the_factorials():
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    f = lambda x: x.sin() * x  # noqa: E731
    factorials = torch.tensor([math.factorial(k) for k in range(9)], dtype=torch.float64)
    expected = derivatives(f, x, 8) / factorials.view(-1, 1)
    torch.testing.assert_close(derivatives(f, x, 8, normalized=True), expected)
    assert derivatives(f, x.float(), 60, normalized=True).isfinite().all()  # 60! is no float32


# ---- several arguments


def both(x, y):
    return (x * y.exp()).sum(0) - y**3


def test_several_arguments_move_together_along_their_directions():
    u, zero = torch.linspace(-1, 1, 3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    got = derivatives(both, (X, V), 4, direction=(X.cos(), u))
    expected = jets(lambda t: both(X + t * X.cos(), V + t * u), zero, 4, zero + 1)
    torch.testing.assert_close(got, expected)
    got = derivatives(both, (X, V), 3)
    torch.testing.assert_close(got, jets(lambda t: both(X + t, V + t), zero, 3, zero + 1))


def test_an_argument_with_zeros_for_a_direction_is_held_fixed():
    got = derivatives(both, (X, V), 3, direction=(torch.zeros_like(X), torch.ones_like(V)))
    torch.testing.assert_close(got, derivatives(lambda y: both(X, y), V, 3))


def test_a_tuple_of_one_is_as_the_tensor_itself():
    torch.testing.assert_close(derivatives(torch.sin, (X,), 3), derivatives(torch.sin, X, 3))
    got = derivatives(torch.sin, (X,), 3, direction=(Y,))
    torch.testing.assert_close(got, derivatives(torch.sin, X, 3, direction=Y))


def test_wrong_tuples_are_refused():
    x = torch.ones(2)
    for error, message, call in (
        (ValueError, "at least one tensor, got an empty", lambda: derivatives(torch.sin, (), 1)),
        (TypeError, "x must be a tensor, got int", lambda: derivatives(torch.add, (x, 1), 1)),
        (TypeError, "x must be floating", lambda: derivatives(torch.add, (x, x.long()), 1)),
        (
            TypeError,
            "direction must be a tuple of 2 tensors",
            lambda: derivatives(torch.add, (x, x), 1, direction=x),
        ),
        (
            TypeError,
            "direction must be a tuple of 2 tensors",
            lambda: derivatives(torch.add, (x, x), 1, direction=(x,)),
        ),
        (
            ValueError,
            r"the shape of x, \(2,\), got \(3,\)",
            lambda: derivatives(torch.add, (x, x), 1, direction=(x, torch.ones(3))),
        ),
    ):
        with pytest.raises(error, match=message):
            call()


# ---- compiled functions


def curve(x):
    return torch.sin(x) * x


def compiled_inside():
    inside = torch.compile(curve, backend="eager")
    return lambda x: inside(x + 1) * 2


COMPILED = {
    "a function": lambda: torch.compile(curve, backend="eager"),
    "a module": lambda: torch.compile(nn.Linear(3, 3), backend="eager"),
    "inside of f": compiled_inside,
    "for aot autograd": lambda: torch.compile(curve, backend="aot_eager"),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("fresh_compiler")
def test_what_torch_compile_made_is_refused(name):
    f, x = COMPILED[name](), torch.rand(2, 3)
    with pytest.raises(NotImplementedError, match="torch.compile made this function"):
        derivatives(f, x, 2)
    with pytest.raises(NotImplementedError, match="torch.compile made this function"):
        laplacian(f, x)
    assert f(x).shape == x.shape  # for tensors it is as it was
    torch.testing.assert_close(derivatives(curve, x, 2), nested(curve, x, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_function_may_call_derivatives():
    @torch.compile(backend="eager")
    def slope(x):
        torch._dynamo.graph_break()
        return derivatives(curve, x, 1)[1]

    x = torch.rand(3)
    torch.testing.assert_close(slope(x), nested(curve, x, 1)[1])


def test_an_error_of_f_comes_out_as_it_is():
    with pytest.raises(RuntimeError, match="must match the size"):
        derivatives(lambda x: x + torch.ones(3), torch.ones(2), 2)
    for product in (lambda x: x @ torch.ones(2, 2), lambda x: F.linear(x, torch.ones(2, 2))):
        with pytest.raises(RuntimeError):  # not taken for the two coefficients
            derivatives(product, torch.ones(()), 1)
    with pytest.raises(TypeError, match="mine"):
        derivatives(lambda x: lament(F.softplus(x)), torch.ones(2), 2)


def lament(x):
    raise TypeError("mine")


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

    monkeypatch.setattr(table, "RULES", Noting(table.RULES))
    monkeypatch.setattr(table, "PROPERTIES", Noting(table.PROPERTIES))
    above = [*LINEAR.values(), *VECTORS.values(), *PLAIN.values()]
    for function, x in (
        *((f, X) for f in above),
        *((f, IMAGE) for f in CONVOLUTIONS),
        *((f, 0.3 + (name[-5:] == "acosh") + V[:1] * 0) for name, f in ELEMENTWISE.items()),
        *((f, X.float()) for f in CASTS.values()),
        *((f, X[0].to(torch.complex128)) for f in COMPLEX.values()),
        (F.hardsigmoid, X),
        (lambda x: F.layer_norm(x, (3,)) + F.group_norm(x, 3), X),
        (lambda x: F.glu(x.t(), 1), X),
        (attention, X),
    ):

        def f(x, function=function):
            function(x)
            return x

        derivatives(f, x, 1)
    missing = ({*table.RULES} | {*table.PROPERTIES}) - used
    assert not missing, " ".join(sorted(missing))
