"""series.py: every recurrence, and compositions, against fifty digits."""

import math

import mpmath
import torch
from mpmath import mpf
from torch.nn import functional as F

from companion import derivatives
from companion.higher_order import series
from companion.higher_order.table import CURVES, RECURRENCES
from tests.cases import each
from tests.slices import every

EPS = 2.0**-53


def sigmoid(t):
    return 1 / (1 + mpmath.exp(-t))


def softplus(t):
    return mpmath.log1p(mpmath.exp(t))


def far_gelu(t):
    return t * sigmoid(mpmath.sqrt(8 / mpmath.pi) * (t + mpf(0.044715) * t**3))


# Name: with torch, with mpmath, points. Among the points: near 0, negative, large, near the ends.
RULES = {
    "exp": (torch.exp, mpmath.exp, [-30.0, -1.0, 1e-9, 20.0]),
    "exp2": (torch.exp2, lambda t: mpf(2) ** t, [-30.0, 1e-9, 5.5]),
    "expm1": (torch.expm1, mpmath.expm1, [-30.0, -1e-9, 0.5, 20.0]),
    "log": (torch.log, mpmath.log, [1e-9, 0.5, 1.0000001, 1e9]),
    "log2": (torch.log2, lambda t: mpmath.log(t) / mpmath.log(2), [1e-9, 0.5, 1e9]),
    "log10": (torch.log10, lambda t: mpmath.log(t) / mpmath.log(10), [1e-9, 0.5, 1e9]),
    "log1p": (torch.log1p, mpmath.log1p, [-0.999999, 1e-12, 0.5, 1e9]),
    "sqrt": (torch.sqrt, mpmath.sqrt, [1e-9, 0.5, 1e9]),
    "rsqrt": (torch.rsqrt, lambda t: 1 / mpmath.sqrt(t), [1e-9, 0.5, 1e9]),
    "reciprocal": (torch.reciprocal, lambda t: 1 / t, [-1e6, -1e-6, 0.5]),
    "square": (torch.square, lambda t: t * t, [-3.0, 0.0, 1e-9, 1e6]),
    "sin": (torch.sin, mpmath.sin, [-30.0, 1e-9, 0.5, 1.5707963, 100.0]),
    "cos": (torch.cos, mpmath.cos, [-30.0, 1e-9, 0.5, 1.5707963, 100.0]),
    "tan": (torch.tan, mpmath.tan, [-1.5, 1e-9, 0.5, 1.57, 20.0]),
    "sinh": (torch.sinh, mpmath.sinh, [-20.0, 1e-9, 0.5]),
    "cosh": (torch.cosh, mpmath.cosh, [-20.0, 1e-9, 0.5]),
    "tanh": (torch.tanh, mpmath.tanh, [-20.0, -1.0, 1e-9, 0.5, 3.0]),
    "asin": (torch.asin, mpmath.asin, [-0.999999, 1e-9, 0.3, 0.9]),
    "acos": (torch.acos, mpmath.acos, [-0.999999, 1e-9, 0.3, 0.9]),
    "atan": (torch.atan, mpmath.atan, [-1e3, -1.0, 1e-9, 0.5, 3.0]),
    "asinh": (torch.asinh, mpmath.asinh, [-1e3, -1.0, 1e-9, 0.5, 3.0]),
    "acosh": (torch.acosh, mpmath.acosh, [1.000001, 1.1, 2.0, 1e3]),
    "atanh": (torch.atanh, mpmath.atanh, [-0.999999, 1e-9, 0.3, 0.9]),
    "sigmoid": (torch.sigmoid, sigmoid, [-30.0, 1e-9, 0.5, 20.0]),
    "logsigmoid": (F.logsigmoid, lambda t: -softplus(-t), [-30.0, 1e-9, 0.5, 20.0]),
    "softplus": (F.softplus, softplus, [-30.0, 1e-9, 0.5, 19.9]),
    "softplus of 2x": (
        lambda x: F.softplus(x, 2.0, 30.0),
        lambda t: softplus(2 * t) / 2,
        [-30.0, 0.5, 14.0],
    ),
    "silu": (F.silu, lambda t: t * sigmoid(t), [-30.0, 1e-9, 0.5, 20.0]),
    "gelu": (F.gelu, lambda t: t * mpmath.ncdf(t), [-6.0, 1e-9, 2.0]),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), far_gelu, [-6.0, 1e-9, 2.0]),
    "erf": (torch.erf, mpmath.erf, [-3.0, 1e-9]),
    "erfc": (torch.erfc, mpmath.erfc, [-6.0, 0.5, 6.0]),
    "elu": (F.elu, lambda t: mpmath.expm1(t) if t < 0 else t, [-30.0, -0.5, 10.0]),
    "mish": (F.mish, lambda t: t * mpmath.tanh(softplus(t)), [-20.0, 1e-9, 0.5, 10.0]),
    "tanhshrink": (F.tanhshrink, lambda t: t - mpmath.tanh(t), [-3.0, 0.1, 3.0]),
    "softsign": (F.softsign, lambda t: t / (1 + abs(t)), [-3.0, 0.5, 30.0]),
    "logit": (torch.logit, lambda t: mpmath.log(t / (1 - t)), [1e-6, 0.3, 0.999]),
    "abs": (torch.abs, abs, [-3.0, 1e-9]),
    "x**7": (lambda x: x**7, lambda t: t**7, [-3.0, 0.0, 1e-9, 2.0]),
    "x**-3": (lambda x: x**-3, lambda t: t**-3, [-3.0, 1e-3, 2.0]),
    "x**100": (lambda x: x**100, lambda t: t**100, [-1.5, 0.5, 1.1]),
    "x**2.5": (lambda x: x**2.5, lambda t: t ** mpf(2.5), [1e-9, 0.5, 1e6]),
    "x**-1.7": (lambda x: x**-1.7, lambda t: t ** mpf(-1.7), [1e-9, 0.5, 1e6]),
    "1.7**x": (lambda x: 1.7**x, lambda t: mpf(1.7) ** t, [-30.0, 1e-9, 5.0]),
    "x**x": (lambda x: x**x, lambda t: t**t, [0.1, 1.0, 3.0, 10.0]),
}
COMPOSITIONS = {
    "sigmoid squared": (lambda x: torch.sigmoid(x) ** 2, lambda t: sigmoid(t) ** 2, [-2.0, 1.0]),
    "exp(sin)": (lambda x: x.sin().exp(), lambda t: mpmath.exp(mpmath.sin(t)), [0.3, 2.0]),
    "1/(1+x²)": (lambda x: 1 / (1 + x * x), lambda t: 1 / (1 + t * t), [-3.0, 0.5, 30.0]),
    "x/(1+x²)": (lambda x: x / (1 + x * x), lambda t: t / (1 + t * t), [-3.0, 0.5]),
    "exp(-x²)": (lambda x: torch.exp(-(x**2)), lambda t: mpmath.exp(-t * t), [-1.5, 0.2, 4.0]),
    "log(1+exp)": (lambda x: torch.log(1 + x.exp()), softplus, [-1.0, 0.5, 3.0]),
    "x sin x": (lambda x: x * x.sin(), lambda t: t * mpmath.sin(t), [-2.0, 0.7, 5.0]),
    "sin/x²": (lambda x: x.sin() / x**2, lambda t: mpmath.sin(t) / t**2, [2.0, -5.0]),
    "sqrt(1+x²)": (lambda x: torch.sqrt(1 + x * x), lambda t: mpmath.sqrt(1 + t * t), [-2.0, 0.3]),
    "log(sin)": (lambda x: x.sin().log(), lambda t: mpmath.log(mpmath.sin(t)), [0.5, 2.5]),
    "tanh(2x)+x³": (
        lambda x: torch.tanh(2 * x) + x**3,
        lambda t: mpmath.tanh(2 * t) + t**3,
        [-1.0, 0.4],
    ),
    "x**2.5 exp(-x)": (
        lambda x: x**2.5 * (-x).exp(),
        lambda t: t ** mpf(2.5) * mpmath.exp(-t),
        [0.5, 3.0],
    ),
    "atan(x²)": (lambda x: torch.atan(x * x), lambda t: mpmath.atan(t * t), [-0.8, 1.7]),
    "asin(x/2)": (lambda x: torch.asin(x / 2), lambda t: mpmath.asin(t / 2), [-1.2, 0.7]),
    "acos(tanh)": (lambda x: x.tanh().acos(), lambda t: mpmath.acos(mpmath.tanh(t)), [-1.0, 0.5]),
    "erf(sin)": (lambda x: x.sin().erf(), lambda t: mpmath.erf(mpmath.sin(t)), [-1.0, 0.4]),
    "sinh(sqrt)": (lambda x: x.sqrt().sinh(), lambda t: mpmath.sinh(mpmath.sqrt(t)), [0.9, 4.0]),
    "tan(x/3)": (lambda x: torch.tan(x / 3), lambda t: mpmath.tan(t / 3), [-2.0, 1.0]),
    "exp(1/x)": (lambda x: torch.exp(1 / x), lambda t: mpmath.exp(1 / t), [0.7, -2.0]),
    "log(log)": (lambda x: x.log().log(), lambda t: mpmath.log(mpmath.log(t)), [2.0, 30.0]),
    "sqrt(sqrt)": (lambda x: x.sqrt().sqrt(), lambda t: mpmath.root(t, 4), [0.2, 7.0]),
    "log1p(square)": (lambda x: x.square().log1p(), lambda t: mpmath.log1p(t * t), [0.3, -2.0]),
    "acosh(cosh(x)+1)": (
        lambda x: torch.acosh(x.cosh() + 1),
        lambda t: mpmath.acosh(mpmath.cosh(t) + 1),
        [0.6, -1.5],
    ),
    "asinh(exp)": (lambda x: x.exp().asinh(), lambda t: mpmath.asinh(mpmath.exp(t)), [-1.0, 1.5]),
    "atanh(sin/2)": (
        lambda x: torch.atanh(x.sin() / 2),
        lambda t: mpmath.atanh(mpmath.sin(t) / 2),
        [0.6, 2.0],
    ),
    "silu(silu)": (
        lambda x: F.silu(F.silu(x)),
        lambda t: t * sigmoid(t) * sigmoid(t * sigmoid(t)),
        [-1.0, 2.0],
    ),
    "gelu(2x)": (lambda x: F.gelu(2 * x), lambda t: 2 * t * mpmath.ncdf(2 * t), [-0.7, 0.9]),
    "3**sin": (lambda x: 3 ** x.sin(), lambda t: 3 ** mpmath.sin(t), [0.6, 2.2]),
    "sin**x": (lambda x: x.sin() ** x, lambda t: mpmath.sin(t) ** t, [0.6, 2.2]),
    "cos(x)**-2": (lambda x: x.cos() ** -2, lambda t: mpmath.cos(t) ** -2, [0.6, 2.2]),
    "a loop": (
        lambda x: sum(x**k / math.factorial(k) for k in range(20)),
        lambda t: sum(t**k / mpmath.factorial(k) for k in range(20)),
        [-0.5, 1.5],
    ),
    "Newton's root": (
        lambda x: newton(x, torch.ones_like(x)),
        lambda t: newton(t, mpf(1)),
        [0.8, 2.0],
    ),
}


