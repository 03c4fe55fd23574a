"""operators.py and directions.py: the Laplacian and mixed partial derivatives."""

import copy
import itertools
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion import derivatives, laplacian, mixed
from companion.higher_order import directions
from companion.higher_order.table import POINTWISE, RECURRENCES
from tests.cases import each
from tests.higher_order import test_taylor
from tests.slices import every

X = torch.tensor([0.3, -1.2, 2.0, 0.7, 0.9, -0.4], dtype=torch.float64)


def network(*sizes, activation=nn.Tanh):
    torch.manual_seed(0)
    pairs = itertools.pairwise(sizes)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1]).double()


def partial(f, x, dims):
    """By nested forward mode, at one point: the second route."""
    for dim in dims:
        along = torch.zeros_like(x).index_fill(0, torch.tensor(dim), 1)
        f = lambda x, f=f, along=along: torch.func.jvp(f, (x,), (along,))[1]  # noqa: E731
    return f(x)


# ---- each rule, with the directions hidden

FUNCTIONS = {
    **{f"linear: {name}": f for name, f in test_taylor.LINEAR.items()},
    **{f"vectors: {name}": f for name, f in test_taylor.VECTORS.items()},
    **{f"each: {name}": f for name, f in test_taylor.ELEMENTWISE.items()},
    "attention": test_taylor.attention,
    "layer_norm": lambda x: F.layer_norm(x, (3,)),
    "hardsigmoid": F.hardsigmoid,
}


def at_a_point(name):
    """A function of six coordinates that bends before it comes to one of torch, and where."""
    f, shift = FUNCTIONS[name], 1.0 if name.endswith("cosh") else 0.0
    x = X * 0.1 + 0.3 if name.startswith("each") else X
    return lambda x: f((x * (1 + 0.1 * x)).reshape(2, 3) + shift), x


@each("name", every(3, FUNCTIONS))
def test_the_laplacian_of_each_operation_is_the_sum_over_single_directions(name):
    f, x = at_a_point(name)
    each = [derivatives(f, x, 2, direction=along)[2] for along in torch.eye(6, dtype=x.dtype)]
    torch.testing.assert_close(laplacian(f, x), sum(each), rtol=1e-10, atol=1e-10)


@each("name", every(3, FUNCTIONS))
def test_a_mixed_derivative_of_each_operation_is_that_of_single_directions(name):
    f, x = at_a_point(name)
    a, b = torch.eye(6, dtype=x.dtype)[[1, 4]]
    plus, minus, alone = (derivatives(f, x, 3, direction=v)[3] for v in (a + b, a - b, b))
    expected = (plus - minus - 2 * alone) / 6
    torch.testing.assert_close(mixed(f, x, (1, 4, 1)), expected, rtol=1e-9, atol=1e-9)


# ---- against nested forward mode


@each("activation", [nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid])
def test_the_laplacian_of_a_network_agrees_with_the_hessian(activation):
    net = network(3, 8, 8, 2, activation=activation)
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    hessian = torch.func.vmap(torch.func.hessian(net))(x.view(-1, 3))
    expected = hessian.diagonal(dim1=-2, dim2=-1).sum(-1).view(4, 5, 2)
    torch.testing.assert_close(laplacian(net, x), expected, rtol=1e-12, atol=1e-12)


@each(
    "dims", [(0,), (2, 0), (1, 1), (0, 1, 2), (0, -1, 0), (1, 1, 0, 0), (2, 1, 2, 0, 1), (1,) * 6]
)
def test_a_mixed_derivative_of_a_network_agrees_with_nested_forward_mode(dims):
    net = network(3, 8, 8, 2)
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = torch.stack([partial(net, point, dims) for point in x])
    torch.testing.assert_close(mixed(net, x, dims), expected, rtol=1e-11, atol=1e-12)


def test_eight_different_coordinates_agree_with_the_product_of_first_derivatives():
    x = torch.linspace(-0.7, 0.7, 24, dtype=torch.float64).view(3, 8)
    expected = x.cos().prod(-1)
    torch.testing.assert_close(mixed(lambda x: x.sin().prod(-1), x, range(8)), expected)


@each("rows", [(), (1,), (4,), (2, 3), (0,)])
@each("f", [lambda x: (x**3).sum(-1), lambda x: x**3, torch.zeros_like])
def test_the_result_has_the_shape_and_dtype_of_f_of_x(rows, f):
    x = torch.rand(*rows, 3)
    for result in (laplacian(f, x), mixed(f, x, (0, 1)), mixed(f, x, (2,))):
        assert (result.shape, result.dtype) == (f(x).shape, f(x).dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex128])
