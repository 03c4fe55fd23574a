"""nth_derivative.py: orders, exact zeros, and everything that must be refused."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy
import pytest
import torch
import torchgen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torchgen.packaged.autograd.load_derivatives import load_derivatives

from companion import internals
from companion.higher_order.nth_derivative import nth_derivative
from tests.cases import each
from tests.programs import Cube, GivesNone, Once, Twice
from tests.slices import every, torchs_own


class HiddenCube(torch.autograd.Function):
    """The cube, with a derivative that autograd cannot see: it is a ctx attribute."""

    @staticmethod
    def forward(ctx, a):
        ctx.slope = (3 * a * a).detach()
        return a**3

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope


class OpenExp(torch.autograd.Function):
    """The exponential, with a derivative computed from its saved result."""

    @staticmethod
    def forward(ctx, a):
        result = a.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, grad):
        (result,) = ctx.saved_tensors
        return grad * result


# ---- values


def test_order_zero_returns_y_itself():
    x = torch.ones(3, requires_grad=True)
    for y in (x.exp(), x.log()):
        assert nth_derivative(y, x, 0) is y


def test_derivatives_of_sin_repeat_after_four():
    x = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(nth_derivative(torch.sin(x), x, 4), torch.sin(x))


def test_ten_orders_of_a_squared_sigmoid_agree_with_fifty_digits():
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = torch.sigmoid(x) ** 2
    with mpmath.workdps(50):
        taylor = mpmath.taylor(lambda t: (1 + mpmath.exp(-t)) ** -2, 1, 10)
        wanted = [float(c * mpmath.factorial(k)) for k, c in enumerate(taylor)]
    got = torch.stack([nth_derivative(y, x, k) for k in range(11)])
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex128])
@pytest.mark.parametrize(
    ("power", "factor", "degree"),
    [
        pytest.param(lambda x: x, 1, 1, id="x"),
        pytest.param(lambda x: 2 * x + 1, 2, 1, id="2 * x + 1"),
        pytest.param(lambda x: x**2.0, 1, 2, id="x**2.0"),
        pytest.param(lambda x: x**3, 1, 3, id="x**3"),
        pytest.param(lambda x: x * x * x, 1, 3, id="x * x * x"),
    ],
)
def test_a_power_has_exact_derivatives_and_exact_zeros_past_its_degree(
    power, factor, degree, dtype
):
    x = torch.tensor([[-2.0, 0.0], [0.5, 3.0]], dtype=dtype, requires_grad=True)
    y = power(x)
    for n in range(1, degree + 4):
        fall = factor * float(mpmath.ff(degree, n))
        wanted = fall * x.detach() ** (degree - n) if n <= degree else torch.zeros_like(x)
        got = nth_derivative(y, x, n)
        assert got.dtype == dtype
        assert torch.equal(got, wanted)


@settings(max_examples=50)
@given(
    outer=st.lists(st.integers(-4, 4), min_size=1, max_size=4),
    inner=st.lists(st.integers(-4, 4), min_size=2, max_size=3),
    points=st.lists(st.integers(-3, 3), min_size=1, max_size=5),
    n=st.integers(0, 7),
)
def test_a_polynomial_of_a_polynomial_has_the_derivatives_that_numpy_gives(outer, inner, points, n):
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    y = x
    for coefficients in (inner, outer):
        argument, y = y, 0 * y
        for coefficient in reversed(coefficients):
            y = y * argument + coefficient
    composed = numpy.polynomial.Polynomial(outer)(numpy.polynomial.Polynomial(inner))
    wanted = composed.deriv(n)(numpy.array(points)) if n else composed(numpy.array(points))
    got = nth_derivative(y, x, n)
    assert torch.equal(got, torch.as_tensor(wanted, dtype=torch.float64))  # whole numbers: exact


@settings(max_examples=50)
@given(
    names=st.lists(st.sampled_from(["sin", "cos", "tanh", "exp", "erf"]), min_size=1, max_size=3),
    point=st.floats(-1.0, 1.0),
    n=st.integers(1, 4),
)
def test_a_chain_of_functions_has_the_taylor_coefficients_that_mpmath_gives(names, point, n):
    x = torch.tensor([point, 0.25], dtype=torch.float64, requires_grad=True)
    y = x
    for name in names:
        y = getattr(torch, name)(y)

    def chain(t):
        for name in names:
            t = getattr(mpmath, name)(t)
        return t

    with mpmath.workdps(40):
        wanted = [float(mpmath.diff(chain, value, n)) for value in x.tolist()]
    got = nth_derivative(y, x, n)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@each("n", range(5))
def test_a_holomorphic_y_has_its_complex_derivatives(n):
    z = torch.tensor([1 + 2j, 0.5 - 1j], dtype=torch.complex128, requires_grad=True)
    sign = (-1) ** n * float(mpmath.factorial(n))
    got = nth_derivative(1 / z + torch.exp(1j * z), z, n)
    torch.testing.assert_close(got, sign / z ** (n + 1) + 1j**n * torch.exp(1j * z))
    assert not got.is_conj()


def test_y_may_be_x_itself():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    assert [nth_derivative(x, x, n).tolist() for n in range(4)] == [[2, 3], [1, 1], [0, 0], [0, 0]]


def test_x_may_be_in_the_middle_of_the_graph():
    leaf = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x = leaf * 3
    torch.testing.assert_close(nth_derivative(x**4, x, 3), 24 * x)


def test_x_may_be_one_of_several_outputs_of_its_node():
    first, second = torch.arange(4.0, requires_grad=True).exp().split(2)
    assert torch.equal(nth_derivative(second**2, second, 2), torch.full((2,), 2.0))
    with pytest.raises(ValueError, match="not computed from this x"):
        nth_derivative(first**2, second, 2)


def test_an_empty_x_has_an_empty_derivative():
    x = torch.ones(0, requires_grad=True)
    assert nth_derivative(x.exp(), x, 1).shape == (0,)


def test_one_element_each_is_enough_and_the_result_has_the_shape_of_x():
    x = torch.tensor([[2.0]], requires_grad=True)
    assert [nth_derivative((x**2).sum(), x, n).tolist() for n in (1, 2, 3)] == [
        [[4.0]],
        [[2.0]],
        [[0.0]],
    ]


def test_the_result_has_the_dtype_of_y():
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert {nth_derivative(x.float() ** 2, x, n).dtype for n in range(7)} == {torch.float32}


def test_the_result_can_be_differentiated_again_by_the_caller():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    nth_derivative(x**4, x, 2).sum().backward()
    torch.testing.assert_close(x.grad, 24 * x.detach())


def test_an_infinite_derivative_in_one_place_leaves_the_others_right():
    x = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert nth_derivative(x.sqrt(), x, 1).tolist() == [float("inf"), 0.5, 0.25]


def test_derivatives_that_cancel_to_rounding_noise_are_accepted():
    x = torch.linspace(-2.0, 2.0, 50, dtype=torch.float64, requires_grad=True)
    got = nth_derivative(x.sin() ** 2 + x.cos() ** 2, x, 1)
    torch.testing.assert_close(got, torch.zeros_like(x), rtol=0, atol=1e-15)


def test_elements_that_mix_and_cancel_up_to_rounding_are_accepted():
    x = torch.linspace(-2.0, 2.0, 50, dtype=torch.float64, requires_grad=True)
    y = x.log_softmax(0) + x.logsumexp(0)  # is x
    torch.testing.assert_close(nth_derivative(y, x, 1), torch.ones_like(x), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounding_errors_of_a_few_hundred_digits_are_accepted(dtype):
    # Correlated and made independent again: the solution leaves 300 to 400 eps in each place.
    correlation = torch.full((50, 50), 0.91, dtype=dtype).fill_diagonal_(1)
    x = torch.linspace(-2.0, 2.0, 50, dtype=torch.float64).to(dtype).requires_grad_()
    y = torch.linalg.solve(correlation, correlation @ x)
    assert nth_derivative(y, x, 1).shape == x.shape


@pytest.mark.parametrize(
    ("dtype", "size", "end"), [(torch.float16, 90, 1.0), (torch.bfloat16, 20, 3.0)]
)
def test_rounding_errors_of_a_few_digits_are_accepted_in_half_precision(dtype, size, end):
    x = torch.linspace(-end, end, size, dtype=torch.float64).to(dtype).requires_grad_()
    y = x.log_softmax(0) + x.logsumexp(0)  # is x, with up to 8 eps in each place
    assert nth_derivative(y, x, 1).shape == x.shape


@pytest.mark.parametrize(
    ("dtype", "last"), [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
def test_rounding_errors_of_the_narrower_of_two_types_are_accepted(dtype, last):
    x = torch.linspace(-2.0, 2.0, 50, dtype=dtype, requires_grad=True)
    narrow = x.float()
    y = (narrow.log_softmax(0) + narrow.logsumexp(0)).to(last)
    assert nth_derivative(y, x, 1).shape == x.shape


def test_a_derivative_that_is_nan_in_one_place_leaves_the_others_right():
    x = torch.tensor([-1.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    got = nth_derivative(torch.where(x > 0, x.sqrt(), x), x, 1)
    wanted = torch.tensor([float("nan"), float("nan"), 0.25], dtype=torch.float64)
    torch.testing.assert_close(got, wanted, equal_nan=True)


def test_derivatives_below_the_normal_range_of_half_precision_are_accepted():
    x = torch.linspace(1e-4, 4e-3, 100).half().requires_grad_()
    got = nth_derivative(x * x * x, x, 1)
    torch.testing.assert_close(got, 3 * x * x, rtol=0.01, atol=2e-7)


@each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_elementwise_functions_of_every_precision_are_accepted(dtype):
    x = torch.linspace(-3.0, 3.0, 500).to(dtype).requires_grad_()
    for y in (x.sigmoid() ** 2, x.tanh() * x.sin(), x / (2 + x * x), x**5, (-x * x).exp()):
        assert nth_derivative(y, x, 1).shape == x.shape


def test_the_kink_of_abs_has_the_derivative_torch_chose():
    x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    assert nth_derivative(x.abs(), x, 1).tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_zeros_can_be_read_and_written_like_any_tensor(dtype):
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype, requires_grad=True)
    w = torch.ones(3, dtype=dtype, requires_grad=True)
    for y in (x.abs(), x.abs() * w, x.exp().sign(), x.round()):
        zeros = nth_derivative(y, x, 2).detach()  # torch's own has no memory for some of these
        assert zeros.tolist() == [0.0, 0.0, 0.0]
        assert zeros.add_(1).numpy().sum() == 3


# ---- what the call leaves alone


def test_no_leaf_gets_a_grad_and_the_graph_stays_usable():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([3.0, 3.0], dtype=torch.float64, requires_grad=True)
    y = x.exp() * w
    first = nth_derivative(y, x, 3)
    assert x.grad is None and w.grad is None
    torch.testing.assert_close(nth_derivative(y, x, 3), first, rtol=0, atol=0)
    y.sum().backward()
    torch.testing.assert_close(w.grad, x.detach().exp())


def test_what_retain_grad_kept_of_x_and_y_stays():
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    x = a * 1
    y = x**3
    x.retain_grad()
    y.retain_grad()
    y.sum().backward(retain_graph=True)
    kept = x.grad, y.grad
    nth_derivative(y, x, 2)
    assert x.grad is kept[0] and x.grad.tolist() == [12.0, 27.0]
    assert y.grad is kept[1] and y.grad.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="not elementwise"):
        nth_derivative(x.flip(0), x, 1)
    assert x.grad is kept[0]


def test_a_subclass_of_tensor_has_the_same_derivatives():
    class Own(torch.Tensor):
        pass

    x = torch.tensor([2.0, 3.0]).as_subclass(Own).requires_grad_()
    for n, wanted in enumerate([[8.0, 27.0], [12.0, 27.0], [12.0, 18.0], [6.0, 6.0], [0.0, 0.0]]):
        assert nth_derivative(x**3, x, n).tolist() == wanted


def test_factors_that_only_the_check_makes_too_large_are_no_mixing():
    x = torch.linspace(0.5, 2, 16, dtype=torch.float16, requires_grad=True)
    torch.testing.assert_close(
        nth_derivative((x / 10000) * 10000, x, 1), torch.ones_like(x), rtol=1e-2, atol=0
    )


def test_the_global_random_state_stays_as_it_was():
    x = torch.ones(5, requires_grad=True)
    before = torch.get_rng_state()
    nth_derivative(x.exp(), x, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_hook_stays_on_a_custom_function(monkeypatch):
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = OpenExp.apply(x)
    nth_derivative(y, x, 2)
    monkeypatch.delattr(
        "companion.higher_order.nth_derivative._paths"
    )  # a hook that stayed would miss it
    (first,) = torch.autograd.grad(y, x, torch.ones_like(x, requires_grad=True), create_graph=True)
    assert first.grad_fn.next_functions[0][0] is not None  # still tied to the gradient that came in


def test_no_hook_stays_on_a_custom_function_that_raised():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("cannot go back")

    x = torch.tensor(1.0, requires_grad=True)
    inner = OpenExp.apply(x)
    y = Failing.apply(inner)
    with pytest.raises(RuntimeError, match="cannot go back"):
        nth_derivative(y, x, 2)
    grad = torch.ones_like(x, requires_grad=True)
    (first,) = torch.autograd.grad(inner, x, grad, create_graph=True)
    assert first.grad_fn.next_functions[0][0] is not None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_context_without_gradients_around_the_call_changes_nothing(context):
    x = torch.tensor([2.0, 1.0], requires_grad=True)
    y = x**4
    with context():
        assert [nth_derivative(y, x, n).tolist() for n in (2, 3)] == [[48, 12], [48, 24]]


def test_a_default_device_changes_nothing():
    x = torch.tensor([2.0, 1.0], requires_grad=True)
    with torch.device("meta"):
        assert nth_derivative(x**2, x, 1).tolist() == [4.0, 2.0]


def test_a_long_chain_needs_no_recursion():
    x = torch.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + 1
    assert nth_derivative(y, x, 1).item() == 1.0


def test_a_graph_with_very_many_paths_is_walked_once():
    x = torch.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(60):
        y = y + y
    assert nth_derivative(y, x, 1).item() == 2.0**60


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_has_the_same_derivatives():
    x = torch.linspace(-2.0, 2.0, 1000, dtype=torch.float64, device="cuda", requires_grad=True)
    before = torch.cuda.get_rng_state()
    torch.testing.assert_close(nth_derivative(x.sin() * x, x, 3), -3 * x.sin() - x * x.cos())
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with pytest.raises(ValueError, match="not elementwise"):
        nth_derivative(x.cumsum(0), x, 1)


# ---- wrong arguments


@each("n", [True, 2.0, "2", None])
def test_an_order_that_is_no_int_is_refused(n):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=f"n must be an int, got {type(n).__name__}"):
        nth_derivative(x * x, x, n)


def test_a_negative_order_is_refused():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="n must be 0 or more, got -1"):
        nth_derivative(x * x, x, -1)


@pytest.mark.parametrize("n", [0, 1])
def test_a_y_or_an_x_that_is_no_tensor_is_refused(n):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match=r"y must be a torch\.Tensor, got float"):
        nth_derivative(3.0, x, n)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        nth_derivative(x, [1.0, 1.0], n)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_an_integer_or_bool_x_is_refused_with_a_cure(dtype):
    x = torch.ones(2, dtype=dtype)
    with pytest.raises(TypeError, match=rf"got {dtype}; compute y from x\.double\(\)"):
        nth_derivative(x * x, x, 1)


def test_an_x_that_is_not_dense_is_refused_with_a_cure():
    x = torch.eye(2).to_sparse().requires_grad_()
    with pytest.raises(TypeError, match=r"dense tensor, got torch\.sparse_coo; compute y from"):
        nth_derivative(x, x, 1)


def test_a_y_or_an_x_without_numbers_is_refused_with_a_cure():
    meta = torch.ones(2, device="meta", requires_grad=True)
    with FakeTensorMode():
        fake = torch.ones(2, requires_grad=True)
    x = torch.ones(2, requires_grad=True)
    for y, by, message in (
        (meta.sin(), meta, "y must have numbers, and is on the device meta"),
        (fake.sin(), fake, "y must have numbers, and is a fake tensor"),
        (x.to("meta"), x, "y must have numbers, and is on the device meta"),
        (x, meta, "x must have numbers"),
    ):
        with pytest.raises(TypeError, match=f"{message}.*; make it on a device such as"):
            nth_derivative(y, by, 2)


@pytest.mark.parametrize("n", [0, 1])
def test_an_x_that_does_not_require_grad_is_refused_with_a_cure(n):
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"does not require grad.*call x\.requires_grad_\(\)"):
        nth_derivative(w * w, torch.ones(2), n)


def test_an_x_made_in_inference_mode_is_refused_with_a_cure():
    with torch.inference_mode():
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(ValueError, match=r"made under torch\.inference_mode\(\).*outside"):
            nth_derivative(x, x, 1)


@pytest.mark.parametrize("n", [0, 1])
def test_a_detached_y_is_refused_with_a_cure(n):
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"y has no graph; compute it from x without detach\(\)"):
        nth_derivative((x * x).detach(), x, n)


def test_a_y_computed_under_no_grad_is_refused_with_a_cure():
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        y = x * x
    with pytest.raises(ValueError, match=r"y has no graph.*outside torch\.no_grad\(\)"):
        nth_derivative(y, x, 1)


def test_a_y_from_an_operation_without_a_derivative_is_refused():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="y has no graph"):
        nth_derivative(torch.special.airy_ai(x), x, 1)


def test_an_operation_without_a_derivative_inside_y_counts_as_a_constant():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    airy = torch.special.airy_ai(x)
    torch.testing.assert_close(nth_derivative(airy * x, x, 1), airy)


@pytest.mark.parametrize("n", [0, 1])
def test_a_y_computed_from_another_tensor_is_refused_with_a_cure(n):
    x = torch.ones(3, requires_grad=True)
    y = x * x
    x = x.clone()  # the name x now means another tensor
    with pytest.raises(ValueError, match="not computed from this x; pass the very tensor"):
        nth_derivative(y, x, n)


def test_another_leaf_is_refused_as_y():
    x, w = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="y has no graph"):
        nth_derivative(w, x, 1)


@pytest.mark.parametrize("n", [0, 1])
def test_different_shapes_are_refused_with_a_cure(n):
    x = torch.ones(5, requires_grad=True)
    with pytest.raises(ValueError, match=r"got \(\) and \(5,\); .* use torch\.func\.hessian"):
        nth_derivative(x.sum(), x, n)


def test_a_complex_y_of_a_real_x_is_refused_with_a_cure_that_works():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.exp(1j * x)
    with pytest.raises(ValueError, match="got torch.complex128 and torch.float64; .*y.real and"):
        nth_derivative(y, x, 1)
    torch.testing.assert_close(nth_derivative(y.imag, x, 1), x.cos())


def test_a_real_y_of_a_complex_x_is_refused():
    z = torch.tensor([1 + 2j], requires_grad=True)
    with pytest.raises(ValueError, match="both real or both complex"):
        nth_derivative(z.abs(), z, 1)


def test_a_freed_graph_is_refused_with_a_cure():
    x = torch.tensor(1.0, requires_grad=True)
    y = x.exp()
    y.backward()
    with pytest.raises(ValueError, match="freed.*compute y again, or pass retain_graph=True") as e:
        nth_derivative(y, x, 1)
    assert isinstance(e.value.__cause__, RuntimeError)


def test_any_other_error_of_the_backward_pass_comes_through_unchanged():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    y.data.add_(0.0)
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nth_derivative(y, x, 1)


# ---- not elementwise, not holomorphic


@each("n", [0, 1, 2])
@each(
    "mix",
    [
        lambda x: x * x.mean(),
        lambda x: x.softmax(1),
        lambda x: x.cumsum(1),
        lambda x: x.flip(0),
        lambda x: x + 1e-6 * x.roll(1, 1),
        lambda x: x @ x,
        lambda x: (x - x.mean(0)) / x.std(0),
        lambda x: x - x.roll(1, 0) + x.roll(1, 1),
    ],
)
def test_a_y_that_mixes_elements_is_refused_with_a_cure(mix, n):
    x = torch.linspace(-1.0, 2.0, 9, dtype=torch.float64).view(3, 3).requires_grad_()
    with pytest.raises(ValueError, match=r"not elementwise in x, seen in \d of 9.*func\.jacrev"):
        nth_derivative(mix(x), x, n)


@each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_mixing_is_seen_in_every_precision(dtype):
    x = torch.linspace(-1.0, 2.0, 9).to(dtype).requires_grad_()
    with pytest.raises(ValueError, match="not elementwise"):
        nth_derivative(x + x.flip(0), x, 1)


@each(
    ("dtype", "digits"),
    [
        (torch.float64, 200),
        (torch.float32, 200),
        (torch.complex64, 200),
        (torch.float16, 4),
        (torch.bfloat16, 4),
    ],
)
def test_mixing_just_above_what_rounding_may_do_is_seen(dtype, digits):
    x = torch.linspace(-1.0, 2.0, 8, dtype=torch.float64).to(dtype).requires_grad_()
    y = x + digits * torch.finfo(dtype).eps * x.roll(1)
    with pytest.raises(ValueError, match="not elementwise"):
        nth_derivative(y, x, 1)


def test_one_lone_dependence_between_any_two_of_eight_elements_is_seen():
    for i in range(8):
        for j in set(range(8)) - {i}:
            x = torch.ones(8, dtype=torch.float64, requires_grad=True)
            y = x + torch.eye(8, dtype=torch.float64)[i] * x[j]
            with pytest.raises(ValueError, match="seen in 1 of 8 places"):
                nth_derivative(y, x, 1)


def test_one_lone_dependence_between_any_two_of_64_elements_is_seen():
    unit = torch.eye(64, dtype=torch.float64)
    for i, j in every(5, itertools.combinations(range(64), 2)):
        x = torch.ones(64, dtype=torch.float64, requires_grad=True)
        with pytest.raises(ValueError, match="seen in 1 of 64 places"):
            nth_derivative(x + unit[i] * x[j], x, 1)


def test_a_huge_derivative_in_one_place_hides_no_mixing_in_another():
    x = torch.tensor([0.0, 40.0], dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="seen in 1 of 2 places"):
        nth_derivative(x.exp() + x.sum(), x, 1)


def test_an_infinite_derivative_in_one_place_hides_no_mixing_in_another():
    x = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="not elementwise"):
        nth_derivative(x.sqrt() + x.flip(0), x, 1)


@pytest.mark.parametrize("f", [torch.conj_physical, lambda z: z * z.conj(), lambda z: z.real + 0j])
def test_a_y_that_is_not_holomorphic_is_refused(f):
    z = torch.tensor(1 + 2j, dtype=torch.complex128, requires_grad=True)
    with pytest.raises(ValueError, match="not elementwise in x or not holomorphic"):
        nth_derivative(f(z), z, 1)


# ---- custom Functions


@each(
    "f",
    [
        HiddenCube.apply,
        lambda x: HiddenCube.apply(x) + x**3,
        lambda x: torch.exp(HiddenCube.apply(x)),
        lambda x: HiddenCube.apply(torch.exp(x)),
        lambda x: OpenExp.apply(HiddenCube.apply(x)),
    ],
)
@each("n", [2, 3])
def test_a_function_that_hides_its_derivative_is_refused_from_order_two_on(f, n):
    x = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(
        ValueError,
        match=r"order 2: the gradient from HiddenCube has no graph.*save_for_backward.*gradgradch",
    ):
        nth_derivative(f(x), x, n)


def test_a_function_that_hides_its_derivative_is_allowed_at_order_one():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    assert nth_derivative(HiddenCube.apply(x), x, 1).tolist() == [12.0, 27.0]


def test_a_function_that_hides_its_derivative_beside_the_path_to_x_is_no_concern():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    assert nth_derivative(HiddenCube.apply(w) * x**2, x, 2).tolist() == [2.0, 2.0]


def test_a_function_with_a_constant_derivative_is_refused_because_it_looks_the_same():
    x = torch.tensor(2.0, requires_grad=True)
    with pytest.raises(ValueError, match="Twice has no graph to x, so it is constant or hides"):
        nth_derivative(Twice.apply(x) ** 2, x, 2)


def test_a_function_that_hides_its_second_derivative_is_refused_at_order_three():
    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return a**4 / 12

        @staticmethod
        def backward(ctx, grad):
            return grad * HiddenCube.apply(ctx.saved_tensors[0]) / 3

    x = torch.tensor(2.0, requires_grad=True)
    assert nth_derivative(Late.apply(x), x, 2).item() == 4.0
    with pytest.raises(ValueError, match="order 3: the gradient from HiddenCube"):
        nth_derivative(Late.apply(x), x, 3)


def test_a_once_differentiable_function_is_refused_from_order_two_on():
    x = torch.tensor(2.0, requires_grad=True)
    assert nth_derivative(Once.apply(x), x, 1).item() == 4.0
    for y in (Once.apply(x), torch.exp(Once.apply(x))):
        with pytest.raises(ValueError, match="Once has no graph to x"):
            nth_derivative(y, x, 2)


def test_a_gradient_with_a_graph_to_another_tensor_only_is_refused():
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, w):
            ctx.save_for_backward(w)
            ctx.slope = (3 * a * a).detach()
            return a**3 * w

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.slope * ctx.saved_tensors[0], None

    x, w = torch.tensor([2.0, 3.0], requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="Scaled has no graph to x"):
        nth_derivative(Scaled.apply(x, w), x, 2)


class SilentSecond(torch.autograd.Function):
    """The cube, with a derivative that has None for its own."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a**3

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved_tensors
        return 3 * GivesNone.apply(a) / a.detach() * grad


