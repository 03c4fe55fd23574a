"""A change behind autograd's back is told if a formula of the graph will meet it, and only then."""

import copy

import pytest
import torch
from torch import nn

from companion import diagnose, watch

X, Y = torch.randn(6, 3), torch.randn(6, 3)


def told(output, watched) -> list[str]:
    return [f.message for f in diagnose(output, watch=watched) if f.code == "changed-behind"]


def gradients(net, run):
    net.zero_grad()
    run(net).backward()
    return [p.grad.clone() for p in net.parameters()]


def normalized():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def twice(net):
    return (net(X) - net(Y)).square().mean()


def checked_first(net):
    """An evaluation after two steps of training: its Node saved what is there now."""
    net(X), net(Y)
    loss = net.eval()(X).square().mean()
    net.train()
    return loss


def trained_after(net):
    """An evaluation, and then a step of training that changes what its Node saved."""
    loss = net.eval()(X).square().mean()
    net.train()(Y)
    return loss


@pytest.mark.parametrize("run", [twice, checked_first])
def test_running_statistics_are_silent_where_no_formula_meets_a_change(run):
    net = normalized()
    with watch() as watched:
        loss = run(net)
    assert watched.mutations
    assert not told(loss, watched)


def test_running_statistics_that_an_evaluation_saved_are_told_once_training_changed_them():
    net = normalized()
    right = gradients(copy.deepcopy(net), lambda net: net.eval()(X).square().mean())
    with watch() as watched:
        loss = trained_after(net)
    messages = told(loss, watched)
    assert len(messages) == 2
    assert all(message.startswith("batch_norm wrote into a tensor") for message in messages)
    loss.backward()  # and torch says nothing
    wrong = [p.grad for p in net.parameters()]
    assert not all(torch.allclose(a, b) for a, b in zip(right, wrong, strict=True))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_other_normalizations_are_silent_too(norm):
    net = norm(3, track_running_stats=True)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    with watch() as watched:
        loss = (net(x) * net(x * 2)).sum()
    assert not told(loss, watched)


FUSED = [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad]


@pytest.mark.parametrize("optimizer", FUSED)
def test_a_fused_optimizer_is_silent_once_the_graph_is_gone_and_told_while_it_lives(optimizer):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    steps = optimizer(net.parameters(), lr=0.1, fused=True)
    with watch() as watched:
        for _ in range(3):
            steps.zero_grad()
            loss = net(X).square().mean()
            loss.backward(retain_graph=True)
            steps.step()
        before, loss = loss, net(X).square().mean()
    assert not told(loss, watched)
    assert any("wrote into a tensor" in message for message in told(before, watched))
    assert not watched.cuts


def test_a_step_through_data_is_silent_for_the_graph_that_came_after_it():
    w = torch.rand(3, requires_grad=True)
    with watch() as watched:
        for _ in range(3):
            loss = (w * w).sum()
            loss.backward(retain_graph=True)
            before = loss
            w.data -= 0.1 * w.grad
        loss = (w * w).sum()
    assert not told(loss, watched)
    assert told(before, watched)


def test_a_change_of_what_no_node_saved_is_silent():
    x, average = torch.rand(3, requires_grad=True), torch.rand(3)
    with watch() as watched:
        loss = (x + average).sum()
        average.data.mul_(0.9)
        x.data.mul_(0.9)
    assert len(watched.mutations) == 2
    assert not told(loss, watched)


def test_a_change_through_numpy_of_what_a_node_saved_is_told():
    x = torch.rand(3, requires_grad=True)
    with watch() as watched:
        h = x * 3
        array = h.detach().numpy()
        loss = (h * h).sum()
        array[0] = 7
    assert len(told(loss, watched)) == 1
    assert not told((x + 1).sum(), watched)


def test_memory_that_was_freed_is_not_told_as_changed():
    x, w = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    with watch() as watched:
        loss = (x * w).sum()
        w.untyped_storage().resize_(0)  # as FSDP does between the passes
    assert not told(loss, watched)
