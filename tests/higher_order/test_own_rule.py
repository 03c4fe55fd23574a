"""own_rule.py: a rule for an operation of one's own."""

import pytest
import torch

from companion import derivatives, laplacian, mixed, taylor_rule
from tests.cases import each
from tests.programs import Cube

X = torch.tensor([[0.5, -1.0], [1.5, 2.0]], dtype=torch.float64)


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


class Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y, x.sin(), None

    @staticmethod
    def backward(ctx, g, h, _):
        x, y = ctx.saved_tensors
        return g * y + h * x.cos(), g * x


def all_in(tensors, *, scale=1.0):
    return sum(tensors) * scale


def test_an_operation_may_return_several_tensors_and_take_a_list_of_them():
    both = taylor_rule(Both.apply, lambda x, y: (x * y, x.sin(), None))
    added = taylor_rule(lambda tensors, scale: all_in(tensors, scale=scale), all_in)
    f = lambda x, both, added: added([both(x, x.exp())[0], *both(x, x)[:2]], scale=2.0)  # noqa: E731
    for operator in (lambda f: derivatives(f, X, 5), lambda f: laplacian(f, X)):
        found = operator(lambda x: f(x, both, added))
        plain = operator(lambda x: f(x, lambda x, y: (x * y, x.sin()), all_in))
        torch.testing.assert_close(found, plain)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x**3


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.clone())
        return x.mul_(x) * x.sqrt()

    backward = Cube.backward


@pytest.mark.parametrize("operation", [NoBackward.apply, InPlace.apply, lambda x: x.detach() ** 3])
def test_an_operation_without_a_slope_or_in_place_has_derivatives_by_its_rule(operation):
    x = X.abs()
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            found = derivatives(taylor_rule(operation, lambda x: x**3), x, 2)
        torch.testing.assert_close(found, torch.stack([x**3, 3 * x**2, 6 * x]))


@each("dtype", [torch.float16, torch.float32, torch.complex128])
@each("order", [0, 1, 3])
def test_a_rule_with_the_right_slope_is_accepted_in_each_dtype(dtype, order):
    exp = taylor_rule(lambda x: torch.exp(x), torch.exp)
    assert derivatives(exp, X.to(dtype), order).dtype == dtype


@each(
    "same",
    [
        lambda x: x.detach() ** 3,
        lambda x: x**3 + 0.1 * (x - x.detach()),
        lambda x: x * x.detach() ** 2,
        lambda x: (x * x).flip(0).flip(0) * x.detach(),
    ],
)
def test_a_rule_with_the_right_value_and_another_slope_is_refused(same):
    for operator in (lambda f: derivatives(f, X, 2), lambda f: laplacian(f, X)):
        with pytest.raises(ValueError, match=r"another first derivative than .* of Cube.apply"):
            operator(taylor_rule(Cube.apply, same))


def test_a_rule_that_returns_another_number_of_tensors_is_refused():
    for same in (lambda x, y: (x * y,), lambda x, y: x * y, lambda x, y: (x * y, x.sin(), x)):
        with pytest.raises(ValueError, match=r"the rule of Both.apply must return"):
            derivatives(lambda x, s=same: taylor_rule(Both.apply, s)(x, x)[0], X, 2)
    with pytest.raises(
        ValueError, match=r"a tensor of shape \(2, 2\), as Cube.apply does, got a tuple of 1"
    ):
        derivatives(taylor_rule(Cube.apply, lambda x: (x**3,)), X, 2)


@pytest.mark.parametrize(
    ("same", "message"),
    [
        (lambda x: x**3 + 0.01, "gives another value than Cube.apply itself, by up to 0.01"),
        (
            lambda x: x[0],
            r"must return a tensor of shape \(2, 2\), .*, got a tensor of shape \(2,\)",
        ),
        (lambda x: 1.0, r"must return a tensor of shape \(2, 2\), as Cube.apply does, got a float"),
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
