"""The rules of a program: those of ``formulas.py``, in the form that gives the same bits.

PyTorch rounds after each operation, so ``grad * result * result`` and ``grad * (result * result)``
differ in the last bits. Where the order matters, the rule stands here as PyTorch has it; rules that
only a program needs stand here too. A rule gets into a text only if it gave, for the numbers at
hand, what the Node gave.

Source: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp of PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from companion.backward.formulas import FORMULAS

# For each slot the alternatives, the first to be tried first. ``kept``, ``n``, ``lower`` and others
# that no Node saves are made by ``derived``.
_SUMMED = (
    "grad.expand(sizes_of_kept)",
    "grad.unsqueeze(dim).expand(self_sym_sizes)",
    "grad.reshape(kept).expand(self_sym_sizes)",
)
RULES: dict[str, tuple[tuple[str, ...], ...]] = {
    "AbsBackward0": (("grad * sign(self)", "grad * sgn(self)"),),
    "AddmmBackward0": (
        ("grad * beta",),
        ("grad @ mat2.T * alpha", "(mat2 @ grad.T).T * alpha"),
        ("mat1.T @ grad * alpha", "(grad.T @ mat1).T * alpha"),
    ),
    "AliasBackward0": (("grad",),),
    "BmmBackward0": (("grad @ mat2.mT",), ("self.mT @ grad",)),
    "ClampBackward1": (
        ("where((self >= min) & (self <= max), grad, 0)",)
        + ("where(self >= min, grad, 0)", "where(self <= max, grad, 0)"),
    ),
    "ClampMinBackward0": (("where(self >= min, grad, 0)",),),
    "ClampMaxBackward0": (("where(self <= max, grad, 0)",),),
    "DivBackward0": (("grad / other",), ("-grad * ((self / other) / other)",)),
    "EmbeddingBackward0": (
        ("grad.new_zeros(shape).index_put((indices,), grad, accumulate=True)",),
    ),
    "ErfBackward0": (("1.1283791670955126 * exp(-(self ** 2)) * grad",),),
    "FlipBackward0": (("grad.flip(dims)",),),
    "GatherBackward0": (("grad.new_zeros(shape).scatter_add(dim, index, grad)",),),
    "IndexBackward0": (
        ("grad.new_zeros(self_sym_sizes).index_put((indices,), grad, accumulate=True)",),
    ),
    "IndexSelectBackward0": (("grad.new_zeros(self_sym_sizes).index_add(dim, index, grad)",),),
    "LeakyReluBackward0": (("where(self > 0, grad, grad * negative_slope)",),),
    "LinalgVectorNormBackward0": (("self * (grad / result)", "grad * (self / result)"),),
    "LogSoftmaxBackward0": (("grad - exp(result) * grad.sum(dim, True)",),),
    "MaxBackward1": (("where(self == result, grad / (self == result).sum(), 0)",),),
    "MaximumBackward0": (
        ("where(self == other, grad / 2, grad).masked_fill(self < other, 0)",),
        ("where(self == other, grad / 2, grad).masked_fill(self > other, 0)",),
    ),
    "MeanBackward1": (tuple(f"{rule} / n" for rule in _SUMMED),),
    "MinBackward1": (("where(self == result, grad / (self == result).sum(), 0)",),),
    "MinimumBackward0": (
        ("where(self == other, grad / 2, grad).masked_fill(self > other, 0)",),
        ("where(self == other, grad / 2, grad).masked_fill(self < other, 0)",),
    ),
    "MmBackward0": (
        ("grad @ mat2.T", "(mat2 @ grad.T).T"),
        ("self.T @ grad", "(grad.T @ self).T"),
    ),
    "MseLossBackward0": (("2 / n * (self - target) * grad", "2 * (self - target) * grad"),),
    "PermuteBackward0": (("grad.permute(inverse)",),),
    "PowBackward0": (("grad * (exponent * self ** lower)",),),
    "PowBackward1": (
        ("grad * (exponent * self ** (exponent - 1))",),
        ("grad * (result * log(self))",),
    ),
    "PowBackward2": (("grad * (result * log_of_self)",),),
    "ReciprocalBackward0": (("-grad * (result * result)",),),
    "ReshapeAliasBackward0": (("grad.reshape(self_sym_sizes)",),),
    "RsubBackward0": (("-grad * alpha",), ("grad",)),
    "RsubBackward1": (("-grad * alpha",),),
    "SelectBackward0": (("grad.new_zeros(self_sym_sizes).select_scatter(grad, dim, index)",),),
    "SiluBackward0": (("grad * sigmoid(self) * (1 + self * (1 - sigmoid(self)))",),),
    "SliceBackward0": (
        ("grad.new_zeros(self_sym_sizes).slice_scatter(grad, dim, start, end, step)",),
    ),
    "SoftplusBackward0": (("grad * sigmoid(self * beta)",),),
    "SqueezeBackward1": (("grad.unsqueeze(dim)", "grad"),),
    "SqueezeBackward2": (("grad.reshape(self_sym_sizes)",),),
    "StdBackward0": (("1 / n * (grad / result) * (self - self.mean())",),),
    "SumBackward1": (_SUMMED,),
    "ToCopyBackward0": (("grad",),),
    "TrilBackward0": (("grad.tril(diagonal)",),),
    "TriuBackward0": (("grad.triu(diagonal)",),),
    "VarBackward0": (("2 / n * grad * (self - self.mean())",),),
}


def rules_of(name: str, slot: int) -> tuple[str, ...]:
    """The rules for a slot of a Node, the first to be tried first."""
    if name == "StackBackward0":
        return (f"grad.select(dim, {slot})",)
    if name == "CatBackward0":
        return ("grad.narrow(dim, start, length)",)
    if name in RULES:
        return RULES[name][slot] if slot < len(RULES[name]) else ()
    return FORMULAS.get(name, ())[slot : slot + 1]


def derived(
    name: str, saved: Mapping[str, Any], slot: int, shapes: list[tuple[int, ...] | None]
) -> dict[str, Any]:
    """What a Node saved, as its rule wants it, and what follows from that.

    Args:
        name: the class of the Node.
        saved: what it saved.
        slot: the entry of ``next_functions``.
        shapes: what each entry leads to has this shape; None where it leads nowhere.
    """
    values = {**saved, "shape": shapes[slot]}
    if "keepdim" in values and isinstance(values.get("dim"), tuple) and "self_sym_sizes" in values:
        values |= _of_dims(values["dim"], values["self_sym_sizes"], values["keepdim"])
    if name == "CatBackward0":
        return values | _of_cat(values["dim"], shapes[: slot + 1])
    return values | (_DERIVED[name](values) if name in _DERIVED else {})


def _of_dims(dim: tuple[int, ...], sizes: tuple[int, ...], keepdim: bool) -> dict[str, Any]:
    """Of a sum or mean along dimensions: how many numbers went into one, and where they came from.

    Each way to undo it has names of its own, so that the others are not known.
    """
    count = len(sizes)
    dims = {d % count for d in dim or range(count)} if count else set[int]()
    kept = tuple([1 if d in dims else size for d, size in enumerate(sizes)])
    return {
        "n": math.prod([sizes[d] for d in dims]),
        "sizes_of_kept": sizes if keepdim else None,
        "dim": dim[0] if len(dim) == 1 and not keepdim else None,
        "kept": kept,
    }


def _of_variance(values: Mapping[str, Any]) -> dict[str, Any]:
    correction = values.get("correction")
    if values.get("dim") is not None or correction not in (None, 0, 1):
        return {}
    return {"n": values["self"].numel() - (1 if correction is None else correction)}


def _of_mse_loss(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"n": values["self"].numel()} if values["reduction"] == 1 else {}


def _of_power(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"lower": values["exponent"] - 1}


def _of_number_to_a_power(values: Mapping[str, Any]) -> dict[str, Any]:
    base = values["self"]
    return {"log_of_self": math.log(base)} if isinstance(base, int | float) and base > 0 else {}


def _of_permute(values: Mapping[str, Any]) -> dict[str, Any]:
    dims = [dim % len(values["dims"]) for dim in values["dims"]]
    return {"inverse": tuple(sorted(range(len(dims)), key=dims.__getitem__))}


def _of_slice(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"end": min(values["end"], values["self_sym_sizes"][values["dim"]])}


def _of_cat(dim: int, shapes: list[tuple[int, ...] | None]) -> dict[str, Any]:
    """Where in a concatenation the last of some tensors begins, and how long it is."""
    lengths = [shape[dim] for shape in shapes if shape]
    known = len(lengths) == len(shapes)
    return {"start": sum(lengths[:-1]), "length": lengths[-1]} if known else {}


_DERIVED: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "MseLossBackward0": _of_mse_loss,
    "PermuteBackward0": _of_permute,
    "PowBackward0": _of_power,
    "PowBackward2": _of_number_to_a_power,
    "SliceBackward0": _of_slice,
    "StdBackward0": _of_variance,
    "VarBackward0": _of_variance,
}


def written(rule: str, show: Callable[[str], str | None], saved: Mapping[str, Any]) -> str | None:
    """The rule in the words of a program; None if something in it is not known.

    Args:
        rule: one of those that ``rules_of`` gave.
        show: how the program writes ``grad``, or what was saved under a name; None if it cannot.
        saved: what ``derived`` gave.
    """
    for factor in ("alpha", "beta"):
        if saved.get(factor) == 1:
            rule = rule.replace(f" * {factor}", "")
    unknown = False

    def word(match: re.Match[str]) -> str:
        nonlocal unknown
        name, rest = match[0], rule[match.end() :]
        if rest.startswith("=") and not rest.startswith("==") or name in ("True", "False"):
            return name
        if name != "grad" and name not in saved and rest.startswith("("):
            return f"torch.{name}"
        text = show(name) if name == "grad" or name in saved else None
        if text is None:
            unknown = True
            return name
        binds = (".", " **") if text[0] == "-" else (".",) if text[0].isdigit() else ()
        return f"({text})" if rest.startswith(binds) else text

    text = re.sub(r"(?<![\w.])[a-zA-Z]\w*", word, rule)
    return None if unknown else text
