"""Gradients without a graph in an output: a fault in a penalty, and usual as a step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from companion import diagnose, watch
from tests.cases import each


def critic():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return net, torch.randn(4, 2, requires_grad=True)


def grad_of(net, x):
    net(x).sum().backward()
    net.zero_grad()
    return x.grad


def given(net, x):
    return torch.autograd.grad(net(x).sum(), x)[0]


def penalty(net, x, gradient):
    return net(x).mean() + gradient.square().sum()


def residual(net, x, gradient):
    return (x * gradient + net(x)).square().mean()


def residual_with_x_itself(net, x, gradient):
    return net(x).mean() + (gradient - x).square().mean()


def residual_with_x_scaled(net, x, gradient):
    return net(x).mean() + F.mse_loss(2 * (x + gradient), torch.zeros_like(x))


def adversarial(net, x, gradient):
    return net(x + 0.1 * gradient.sign()).mean()


def adversarial_within_bounds(net, x, gradient):
    return net((x + 0.1 * gradient.sign()).clamp(-1, 1) * 1.0).mean()


def descended_and_detached(net, x, gradient):
    return net(x).mean() - net((x - 0.1 * gradient).detach()).mean()


def perturbed_copy(net, x, gradient):
    return net(x.detach() + gradient / gradient.norm()).mean()


@each("take", [grad_of, given])
@each("use", [penalty, residual, residual_with_x_itself, residual_with_x_scaled])
def test_a_gradient_without_a_graph_in_a_loss_is_a_warning_with_the_line(take, use):
    net, x = critic()
    with watch() as watched:
        loss = use(net, x, take(net, x))
    told = {found.code: found for found in diagnose(loss, net, watch=watched)}
    found = told["penalty-detached"]
    assert found.severity == "warning" and "create_graph=True" in found.cure
    expected = "gradient" if take is grad_of else "torch.autograd.grad(net(x).sum(), x)"
    assert expected in found.source.text


@each("take", [grad_of, given])
@each("use", [adversarial, adversarial_within_bounds, descended_and_detached, perturbed_copy])
def test_one_that_makes_an_adversarial_example_is_a_note(take, use):
    net, x = critic()
    with watch() as watched:
        loss = use(net, x, take(net, x))
    (found,) = [f for f in diagnose(loss, net, watch=watched) if f.code != "detached"]
    assert (found.severity, found.code) == ("info", "penalty-detached")
    assert found.cure.startswith("nothing") or "adversarial" in found.cure


def test_inner_steps_of_first_order_are_a_note():
    net, x = critic()[0], torch.ones(4, 2)
    with watch() as watched:
        weights = dict(net.named_parameters())
        for _ in range(2):
            inner = functional_call(net, weights, (x,)).square().mean()
            grads = torch.autograd.grad(inner, list(weights.values()))
            weights = {
                name: w - 0.1 * g for (name, w), g in zip(weights.items(), grads, strict=True)
            }
        loss = functional_call(net, weights, (x,)).mean()
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.severity, found.code) == ("info", "penalty-detached")


def test_a_derivative_that_is_added_to_what_was_differentiated_is_no_step():
    net, x = critic()
    with watch() as watched:
        u = net(x)
        (ux,) = torch.autograd.grad(u, x, torch.ones_like(u), retain_graph=True)
        loss = ((ux + u) * u).square().mean()
    found = diagnose(loss, net, watch=watched)[0]
    assert (found.severity, found.code) == ("warning", "penalty-detached")


def test_an_adversarial_example_through_weights_that_are_computed_is_a_note():
    net, x = critic()
    nn.utils.parametrizations.weight_norm(net[0])
    with watch() as watched:
        loss = adversarial(net, x, given(net, x))
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.severity, found.code) == ("info", "penalty-detached")


def importance(net, gradients, earlier):
    """The penalty of elastic weight consolidation."""
    pairs = zip(net.parameters(), gradients, earlier, strict=True)
    return sum((g.square().detach() * (p - e).square()).sum() for p, g, e in pairs)


@pytest.mark.parametrize("reads", [True, False])
def test_a_gradient_that_the_user_detached_weighs_a_term_and_is_a_note(reads):
    net, x = critic()
    earlier = [p.detach().clone() for p in net.parameters()]
    with watch() as watched:
        loss = net(x).square().mean()
        if reads:
            loss.backward()
            gradients = [p.grad for p in net.parameters()]
        else:
            gradients = torch.autograd.grad(loss, list(net.parameters()))
        loss = net(x).square().mean() + importance(net, gradients, earlier)
    told = {found.code: found for found in diagnose(loss, net, watch=watched)}
    assert (
        told["penalty-detached"].severity == "info" and "nothing" in told["penalty-detached"].cure
    )
    assert told.keys() <= {"penalty-detached", "accumulates"}


def test_an_output_of_grads_alone_has_no_graph_and_is_told_why():
    net, x = critic()
    with watch() as watched:
        loss = grad_of(net, x).norm()
    found = diagnose(loss, net, watch=watched)[0]
    assert found.code == "no-graph" and "the .grad of" in found.message
    assert "create_graph=True" in found.cure and found.source.text == "grad_of(net, x).norm()"


def test_what_only_a_penalty_on_a_grad_used_gets_no_gradient_because_of_it():
    net, x = critic()
    other = nn.Linear(2, 1)
    with watch() as watched:
        net(x).sum().backward()
        loss = other(x.detach()).sum() + x.grad.square().sum()
    found = diagnose(loss, net, watch=watched)[0]
    assert (found.severity, found.code) == ("error", "penalty-detached")
    assert "the .grad of x" in found.message and found.source.text == "x.grad.square()"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_of_an_optimizer_reads_no_grad_into_the_next_loss(optimizer):
    net, x = critic()[0], torch.ones(4, 2)
    step = optimizer(net.parameters(), lr=0.1)
    with watch() as watched:
        net(x).square().mean().backward()
        step.step()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad
        loss = net(x).square().mean()
    assert {found.code for found in diagnose(loss, net, watch=watched)} == {"accumulates"}
