"""Scenes: every Node is in one box of each scene that it runs in, and alone in one of them."""

import pytest
import torch

from companion import Graph
from companion.backward.blocks import MOST, MOST_COPIES, Maker, parts_of, scenes
from companion.drawing.boxes import Box
from tests.backward.models import PROGRAMS, encoder, recurrent
from tests.cases import each


def scenes_of(program):
    loss, names = PROGRAMS[program]()
    graph = Graph.of(loss, names=names)
    return graph, scenes(graph)


def shown(scene):
    """By box that runs in a scene, its Nodes; of a leaf that is drawn at each use, the first."""
    boxes = [box for box in scene.folded.boxes if scene.is_inside(box) and not box.is_further_use]
    return {box: [*box.nodes, *box.leaves] for box in boxes}


@each("program", PROGRAMS)
def test_each_node_that_runs_in_a_scene_is_in_one_box_of_it(program):
    graph, found = scenes_of(program)
    for scene in found:
        nodes = [i for inside in shown(scene).values() for i in inside]
        assert sorted(nodes) == sorted(scene.nodes)
    assert sorted(found[0].nodes) == list(range(len(graph)))


@each("program", PROGRAMS)
def test_each_block_opens_into_a_scene_of_its_nodes_and_each_node_is_alone_once(program):
    graph, found = scenes_of(program)
    alone = []
    for scene in found:
        for box, nodes in shown(scene).items():
            if box.is_block:
                inner = scene.scene_of[box]
                assert sorted(inner.nodes) == sorted(nodes)
                assert (inner.block, inner.outer) == (box, scene)
                assert len(shown(inner)) > 1
            else:
                alone += nodes
    assert sorted(alone) == list(range(len(graph)))


@each("program", PROGRAMS)
def test_a_scene_has_the_edges_that_leave_and_enter_its_boxes(program):
    graph, found = scenes_of(program)
    for scene in found:
        owner = {i: box for box, nodes in shown(scene).items() for i in nodes}
        for edge in graph.edges:
            source, target = owner.get(edge.source), owner.get(edge.target)
            if source and target and source is not target and not graph.nodes[edge.target].is_leaf:
                assert edge in scene.folded.edges[source][target]


def test_each_layer_of_a_model_is_a_block_and_the_first_is_no_exception():
    loss, names, _ = encoder(layers=6)
    first = scenes(Graph.of(loss, names=names))[0]
    paths = [box.call.path for box in first.folded.boxes if box.call]
    assert paths == [f"layers.{i}" for i in reversed(range(6))]


@pytest.mark.parametrize("steps", [30, 100])
def test_copies_are_told_apart_or_in_groups_where_they_are_many(steps):
    loss, names = recurrent(steps)
    found = scenes(Graph.of(loss, names=names))
    blocks = [box for box in found[0].folded.boxes if box.is_block]
    assert len(blocks) <= MOST_COPIES
    assert all(box.copies == 1 for box in blocks) == (steps == 30)
    assert sum(box.copies for box in blocks) >= steps - 2


def test_a_leaf_that_only_blocks_use_has_a_box_with_an_arrow_from_the_first_and_the_last():
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(6):
        y = (y * x).sin()
    graph = Graph.of(y.sum(), names={"x": x})
    root, *others = (i for i in graph.order if not graph.nodes[i].is_leaf)
    blocks = [Box(others[k : k + 2], "module") for k in range(0, 12, 2)]
    scene = Maker(graph).scene([Box([root]), *blocks], range(len(graph)))
    (leaf,) = (box for box in scene.folded.boxes if scene.folded.node(box).is_leaf)
    users = [box.nodes for box, ends in scene.folded.edges.items() if leaf in ends]
    assert users == [blocks[0].nodes, blocks[-1].nodes]


def test_a_graph_in_which_nothing_repeats_is_shown_in_groups():
    _, found = scenes_of("branches")
    assert all(len(shown(scene)) <= MOST for scene in found)


@each("program", PROGRAMS)
def test_what_is_called_a_module_is_the_call_of_one(program):
    _, found = scenes_of(program)
    boxes = [box for scene in found for box in scene.folded.boxes]
    assert all(box.call for box in boxes if box.kind == "module")


def test_a_block_of_one_node_opens_into_it():
    x = torch.ones((), requires_grad=True)
    graph = Graph.of(x * 2)
    assert [part.nodes for part in parts_of(graph, Box([0], "rest"))] == [[0]]
