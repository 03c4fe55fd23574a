"""words.py: a drawing in sentences, for those who cannot see it."""

import torch

from companion import Graph, draw
from tests.drawing.pictures import the_pass
from tests.programs import Double


def test_the_alternative_text_tells_every_node_and_where_it_leads():
    assert the_pass().alt == (
        "Backward graph with 5 nodes. Root MeanBackward0 leads to AddBackward0. "
        "AddBackward0 leads to MmBackward0 and None at slot 1. "
        "MmBackward0 leads to leaf x (2, 3) and leaf w (3, 2)."
    )


def test_nodes_of_one_class_are_told_apart_by_a_number():
    x = torch.ones(2, requires_grad=True)
    assert draw(x.sin().sin()).alt == (
        "Backward graph with 3 nodes. Root SinBackward0 #1 leads to SinBackward0 #2. "
        "SinBackward0 #2 leads to leaf x (2,)."
    )


def test_a_large_graph_is_summed_up():
    t = torch.ones(2, requires_grad=True)
    for _ in range(20):
        t = t.sin()
    assert draw(t).alt == (
        "Backward graph with 21 nodes: 20 SinBackward0, 1 AccumulateGrad. "
        "Root SinBackward0 #1. It ends at leaf (2,)."
    )
    leaves = {f"w{i}": torch.ones(1, requires_grad=True) for i in range(9)}
    assert draw(torch.stack(list(leaves.values())).sum() + 1.0, names=leaves).alt == (
        "Backward graph with 12 nodes. Root AddBackward0 leads to SumBackward0 and None at slot 1. "
        "SumBackward0 leads to StackBackward0. StackBackward0 leads to "
        + " and ".join(f"leaf w{i} (1,)" for i in range(9))
        + "."
    )
    total = sum(w.exp() for w in leaves.values())
    assert draw(total, names=leaves).alt.endswith(
        "It ends at leaf w8 (1,), leaf w7 (1,), leaf w6 (1,), leaf w5 (1,), leaf w4 (1,), "
        "leaf w3 (1,) and 3 more."
    )


def test_names_of_results_and_custom_functions_are_told_and_nameless_leaves_are_numbered():
    x = torch.ones(2, requires_grad=True)
    hidden = Double.apply(x)
    assert draw(hidden.exp(), names={"hidden": hidden, "x": x}).alt == (
        "Backward graph with 3 nodes. "
        "Root ExpBackward0 leads to custom Function DoubleBackward (hidden). "
        "custom Function DoubleBackward (hidden) leads to leaf x (2,)."
    )
    pair = torch.ones(2, requires_grad=True) * torch.ones(2, requires_grad=True)
    assert draw(pair).alt.endswith("leads to leaf (2,) #1 and leaf (2,) #2.")


def test_what_is_saved_is_told_in_words_too():
    x = torch.ones(2, requires_grad=True)
    y = x * x.exp()
    assert "MulBackward0 saved" not in draw(y).alt
    assert "MulBackward0 saved other and self. " in draw(y, saved=True).alt
    y.sum().backward()
    assert "MulBackward0 saved other and self, now freed. " in draw(y, saved=True).alt
    z = x.exp()
    z.add_(1)
    assert draw(z, saved=True).alt.endswith("ExpBackward0 saved result, now modified in place.")


def test_a_root_that_is_a_leaf_used_often_is_told_once():
    x = torch.ones(2, requires_grad=True)
    assert draw(Graph.of(x * x * x * x, x)).alt.count("Root leaf x") == 1
