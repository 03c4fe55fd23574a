"""The rules by which common Nodes turn what they are given into what they pass on.

A rule is an expression in PyTorch's own words, for one entry of ``next_functions``. ``grad`` is
what the Node was given; all other names are what it saved. An expression is shown only where it
gives what the Node really gave, so the table cannot say something wrong of a pass.

Source: tools/autograd/derivatives.yaml of PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from companion.internals import is_without_numbers

# What an expression may raise that does not go with what a Node saved, or with its dtype.
REFUSED = (RuntimeError, TypeError, AttributeError, LookupError, ValueError, ArithmeticError)

FORMULAS: dict[str, tuple[str, ...]] = {
    "AbsBackward0": ("grad * sign(self)",),
    "AddBackward0": ("grad", "grad * alpha"),
    "AddmmBackward0": ("grad * beta", "grad @ mat2.T * alpha", "mat1.T @ grad * alpha"),
    "AtanBackward0": ("grad / (self * self + 1)",),
    "CloneBackward0": ("grad",),
    "CosBackward0": ("-grad * sin(self)",),
    "CoshBackward0": ("grad * sinh(self)",),
    "CumsumBackward0": ("grad.flip(dim).cumsum(dim).flip(dim)",),
    "DivBackward0": ("grad / other", "-grad * self / (other * other)"),
    "DotBackward0": ("grad * tensor", "grad * self"),
    "ExpBackward0": ("grad * result",),
    "ExpandBackward0": ("grad.sum_to_size(self_sym_sizes)",),
    "Expm1Backward0": ("grad * (result + 1)",),
    "Log1PBackward0": ("grad / (self + 1)",),
    "LogBackward0": ("grad / self",),
    "MeanBackward0": ("grad.expand(self_sym_sizes) / self_sym_numel",),
    "MmBackward0": ("grad @ mat2.T", "self.T @ grad"),
    "MulBackward0": ("grad * other", "grad * self"),
    "MvBackward0": ("outer(grad, vec)", "self.T @ grad"),
    "NegBackward0": ("-grad",),
    "PermuteBackward0": ("grad.permute(argsort(tensor(dims)).tolist())",),
    "PowBackward0": ("grad * exponent * self ** (exponent - 1)",),
    "ReciprocalBackward0": ("-grad * result * result",),
    "ReluBackward0": ("where(result > 0, grad, 0)",),
    "RsqrtBackward0": ("-0.5 * grad * result ** 3",),
    "SigmoidBackward0": ("grad * (1 - result) * result",),
    "SinBackward0": ("grad * cos(self)",),
    "SinhBackward0": ("grad * cosh(self)",),
    "SoftmaxBackward0": ("(grad - (grad * result).sum(dim, True)) * result",),
    "SqrtBackward0": ("grad / (2 * result)",),
    "SqueezeBackward0": ("grad.reshape(self_sym_sizes)",),
    "SubBackward0": ("grad", "-grad * alpha"),
    "SumBackward0": ("grad.expand(self_sym_sizes)",),
    "TBackward0": ("grad.T",),
    "TanBackward0": ("grad * (1 + result * result)",),
    "TanhBackward0": ("grad * (1 - result * result)",),
    "TransposeBackward0": ("grad.transpose(dim0, dim1)",),
    "UnsafeViewBackward0": ("grad.reshape(self_sym_sizes)",),
    "UnsqueezeBackward0": ("grad.squeeze(dim)",),
    "ViewBackward0": ("grad.reshape(self_sym_sizes)",),
    "WhereBackward0": ("where(condition, grad, 0)", "where(condition, 0, grad)"),
}


def formula(
    name: str,
    slot: int,
    grad: torch.Tensor | None,
    saved: Mapping[str, Any] | None,
    passed_on: torch.Tensor | None,
) -> str | None:
    """The rule by which a Node passed a gradient on along one of its slots.

    Args:
        name: the class of the Node.
        slot: the entry of ``next_functions``.
        grad: what the Node was given.
        saved: what it had saved; None if that is not known.
        passed_on: that gradient.

    Returns:
        The expression, with ``sum_to_size`` where the operation stretched its input. Or None: there
        is no rule for this Node, something it needs is not known, or what the Node passed on is
        something else, which is the case if a hook changed it.
    """
    rules = FORMULAS.get(name, ())
    if slot >= len(rules) or grad is None or saved is None or passed_on is None:
        return None
    if is_without_numbers(grad):  # nothing to compare, and a fake tensor mixes with no other
        return None
    rule = rules[slot]
    values = {name: _exact(value) for name, value in {**saved, "grad": grad}.items()}
    try:
        # The expressions are those above, and nothing that a user wrote.
        result = eval(rule, vars(torch), values)
        if result.shape != passed_on.shape:
            result = result.sum_to_size(passed_on.shape)
            operand = rule if rule.isidentifier() else f"({rule})"
            rule = f"{operand}.sum_to_size({tuple(passed_on.shape)})"
        # PyTorch computes in the exact dtype, with a few roundings, and rounds once to its own.
        # Where numbers cancel, the roundings are those of the largest.
        exact = _exact(passed_on)
        rtol = 2 * torch.finfo(passed_on.dtype).eps + 16 * torch.finfo(exact.dtype).eps
        atol = rtol * float(exact.abs().max()) if exact.numel() else 0.0
        is_same = torch.allclose(result.to(exact.dtype), exact, rtol, atol, equal_nan=True)
    except REFUSED:
        return None  # such as a saved tensor that is None, or a sparse gradient
    return rule if is_same else None


def _exact(value: Any) -> Any:
    """A tensor of low precision as float32, in which PyTorch computes it inside."""
    low = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if low else value


def filled(
    rule: str,
    grad: torch.Tensor,
    saved: Mapping[str, Any],
    show: Callable[[Any], str],
) -> str | None:
    """The expression with numbers in place of the names; None if one of them is not a number.

    Args:
        rule: what ``formula`` returned.
        grad: what the Node was given.
        saved: what it had saved.
        show: how to write a value.
    """
    values = {**saved, "grad": grad}
    used = {name for name in re.findall(r"(?<![\w.])[a-z]\w*(?!\w*\()", rule) if name in values}
    if any(isinstance(values[name], torch.Tensor) and values[name].numel() > 1 for name in used):
        return None

    def number(match: re.Match[str]) -> str:
        text = show(values[match[0]]) if match[0] in used else match[0]
        needs_brackets = text[:1] == "-" or "j" in text or rule[match.end() :][:1] == "."
        return f"({text})" if needs_brackets else text

    text = re.sub(r"(?<![\w.])[a-z]\w*", number, rule)
    return text if text != rule else None
