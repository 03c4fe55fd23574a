"""folding.py: which Nodes become one box, and that none is left out."""

import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from companion import Graph, draw, modules
from companion.drawing.folding import Box, Folded, fold
from tests.programs import programs, run


def kinds(folded: Folded) -> list[tuple[str, int, int]]:
    """Kind, copies and Nodes of each box that is more than a Node."""
    return [(b.kind, b.copies, len(b.nodes)) for b in folded.boxes if b.kind != "node"]


def check(graph: Graph, folded: Folded, limit: int) -> None:
    """No Node and no edge is lost, no arrow leads up, copies are copies, the limit holds."""
    boxes = folded.boxes
    assert len(boxes) <= limit
    box_of: dict[int, Box] = {}
    for box in boxes:
        for i in box.nodes + box.leaves:
            assert i not in box_of or graph.nodes[i].is_leaf and box.use
            box_of[i] = box
    assert set(box_of) == set(range(len(graph)))
    between = [e for targets in folded.edges.values() for among in targets.values() for e in among]
    inside = [edge for edge in graph.edges if box_of[edge.source] is box_of[edge.target]]
    assert sorted([*between, *inside], key=hash) == sorted(graph.edges, key=hash)
    number = {box: i for i, box in enumerate(boxes)}
    for source, targets in folded.edges.items():
        for target, among in targets.items():
            assert number[target] > number[source]
            assert all(e.source in source.nodes and e.target in target.nodes for e in among)
    for box in boxes:
        each = len(box.nodes) // box.copies
        parts = [box.nodes[k : k + each] for k in range(0, len(box.nodes), each)]
        assert len(parts) == box.copies
        for part in parts:
            assert inner(graph, part) == inner(graph, parts[0])


def inner(graph: Graph, part: list[int]) -> list[tuple[object, ...]]:
    """What the Nodes of a part of a box are, told by their places in it."""
    leaves: list[int] = []  # in the order of their first use here
    contents = []
    for i in part:
        slots: list[object] = []
        for edge in graph.slots(i):
            if edge and graph.nodes[edge.target].is_leaf:
                if edge.target not in leaves:
                    leaves.append(edge.target)
                slots.append((graph.nodes[edge.target].shape, leaves.index(edge.target)))
            elif edge and edge.target in part:
                slots.append((part.index(edge.target), edge.input_nr))
            else:
                slots.append(edge is None)
        contents.append((graph.nodes[i].name, *slots))
    return contents


# ---- what repeats


def test_twelve_equal_layers_with_weights_of_their_own_are_one_block():
    weights = [torch.ones(2, 2, requires_grad=True) for _ in range(12)]
    h = torch.ones(2, 2, requires_grad=True) * 2
    for w in weights:
        h = torch.tanh(h @ w) + 1
    graph = Graph.of(h.sum())
    assert kinds(folded := fold(graph, 20)) == [("copies", 12, 36)]
    (block,) = (box for box in folded.boxes if box.kind == "copies")
    assert len(block.leaves) == 12
    check(graph, folded, 20)
    assert kinds(fold(graph, 100)) == []


def test_a_layer_that_differs_is_not_folded_with_the_others():
    h = torch.ones(2, requires_grad=True) * 2
    for layer in range(12):
        h = (h.relu() if layer == 6 else h.tanh()) * 2 + 1
    folded = fold(Graph.of(h.sum()), 12)
    assert kinds(folded) == [("copies", 5, 15), ("copies", 6, 18)]


def test_layers_with_weights_of_other_shapes_are_not_equal():
    h = torch.ones(2, 2, requires_grad=True) * 2
    for size in [3, 3, 3, 3, 5, 5, 5, 5]:
        w = torch.ones(2, size, requires_grad=True)
        h = (h @ w) @ torch.ones(size, 2)
    folded = fold(Graph.of(h.sum()), 12)
    assert kinds(folded) == [("copies", 4, 8), ("copies", 4, 8)]


