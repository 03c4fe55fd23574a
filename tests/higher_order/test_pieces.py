"""pieces.py: what a Laplacian computes of its first coefficients, and in which pieces."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion import laplacian
from companion.higher_order import pieces
from companion.higher_order.pieces import Made, Pieces

X = torch.linspace(-1, 1, 60, dtype=torch.float64).view(12, 5)


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).double()


def whole_hessian(f, x):
    return torch.func.vmap(torch.func.hessian(f))(x).diagonal(dim1=-2, dim2=-1).sum(-1)


FUNCTIONS = {
    "network": network(),
    "bent twice in a row": lambda x: F.linear(x.tanh().exp().sin(), torch.ones(3, 5).to(x)).cos(),
    "used twice": lambda x: (y := F.linear(x, torch.ones(3, 5).to(x)).tanh()) * y.sin() + y,
    "by a rule without pieces": lambda x: F.linear((x.tanh() * x).flip(-1).sin(), x.new_ones(2, 5)),
    "a vector of weights": lambda x: F.linear(x.sin(), torch.arange(5).to(x)).exp(),
    "linear alone": lambda x: F.linear(F.linear(x, torch.ones(3, 5).to(x)), torch.ones(2, 3).to(x)),
    "nothing at all": lambda x: x,
}


@pytest.mark.parametrize("elements", [1, 100, 2**16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pieces_of_any_size_give_the_trace_of_the_hessian(name, elements, monkeypatch):
    monkeypatch.setattr(pieces, "ELEMENTS", elements)
    f = FUNCTIONS[name]
    torch.testing.assert_close(laplacian(f, X), whole_hessian(f, X), rtol=1e-12, atol=1e-12)


def test_the_gradient_through_pieces_is_that_through_the_hessian(monkeypatch):
    monkeypatch.setattr(pieces, "ELEMENTS", 100)
    net = network()
    weights = [*net.parameters()][:-1]
    x = X.clone().requires_grad_()
    found, expected = (
        torch.autograd.grad(of(net, x).square().sum(), [x, *weights])
        for of in (laplacian, whole_hessian)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_what_nothing_bends_afterwards_is_not_computed(monkeypatch):
    made = []
    original = Made.pieces

    def counted(self):
        made.append(original(self)[0].shape[-1])
        return original(self)

    monkeypatch.setattr(Made, "pieces", counted)
    laplacian(
        nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Linear(7, 2)), X.float()
    )
    assert {*made} == {5, 8}  # the directions and the first layer


def test_what_pieces_were_made_from_is_let_go():
    start = Pieces.of(torch.ones(3, 2))
    last = start.each(lambda c: 2 * c)
    assert last.mean_of_squares().tolist() == [4.0, 4.0]
    assert last.made._make is None
