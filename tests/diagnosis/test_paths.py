"""Paths that are looked at once for all inputs, and not once for each."""

import torch
from torch import nn

from companion import Graph, diagnose
from companion.diagnosis.paths import first_on_the_way


def test_the_first_edge_on_the_way_is_the_least_of_all_paths():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    a, b = x.exp(), y.exp()
    graph = Graph.of((a * b).sum() + b.sin().sum())
    index = {node.name: node.index for node in graph.nodes}
    mul, sin = (index["MulBackward0"], 1), (index["SinBackward0"], 0)
    first = first_on_the_way(graph, {mul, sin})
    (of_x,) = (leaf.index for leaf in graph.leaves if leaf.grad_fn.variable is x)
    (of_y,) = (leaf.index for leaf in graph.leaves if leaf.grad_fn.variable is y)
    assert first[of_y] == min(mul, sin) and of_x not in first


def test_why_the_gradients_of_many_are_zero_is_found_in_a_few_walks(monkeypatch):
    """Four times as many layers take four times as many looks at edges, and not sixteen times."""
    slots, looks = Graph.slots, []
    monkeypatch.setattr(Graph, "slots", lambda graph, i: looks.append(i) or slots(graph, i))
    counts = []
    for depth in (20, 80):
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)), nn.LayerNorm(4))
        loss = model(torch.randn(3, 4)).sum()
        looks.clear()
        assert "zero-derivative" in {found.code for found in diagnose(loss, model)}
        counts.append(len(looks))
    assert counts[1] < 5 * counts[0]