def test_other_dtypes_go_through(dtype):
    x = torch.tensor([[0.5, 1.0], [1.5, 2.0]], dtype=dtype)
    f = lambda x: x[..., 0].exp() * x[..., 1] ** 2  # noqa: E731
    torch.testing.assert_close(laplacian(f, x), f(x) + 2 * x[..., 0].exp(), rtol=0.02, atol=0)
    torch.testing.assert_close(mixed(f, x, (0, 1)), f(x) * 2 / x[..., 1], rtol=0.02, atol=0)


# ---- what can be done with it


DTYPES_OF_F = {
    "to another precision": lambda x: (x.float() ** 3).prod(-1),
    "to complex": lambda x: (x * 2j).exp().prod(-1),
    "from complex": lambda x: (x.to(torch.complex128) ** 3).prod(-1).real,
}


@pytest.mark.parametrize("name", DTYPES_OF_F)
def test_a_function_may_return_another_dtype(name):
    f, x = DTYPES_OF_F[name], torch.tensor([[0.5, 1.5]], dtype=torch.float64)
    along = (torch.tensor([[1.0, sign]], dtype=x.dtype) for sign in (1.0, -1.0))
    plus, minus = (derivatives(f, x, 2, direction=direction)[2] for direction in along)
    found = mixed(f, x, (0, 1))
    assert found.dtype == f(x).dtype
    torch.testing.assert_close(found, (plus - minus) / 4)