@each(
    ("f", "n", "order"),
    [
        (GivesNone.apply, 1, 1),
        (GivesNone.apply, 2, 1),
        (lambda x: GivesNone.apply(x) + x**2, 1, 1),
        (SilentSecond.apply, 2, 2),
    ],
)
def test_a_function_that_returns_no_gradient_is_refused(f, n, order):
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    with pytest.raises(
        ValueError, match=f"order {order}: the gradient from GivesNone is None.*zeros"
    ):
        nth_derivative(f(x), x, n)


def test_a_function_that_returns_no_gradient_later_is_allowed_before():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    assert nth_derivative(SilentSecond.apply(x), x, 1).tolist() == [12.0, 27.0]


def test_a_function_may_give_no_gradient_for_an_output_that_got_none():
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.set_materialize_grads(False)
            return a * 2, b * 3

        @staticmethod
        def backward(ctx, for_a, for_b):
            return for_a and for_a * 2, for_b and for_b * 3

    x = torch.tensor(2.0, requires_grad=True)
    assert nth_derivative(Two.apply(x, x.exp())[0], x, 1) == 2


def test_a_long_row_of_functions_needs_no_recursion():
    x = torch.ones(1, requires_grad=True)
    y = x
    for _ in range(1500):
        y = Twice.apply(y) * 0.5
    assert nth_derivative(y, x, 1) == 1


