"""How much memory the Nodes of a box keep for the backward pass, as text in the box.

A storage that several Nodes hold counts once, for the one that was made first; the memory of
leaves, which is there without the graph, does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from companion.drawing.boxes import Box, Folded
from companion.drawing.numbers import Numbers
from companion.graph.reading import Graph
from companion.graph.storages import Held, freed_nodes, held_storages
from companion.naming import counted

_HEAVY = 0.1  # of all: the share from which on a box is marked
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def with_memory(numbers: Numbers, graph: Graph, pictures: Sequence[Folded], is_pass: bool) -> None:
    """Add to the numbers of boxes, blocks and frames what they keep; a root tells all of it.

    A box in a frame tells that of all copies together, since it is drawn for all of them.

    Args:
        numbers: the numbers.
        graph: the graph.
        pictures: the boxes, and the insides of blocks.
        is_pass: whether a recorded pass is drawn.

    Raises:
        ValueError: the recorded pass has freed what there was to count.
    """
    all_held = list(held_storages(graph))
    unseen = sum(held.address is None for held in all_held)
    freed = freed_nodes(graph, all_held)
    if freed and is_pass:
        raise ValueError(
            f"this pass freed what {counted(freed, 'Node')} had saved, which cannot be counted any "
            "more; draw the loss before the pass, or record_backward(loss, retain_graph=True)"
        )
    of_node = _bytes_by_node(all_held)
    total = sum(of_node.values())
    for folded in pictures:
        kept = Counter[Box]()
        for node, box in folded.box_of.items():
            if not box.is_outside:
                kept[box] += of_node[node]
        for frame in folded.frames:
            kept[frame.block] = sum(of_node[node] for node in frame.block.nodes)
        for box, nbytes in kept.items():
            if nbytes:
                numbers.memory[box] = [("memory", f"{_in_units(nbytes)}, {nbytes / total:.0%}")]
            if nbytes >= _HEAVY * total > 0:
                numbers.heavy.add(box)
        for box in filter(folded.is_root, folded.boxes):
            rows = numbers.memory.setdefault(box, [])
            rows.append(("total memory", _in_units(total)))
            if unseen:
                rows.append(("not counted", f"{counted(unseen, 'tensor')} saved through hooks"))
            if freed:
                rows.append(("freed by a pass", counted(freed, "node")))


def _bytes_by_node(all_held: Iterable[Held]) -> Counter[int]:
    """The bytes that each Node keeps."""
    first = dict[int, Held]()
    for held in all_held:
        if held.address is not None and not held.is_of_leaf:
            first.setdefault(held.address, held)
    kept = Counter[int]()
    for held in first.values():
        kept[held.node] += held.nbytes
    return kept


def _in_units(nbytes: float) -> str:
    """Bytes to three digits, in the unit in which they are the least number that is 1 or more."""
    for unit in _UNITS[:-1]:
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} {_UNITS[-1]}"
