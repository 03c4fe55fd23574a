"""A Graph of more Nodes than a person can read becomes a few boxes; no Node is left out.

The operations are laid out in the order in which a backward pass runs them. A box is a stretch of
that order (a chain may be spread over it), so no box leads back to one before it.

1. Where the modules are known, each call of a module becomes a box.
2. Stretches that repeat become one box: each Node of the next copy has the same class, and its
   entries lead equally far ahead, or to the very same Node. A leaf is the same, or one of the same
   shape that was used equally far back, or neither was used before. The shapes of results do not
   count.
3. A chain of operations, each of which leads to the next alone, becomes one box.
4. If all that is not enough, what lies deepest becomes one last box.

A leaf that belongs to one box alone is in that box. One that is used more than three times is drawn
at each use, since lines from everywhere to one place are what makes a drawing unreadable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from companion.graph.modules import Call
from companion.graph.nodes import Edge, shape_or_none
from companion.graph.reading import Graph, garbage_collection_paused

_Slots = tuple[Edge | None, ...]
_Place = tuple[int, int, int]  # which Node of a box, which slot, which input_nr
_Kind = Literal["node", "module", "copies", "chain", "rest"]
_USES = 3  # of a leaf that is drawn once
_GAIN = 3  # more boxes than this must a fold save
_TRIES = 16  # of the periods that are most likely


@dataclass(slots=True, eq=False)
class Box:
    """A Node, or several Nodes that are drawn as one.

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
        nones: how many entries of ``next_functions`` are None in a block of several Nodes.
    """

    nodes: list[int]
    kind: _Kind = "node"
    copies: int = 1
    call: Call | None = None
    leaves: list[int] = field(default_factory=list)
    use: tuple[int, int] | None = None
    nones: int = 0
    content: int = -1  # equal for boxes with equal insides


@dataclass(slots=True)
class Folded:
    """The boxes of a graph, root first, and for each box the edges that lead to which others.

    Edges that stay inside a box are not among them.
    """

    boxes: list[Box]
    edges: dict[Box, dict[Box, list[Edge]]]


@garbage_collection_paused()  # it would go through all edges again and again
def fold(graph: Graph, max_boxes: int | None) -> Folded:
    """The boxes of a graph: one for each Node where that gives no more than ``max_boxes``."""
    slots = [graph.slots(i) for i in range(len(graph))]
    singles = [Box([node.index]) for node in graph.nodes if not node.is_leaf]
    # There are no fewer boxes than Nodes, and a root that is a leaf has one whatever the limit.
    if max_boxes is None or not singles or len(graph) <= max_boxes:
        whole = _arrange(graph, slots, singles)
        if max_boxes is None or not singles or len(whole.boxes) <= max_boxes:
            return whole
    folder = _Folder(graph, slots)
    boxes: list[Box] = []
    for boxes in folder.fewer_and_fewer():
        if len(boxes) <= max_boxes:
            folded = _arrange(graph, slots, boxes)
            if len(folded.boxes) <= max_boxes:
                return folded
    # As many boxes as fit, and one with all that lies deeper.
    folded, kept = _arrange(graph, slots, [folder.join(boxes, "rest")]), 0
    for step in (2**k for k in reversed(range(max_boxes.bit_length()))):
        more = boxes[: kept + step]
        rest = boxes[kept + step :]
        tried = _arrange(graph, slots, [*more, folder.join(rest, "rest")] if rest else more)
        if len(tried.boxes) <= max_boxes:
            folded, kept = tried, kept + step
    return folded


def _arrange(graph: Graph, slots: Sequence[_Slots], operations: Sequence[Box]) -> Folded:
    """Find the edges between boxes, and put each leaf into a box of its own or of another."""
    boxes = [Box(box.nodes, box.kind, box.copies, box.call) for box in operations]
    box_of = {i: box for box in boxes for i in box.nodes}
    edges: dict[Box, dict[Box, list[Edge]]] = {box: {} for box in boxes}
    uses: dict[int, dict[tuple[Box, int], list[Edge]]] = {leaf.index: {} for leaf in graph.leaves}
    for edge in chain.from_iterable(slots):
        if edge is None:
            continue
        source, target = box_of[edge.source], box_of.get(edge.target)
        if target is None:  # a block uses a leaf once, a Node once for each slot
            slot = edge.slot if source.kind == "node" else -1
            uses[edge.target].setdefault((source, slot), []).append(edge)
        elif source is not target:
            edges[source].setdefault(target, []).append(edge)
    for leaf, users in uses.items():
        if len(users) == 1 and leaf >= len(graph.roots):
            ((source, _),) = users
            if source.kind != "node":
                source.leaves.append(leaf)
                continue
        shared = len(users) > _USES
        if not shared:
            boxes.append(Box([leaf]))
        for number, ((source, _), through) in enumerate(users.items(), start=1):
            if shared:
                boxes.append(Box([leaf], use=(number, len(users))))
            edges[source].setdefault(boxes[-1], []).extend(through)
    blocks = [box for box in boxes if box.kind != "node"]
    for box in blocks:
        box.nones = sum(slots[i].count(None) for i in box.nodes)
    if not blocks:
        boxes.sort(key=lambda box: box.nodes)
    return Folded(boxes, edges)


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
            yield boxes
            fewer = self.copies(boxes) or self.chains(boxes)
            boxes = fewer or boxes

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

        def equal(i: int, j: int) -> bool:
            return (
                boxes[i].content == boxes[j].content
                and len(ahead[i]) == len(ahead[j])
                and all(
                    whence == other and (far == away or target == goal)
                    for (whence, target, far), (other, goal, away) in zip(
                        ahead[i], ahead[j], strict=True
                    )
                )
            )

        best: tuple[int, int, list[tuple[int, int]]] = (_GAIN, 0, [])
        for period in periods or _likely_periods(boxes):
            runs, start = list[tuple[int, int]](), 0
            while start + period < len(boxes):
                end = start
                while end + period < len(boxes) and equal(end, end + period):
                    end += 1
                if end - start >= period:
                    end = start + ((end - start) // period + 1) * period
                    runs.append((start, end))
                start = max(end, start + 1)
            saved = sum(end - start - 1 for start, end in runs)
            if saved > best[0]:
                best = (saved, period, runs)
            if saved > 0.95 * len(boxes):  # a longer period can save little more
                break
        _, period, runs = best
        result, done = list[Box](), 0
        for start, end in runs:
            first = boxes[start : start + period]
            one = self.join(first, "copies", call=first[0].call if period == 1 else None)
            one.nodes = [i for box in boxes[start:end] for i in box.nodes]
            one.copies = (end - start) // period
            one.content = self.number((one.copies, one.content))
            result += [*boxes[done:start], one]
            done = end
        return [*result, *boxes[done:]] if runs else None

    def chains(self, boxes: list[Box]) -> list[Box] | None:
        """Boxes of which each leads to the next, and nothing else to either, become one box."""
        place = {i: k for k, box in enumerate(boxes) for i in box.nodes}
        targets = [
            sorted({place[target] for _, target, _ in out if target in place})
            for out in self.ahead(boxes)
        ]
        sources = Counter(target for out in targets for target in out)
        result, taken = list[Box](), set[int]()
        for i, out in enumerate(targets):
            if i in taken:
                continue
            row = [i]
            while len(out) == 1 and sources[out[0]] == 1:
                row += out
                out = targets[out[0]]
            if len(row) > _GAIN:
                taken.update(row)
                result.append(self.join([boxes[k] for k in row], "chain"))
            else:
                result.append(boxes[i])
        return result if taken else None

    def ahead(self, boxes: list[Box]) -> list[list[tuple[_Place, int, Any]]]:
        """For each box its edges to other boxes and to leaves.

        Each edge with the place in the box from which it comes, its target, and how far that is:
        boxes ahead and the place in that box; or for a leaf, boxes back to where it was used last
        and the place there.
        """
        place = {i: (k, n) for k, box in enumerate(boxes) for n, i in enumerate(box.nodes)}
        used: dict[int, tuple[int, _Place]] = {}
        found: list[list[tuple[_Place, int, Any]]] = [[] for _ in boxes]
        for k, box in enumerate(boxes):
            for n, i in enumerate(box.nodes):
                for edge in self.slots[i]:
                    if edge is None:
                        continue
                    whence = (n, edge.slot, edge.input_nr)
                    if edge.target in place:
                        there, at = place[edge.target]
                        if there != k:
                            found[k].append((whence, edge.target, (there - k, at)))
                    elif self.graph.nodes[edge.target].is_leaf:
                        last = used.get(edge.target)
                        far = (k - last[0], last[1]) if last else None
                        found[k].append((whence, edge.target, far))
                        used[edge.target] = (k, whence)
        return found

    def join(self, boxes: list[Box], kind: _Kind, call: Call | None = None) -> Box:
        """One box in place of several."""
        parts = tuple(box.content for box in boxes)
        inside = tuple(
            (k, whence, far) for k, out in enumerate(self.ahead(boxes)) for whence, _, far in out
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