def test_a_leaf_used_twice_is_not_taken_for_two_leaves():
    p = [torch.ones(2, requires_grad=True) for _ in range(200)]
    y = torch.ones(2, requires_grad=True)
    for i in range(60):
        y = (y * p[2 * i]).sin() * p[2 * i + i % 2]
    graph = Graph.of(y.sum())
    folded = fold(graph, 20)
    check(graph, folded, 20)
    assert max(box.copies for box in folded.boxes) == 29


def test_stretches_that_lead_to_other_places_of_the_next_are_not_equal():
    rng = random.Random(0)
    h = torch.ones(2, requires_grad=True) * 1
    for _ in range(20):
        inside = []
        for _ in range(10):
            h = h.sin()
            inside.append(h)
        h = h + inside[rng.randrange(9)]
    graph = Graph.of(h)
    folded = fold(graph, 30)
    check(graph, folded, 30)
    assert max(box.copies for box in folded.boxes if len(box.nodes) > 10) < 10


def test_steps_that_share_weights_and_carry_two_states_are_one_block():
    w = torch.ones(2, 2, requires_grad=True)
    h = c = torch.ones(2, 2, requires_grad=True) * 2
    for _ in range(50):
        c = c * torch.sigmoid(h @ w) + h
        h = torch.tanh(c)
    graph = Graph.of((h + c).sum())
    folded = fold(graph, 30)
    assert [kind for kind in kinds(folded) if kind[1] > 40] == [("copies", 49, 245)]
    check(graph, folded, 30)
    (leaf,) = (box for box in folded.boxes if graph.nodes[box.nodes[0]].label == "w")
    assert max(len(targets.get(leaf, ())) for targets in folded.edges.values()) == 49


def test_steps_that_all_read_one_result_are_copies():
    shared = torch.ones(2, 2, requires_grad=True).exp()
    h = shared * 2
    for _ in range(30):
        h = torch.sin(h @ shared)
    assert ("copies", 30, 60) in kinds(fold(Graph.of(h.sum()), 10))


def test_a_loop_in_a_loop_is_one_block_of_blocks():
    h = torch.ones(2, requires_grad=True) * 1
    for _ in range(10):
        h = h.exp()
        for _ in range(10):
            h = h.sin()
    graph = Graph.of(h.sum())
    folded = fold(graph, 5)
    assert kinds(folded) == [("copies", 10, 110)]
    check(graph, folded, 5)


def test_a_wide_sum_is_one_block():
    leaves = [torch.ones(2, requires_grad=True) for _ in range(1000)]
    graph = Graph.of(torch.stack([leaf * 2 for leaf in leaves]).sum())
    folded = fold(graph, 20)
    assert kinds(folded) == [("copies", 1000, 1000)]
    assert len(folded.boxes[-1].leaves) == 1000
    check(graph, folded, 20)


def test_the_root_stays_a_box_of_its_own():
    y = torch.ones(2, requires_grad=True)
    for _ in range(200):
        y = y.sin()
    assert [len(box.nodes) for box in fold(Graph.of(y), 10).boxes] == [1, 198, 1, 1]


# ---- chains and the rest


def test_a_long_chain_of_all_sorts_is_one_block():
    rng = random.Random(0)
    y = torch.ones(2, requires_grad=True)
    for _ in range(60):
        y = getattr(y, rng.choice(["sin", "cos", "exp", "tanh", "relu", "neg", "abs"]))()
    graph = Graph.of(y.sum())
    folded = fold(graph, 8)
    assert any(kind == "chain" for kind, *_ in kinds(folded))
    check(graph, folded, 8)


def test_what_does_not_repeat_is_drawn_near_the_root_and_the_rest_is_one_block():
    rng = random.Random(0)
    tensors = [torch.ones(2, requires_grad=True) * 1]
    for _ in range(300):
        tensors.append(rng.choice(tensors) * rng.choice(tensors))
    graph = Graph.of(sum(tensors).sum())
    for limit in (1, 2, 20, 150):
        folded = fold(graph, limit)
        check(graph, folded, limit)
    assert kinds(folded)[-1][0] == "rest"
    assert len(folded.boxes) > 140
    assert folded.boxes[0].nodes == [0]


STEPS = programs(
    ["mul", "sin", "split", "detach", "leaf", *(f"loop {n}" for n in range(7))], 20, 60
)


