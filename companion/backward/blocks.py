"""A large graph becomes scenes: drawings of a few boxes, of which a block opens into another scene.

The first scene has the boxes that ``draw`` makes of a graph, but for one thing: where ``draw``
shows one copy of what repeats, here each copy is a block of its own, since each is a step of its
own. The scene of a block has what is in it, and the blocks *above* and *below*: those Nodes outside
that send gradients into it, and those that it sends some to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from math import ceil, sqrt

from companion.drawing.boxes import Box, Folded, Kind, Slots, arrange, edges_by_target, in_stretches
from companion.drawing.folding import fold
from companion.graph.modules import Call, enclosing
from companion.graph.reading import Graph, garbage_collection_paused

FEW = 30  # boxes of the first scene, before copies are told apart
MOST = 150  # boxes of operations in a scene
MOST_COPIES = 40  # of a block that are told apart in one scene
_USES = 3  # boxes that a leaf has arrows from


@dataclass(slots=True, eq=False)
class Scene:
    """What is drawn at once.

    Attributes:
        folded: its boxes, those outside of the block included, and the edges between them.
        nodes: the Nodes that run in it.
        block: the block that was opened; None in the first scene.
        outer: the scene of that block.
        scene_of: by block, the scene that it opens into.
    """

    folded: Folded
    nodes: Collection[int]
    block: Box | None = None
    outer: Scene | None = None
    scene_of: dict[Box, Scene] = field(default_factory=dict)

    def is_inside(self, box: Box) -> bool:
        """Whether a box runs in this scene."""
        return box.nodes[0] in self.nodes


@garbage_collection_paused()
def scenes(graph: Graph) -> list[Scene]:
    """All scenes of a graph, the first with the root; each comes after that of its block."""
    folded = fold(graph, FEW, lambda folded: not folded.frames)
    blocks = [box for box in folded.boxes if not graph.nodes[box.nodes[0]].is_leaf]
    maker = Maker(graph)
    boxes = _siblings_closed(graph, _copies_told_apart(graph, blocks))
    found = [maker.scene(_in_groups(boxes), range(len(graph)))]
    for scene in found:  # which grows meanwhile
        for box in scene.folded.boxes:
            if box.is_block and scene.is_inside(box):
                scene.scene_of[box] = maker.scene(
                    parts_of(graph, box), {*box.nodes, *box.leaves}, box, scene
                )
                found.append(scene.scene_of[box])
    return found


# ---- what is in a block


def parts_of(graph: Graph, block: Box) -> list[Box]:
    """What is seen when a block is opened: each of its copies, or its parts, or its Nodes."""
    parts = [block]
    while len(parts) == 1:  # a copy may be one block
        if parts[0].copies > 1:
            parts = _copies_told_apart(graph, parts)
        elif parts[0].parts:
            parts = _copies_told_apart(graph, parts[0].parts)
        else:
            return _in_groups([Box([i]) for i in parts[0].nodes])
    return _in_groups(parts)


def copies_of(graph: Graph, block: Box, each: int = 1) -> list[Box]:
    """Its copies as blocks of their own, or groups of ``each`` copies."""
    length = len(block.first_copy)
    position = {i: n for n, i in enumerate(block.first_copy)}
    kind: Kind = "module" if block.call else "stretch"
    first = replace(block, nodes=block.first_copy, kind=kind, copies=1, last_call=None)
    found = list[Box]()
    for start in range(0, len(block.nodes), length * each):
        nodes = block.nodes[start : start + length * each]
        box = _moved(graph, first, position, nodes[:length])
        if len(nodes) > length:
            last = block.last_call and enclosing(graph.calls[nodes[-1]], block.last_call.depth)
            copies = len(nodes) // length
            box = replace(box, nodes=nodes, kind="copies", copies=copies, last_call=last)
        found.append(box)
    return found


def _moved(graph: Graph, box: Box, position: dict[int, int], nodes: Sequence[int]) -> Box:
    """A box of the first copy as it is in another.

    Args:
        graph: the graph.
        box: the box.
        position: by Node of the first copy its position in it.
        nodes: the Nodes of the other copy.
    """
    boxes = [box]
    for outer in boxes:  # which grows meanwhile
        boxes += outer.parts
    moved = dict[Box, Box]()
    for inner in reversed(boxes):  # parts before the whole
        own = [nodes[position[i]] for i in inner.nodes]
        if len(own) == 1:
            moved[inner] = Box(own)
            continue
        moved[inner] = Box(
            own,
            inner.kind,
            copies=inner.copies,
            call=inner.call and enclosing(graph.calls[own[0]], inner.call.depth),
            last_call=inner.last_call and enclosing(graph.calls[own[-1]], inner.last_call.depth),
            parts=[moved[part] for part in inner.parts],
        )
    return moved[box]


def _copies_told_apart(graph: Graph, boxes: Sequence[Box]) -> list[Box]:
    """The same boxes, but each copy a box of its own, or each group of copies if they are many."""
    apart = list[Box]()
    for box in boxes:
        each = 1 if box.copies <= MOST_COPIES else ceil(sqrt(box.copies))
        apart += copies_of(graph, box, each) if box.copies > 1 else [box]
    return apart


def _siblings_closed(graph: Graph, boxes: list[Box]) -> list[Box]:
    """The same boxes, but a module is a block where others of its class are, at the same depth.

    ``fold`` opens the first layer of a model, whose input needs no gradient, since it is not equal
    to the others.
    """
    shut = {(box.call.kind, box.call.depth) for box in boxes if box.call and box.kind == "module"}

    def sibling(box: Box) -> Call | None:
        call = box.call.outer if box.call else graph.calls[box.nodes[0]]
        while call and (call.kind, call.depth) not in shut:
            call = call.outer
        return call

    closed = list[Box]()
    for call, group in groupby(boxes, sibling):
        parts = list(group)
        if call and len(parts) > 1:
            parts = [Box([i for box in parts for i in box.nodes], "module", call=call, parts=parts)]
        closed += parts
    return closed


def _in_groups(boxes: list[Box]) -> list[Box]:
    """The same boxes; if they are too many, in groups of neighbours."""
    return boxes if len(boxes) <= MOST else in_stretches(boxes)


# ---- a scene


class Maker:
    """Makes scenes of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.slots = [graph.slots(i) for i in range(len(graph))]
        self.entering = edges_by_target(self.slots)

    def scene(
        self,
        boxes: list[Box],
        nodes: Collection[int],
        block: Box | None = None,
        outer: Scene | None = None,
    ) -> Scene:
        """The scene of some boxes of operations.

        Args:
            boxes: the boxes.
            nodes: the Nodes that run in it, leaves included.
            block: the block that they are in.
            outer: the scene of the block.
        """
        slots = list(self.slots)
        busy = self._busy_leaves(boxes)
        for box in boxes:
            for i in box.nodes:
                slots[i] = self._drawn(i, box, busy)
        folded = arrange(self.graph, slots, boxes, self.entering if block else None)
        return Scene(folded, nodes, block, outer)

    def _busy_leaves(self, boxes: Sequence[Box]) -> dict[int, Sequence[Box]]:
        """The leaves that more than a few boxes use, and which blocks have an arrow to them.

        Those are none where a Node has one, so that the leaf is seen; else the first and the last.
        """
        users = dict[int, list[Box]]()
        for box in boxes:
            edges = filter(None, chain.from_iterable(self.slots[i] for i in box.nodes))
            for target in {edge.target for edge in edges}:
                if self.graph.nodes[target].is_leaf:
                    users.setdefault(target, []).append(box)
        return {
            leaf: [its[0], its[-1]] if all(box.is_block for box in its) else []
            for leaf, its in users.items()
            if len(its) > _USES
        }

    def _drawn(self, node: int, box: Box, busy: Mapping[int, Sequence[Box]]) -> Slots:
        """The slots of a Node that are drawn."""
        slots = self.slots[node]
        if not box.is_block:
            return slots
        return tuple(e for e in slots if e is None or box in busy.get(e.target, (box,)))
