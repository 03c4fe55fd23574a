"""partials.py: series in several variables, as a mixed derivative carries them."""

import itertools
import math

import mpmath
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion import mixed
from companion.higher_order.deferred import Linear
from companion.higher_order.partials import Partials
from tests.cases import each
from tests.slices import every

X = torch.linspace(-1, 1, 48, dtype=torch.float64).view(6, 8)


def network(*sizes):
    torch.manual_seed(0)
    pairs = itertools.pairwise(sizes)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def nested(f, x, dims):
    """By reverse mode, again and again: the second route."""
    columns = [column.clone().requires_grad_() for column in x.unbind(-1)]
    y = f(torch.stack(columns, -1))
    shape = y.shape
    parts = []
    for part in y.reshape(len(x), -1).unbind(-1):
        for dim in dims:
            if part.requires_grad:
                found = torch.autograd.grad(
                    part.sum(), columns[dim], create_graph=True, materialize_grads=True
                )
                part = found[0]
        parts.append(part if part.requires_grad else torch.zeros_like(part))
    return torch.stack(parts, -1).view(shape).detach()


def test_a_number_lies_above_those_whose_digits_are_all_at_most_as_large():
    degrees = (2, 1, 3)
    digits = [*itertools.product(*(range(degree + 1) for degree in reversed(degrees)))]
    for k, below in enumerate(Partials(degrees).below):
        pairs = ((j, zip(digits[j], digits[k], strict=True)) for j in range(len(digits)))
        assert below == [j for j, both in pairs if all(p <= q for p, q in both)]


DIMS = [
    (0, 1),
    (1, 1),
    (2, 0, 1),
    (1, 0, 1),
    (0, 0, 1, 1),
    (0, 0, 0, 1),
    (3, 2, 1, 0),
    (0, 1, 0, 2, 1),
    (0, 0, 1, 1, 2, 2),
]
FUNCTIONS = {
    "network": network(8, 5, 4, 2),
    "columns": lambda x: x[:, 0] ** 3 * x[:, 1] ** 2 + (x[:, 2] * x[:, 0]).sin() * x[:, 1],
    "turned before it bends": lambda x: (x.flip(-1).unsqueeze(1) * 2 - x.unsqueeze(1)).tanh(),
    "a line that differs in the rows": lambda x: F.linear(
        (F.linear(x, X) * torch.arange(1, 7).to(x)[:, None]).sin(), X[:3, :6]
    ),
    "linear alone": lambda x: F.linear(x, X[:3]),
    "nothing at all": lambda x: x,
    "bent twice in a row": lambda x: F.linear(x.tanh().exp().sin(), X[:3]).cos(),
    "used twice": lambda x: (y := F.linear(x, X[:3]).tanh()) * y.sin() + y,
    "a vector of weights": lambda x: F.linear(x.sin(), X[0]).exp(),
    "quotient": lambda x: (x[:, :2].exp() + x[:, 2:4]) / (2 + x[:, 1:3].sin()) / 3,
    "powers": lambda x: (x[:, :2] + 3) ** x[:, 1:3] + 2 ** x[:, :2] + (x[:, :2] + 3) ** -1.5,
    "composed": lambda x: (
        F.gelu(x) * F.softplus(x.flip(-1)) + F.softmax(x, -1) * x.norm(dim=-1)[:, None]
    ),
    "three factors": lambda x: torch.einsum(
        "bi,bi,bi->bi", x.sin(), x.flip(-1).exp(), x + x[:, :1]
    ),
    "hypot": lambda x: torch.hypot(x[:, :2].exp(), x[:, 1:3]),
    "heads": lambda x: torch.cat([F.linear(x.tanh(), X[:2]).sin(), x.tanh().cos()[:, :3]], -1),
}


@each("dims", every(2, DIMS))
@each("name", FUNCTIONS)
def test_a_mixed_derivative_agrees_with_nested_reverse_mode(name, dims):
    f = FUNCTIONS[name]
    expected = nested(f, X, dims)
    torch.testing.assert_close(mixed(f, X, dims), expected, rtol=1e-9, atol=1e-10)


def test_eight_different_coordinates_of_a_network_agree_with_nested_reverse_mode():
    net = network(8, 6, 6, 1)
    expected = nested(net, X[:2], range(8))
    torch.testing.assert_close(mixed(net, X[:2], range(8)), expected, rtol=1e-10, atol=1e-12)