def test_the_gradient_by_parameters_is_that_of_the_nested_way():
    net, x = network(2, 8, 8, 1), torch.randn(6, 2, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    first = torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)[0]
    second = [torch.autograd.grad(first[:, i].sum(), leaf, create_graph=True)[0] for i in (0, 1)]
    parameters = [*net.parameters()][:-1]  # a constant on top has no part in it
    for ours, nested in (
        (laplacian(net, x), second[0][:, :1] + second[1][:, 1:]),
        (mixed(net, x, (0, 1)), second[0][:, 1:]),
    ):
        found = torch.autograd.grad(ours.square().sum(), parameters)
        expected = torch.autograd.grad(nested.square().sum(), parameters, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("activation", [torch.tanh, F.gelu, lambda x: F.softmax(x, -1)])
def test_gradcheck_passes(activation):
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    f = lambda x, weight: activation(F.linear(x, weight))  # noqa: E731
    crossed, third = (lambda f, x, dims=dims: mixed(f, x, dims) for dims in ((0, 1), (0, 1, 1)))
    for operator in (laplacian, crossed, third):
        assert torch.autograd.gradcheck(
            lambda x, weight, run=operator: run(lambda x: f(x, weight), x), (x, weight)
        )


def test_under_no_grad_nothing_is_recorded():
    x = torch.ones(2, 2, requires_grad=True)
    with torch.no_grad():
        assert not laplacian(network(2, 4, 1).float(), x).requires_grad
        assert not mixed(lambda x: x.sin() * x, x, (0, 1)).requires_grad
    assert not laplacian(torch.sin, x.detach()).requires_grad
    assert laplacian(torch.sin, x).requires_grad


def test_other_arguments_are_held_fixed():
    x, t = torch.ones(3, 2), torch.tensor([[1.0], [2.0], [3.0]])  # a t for each row
    torch.testing.assert_close(laplacian(lambda x: t * x**2, x), (2 * t).expand(3, 2))


def test_the_value_is_not_computed_for_each_direction():
    shapes = []

    def f(x):
        shapes.append(x.shape)
        return x.tanh()

    laplacian(f, torch.ones(5, 7))
    assert shapes == [(5, 7)]


@each("name", [*POINTWISE, *RECURRENCES])
def test_what_works_element_by_element_is_not_suspected_of_mixing_rows(name):
    function = next(getattr(m, name) for m in (torch, F, torch.special) if hasattr(m, name))
    shapes = []

    def f(x):
        shapes.append(x.shape)
        return function(x)

    laplacian(f, torch.rand(5, 3) + 1.5 * (name == "acosh"))
    assert len(shapes) == 1


def test_an_option_that_an_activation_has_not_is_refused():
    for operator in (lambda f, x: derivatives(f, x, 2), laplacian):
        with pytest.raises(NotImplementedError, match="logit with these arguments"):
            operator(lambda x: torch.logit(x, eps=0.1), torch.rand(2, 2))


def test_many_points_and_directions_that_are_split_into_runs_change_nothing(monkeypatch):
    net, x = network(9, 4, 1), torch.randn(7, 9, dtype=torch.float64)
    expected, calls = laplacian(net, x), []
    monkeypatch.setattr(directions, "ROWS", 7 * 4)
    monkeypatch.setattr(directions, "FEWEST", 1)
    found = laplacian(lambda x: calls.append(1) or net(x), x)
    torch.testing.assert_close(found, expected)
    assert len(calls) == 3  # of 4, 4 and 1 directions


def test_with_values_that_are_the_same_in_all_rows_nothing_is_lost():
    x = torch.ones(4, 1, 3, dtype=torch.float64).expand(4, 5, 3)
    net = network(3, 6, 2)
    torch.testing.assert_close(laplacian(net, x), laplacian(net, x.contiguous()))
    torch.testing.assert_close(derivatives(net, x, 2), derivatives(net, x.contiguous(), 2))


UNDER_VMAP = {
    "mul": lambda x: x * x.sin(),
    "composed": lambda x: x.softmax(-1) + F.gelu(x),
    "product": lambda x: x.prod(-1),
    "layer norm": lambda x: F.layer_norm(x, (3,)),
    "matmul": lambda x: (x @ torch.ones(3, 3).to(x)).tanh() * x,
    "where": lambda x: torch.where(x > 0.5, x**3, x.sin()),
    "parts": lambda x: torch.cat([x[..., [0, 1]] * x[..., 2:] ** 2, x.sort(-1)[0] ** 3], -1),
}


@each("name", UNDER_VMAP)
def test_vmap_over_an_operator_is_the_operator_for_each(name):
    f, x = UNDER_VMAP[name], torch.rand(3, 3, dtype=torch.float64)  # three directions as well
    for run in (
        lambda x: laplacian(f, x),
        lambda x: mixed(f, x, (0, 1)),
        lambda x: mixed(f, x, (0, 1, 1)),
        lambda x: derivatives(f, x, 3),
    ):
        torch.testing.assert_close(torch.vmap(run)(x), torch.stack([run(row) for row in x]))


def test_slopes_inside_a_transform_are_refused():
    x = torch.rand(3, 3)
    for run in (lambda x: laplacian(torch.relu, x), lambda x: derivatives(torch.relu, x, 2)):
        for transformed in (torch.vmap(run), torch.func.jacrev(run)):
            with pytest.raises(NotImplementedError, match="relu inside torch.vmap or torch.func"):
                transformed(x)


# ---- rows that meet

MIXING = {
    "mean": lambda x: x - x.mean(0),
    "softmax": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(0),
    "cumsum from the end": lambda x: x.flip(0).cumsum(0),
    "neighbours": lambda x: x * x.roll(1, 0),
    "the last one": lambda x: x * x[-1:],
    "matrix": lambda x: torch.ones(len(x), len(x)) @ x,
    "transposed": lambda x: F.linear(x.T, torch.ones(len(x), len(x))).T,
    "norm": lambda x: x / x.norm(),
    "by hand, a batch norm": lambda x: (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt(),
}


@each("rows", [2, 3, 7])
@each("name", MIXING)
def test_rows_that_depend_on_each_other_are_refused(name, rows):
    x = torch.rand(rows, 3, generator=torch.Generator().manual_seed(rows)) + 0.5
    for operator in (laplacian, lambda f, x: mixed(f, x, (0, 1))):
        with pytest.raises(ValueError, match=f"but . of {rows} rows of f.x. depend on other rows"):
            operator(MIXING[name], x)


def test_one_row_alone_meets_no_other():
    x = torch.rand(1, 3, dtype=torch.float64)
    for f in (MIXING["norm"], MIXING["softmax"]):
        torch.testing.assert_close(
            laplacian(f, x)[0], laplacian(lambda x, f=f: f(x[None])[0], x[0])
        )


@pytest.mark.parametrize("name", ["laplacian", "mixed", "derivatives"])
def test_another_precision_than_that_of_the_rules_is_refused(name):
    x = torch.rand(4, 3)
    call = {
        "laplacian": lambda: laplacian(torch.sin, x),
        "mixed": lambda: mixed(torch.sin, x, (0, 1)),
        "derivatives": lambda: derivatives(torch.sin, x, 2),
    }[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError, match=r'with torch.autocast\("cpu", enabled=False\)'):
            call()
        with torch.autocast("cpu", enabled=False):
            call()


@each("norm", [nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)])
@each("operator", ["laplacian", "mixed", "derivatives"])
def test_a_batch_norm_in_training_is_refused_and_left_as_it_was(operator, norm):
    net, x = nn.Sequential(nn.Linear(2, 3), norm), torch.rand(4, 2)
    before = copy.deepcopy(net.state_dict())
    call = {
        "laplacian": lambda: laplacian(net, x),
        "mixed": lambda: mixed(net, x, (0, 1)),
        "derivatives": lambda: derivatives(net, x, 2),
    }[operator]
    with pytest.raises(NotImplementedError, match=r"batch_norm in training.*call eval\(\) first"):
        call()
    assert {**net.state_dict()}.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_batch_norm_that_is_refused_keeps_no_variable_of_the_caller():
    variable, mean, scale = torch.ones(2), torch.zeros(3), torch.ones(3)  # of no module
    kept = weakref.ref(variable)
    with pytest.raises(NotImplementedError):
        laplacian(lambda x: F.batch_norm(x, mean, scale, training=True), torch.ones(4, 3))
    del variable
    assert kept() is None


def test_a_network_with_a_batch_norm_in_eval_agrees_with_the_hessian():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)]
    net, x = nn.Sequential(*layers).double(), torch.randn(5, 3, dtype=torch.float64)
    net(x)  # which sets its statistics
    net.eval()
    one_row = lambda x: net(x[None])[0]  # noqa: E731
    hessian = torch.func.vmap(torch.func.hessian(one_row))(x)
    expected = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(laplacian(net, x), expected, rtol=1e-12, atol=1e-12)


