"""A change behind autograd's back is told if a formula of the graph will meet it, and only then."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from companion import diagnose, watch
from tests.cases import each

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


def twice_after_an_evaluation(net):
    """Training after an evaluation with a graph, whose Node has the statistics from before."""
    net.eval()(X)
    return twice(net.train())


@pytest.mark.parametrize("run", [twice, checked_first, twice_after_an_evaluation])
def test_running_statistics_are_silent_where_no_formula_meets_a_change(run):
    net = normalized()
    with watch() as watched:
        loss = run(net)
    assert bool(watched.mutations) == (run is twice_after_an_evaluation)
    assert not told(loss, watched)


def test_running_statistics_that_an_evaluation_saved_are_told_once_training_changed_them():
    net = normalized()
    right = gradients(copy.deepcopy(net), lambda net: net.eval()(X).square().mean())
    with watch() as watched:
        loss = trained_after(net)
    (message,) = told(loss, watched)
    assert message.startswith("batch_norm wrote into 2 tensors, ")
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


@each("optimizer", FUSED)
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
    assert len(watched.mutations) == len(list(net.parameters()))  # no state of the optimizer


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


def array_of(x):
    array = x.detach().numpy()
    return lambda: array.fill(7)


def storage_of(x):
    storage, other = x.untyped_storage(), torch.full_like(x, 7).untyped_storage()
    return lambda: storage.copy_(other)


def data_in_a_thread_of(x):
    alias = x.data

    def run():
        thread = threading.Thread(target=alias.fill_, args=(7,))
        thread.start()
        thread.join()

    return run


TAKEN = [(array_of, True), (array_of, False), (data_in_a_thread_of, True)]
TAKEN += [(data_in_a_thread_of, False), (storage_of, True)]


@each(("change_of", "is_inside"), TAKEN)
@each("size", [3, 40_000])
def test_a_change_out_of_sight_is_silent_for_what_used_the_memory_afterwards(
    change_of, is_inside, size
):
    """As where the array of a data loader is filled again, between two steps."""
    w, x = torch.rand(size, requires_grad=True), torch.rand(size)
    change = None if is_inside else change_of(x)
    with watch() as watched:
        change = change or change_of(x)
        before = (w * x).sum()
        change()
        loss = (w * x).sum()
    assert told(before, watched)
    assert not told(loss, watched)
    assert told(before + loss, watched)
    before.backward(), loss.backward()
    assert w.grad.eq(14).all()  # should be 7 and what x was before


@pytest.mark.parametrize("used", [["rows", "rows"], ["rows", "all"], ["all", "rows"]])
def test_a_step_is_silent_that_takes_other_parts_of_the_memory_than_the_one_before(used):
    w, x = torch.rand(3, requires_grad=True), torch.rand(4, 3)
    losses = []
    with watch() as watched:
        change = array_of(x)
        for parts in used:
            losses.append(sum((w * row).sum() for row in (x if parts == "rows" else [x])))
            change()
            change = storage_of(x)  # the second time nothing changes
    before, loss = losses
    assert told(before, watched)
    assert not told(loss, watched)


@pytest.mark.parametrize("change_of", [array_of, storage_of])
def test_the_last_change_counts_for_all_that_used_the_memory_before(change_of):
    w, x = torch.rand(3, requires_grad=True), torch.rand(3)
    with watch() as watched:
        change = change_of(x)
        first = (w * x).sum()
        change()
        second = (w * x).sum()
        x.untyped_storage().fill_(0)
    assert told(first, watched) and told(second, watched)
    assert len(watched.mutations) == 1


def test_a_change_out_of_sight_is_forgotten_once_a_write_counts():
    w, x = torch.rand(3, requires_grad=True), torch.rand(3)
    with watch() as watched:
        change = array_of(x)
        (w * x).sum()
        change()
        (w * x).sum()
        x.zero_()  # autograd refuses to differentiate either
        loss = (w * x).sum()
    assert not watched.mutations and not told(loss, watched)


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


def test_what_one_line_does_to_many_tensors_is_told_once():
    """As where a loop clips the weights of a model, which have many shapes."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.ones(2, 3, requires_grad=True)
    with watch() as watched:
        loss = net(x).sum()
        for parameter in net.parameters():
            parameter.data.clamp_(-0.1, 0.1)
        x.data.zero_()
    of_x, of_weights = sorted(told(loss, watched), reverse=True)
    assert of_weights.startswith("clamp_ wrote into 3 tensors through an alias such as .data, ")
    assert of_weights.endswith("their gradients may be silently wrong")
    assert "a tensor of shape (2, 3)" in of_x


