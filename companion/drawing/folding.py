"""A Graph of more Nodes than a person can read becomes a few boxes; no Node is left out.

The operations are laid out in the order in which a backward pass runs them. A box is a stretch of
that order (a chain may be spread over it), so no box leads back to one before it.

1. Where the modules are known, each call of a module becomes a box.
2. Stretches that repeat become one box: each Node of the next copy has the same class, and its
   entries lead equally far ahead, or to the very same Node outside of it. A leaf is the same, or
   one of the same shape that was used equally far back, or neither was used before. The shapes of
   results do not count.
3. A chain of operations, each of which leads to the next alone, becomes one box.
4. If all that is not enough, what lies deepest becomes one last box.

A leaf that belongs to one box alone is in that box. One that is used more than three times is drawn
at each use, since lines from everywhere to one place are what makes a drawing unreadable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle
from typing import Any, Literal, NamedTuple

from companion.graph.modules import Call
from companion.graph.nodes import Edge, GraphNode, shape_or_none
from companion.graph.reading import Graph, garbage_collection_paused

_Slots = tuple[Edge | None, ...]
_Origin = tuple[int, int, int]  # of an edge: which Node of its box, which slot, which input_nr
_Lead = tuple[_Origin, int, Any]  # an edge from a box: its origin, its target, how far that is
_Users = dict[tuple["Box", int], list[Edge]]  # of a leaf: which box, which slot, by which edges
_Run = tuple[int, int]  # from which box to which equal stretches follow one another
_Kind = Literal["node", "module", "copies", "chain", "rest"]
_FEW = 3  # uses of a leaf, or edges from a Node into a block, that are drawn as lines of their own
_GAIN = 3  # more boxes than this must a fold save
_TRIES = 16  # of the periods that are most likely


@dataclass(slots=True, eq=False)
class Box:
    """A Node, or a block of several Nodes.

    Attributes:
        nodes: the indices of its Nodes, without ``leaves``: in the order in which they run, but
            chains in one piece.
        kind: a ``"node"`` (a leaf too) is one Node; a ``"module"`` is the Nodes of one call; of
            ``"copies"`` several equal stretches follow one another; a ``"chain"`` leads straight
            down; the ``"rest"`` is what lies deepest.
        copies: how many equal stretches there are in it.
        call: of a module, or of copies of a module, the (first) call.
        leaves: the indices of the leaves that are used in here and nowhere else.
        use: for a leaf that is drawn at each use: which use this is, and of how many.
        nones: how many entries of ``next_functions`` are None in a block.
    """

    nodes: list[int]
    kind: _Kind = "node"
    copies: int = 1
    call: Call | None = None
    leaves: list[int] = field(default_factory=list)
    use: tuple[int, int] | None = None
    nones: int = 0
    content: int = -1  # equal for boxes with equal insides

    @property
    def is_block(self) -> bool:
        return self.kind != "node"

    @property
    def first_copy(self) -> list[int]:
        """The Nodes of the first of its copies; all of them where there is but one."""
        return self.nodes[: len(self.nodes) // self.copies]

    @property
    def is_further_use(self) -> bool:
        """Whether the same leaf has another box for an earlier use."""
        return self.use is not None and self.use[0] > 1


class Arrow(NamedTuple):
    """What leads from a box: an entry of ``next_functions``, or several drawn as one.

    Attributes:
        target: the box that it leads to; None for an entry that is None.
        slot: the position of the entry; None where there is but one, or it stands for several.
        input_nr: which input of the target the gradient enters; of a block always 0.
        edges: how many edges it stands for.
    """

    target: Box | None
    slot: int | None
    input_nr: int = 0
    edges: int = 1


@dataclass(slots=True)
class Folded:
    """The boxes of a graph, root first, and for each box the edges that lead to which others.

    Edges that stay inside a box are not among them.
    """

    graph: Graph
    slots: Sequence[_Slots]  # of each Node
    boxes: list[Box]
    edges: dict[Box, dict[Box, list[Edge]]]

    def node(self, box: Box) -> GraphNode:
        """The Node of a box; of a block the first."""
        return self.graph.nodes[box.nodes[0]]

    def is_root(self, box: Box) -> bool:
        return min(box.nodes) < len(self.graph.roots)

    def arrows(self, box: Box) -> list[Arrow]:
        """What leads from a box, slot by slot; but one arrow to each target from a block.

        A Node that leads to a block more than three times has one arrow to it as well.
        """
        targets = self.edges.get(box, {})
        if box.is_block:
            return [Arrow(target, None, edges=len(edges)) for target, edges in targets.items()]
        slots = self.slots[box.nodes[0]]
        target_at = {edge.slot: target for target, edges in targets.items() for edge in edges}
        arrows: dict[object, Arrow] = {}
        for number, edge in enumerate(slots):
            slot = number if len(slots) > 1 else None
            if edge is None:
                arrows[number] = Arrow(None, slot)
                continue
            target = target_at[number]
            if not target.is_block:
                arrows[number] = Arrow(target, slot, edge.input_nr)
            elif len(targets[target]) <= _FEW:
                arrows[number] = Arrow(target, slot)
            else:
                arrows[target] = Arrow(target, None, edges=len(targets[target]))
        return list(arrows.values())


@garbage_collection_paused()  # it would go through all edges again and again
def fold(graph: Graph, max_boxes: int | None) -> Folded:
    """The boxes of a graph: one for each Node where that gives no more than ``max_boxes``."""
    slots = [graph.slots(i) for i in range(len(graph))]
    operations = [Box([node.index]) for node in graph.nodes if not node.is_leaf]
    if max_boxes is None or not operations:  # a root that is a leaf has a box whatever the limit
        return _arrange(graph, slots, operations)
    if len(graph) <= max_boxes:  # there are no fewer boxes than Nodes
        whole = _arrange(graph, slots, operations)
        if len(whole.boxes) <= max_boxes:
            return whole
    folder = _Folder(graph, slots)
    for boxes in folder.fewer_and_fewer():
        if len(boxes) <= max_boxes:
            folded = _arrange(graph, slots, boxes)
            if len(folded.boxes) <= max_boxes:
                return folded
    return _with_a_rest(folder, boxes, max_boxes)


def _with_a_rest(folder: _Folder, boxes: list[Box], max_boxes: int) -> Folded:
    """As many boxes as fit, and one with all that lies deeper."""

    def keep(count: int) -> Folded:
        rest = [folder.join(boxes[count:], "rest")] if count < len(boxes) else []
        return _arrange(folder.graph, folder.slots, boxes[:count] + rest)

    folded, kept = keep(0), 0
    for step in (2**k for k in reversed(range(max_boxes.bit_length()))):
        with_more = keep(kept + step)
        if len(with_more.boxes) <= max_boxes:
            folded, kept = with_more, kept + step
    return folded


def _arrange(graph: Graph, slots: Sequence[_Slots], operations: Sequence[Box]) -> Folded:
    """Find the edges between boxes, and put each leaf into a box of its own or of another."""
    boxes = [Box(box.nodes, box.kind, box.copies, box.call) for box in operations]
    folded = Folded(graph, slots, boxes, {box: {} for box in boxes})
    for leaf, users in _connect(folded).items():
        _place(folded, leaf, users)
    blocks = [box for box in boxes if box.is_block]
    for box in blocks:
        box.nones = sum(slots[i].count(None) for i in box.nodes)
    if not blocks:
        boxes.sort(key=lambda box: box.nodes)
    return folded


def _connect(folded: Folded) -> dict[int, _Users]:
    """Note the edges between the boxes of operations; find for each leaf those that use it."""
    box_of = {i: box for box in folded.boxes for i in box.nodes}
    users: dict[int, _Users] = {leaf.index: {} for leaf in folded.graph.leaves}
    for edge in filter(None, chain.from_iterable(folded.slots)):
        source, target = box_of[edge.source], box_of.get(edge.target)
        if target is None:  # a block uses a leaf once, a Node once for each slot
            slot = -1 if source.is_block else edge.slot
            users[edge.target].setdefault((source, slot), []).append(edge)
        elif source is not target:
            folded.edges[source].setdefault(target, []).append(edge)
    return users


def _place(folded: Folded, leaf: int, users: _Users) -> None:
    """Put a leaf into the one block that uses it, or into a box of its own, or one for each use."""
    sources = [source for source, _ in users]
    if len(sources) == 1 and sources[0].is_block and leaf >= len(folded.graph.roots):
        sources[0].leaves.append(leaf)
        return
    boxes = [Box([leaf])]
    if len(users) > _FEW:
        boxes = [Box([leaf], use=(number, len(users))) for number in range(1, len(users) + 1)]
    folded.boxes += boxes
    for source, box, edges in zip(sources, cycle(boxes), users.values(), strict=False):
        folded.edges[source].setdefault(box, []).extend(edges)


class _Folder:
    """Makes fewer boxes of the operations of one graph."""

    def __init__(self, graph: Graph, slots: Sequence[_Slots]) -> None:
        self.graph, self.slots = graph, slots
        self.contents: dict[Any, int] = {}  # what is inside of a box -> a number for it
        roots = len(graph.roots)
        self.singles = [
            # A root is like no other, so that it stays a box of its own where it can.
            Box(
                [i],
                content=self.number((graph.nodes[i].name, self.kinds(i), i if i < roots else -1)),
            )
            for i in graph.order
            if not graph.nodes[i].is_leaf
        ]

    def number(self, content: Any) -> int:
        return self.contents.setdefault(content, len(self.contents))

    def kinds(self, index: int) -> tuple[Any, ...]:
        """What each entry of a Node leads to: None, an operation, or a leaf of some shape."""
        found: list[Any] = []
        for edge in self.slots[index]:
            target = self.graph.nodes[edge.target] if edge else None
            found.append(shape_or_none(target) if target and target.is_leaf else bool(target))
        return tuple(found)

    def fewer_and_fewer(self) -> Iterator[list[Box]]:
        """The operations in ever fewer boxes: module by module, then folded and folded again."""
        boxes = self.singles
        depth = max((call.depth for call in self.graph.calls if call), default=0)
        for level in range(depth, 0, -1):
            boxes = self.by_module(level)
            yield boxes
            alike = self.copies(boxes, [1])
            if alike:
                yield alike
        fewer: list[Box] | None = boxes
        while fewer:
            boxes = fewer
            yield boxes
            fewer = self.copies(boxes) or self.chains(boxes)

    def by_module(self, level: int) -> list[Box]:
        """A box for each call that lies ``level`` calls deep, or less where there is none."""
        groups: list[tuple[Call | None, list[Box]]] = []
        for box in self.singles:
            call = self.graph.calls[box.nodes[0]]
            while call and call.depth > level:
                call = call.outer
            if groups and call and call.depth > 0 and groups[-1][0] is call:
                groups[-1][1].append(box)
            else:
                groups.append((call, [box]))
        return [
            self.join(group, "module", call=call) if len(group) > 1 else group[0]
            for call, group in groups
        ]

    def copies(self, boxes: list[Box], periods: Sequence[int] = ()) -> list[Box] | None:
        """Stretches that repeat become one box each; of all periods the one that saves most."""
        ahead = self.ahead(boxes)

        def equal(i: int, j: int, room: int) -> bool:
            return boxes[i].content == boxes[j].content and _lead_alike(ahead[i], ahead[j], room)

        most, period, runs = _GAIN, 0, list[_Run]()
        for candidate in periods or _likely_periods(boxes):
            found = _runs(len(boxes), candidate, equal)
            saved = sum(end - start - 1 for start, end in found)
            if saved > most:
                most, period, runs = saved, candidate, found
            if saved > 0.95 * len(boxes):  # a longer period can save little more
                break
        result, done = list[Box](), 0
        for start, end in runs:
            result += [*boxes[done:start], self.joined_copies(boxes[start:end], period)]
            done = end
        return [*result, *boxes[done:]] if runs else None

    def joined_copies(self, boxes: list[Box], period: int) -> Box:
        """One box in place of stretches that are equal, each of ``period`` boxes."""
        first = boxes[:period]
        block = self.join(first, "copies", call=first[0].call if period == 1 else None)
        block.nodes = [i for box in boxes for i in box.nodes]
        block.copies = len(boxes) // period
        block.content = self.number((block.copies, block.content))
        return block

    def chains(self, boxes: list[Box]) -> list[Box] | None:
        """Boxes of which each leads to the next, and nothing else to either, become one box."""
        box_number = {i: k for k, box in enumerate(boxes) for i in box.nodes}
        targets = [
            sorted({box_number[target] for _, target, _ in out if target in box_number})
            for out in self.ahead(boxes)
        ]
        rows = list(_rows(targets))
        if len(rows) == len(boxes):
            return None
        return [
            self.join([boxes[k] for k in row], "chain") if len(row) > 1 else boxes[row[0]]
            for row in rows
        ]

    def ahead(self, boxes: list[Box]) -> list[list[_Lead]]:
        """For each box its edges to other boxes and to leaves: origin, target and distance.

        The distance says how many boxes ahead the target is, and at which place in its box; of a
        leaf, how many boxes back it was used last, as a number below 1, and the origin of that use.
        """
        place_of = {i: (k, n) for k, box in enumerate(boxes) for n, i in enumerate(box.nodes)}
        last_use: dict[int, tuple[int, _Origin]] = {}
        found: list[list[_Lead]] = [[] for _ in boxes]
        for k, box in enumerate(boxes):
            for n, i in enumerate(box.nodes):
                for edge in filter(None, self.slots[i]):
                    origin, target = (n, edge.slot, edge.input_nr), edge.target
                    if target in place_of:
                        there, at = place_of[target]
                        if there != k:
                            found[k].append((origin, target, (there - k, at)))
                    elif self.graph.nodes[target].is_leaf:
                        last = last_use.get(target)
                        found[k].append((origin, target, (last[0] - k, last[1]) if last else None))
                        last_use[target] = k, origin
        return found

    def join(self, boxes: list[Box], kind: _Kind, call: Call | None = None) -> Box:
        """One box in place of several."""
        parts = tuple(box.content for box in boxes)
        inside = tuple(
            (k, origin, distance)
            for k, out in enumerate(self.ahead(boxes))
            for origin, _, distance in out
        )
        content = self.number((kind, call and call.kind, parts, inside))
        return Box([i for box in boxes for i in box.nodes], kind, call=call, content=content)


def _likely_periods(boxes: list[Box]) -> list[int]:
    """How far boxes of equal content are apart, where that covers much; small ones first."""
    last: dict[int, int] = {}
    covered = Counter[int]()
    for i, box in enumerate(boxes):
        if box.content in last:
            covered[i - last[box.content]] += i - last[box.content]
        last[box.content] = i
    return sorted(period for period, _ in covered.most_common(_TRIES))


def _lead_alike(some: Sequence[_Lead], others: Sequence[_Lead], room: int) -> bool:
    """Whether two boxes lead equally far, or to the very same Node outside of their copies.

    The copy of the second ends ``room`` boxes ahead of it.
    """
    if len(some) != len(others):
        return False
    pairs = zip(some, others, strict=True)
    for (origin, target, distance), (origin_2, target_2, distance_2) in pairs:
        if origin != origin_2:
            return False
        if distance != distance_2:
            is_inside = distance_2 is not None and 0 < distance_2[0] < room
            if target != target_2 or is_inside:
                return False
    return True


def _runs(count: int, period: int, equal: Callable[[int, int, int], bool]) -> list[_Run]:
    """Where among so many boxes a stretch of ``period`` is followed by equal ones."""
    runs, start = list[_Run](), 0
    while start + period < count:
        end = start
        while end + period < count and equal(end, end + period, period - (end - start) % period):
            end += 1
        if end - start >= period:
            end = start + ((end - start) // period + 1) * period
            runs.append((start, end))
        start = max(end, start + 1)
    return runs


def _rows(targets: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Each box once: in a long chain of boxes, or alone."""
    sources = Counter(chain.from_iterable(targets))
    seen = set[int]()
    for i, out in enumerate(targets):
        if i in seen:
            continue
        row = [i]
        while len(out) == 1 and sources[out[0]] == 1:
            row += out
            out = targets[out[0]]
        row = row if len(row) > _GAIN else [i]
        seen.update(row)
        yield row
