"""insides.py: what is inside a block is drawn whole, level by level, down to single Nodes."""

import gc
import re
from functools import cache
from itertools import chain

import torch

import companion.drawing.insides
from companion import Graph, draw, modules, record_backward, watch
from companion.drawing.dot import dot_of
from companion.drawing.folding import fold
from companion.drawing.insides import Inside, insides_of
from companion.drawing.numbers import Numbers
from companion.drawing.searching import texts_by_way
from companion.drawing.words import names_of
from tests.cases import each
from tests.drawing.pictures import boxes
from tests.drawing.test_fitting import MODELS


def read(name: str) -> Graph:
    model, x = MODELS[name]
    with modules(model) as names:
        loss = model(x).sum()
    return Graph.of(loss, names=names)


def unequal(count: int) -> Graph:
    """A graph in which nothing repeats: its root leads to a loop that uses one leaf in places."""
    functions = (torch.sin, torch.cos, torch.tanh, torch.exp)
    x = torch.ones(2, requires_grad=True)
    y = x
    for i in range(count):
        y = functions[(i * i // 3) % 4](y)
        if (i * i) % 7 == 1:
            y = y + x
    return Graph.of(y.sum())


GRAPHS = {name: lambda name=name: read(name) for name in MODELS} | {
    "unequal": lambda: unequal(60),
    "long": lambda: unequal(3000),
}


@cache
def graph_of(name: str) -> Graph:
    return GRAPHS[name]()


SIZES = [(name, most) for name in GRAPHS for most in (1, 3, 12, 60)]


@cache
def opened(name: str, most: int) -> list[Inside]:
    return insides_of(fold(graph_of(name), most))


def operations(folded):
    """The Nodes that boxes and frames stand for, but those outside."""
    boxes = chain.from_iterable(box.nodes for box in folded.boxes if not box.is_outside)
    copies = chain.from_iterable(frame.block.nodes for frame in folded.frames)
    return {i for i in [*boxes, *copies] if not folded.graph.nodes[i].is_leaf}


@each("name, most", SIZES)
def test_an_inside_has_all_nodes_of_its_block_and_no_other(name, most):
    insides = opened(name, most)
    for inside in insides[1:]:
        assert operations(inside.folded) == {*inside.block.nodes}


@each("name, most", SIZES)
def test_every_block_opens_and_shows_something_else(name, most):
    insides = opened(name, most)
    for inside in insides:
        for box in inside.folded.boxes:
            if len(insides) <= 100 and box.is_block and not box.is_outside:
                shown = insides[inside.opens[box]]
                assert len(shown.folded.boxes) > 1 or shown.folded.boxes[0].kind != box.kind
    assert len(insides) <= 101


@each("name, most", SIZES)
def test_all_edges_that_touch_an_inside_are_in_it(name, most):
    insides = opened(name, most)
    for inside in insides[1:]:
        folded, nodes = inside.folded, {*inside.block.nodes}
        if folded.frames:  # which hide the edges of further copies
            continue
        inner = [box for box in folded.boxes if not box.is_outside]
        within = {i: box for box in inner for i in [*box.nodes, *box.leaves] if not box.use}
        wanted = {
            edge
            for edge in folded.graph.edges
            if nodes & {edge.source, edge.target}
            and within.get(edge.source) is not within.get(edge.target, "outside")
        }
        drawn = {e for to in folded.edges.values() for edges in to.values() for e in edges}
        assert drawn == wanted


@each("name, most", SIZES)
def test_nothing_leads_up_or_past(name, most):
    insides = opened(name, most)
    for inside in insides[1:]:
        for source, targets in inside.folded.edges.items():
            assert source.kind != "below" or not targets
            assert all(target.kind != "above" for target in targets)
            assert not (source.kind == "above" and any(t.kind == "below" for t in targets))


def test_an_inside_that_is_left_out_is_told(monkeypatch):
    monkeypatch.setattr(companion.drawing.insides, "MOST_INSIDES", 3)
    views = draw(unequal(3000), max_nodes=3)._insides
    assert len(views) == 3
    details = chain.from_iterable(view.details.values() for view in views)
    blocks = [box for box in details if box.name.startswith(("block", "the rest"))]
    assert any(box.opens is None for box in blocks)
    for box in blocks:
        assert (box.opens is None) == ("Stays shut" in dict(box.rows))


def test_an_inside_is_not_endless():
    sizes = [len(i.folded.boxes) for i in insides_of(fold(unequal(3000), 3))]
    assert max(sizes) <= 130 and len(sizes) <= 101


def test_no_search_for_garbage_goes_through_a_graph_again_and_again():
    searches = []

    def note(phase, info):
        searches.append(phase)

    folded = fold(unequal(1000), 12)
    gc.collect()
    gc.callbacks.append(note)
    try:
        insides = insides_of(folded)
        inside_searches = len(searches)
        names = [names_of(inside.folded) for inside in insides]
        gc.collect()
        searches.clear()
        texts_by_way(insides, names, None)
    finally:
        gc.callbacks.remove(note)
    assert len(insides) > 10 and inside_searches <= 2 and len(searches) <= 2


def test_equal_blocks_share_an_inside():
    insides = insides_of(fold(read("u-net"), 12))
    assert sum(len(inside.opens) for inside in insides) > len(insides[1:])
    for inside in insides:
        for box, number in inside.opens.items():
            assert insides[number].block.content == box.content


def test_what_is_outside_says_which_node_it_is_or_how_many():
    one, more = set(), set()
    for inside in insides_of(fold(read("u-net"), 12))[1:]:
        labels = re.findall(
            r'label="outside\\n(.*?)" class=outside', dot_of(inside.folded, {}, Numbers())
        )
        outside = [box for box in inside.folded.boxes if box.is_outside]
        for box, label in zip(outside, labels, strict=True):
            if len(box.nodes) == 1:
                one.add(label.replace("\\n", "") == inside.folded.node(box).name)
            else:
                more.add(label == f"{len(box.nodes)} nodes")
    assert one == more == {True}


def test_a_graph_without_blocks_has_no_insides():
    assert len(insides_of(fold(read("small"), None))) == 1


def test_a_block_shows_nothing_of_its_first_node_though_its_inside_does():
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(20):
        y = y.sin()
    loss = y.sum()
    for what, most in ((loss, 4), (loss, 2), (record_backward(loss, retain_graph=True), 4)):
        svg = draw(what, max_nodes=most, saved=True, values=True).svg
        blocks = [" ".join(lines) + hover for kind, lines, hover in boxes(svg) if kind == "folded"]
        assert blocks
        for text in blocks:
            assert not {"saved", "value", "gradient"} & {*re.findall(r"\w+", text)}


def test_a_cut_is_in_the_inside_that_took_it_and_in_no_other():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x
        for i in range(40):
            y = y.sin()
            if i == 20:
                y = y * y.detach()
    for most in range(1, 20):
        views = draw(y.sum(), watch=watched, max_nodes=most)._insides
        rows = [
            [(b.name, dict(b.rows).get("Inside", "")) for b in v.details.values()] for v in views
        ]
        assert ["✂" in view.dot for view in views] == ["MulBackward0" in str(row) for row in rows]
