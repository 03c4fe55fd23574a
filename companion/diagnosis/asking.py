"""What the formula of a Node makes of a gradient: asked of the Node itself, before any pass.

A Node can be called with a gradient. It then computes what its formula says, and that is all: no
hook is called, nothing that was saved is freed, no ``.grad`` is touched. So no table has to know
where a formula divides by zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.values import bounds_of, is_finite, is_readable
from companion.graph.nodes import GraphNode
from companion.graph.saved import Peek
from companion.internals import metadata_of, output_count

Tensor = torch.Tensor
Gradients = Sequence[Tensor | None]


class Spoilt(NamedTuple):
    """A gradient that a Node sends along one of its slots, infinite or NaN somewhere."""

    slot: int
    gradient: Tensor


def answer_of(node: GraphNode, saved: Peek, gradients: Mapping[int, Tensor]) -> Gradients | None:
    """What a Node sends along its slots; None where that is not known unless it runs.

    Args:
        node: the Node, none of a leaf.
        saved: what it saved.
        gradients: what comes to it, by the number of the output.
    """
    if not _is_askable(node, saved):
        return None
    try:
        given = [gradients.get(number) for number in range(output_count(node.grad_fn))]
        sent: Any = node.grad_fn(*given)
    except Exception:  # it will raise in the pass too; other questions tell of that
        return None
    sent = sent if isinstance(sent, tuple) else (sent,)
    return sent if all(one is None or is_readable(one) for one in sent) else None


def _is_askable(node: GraphNode, saved: Peek) -> bool:
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
            one = torch.ones((), dtype=output.dtype, device=output.device)
            found[number] = one.expand(tuple(output.shape))
        except RuntimeError:  # a nested tensor has no shape
            continue
    return found


def spoilt_answer(node: GraphNode, saved: Peek, numbers: Collection[int]) -> Spoilt | None:
    """What a Node makes of ones along the first slot where that is infinite or NaN somewhere.

    Args:
        node: the Node, none of a leaf.
        saved: what it saved.
        numbers: those of the outputs that a gradient comes to.
    """
    sent = answer_of(node, saved, ones_for(node, numbers)) or ()
    found = (Spoilt(slot, one) for slot, one in enumerate(sent) if one is not None)
    return next((spoilt for spoilt in found if not is_finite(spoilt.gradient)), None)


def is_smooth(node: GraphNode) -> bool:
    """Whether the formula of a Node is finite for all moderate values that it saved."""
    return operation_of(node.name) in _SMOOTH


def has_numbers(saved: Peek) -> bool:
    """Whether a Node saved what its formula computes with: not sizes and indices alone."""
    values = (*saved.values.items(), *saved.tensors)  # those in lists too
    return any(_is_number(name, value) for name, value in values)


def has_extreme_values(saved: Peek) -> bool:
    """Whether a Node saved what is infinite or NaN, or so large that its square is."""
    return not all(_is_moderate(tensor) for _, tensor in saved.tensors if is_readable(tensor))


def _is_number(name: str, value: object) -> bool:
    """Whether it is a number with a fraction, a tensor of these, or a divisor or an exponent."""
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.is_complex() or name in _COMPUTED_WITH
    return isinstance(value, float | complex)


def _is_moderate(value: Tensor) -> bool:
    """Whether all elements have a square that is finite."""
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        return True
    low, high = bounds_of(value)
    limit = math.sqrt(torch.finfo(value.dtype).max)
    return -limit < low and high < limit  # also False of NaN


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