@each("dims", [(0, 1), (0, 1, 2, 3), (0, 0, 0, 1, 1, 2), tuple(range(8))])
def test_far_from_zero_no_digit_is_lost(dims):
    weight, shift = torch.linspace(0.4, 1.2, 8, dtype=torch.float64), 11.0
    x = torch.zeros(1, 8, dtype=torch.float64)
    found = mixed(lambda x: torch.tanh(F.linear(x, weight) + shift), x, dims)
    with mpmath.workdps(60):
        expected = mpmath.diff(mpmath.tanh, shift, len(dims)) * math.prod(
            mpmath.mpf(weight[dim].item()) for dim in dims
        )
        assert abs(found.item() / expected - 1) < 1e-13


def test_the_gradient_by_parameters_is_that_of_the_nested_way():
    net, dims = network(8, 5, 4, 1), (0, 1, 1, 2)
    parameters = [p for name, p in net.named_parameters() if name != "4.bias"]
    columns = [column.clone().requires_grad_() for column in X.unbind(1)]
    y = net(torch.stack(columns, 1))
    for dim in dims:
        (y,) = torch.autograd.grad(y.sum(), columns[dim], create_graph=True)
    found = torch.autograd.grad(mixed(net, X, dims).square().sum(), parameters)
    expected = torch.autograd.grad(y.square().sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dims", [(0, 1), (0, 1, 2), (0, 0, 1, 2)])
@pytest.mark.parametrize("folds", [True, False])
def test_a_factor_in_the_weight_changes_nothing(folds, dims, monkeypatch):
    monkeypatch.setattr(Linear, "folds", lambda self, rows: folds)
    net, weights = network(8, 5, 4, 2), torch.rand(3, 8, dtype=torch.float64)
    functions = (net, FUNCTIONS["a vector of weights"], lambda x: F.linear(x.sin(), weights))
    for f in functions:
        torch.testing.assert_close(mixed(f, X, dims), nested(f, X, dims), rtol=1e-10, atol=1e-12)


@pytest.fixture
def shapes(monkeypatch):
    """Of all coefficients that go through a linear layer, in turn."""
    found = []
    of = Linear.applied_to
    monkeypatch.setattr(
        Linear, "applied_to", lambda self, c: found.append(tuple(c.shape)) or of(self, c)
    )
    return found


def test_behind_the_last_bend_the_last_coefficient_alone_is_computed(shapes):
    mixed(network(8, 5, 4, 2), X, (0, 1, 2))
    assert shapes[-1] == (1, 6, 4)  # the others of this layer are nowhere
    assert [shape for shape in shapes if shape[-1] == 4] == [(1, 6, 4)]


def test_taking_a_part_or_a_multiple_of_the_result_leaves_it_so(shapes):
    net = network(8, 5, 4, 2)
    found = mixed(lambda x: 2 * -net(x)[..., 1].unsqueeze(0).squeeze(0), X, (0, 1, 2))
    assert [shape for shape in shapes if shape[-1] == 4] == [(1, 6, 4)]
    torch.testing.assert_close(found, -2 * mixed(net, X, (0, 1, 2))[:, 1])


def test_what_many_heads_go_on_from_is_computed_once(monkeypatch):
    calls = []
    by_chain_rule = Partials._by_chain_rule
    monkeypatch.setattr(
        Partials,
        "_by_chain_rule",
        lambda self, *args: calls.append(1) or by_chain_rule(self, *args),
    )
    trunk, heads = network(8, 5, 4, 3), [nn.Linear(3, 2).double() for _ in range(4)]

    def f(x):
        y = trunk(x).sin()  # which bends twice more, the first time behind a line
        return torch.cat([head(y).exp() for head in heads], -1)

    mixed(f, X, (0, 1, 2))
    assert len(calls) == 2 + len(heads)


@pytest.mark.parametrize("dims", [(0, 1), (0, 1, 2)])
def test_a_weight_that_f_writes_into_after_its_use_is_told(dims):
    weight = torch.ones(3, 8, dtype=X.dtype)

    def f(x):
        y = F.linear(x.tanh(), weight)
        weight.add_(1)
        return y

    with pytest.raises(RuntimeError, match=r"f wrote into a weight of shape \(3, 8\) after"):
        mixed(f, X, dims)
