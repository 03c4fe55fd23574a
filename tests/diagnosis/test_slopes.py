"""The table of derivatives is what torch computes, at all points where something may go wrong."""

from itertools import product
from math import inf

import pytest
import torch
from torch.nn import functional as F

from companion import diagnose
from companion.diagnosis.slopes import SLOPES, saved_for
from companion.graph.saved import peek

special = torch.special
OPERATIONS = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Addcdiv": lambda x, y: torch.addcdiv(torch.zeros_like(x), x, y),
    "Asin": torch.asin,
    "Atan2": torch.atan2,
    "Atanh": torch.atanh,
    "Copysign": torch.copysign,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Digamma": torch.digamma,
    "Div": torch.div,
    "Erfinv": torch.erfinv,
    "Exp2": torch.exp2,
    "Fmod": torch.fmod,
    "Hypot": torch.hypot,
    "I0": torch.i0,
    "Igamma": lambda x, y: special.gammainc(x.detach(), y),
    "Igammac": lambda x, y: special.gammaincc(x.detach(), y),
    "Ldexp": torch.ldexp,
    "Lgamma": torch.lgamma,
    "Log": torch.log,
    "Log10": torch.log10,
    "Log1P": torch.log1p,
    "Log2": torch.log2,
    "Logaddexp": torch.logaddexp,
    "Logaddexp2": torch.logaddexp2,
    "Logit": torch.logit,
    "Logsumexp": lambda x: x[None].logsumexp(0),
    "Mish": F.mish,
    "Polygamma": lambda x: torch.polygamma(1, x),
    "Reciprocal": torch.reciprocal,
    "Remainder": torch.remainder,
    "Rsqrt": torch.rsqrt,
    "Silu": F.silu,
    "Sin": torch.sin,
    "Sinc": torch.sinc,
    "Sinh": torch.sinh,
    "SpecialEntr": special.entr,
    "SpecialErfcx": special.erfcx,
    "SpecialI1": special.i1,
    "SpecialLogNdtr": special.log_ndtr,
    "SpecialNdtri": special.ndtri,
    "Sqrt": torch.sqrt,
}
POINTS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0, 750.0, -750.0, 1e-170, inf, -inf]


def at_all_points(name):
    """One tensor of all points for an operation of one input; of all pairs for one of two."""
    inputs = 2 if len(SLOPES[name].by_input) > 1 else 1
    points = zip(*product(POINTS, repeat=inputs), strict=True)
    return [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in points]


def test_every_operation_of_the_table_is_tried():
    assert OPERATIONS.keys() == SLOPES.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_derivative_is_finite_where_that_of_torch_is_and_equal_there(name):
    inputs = at_all_points(name)
    output = OPERATIONS[name](*inputs)
    saved = peek(output.grad_fn).values
    output.sum().backward()
    derivatives = SLOPES[name].by_input[-len(inputs) :]
    for x, derivative in zip(inputs, derivatives, strict=True):
        if derivative is None:
            assert x.grad is None or x.grad.isfinite().all()
        else:
            slope = derivative(**saved_for(derivative, saved)).reshape(x.shape).detach()
            both = slope.isfinite()
            assert torch.equal(both, x.grad.isfinite())
            torch.testing.assert_close(slope[both], x.grad[both])


@pytest.mark.parametrize("hide", [lambda y: y, lambda y: torch.where(y.isfinite(), y, 0)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_gradient_that_is_not_finite_is_told_and_no_other(name, hide):
    of_both = [x.detach() for x in at_all_points(name)]
    for i in range(len(name) % 4, len(of_both[0]), 4 * len(of_both) ** 2 - 1):  # some of the points
        inputs = [x[i : i + 1].clone().requires_grad_() for x in of_both]
        loss = hide(OPERATIONS[name](*inputs)).sum()
        if loss.isfinite():
            told = {"nan-risk", "non-finite"} & {found.code for found in diagnose(loss, *inputs)}
            loss.backward()
            gradients = [x.grad for x in inputs if x.grad is not None]
            assert all(g.isfinite().all() for g in gradients) != bool(told), inputs