@settings(deadline=None, max_examples=40)
@given(STEPS, st.integers(1, 40))
@example(
    [("mul", 0, 0)] * 18 + [("loop 1", 0, 1), ("loop 2", 0, 0)], 6
)  # copies share their inside
def test_random_programs_lose_nothing_at_any_limit(steps, limit):
    tensors = [torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True) * 1]
    tensors = run(steps, tensors)
    graph = Graph.of(torch.stack(tensors).sum(), tensors[-1])
    folded = fold(graph, limit)
    if all(box.kind == "node" for box in folded.boxes):
        assert len(graph) <= len(folded.boxes) <= limit
    else:
        check(graph, folded, max(limit, 1 + sum(root.is_leaf for root in graph.roots)))


# ---- leaves


def test_a_leaf_that_is_used_more_than_three_times_is_drawn_at_each_use():
    x = torch.ones(2, requires_grad=True)
    three, four = fold(Graph.of(x * x * x), None), fold(Graph.of(x * x * x * x), None)
    assert [box.use for box in three.boxes] == [None] * 3
    assert [box.use for box in four.boxes if box.use] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    drawing = draw(x * x * x * x)
    assert drawing.dot.count("leaf x") - drawing.dot.count("the leaf x") == 4
    assert "use 4 of 4" in drawing.dot
    assert drawing.alt.startswith("Backward graph with 4 nodes. ")


def test_roots_that_are_leaves_have_boxes_of_their_own_whatever_the_limit():
    leaves = [torch.ones(2, requires_grad=True) for _ in range(20)]
    assert len(fold(Graph.of(*leaves), 5).boxes) == 20
    folded = fold(Graph.of(*leaves[:6], (leaves[0] * 2).sin().sum()), 3)
    assert [len(box.nodes) for box in folded.boxes] == [3, 1, 1, 1, 1, 1, 1]
    assert draw(Graph.of(*leaves), max_nodes=5).alt.startswith("Backward graph with 20 nodes")


# ---- modules


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, h):
        return h + torch.tanh(self.inner(h) * 2)


@pytest.fixture
def model_graph():
    model = torch.nn.Sequential(*[Block() for _ in range(6)], torch.nn.Linear(3, 1))
    with modules(model) as names:
        loss = model(torch.ones(4, 3)).sum()
    return Graph.of(loss, names=names)


def test_modules_become_blocks_as_fine_as_the_limit_allows(model_graph):
    def paths(limit: int) -> list[str]:
        return [box.call.path for box in fold(model_graph, limit).boxes if box.call]

    assert paths(9) == ["6", "5", "4", "3", "2", "1", "0"]
    assert paths(25)[:3] == ["6", "5", "5.inner"]
    check(model_graph, fold(model_graph, 25), 25)
    assert paths(1000) == []


def test_equal_modules_fold_together_where_even_they_are_too_many(model_graph):
    folded = fold(model_graph, 6)
    (block,) = (box for box in folded.boxes if box.kind == "copies")
    assert (block.copies, block.call.path, block.call.kind) == (5, "5", "Block")
    check(model_graph, folded, 6)


def test_a_block_says_what_is_in_it(model_graph):
    drawing = draw(model_graph, max_nodes=6)
    assert "drawn as 4" in drawing.alt
    assert "block 6 leads to block 5 ×5. block 5 ×5 leads to block 0 (2 edges)." in drawing.alt
    assert "In block 5 ×5: Block, 5 × (AddBackward0, " in drawing.alt
    assert "; 10 leaves: 5.inner.bias, 4.inner.bias" in drawing.svg
    assert "; made in 5, 5.inner, 4, 4.inner" in drawing.svg


def test_equal_blocks_are_described_once(model_graph):
    alt = draw(model_graph, max_nodes=9).alt
    assert "In block 5, block 4, block 3, block 2, block 1: Block, AddBackward0, " in alt
    assert "TBackward0; 1 × None; 2 leaves. In block 0: Block, AddBackward0, " in alt
    assert "TBackward0; 3 × None; 2 leaves." in alt