def test_what_rows_have_in_common_as_a_constant_is_allowed():
    x = torch.rand(4, 3, dtype=torch.float64)
    f = lambda x: (x / x.detach().mean(0)) ** 2  # noqa: E731
    torch.testing.assert_close(laplacian(f, x), (2 / x.mean(0) ** 2).expand(4, 3))


@each("f", [torch.sum, lambda x: x.T, lambda x: x[:2], lambda x: x.mean(0)])
def test_other_rows_than_those_of_x_are_refused(f):
    with pytest.raises(ValueError, match=r"x of shape \(4, 3\) gives \(4, ...\), got"):
        laplacian(f, torch.rand(4, 3))


# ---- wrong arguments

WRONG = (
    (TypeError, "f must be a function", lambda x: laplacian(x, x)),
    (TypeError, "x must be a tensor", lambda x: laplacian(torch.sin, 1.0)),
    (TypeError, "x must have numbers", lambda x: laplacian(torch.sin, x.to("meta"))),
    (TypeError, "x must have numbers", lambda x: mixed(torch.sin, x.to("meta"), (0, 1))),
    (TypeError, "pass x.double", lambda x: mixed(torch.sin, x.long(), (0,))),
    (
        TypeError,
        "a dense tensor, got torch.sparse_coo",
        lambda x: laplacian(torch.sin, x.to_sparse()),
    ),
    (TypeError, "f must return a tensor", lambda x: laplacian(lambda x: (x,), x)),
    (ValueError, r"the coordinates, got shape \(\)", lambda x: laplacian(torch.sin, x[0, 0])),
    (ValueError, r"got shape \(2, 0\)", lambda x: laplacian(torch.sin, x[:, :0])),
    (TypeError, r"such as \(0, 0, 1\), got 1", lambda x: mixed(torch.sin, x, 1)),
    (TypeError, r"ints, .*got \(0, True\)", lambda x: mixed(torch.sin, x, (0, True))),
    (ValueError, "a coordinate at least", lambda x: mixed(torch.sin, x, ())),
    (ValueError, "must be 170 or less", lambda x: mixed(torch.sin, x, (0,) * 171)),
    (IndexError, "x has 3 .* must be from -3 to 2, got 3", lambda x: mixed(torch.sin, x, [3])),
    (NotImplementedError, "add_ works in place", lambda x: laplacian(lambda x: x.add_(1), x)),
    (NotImplementedError, r"item\(\) leaves", lambda x: laplacian(lambda x: x[0].sum().item(), x)),
)


@each(("error", "message", "call"), WRONG)
def test_a_wrong_argument_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call(torch.ones(2, 3))
