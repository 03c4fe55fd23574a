"""own_rule.py: a rule for an operation of one's own."""

import pytest
import torch

from companion import derivatives, laplacian, mixed, taylor_rule

X = torch.tensor([[0.5, -1.0], [1.5, 2.0]], dtype=torch.float64)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 3 * ctx.saved_tensors[0] ** 2


def test_a_custom_function_with_a_rule_has_all_derivatives():
    cube = taylor_rule(Cube.apply, lambda x: x**3)
    f = lambda x, cube: cube(x.sin()) * x  # noqa: E731
    for operator in (
        lambda f: derivatives(f, X, 5),
        lambda f: laplacian(f, X),
        lambda f: mixed(f, X, (0, 0, 1)),
    ):
        found = operator(lambda x: f(x, cube))
        torch.testing.assert_close(found, operator(lambda x: f(x, lambda x: x**3)))
    with pytest.raises(NotImplementedError, match="in a custom Function"):
        derivatives(lambda x: f(x, Cube.apply), X, 5)


def test_outside_of_derivatives_the_operation_itself_runs():
    x = X.clone().requires_grad_()
    y = taylor_rule(Cube.apply, lambda x: 1 / 0)(x)
    assert y.grad_fn.name() == "CubeBackward"


def test_several_arguments_and_options_reach_the_rule():
    clipped = taylor_rule(torch.heaviside, lambda x, values, *, scale=1.0: values * scale + 0 * x)
    found = derivatives(lambda x: clipped(x * 0, values=x) * x, X, 2)
    torch.testing.assert_close(found, torch.stack([X**2, 2 * X, torch.full_like(X, 2)]))


@pytest.mark.parametrize(
    ("same", "message"),
    [
        (lambda x: x**3 + 0.01, "gives another value than Cube.apply itself, by up to 0.01"),
        (lambda x: x[0], r"must return a tensor of shape \(2, 2\), got \(2,\)"),
        (lambda x: 1.0, r"must return a tensor of shape \(2, 2\), got float"),
    ],
)
def test_a_rule_that_computes_something_else_is_refused(same, message):
    with pytest.raises(ValueError, match=message):
        derivatives(taylor_rule(Cube.apply, same), X, 2)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="operation must be a function, got Tensor"):
        taylor_rule(X, torch.sin)
    with pytest.raises(TypeError, match="same must be a function, got float"):
        taylor_rule(torch.sin, 1.0)