def test_memory_that_was_freed_is_not_told_as_changed():
    x, w = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    with watch() as watched:
        loss = (x * w).sum()
        w.untyped_storage().resize_(0)  # as FSDP does between the passes
    assert not told(loss, watched)


class Scaled(nn.Module):
    """A layer with a buffer, which a function of a test computes with and changes."""

    def __init__(self, compute):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.compute = nn.Linear(3, 4), compute
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        return self.compute(self, self.layer(x))


def scaled_first(net, y):
    net.scale.mul_(2.0)
    net.scale.add_(1.0)
    return y * net.scale


def scaled_after(net, y):
    y = (y + net.scale).tanh()
    net.scale += 1.0
    return y


def averaged(net, y):
    with torch.no_grad():
        net.scale.lerp_(y.std(), 0.1)
    return y / net.scale


def counted(net, y):
    net.scale.add_(1.0)
    return y


def averaged_aside(net, y):
    with torch.no_grad():
        net.scale.copy_(0.9 * net.scale + 0.1 * y.std())
    return y


def filled(net, y):
    net.scale.copy_(y.detach().std())
    return y * net.scale


def changed_inside(net, y):
    return y.mul_(2.0).relu_() * net.scale


@pytest.mark.parametrize(
    ("compute", "is_wrong"),
    [
        (scaled_first, True),
        (scaled_after, True),
        (averaged, True),
        (counted, False),
        (averaged_aside, False),
        (filled, False),
        (changed_inside, False),
    ],
)
def test_what_a_checkpoint_changes_and_computes_with_again_is_told(compute, is_wrong):
    gradients_of = []
    for run in (lambda net: net(X), lambda net: checkpoint(net, X, use_reentrant=False)):
        net = Scaled(compute)
        with watch() as watched:
            loss = run(net).square().sum()
        messages = told(loss, watched)
        gradients_of.append(gradients(net, lambda net, loss=loss: loss)[0])
    assert gradients_of[0].allclose(gradients_of[1]) is not is_wrong
    assert bool(messages) is is_wrong
    assert all("changes a tensor from outside of the checkpoint" in message for message in messages)


def test_a_checkpoint_that_changes_what_it_was_given_raises_which_is_told():
    x = torch.ones(2, 3, requires_grad=True)
    with watch() as watched:
        loss = checkpoint(lambda y: y.add_(1.0).tanh(), x * 1, use_reentrant=False).sum()
    (found,) = [f for f in diagnose(loss, x, watch=watched) if f.code == "changed-behind"]
    assert found.message.startswith("add() changes") and "that may raise" in found.message
    assert "y.add_(1.0)" in found.source.text and "y = y + 1" in found.cure
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("write", [lambda p: p.data.clamp_(-0.1, 0.1), lambda p: p.data.mul_(0.5)])
def test_weights_that_were_changed_before_backward_are_told_by_name(write):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    with watch() as watched:
        loss = net(X).square().mean()
        for parameter in net.parameters():
            write(parameter)
    (found,) = [f for f in diagnose(loss, net, watch=watched) if f.code == "changed-behind"]
    assert " wrote into 2.weight of shape (1, 4) and dtype float32" in found.message
    assert found.cure.startswith("change them after backward()")
    assert "a tensor of shape (1, 4)" in told(loss, watched)[0]  # not given, so without a name
