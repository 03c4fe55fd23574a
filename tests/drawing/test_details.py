"""details.py: what is told of a box that is chosen."""

import re

import torch
from torch.autograd.graph import saved_tensors_hooks

from companion import Graph, draw, modules, record_backward, watch
from companion.drawing.details import details_of, known_of
from companion.drawing.folding import fold
from companion.drawing.numbers import Numbers, numbers_of_pass
from companion.drawing.words import names_of
from tests.cases import each


def details(what, watched=None, numbers=None):
    """What is told of each box of a graph or a recorded pass, by the class of its Node."""
    graph = what if isinstance(what, Graph) else what.graph
    folded, known = fold(graph, 150), known_of(what, numbers or Numbers(), watched)
    boxes = [(box, dict(details_of(folded, names_of(folded), box, known))) for box in folded.boxes]
    return {row.get("Tensor") or row.get("Node", box.kind): row for box, row in boxes}


def test_a_node_tells_its_shape_dtype_module_and_where_it_leads():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sigmoid())
    with modules(model) as names:
        loss = model(torch.ones(4, 3)).sum()
    rows_of = details(Graph.of(loss, names=names))
    assert rows_of["SigmoidBackward0"] == {
        "Node": "SigmoidBackward0",
        "Shape": "(4, 2)",
        "Dtype": "float32",
        "Module": "1",
        "Saved": "32 bytes (result)",
        "Leads to": "AddmmBackward0",
    }
    assert rows_of["0.bias"] == {
        "Node": "AccumulateGrad",
        "Tensor": "0.bias",
        "Shape": "(2,)",
        "Dtype": "float32",
    }


def test_the_line_is_that_of_the_watch_or_of_anomaly_mode():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x.sin().sum()
    assert re.fullmatch(
        r"test_details\.py:\d+: `x\.sin\(\)`", details(Graph.of(y), watched)["SinBackward0"]["Line"]
    )
    assert "Line" not in details(Graph.of(y))["SinBackward0"]
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        z = x.cos()
    line = details(Graph.of(z))["CosBackward0"]["Line"]
    assert re.fullmatch(r"test_details\.py:\d+: `z = x\.cos\(\)`", line)


OPERATIONS = {
    "sin": lambda x: x.sin(),
    "product": lambda x: x * (x + 1),
    "matrices": lambda x: x @ x.T,
    "a list": lambda x: torch.einsum("ij,jk->ik", x, x.T),
    "convolution": lambda x: torch.conv2d(x[None, None], x[None, None, :2, :2]),
    "sparse": lambda x: torch.sparse.mm(torch.eye(3).to_sparse(), x),
    "layer norm": lambda x: torch.layer_norm(x, [4]),
    "nothing saved": lambda x: x + 1,
}


@each("name", OPERATIONS)
def test_saved_bytes_are_those_of_the_saved_tensors(name):
    graph = Graph.of(OPERATIONS[name](torch.rand(3, 4, requires_grad=True)))
    folded, known = fold(graph, 150), known_of(graph, Numbers(), None)
    for box in folded.boxes:
        node = folded.node(box)
        if not node.is_leaf:
            saved = dict(details_of(folded, names_of(folded), box, known))["Saved"]
            number = re.match(r"([\d,]+) bytes? ", saved)
            assert (int(number[1]) if number else 0) == sum(t.nbytes for t in node.saved), saved
            assert number or saved == "no tensor"


def test_hooks_are_not_run():
    def unpack(_):
        raise AssertionError("was run")

    x = torch.ones(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, unpack):
        y = x.sin()
    assert details(Graph.of(y))["SinBackward0"]["Saved"] == "through hooks, which were not run"
    draw(y, max_nodes=1)


def test_what_was_freed_or_changed_is_said():
    x = torch.ones(2, requires_grad=True)
    y = x.sin()
    changed = y.exp()
    changed.mul_(2)
    assert "result is modified in place now" in str(details(Graph.of(changed)))
    graph = Graph.of(y)
    y.sum().backward()
    assert details(graph)["SinBackward0"]["Saved"] == "self is freed now"


def test_of_a_recorded_pass_it_tells_the_gradient_and_what_was_saved_then():
    x = torch.ones(2, requires_grad=True)
    recording = record_backward(x.sin().sum())
    numbers = numbers_of_pass(recording, range(len(recording.graph)))
    rows_of = details(recording, numbers=numbers)
    assert rows_of["SinBackward0"]["Saved"] == "8 bytes (self); self is freed now"
    assert rows_of["SinBackward0"]["Gradient"] == "[1, 1]"
    assert rows_of["x"]["Gradient"] == "[0.5403, 0.5403]"


def test_a_block_tells_what_is_in_it():
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(30):
        y = y.sin()
    folded = fold(Graph.of(y), 5)
    (box,) = (box for box in folded.boxes if box.is_block) or [None]
    rows = dict(details_of(folded, names_of(folded), box, known_of(None, Numbers(), None)))
    assert "SinBackward0" in rows["Inside"] and "leaf" not in rows
