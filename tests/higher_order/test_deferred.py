"""deferred.py: what a Laplacian computes behind the values, and in which pieces."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion import laplacian, mixed
from companion.higher_order import deferred
from companion.higher_order.deferred import Bend, Collapsed, Linear

X = torch.linspace(-1, 1, 60, dtype=torch.float64).view(12, 5)


def network(hidden=2):
    torch.manual_seed(0)
    layers = [layer for _ in range(hidden) for layer in (nn.Tanh(), nn.Linear(8, 8))]
    return nn.Sequential(nn.Linear(5, 8), *layers[:-1], nn.Linear(8, 2)).double()


def whole_hessian(f, x):
    return torch.func.vmap(torch.func.hessian(f))(x)


def trace(hessian):
    return hessian.diagonal(dim1=-2, dim2=-1).sum(-1)


FUNCTIONS = {
    "network": network(),
    "deep network": network(hidden=4),
    "bent twice in a row": lambda x: F.linear(x.tanh().exp().sin(), torch.ones(3, 5).to(x)).cos(),
    "used twice": lambda x: (y := F.linear(x, torch.ones(3, 5).to(x)).tanh()) * y.sin() + y,
    "by a rule without pieces": lambda x: F.linear((x.tanh() * x).flip(-1).sin(), x.new_ones(2, 5)),
    "a vector of weights": lambda x: F.linear(x.sin(), torch.arange(5).to(x)).exp(),
    "linear alone": lambda x: F.linear(F.linear(x, torch.ones(3, 5).to(x)), torch.ones(2, 3).to(x)),
    "nothing at all": lambda x: x,
}


@pytest.mark.parametrize(("elements", "few"), [(1, 0), (100, 2**12), (2**16, 0)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pieces_of_any_size_give_what_the_hessian_has(name, elements, few, monkeypatch):
    monkeypatch.setattr(deferred, "ELEMENTS_AT_A_TIME", elements)
    monkeypatch.setattr(deferred, "IN_PRODUCT", 2 * elements)
    monkeypatch.setattr(deferred, "SQUARED_AT_ONCE", few)
    f = FUNCTIONS[name]
    hessian = whole_hessian(f, X)
    torch.testing.assert_close(laplacian(f, X), trace(hessian), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed(f, X, (1, 3)), hessian[..., 1, 3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("folds", [True, False])
def test_the_gradient_through_pieces_is_that_through_the_hessian(folds, monkeypatch):
    monkeypatch.setattr(deferred, "ELEMENTS_AT_A_TIME", 100)
    monkeypatch.setattr(deferred, "IN_PRODUCT", 300)
    monkeypatch.setattr(deferred, "SQUARED_AT_ONCE", 0)
    monkeypatch.setattr(Linear, "folds", lambda self, rows: folds)
    net = network()
    weights = [*net.parameters()][:-1]
    x = X.clone().requires_grad_()
    found, expected = (
        torch.autograd.grad(of(net, x).square().sum(), [x, *weights])
        for of in (laplacian, lambda f, x: trace(whole_hessian(f, x)))
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def widths(monkeypatch):
    """Of all that goes through a step, in turn: how many numbers a row has."""
    found = []
    for kind in (Linear, Bend):
        monkeypatch.setattr(
            kind,
            "applied_to",
            lambda self, c, of=kind.applied_to: found.append(c.shape[-1]) or of(self, c),
        )
    return found


def test_what_nothing_bends_afterwards_is_not_computed(widths):
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Linear(7, 2)]
    laplacian(nn.Sequential(*layers), X.float())
    assert widths == [5, 8, 7]  # the directions; then the mean of the last coefficients


@pytest.mark.parametrize(
    ("heads_of", "passes"),
    [
        (lambda z, heads: torch.cat([head(z) for head in heads], -1), 1),
        (lambda z, heads: sum(head(z).flip(-1) for head in heads), 2),  # one after the other
    ],
)
def test_a_trunk_with_many_heads_is_gone_through_once_or_twice(heads_of, passes, widths):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh()).double()
    heads = [nn.Linear(7, 2).double() for _ in range(5)]
    laplacian(trunk, X)
    once = widths.count(9)
    widths.clear()
    laplacian(lambda x: heads_of(trunk(x), heads), X)
    assert widths.count(9) == passes * once


def test_a_weight_that_f_writes_into_after_its_use_is_told():
    weight = torch.ones(3, 5, dtype=X.dtype)

    def f(x):
        y = F.linear(x.tanh(), weight)
        weight.add_(1)
        return y

    with pytest.raises(RuntimeError, match=r"f wrote into a weight of shape \(3, 5\) after"):
        laplacian(f, X)


@pytest.mark.parametrize("with_first", [True, False])
def test_the_mean_is_the_same_with_and_without_the_first_coefficient(with_first):
    first, last = torch.randn(4, 3, 2), torch.randn(3, 2)
    start = Collapsed(first, last)
    behind = start.followed_by(Bend(torch.full((3, 2), 2.0), torch.full((3, 2), 3.0)))
    behind = behind.followed_by(Linear(F.linear, torch.eye(2)))
    value = torch.zeros(3, 2)
    found = behind.coefficients_of(value)[1] if with_first else behind.last_coefficient_of(value)
    torch.testing.assert_close(found, 2 * last + 3 * (first**2).mean(0))


def test_what_led_to_a_known_coefficient_is_let_go():
    behind = Collapsed(torch.ones(3, 2)).followed_by(Linear(F.linear, torch.eye(2)))
    behind.coefficients_of(torch.zeros(2))
    assert behind.before is behind.step is None
