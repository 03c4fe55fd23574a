"""What cannot be known of a graph is told as such, and ``ok`` does not become False for it."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from companion import diagnose, record_backward
from tests.cases import each

LIBRARY = torch.library.Library("companion_doubts", "DEF")
LIBRARY.define("twice(Tensor x) -> Tensor")
LIBRARY.impl("twice", lambda x: torch.from_numpy(x.detach().numpy() * 2), "CPU")


def doubts(output, *inputs):
    diagnosis = diagnose(output, *inputs)
    assert diagnosis.ok
    return [found for found in diagnosis if found.code == "cannot-know"]


def gets_a_gradient(output, x) -> bool:
    try:
        output.backward()
    except RuntimeError:  # NotImplementedError is one
        return False
    return x.grad is not None


def test_what_was_detached_in_place_after_retain_grad_may_get_one():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    z = y.sum()
    y.retain_grad()
    y.detach_()
    for output in z, (x * 3).sum():
        (found,) = doubts(output, y, x)
        assert "was detached in place" in found.message and "detach()" in found.cure
    assert gets_a_gradient(z, y)
    other = x * 2
    other.detach_()
    assert not diagnose((x * 3).sum(), other).ok


def sparse(f):
    return lambda x: f(x.to_sparse().coalesce()).to_dense().sum()


# Each beside a call of the same operation that gives a gradient.
UNDIFFERENTIATED = {
    "qr r": (
        lambda x: torch.linalg.qr(x, mode="r").R.sum(),
        lambda x: torch.linalg.qr(x, mode="reduced").R.sum(),
    ),
    "qr complete": (
        lambda x: torch.linalg.qr(x[:, :2], mode="complete").Q.sum(),
        lambda x: torch.linalg.qr(x, mode="complete").Q.sum(),
    ),
    "sign": (
        lambda x: torch.linalg.slogdet(x).sign,
        lambda x: torch.linalg.slogdet(x).sign + torch.linalg.slogdet(x).logabsdet,
    ),
    "norm": (lambda x: x.norm(p=0), lambda x: x.norm(p=0) + x.norm(p=1)),
    "vector_norm": (
        lambda x: torch.linalg.vector_norm(x, ord=0),
        lambda x: torch.linalg.vector_norm(x, ord=3),
    ),
    "dist": (
        lambda x: torch.dist(x, torch.ones(3, 3), p=0),
        lambda x: torch.dist(x, torch.ones(3, 3), p=2),
    ),
    "householder": (
        lambda x: torch.linalg.householder_product(x[:, :0], x[0, :0]).sum(),
        lambda x: torch.linalg.householder_product(x, x[0]).sum(),
    ),
    "operator": (
        lambda x: torch.ops.companion_doubts.twice(x).sum(),
        lambda x: torch.ops.companion_doubts.twice(x).sum() + x.sum(),
    ),
    "sin": (sparse(torch.sin), sparse(torch.abs)),
    "tanh": (sparse(torch.tanh), sparse(torch.relu)),
    "expm1": (sparse(torch.expm1), sparse(torch.log1p)),
    "select": (sparse(lambda s: s[0]), sparse(lambda s: s * 2)),
    "cat": (sparse(lambda s: torch.cat([s, s])), sparse(lambda s: s + s)),
    "of sparse": (sparse(lambda s: s.neg().unsqueeze(0)), sparse(lambda s: s.neg())),
}


@pytest.mark.filterwarnings("ignore")
@each("kind", UNDIFFERENTIATED)
def test_a_gradient_that_is_not_there_is_told_as_not_known_and_one_that_is_there_is_not(kind):
    missing, there = UNDIFFERENTIATED[kind]
    x = (torch.rand(3, 3) + 0.1).requires_grad_()
    output = missing(x)
    assert len(doubts(output, x)) == 1
    assert not gets_a_gradient(output, x)
    output = there(x)
    assert not doubts(output, x)
    assert gets_a_gradient(output, x)


@each(
    "f",
    [torch.neg, torch.round, torch.square, torch.clone, lambda s: s / 2, lambda s: s * s]
    + [lambda s: torch.sparse.mm(s, torch.ones(3, 3)), lambda s: s.t() @ torch.ones(3, 3)]
    + [lambda s: torch.sparse.sum(s, 0), lambda s: torch.sparse.softmax(s, 1), torch.Tensor.values]
    + [lambda s: torch.sparse.mm(s.detach(), s.to_dense()), lambda s: s.detach() @ s.to_dense()],
)
def test_what_is_known_to_do_with_sparse_tensors_is_no_doubt(f):
    x = (torch.rand(3, 3) + 0.1).requires_grad_()
    output = sparse(f)(x)
    assert not doubts(output, x)
    assert gets_a_gradient(output, x)


def test_the_inputs_that_may_get_nothing_are_named():
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    (found,) = diagnose(x.norm(p=0) + y.sum(), x, y)
    assert "the .grad of x may stay as it is" in found.message
    assert len(doubts(x.norm(p=0))) == 1  # without inputs too
    assert not doubts(x.norm(p=0) + y.sum())


def test_what_is_told_inside_of_a_transform_is_told_with_a_reserve():
    found = []

    def f(v):
        output = (v * v).sum()
        found.extend(doubts(output, v))
        with pytest.raises(RuntimeError, match="functorch transform"):
            output.backward()
        return output

    torch.func.grad(f)(torch.ones(2))
    assert "torch.func.grad" in found[0].message


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_part_cannot_be_looked_into_but_that_it_was_freed_is_seen():
    net = torch.nn.Linear(3, 2)
    compiled = torch.compile(net, backend="aot_eager")
    output = compiled(torch.ones(1, 3)).sum()
    (found,) = doubts(output, *net.parameters())
    assert "torch.compile" in found.message
    output.backward()
    assert not diagnose(output, *net.parameters()).ok
    with pytest.raises(RuntimeError, match="second time"):
        output.backward()
    x = torch.ones(1, 3, requires_grad=True)
    output = compiled(x).sum()
    with torch.no_grad():
        net.weight.add_(1)
    assert not diagnose(output, *net.parameters(), x).ok
    with pytest.raises(RuntimeError, match="inplace"):
        output.backward()


def test_a_reentrant_checkpoint_is_told_as_such_and_another_is_not():
    x = torch.ones(3, requires_grad=True)
    (found,) = doubts(checkpoint(torch.sin, x, use_reentrant=True).sum(), x)
    assert "checkpoint" in found.message
    assert not doubts(checkpoint(torch.sin, x, use_reentrant=False).sum(), x)


def test_functions_of_torch_are_not_told_as_functions_of_the_users():
    x, net = torch.ones(1, 3, requires_grad=True), torch.nn.Linear(3, 2)
    net.register_full_backward_hook(lambda *_: None)
    outputs = net(x), checkpoint(torch.sin, x, use_reentrant=True)
    for output in outputs:
        assert "custom-gradients" not in [found.code for found in diagnose(output.sum(), x)]
    square = torch.library.custom_op("companion_doubts::square", mutates_args=())(_square)
    square.register_autograd(lambda ctx, g: g)
    assert "custom-gradients" in [found.code for found in diagnose(square(x).sum(), x)]


def _square(x: torch.Tensor) -> torch.Tensor:
    return x * x


@pytest.mark.parametrize(
    "f", [torch.sqrt, lambda x: 1 / x, lambda x: x / x.sum(), torch.log, lambda x: x.std()]
)
def test_what_is_divided_by_under_hooks_is_not_known_and_recording_the_pass_finds_it(f):
    x = torch.zeros(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        loss = f(x * 1).nan_to_num().sum()
    (found,) = doubts(loss, x)
    assert found.severity == "info" and "saved through hooks" in found.message
    assert not doubts(f(x * 1).nan_to_num().sum(), x)
    if f is torch.sqrt:
        assert record_backward(loss).first_nonfinite.node == found.node


def test_a_division_by_a_number_and_a_checkpoint_of_sums_and_products_leave_no_doubt():
    x = torch.randn(3, requires_grad=True)
    for f in (lambda x: x / 2, lambda x: (x * x).softmax(0).tanh(), lambda x: x.pow(2).exp()):
        assert not doubts(checkpoint(f, x, use_reentrant=False).sum(), x)
