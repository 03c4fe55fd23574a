"""text.py: what walk_grad_fn prints, and what it refuses."""

import io

import pytest
import torch

from companion import Graph, walk_grad_fn
from companion.graph.text import indented
from tests.cases import each

SEED = """\
MeanBackward0
  input[0] → AddBackward0
    input[0] → MmBackward0
      input[0] → AccumulateGrad (x)
      input[1] → AccumulateGrad (w)
    input[1] → None (no grad path)
"""


def test_the_pass_of_the_seed_is_printed_as_the_design_says(capsys):
    x = torch.randn(2, 3, requires_grad=True)
    w = torch.randn(3, 2, requires_grad=True)
    loss = (torch.mm(x, w) + 2.0).mean()
    assert walk_grad_fn(loss.grad_fn) is None
    assert capsys.readouterr().out == SEED


def test_a_tensor_is_walked_like_its_node(capsys):
    x = torch.ones(2, 3, requires_grad=True)
    w = torch.ones(3, 2, requires_grad=True)
    walk_grad_fn((torch.mm(x, w) + 2.0).mean())
    assert capsys.readouterr().out == SEED


def test_a_walk_may_start_in_the_middle_and_after_backward(capsys):
    x = torch.ones(2, requires_grad=True)
    y = x.exp().sum()
    y.backward()
    walk_grad_fn(y.grad_fn.next_functions[0][0])
    assert capsys.readouterr().out == "ExpBackward0\n  input[0] → AccumulateGrad (x)\n"


def test_a_leaf_is_one_line(capsys):
    x = torch.ones(2, requires_grad=True)
    walk_grad_fn(x)
    assert capsys.readouterr().out == "AccumulateGrad (x)\n"


def test_a_leaf_that_no_variable_refers_to_has_no_name(capsys):
    walk_grad_fn(torch.ones(2, requires_grad=True).exp())
    assert capsys.readouterr().out == "ExpBackward0\n  input[0] → AccumulateGrad\n"


def test_the_callers_own_variable_names_a_leaf_rather_than_a_global(capsys, monkeypatch):
    x = torch.ones(2, requires_grad=True)
    monkeypatch.setitem(globals(), "elsewhere", x)
    walk_grad_fn(x)
    assert capsys.readouterr().out == "AccumulateGrad (x)\n"


def test_a_global_names_a_leaf_where_no_local_does(capsys, monkeypatch):
    monkeypatch.setitem(globals(), "elsewhere", torch.ones(2, requires_grad=True))
    walk_grad_fn(globals()["elsewhere"])
    assert capsys.readouterr().out == "AccumulateGrad (elsewhere)\n"


def test_an_edge_that_enters_another_output_than_the_first_says_which(capsys):
    whole = torch.arange(4.0, requires_grad=True)
    first, second = whole.split(2)
    walk_grad_fn(first * second)
    assert capsys.readouterr().out == (
        "MulBackward0\n"
        "  input[0] → SplitBackward0\n"
        "    input[0] → AccumulateGrad (whole)\n"
        "  input[1] → output 1 of SplitBackward0 (already seen)\n"
    )


def test_there_is_a_line_for_the_root_and_for_each_entry():
    x = torch.ones(2, requires_grad=True)
    t = x
    for _ in range(20):  # a million ways
        t = t + t
    graph = Graph.of(t * 2.0)
    entries = sum(len(graph.slots(i)) for i in range(len(graph)))
    assert len(list(indented(graph, 50))) == 1 + entries


def test_each_root_of_a_graph_begins_at_the_margin():
    x = torch.ones(2, requires_grad=True)
    graph = Graph.of(x.exp(), x.sin())
    assert list(indented(graph, 50)) == [
        "ExpBackward0",
        "  input[0] → AccumulateGrad (x)",
        "SinBackward0",
        "  input[0] → AccumulateGrad (x) (already seen)",
    ]


@each("levels", [0, 1, 7, 50])
def test_max_depth_is_the_number_of_levels_below_the_first_line(levels):
    t = torch.ones(2, requires_grad=True)
    for _ in range(60):
        t = t.sin()
    found = list(indented(Graph.of(t), levels))
    *found, limit, count = found
    assert found == ["SinBackward0"] + [
        "  " * level + "input[0] → SinBackward0" for level in range(1, levels + 1)
    ]
    assert limit == "  " * (levels + 1) + "... (max depth reached)"
    assert count == f"({60 - levels} of 61 nodes are not shown: max_depth={levels})"