def newton(x, y):
    for _ in range(4):
        y = (y + x / y) / 2
    return y


def errors(names):
    """How far each derivative is from fifty digits, in units of what it may be off by."""
    for name, (function, precise, points) in names.items():
        got = derivatives(function, torch.tensor(points, dtype=torch.float64), 16)
        for point, column in zip(points, got.T.tolist(), strict=True):
            with mpmath.workdps(50):
                truth = mpmath.taylor(precise, mpf(point), 17, chop=point == 0)
                truth = [c * mpmath.factorial(k) for k, c in enumerate(truth)]
                for k, value in enumerate(column):
                    bound = 1e-12 if k <= 10 else 1e-9
                    allowed, slope = bound * abs(truth[k]), abs(point * truth[k + 1])
                    if abs(truth[k]) < 1e-9 * slope:
                        # It passes 0 here: what the last digits of x are worth is all there is.
                        allowed = 16 * EPS * slope
                    error = abs(value - truth[k]) if math.isfinite(value) else math.inf
                    yield error / (allowed + mpf(1e-290)), (name, point, k)


@each("name", every(3, RULES))
def test_seventeen_orders_of_each_rule_agree_with_fifty_digits(name):
    worst, where = max(errors({name: RULES[name]}))
    assert worst <= 1, where


