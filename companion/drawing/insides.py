"""The inside of each block of a drawing, with boxes of its own, and so on down to single Nodes.

Equal blocks have one inside, that of the first of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from companion.drawing.boxes import Box, Folded, arrange
from companion.drawing.fitting import MOST_BOXES, fits_a_page
from companion.drawing.folding import with_blocks_opened
from companion.graph.nodes import Edge
from companion.graph.reading import garbage_collection_paused

MOST_INSIDES = 100  # insides of one drawing
_MOST_PARTS = 100  # boxes of an inside; it may be higher than a page, since one can move it
_STRETCHES = 30  # in place of too many parts


@dataclass(slots=True)
class Inside:
    """Boxes that are drawn together.

    Attributes:
        folded: the boxes.
        block: the block whose inside they are; None for those of the whole graph.
        opens: for each block among them the number of its inside; one without is left shut.
    """

    folded: Folded
    block: Box | None = None
    opens: dict[Box, int] = field(default_factory=dict)


@garbage_collection_paused()  # it would go through all edges again and again
def insides_of(whole: Folded, shapes: bool = False) -> list[Inside]:
    """The boxes of the whole graph, and then the inside of each block, of outer ones first.

    There are 100 at most.

    Args:
        whole: the boxes of the whole graph.
        shapes: whether each arrow has a label.
    """
    insides, numbers = [Inside(whole)], dict[object, int]()
    if not any(box.is_block for box in whole.boxes):
        return insides
    entries = defaultdict[int, list[Edge]](list)  # by target
    for slots in whole.slots:
        for edge in filter(None, slots):
            entries[edge.target].append(edge)
    for inside in insides:  # the list grows while the loop runs along it
        for box in inside.folded.boxes:
            if not box.parts:
                continue
            key = box if box.content < 0 else box.content
            if key not in numbers and len(insides) <= MOST_INSIDES:
                numbers[key] = len(insides)
                insides.append(Inside(_inside(whole, box, entries, shapes), box))
            if key in numbers:
                inside.opens[box] = numbers[key]
    return insides


def _inside(
    whole: Folded, block: Box, entries: Mapping[int, Sequence[Edge]], shapes: bool
) -> Folded:
    """The parts of a block, with as many of them opened as there is room for."""
    nodes = {*block.nodes}
    into = [e for i in block.nodes for e in entries.get(i, ()) if e.source not in nodes]

    def arranged(boxes: Sequence[Box]) -> Folded:
        return arrange(whole.graph, whole.slots, boxes, into)

    def tried(boxes: Sequence[Box]) -> Folded | None:
        if len(boxes) > MOST_BOXES:
            return None
        folded = arranged(boxes)
        few = len(folded.boxes) + len(folded.frames) <= MOST_BOXES
        return folded if few and fits_a_page(folded, shapes) else None

    boxes = replace(block, frame=None).opened()
    if len(boxes) > _MOST_PARTS or len(arranged(boxes).boxes) > _MOST_PARTS:
        boxes = replace(block, parts=_stretches(block.parts), frame=None).opened()
    return with_blocks_opened(boxes, arranged(boxes), tried)


def _stretches(parts: Sequence[Box]) -> list[Box]:
    """A few boxes in place of many, each for what runs one after another."""
    each = -(-len(parts) // _STRETCHES)
    rows = (parts[start : start + each] for start in range(0, len(parts), each))
    return [
        Box([i for box in row for i in box.nodes], "stretch", parts=row) if each > 1 else row[0]
        for row in rows
    ]
