"""Where each Node of a graph is drawn, so that a search finds what is in blocks and copies too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from companion.drawing.boxes import Box, Folded, Slots
from companion.drawing.insides import Inside
from companion.drawing.words import given_name
from companion.forward.tracing import source_of
from companion.forward.watching import Watch
from companion.graph.anomaly_lines import noted_source
from companion.graph.modules import enclosing
from companion.graph.nodes import GraphNode
from companion.graph.reading import Graph, garbage_collection_paused

# The names of the boxes to open one after another, and last of the one that is found.
Way = tuple[str, ...]
Texts = Mapping[Way, Sequence[str]]
# By Node, which one is drawn: itself, or its equal in another copy. First those that run first.
_Drawn = dict[int, int]
_Use = tuple[int, int]  # of a leaf: a Node and its slot


@garbage_collection_paused()
def texts_by_way(
    insides: Sequence[Inside], names: Sequence[Mapping[Box, str]], watch: Watch | None
) -> Texts:
    """What a search finds: the texts of Nodes and blocks, by the way that leads to them.

    Args:
        insides: the pictures, that of the whole graph first.
        names: for each of them what its boxes are called.
        watch: what watched the forward pass, for the lines.
    """
    graph = insides[0].folded.graph
    uses = _first_uses(insides[0].folded.slots)
    texts = defaultdict[Way, dict[str, None]](dict)  # in order, each once
    pictures = [(Way(), 0, {i: i for i in graph.order})]
    for way, number, drawn in pictures:  # the list grows while the loop runs along it
        for box, part in _by_box(insides[number].folded, drawn, uses).items():
            here = (*way, names[number][box])
            if box.is_block:
                texts[here].update(dict.fromkeys(_block_texts(graph, box, here[-1], part)))
            if inner := insides[number].opens.get(box):
                block = insides[inner].block or box
                equal = dict(zip(box.nodes, block.nodes, strict=True))
                pictures.append((here, inner, {i: equal.get(j, j) for i, j in part.items()}))
            else:
                is_drawn = not box.is_block
                texts[here].update(
                    (_text(graph.nodes[i], watch, is_drawn and i != j), None)
                    for i, j in part.items()
                )
    return {way: [*found] for way, found in texts.items()}


def _first_uses(slots: Sequence[Slots]) -> dict[int, _Use]:
    """For each Node that another leads to, the first that does."""
    uses = dict[int, _Use]()
    for edge in filter(None, chain.from_iterable(slots)):
        uses.setdefault(edge.target, (edge.source, edge.slot))
    return uses


def _by_box(folded: Folded, drawn: _Drawn, uses: Mapping[int, _Use]) -> dict[Box, _Drawn]:
    """The Nodes of a picture, by the box in which they are."""
    for frame in folded.frames:  # outer ones first
        first = frame.block.first_copy
        shown = dict(zip(frame.block.nodes, first * frame.block.copies, strict=True))
        drawn = {i: shown.get(j, j) for i, j in drawn.items()}
    boxes = {i: box for box in reversed(folded.boxes) for i in (*box.nodes, *box.leaves)}
    found = dict[Box, _Drawn]()
    for i, j in drawn.items():
        if folded.graph.nodes[i].is_leaf and i in uses:  # it is where its user leads
            user, slot = uses[i]
            edge = folded.slots[drawn[user]][slot]
            drawn[i] = j = edge.target if edge else j
        found.setdefault(boxes[j], {})[i] = j
    return found


def _text(node: GraphNode, watch: Watch | None, is_equal: bool) -> str:
    """What is said of a Node where it is found, perhaps that its equal is drawn."""
    source = source_of(watch, node.grad_fn) if watch else None
    source = source or noted_source(node.grad_fn)
    parts = (
        "leaf" if node.is_leaf else node.name,
        given_name(node),
        f"in {node.module}" if node.module else "",
        f"at {source.short}" if source else "",
        "(drawn is its equal)" if is_equal else "",
    )
    return " ".join(filter(None, parts))


def _block_texts(graph: Graph, box: Box, name: str, nodes: _Drawn) -> Iterator[str]:
    """What is said of a block where it is found: of each module that it is drawn for."""
    if box.call is None:
        yield name
        return
    for call in dict.fromkeys(enclosing(graph.calls[i], box.call.depth) for i in nodes):
        if call:
            yield f"block {call.path} {call.kind}"
