"""Whether boxes fit on a page that a person reads."""

from __future__ import annotations

from collections import defaultdict

from companion.drawing.boxes import Box, Folded, lower_leaves
from companion.graph.nodes import shape_as_text

MOST_BOXES = 60
_HEIGHT = 1470.0  # points, by the estimate below, which is right to a few percent
_LINE, _BORDER, _GAP = 14.4, 10.2, 25.2  # of a box, and below it
_LABEL = 16.0  # at an arrow
_DOUBLE = 8.0  # the second line around a leaf
_TITLE = 20.0  # of a frame


def fits_a_page(folded: Folded, shapes: bool = False) -> bool:
    """Whether the drawing of these boxes is about as high as a page, or less.

    Args:
        folded: the boxes.
        shapes: whether each arrow has a label.
    """
    return _height(folded, shapes) <= _HEIGHT


def _height(folded: Folded, shapes: bool = False) -> float:
    """About how high a drawing is in points: Graphviz puts a box below all that lead to it."""
    position = {i: position for position, i in enumerate(folded.graph.order)}
    level: dict[Box, int] = {}
    lower = lower_leaves(folded)
    heights, labels = defaultdict[int, float](float), defaultdict[int, float](float)
    for box in sorted(folded.boxes, key=lambda box: position[box.nodes[0]]):
        mine = level.setdefault(box, 0)
        double = 0.0 if box.is_block or not folded.node(box).is_leaf else _DOUBLE
        height = _LINE * _lines(folded, box) + _BORDER + double + _GAP
        heights[mine] = max(heights[mine], height)
        arrows = folded.arrows(box)
        if any(shapes or arrow.slot is not None or len(arrow.edges) > 1 for arrow in arrows):
            labels[mine] = _LABEL
        for target in folded.edges.get(box, ()):
            level[target] = max(level.get(target, 0), mine + 1 + (target in lower))
    return sum(heights.values()) + sum(labels.values()) + _TITLE * len(folded.frames)


def _lines(folded: Folded, box: Box) -> int:
    """About how many lines of text are in a box."""
    if box.is_block:
        return 2 + 2 * (box.call is not None)
    node = folded.node(box)
    if node.is_leaf:
        long = (len(node.label) > 15) + (len(node.label) > 35)
        return 2 + long + (len(shape_as_text(node)) > 12)
    return 1 + (len(node.name) > 20)
