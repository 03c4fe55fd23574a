"""``freed`` says whether it is all of the graph, a part that was kept, or the steps of a sum."""

import pytest
import torch
from torch import nn

from companion import diagnose, explain, watch
from tests.cases import each

OF_A_PART = "was computed earlier"


def freed(output, *inputs):
    (found,) = [f for f in diagnose(output, *inputs) if f.code == "freed"]
    with pytest.raises(RuntimeError, match="second time"):
        output.backward()
    return found


def test_a_second_pass_through_the_same_graph_is_told_without_a_part():
    w = torch.ones(3, requires_grad=True)
    loss = (w * w).exp().sum()
    loss.backward()
    assert OF_A_PART not in freed(loss, w).message


def test_what_raises_comes_before_an_input_that_this_output_leaves_without_a_gradient():
    body, value = nn.Linear(2, 2), nn.Linear(2, 1)
    with watch() as watched:
        h = body(torch.ones(2)).tanh()
        critic = value(h).square().sum()
        actor = (h.exp() * critic.detach()).sum()
    critic.backward()
    for seen in (watched, None):
        first, second, *_ = diagnose(actor, body, value, watch=seen)
        assert first.code == "freed" and "TanhBackward0" in first.message
        assert second.code == ("detached" if seen else "unused-input")


def test_a_part_that_was_kept_is_named_with_the_leaves_that_it_leads_to():
    w, freqs = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    table = (freqs * freqs).cos()
    (w * table).square().sum().backward()
    with watch() as watched:
        loss = (w * table).square().sum()
    (found,) = [f for f in diagnose(loss, freqs, watch=watched) if f.code == "freed"]
    assert "CosBackward0 was computed earlier, before the watched block, and kept" in found.message
    assert found.message.endswith("and leads to freqs")
    assert "CosBackward0" in found.where
    assert "anew" in found.cure
    assert "retain_graph" not in found.cure


def test_a_state_that_is_handed_on_is_a_part_that_was_kept():
    cell, h = nn.RNNCell(2, 3), torch.zeros(1, 3)
    h = cell(torch.ones(1, 2), h)
    h.square().sum().backward()
    loss = cell(torch.ones(1, 2), h).square().sum()
    assert "detach()" in freed(loss, *cell.parameters()).cure


def test_the_part_that_two_losses_share_is_a_part_that_was_kept():
    w = torch.ones(3, requires_grad=True)
    trunk = w.exp()
    first, second = trunk.square().sum(), trunk.cos().sum()
    first.backward()
    found = freed(second, w)
    assert "ExpBackward0 was computed earlier and kept" in found.message
    assert "two losses" in found.cure


def losses(count, w, run=True):
    for _ in range(count):
        loss = (w * torch.rand(3)).square().mean()
        if run:
            loss.backward()
        yield loss


HOW_TO_ADD = {
    "+": lambda parts: sum(parts),
    "stack": lambda parts: torch.stack(list(parts)).mean(),
    "/": lambda parts: sum(parts) / 20,
    "each": lambda parts: sum(part / 20 for part in parts),
}


@each("how", HOW_TO_ADD)
def test_a_sum_that_grows_with_each_step_is_told_with_how_many_it_holds(how):
    w = torch.ones(3, requires_grad=True)
    total = HOW_TO_ADD[how](losses(20, w))
    assert "growing-graph" in [found.code for found in diagnose(total, w)]
    found = freed(total, w)
    assert "the graphs of 20 forward passes" in found.message
    assert "loss.item()" in found.cure


@each("how", HOW_TO_ADD)
def test_a_sum_of_steps_that_did_not_run_is_none(how):
    w = torch.ones(3, requires_grad=True)
    total = HOW_TO_ADD[how](losses(20, w, run=False))
    assert not diagnose(total, w)
    total.backward()


def test_terms_of_one_loss_are_no_steps():
    a, b, c = (torch.rand(3, requires_grad=True) for _ in range(3))
    trunk = a.exp()
    for loss in (
        sum(w.square().sum() for w in (a, b, c)),  # each of a leaf of its own
        sum((trunk * t).square().sum() for t in (1.0, 2.0, 3.0)),  # each of what all share
        torch.stack([(a * t).exp() for t in (1.0, 2.0, 3.0)]).sum(),  # each of many numbers
    ):
        loss.backward()
        assert "growing-graph" not in [found.code for found in diagnose(loss, a)]
        freed(loss, a)


def test_what_autograd_grad_freed_is_cured_by_create_graph():
    net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    t = torch.ones(4, 1, requires_grad=True)
    for create_graph in (False, True):
        with watch() as watched:
            u = net(t)
            (slope,) = torch.autograd.grad(u.sum(), t, create_graph=create_graph)
            loss = (slope + u).square().mean()
        diagnosis = diagnose(loss, net, watch=watched)
        assert diagnosis.ok == create_graph
        if not create_graph:
            assert diagnosis[0].code == "freed" and "create_graph=True" in diagnosis[0].cure
            assert diagnosis[0].source.text.startswith("torch.autograd.grad(u.sum(), t")


def test_a_sum_whose_first_parts_are_older_than_a_step_is_told_with_that_cure():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = torch.zeros(())
    for _ in range(2):
        total = total + model(torch.ones(4, 2)).mean()
        optimizer.zero_grad()
        found, *others = [*diagnose(total, model), None]
        if found is None:
            total.backward(retain_graph=True)
            optimizer.step()
    assert found.code == "modified-in-place" and others == [None]
    assert "total += loss" in found.cure


def test_a_graph_that_autograd_grad_freed_is_explained_by_its_line():
    x = torch.ones(3, requires_grad=True)
    with watch() as watched:
        output = (x * x).sigmoid().sum()
        (slope,) = torch.autograd.grad(output, x)
        loss = output + slope.sum()
    with pytest.raises(RuntimeError, match="second time") as caught:
        loss.backward()
    found = explain(caught.value, watch=watched)
    assert found.code == "freed" and found.source.text == "torch.autograd.grad(output, x)"
    assert "create_graph=True" in found.cure


def test_a_second_pass_beside_a_gradient_that_was_asked_for_is_not():
    x = torch.ones(3, requires_grad=True)
    with watch() as watched:
        output = (x * x).sigmoid().sum()
        (slope,) = torch.autograd.grad(output, x, retain_graph=True)
    output.backward()
    with pytest.raises(RuntimeError, match="second time") as caught:
        output.backward()
    assert "torch.autograd.grad" not in explain(caught.value, watch=watched).message
