"""What the formula of a Node makes of a gradient: asked of the Node itself, before any pass.

A Node can be called with a gradient. It then computes what its formula says, and that is all: no
hook is called, nothing that was saved is freed, no ``.grad`` is touched. So no table has to know
where a formula divides by zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import torch

from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.values import bounds_of, is_readable
from companion.graph.nodes import GraphNode
from companion.graph.recorded_pass import Gradients
from companion.graph.saved import Peek
from companion.internals import metadata_of, output_count

Tensor = torch.Tensor


class Spoilt(NamedTuple):
    """A gradient that a Node sends along one of its slots, infinite or NaN somewhere."""

    slot: int
    gradient: Tensor


class Look(NamedTuple):
    """What a Node saved, and what it makes of ones, where that may be infinite, NaN or zero."""

    is_asked: bool = False
    is_extreme: bool = False  # it saved what is infinite or NaN, or has a square that is
    of_zeros: Sequence[str] = ()  # the names of saved tensors that are zero everywhere
    spoilt: Spoilt | None = None  # along the first slot where ones become infinite or NaN
    zeros: Sequence[int] = ()  # the slots where ones become zeros


def answer_of(node: GraphNode, saved: Peek, gradients: Mapping[int, Tensor]) -> Gradients | None:
    """What a Node sends along its slots; None where that is not known unless it runs.

    Args:
        node: the Node, none of a leaf.
        saved: what it saved.
        gradients: what comes to it, by the number of the output.
    """
    return called_with(node, gradients) if is_askable(node, saved) else None


def called_with(node: GraphNode, gradients: Mapping[int, Tensor]) -> Gradients | None:
    """The same of any Node. One that runs code or hooks of the user must not be called."""
    try:
        given = [gradients.get(number) for number in range(output_count(node.grad_fn))]
        sent: Any = node.grad_fn(*given)
    except Exception:  # it will raise in the pass too; other questions tell of that
        return None
    sent = sent if isinstance(sent, tuple) else (sent,)
    return sent if all(gradient is None or is_readable(gradient) for gradient in sent) else None


def is_askable(node: GraphNode, saved: Peek) -> bool:
    """Whether a Node is of torch, and all that it saved is there and dense."""
    if node.is_custom or node.name in _NOT_ASKED or saved.hooked or saved.broken:
        return False
    return all(is_readable(tensor) for _, tensor in saved.tensors)


def ones_for(node: GraphNode, numbers: Collection[int]) -> dict[int, Tensor]:
    """A gradient of ones for some outputs of a Node, by number; without those of another kind."""
    found = dict[int, Tensor]()
    for number in numbers:
        output = metadata_of(node.grad_fn, number)
        try:
            ones = torch.ones((), dtype=output.dtype, device=output.device)
            found[number] = ones.expand(tuple(output.shape))
        except RuntimeError:  # a nested tensor has no shape
            continue
    return found


def look_at(
    node: GraphNode, saved: Peek, reached: Container[tuple[int | None, int]]
) -> Look | None:
    """Ask a Node what it makes of ones, if what it saved may make these infinite, NaN or zero.

    Args:
        node: the Node.
        saved: what it saved.
        reached: where gradients come to: Nodes, and numbers of their outputs.

    Returns:
        None if there is nothing to tell. A Node that saved zeros alone is not asked for that.
    """
    is_extreme, of_zeros = False, list[str]()
    operation = operation_of(name := node.name)
    if operation in _SMOOTH:
        is_extreme, of_zeros = _extremes_of(saved)
        if not is_extreme:
            return Look(of_zeros=of_zeros) if of_zeros else None
    elif not (_has_numbers(saved) or (operation == name and node.is_custom)):
        return None
    spoilt, zeros = None, list[int]()
    outputs = range(output_count(node.grad_fn))
    numbers = [number for number in outputs if (node.index, number) in reached]
    for slot, sent in enumerate(answer_of(node, saved, ones_for(node, numbers)) or ()):
        if sent is None or not sent.numel():
            continue
        low, high = bounds_of(sent)
        if low == high == 0:
            zeros.append(slot)
        elif spoilt is None and not (isfinite(low) and isfinite(high)):
            spoilt = Spoilt(slot, sent)
    return Look(True, is_extreme, of_zeros, spoilt, zeros)


def zero_slots(node: GraphNode, saved: Peek, numbers: Collection[int] = (0,)) -> list[int]:
    """The slots along which a Node sends zeros alone, although no zeros come to it."""
    given = ones_for(node, numbers)
    for number, ones in given.items():  # of ones alone a sum in the formula may happen to be zero
        positions = torch.arange(ones.numel(), device=ones.device)
        given[number] = ones + (positions * 0.618).frac().reshape(ones.shape).to(ones.dtype)
    sent = enumerate(answer_of(node, saved, given) or ())
    found = [(slot, gradient) for slot, gradient in sent if gradient is not None]
    return [slot for slot, gradient in found if gradient.numel() and not gradient.any()]


def _has_numbers(saved: Peek) -> bool:
    """Whether a Node saved what its formula computes with: not sizes and indices alone."""
    values = (*saved.values.items(), *saved.tensors)  # those in lists too
    return any(_is_number(name, value) for name, value in values)


def _extremes_of(saved: Peek) -> tuple[bool, list[str]]:
    """Whether values are infinite, NaN or have a square that is; and which tensors are zero."""
    is_extreme, of_zeros = False, list[str]()
    for name, value in saved.tensors:
        if not is_readable(value) or not value.numel():
            continue
        if value.is_floating_point() or value.is_complex():
            low, high = bounds_of(value)
            limit = math.sqrt(torch.finfo(value.dtype).max)
            is_extreme |= not (-limit < low and high < limit)  # also True of NaN
            is_of_zeros = low == high == 0
        else:
            is_of_zeros = not value[(0,) * value.dim()] and not value.any()
        if is_of_zeros:
            of_zeros.append(name)
    return is_extreme, of_zeros


def _is_number(name: str, value: object) -> bool:
    """Whether it is a number with a fraction, a tensor of these, or a divisor or an exponent."""
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex() or name in _COMPUTED_WITH
    return isinstance(value, float | complex)


# The names of divisors and exponents, which may be whole numbers.
_COMPUTED_WITH = {"exponent", "other", "tensor2"}
# Nodes that are not in torch's table of derivatives, and of which nobody can see what they saved.
_NOT_ASKED = {"AccumulateGrad", "CopySlices", "CppFunction", "Error", "NotImplemented"}
# Those whose formula is finite wherever what they saved is not huge: to be quick with the Nodes
# that most graphs are made of. Any other is asked.
_SMOOTH = set(
    "Addbmm Addcmul Addmm Addmv Addr Baddbmm Bmm Dot Linear Mm Mul Mv Vdot "
    "Convolution ConvolutionOverrideable CudnnConvolution MkldnnConvolution SlowConv2D "
    "Embedding EmbeddingBag CudnnRnn MkldnnRnnLayer ThnnFusedGruCell ThnnFusedLstmCell "
    "CudnnBatchNorm FusedRmsNorm NativeBatchNorm NativeGroupNorm NativeLayerNorm NativeDropout "
    "ScaledDotProductCudnnAttention ScaledDotProductEfficientAttention "
    "ScaledDotProductFlashAttention ScaledDotProductFlashAttentionForCpu "
    "Cos Exp Expm1 Sin Tanh Sigmoid Softmax LogSoftmax Softplus LogSigmoid LogSigmoidBackward "
    "Celu Elu Gelu Glu Hardsigmoid Hardswish Hardtanh LeakyRelu Mish Prelu Relu Selu Silu "
    "AvgPool2D AvgPool3D MaxPool2DWithIndices MaxPool3DWithIndices "
    "BinaryCrossEntropyWithLogits HuberLoss MseLoss NllLoss NllLoss2D SmoothL1Loss".split()
)