def test_seventeen_orders_of_compositions_agree_with_fifty_digits():
    assert len(COMPOSITIONS) >= 30
    worst, where = max(errors({name: COMPOSITIONS[name] for name in every(3, COMPOSITIONS)}))
    assert worst <= 1, where


def test_where_a_singularity_cancels_the_error_is_what_the_last_digits_of_its_parts_are_worth():
    # sin(x) / x has no pole at 0, but 1 / x has: its huge derivatives cancel in the product.
    x = torch.tensor(2.0, dtype=torch.float64)
    got = derivatives(lambda x: x.sin() / x, x, 16).tolist()
    with mpmath.workdps(50):
        truth = mpmath.diffs(lambda t: mpmath.sin(t) / t, 2, 16)
        sine = [*mpmath.diffs(mpmath.sin, 2, 16)]
        inverse = [*mpmath.diffs(lambda t: 1 / t, 2, 16)]
        for k, wanted in enumerate(truth):
            terms = [mpmath.binomial(k, j) * sine[j] * inverse[k - j] for j in range(k + 1)]
            assert abs(got[k] - wanted) <= 16 * EPS * sum(abs(term) for term in terms)


@each("name", ["exp", "log", "sqrt", "sin", "tan", "sigmoid", "atan", "erf"])
def test_a_series_without_a_first_coefficient_is_that_of_a_function_of_the_square(name):
    x, d = torch.tensor([0.4, 0.7], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    function = getattr(series, name, None) or (lambda a: series.sincos(a)[0])
    got = series.filled(function([x, None, d.expand(2), None, None, None, None]))
    once = derivatives(getattr(torch, name), x, 3)
    wanted = torch.zeros(7, 2, dtype=torch.float64)
    for k in range(4):
        wanted[2 * k] = once[k] * d**k / math.factorial(k)
    torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-15)


