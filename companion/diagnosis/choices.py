"""Where a formula takes a choice, or gives nothing: ties, repeated indices, a relu that is dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.risks import Risk
from companion.diagnosis.values import bounds_of, is_plain, is_readable
from companion.graph.nodes import Edge

Tensor = torch.Tensor


def choice_of(
    name: str, saved: Mapping[str, Any], shape: tuple[int, ...] | None, slots: Sequence[Edge | None]
) -> Risk | None:
    """What is to be said of the choice that the formula of a Node takes, if any.

    Args:
        name: the class of the Node.
        saved: what it saved.
        shape: the shape of its output.
        slots: where it leads.
    """
    rule = _RULES.get(operation_of(name))
    if rule is None:
        return None
    values = {name: value for name, value in saved.items() if is_plain(value)}
    return rule(_Saved(saved, values, shape, slots))


class _Saved(NamedTuple):
    """What a rule may look at."""

    all: Mapping[str, Any]  # what the Node saved, by name
    values: Mapping[str, Tensor]  # of these the tensors that are plain
    shape: tuple[int, ...] | None  # of its output
    slots: Sequence[Edge | None]  # where the Node leads


_Rule = Callable[[_Saved], Risk | None]


def _writing(repeats_of: Callable[[_Saved], int]) -> _Rule:
    """Some values were written in vain; slot 1 leads to what the values are."""

    def rule(saved: _Saved) -> Risk | None:
        repeats = repeats_of(saved) if any(saved.slots[1:2]) else 0  # no slot 1: it is a number
        often = "once" if repeats == 1 else f"{repeats} times"
        message = f"the indices repeat {often}, and of several values one stays"
        return Risk("duplicate-indices", message) if repeats else None

    return rule


def _relu(saved: _Saved) -> Risk | None:
    result = saved.values.get("result")
    if result is None or bounds_of(result) != (0, 0):  # NaN is none
        return None
    return Risk("dead-relu", "every output of relu is 0")


def _extremum_of_all(saved: _Saved) -> Risk | None:
    # The Node of max(dim) saved indices instead, and chooses one of several.
    if not {"self", "result"} <= set(saved.values):
        return None
    ties = int((saved.values["self"] == saved.values["result"]).sum())
    message = f"{ties} elements tie: each gets 1/{ties} of the gradient"
    return Risk("ties", message) if ties > 1 else None


def _extremum_of_some(saved: _Saved) -> Risk | None:
    if not {"self", "result"} <= set(saved.values):
        return None
    values, result = saved.values["self"], saved.values["result"]
    dims = saved.all["dim"]
    if not saved.all["keepdim"] and dims and values.dim():
        for dim in sorted(dim % values.dim() for dim in dims):
            result = result.unsqueeze(dim)
    equal = values == result
    ties = int((equal & (equal.sum(dims, keepdim=True) > 1)).sum())
    message = f"{ties} elements tie: those of one result share its gradient"
    return Risk("ties", message) if ties else None


def _extremum_of_two(saved: _Saved) -> Risk | None:
    if not {"self", "other"} <= set(saved.values):
        return None
    ties = int((saved.values["self"] == saved.values["other"]).sum())
    message = f"{ties} pairs tie: each of the two gets half of the gradient"
    return Risk("ties", message) if ties else None


def _written_twice(saved: _Saved) -> int:
    """How many elements ``index_put`` wrote to that its indices name a second time."""
    given = {dim: i for dim, i in enumerate(saved.all.get("indices", ())) if i is not None}
    if not given or saved.all["accumulate"] or not all(map(is_readable, given.values())):
        return 0
    if any(index.dtype is not torch.long for index in given.values()):
        return 0  # a mask names each element once
    # A negative one counts from the end.
    indices = [index % saved.shape[dim] if saved.shape else index for dim, index in given.items()]
    shape = torch.broadcast_shapes(*(index.shape for index in indices))  # type: ignore[no-untyped-call]
    elements = torch.stack([index.expand(shape).flatten() for index in indices])
    return int(elements.shape[1] - torch.unique(elements, dim=1).shape[1])


def _scattered_twice(saved: _Saved) -> int:
    """The same of ``scatter``, whose index names elements along one dimension."""
    index, dim = saved.all.get("index"), saved.all.get("dim", 0)
    if not is_readable(index) or index.dim() == 0:
        return 0
    return int((index.sort(dim).values.diff(dim=dim) == 0).sum())


_RULES: dict[str, _Rule] = {
    "Amax": _extremum_of_some,
    "Amin": _extremum_of_some,
    "IndexPut": _writing(_written_twice),
    "Max": _extremum_of_all,
    "Maximum": _extremum_of_two,
    "Min": _extremum_of_all,
    "Minimum": _extremum_of_two,
    "Relu": _relu,
    "Scatter": _writing(_scattered_twice),
}
CHOOSING = _RULES.keys()  # the operations that choice_of knows
