"""Which cuts take nothing from the gradients of an output: they made a constant term, or a scale.

A constant that is only added to a loss changes its value and none of its gradients. One that stands
beside the tensor whose value it is, as in ``loss / loss.item()``, is a scale on purpose.
"""

from __future__ import annotations

import math

import torch

from companion.forward.notes import Origin, Value
from companion.forward.torch_functions import ADDING, LEAVING
from companion.forward.watching import Watch

Tensor = torch.Tensor


def cuts_only_added(watch: Watch, output: Tensor) -> set[int]:
    """The indices of the cuts of which an output has nothing but constant terms.

    The output is taken for a sum of numbers, as a loss is. A term that was computed from what it is
    added to is none of these: ``soft + (hard - soft).detach()`` gives another value on purpose.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    value = watch._value_of(output)
    if not (terms := _constant_terms(watch, value)):
        return set()
    watch._classify()
    elsewhere = watch._upstream([value], lambda i, nr: (i, nr) not in terms) - terms.keys()
    within = watch._upstream(terms.values())
    cuts = watch._cuts_at(origin for origin in within if watch._is_cut(*origin))
    others = watch._cuts_at(origin for origin in elsewhere if watch._is_cut(*origin))
    return {cut.index for cut in cuts} - {cut.index for cut in others}


def cuts_to_scales(watch: Watch, output: Tensor) -> set[int]:
    """The indices of the cuts that made a number of a tensor which the output has with its graph.

    Raises:
        TypeError: ``output`` is not a tensor.
    """
    watch._classify()
    notes = watch._recorder.notes
    with_graph = watch._upstream([watch._value_of(output)], watch._is_no_cut)
    with_graph = {origin for origin in with_graph if not watch._is_cut(*origin)}
    leaving = [i for i, note in enumerate(notes) if note.live and note.name in LEAVING]
    beside = [
        (i, 0)
        for i in leaving
        if all(value.origin in with_graph for value in notes[i].inputs if value.requires_grad)
    ]
    return {cut.index for cut in watch._cuts_at(beside)}


def _constant_terms(watch: Watch, output: Value) -> dict[Origin, Value]:
    """The terms of a sum that have no graph, by their origins, as far as they are numbers."""
    notes, terms = watch._recorder.notes, dict[Origin, Value]()
    seen, waiting = set[Origin](), [output]
    while waiting:
        value = waiting.pop()
        if value.made_by is None or value.origin in seen:
            continue
        seen.add(value.origin)
        note = notes[value.made_by]
        name = note.name.strip("_")
        with_graph = [each for each in note.inputs if each.requires_grad]
        if name in _SCALING and len(with_graph) == 1 or name in _RESHAPING:
            waiting += with_graph
        elif (name in ADDING or name in _JOINING) and all(map(_is_one_number, note.inputs)):
            waiting += with_graph
            for term in note.inputs:
                if not (term.requires_grad or _replaces(watch, term, with_graph)):
                    terms[term.origin] = term
    return terms


def _is_one_number(value: Value) -> bool:
    return value.shape is not None and math.prod(value.shape) == 1


def _replaces(watch: Watch, term: Value, others: list[Value]) -> bool:
    """Whether a term was computed from what it is added to, and so gives that another value."""
    first = min((-1 if other.made_by is None else other.made_by for other in others), default=0)
    upstream = watch._upstream([term], lambda i, nr: i > first)  # what came before it is not asked
    return any(other.origin in upstream for other in others)


_JOINING = {"stack", "cat"}
_RESHAPING = set(
    "sum mean neg squeeze unsqueeze view reshape flatten clone to float double".split()
)
_SCALING = set("mul rmul imul div truediv itruediv true_divide".split())