def test_threads_that_share_a_graph_with_a_function_do_not_disturb_each_other():
    x = torch.linspace(0.5, 2, 8, dtype=torch.float64, requires_grad=True)
    y = Cube.apply(x) * x.sin()
    wanted = nth_derivative(y, x, 3).detach()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: nth_derivative(y, x, 3).detach(), range(40)))
    assert all(torch.equal(result, wanted) for result in results)


def test_only_inputs_that_lead_to_x_need_a_graph():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b, scale):
            ctx.save_for_backward(a, b)
            ctx.scale = scale
            return a * a * b * scale

        @staticmethod
        def backward(ctx, grad):
            a, b = ctx.saved_tensors
            return grad * 2 * a * b * ctx.scale, (grad * a * a).detach() * ctx.scale, None

    x = torch.tensor([2.0, 3.0], requires_grad=True)
    w = torch.tensor([5.0, 5.0], requires_grad=True)
    assert nth_derivative(Product.apply(x, w.exp().log(), 2), x, 2).tolist() == pytest.approx(
        [20.0, 20.0]
    )


@each("n", range(1, 5))
def test_a_function_that_saves_its_result_has_every_derivative(n):
    x = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(nth_derivative(OpenExp.apply(x), x, n), x.exp())
    torch.testing.assert_close(nth_derivative(OpenExp.apply(3 * x), x, n), 3**n * (3 * x).exp())


