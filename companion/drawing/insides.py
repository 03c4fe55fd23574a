"""The inside of each block of a drawing, with boxes of its own, and so on down to single Nodes.

Equal blocks have one inside, that of the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from companion.drawing.boxes import Box, Folded, arrange, edges_by_target, in_stretches
from companion.drawing.fitting import MOST_BOXES, fits_a_page
from companion.drawing.folding import with_blocks_opened
from companion.graph.nodes import Edge
from companion.graph.reading import garbage_collection_paused

MOST_INSIDES = 100  # insides of one drawing
_MOST_PARTS = 100  # boxes of an inside; it may be higher than a page, since one can move it


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
    entering = edges_by_target(whole.slots)
    for inside in insides:  # the list grows while the loop runs along it
        for box in inside.folded.boxes:
            if not box.parts:
                continue
            key = box if box.content < 0 else box.content
            if key not in numbers and len(insides) <= MOST_INSIDES:
                numbers[key] = len(insides)
                insides.append(Inside(_inside(whole, box, entering, shapes), box))
            if key in numbers:
                inside.opens[box] = numbers[key]
    return insides


def _inside(
    whole: Folded, block: Box, entering: Mapping[int, Sequence[Edge]], shapes: bool
) -> Folded:
    """The parts of a block, with as many of them opened as there is room for."""

    def arranged(boxes: Sequence[Box]) -> Folded:
        return arrange(whole.graph, whole.slots, boxes, entering)

    def tried(boxes: Sequence[Box]) -> Folded | None:
        if len(boxes) > MOST_BOXES:
            return None
        folded = arranged(boxes)
        few = len(folded.boxes) + len(folded.frames) <= MOST_BOXES
        return folded if few and fits_a_page(folded, shapes) else None

    boxes = replace(block, frame=None).opened()
    if len(boxes) > _MOST_PARTS or len(arranged(boxes).boxes) > _MOST_PARTS:
        boxes = replace(block, parts=in_stretches(block.parts), frame=None).opened()
    return with_blocks_opened(boxes, arranged(boxes), tried)
