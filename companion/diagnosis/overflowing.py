"""Where a sum or a product of finite numbers is too large for its dtype: found by computing again.

Only what a Node saved, or what is known of its inputs, can be computed with. So of many a sum
nobody can tell without a watch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import mse_loss

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.risks import Risk
from companion.diagnosis.values import is_finite, is_plain
from companion.graph.nodes import Edge

Tensor = torch.Tensor


def overflowing(case: Case) -> dict[int, Risk]:
    """The first operation, from the leaves on, that made infinities or NaN of finite numbers."""
    for index in reversed(case.graph.order if case.graph else ()):  # after all that it leads to
        operands = _operands(case, index)
        if operands and all(is_finite(value) for value in operands):
            result = _computed(case, index, operands)
            if result is not None and not is_finite(result):
                dtype = str(result.dtype).removeprefix("torch.")
                name = case.nodes[index].name
                message = f"{name} gave infinities of finite numbers: too large for {dtype}"
                return {index: Risk("non-finite", message, "overflow")}
    return {}


def _operands(case: Case, index: int, *, is_deep: bool = True) -> list[Tensor]:
    """What an operation computed with; nothing if not all of it is known.

    Args:
        case: what is diagnosed.
        index: the Node.
        is_deep: whether what the Node did not save is looked for at the Nodes that it leads to.
    """
    names, _ = _OPERATIONS.get(operation_of(case.nodes[index].name), ((), None))
    slots, saved, found = case.slots(index), case.peeks[index].values, list[Tensor]()
    for slot, name in enumerate(names):
        value = saved.get(name)
        if value is None and is_deep and slot < len(slots):
            value = _value_at(case, slots[slot])
        if isinstance(value, int | float):
            value = torch.as_tensor(float(value))
        if not is_plain(value):
            return []
        found.append(value)
    return found


def _value_at(case: Case, edge: Edge | None) -> Tensor | None:
    """The value that an edge leads to the origin of, if it is there, or can be had of a product."""
    if edge is None:
        return None
    node, saved = case.nodes[edge.target], case.peeks[edge.target].values
    if node.is_leaf:
        leaf: Tensor = node.grad_fn.variable
        return leaf
    if is_plain(result := saved.get("result")) and edge.input_nr == 0:
        return result
    operands = _operands(case, edge.target, is_deep=False)
    return _computed(case, edge.target, operands) if operands else None


def _computed(case: Case, index: int, operands: list[Tensor]) -> Tensor | None:
    """What an operation gives; of a product to which a term is added, the product."""
    _, compute = _OPERATIONS[operation_of(case.nodes[index].name)]
    try:
        return compute(case.peeks[index].values, *operands)
    except RuntimeError:  # a shape that is not the one of then, such as of a leaf changed since
        return None


def _over(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A sum or a mean, of all or along some dimensions."""

    def along(saved: Mapping[str, Any], value: Tensor) -> Tensor:
        return reduce(value, tuple(saved["dim"])) if saved.get("dim") else reduce(value)

    return along


def _prod(saved: Mapping[str, Any], value: Tensor) -> Tensor:
    return value.prod(saved["dim"]) if "dim" in saved else value.prod()


def _norm(saved: Mapping[str, Any], value: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(value, saved["ord"], saved["dim"])
    return norm


def _mse_loss(saved: Mapping[str, Any], value: Tensor, target: Tensor) -> Tensor:
    return mse_loss(value, target, reduction=("none", "mean", "sum")[saved["reduction"]])


# By operation what it computes with, by the names under which that is saved, if it is: of a Node
# that saves none of it in the order of its slots. And how.
_OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    "Add": (("self", "other"), lambda saved, x, y: x + saved.get("alpha", 1) * y),
    "Addmm": (("mat1", "mat2"), lambda saved, x, y: x @ y),
    "Bmm": (("self", "mat2"), lambda saved, x, y: x @ y),
    "Cumprod": (("self",), lambda saved, x: x.cumprod(saved["dim"])),
    "Div": (("self", "other"), lambda saved, x, y: x / y),
    "Dot": (("self", "tensor"), lambda saved, x, y: x.dot(y)),
    "LinalgVectorNorm": (("self",), _norm),
    "Mean": (("self",), _over(torch.mean)),
    "Mm": (("self", "mat2"), lambda saved, x, y: x @ y),
    "MseLoss": (("self", "target"), _mse_loss),
    "Mul": (("self", "other"), lambda saved, x, y: x * y),
    "Mv": (("self", "vec"), lambda saved, x, y: x @ y),
    "Pow": (("self", "exponent"), lambda saved, x, y: x**y),
    "Prod": (("self",), _prod),
    "Sub": (("self", "other"), lambda saved, x, y: x - saved.get("alpha", 1) * y),
    "Sum": (("self",), _over(torch.sum)),
}
