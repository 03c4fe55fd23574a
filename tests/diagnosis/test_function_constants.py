"""What forward of a custom Function saved, in second derivatives: right and wrong ones."""

import pytest
import torch
from torch.autograd import Function

from companion import diagnose, watch


class SavesInside(Function):
    """x e^x, which saves e^x as it was computed inside."""

    @staticmethod
    def forward(ctx, x):
        power = x.exp()
        ctx.save_for_backward(x, power)
        return x * power

    @staticmethod
    def backward(ctx, gradient):
        x, power = ctx.saved_tensors
        return gradient * (power + x * power)


class KeepsInside(SavesInside):
    """The same, kept as an attribute."""

    @staticmethod
    def forward(ctx, x):
        ctx.power = x.exp()
        ctx.save_for_backward(x)
        return x * ctx.power

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (ctx.power + x * ctx.power)


class ComputesAgain(SavesInside):
    """The same, with e^x computed in backward: the first cure."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.exp()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.exp() + x * x.exp())


class ReturnsIt(Function):
    """The same, with e^x as a further output: the second cure."""

    @staticmethod
    def forward(ctx, x):
        power = x.exp()
        ctx.save_for_backward(x, power)
        return x * power, power

    @staticmethod
    def backward(ctx, gradient, of_power):
        x, power = ctx.saved_tensors
        return gradient * (power + x * power) + of_power * power


class SavesSteps(Function):
    """The positive part times x, which saves a mask of floats."""

    @staticmethod
    def forward(ctx, x):
        mask = (x > 0).float() * x.sign()
        ctx.save_for_backward(x, mask)
        return x * x * mask

    @staticmethod
    def backward(ctx, gradient):
        x, mask = ctx.saved_tensors
        return 2 * gradient * x * mask


def penalty(function, x):
    """A gradient in the loss; and its true derivative, by torch's own operations."""
    y = function.apply(x)
    y = y[0] if isinstance(y, tuple) else y
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return gradient.pow(2).sum()


def true_gradient(x):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((x * x.exp()).sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.pow(2).sum(), x)[0]


@pytest.mark.parametrize("function", [SavesInside, KeepsInside])
def test_a_second_derivative_that_lacks_a_part_is_told_with_the_call(function):
    x = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    with watch() as watched:
        loss = penalty(function, x)
    (found,) = diagnose(loss, x, watch=watched)
    assert (found.severity, found.code) == ("warning", "constant-gradient")
    assert found.source.text == "function.apply(x)"
    assert "compute it again in backward" in found.cure and "a further output" in found.cure
    loss.backward()
    assert not torch.allclose(x.grad, true_gradient(x))


@pytest.mark.parametrize("function", [ComputesAgain, ReturnsIt])
def test_the_cures_are_right_and_nothing_is_told_of_them(function):
    x = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    with watch() as watched:
        loss = penalty(function, x)
    found = diagnose(loss, x, watch=watched)
    assert "constant-gradient" not in [each.code for each in found]
    loss.backward()
    assert torch.allclose(x.grad, true_gradient(x))


def test_a_mask_and_a_first_derivative_are_not_told():
    x = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    with watch() as watched:
        second, first = penalty(SavesSteps, x), SavesInside.apply(x).sum()
    for loss in (second, first):
        found = diagnose(loss, x, watch=watched)
        assert "constant-gradient" not in [each.code for each in found]
    (gradient,) = torch.autograd.grad(second, x)
    assert torch.allclose(gradient, 8 * x * (x > 0))
