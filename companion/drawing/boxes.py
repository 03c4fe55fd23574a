"""The boxes of a drawing, the arrows between them, and the frames around repeated parts.

A leaf that belongs to one block alone is in that block. One that is used more than three times is
drawn at each use, since lines from everywhere to one place are what makes a drawing unreadable.

Of what repeats, a frame shows one copy. An arrow into a frame leads to any of the copies, and one
out of it comes from any of them; what leads from one copy to another is not drawn.

The boxes may be those of a part of the graph. Then one more box stands above for all that leads to
them from outside, and one below for all that they lead to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, takewhile
from typing import Literal, NamedTuple

from companion.graph.modules import Call
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import Graph

Slots = tuple[Edge | None, ...]
Kind = Literal["node", "module", "copies", "chain", "rest", "stretch", "above", "below"]
# Which box, which slot, by which edges a leaf is used.
_Users = dict[tuple["Box", int], list[Edge]]
_STRETCHES = 30  # in place of too many boxes
_FEW = 3  # uses or a row of leaves, or edges from a Node into a block, that are drawn one by one


@dataclass(slots=True, eq=False)
class Box:
    """A Node, or a block of several Nodes.

    Attributes:
        nodes: the indices of its Nodes, without ``leaves``. They stand in the order in which they
            run; a chain stands in one piece.
        kind: a ``"node"`` (a leaf too) is one Node; a ``"module"`` is the Nodes of one call; of
            ``"copies"`` several equal stretches follow one another; a ``"chain"`` leads straight
            down; the ``"rest"`` is what lies deepest; a ``"stretch"`` is anything else that runs
            in one go; ``"above"`` and ``"below"`` are outside of the part that is drawn.
        copies: how many equal stretches there are in it.
        call: of a module, or of copies of a module, the (first) call.
        last_call: of copies of a module, the last call.
        parts: the boxes that are seen when the block is opened; of copies, those of the first.
            Of what is outside there are none.
        frame: the innermost frame that the box stands in.
        leaves: the indices of the leaves that are used in here and nowhere else.
        use: for a leaf that is drawn at each use: which use this is, and of how many.
        nones: how many entries of ``next_functions`` are None in a block.
        content: equal for boxes with equal insides.
    """

    nodes: list[int]
    kind: Kind = "node"
    copies: int = 1
    call: Call | None = None
    last_call: Call | None = None
    parts: Sequence[Box] = ()
    frame: Frame | None = None
    leaves: list[int] = field(default_factory=list)
    use: tuple[int, int] | None = None
    nones: int = 0
    content: int = -1

    @property
    def is_block(self) -> bool:
        return self.kind != "node"

    @property
    def is_outside(self) -> bool:
        return self.kind in ("above", "below")

    @property
    def first_copy(self) -> list[int]:
        """The Nodes of the first of its copies; all of them where there is but one."""
        return self.nodes[: len(self.nodes) // self.copies]

    @property
    def is_further_use(self) -> bool:
        """Whether the same leaf has another box for an earlier use."""
        return self.use is not None and self.use[0] > 1

    def opened(self) -> list[Box]:
        """What is drawn in its place when it is opened: its parts, of copies in a frame."""
        frame = Frame(self, self.frame) if self.copies > 1 else self.frame
        return [replace(part, frame=frame) for part in self.parts]


@dataclass(slots=True, eq=False)
class Frame:
    """What is drawn around one copy of what repeats.

    Attributes:
        block: the copies.
        outer: the frame that it stands in itself.
        is_row: whether a copy leads to the next, or they stand side by side.
        leaves: the indices of the leaves that only copies use that are not drawn.
    """

    block: Box
    outer: Frame | None
    is_row: bool = False
    leaves: list[int] = field(default_factory=list)


class Arrow(NamedTuple):
    """What leads from a box: an entry of ``next_functions``, or several drawn as one.

    Attributes:
        target: the box that it leads to; None for an entry that is None.
        slot: the position of the entry; None where there is but one, or it stands for several.
        edges: the edges it stands for.
    """

    target: Box | None
    slot: int | None
    edges: Sequence[Edge] = ()

    @property
    def input_nr(self) -> int:
        """Which input of the target the gradient enters; of a block always 0."""
        return 0 if self.target is None or self.target.is_block else self.edges[0].input_nr


@dataclass(slots=True)
class Folded:
    """The boxes of a graph, root first, and for each box the edges that lead to which others.

    Edges that stay inside a box are not among them, nor those that a frame does not show.

    Attributes:
        graph: the graph.
        slots: those of each Node.
        boxes: the boxes.
        edges: by source and target.
        box_of: the box of each operation; of one in a copy that is not drawn, that of its equal.
    """

    graph: Graph
    slots: Sequence[Slots]
    boxes: list[Box]
    edges: dict[Box, dict[Box, list[Edge]]]
    box_of: Mapping[int, Box]

    def node(self, box: Box) -> GraphNode:
        """The Node of a box; of a block the first."""
        return self.graph.nodes[box.nodes[0]]

    def is_root(self, box: Box) -> bool:
        return not box.is_outside and min(box.nodes) < len(self.graph.roots)

    @property
    def frames(self) -> list[Frame]:
        """All frames; one that stands in another comes after it."""
        frames: dict[Frame, None] = {}
        for box in self.boxes:
            frames |= dict.fromkeys(reversed(around(box.frame)))
        return list(frames)

    def arrows(self, box: Box) -> list[Arrow]:
        """What leads from a box, slot by slot; but one arrow to each target from a block.

        A Node that leads to a block, or into a frame, more than three times has one arrow to it.
        """
        targets = self.edges.get(box, {})
        if box.is_block:
            return [Arrow(target, None, edges) for target, edges in targets.items()]
        slots = self.slots[box.nodes[0]]
        by_slot: dict[int, dict[Box, list[Edge]]] = {}
        for target, edges in targets.items():
            for edge in edges:
                by_slot.setdefault(edge.slot, {}).setdefault(target, []).append(edge)
        as_one = {
            target
            for target, edges in targets.items()
            if _is_one(box, target) and len({edge.slot for edge in edges}) > _FEW
        }
        arrows: dict[object, Arrow] = {}
        for number, entry in enumerate(slots):
            slot = number if len(slots) > 1 else None
            if entry is None:
                arrows[number] = Arrow(None, slot)
            for target, edges in by_slot.get(number, {}).items():
                if target in as_one:
                    arrows[target] = Arrow(target, None, targets[target])
                else:
                    arrows[number, target] = Arrow(target, slot, edges)
        return list(arrows.values())


def arrange(
    graph: Graph,
    slots: Sequence[Slots],
    operations: Sequence[Box],
    entering: Mapping[int, Sequence[Edge]] | None = None,
) -> Folded:
    """Find the edges between boxes, and put each leaf into a box of its own or of another.

    Args:
        graph: the graph.
        slots: those of each Node.
        operations: the boxes of all operations, or of some.
        entering: where they are not all, what leads to each Node; see ``edges_by_target``.
    """
    boxes = [replace(box, leaves=[]) for box in operations]
    if entering is not None:
        boxes = _with_outside(graph, slots, boxes, entering)
    folded = Folded(graph, slots, boxes, {box: {} for box in boxes}, {})
    for frame in folded.frames:
        frame.leaves, frame.is_row = [], False
    places = _places(folded)
    folded.box_of = {i: place.box for i, place in places.items()}
    users = _connect(folded, places)
    if entering is None:  # a root that is a leaf may have no user
        users = {root.index: {} for root in graph.roots if root.is_leaf} | users
    for leaf in sorted(users):
        uses = (entering or {}).get(leaf, ())
        is_used_outside = any(places.get(e.source, _OUTSIDE).box.is_outside for e in uses)
        _place_leaf(folded, leaf, users[leaf], places, is_used_outside)
    blocks = [box for box in boxes if box.is_block]
    for box in blocks:
        box.nones = sum(slots[i].count(None) for i in box.nodes)
    if not blocks and not folded.frames:
        boxes.sort(key=lambda box: box.nodes)
    return folded


def edges_by_target(slots: Iterable[Slots]) -> dict[int, list[Edge]]:
    """The edges that lead to each Node."""
    entering = dict[int, list[Edge]]()
    for edge in filter(None, chain.from_iterable(slots)):
        entering.setdefault(edge.target, []).append(edge)
    return entering


def _with_outside(
    graph: Graph,
    slots: Sequence[Slots],
    boxes: Sequence[Box],
    entering: Mapping[int, Sequence[Edge]],
) -> list[Box]:
    """The boxes, above them one of what leads to them, below them one of where they lead."""
    inside = {i: None for box in boxes for i in box.nodes}
    sources = dict.fromkeys(edge.source for i in inside for edge in entering.get(i, ()))
    targets = dict.fromkeys(edge.target for i in inside for edge in slots[i] if edge)
    above = Box([i for i in sources if i not in inside], "above")
    below = Box([i for i in targets if i not in inside and not graph.nodes[i].is_leaf], "below")
    return [*([above] if above.nodes else []), *boxes, *([below] if below.nodes else [])]


def in_stretches(boxes: Sequence[Box]) -> list[Box]:
    """A few boxes in place of many, each for what runs one after another."""
    each = -(-len(boxes) // _STRETCHES)
    rows = (boxes[start : start + each] for start in range(0, len(boxes), each))
    return [
        Box([i for box in row for i in box.nodes], "stretch", parts=row) if len(row) > 1 else row[0]
        for row in rows
    ]


class _Place(NamedTuple):
    """Where an operation is drawn.

    Attributes:
        box: its box, or that of its equal in the copy that is drawn.
        copies: the frames around it, outermost first, each with the number of the copy that it
            belongs to; the copy of number 0 is drawn.
    """

    box: Box
    copies: tuple[tuple[Frame, int], ...] = ()


_OUTSIDE = _Place(Box([], "above"))


def _places(folded: Folded) -> dict[int, _Place]:
    places = {i: _Place(box) for box in folded.boxes for i in box.nodes}
    for frame in reversed(folded.frames):  # what an inner frame tells, an outer one repeats
        each = len(frame.block.first_copy)
        shown = [places[i] for i in frame.block.first_copy]
        for number, i in enumerate(frame.block.nodes):
            box, copies = shown[number % each]
            places[i] = _Place(box, ((frame, number // each), *copies))
    return places


def _connect(folded: Folded, places: Mapping[int, _Place]) -> dict[int, _Users]:
    """Note the edges between the boxes of operations; find for each leaf those that use it.

    What leads from outside to outside is not drawn.
    """
    users: dict[int, _Users] = {}
    for edge in filter(None, chain.from_iterable(folded.slots[i] for i in sorted(places))):
        (source, copies), there = places[edge.source], places.get(edge.target)
        if source.is_outside and (there is None or there.box.is_outside):
            continue
        if there is None:  # a block uses a leaf once, a Node once for each slot
            slot = -1 if source.is_block else edge.slot
            users.setdefault(edge.target, {}).setdefault((source, slot), []).append(edge)
        elif _is_shown(copies, there.copies) and source is not there.box:
            folded.edges[source].setdefault(there.box, []).append(edge)
    return users


def _is_shown(
    of_source: Sequence[tuple[Frame, int]], of_target: Sequence[tuple[Frame, int]]
) -> bool:
    """Whether an edge is drawn: it must not lead from copy to copy, or be inside of a further one.

    A frame whose copies it connects notes that.
    """
    for (frame, copy), (frame_2, copy_2) in zip(of_source, of_target, strict=False):
        if frame is not frame_2:
            break
        if copy != copy_2:
            frame.is_row = True
        if copy or copy_2:
            return False
    return True


def _place_leaf(
    folded: Folded, leaf: int, users: _Users, places: Mapping[int, _Place], is_used_outside: bool
) -> None:
    """Put a leaf into the one block that uses it, or into a box of its own, or one for each use."""
    copies = [places[edge.source].copies for edges in users.values() for edge in edges]
    shared = [levels[0] for levels in takewhile(_are_equal, zip(*copies, strict=False))]
    is_root = leaf < len(folded.graph.roots)
    hidden = next((frame for frame, copy in shared if copy), None)
    if hidden and not is_root:
        hidden.leaves.append(leaf)
        return
    sources = [source for source, _ in users]
    if len(sources) == 1 and sources[0].is_block and not (is_root or is_used_outside):
        sources[0].leaves.append(leaf)
        return
    frame = shared[-1][0] if shared and not is_root else None
    boxes = [Box([leaf], frame=frame)]
    if len(users) > _FEW:
        uses = range(1, len(users) + 1)
        boxes = [Box([leaf], use=(number, len(users)), frame=frame) for number in uses]
    folded.boxes += boxes
    for source, box, edges in zip(sources, cycle(boxes), users.values(), strict=False):
        folded.edges[source].setdefault(box, []).extend(edges)


def _are_equal(levels: Sequence[object]) -> bool:
    return levels.count(levels[0]) == len(levels)


def _is_one(box: Box, target: Box) -> bool:
    """Whether the edges from a box all lead to one place in the drawing: a block, or a frame."""
    return target.is_block or target.frame not in (None, *around(box.frame))


def lower_leaves(folded: Folded) -> set[Box]:
    """The leaves that are drawn a row lower, since all in one row would make the drawing wide.

    Of four or more leaves that one box alone uses, these are every second one.
    """
    users = Counter(chain.from_iterable(folded.edges.values()))
    lower = set[Box]()
    for targets in folded.edges.values():
        leaves = [box for box in targets if not box.is_block and folded.node(box).is_leaf]
        own = [leaf for leaf in leaves if users[leaf] == 1]
        if len(own) > _FEW:
            lower.update(own[1::2])
    return lower


def around(frame: Frame | None) -> list[Frame]:
    """A frame and those around it, innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.outer
    return frames
