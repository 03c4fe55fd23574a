"""The table of rules: the name of a function of torch, and its rule.

To add a rule, write the name into the list of its kind. If the function can be written with others
that have rules, write it so in composed.py; if it has a recurrence, in series.py; and if it is of a
new kind, in rules.py. A test fails for a name that no test uses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.nn import functional as F

import companion.higher_order.composed as composed
import companion.higher_order.rules as rules
import companion.higher_order.series as series
from companion.higher_order.carrier import Rule, plain, refuse
from companion.higher_order.series import Series
from companion.internals import THRESHOLD, VERSION

# What depends on the value alone, and so is constant.
PLAIN = """
eq ne lt le gt ge __eq__ isnan isinf isfinite isclose allclose equal size dim numel
stride storage_offset element_size get_device __len__ is_floating_point is_complex is_contiguous
is_signed is_nonzero is_inference argmax argmin argsort nonzero any all detach ones_like zeros_like
empty_like rand_like randn_like randint_like new_zeros new_ones new_empty __bool__ bool long int
short char byte floor ceil round trunc fix sign signbit floor_divide __floordiv__ __repr__
__format__ searchsorted bucketize logical_not logical_and logical_or count_nonzero result_type
__dir__ dim_order
""".split()

# What is linear in its first argument.
LINEAR = """
neg negative positive sum mean reshape view flatten unflatten ravel permute transpose swapaxes
swapdims movedim moveaxis t adjoint squeeze unsqueeze expand broadcast_to repeat tile
repeat_interleave __getitem__ select narrow index_select gather take take_along_dim masked_select
diagonal diag diag_embed tril triu flip fliplr flipud roll rot90 cumsum trace split
split_with_sizes chunk tensor_split unbind unfold real imag conj conj_physical resolve_conj
resolve_neg contiguous clone float double half bfloat16 cpu sum_to_size view_as_real
view_as_complex avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d interpolate deg2rad rad2deg fft_fft fft_ifft fft_rfft fft_irfft fft_hfft
fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
fft_fftshift fft_ifftshift
""".split()

# The same, where the other arguments may carry series and only their shape or dtype matters.
LIKE = "to expand_as view_as reshape_as type_as".split()

# What is linear in each of its arguments.
MULTILINEAR = "mm bmm mv dot vdot inner outer ger kron cross tensordot".split()

# What consists of straight pieces.
SLOPED = """
relu abs absolute maximum minimum fmax fmin clamp clip clamp_min clamp_max relu6 hardtanh
leaky_relu threshold hardsigmoid
""".split()

# Elementary functions of one argument, each with the recurrence of its series.
RECURRENCES: dict[str, Callable[[Series], Series]] = {
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

# Of those that networks have most, the series of order 2 by a formula, which is faster.
CURVES: dict[str, Callable[[torch.Tensor], Series]] = {
    "exp": series.curve_of_exp,
    "sin": series.curve_of_sin,
    "cos": series.curve_of_cos,
    "tanh": series.curve_of_tanh,
}

# Functions that are written with others of this table.
COMPOSED: dict[str, Callable[..., Any]] = {
    "softmax": composed.softmax,
    "log_softmax": composed.log_softmax,
    "logsumexp": composed.logsumexp,
    "var": composed.var,
    "std": composed.std,
    "norm": composed.norm,
    "linalg_norm": composed.linalg_norm,
    "linalg_vector_norm": composed.vector_norm,
    "layer_norm": composed.layer_norm,
    "rms_norm": composed.rms_norm,
    "group_norm": composed.group_norm,
    "instance_norm": composed.instance_norm,
    "batch_norm": composed.batch_norm,
    "scaled_dot_product_attention": composed.attention,
    "bilinear": composed.bilinear,
    "hypot": composed.hypot,
    "mse_loss": composed.mse_loss,
    "prod": composed.prod,
    **dict.fromkeys("addmm baddbmm addmv".split(), composed.add_matrix_product),
    "addcmul": lambda a, p, q, value=1: a + value * p * q,
    "addcdiv": lambda a, p, q, value=1: a + value * p / q,
    "lerp": lambda a, b, weight: a + weight * (b - a),
    "dropout": composed.dropout,
    "glu": composed.glu,
    "prelu": composed.prelu,
}

# The same, of one argument and element by element.
POINTWISE: dict[str, Callable[..., Any]] = {
    "silu": composed.silu,
    "gelu": composed.gelu,
    "softplus": composed.softplus,
    "elu": composed.elu,
    "selu": composed.selu,
    "celu": composed.celu,
    "hardswish": lambda x, inplace=False: x * F.relu6(x + 3) / 6,
    "mish": lambda x, inplace=False: x * torch.tanh(F.softplus(x)),
    "softsign": lambda x: x / (1 + x.abs()),
    "tanhshrink": lambda x: x - torch.tanh(x),
    "logit": composed.logit,
}

# Another name of a function: the one that has a rule.
ALIASES = {
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

RULES: dict[str, Rule] = {
    **dict.fromkeys(PLAIN, plain),
    **dict.fromkeys(LINEAR, rules.linear),
    **dict.fromkeys(LIKE, rules.like),
    **dict.fromkeys(MULTILINEAR, rules.multilinear),
    **dict.fromkeys(SLOPED, rules.sloped),
    **{name: rules.elementwise(of, CURVES.get(name)) for name, of in RECURRENCES.items()},
    **{name: composed.composed(function) for name, function in COMPOSED.items()},
    **{name: composed.pointwise(function) for name, function in POINTWISE.items()},
    "add": rules.add(),
    **dict.fromkeys("sub subtract".split(), rules.add(-1)),
    **dict.fromkeys("__rsub__ rsub".split(), rules.add(-1, swapped=True)),
    **dict.fromkeys("mul multiply".split(), rules.multiply),
    **dict.fromkeys("div divide true_divide".split(), rules.divide()),
    "__rdiv__": rules.divide(swapped=True),
    "pow": rules.power(),
    "__rpow__": rules.power(swapped=True),
    "matmul": rules.matmul,
    "linear": rules.linear_layer,
    **dict.fromkeys("conv1d conv2d conv3d".split(), rules.convolution),
    **dict.fromkeys("conv_transpose1d conv_transpose2d".split(), rules.convolution),
    "einsum": rules.einsum,
    "broadcast_tensors": rules.broadcast_tensors,
    "diff": rules.diff,
    "pad": rules.pad,
    **dict.fromkeys("masked_fill index_fill".split(), rules.filled),
    **dict.fromkeys("full_like new_full".split(), rules.full),
    **dict.fromkeys("cat concat concatenate stack hstack vstack dstack".split(), rules.of_lists),
    "where": rules.where,
    **dict.fromkeys("max min median sort topk kthvalue".split(), rules.chosen),
    **dict.fromkeys("amax amin".split(), rules.reduced),
    **dict.fromkeys(rules.MAX_POOLS, rules.max_pool),
}

PROPERTIES: dict[str, Rule] = {
    **dict.fromkeys("T mT H mH real imag".split(), rules.linear),
    **dict.fromkeys(
        "shape dtype device layout ndim requires_grad is_leaf data grad grad_fn is_sparse "
        "is_nested is_quantized is_cpu is_cuda is_meta itemsize nbytes output_nr".split(),
        plain,
    ),
    VERSION: plain,
}

# What gives the number to Python or numpy, which know no series.
LEAVES_TORCH = """
item tolist numpy __float__ __int__ __complex__ __index__ __array__ __dlpack__
""".split()

# What writes into a tensor: add_, x += y, x[0] = y.
IN_PLACE = re.compile(r".*[^_]_|__i.*__|__setitem__")


def lookup(func: Any) -> tuple[str, Rule]:
    """The name and the rule of a function of torch, or of the getter of a property.

    Raises:
        NotImplementedError: it has no rule. The message says what to do instead.
    """
    name = getattr(func, "__name__", None) or str(func)
    if name == "__get__":
        name = getattr(func.__self__, "__name__", "a property")
        rule = PROPERTIES.get(name)
    else:
        rule = RULES.get(name)
    return name, rule or _rule_by_other_name(name)


def _rule_by_other_name(name: str) -> Rule:
    short = name.removeprefix("special_")
    return RULES.get(ALIASES.get(short, short)) or _refuse(name)


def _refuse(name: str) -> NoReturn:
    if name in LEAVES_TORCH:
        refuse(f"{name.strip('_')}() leaves torch, and with it the derivatives; stay with tensors")
    if IN_PLACE.fullmatch(name):
        refuse(f"{name} works in place; write it as y = y + 1 or with torch.where")
    refuse(
        f"{name} has no rule; write it with operations that have one, or differentiate a graph "
        "with nth_derivative"
    )
