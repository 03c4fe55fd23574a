"""What PyTorch's table of derivatives, ``tools/autograd/derivatives.yaml``, says of single Nodes.

A test reads that table in the torch that is installed and compares.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

import torch

from companion.graph.nodes import GraphNode


@cache
def operation_of(name: str) -> str:
    """The operation of a Node: ``"Log1P"`` of ``"Log1PBackward0"``.

    The Node of a custom Function has no number and keeps its name.
    """
    return re.sub(r"Backward\d+$", "", name)


def always_zero(node: GraphNode) -> Collection[int]:
    """The slots along which a Node sends zeros, whatever comes to it and whatever it saved."""
    name = node.name
    if operation_of(name) not in ZERO:
        return ZERO_SLOTS.get(name, ())
    turns = name == "SgnBackward0" and node.dtype.is_complex  # z / |z|, which turns with z
    return () if turns else range(len(node.grad_fn.next_functions))


# The operations whose formula is zeros.
ZERO = set(
    "Bernoulli Cauchy Ceil Eq Exponential Floor Ge Geometric Gt Le LogNormal Lt Ne Normal "
    "Poisson Random Round Sgn Sign Trunc Uniform Zero".split()
)
# Of these, the Nodes of results that are drawn; others that draw write over what was there.
DRAWN = {"BernoulliBackward0", *(f"NormalBackward{i}" for i in (1, 2, 3)), "PoissonBackward0"}
# The same of second derivatives, of what is linear in parts, by slot 1, the values.
LINEAR_IN_PARTS = set(
    "AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D AvgPool2D AvgPool3D "
    "FractionalMaxPool2D FractionalMaxPool3D Hardshrink Hardtanh LeakyRelu MaxPool2D "
    "MaxPool2DWithIndices MaxPool3DWithIndices NllLoss NllLoss2D ReflectionPad1D ReflectionPad2D "
    "ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D RreluWithNoise Softshrink "
    "Threshold".split()
)
# By Node the slots whose formula is zeros, where those of its other slots or of other Nodes of its
# operation are not.
ZERO_SLOTS = {
    **{f"{operation}BackwardBackward0": (1,) for operation in LINEAR_IN_PARTS},
    "CopyBackwards": (0,),  # in no table: what copy_() overwrote
    "CopysignBackward0": (1,),
    "FillBackward0": (0,),
    "FillBackward1": (0,),
    "FillBackward2": (0,),
    "FillBackward3": (0,),
    "NextafterBackward0": (1,),
}
# By Node the slots whose formula is not_implemented: of all first derivatives, and of those second
# ones that take no lists of tensors.
NOT_IMPLEMENTED = {
    "AcoshBackward1": (0,),
    "AsinhBackward1": (0,),
    "AtanhBackward1": (0,),
    "BatchNormBackwardBackward0": (3, 4, 5),
    "CudnnBatchNormBackwardBackward0": (3, 4, 5),
    "EmbeddingBagBackwardBackward0": (0, 1),
    "EmbeddingBagDenseBackwardBackward0": (0, 1),
    "EmbeddingRenormBackward0": (0,),
    "GeqrfBackward0": (0,),
    "IgammaBackward0": (0,),
    "IgammacBackward0": (0,),
    "MiopenBatchNormBackwardBackward0": (3, 4),
    "NativeBatchNormBackwardBackward0": (3, 4),
    "NativeDropoutBackwardBackward0": (1,),
    "NativeLayerNormBackwardBackward0": (2, 3),
    "SpecialZetaBackward0": (0,),
    "SpecialZetaBackward2": (0,),
    "StandardGammaGradBackward0": (0,),
    "Unique2Backward0": (0,),
    "UniqueBackward0": (0,),
    "UniqueConsecutiveBackward0": (0,),
    "UniqueDimBackward0": (0,),
    "UniqueDimConsecutiveBackward0": (0,),
}
_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
if _TORCH < (2, 14):
    NOT_IMPLEMENTED |= {"CdistBackwardBackward0": (0, 1, 2, 3), "PdistBackwardBackward0": (0, 1, 2)}
if _TORCH < (2, 13):
    NOT_IMPLEMENTED |= {"NextafterBackward0": (0, 1)}