@each("n", range(1, 7))
def test_a_function_that_saves_its_input_has_every_derivative_and_then_zeros(n):
    x = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    assert torch.equal(nth_derivative(Cube.apply(x), x, n), nth_derivative(x**3, x, n))
    torch.testing.assert_close(
        nth_derivative(Cube.apply(Cube.apply(x)), x, n), nth_derivative(x**9, x, n)
    )


# ---- layers whose second derivative has no graph of all that it depends on


class As(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.reshape(len(x), *self.shape)


BATCH_NORM = nn.BatchNorm1d(8)
BATCH_NORM.running_mean.add_(0.3)
LAYERS = {
    "nn.LayerNorm": nn.LayerNorm(8),
    "nn.InstanceNorm1d": nn.Sequential(As(2, 4), nn.InstanceNorm1d(2), As(8)),
    "nn.InstanceNorm2d": nn.Sequential(As(2, 2, 2), nn.InstanceNorm2d(2), As(8)),
    "nn.BatchNorm1d in evaluation": BATCH_NORM.eval(),
    "nn.GroupNorm": nn.GroupNorm(2, 8),
    "nn.RMSNorm": nn.RMSNorm(8),
    "nn.LocalResponseNorm": nn.Sequential(As(8, 1), nn.LocalResponseNorm(2), As(8)),
    "F.normalize": type("Normalize", (nn.Module,), {"forward": lambda self, x: F.normalize(x)})(),
    "by hand": type(
        "LayerNorm",
        (nn.Module,),
        {"forward": lambda self, x: (x - x.mean(-1, True)) * (x.var(-1, keepdim=True) + 1).rsqrt()},
    )(),
    "nn.Conv1d": nn.Sequential(As(2, 4), nn.Conv1d(2, 2, 3, padding=1), As(8)),
    "nn.AvgPool1d": nn.Sequential(As(2, 4), nn.AvgPool1d(2), As(4), nn.Linear(4, 8)),
    "nn.MaxPool1d": nn.Sequential(As(2, 4), nn.MaxPool1d(2), As(4), nn.Linear(4, 8)),
    "nn.Bilinear": type(
        "Product",
        (nn.Module,),
        {"forward": lambda self, x: F.bilinear(x, x, torch.ones(8, 8, 8, dtype=x.dtype) / 9)},
    )(),
    **{
        f"nn.{kind.__name__}": kind()
        for kind in (nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid)
        + (nn.LogSigmoid, nn.Softsign, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU)
    },
    "nn.GLU": nn.Sequential(nn.GLU(), nn.Linear(4, 8)),
    "nn.Softmax": nn.Softmax(-1),
    "nn.LogSoftmax": nn.LogSoftmax(-1),
}
WITHOUT = {"nn.LayerNorm", "nn.InstanceNorm1d", "nn.InstanceNorm2d"}


@each("name", LAYERS)
def test_a_third_derivative_is_that_of_finite_differences_or_is_refused(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), LAYERS[name], nn.Tanh(), nn.Linear(8, 1))
    net = net.double()
    x, h = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None], 1e-5

    def second(x):
        x = x.requires_grad_()
        return nth_derivative(net(x), x, 2).detach()

    expected = (second(x + h) - second(x - h)) / (2 * h)
    leaf = x.requires_grad_()
    if name in WITHOUT:
        for order in (3, 4):
            message = r"of order 3: the formula of Native\w+NormBackwardBackward0 .* derivatives\("
            with pytest.raises(ValueError, match=message):
                nth_derivative(net(leaf), leaf, order)
    else:
        found = nth_derivative(net(leaf), leaf, 3).detach()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@torchs_own
def test_every_formula_that_takes_saved_statistics_for_constants_is_known():
    packaged = Path(torchgen.__file__).parent / "packaged"
    native = packaged / "ATen/native"
    files = packaged / "autograd/derivatives.yaml", native / "native_functions.yaml"
    infos, _ = load_derivatives(*map(str, files), str(native / "tags.yaml"))
    taken = re.compile(r"double_backward\(.*(save_mean|rstd)")
    found = {
        info.op
        for kinds in infos.values()
        for info in kinds.values()
        if any(taken.search(derivative.formula) for derivative in info.derivatives)
    }
    assert found == internals.OF_BACKWARDS_OF_NORMS
