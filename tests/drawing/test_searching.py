"""searching.py: each Node is found where it is drawn, or where its equal is."""

import torch

from companion import Graph, watch
from companion.drawing.folding import fold
from companion.drawing.insides import insides_of
from companion.drawing.searching import texts_by_way
from companion.drawing.words import names_of
from tests.cases import each
from tests.drawing.test_insides import GRAPHS, read


def found_in(graph, most, watched=None):
    insides = insides_of(fold(graph, most))
    names = [names_of(inside.folded) for inside in insides]
    return insides, names, texts_by_way(insides, names, watched)


def box_at(insides, names, way):
    """The picture that a way leads into, and the box that it ends at."""
    number = 0
    for depth, name in enumerate(way):
        box = next(box for box, known in names[number].items() if known == name)
        if depth < len(way) - 1:
            number = insides[number].opens[box]
    return insides[number].folded, box


@each("most", [3, 12])
@each("name", ["encoder of 12 layers", "u-net", "dense", "unequal"])
def test_each_node_is_found_at_a_box_of_its_kind_or_in_one_that_stays_shut(name, most):
    graph = GRAPHS[name]()
    insides, names, texts = found_in(graph, most)
    said = set()
    for way, found in texts.items():
        folded, box = box_at(insides, names, way)
        kinds = {"leaf" if folded.node(box).is_leaf else folded.node(box).name}
        for text in found:
            if not box.is_block:
                assert text.split()[0] in kinds
            said.add(text.removesuffix(" (drawn is its equal)"))
    for node in graph.nodes:
        words = ["leaf" if node.is_leaf else node.name]
        words += [node.label] if node.label != node.name else []
        words += [f"in {node.module}"] if node.module else []
        assert " ".join(words) in said


def test_a_copy_that_is_not_drawn_is_found_at_its_equal_and_a_drawn_one_is_said_to_be_drawn():
    graph = read("encoder of 12 layers")
    insides, names, texts = found_in(graph, 60)
    ways = {text: way for way, found in texts.items() for text in found}
    first, last = (
        next(text for text in ways if f"layers.{i}.linear1.weight" in text) for i in (3, 11)
    )
    assert ways[first] == ways[last]
    assert first.endswith("(drawn is its equal)") and not last.endswith("equal)")
    folded, box = box_at(insides, names, ways[last])
    assert folded.node(box).label == "encoder.layers.11.linear1.weight"


def test_each_call_of_a_module_that_is_a_block_is_found():
    _, names, texts = found_in(read("encoder of 12 layers"), 20)
    ways = {text: way for way, found in texts.items() for text in found}
    each = [ways[f"block encoder.layers.{i}.self_attn MultiheadAttention"] for i in range(12)]
    assert len(set(each)) == 1 and each[0][-1] in names[len(each[0]) - 1].values()


def test_the_line_of_a_node_is_found():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x.sin().sum()
    _, _, texts = found_in(Graph.of(y), 10, watched)
    assert any("SinBackward0" in t and "`x.sin()`" in t for found in texts.values() for t in found)
