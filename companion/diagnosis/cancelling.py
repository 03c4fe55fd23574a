"""Where two gradients of a tensor are equal but for their sign, so that nothing is left of them.

Both come from one difference or quotient: of a sum and one of its terms, or of what was computed
twice in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from companion.diagnosis.asking import is_askable
from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.paths import EdgeKey, Zero
from companion.diagnosis.values import is_readable
from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.saved import Peek


def cancelling(case: Case) -> Iterator[tuple[EdgeKey, Zero]]:
    """The edges whose gradients cancel, and why."""
    nodes = [node for node, saved in case.of({"Div", "Sub"}) if _is_of_both(case, node, saved)]
    edges = case.graph.edges if case.graph and nodes else ()
    arrows = Counter(edge.target for edge in edges)
    for node in nodes:
        is_difference = operation_of(node.name) == "Sub"
        added = _added_before(case, node, arrows) if is_difference else ()
        zero = Zero("what is added is subtracted again", "cancels", node.index)
        yield from dict.fromkeys(added, zero).items()
        reason = "a tensor minus itself" if is_difference else "a tensor divided by itself"
        meeting = _meeting(case, node, arrows)
        yield from dict.fromkeys(meeting, Zero(reason, "twice", node.index)).items()


def _is_of_both(case: Case, node: GraphNode, saved: Peek) -> bool:
    """Whether it is ``x - y`` or ``x / y``, and both get a gradient."""
    slots = case.slots(node.index)  # one of x - 1.0, where torch.ops.aten.sub.Scalar made it
    is_plain = saved.values.get("alpha", 1) == 1 and not saved.values.get("rounding_mode")
    return is_plain and len(slots) == 2 and all(slots)


def _added_before(case: Case, node: GraphNode, arrows: Mapping[int, int]) -> Sequence[EdgeKey]:
    """Of ``(m + e) - m`` the edges to ``m``."""
    whole, part = case.slots(node.index)
    if whole is None or part is None or arrows[whole.target] != 1:
        return ()
    above = case.nodes[whole.target]
    if operation_of(above.name) != "Add" or case.peeks[above.index].values.get("alpha", 1) != 1:
        return ()
    for edge in case.slots(above.index):
        if edge and (edge.target, edge.input_nr) == (part.target, part.input_nr):
            return (node.index, part.slot), (above.index, edge.slot)
    return ()


def _meeting(case: Case, node: GraphNode, arrows: Mapping[int, int]) -> Sequence[EdgeKey]:
    """Of ``f(m) - f(m)`` the edges to ``m``, or to several; none if the two differ anywhere.

    Both ways are walked at once. What lies on them may be used nowhere else.
    """
    meeting, partner = list[EdgeKey](), dict[int, int]()
    seen = Counter[int]()
    waiting = [tuple(case.slots(node.index))]
    while waiting:
        left, right = waiting.pop()
        if left is None or right is None:
            if left is not right:
                return ()
            continue
        if (left.target, left.input_nr) == (right.target, right.input_nr):
            meeting += [(left.source, left.slot), (right.source, right.slot)]
            continue
        seen.update([left.target, right.target])
        if left.target in partner:
            if partner[left.target] != right.target:
                return ()
            continue
        if left.input_nr != right.input_nr or not _are_alike(case, left.target, right.target):
            return ()
        partner[left.target] = right.target
        waiting += zip(case.slots(left.target), case.slots(right.target), strict=True)
    return meeting if all(seen[index] == arrows[index] for index in seen) else ()


def _are_alike(case: Case, left: int, right: int) -> bool:
    """Whether two Nodes do the same to a gradient."""
    nodes, peeks = [case.nodes[i] for i in (left, right)], [case.peeks[i] for i in (left, right)]
    if nodes[0].name != nodes[1].name or shape_or_none(nodes[0]) != shape_or_none(nodes[1]):
        return False
    if not all(is_askable(*pair) for pair in zip(nodes, peeks, strict=True)):
        return False
    values = [peek.values for peek in peeks]
    if values[0].keys() != values[1].keys() or len(case.slots(left)) != len(case.slots(right)):
        return False
    return all(_are_equal(value, values[1][name]) for name, value in values[0].items())


def _are_equal(left: Any, right: Any) -> bool:
    """Whether two saved values are: tensors, lists of them, numbers or None."""
    is_list = isinstance(left, tuple | list)
    lefts, rights = (left, right) if is_list else ((left,), (right,))
    if type(left) is not type(right) or len(lefts) != len(rights):
        return False
    return all(_is_the_same(*pair) for pair in zip(lefts, rights, strict=True))


def _is_the_same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        are_readable = is_readable(left) and is_readable(right)
        # equal() raises for two devices, and takes 1.0 of two dtypes for equal.
        is_fit = (left.dtype, left.device) == (right.dtype, right.device)
        return are_readable and is_fit and torch.equal(left, right)
    return type(left) is type(right) and bool(left == right)