def test_fifty_levels_are_printed_unless_told_otherwise(capsys):
    t = torch.ones(2, requires_grad=True)
    for _ in range(60):
        t = t.sin()
    walk_grad_fn(t)
    assert capsys.readouterr().out.count("SinBackward0") == 51


def test_what_the_limit_hid_on_a_long_way_is_shown_on_a_shorter_one():
    s = torch.ones(2, requires_grad=True).exp()
    graph = Graph.of(s.sin().sin() + s)
    assert list(indented(graph, 3)) == [
        "AddBackward0",
        "  input[0] → SinBackward0",
        "    input[0] → SinBackward0",
        "      input[0] → ExpBackward0",
        "        ... (max depth reached)",
        "  input[1] → ExpBackward0",
        "    input[0] → AccumulateGrad",
    ]


def test_a_limit_that_is_just_deep_enough_hides_nothing():
    s = torch.ones(2, requires_grad=True).exp()
    graph = Graph.of(s.sin().sin() + s)
    assert list(indented(graph, graph.depth)) == list(indented(graph, 1000))
    assert not any("max depth" in line for line in list(indented(graph, graph.depth)))


def test_a_long_chain_needs_no_recursion():
    t = x = torch.ones(2, requires_grad=True)
    for _ in range(3000):
        t = t + 1
    found = list(indented(Graph.of(t, names={"x": x}), 3000))
    assert found[3000] == "  " * 3000 + "input[0] → AccumulateGrad (x)"
    assert len(found) == 1 + 2 * 3000


def test_none_is_refused_with_a_cure():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="grad_fn of a leaf.*give the tensor itself"):
        walk_grad_fn(x.grad_fn)


def test_a_detached_tensor_is_refused_with_a_cure():
    with pytest.raises(ValueError, match=r"does not require grad; look for detach\(\)"):
        walk_grad_fn(torch.ones(2, requires_grad=True).detach())


def test_something_else_is_refused_by_its_kind():
    with pytest.raises(TypeError, match="must be a tensor or a Node.*got str"):
        walk_grad_fn("loss")


@pytest.mark.parametrize(("levels", "kind"), [(True, "bool"), (2.0, "float"), (None, "NoneType")])
def test_a_max_depth_that_is_no_int_is_refused(levels, kind):
    with pytest.raises(TypeError, match=f"max_depth must be an int, got {kind}"):
        walk_grad_fn(torch.ones(2, requires_grad=True), max_depth=levels)


def test_a_negative_max_depth_is_refused():
    with pytest.raises(ValueError, match="max_depth must be 0 or more, got -1"):
        walk_grad_fn(torch.ones(2, requires_grad=True), max_depth=-1)


def test_a_chain_of_a_hundred_thousand_says_how_much_it_hides(capsys):
    t = torch.ones(2, requires_grad=True)
    for _ in range(100_000):
        t = t.view(2)
    walk_grad_fn(t)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 53
    assert printed[-1] == "(99950 of 100001 nodes are not shown: max_depth=50)"


def test_a_node_that_is_shown_on_another_way_is_not_counted_as_hidden():
    s = torch.ones(2, requires_grad=True).exp()
    lines = list(indented(Graph.of(s.sin().sin() + s), 2))
    assert any("... (max depth reached)" in line for line in lines)
    assert not any("not shown" in line for line in lines)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("utf-8", "  input[0] → AccumulateGrad (α é)\n"),
        ("cp932", "  input[0] -> AccumulateGrad (α \\xe9)\n"),  # which has an arrow, and no é
        ("cp1252", "  input[0] -> AccumulateGrad (\\u03b1 é)\n"),
        ("ascii", "  input[0] -> AccumulateGrad (\\u03b1 \\xe9)\n"),
    ],
)
def test_what_the_encoding_of_the_terminal_lacks_is_written_otherwise(encoding, line, monkeypatch):
    names = {"α é": torch.ones(2, requires_grad=True)}
    fn = Graph.of(names["α é"].exp(), names=names)
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    monkeypatch.setattr("companion.graph.text.Graph.of", lambda _: fn)
    monkeypatch.setattr("sys.stdout", stream)
    walk_grad_fn(fn)
    monkeypatch.undo()
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == f"ExpBackward0\n{line}"