def test_logit_near_one_has_every_derivative_that_its_type_can_hold():
    # The series of x / (1 - x), whose logarithm it is, is infinite from the fifth coefficient on.
    x = torch.tensor(1 - 2.0**-24)
    got = derivatives(torch.logit, x, 5)
    wanted = derivatives(torch.logit, x.double(), 5)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=0)


def test_logit_near_one_half_loses_no_digit_in_the_powers_of_a_quotient():
    x = torch.tensor(0.49999, dtype=torch.float64)
    got = derivatives(torch.logit, x, 16)[::2].tolist()  # which are 0 at one half
    with mpmath.workdps(50):
        truth = [*mpmath.diffs(lambda t: mpmath.log(t / (1 - t)), mpf(x.item()), 16)][::2]
        for k, wanted in zip(range(0, 17, 2), truth, strict=True):
            terms = 2 * mpmath.factorial(max(k - 1, 0)) * mpf(2) ** k
            assert abs(got[k // 2] - wanted) <= 4 * EPS * terms


@each("name", CURVES)
def test_the_formula_of_a_curve_agrees_with_its_recurrence(name):
    x = torch.tensor([-40.0, -2.0, -1e-9, 0.0, 0.5, 3.0, 19.0], dtype=torch.float64)
    expected = RECURRENCES[name]([x, torch.ones_like(x), None])
    torch.testing.assert_close(CURVES[name](x), expected, rtol=1e-15, atol=0)
