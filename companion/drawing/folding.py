"""A Graph of more Nodes than a person can read becomes a few boxes; no Node is left out.

The operations are laid out in the order in which a backward pass runs them. A box is a stretch of
that order (a chain may be spread over it), so no box leads back to one before it.

1. Where the modules are known, each call of a module becomes a box, in which there are others.
2. Stretches that repeat become one box: each Node of the next copy has the same class, and its
   entries lead equally far ahead, or to the very same Node outside of it. A leaf is the same, or
   one of the same shape that was used equally far back, or neither was used before. The shapes of
   results do not count.
3. Where the modules are not known, or their boxes are still too many, a chain of operations, each
   of which leads to the next alone, becomes one box.
4. If all that is not enough, what lies deepest becomes one last box.
5. If there is room, boxes are opened again, those of most Nodes first, equal ones together: a
   module or a chain is replaced by what is in it, and copies by a frame with one of them. Of one
   with most of all Nodes at least the first half is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from companion.drawing.boxes import Box, Folded, Kind, Slots, arrange
from companion.graph.modules import Call, enclosing
from companion.graph.nodes import shape_or_none
from companion.graph.reading import Graph, garbage_collection_paused

_Origin = tuple[int, int, int]  # of an edge: which Node of its box, which slot, which input_nr
_Lead = tuple[_Origin, int, Any]  # an edge from a box: its origin, its target, how far that is
_Run = tuple[int, int]  # from which box to which equal stretches follow one another
_Fits = Callable[[Folded], bool]
_GAIN = 3  # more Nodes than this must copies hide, and a chain have more boxes than this
_TRIES = 16  # of the periods that are most likely


@garbage_collection_paused()  # it would go through all edges again and again
def fold(graph: Graph, max_boxes: int | None, fits: _Fits = lambda folded: True) -> Folded:
    """The boxes of a graph: one for each Node where that gives no more than ``max_boxes``.

    Args:
        graph: the graph.
        max_boxes: the most boxes there may be, a frame counted as one; None for no limit.
        fits: what else must be true of the result, such as that it fits on a page.
    """
    slots = [graph.slots(i) for i in range(len(graph))]
    operations = [Box([node.index]) for node in graph.nodes if not node.is_leaf]
    if max_boxes is None or not operations:  # a root that is a leaf has a box whatever the limit
        return arrange(graph, slots, operations)

    def tried(boxes: Sequence[Box]) -> Folded | None:
        """These boxes arranged, or None where they are too many or do not fit."""
        if len(boxes) > max_boxes:
            return None
        folded = arrange(graph, slots, boxes)
        few = len(folded.boxes) + len(folded.frames) <= max_boxes
        return folded if few and fits(folded) else None

    if len(graph) <= max_boxes and (whole := tried(operations)):  # no fewer boxes than Nodes
        return whole
    folder = _Folder(graph, slots)
    for boxes in folder.fewer_and_fewer():
        if folded := tried(boxes):
            return with_blocks_opened(boxes, folded, tried)
    return _with_a_rest(folder, boxes, tried)


def with_blocks_opened(
    boxes: list[Box], folded: Folded, tried: Callable[[Sequence[Box]], Folded | None]
) -> Folded:
    """Open as many blocks as there is room for, those with most Nodes to show first.

    Args:
        boxes: those of the operations.
        folded: the same, arranged.
        tried: boxes arranged, or None where there is no room for them.
    """
    shut = set[Any]()  # the contents for which there is no room
    while True:
        nodes = {
            _content(box): len(box.nodes)
            for box in boxes
            if box.kind in ("module", "copies", "chain", "rest") and len(box.first_copy) > 1
            if _content(box) not in shut
        }
        if not nodes:
            return folded
        content = max(nodes, key=nodes.__getitem__)
        half = len(folded.box_of) / 2
        long = {_content(box) for box in boxes if box.copies == 1 and len(box.nodes) > half}
        for opened in (Box.opened, _half_opened) if content in long else (Box.opened,):
            with_more = list(
                chain.from_iterable(opened(b) if _content(b) == content else [b] for b in boxes)
            )
            if found := tried(with_more):
                boxes, folded = with_more, found
                break
        else:
            shut.add(content)


def _content(box: Box) -> Any:
    """Equal for boxes that are opened together."""
    return box if box.content < 0 else box.content


def _half_opened(box: Box) -> list[Box]:
    """What is drawn of a long row that has no room: its first half, and a block of the rest."""
    half = len(box.parts) // 2
    nodes = [i for part in box.parts[half:] for i in part.nodes]
    rest = replace(box, nodes=nodes, kind="rest", parts=box.parts[half:], content=-1)
    return replace(box, parts=[*box.parts[:half], rest]).opened()


def _with_a_rest(
    folder: _Folder, boxes: list[Box], tried: Callable[[Sequence[Box]], Folded | None]
) -> Folded:
    """As many boxes as fit, and one with all that lies deeper."""

    def keep(count: int) -> list[Box]:
        rest = [folder.join(boxes[count:], "rest")] if count < len(boxes) else []
        return boxes[:count] + rest

    folded, kept = arrange(folder.graph, folder.slots, keep(0)), 0
    for step in (2**k for k in reversed(range(len(boxes).bit_length()))):
        if kept + step <= len(boxes) and (with_more := tried(keep(kept + step))):
            folded, kept = with_more, kept + step
    return folded


class _Folder:
    """Makes fewer boxes of the operations of one graph."""

    def __init__(self, graph: Graph, slots: Sequence[Slots]) -> None:
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
        """The operations in ever fewer boxes: the outermost modules, then folded and folded again.

        Without modules it begins with a box for each.
        """
        fewer: list[Box] | None = self.outermost_modules()
        while fewer:
            boxes = fewer
            yield boxes
            fewer = self.copies(boxes) or self.chains(boxes)

    def outermost_modules(self) -> list[Box]:
        """A box for each call that the model makes itself, with boxes for their calls in it.

        Equal neighbours in a module are one box. Where no modules are known it is a box for each
        Node.
        """
        boxes = self.singles
        for level in range(max((c.depth for c in self.graph.calls if c), default=0), 0, -1):
            fewer: list[Box] | None = self.by_module(boxes, level)
            while fewer:
                boxes = fewer
                fewer = self.copies(boxes, [self.call_at(box, level - 1) for box in boxes])
        return boxes

    def by_module(self, boxes: list[Box], level: int) -> list[Box]:
        """A box for each call that lies ``level`` calls deep."""
        groups: list[tuple[Call | None, list[Box]]] = []
        for box in boxes:
            call = self.call_at(box, level)
            if groups and call and call.depth == level and groups[-1][0] is call:
                groups[-1][1].append(box)
            else:
                groups.append((call, [box]))
        return [
            self.join(group, "module", call=call) if len(group) > 1 else group[0]
            for call, group in groups
        ]

    def call_at(self, box: Box, level: int) -> Call | None:
        """The call around a box that lies ``level`` calls deep, or less where there is none."""
        return enclosing(self.graph.calls[box.nodes[0]], level)

    def copies(
        self, boxes: list[Box], around: Sequence[Call | None] | None = None
    ) -> list[Box] | None:
        """Stretches that repeat become one box each; of all periods the one that hides most.

        Args:
            boxes: the boxes.
            around: for each box the call within which all copies must be, if that matters.
        """
        ahead = self.ahead(boxes)

        def equal(i: int, j: int, room: int) -> bool:
            return (
                boxes[i].content == boxes[j].content
                and (around is None or around[i] is around[j])
                and _lead_alike(ahead[i], ahead[j], room)
            )

        least = 0 if around is None else _GAIN  # of modules each run must be worth its frame
        most, period, runs = _GAIN, 0, list[_Run]()
        for candidate in _likely_periods(boxes):
            hidden = {
                (start, end): sum(len(box.nodes) for box in boxes[start + candidate : end])
                for start, end in _runs(len(boxes), candidate, equal)
            }
            found = [run for run, nodes in hidden.items() if nodes > least]
            nodes = sum(hidden[run] for run in found)
            if nodes > most:
                most, period, runs = nodes, candidate, found
            if nodes > 0.95 * len(self.singles):  # a longer period can hide little more
                break
        result, done = list[Box](), 0
        for start, end in runs:
            result += [*boxes[done:start], self.joined_copies(boxes[start:end], period)]
            done = end
        return [*result, *boxes[done:]] if runs else None

    def joined_copies(self, boxes: list[Box], period: int) -> Box:
        """One box in place of stretches that are equal, each of ``period`` boxes."""
        first = boxes[:period]
        block = self.join(first, "copies")
        block.nodes = [i for box in boxes for i in box.nodes]
        block.copies = len(boxes) // period
        block.content = self.number((block.copies, block.content))
        if period == 1:  # one opens it and the module in it at once
            block.call, block.last_call = first[0].call, boxes[-1].call
            if first[0].kind == "module":
                block.parts = first[0].parts
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

    def join(self, boxes: list[Box], kind: Kind, call: Call | None = None) -> Box:
        """One box in place of several."""
        contents = tuple(box.content for box in boxes)
        inside = tuple(
            (k, origin, distance)
            for k, out in enumerate(self.ahead(boxes))
            for origin, _, distance in out
        )
        content = self.number((kind, call and call.kind, contents, inside))
        nodes = [i for box in boxes for i in box.nodes]
        return Box(nodes, kind, call=call, parts=boxes, content=content)


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
        if origin[:2] != origin_2[:2]:
            return False
        if origin != origin_2 and target != target_2:  # each copy has an output of one Node
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
