"""folding.py: which Nodes become one box, and that none is left out."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from companion import Graph, draw, modules, record_backward
from companion.drawing.boxes import Box, Folded
from companion.drawing.folding import fold
from tests.cases import each
from tests.drawing.pictures import boxes, pills
from tests.programs import programs, run


def kinds(folded: Folded) -> list[tuple[str, int, int]]:
    """Kind, copies and Nodes of each box that is more than a Node, and of each frame."""
    blocks = [box for box in folded.boxes if box.is_block] + [f.block for f in folded.frames]
    return [(b.kind, b.copies, len(b.nodes)) for b in blocks]


def copies_in(block: Box) -> list[list[int]]:
    """The Nodes of each copy in a block."""
    each = len(block.first_copy)
    return [block.nodes[k : k + each] for k in range(0, len(block.nodes), each)]


def check(graph: Graph, folded: Folded, limit: int) -> None:
    """No Node and no edge is lost, no arrow leads up, copies are copies, the limit holds."""
    boxes, frames = folded.boxes, folded.frames
    assert len(boxes) + len(frames) <= limit
    box_of = dict(folded.box_of)
    leaves = Counter(i for frame in frames for i in frame.leaves)
    for box in boxes:
        for i in box.nodes if graph.nodes[box.nodes[0]].is_leaf else box.leaves:
            assert not leaves[i] or box.is_further_use
            leaves[i] += 1
            box_of[i] = box
        assert box.is_block or len(box.nodes) == 1
    assert set(folded.box_of) | set(leaves) == set(range(len(graph)))
    further = further_copies(folded)
    drawn = [e for targets in folded.edges.values() for among in targets.values() for e in among]
    assert len(set(drawn)) == len(drawn)
    for edge in set(graph.edges) - set(drawn):  # it is inside of a box, or of a frame
        source, target = (box_of.get(i) for i in (edge.source, edge.target))
        assert source is target or edge.source in further or edge.target in further
    for edge in drawn:  # what is drawn is not inside of a further copy
        assert not any({edge.source, edge.target} <= set(copy) for copy in further.values())
    number = {box: i for i, box in enumerate(boxes)}
    for source, targets in folded.edges.items():
        for target, among in targets.items():
            assert number[target] > number[source]
            assert all(box_of[e.source] is source for e in among)
            assert all(graph.nodes[e.target].is_leaf or box_of[e.target] is target for e in among)
    for block in [*boxes, *(frame.block for frame in frames)]:
        parts = copies_in(block)
        assert len(parts) == block.copies
        for part in parts:
            assert inner(graph, part) == inner(graph, parts[0])


def further_copies(folded: Folded) -> dict[int, list[int]]:
    """For each Node of a copy that is not drawn, and each leaf of one, what is in the copy."""
    found: dict[int, list[int]] = {}
    for frame in reversed(folded.frames):
        for copy in copies_in(frame.block)[1:]:
            found |= dict.fromkeys(copy, copy)
        found |= {leaf: [leaf] for leaf in frame.leaves}
    return found


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
    (frame,) = folded.frames
    assert frame.is_row and len(frame.leaves) == 11
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
    assert max(copies for _, copies, _ in kinds(folded)) == 29


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
    assert max(copies for _, copies, nodes in kinds(folded) if nodes > 10) < 10


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


def test_steps_that_each_read_an_output_of_one_operation_are_copies():
    rows = (torch.ones(20, 3) * torch.ones((), requires_grad=True)).unbind()
    h = torch.zeros(3)
    for row in rows:
        h = torch.tanh(h + row) * 2
    assert kinds(fold(Graph.of(h.sum()), 12)) == [("copies", 19, 57)]


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


def test_equal_modules_are_one_before_any_is_opened(model_graph):
    folded = fold(model_graph, 6)
    assert kinds(folded) == [("module", 1, 2), ("copies", 5, 25), ("module", 1, 5)]
    block = folded.boxes[2]
    assert (block.call.path, block.last_call.path, block.call.kind) == ("5", "1", "Block")
    check(model_graph, folded, 6)


def test_as_many_modules_are_opened_as_there_is_room_for(model_graph):
    def paths(limit: int) -> list[str]:
        folded = fold(model_graph, limit)
        check(model_graph, folded, limit)
        return [box.call.path for box in folded.boxes if box.call]

    assert paths(6) == ["6", "5", "0"]
    assert paths(9) == ["6", "5.inner", "0"]
    assert paths(20) == []
    assert [len(fold(model_graph, limit).frames) for limit in (6, 9, 20, 1000)] == [0, 1, 1, 0]


def test_a_frame_says_which_copies_it_stands_for(model_graph):
    drawing = draw(model_graph, max_nodes=12)
    (lines,) = (lines for kind, lines, _ in boxes(drawing.svg) if kind == "title")
    assert lines == ["×5 in a row", "5 to 1", "Block"]
    assert "A frame shows one of 5 copies of Block, each leads to the next: AddBackward0" in (
        drawing.alt
    )


def test_of_copies_side_by_side_the_frame_says_so():
    leaves = [torch.ones(2, requires_grad=True) for _ in range(100)]
    drawing = draw(torch.stack([leaf.exp() * 2 for leaf in leaves]).sum(), max_nodes=20)
    assert "A frame shows one of 100 copies of 2 nodes, side by side: MulBackward0" in drawing.alt
    assert "StackBackward0 leads to MulBackward0 (100 edges)." in drawing.alt
    assert drawing.dot.count("×100 side by side") == 1


def test_an_arrow_out_of_a_frame_has_no_number_of_the_copy_that_is_drawn():
    h = torch.ones((), requires_grad=True) * 1.0
    for _ in range(200):
        h = (h * 1.01).neg()
    recorded = record_backward(h * 1.0)
    drawing = draw(recorded, max_nodes=10)
    assert "×200 in a row" in drawing.dot
    # From the root, in the frame, and to the leaf; the last copy sent 7.316 out of the frame.
    assert sorted(pills(drawing.svg)) == ["-1", "[0] 1", "[0] 7.316"]


def test_names_and_paths_that_are_shown_are_never_equal():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0)
    model = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    with modules(model) as names:
        loss = model(torch.ones(3, 1, 8)).sum()
    for limit in (None, 60, 20):
        shown = [
            lines
            for kind, lines, _ in boxes(draw(loss, names=names, max_nodes=limit).svg)
            if kind == "leaf"
        ]
        assert len(set(map(tuple, shown))) == len(shown) > 0


def test_a_block_says_what_is_in_it(model_graph):
    drawing = draw(model_graph, max_nodes=6)
    assert "drawn as 4" in drawing.alt
    assert "block 6 leads to block 5 ×5. block 5 ×5 leads to block 0 (2 edges)." in drawing.alt
    assert "In block 5 ×5: Block, 5 × (AddBackward0, " in drawing.alt
    assert "; 10 leaves: 5.inner.bias, 4.inner.bias" in drawing.svg
    assert "; made in 5, 5.inner, 4, 4.inner" in drawing.svg


def test_equal_blocks_are_described_once():
    model = torch.nn.Sequential(*[Block(), torch.nn.Softmax(0), Block(), torch.nn.Sigmoid()])
    with modules(model) as names:
        loss = model(torch.ones(4, 3, requires_grad=True) * 1).sum()
    alt = draw(loss, names=names, max_nodes=8).alt
    assert "In block 2, block 0: Block, AddBackward0, " in alt


@each(("limit", "shut"), [(70, []), (40, [10]), (20, [40]), (12, [40, 10])])
def test_a_chain_is_opened_again_where_there_is_room_for_it(limit, shut):
    def branch(count):
        y = torch.ones(2, requires_grad=True)
        for _ in range(count):
            y = choose.choice([torch.sin, torch.cos, torch.tanh, torch.exp, torch.sinh])(y)
        return y

    choose = random.Random(0)

    graph = Graph.of((branch(40) * branch(10)).sum())
    folded = fold(graph, limit)
    check(graph, folded, limit)
    chains = [len(box.nodes) for box in folded.boxes if box.kind == "chain"]
    assert sorted(chains) == sorted(shut)


@pytest.mark.parametrize("depth", [10, 20])
def test_of_a_row_of_different_layers_that_is_too_high_the_first_half_is_drawn(depth):
    layers = [torch.nn.Linear(8 + i, 9 + i) for i in range(depth)]
    model = torch.nn.Sequential(*(each for layer in layers for each in (layer, torch.nn.Tanh())))
    with modules(model) as names:
        loss = model(torch.ones(4, 8)).sum()
    folded = fold(Graph.of(loss, names=names), 60, lambda folded: len(folded.boxes) < 1.5 * depth)
    check(folded.graph, folded, 60)
    (rest,) = [box for box in folded.boxes if box.kind == "rest"]
    assert len(rest.nodes) < 0.6 * sum(len(box.nodes) for box in folded.boxes)
    assert len(folded.boxes) > depth
