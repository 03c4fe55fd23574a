"""Each thing that ``diagnose`` can tell, from the smallest program, beside what backward does."""

import copy
import functools
import gc
import os
import pickle
import re
import sys
import traceback
import types
import warnings
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torchgen
from pytest_codeblocks.main import extract_from_file
from torch import nn
from torch.autograd import Function
from torch.distributions import Bernoulli, Categorical, Gamma, Normal
from torch.utils.checkpoint import checkpoint
from torchgen.packaged.autograd.load_derivatives import load_derivatives

from companion import Diagnosis, Finding, Graph, diagnose, explain, watch
from companion.diagnosis.derivatives_yaml import (
    NOT_IMPLEMENTED,
    ZERO,
    ZERO_SLOTS,
    operation_of,
)
from companion.graph.saved import peek
from tests.cases import each
from tests.programs import Once, Square, Twice
from tests.slices import HAS_ANOTHER_TORCH, every, torchs_own

ROOT = Path(__file__).parents[2]


def leaf(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True)


def codes(diagnosis: Diagnosis) -> list[str]:
    return [found.code for found in diagnosis]


def really(output, *inputs) -> bool:
    """Whether backward runs and leaves a gradient in every input. Left-over ones do not count."""
    for tensor in inputs:
        if tensor.is_leaf or tensor.retains_grad:
            tensor.grad = None
    try:
        output.backward()
    except Exception:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a .grad that is no leaf's
        return all(tensor.grad is not None for tensor in inputs)


# ---- errors, each from the smallest program: what is said, and that it is so


def of_a_number():
    x = leaf(1, 2)
    return 3.0, [x], "not-a-tensor", "the output is a float, not a tensor"


def of_a_cut_graph():
    x = leaf(1, 2)
    message = (
        "the output does not require grad: its history was cut, or no tensor in it required grad"
    )
    return x.detach().sum(), [x], "no-graph", message


def of_inputs_that_require_nothing():
    x = torch.ones(2)
    message = "the output does not require grad: none of the inputs requires grad"
    return x.sum(), [x], "no-graph", message


def of_whole_numbers():
    x = leaf(1, 2)
    message = "the output does not require grad: it is torch.int64, and whole numbers have no "
    return x.argmax(), [x], "no-graph", message + "derivative"


def of_inference_mode():
    x = leaf(1, 2)
    with torch.inference_mode():
        y = x.sum()
    message = "the output does not require grad: it was made under torch.inference_mode()"
    return y, [x], "no-graph", message


def of_a_leaf():
    x = leaf(1, 2)
    message = "the output is itself a leaf: no other tensor can get a gradient from it"
    return x.detach().sum().requires_grad_(), [x], "leaf-output", message


def of_an_unused_input():
    x, w = leaf(1, 2), leaf(3)
    message = "input 1, of shape (1,), is not in the graph of the output: its .grad stays None"
    return x.sum(), [x, w], "unused-input", message


def of_a_new_tensor():
    w = leaf(1, 2)
    loss = (w * w).sum()
    w = w.detach().clone().requires_grad_()
    message = (
        "input 0, of shape (2,), is not in the graph of the output, but another leaf with the "
    )
    return loss, [w], "reassigned", message + "same values is: its .grad stays None"


def of_requires_grad_that_came_late():
    x, w = leaf(1, 2), torch.ones(2)
    loss = (x * w).sum()
    message = "input 0, of shape (2,), required no grad yet when it was used: its .grad stays None"
    return loss, [w.requires_grad_()], "late-requires-grad", message


def of_a_tensor_in_the_middle():
    x = leaf(1, 2)
    y = x * 2
    return y.sum(), [y], "not-a-leaf", "input 0, of shape (2,), is not a leaf: its .grad stays None"


def of_an_input_that_requires_nothing():
    x, w = leaf(1, 2), torch.ones(2)
    message = "input 0, of shape (2,), does not require grad, and the graph has it as a constant: "
    return (x * w).sum(), [w], "input-without-grad", message + "its .grad stays None"


def of_an_input_of_whole_numbers():
    x, i = leaf(1, 2), torch.tensor([0])
    message = "input 0, of shape (1,), is torch.int64 and cannot get a gradient"
    return x[i].sum(), [i], "integer-tensor", message


def of_a_graph_written_into_whole_numbers():
    x = leaf(1, 2)
    whole = torch.zeros(2, dtype=torch.long).fill_(x.sum())  # torch lets that pass
    message = "backward() will raise: the values of FillBackward3 are torch.int64"
    return (whole * x).sum(), [x], "integer-tensor", message


def of_an_input_of_inference_mode():
    x = leaf(1, 2)
    with torch.inference_mode():
        w = torch.ones(2)
    message = (
        "input 0, of shape (2,), was made under torch.inference_mode() and cannot get a gradient"
    )
    return x.sum(), [w], "inference-tensor", message


def of_several_elements():
    x = leaf(1, 2)
    message = "the output has shape (2,), and backward() needs one element"
    return x * x, [x], "non-scalar", message


def of_no_element():
    x = torch.ones(0, 3, requires_grad=True)
    message = "the output has shape (0, 3), and backward() needs one element"
    return x * x, [x], "non-scalar", message


def of_a_sparse_output():
    x = leaf(1)
    message = "the output is torch.sparse_coo, and backward() needs a dense tensor"
    return x.to_sparse() * 2, [x], "non-scalar", message


def of_a_complex_output():
    x = torch.ones((), dtype=torch.complex64, requires_grad=True)
    message = "the output is complex (torch.complex64), and backward() needs a real number"
    return x * x, [x], "complex-output", message


def of_a_second_pass():
    x = leaf(1, 2)
    loss = (x * x).exp().sum()
    loss.backward()
    message = "2 Nodes have freed what they saved: an earlier backward pass ran here"
    return loss, [x], "freed", message


def of_a_second_pass_through_a_custom_function():
    x = leaf(1, 2)
    loss = Square.apply(x).sum()
    loss.backward()
    message = "a Node has freed what it saved: an earlier backward pass ran here"
    return loss, [x], "freed", message


def of_a_change_in_place():
    x = leaf(1, 2)
    y = x.exp()
    loss = y.sum()
    y.add_(1)
    message = "backward() will raise: ExpBackward0 saved result, which was changed since"
    return loss, [x], "modified-in-place", message


def of_a_detach_in_place():
    x = leaf(1, 2)
    y = x * 2
    loss = (y * y).sum()
    y.detach_()
    message = "backward() will raise: MulBackward0 saved other and self, which was changed since"
    return loss, [x], "modified-in-place", message


def of_an_overwritten_leaf():
    x, w = leaf(1, 2), torch.ones(2)
    loss = (x * w.requires_grad_()).sum()
    w.requires_grad_(False)
    w.add_(x)
    message = "backward() will raise: a leaf was overwritten by a result"
    return loss, [x], "leaf-in-place", message


def of_a_view_whose_base_was_changed():
    x = leaf(1, 2)
    base = x * 1
    y, _ = base.unbind()
    base.mul_(2)
    with pytest.raises(RuntimeError, match="its base or another view") as caught:
        _ = y.grad_fn  # up to torch 2.12 it says UnbindBackward0, later Unbind
    message = str(caught.value).partition(". ")[0]
    return y, [x], "multi-view-in-place", f"backward() will raise: {message}"


def of_a_saved_view_whose_base_was_changed():
    x = leaf(1, 2)
    base = x * 1
    y, z = base.unbind()
    loss = y * z
    base.mul_(2)
    message = "backward() will raise: MulBackward0 saved a view whose base was changed"
    return loss, [x], "multi-view-in-place", message


def of_no_formula():
    a, x = leaf(1, 2), leaf(3, 4)
    message = "backward() will raise at a Node without a formula"
    return torch.special.gammainc(a, x).sum(), [a, x], "not-implemented", message


def of_no_second_derivative():
    q = torch.ones(1, 2, 4, 8, requires_grad=True)
    y = nn.functional.scaled_dot_product_attention(q, q, q)
    (g,) = torch.autograd.grad(y.sum(), q, create_graph=True)
    message = (
        "backward() will raise at a Node without a formula for the derivative of "
        "ScaledDotProductFlashAttentionForCpuBackward0, a fused attention"
    )
    return g.sum(), [q], "not-implemented", message


def of_a_second_derivative_of_once():
    x = leaf(1, 2)
    (g,) = torch.autograd.grad((Once.apply(x) * x).sum(), x, create_graph=True)
    message = "the pass will raise at the end of a backward that was not recorded"
    return g.sum(), [x], "once-differentiable", message


PROGRAMS = [value for name, value in list(globals().items()) if name.startswith("of_")]


@each("program", PROGRAMS)
def test_an_error_is_told_with_its_code_and_backward_fails(program):
    output, inputs, code, message = program()
    diagnosis = diagnose(output, *inputs)
    assert not diagnosis.ok
    (found,) = [finding for finding in diagnosis if finding.code == code]
    assert found.severity == "error"
    assert found.message == message
    assert not really(output, *inputs)


@each("program", PROGRAMS)
def test_a_finding_that_names_a_node_has_the_node_of_the_graph(program):
    output, inputs, code, _ = program()
    (found,) = [finding for finding in diagnose(output, *inputs) if finding.code == code]
    if found.node is None:
        assert found.where == ""
    else:
        name = Graph.of(output).nodes[found.node].name
        assert found.where.startswith(f"node {found.node}, {name}")


def test_programs_without_a_fault_have_no_error_and_run():
    x, w = leaf(1, 2), leaf(3, 4)
    assert diagnose((x * w).exp().sum(), x, w).ok and really((x * w).exp().sum(), x, w)
    y = x * 2
    y.retain_grad()
    assert diagnose(y.sum(), x, y).ok and really(y.sum(), x, y)
    z = leaf(1).sum()
    z.retain_grad()
    assert diagnose(z, z).ok and really(z, z)
    scalar = torch.ones((), requires_grad=True)
    assert diagnose(scalar, scalar).ok and really(scalar, scalar)


def test_a_leaf_alone_is_no_error_where_nothing_was_asked_for():
    diagnosis = diagnose(torch.ones((), requires_grad=True))
    assert diagnosis.ok
    assert codes(diagnosis) == ["leaf-output"] and diagnosis[0].severity == "warning"


# ---- warnings and infos


def test_a_gradient_that_is_there_is_told_as_one_that_is_added_to():
    x = leaf(1, 2)
    x.grad = torch.ones(2)
    (found,) = diagnose(x.sum(), x)
    assert (found.code, found.severity) == ("accumulates", "warning")
    assert found.message == "x has a .grad already: backward() adds to it"


def test_a_gradient_of_zeros_is_nothing_to_add_to():
    x = leaf(1, 2)
    x.sum().backward()
    x.grad.zero_()
    assert not diagnose(x.sum(), x)
    x.grad[0] = float("nan")
    assert [found.code for found in diagnose(x.sum(), x)] == ["accumulates"]
    x.grad = torch.zeros(2).to_sparse()
    assert [found.code for found in diagnose(x.sum(), x)] == ["accumulates"]  # not looked at


def test_hooks_on_an_input_are_counted():
    x = leaf(1, 2)
    x.register_hook(lambda gradient: gradient)
    x.register_post_accumulate_grad_hook(lambda tensor: None)
    (found,) = diagnose(x.sum(), x)
    assert (found.code, found.severity) == ("hook", "info")
    assert found.message == "x has 2 hooks that may change its gradient"


def test_a_custom_function_is_told_once():
    x = leaf(1, 2)
    (found,) = diagnose(Square.apply(Square.apply(x)).sum(), x)
    assert (found.code, found.severity) == ("custom-gradients", "info")
    assert found.message == (
        "SquareBackward is a custom Function, whose backward cannot be checked unrun"
    )


def test_half_precision_anywhere_in_the_graph_is_told_once():
    x = leaf(1, 2)
    (found,) = diagnose(x.half().exp().float().sum(), x)
    assert (found.code, found.severity) == ("half-precision", "info")
    assert found.message == "gradients pass here as torch.float16"
    assert found.where == "node 2, ExpBackward0"


def test_a_gradient_with_a_graph_is_told_as_a_cycle():
    x = leaf(1, 2)
    (x.grad,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    diagnosis = diagnose(x.sum(), x)
    assert codes(diagnosis) == ["accumulates", "reference-cycle"]
    assert diagnosis[1].severity == "warning"
    assert diagnosis[1].message == (
        "the .grad of x has a graph, which keeps all that is in it alive"
    )
    x.grad = None  # or it would be one


def test_a_complex_input_is_told_which_gradient_it_gets():
    z = torch.tensor([1 + 1j], requires_grad=True)
    (found,) = diagnose((z * z).real.sum(), z)
    assert (found.code, found.severity) == ("complex-conjugate", "info")
    assert found.message == "z is complex: its gradient is that of steepest ascent"
    assert really((z * z).real.sum(), z)
    torch.testing.assert_close(z.grad, (2 * z).conj().detach())


def test_a_leaf_that_required_grad_too_late_in_one_place_is_a_warning():
    x, w = leaf(1, 2), torch.ones(2)
    y = x * w
    loss = (y * w.requires_grad_()).sum()
    (found,) = diagnose(loss, w)
    assert (found.code, found.severity) == ("late-requires-grad", "warning")
    assert found.message == "w counts as a constant in one place, where it required no grad yet"
    assert really(loss, w)
    torch.testing.assert_close(w.grad, x.detach())


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_a_number_has_the_dimension_that_an_extremum_is_taken_along(name):
    x = leaf(1, 2)
    assert diagnose(getattr(x.sum(), name)(0), x) == ()
    assert diagnose(getattr(x.sum(), name)(), x).ok


WRITES = {
    "index_put": lambda x, i: torch.zeros(3, device=x.device).index_put((i,), x),
    "scatter": lambda x, i: torch.zeros(3, device=x.device).scatter(0, i, x),
}


@pytest.mark.parametrize("how", WRITES)
def test_indices_that_repeat_are_told_where_one_value_stays(how):
    x = leaf(1, 2, 3)
    (found,) = diagnose(WRITES[how](x, torch.tensor([0, 0, 1])).sum(), x)
    assert (found.code, found.severity) == ("duplicate-indices", "warning")
    assert found.message == "the indices repeat once, and of several values one stays"
    loss = WRITES[how](x, torch.tensor([0, 0, 1])).sum()
    assert really(loss, x) and x.grad.sum() == 3 and loss < x.sum()  # a gradient for each
    x.grad = None
    assert codes(diagnose(WRITES[how](x, torch.tensor([0, 2, 1])).sum(), x)) == []
    if how == "index_put":  # scatter takes no negative one
        assert codes(diagnose(WRITES[how](x, torch.tensor([0, 2, -1])).sum(), x)) == [found.code]
        grid = torch.zeros(2, 3).index_put((torch.tensor([-1, 1, 1]), torch.tensor([0, -3, -1])), x)
        assert diagnose(grid.sum(), x)[0].message == found.message
        rows = torch.zeros(2, 3)
        rows[:, torch.tensor([0, 1, -1])] = x
        assert codes(diagnose(rows.sum(), x)) == []
    meta = torch.ones(3, device="meta", requires_grad=True)
    index = torch.zeros(3, dtype=torch.long, device="meta")
    assert codes(diagnose(WRITES[how](meta, index).sum(), meta)) == []


def test_a_mask_and_accumulation_write_each_value():
    x, i = leaf(1, 2), torch.tensor([0, 0])
    assert codes(diagnose(torch.zeros(3).index_put((i,), x, accumulate=True).sum(), x)) == []
    y = torch.zeros(3)
    y[torch.tensor([True, False, True])] = x
    assert codes(diagnose(y.sum(), x)) == []


@each("dim", [0, -2, (0,), ()])
def test_elements_that_tie_along_a_dimension_are_counted(dim):
    x = torch.tensor([[1.0, 2.0], [1.0, 5.0]], requires_grad=True)
    ties = [found.message for found in diagnose(x.amin(dim).sum(), x)]
    assert ties == ["2 elements tie: those of one result share its gradient"]


def test_an_infinite_output_and_an_infinite_factor_are_warnings():
    x = leaf(1, 2)
    (found,) = diagnose((x + torch.inf).sum(), x)
    assert found.message == "the output itself is infinite or NaN"
    c = torch.tensor([torch.inf, 1.0])
    (found,) = diagnose((x * c).tanh().sum(), x)
    assert (found.code, found.severity) == ("nan-risk", "warning")
    assert found.message.startswith(
        "MulBackward0 saved other (c), which has infinite or NaN values,"
    )


def test_infinities_that_mask_are_not_flagged():
    x = torch.randn(4, requires_grad=True)
    masked = x.masked_fill(torch.tensor([False, True, False, False]), -torch.inf)
    loss = masked.softmax(0)[0] + masked.log_softmax(0)[0] + masked.max() + masked.logsumexp(0)
    loss = loss + torch.distributions.Categorical(logits=masked).log_prob(torch.tensor(0))
    q = torch.randn(1, 1, 4, 8)
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    q = q * x[0]
    loss = loss + nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask).sum()
    logs = torch.randn(6, 1, 4, requires_grad=True).log_softmax(-1)
    lengths = torch.tensor([6]), torch.tensor([2])
    loss = loss + nn.functional.ctc_loss(logs, torch.tensor([[1, 2]]), *lengths)
    assert codes(diagnose(loss, x)) == []
    assert really(loss, x) and x.grad.isfinite().all()


def test_a_saved_nan_is_flagged_wherever_it_is():
    x = torch.tensor([torch.nan, 1.0], requires_grad=True)
    messages = [found.message for found in diagnose(x.reshape(2).max() * 0, x)]
    of_output = "the output itself is infinite or NaN"
    assert messages == ["x itself has infinite or NaN values", of_output]
    y = leaf(1, 2) + torch.tensor([torch.nan, 0])  # which add does not save
    messages = [found.message for found in diagnose(y.max() * 0)]
    assert messages == ["MaxBackward1 saved result, which has NaN values", of_output]


def test_a_relu_without_any_positive_output_is_dead():
    x = leaf(-1, 0)
    (found,) = diagnose(x.relu().sum(), x)
    assert (found.code, found.severity) == ("dead-relu", "warning")
    assert found.message == "every output of relu is 0"
    assert really(x.relu().sum(), x) and not x.grad.any()
    assert codes(diagnose(leaf(-1, 1).relu().sum())) == []


@pytest.mark.parametrize("f", [torch.max, torch.min])
def test_elements_that_tie_share_the_gradient(f):
    x = leaf(2, 2, 2)
    (found,) = diagnose(f(x), x)
    assert (found.code, found.severity) == ("ties", "info")
    assert found.message == "3 elements tie: each gets 1/3 of the gradient"
    assert really(f(x), x)
    torch.testing.assert_close(x.grad, torch.full((3,), 1 / 3))
    assert codes(diagnose(f(leaf(1, 2, 3)))) == []


@pytest.mark.parametrize("f", [torch.maximum, torch.minimum])
def test_pairs_that_tie_share_the_gradient(f):
    x, y = leaf(1, 2, 3), leaf(1, 2, 5)
    (found,) = diagnose(f(x, y).sum(), x)
    assert found.message == "2 pairs tie: each of the two gets half of the gradient"
    assert really(f(x, y).sum(), x) and x.grad[:2].tolist() == [0.5, 0.5]
    assert codes(diagnose(f(leaf(1), leaf(2)).sum())) == []


# The gradient is infinite or NaN at the first point, and finite at the second.
RISKS = [
    (torch.acos, 1, 0.5, "acos at 1 or -1"),
    (torch.acos, -1, 0.5, "acos at 1 or -1"),
    (torch.asin, -1, 0.5, "asin at 1 or -1"),
    (torch.acosh, 1, 1.5, "acosh at 1"),
    (torch.atanh, 1, 0.5, "atanh at 1 or -1"),
    (torch.erfinv, 1, 0.5, "erfinv at 1 or -1"),
    (torch.log, 0, 0.5, "log at 0"),
    (torch.log2, 0, 0.5, "log2 at 0"),
    (torch.log10, 0, 0.5, "log10 at 0"),
    (torch.log1p, -1, 0, "log1p at -1"),
    (torch.sqrt, 0, 1e-3, "sqrt at 0"),
    (torch.rsqrt, 0, 1e-3, "rsqrt at 0"),
    (torch.reciprocal, 0, 1e-3, "division by 0"),
    (lambda x: 1 / x, 0, 1e-3, "division by 0"),
    (lambda x: x / (x - 1), 1, 0, "division by 0"),
    (lambda x: x**0.5, 0, 1e-3, "x ** 0.5 at 0"),
    (lambda x: x ** torch.tensor(0.5), 0, 1e-3, "x ** an exponent below 1 at 0"),
    (lambda x: torch.special.xlogy(torch.tensor(2.0), x), 0, 1e-3, "xlogy at (x, 0)"),
    (lambda x: x**-1, 0, 1e-3, "x ** -1 at 0"),
    (lambda x: 1.0 / x.expand(2)[:1], 0, 1e-3, "division by 0"),
    (lambda x: torch.addcdiv(ONE, ONE, x), 0, 1e-3, "addcdiv, a division by 0"),
    (torch.digamma, 0, 0.5, "digamma at 0"),
    (torch.lgamma, 0, 0.5, "lgamma at 0, -1, -2, ..."),
    (lambda x: torch.polygamma(1, x), 0, 0.5, "polygamma at 0, -1, -2, ..."),
    (torch.logit, 1, 0.5, "logit at 0 or 1"),
    (torch.special.ndtri, 0, 0.5, "ndtri at 0 or 1"),
    (torch.special.entr, 0, 1e-3, "entr at 0"),
    (lambda x: torch.special.xlog1py(ONE, x), -1, 0, "xlog1py at (x, -1)"),
    (lambda x: torch.fmod(ONE, x), 0, 0.7, "division by 0"),
    (lambda x: torch.remainder(ONE, x), 0, 0.7, "division by 0"),
    (lambda x: torch.linalg.slogdet(x[:, None])[1], 0, 1, "slogdet of a singular matrix"),
]
ONE, F = torch.ones(1), nn.functional
# The same where what is given is NaN at once.
NANS = [
    (torch.lgamma, -2, 0.5, "lgamma at 0, -1, -2, ..."),
    (lambda x: torch.special.gammainc(ONE, x), 0, 1, "gammainc at 0"),
    (lambda x: torch.hypot(x, x), 0, 1, "hypot at (0, 0)"),
    (lambda x: x.logsumexp(0), -torch.inf, 0, "logsumexp of nothing but -inf"),
    (lambda x: x.logcumsumexp(0), -torch.inf, 0, "logcumsumexp of nothing but -inf"),
    (lambda x: torch.logaddexp(x, x), -torch.inf, 0, "logaddexp of -inf and -inf"),
    (lambda x: torch.logaddexp2(x, x), -torch.inf, 0, "logaddexp2 of -inf and -inf"),
    (lambda x: ONE.neg() ** x, 2, None, "x ** y by y, of a negative x"),
    (lambda x: x.std(), 3, None, "std or var of one element, with correction=1"),
    (lambda x: x.var(0), 3, None, "std or var of one element, with correction=1"),
    (lambda x: torch.std_mean(x)[0], 3, None, "std or var of one element, with correction=1"),
    (lambda x: torch.var_mean(x, -1)[0], 3, None, "std or var of one element, with correction=1"),
]


@each(("f", "at", "near", "point"), RISKS)
def test_a_risk_of_nan_is_told_where_the_gradient_is_not_finite_and_nowhere_else(
    f, at, near, point
):
    x = leaf(at)
    risks = [found for found in diagnose(f(x).sum(), x) if found.code == "nan-risk"]
    assert [found.message for found in risks] == [f"{point}: the gradient is infinite"]
    assert risks[0].severity == "warning"
    assert really(f(x).sum(), x) and not x.grad.isfinite().all()
    x = leaf(near)
    assert "nan-risk" not in codes(diagnose(f(x).sum(), x))
    assert really(f(x).sum(), x) and x.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@each(("f", "at", "near", "point"), NANS)
def test_a_formula_that_gives_nan_at_a_point_is_told_there_alone(f, at, near, point):
    x = leaf(at)
    risks = [found for found in diagnose(f(x).sum(), x) if found.code == "nan-risk"]
    assert [found.message for found in risks] == [f"{point}: the gradient is NaN"]
    assert really(f(x).sum(), x) and x.grad.isnan().all()
    if near is not None:
        x = leaf(near)
        assert "nan-risk" not in codes(diagnose(f(x).sum(), x))
        assert really(f(x).sum(), x) and x.grad.isfinite().all()


# Formulas that are singular at what is 0, but not by the argument that requires grad.
BY_ANOTHER_ARGUMENT = [
    (lambda x, zero: zero**x, (0.5, 0.3)),
    (lambda x, zero: torch.xlogy(x, zero), (0, 0)),
    (lambda x, zero: torch.xlogy(x, 0), (0, 0)),
    (lambda x, zero: torch.special.xlog1py(x, zero - 1), (0, 0)),
    (lambda x, zero: torch.special.xlog1py(x, -1), (0, 0)),
    (lambda x, zero: torch.fmod(x, zero + 1), (0, 0)),
    (lambda x, zero: torch.addcdiv(x, zero, zero).where(zero > 0, x), (1, 2)),
    (lambda x, zero: torch.var_mean(x[:1])[1], (1, 2)),
]


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@each(("f", "at"), BY_ANOTHER_ARGUMENT)
def test_a_formula_is_no_risk_by_an_argument_that_it_is_finite_by(f, at):
    x = leaf(*at)
    loss = f(x, torch.zeros(2)).sum()
    assert "nan-risk" not in codes(diagnose(loss, x))
    assert really(loss, x) and x.grad.isfinite().all()


@each(
    ("f", "at", "gives"),
    [
        (lambda x: torch.xlogy(x, x), 0, torch.nan),
        (lambda x: torch.xlogy(0.0, x), 0, torch.nan),
        (lambda x: torch.special.xlog1py(torch.zeros(1), x), -1, torch.nan),
        (lambda x: torch.xlogy(x, torch.zeros(1)), 1, -torch.inf),
        (lambda x: torch.xlogy(x, 0.0), 1, -torch.inf),
        (lambda x: torch.special.xlog1py(x, -1), 1, -torch.inf),
        (lambda x: torch.xlogy(ONE, x), 1e-39, torch.inf),
    ],
)
def test_of_x_times_a_logarithm_the_risk_has_the_gradient_in_words(f, at, gives):
    x = leaf(at)
    (risk,) = [found for found in diagnose(f(x).sum(), x) if found.code == "nan-risk"]
    assert risk.message.endswith("is NaN" if gives is torch.nan else "the gradient is infinite")
    assert really(f(x).sum(), x)
    torch.testing.assert_close(x.grad, torch.tensor([gives]), equal_nan=True)


@each("shape", [(2, 2), (3, 2), (2, 3)])
@each(
    "factor",
    [
        lambda x: torch.linalg.qr(x)[0],
        lambda x: torch.linalg.lu(x)[2],
        lambda x: torch.linalg.lu_factor_ex(x)[0],
    ],
)
def test_a_factor_with_a_zero_on_its_diagonal_is_told(factor, shape):
    for matrix in (torch.ones(shape), torch.eye(*shape)):
        x = matrix.requires_grad_()
        loss = factor(x).pow(3).sum()
        told = "nan-risk" in codes(diagnose(loss, x))
        (gradient,) = torch.autograd.grad(loss, x)
        assert told == (not gradient.isfinite().all()) == bool((matrix == 1).all())


@pytest.mark.parametrize("function", [torch.xlogy, torch.special.xlog1py])
def test_zero_times_a_logarithm_that_is_infinite_has_an_infinite_gradient(function):
    x = leaf(0)
    loss = function(x, torch.tensor(torch.inf)).sum()
    assert codes(diagnose(loss, x)) == ["nan-risk"] and loss == 0
    assert really(loss, x) and x.grad.isinf().all()


@each(
    "f",
    [
        lambda x: torch.cdist(x[None], x[None].detach()),
        lambda x: torch.nn.functional.pdist(torch.stack([x, x])),
        lambda x: x.norm(),
        lambda x: torch.linalg.vector_norm(x, 3),
        lambda x: torch.dist(x, x.detach()),
        lambda x: torch.atan2(x, x),
        lambda x: x.std(),
        lambda x: x[:1].std(correction=0),
        lambda x: torch.logit(x, 1e-6),
        lambda x: torch.div(ONE, x, rounding_mode="floor"),
        lambda x: torch.fmod(x, ONE),
        lambda x: x.prod(),
    ],
)
def test_what_torch_takes_care_of_at_zero_is_no_risk(f):
    x = leaf(0, 0)
    assert "nan-risk" not in codes(diagnose(f(x).where(ONE > 0, ONE).sum(), x))
    x.grad = None
    assert really(f(x).sum(), x) and x.grad.isfinite().all()


def test_an_infinity_that_is_masked_is_told_with_its_mask_and_the_cure_of_both():
    x = leaf(-1, 250)
    with watch() as watched:
        y = x.exp() - 1
        loss = torch.where(x < 0, y, x).sum()
    for found, place in (
        (diagnose(loss, x, watch=watched)[0], "where() at "),
        (diagnose(loss, x)[0], "something after it hides"),
    ):
        assert found.code == "nan-risk" and place in found.message
        assert found.message.startswith("exp gave infinities")
        assert "mask the input of the operation" in found.cure
    assert really(loss, x) and x.grad.isnan().any()


def test_what_reached_the_output_is_told_with_where_it_was_born():
    x = leaf(1, 1000)
    with watch() as watched:
        y = x.exp()
        loss = (y / (1 + y)).sum()
    found = diagnose(loss, x, watch=watched)
    (first,) = [f for f in found if f.message.startswith("the output itself")]
    assert first.code == "non-finite" and first.source.text == "x.exp()"
    assert ": exp() at " in first.message and "div() at " in first.message
    assert "made NaN of it" in first.message


def test_of_many_nodes_with_nan_the_deepest_alone_is_told():
    x = leaf(1, 1000)
    loss = x.exp()
    for _ in range(20):
        loss = loss * x
    found = [f for f in diagnose(loss.sum(), x) if f.message.startswith(("exp", "Mul"))]
    assert [f.message[:3] for f in found] == ["exp"]


@each(
    "f",
    [
        lambda y: y,
        torch.abs,
        torch.relu,
        lambda y: y.clamp(0, 5),
        lambda y: y.clamp_min(0),
        lambda y: torch.maximum(y, torch.zeros(2)),
        F.leaky_relu,
        F.hardtanh,
        F.hardswish,
        F.hardsigmoid,
        F.softshrink,
        F.hardshrink,
    ],
)
def test_nan_that_a_formula_compares_alone_is_no_risk_to_the_gradient(f):
    x = leaf(-1, 2)
    loss = f(x.log()).nan_to_num().sum()
    assert "nan-risk" not in codes(diagnose(loss, x))
    assert really(loss, x) and x.grad.isfinite().all()


@each(
    ("f", "outside", "inside"),
    [
        (torch.acos, 2, 0.5),
        (torch.asin, -2, 0.5),
        (torch.acosh, 0.5, 2),
        (torch.erfinv, 2, 0.5),
        (torch.logit, -1, 0.5),
        (torch.sqrt, -1, 2),
        (lambda x: x**0.5, -1, 2),
        (lambda x: x ** torch.tensor(1.5), -1, 2),
    ],
)
def test_nan_of_a_formula_outside_of_its_domain_is_a_risk_although_it_is_hidden(f, outside, inside):
    for at in (outside, inside):
        x = leaf(at)
        loss = f(x).nan_to_num().sum()
        assert ("nan-risk" in codes(diagnose(loss, x))) == (at == outside)
        assert really(loss, x) and x.grad.isfinite().all() == (at == inside)


def test_a_softmax_with_nothing_to_go_over_is_told_with_its_own_cure():
    x = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    additive = torch.zeros(2, 3).masked_fill(mask, -torch.inf)
    loss = (x + additive).softmax(-1)[0].pow(2).sum()
    (found,) = diagnose(loss, x)
    assert found.code == "nan-risk" and found.message.startswith("softmax gave NaN in 1 row:")
    assert "leave at least one element of each row unmasked" in found.cure


MASK = torch.tensor([[True, True], [False, True]])
NEAR = torch.tensor([[True, False], [False, True]])  # does not have all that is NaN


@each(
    ("f", "is_spoilt"),
    [
        (lambda x: x.masked_fill(MASK, -torch.inf).softmax(-1), False),
        (lambda x: x.masked_fill(MASK, -torch.inf).log_softmax(-1), False),
        (lambda x: torch.where(MASK, -torch.inf, x).softmax(-1), False),
        (lambda x: torch.where(~MASK, x, -torch.inf).softmax(-1), False),
        (lambda x: x.masked_fill(MASK, 0).sqrt(), False),
        (lambda x: (x.masked_fill(MASK, -torch.inf) / 2 + 1).softmax(-1), False),
        (lambda x: x.T.masked_fill(MASK.T, -torch.inf).T.reshape(2, 2).softmax(-1), False),
        (lambda x: x[None].masked_fill(MASK, -torch.inf).squeeze(0).mT.softmax(0).mT, False),
        (lambda x: x.masked_fill(MASK, -torch.inf).logsumexp(-1, keepdim=True), False),
        (lambda x: x.masked_fill(MASK, 0).digamma(), False),
        (lambda x: (x.masked_fill(MASK, -2) * 1).lgamma(), False),
        (lambda x: x.masked_fill(MASK, 0) ** 0.5, False),
        (lambda x: 1 / x.masked_fill(MASK, 0), False),
        (lambda x: (x - 9).clamp(min=0).sqrt(), False),
        (lambda x: (x - 9).relu().log(), False),
        (lambda x: (x + 9).clamp(-1, 1).acos(), False),
        (lambda x: (x - 1).relu().mul(x).sqrt(), True),
        (lambda x: (x.masked_fill(MASK, -torch.inf) + x).softmax(-1), True),
        (lambda x: (x.masked_fill(MASK, 0) / x).pow(0.5), True),
        (lambda x: x.masked_fill(MASK, 1000).exp(), False),
        (lambda x: (x + torch.zeros(2, 2).masked_fill(MASK, -torch.inf)).softmax(-1), True),
        (
            lambda x: (
                (x - torch.tensor([[torch.inf], [0.0]])).masked_fill(NEAR, -torch.inf).softmax(-1)
            ),
            True,
        ),
        (lambda x: torch.where(MASK, (x * 0).log(), x).softmax(-1), True),
        (lambda x: torch.zeros(2, 2).masked_fill(MASK, x[0, 0] * 0).rsqrt(), True),
    ],
)
@each("hide", [lambda y: y.masked_fill(MASK, 0), torch.nan_to_num])
def test_nan_that_the_fill_before_overwrites_in_the_gradient_is_no_risk(f, is_spoilt, hide):
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = hide(f(x)).clamp(-9, 9).pow(2).sum()
    assert ("nan-risk" in codes(diagnose(loss, x))) == is_spoilt
    assert really(loss, x) and x.grad.isfinite().all() != is_spoilt


def test_an_infinity_meant_as_a_mask_is_no_finding_with_a_watch_either():
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    with watch() as watched:
        masked = x.masked_fill(torch.eye(2, 3).bool(), -torch.inf)
        loss = masked.softmax(-1).pow(2).sum()
    assert watched.first_nonfinite.name == "masked_fill"
    assert codes(diagnose(loss, x, watch=watched)) == []


# Functions whose gradient at the first point is exactly zero, a point where it is not, and why.
FLAT = [
    (lambda x: x.clamp(0, 1), (2, -3), (2, 0.5), "outside of the bounds of clamp"),
    (lambda x: x.clamp(max=ONE), (2, 3), (2, 0.5), "outside of the bounds of clamp"),
    (lambda x: x.clamp_max(1), (2, 3), (2, 0.5), "above the bound of clamp"),
    (lambda x: x.clamp_min(0), (-2, -3), (-2, 1), "below the bound of clamp"),
    (F.hardtanh, (2, -1), (2, 0.5), "outside of the bounds of hardtanh"),
    (F.relu6, (7, 0), (7, 1), "outside of the bounds of hardtanh"),
    (F.hardsigmoid, (3, -4), (3, 0), "hardsigmoid is at 0 or 1"),
    (F.hardswish, (-4, -5), (-4, -2), "hardswish of values below -3"),
    (F.hardshrink, (0.1, -0.1), (0.1, 1), "hardshrink of small values"),
    (F.softshrink, (0.1, -0.1), (0.1, 1), "softshrink of small values"),
    (lambda x: F.threshold(x, 1, 5), (0, 1), (0, 2), "below the threshold"),
    (torch.sigmoid, (200, -200), (200, 1), "sigmoid is rounded"),
    (torch.tanh, (50, -50), (50, 1), "tanh is rounded"),
    (lambda x: x.softmax(0), (500, -500), (1, 2), "softmax is rounded"),
    (lambda x: x[:, None].softmax(1), (1, 2), None, "softmax over one element"),
    (lambda x: x[:, None].log_softmax(-1), (1, 2), None, "logsoftmax over one element"),
    (lambda x: F.layer_norm(x[:, None], (1,)), (1, 2), None, "layernorm over one element"),
    (lambda x: x.masked_fill(ONE > 0, 3.0), (1, 2), None, "masked_fill fills every element"),
    (lambda x: torch.where(ONE > 0, ONE, x), (1, 2), None, "takes no element"),
    (lambda x: torch.where(ONE < 0, x, ONE), (1, 2), None, "takes no element"),
    (F.elu, (-800, -900), (-800, 1), "slope is rounded to 0"),
    (F.celu, (-800, -900), (-800, 1), "slope is rounded to 0"),
    (F.selu, (-800, -900), (-800, 1), "slope is rounded to 0"),
    (F.gelu, (-800, -900), (-800, 1), "gelu of values so low"),
    (F.silu, (-800, -900), (-800, 1), "silu of values so low"),
    (F.mish, (-800, -900), (-800, 1), "mish of values so low"),
    (F.softplus, (-800, -900), (-800, 1), "softplus of values so low"),
    (F.logsigmoid, (800, 900), (800, 1), "logsigmoid of values so high"),
    (torch.exp, (-800, -900), (-800, 1), "exp is rounded to 0"),
    (torch.exp2, (-800, -900), (-800, 1), "exp2 is rounded to 0"),
    (torch.expm1, (-800, -900), (-800, 1), "expm1 is rounded to -1"),
    (torch.erf, (-800, 900), (-800, 1), "erf is rounded to -1 or 1"),
    (torch.erfc, (-800, 900), (-800, 1), "erfc is rounded to 0 or 2"),
    (lambda x: torch.logit(x, 0.1), (0, 1), (0, 0.5), "outside of eps to 1 - eps"),
    (lambda x: torch.maximum(x, ONE), (0, -1), (0, 2), "none of its values is chosen"),
    (lambda x: torch.fmin(ONE, x), (3, 2), (3, 0), "none of its values is chosen"),
    (lambda x: torch.clamp_min(ONE, x), (0, -1), (0, 2), "no value is at this bound"),
    (
        lambda x: F.grid_sample(ONE.expand(1, 1, 2, 2), x.view(1, 1, 1, 2), align_corners=False),
        (9, 9),
        (0.1, 0.9),
        "outside of the image",
    ),
    (lambda x: x.index_fill(0, torch.arange(2), 3.0), (1, 2), None, "is overwritten"),
    (lambda x: x.index_copy(0, torch.arange(2), ONE.expand(2)), (1, 2), None, "is overwritten"),
    (lambda x: torch.slice_scatter(x, ONE.expand(2)), (1, 2), None, "is overwritten"),
    (lambda x: (x + ONE) - x, (1, 2), None, "what is added is subtracted again"),
    (lambda x: (ONE + x) - x, (1, 2), None, "what is added is subtracted again"),
]


DRAWN = [
    (lambda x: torch.normal(x, 1.0), lambda x: x + 1.0 * torch.randn_like(x)),
    (lambda x: torch.normal(0.0, x), lambda x: 0.0 + x * torch.randn_like(x)),
    (torch.bernoulli, lambda x: x + (torch.bernoulli(x) - x).detach()),
    (torch.poisson, lambda x: torch.distributions.Poisson(x).log_prob(torch.tensor([2.0, 1.0]))),
]


@each(("wrong", "cured"), DRAWN)
def test_what_is_drawn_is_told_with_a_cure_that_gives_a_gradient(wrong, cured):
    x = leaf(0.25, 0.5)
    loss = wrong(x).sum()
    (found,) = diagnose(loss, x)
    assert found.code == "zero-derivative" and found.cause.startswith("what is drawn is a constant")
    assert "rsample()" in found.cure and "log_prob(sample) * reward" in found.cure
    assert really(loss, x) and not x.grad.any()
    x.grad, loss = None, cured(x).sum()
    assert codes(diagnose(loss, x)) == []
    assert really(loss, x) and x.grad.all()


@each(("f", "at", "near", "why"), FLAT)
def test_a_gradient_that_is_exactly_zero_is_told_with_its_reason(f, at, near, why):
    x, c = leaf(*at), torch.tensor([1.0, 3.0])
    loss = (f(x).squeeze() * c).sum()
    found = diagnose(loss, x)
    assert codes(found) == ["zero-derivative"] and found[0].severity == "warning"
    assert f"{why})" in found[0].message or f"{why} " in found[0].message
    assert why in diagnose(loss)[0].message  # of all leaves
    assert really(loss, x) and not x.grad.any()
    x.grad = None
    assert codes(diagnose(f(x).sum() + x.sum(), x)) == []
    if near is not None:
        x = leaf(*near)
        loss = (f(x).squeeze() * c).sum()
        assert codes(diagnose(loss, x)) == []
        assert really(loss, x) and x.grad.any()


@each(
    "f",
    [
        lambda x: x.clamp(0, 1),
        lambda x: x.clamp(0, 0),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp_min(0),
        lambda x: x.clamp_max(1),
        lambda x: x.clamp(0 * ONE, ONE),
        lambda x: x.clamp(max=ONE),
        lambda x: F.hardtanh(x, 0, 1),
        F.relu6,
    ],
)
@each("at", [(0, 0), (1, 1), (0, 1)])
def test_at_a_bound_a_gradient_is_told_to_be_zero_just_if_it_is(f, at):
    x = leaf(*at)
    loss = (f(x) * torch.tensor([1.0, 3.0])).sum()
    told = codes(diagnose(loss, x))
    loss.backward()
    assert told == ([] if x.grad.any() else ["zero-derivative"])


@each(
    "f",
    [
        lambda x: (x + ONE) - 2 * x,
        lambda x: torch.add(x, x, alpha=2) - x,
        lambda x: (x + x) - x,
        lambda x: (lambda y: (y - x) * y)(x + ONE),
        lambda x: x[:1].expand(2) + ONE - x,
    ],
)
def test_what_is_subtracted_again_only_in_part_is_no_zero(f):
    x = leaf(1, 2)
    loss = (f(x) * torch.tensor([1.0, 3.0])).sum()
    assert codes(diagnose(loss, x)) == []
    assert really(loss, x) and x.grad.any()


@each(
    ("f", "is_constant"),
    [
        (lambda x: x.softmax(1).sum(), True),
        (lambda x: -x.softmax(0).mean(0).sum() * 3, True),
        (lambda x: x.softmax(1).sum(0).mean(), True),
        (lambda x: F.layer_norm(x, (3,)).mean(), True),
        (lambda x: F.layer_norm(x, (3,), torch.full((3,), 3.0).double()).view(6).sum() / 2, True),
        (lambda x: F.batch_norm(x, None, None, training=True).sum(), True),
        (lambda x: x.softmax(1)[:, 0].sum(), False),
        (lambda x: x.softmax(1).pow(2).sum(), False),
        (lambda x: (x.softmax(1) * torch.tensor([1.0, 2.0, 5.0]).double()).sum(), False),
        (lambda x: x.log_softmax(1).sum(), False),
        (lambda x: F.layer_norm(x, (3,), torch.tensor([1.0, 2.0, 5.0]).double()).sum(), False),
        (lambda x: F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double()).sum(), False),
        (lambda x: x.sum(), False),
    ],
)
def test_a_sum_that_is_the_same_whatever_goes_in_is_told(f, is_constant):
    x = torch.tensor([[1.0, 2, 4], [5, 3, 3]], dtype=torch.float64, requires_grad=True)
    found = diagnose(f(x), x)
    assert codes(found) == ["zero-derivative"] * is_constant
    assert all("is constant)" in each.message and "target" in each.cure for each in found)
    assert really(f(x), x) and bool((x.grad.abs() < 1e-12).all()) == is_constant


def test_weights_that_begin_at_zero_are_told_as_what_may_be_meant():
    first, last = nn.Linear(2, 3), nn.Linear(3, 1)
    loss = last(first(torch.ones(4, 2)).tanh()).sum()
    assert codes(diagnose(loss, first, last)) == []
    nn.init.zeros_(last.weight)
    loss = last(first(torch.ones(4, 2)).tanh()).sum()
    (found,) = diagnose(loss, first, last)
    assert (found.code, found.severity) == ("zero-derivative", "info")
    assert "(a product with a parameter that is all zeros)" in found.message
    assert "0.weight" not in found.message and "LoRA" in found.cure
    assert really(loss, first.weight, first.bias, last.weight)
    assert not first.weight.grad.any() and last.weight.grad.any()


def test_log_prob_of_its_own_sample_says_why_the_mean_gets_nothing():
    mean = leaf(1, 2)
    normal = torch.distributions.Normal(mean, torch.ones(2))
    loss = normal.log_prob(normal.rsample()).sum()
    (found,) = diagnose(loss, mean)
    assert found.code == "zero-derivative" and "log_prob(rsample())" in found.cause
    assert really(loss, mean) and not mean.grad.any()


def test_the_reason_told_is_that_of_an_edge_on_the_way_to_the_input():
    x, y = leaf(1, 2), leaf(1, 2)
    loss = (torch.where(ONE > 0, x.clamp(5, 6) * 1, y) * torch.tensor([1.0, 3.0])).sum()
    assert [found.message for found in diagnose(loss, x)] == [
        "every path to x passes a Node that sends zero (every value is outside of the bounds of "
        "clamp): so is its gradient"
    ]


def test_one_finding_tells_of_all_inputs_that_a_node_cuts_off():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Softmax(dim=1))
    (found,) = diagnose(model(torch.ones(2, 3)).pow(2).sum(), *model.parameters())
    assert "every path to 4 parameters (0.weight, 0.bias and 2 more) passes" in found.message
    assert found.message.endswith("(softmax over one element): so are their gradients")
    assert "sigmoid" in found.cure


@each("f", [lambda x: x**1, lambda x: x**0, lambda x: x**2, lambda x: x**1.5])
def test_a_power_whose_gradient_at_0_is_finite_is_no_risk(f):
    x = leaf(0)
    found = diagnose(f(x).sum(), x)
    assert really(f(x).sum(), x) and x.grad.isfinite().all()
    assert codes(found) == (["zero-derivative"] if x.grad == 0 else [])


@pytest.mark.parametrize("exponent", [1 + 2j, torch.tensor(1 + 2j), torch.tensor(True)])
def test_a_power_with_a_complex_or_boolean_exponent_is_no_risk(exponent):
    x = leaf(-1, 2)
    assert "nan-risk" not in codes(diagnose((x**exponent).abs().sum(), x))


def test_equal_eigenvalues_are_a_risk_for_eigenvectors_alone():
    a = torch.eye(3, requires_grad=True)
    (found,) = diagnose(torch.linalg.eigh(a).eigenvectors.sum(), a)
    assert found.message == "equal eigenvalues: the gradient divides by their difference"
    assert really(torch.linalg.eigh(a).eigenvectors.sum(), a) and not a.grad.isfinite().all()
    values = torch.linalg.eigh(a).eigenvalues.sum()
    assert codes(diagnose(values)) == []
    assert really(values, a) and a.grad.isfinite().all()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.softmax(0)[:1].log().clamp(min=-100).sum(),
        lambda x: torch.where(x > 1e9, (x * 0).rsqrt(), 0).sum(),
        lambda x: (x.softmax(0) * (x.softmax(0) / 0.5).log()).nan_to_num().sum(),
    ],
)
def test_of_zeros_that_become_nan_further_on_the_nan_alone_is_told(f):
    x = leaf(0, 300)
    assert set(codes(diagnose(f(x), x))) == {"nan-risk"}
    assert really(f(x), x) and x.grad.isnan().any()


def test_zeros_beside_a_nan_and_zeros_that_overwrite_one_are_told():
    x, w = leaf(-1, 2), leaf(-3, -4)
    loss = (x * 0).sqrt().sum() + w.clamp(min=0).sum()
    assert sorted(codes(diagnose(loss, x, w))) == ["nan-risk", "zero-derivative"]
    loss = torch.where(w > 0, w.clamp(min=0).log(), 0).sum()
    assert codes(diagnose(loss, w)) == ["zero-derivative"]
    assert really(loss, w) and not w.grad.any()


def test_equal_complex_eigenvalues_are_a_risk_for_eigenvectors_alone():
    a = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 2]], requires_grad=True)
    (found,) = diagnose(torch.linalg.eig(a).eigenvectors.abs().sum(), a)
    assert found.message == "equal eigenvalues: the gradient divides by their difference"
    assert really(torch.linalg.eig(a).eigenvectors.abs().sum(), a) and a.grad.isnan().any()
    values = torch.linalg.eig(a).eigenvalues.abs().sum()
    assert codes(diagnose(values)) == []
    a.grad = None
    assert really(values, a) and a.grad.isfinite().all()


def test_equal_singular_values_are_a_risk_for_singular_vectors_alone():
    a = torch.eye(3, requires_grad=True)
    (found,) = diagnose((torch.linalg.svd(a).U ** 2).sum(), a)
    assert found.message == "equal singular values: the gradient divides by their difference"
    assert codes(diagnose(torch.linalg.svd(a).S.sum(), a)) == []


def test_a_path_that_only_sends_zero_is_told_for_the_input_at_its_end():
    x, w = leaf(1.4, 2), leaf(3, 4)
    loss = (x.round() * w).sum()
    (found,) = diagnose(loss, x, w)
    assert (found.code, found.severity) == ("zero-derivative", "warning")
    assert found.message == "every path to x passes a Node that sends zero: so is its gradient"
    assert really(loss, x, w) and not x.grad.any() and w.grad.any()
    x.grad = None
    assert codes(diagnose((x + (x.round() - x).detach()).sum(), x)) == []
    assert codes(diagnose((x.round() + x).sum(), x)) == []


@each("f", [torch.ceil, torch.floor, torch.round, torch.trunc, torch.sign, torch.sgn])
def test_what_is_told_to_send_zero_sends_zero(f):
    x = leaf(1.4, -2.6)
    assert codes(diagnose(f(x).sum(), x)) == ["zero-derivative"]
    assert really(f(x).sum(), x) and not x.grad.any()


def test_a_custom_function_of_such_a_name_need_not_send_zero():
    class Round(Function):  # a straight-through estimator
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    x = leaf(1.4, -2.6)
    assert codes(diagnose(Round.apply(x).sum(), x)) == ["custom-gradients"]
    assert really(Round.apply(x).sum(), x) and x.grad.all()


# ---- with a watch


def test_with_a_watch_findings_have_the_line_of_the_program():
    x, w = leaf(1, 4), leaf(3, 4)
    with watch() as watched:
        y = x.detach().sqrt() * w
        loss = (y.exp() * x.log()).sum()
    y.grad_fn  # noqa: B018
    diagnosis = diagnose(loss, x, w, watch=watched)
    assert [(found.code, found.source.text) for found in diagnosis] == [("detached", "x.detach()")]
    assert diagnosis[0].where == str(diagnosis[0].source)
    with watch() as watched:
        loss = (x - 1).sqrt().sum()
    (found,) = diagnose(loss, x, watch=watched)
    assert found.source.text == "(x - 1).sqrt()"
    assert found.where == f"node 1, SqrtBackward0, at {found.source}"


def test_with_a_watch_a_lost_graph_is_told_at_its_cut():
    x = leaf(1, 4)
    with watch() as watched:
        loss = torch.tensor((x * x).sum().item())
    diagnosis = diagnose(loss, x, watch=watched)
    assert not diagnosis.ok
    assert diagnosis[0].code == "no-graph"
    assert diagnosis[0].source.text == "(x * x).sum().item()"


@each("layer", [nn.ReLU(inplace=True), nn.LeakyReLU(inplace=True), nn.Dropout(inplace=True)])
def test_what_changed_a_saved_tensor_on_the_same_line_is_told_by_name(layer):
    net = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), layer)
    with watch() as watched:
        loss = net(torch.ones(2)).sum()
    found = diagnose(loss, net, watch=watched)[0]
    name = type(layer).__name__.lower().replace("leakyrelu", "leaky_relu")
    assert found.where.endswith(f"at {found.source}; changed by {name}() on the same line")
    assert not really(loss, *net.parameters())


def test_with_a_watch_a_change_of_a_saved_tensor_is_told_at_the_line_that_made_it():
    x = leaf(1, 2)
    with watch() as watched:
        y = x.exp()
        loss = y.sum()
        y.add_(1)
    (found,) = diagnose(loss, x, watch=watched)
    assert (found.code, found.source.text) == ("modified-in-place", "y.add_(1)")
    assert "ExpBackward0" in found.where and f"changed at {found.source}" in found.where
    assert not really(loss, x)


def test_a_number_that_left_is_told_as_what_may_have_come_back():
    x = leaf(1, 2)
    with watch() as watched:
        scale = x.sum().item() + 1
        loss = (x * scale).sum()
    (found,) = diagnose(loss, x, watch=watched)
    assert (found.code, found.severity) == ("left-torch", "info")
    assert found.message.endswith("; whether it came back into the output is not known")


def test_a_change_behind_autograd_is_a_warning_with_its_line():
    x = leaf(1, 2)
    with watch() as watched:
        loss = (x * x).sum()
        x.data.mul_(10)
    (found,) = [
        finding for finding in diagnose(loss, x, watch=watched) if finding.code != "detached"
    ]
    assert (found.code, found.severity) == ("changed-behind", "warning")
    assert found.source.text == "x.data.mul_(10)"


# ---- a sequence that reads as advice


def test_a_diagnosis_is_a_sequence_with_errors_first():
    x, w, v = leaf(-1), leaf(1), leaf(2, 3)
    x.register_hook(lambda gradient: gradient)
    diagnosis = diagnose((x.relu() + w.relu()).sum(), x, w, v)
    assert [found.severity for found in diagnosis] == ["error", "warning", "info"]
    assert codes(diagnosis) == ["unused-input", "dead-relu", "hook"]
    assert len(diagnosis) == 3
    assert diagnosis[1:] == (diagnosis[1], diagnosis[2])
    assert diagnosis[-1] is list(diagnosis)[2] and diagnosis[0] in diagnosis
    assert all(isinstance(found, Finding) for found in reversed(diagnosis))
    assert repr(diagnosis) == "<Diagnosis: unused-input, dead-relu, hook>"
    with pytest.raises(IndexError):
        diagnosis[3]


def test_a_diagnosis_is_a_tuple_that_equals_one_and_can_be_copied():
    x, w = leaf(1, 2), leaf(3)
    diagnosis = diagnose(x.sum(), x, w)
    assert isinstance(diagnosis, Sequence) and isinstance(diagnosis, tuple)
    assert diagnosis == tuple(diagnosis) and type(diagnosis[:]) is tuple
    for copied in (copy.deepcopy(diagnosis), pickle.loads(pickle.dumps(diagnosis))):
        assert type(copied) is Diagnosis
        assert (copied, str(copied), copied.ok) == (diagnosis, str(diagnosis), False)


def test_a_diagnosis_without_findings_says_what_was_looked_at():
    x = leaf(1, 2)
    diagnosis = diagnose((x * 2).sum(), x)
    assert len(diagnosis) == 0 and diagnosis.ok
    assert str(diagnosis) == "backward() will run: the graph has 3 nodes, 1 leaf among them."
    assert repr(diagnosis) == "<Diagnosis: nothing found>"


def test_advice_that_was_just_given_is_not_printed_again():
    mean = torch.ones(2, requires_grad=True)
    with watch() as watched:
        loss = torch.distributions.Normal(mean, 1.0).sample().sum()
    printed = str(diagnose(loss, watch=watched))
    assert [line for line in printed.splitlines() if "why: " in line or "cure: " in line][2:] == [
        "  why:   as above",
        "  cure:  as above",
    ]
    assert printed.count("rsample(), where the distribution has it") == 1


def test_a_diagnosis_reads_as_advice():
    x, w = leaf(1, 2), leaf(3)
    assert str(diagnose(x.sum(), x, w)) == (
        "backward() will not do what you want: the graph has 2 nodes, 1 leaf among them.\n"
        "\n"
        "error unused-input: w is not in the graph of the output: its .grad stays None\n"
        "  why:   no path leads from the output's Node to this tensor\n"
        "  cure:  use it in the computation, or leave it out; autograd.grad gives None for it\n"
        "         with allow_unused=True and zeros with materialize_grads=True\n"
        "  read:  10-lost-gradients.md, clinic/#unused-input"
    )


def test_an_input_is_called_by_its_variable_or_by_its_place_and_shape():
    w, others, loss = leaf(1), [leaf(1, 2, 3)], leaf(2, 3).sum()
    text = "is not in the graph of the output: its .grad stays None"
    end = "; the graph ends at other leaves than the inputs: a leaf of shape (2,)"
    assert diagnose(loss, w)[0].message == f"w {text}{end}"
    assert diagnose(loss, *others)[0].message == f"input 0, of shape (3,), {text}{end}"


# ---- errors of the function


def test_inputs_that_are_no_tensors_are_refused_with_a_cure():
    model = nn.Linear(2, 3)
    loss = model(torch.ones(2)).sum()
    with pytest.raises(TypeError) as caught:
        diagnose(loss, list(model.parameters()))
    assert str(caught.value) == (
        "input 0 must be a tensor or a module, got list; give the module itself, diagnose(loss, "
        "model), or unpack lists and generators with a star: diagnose(loss, *tensors)"
    )
    with pytest.raises(TypeError, match="^input 1 must be a tensor or a module, got generator"):
        diagnose(loss, model.weight, model.parameters())


def test_a_watch_that_is_none_is_refused_with_a_cure():
    x = leaf(1)
    with pytest.raises(TypeError) as caught:
        diagnose(x.sum(), x, watch=watch)
    assert str(caught.value) == ("watch must be what `with watch() as watched:` gave, got function")


# ---- nothing is executed


def test_nothing_is_executed_and_nothing_is_kept_alive():
    calls = []

    class Loud(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            calls.append("backward")
            return gradient * ctx.saved_tensors[0]

    def forward(t):
        calls.append("forward")
        return t.exp() * t

    x = leaf(0.1, 0.2)
    x.register_hook(lambda gradient: calls.append("hook"))
    x.register_post_accumulate_grad_hook(lambda tensor: calls.append("after"))
    y = Loud.apply(x)
    y.register_hook(lambda gradient: calls.append("hook"))
    y.grad_fn.register_hook(lambda *_: calls.append("post"))
    y.grad_fn.register_prehook(lambda *_: calls.append("pre"))
    y = checkpoint(forward, y, use_reentrant=False)
    with torch.autograd.graph.saved_tensors_hooks(
        torch.clone, lambda t: (calls.append("unpack"), t)[1]
    ):
        y = y.exp()
    loss = y.sum()
    calls.clear()
    versions = x._version, y._version, loss._version
    diagnosis = diagnose(loss, x)
    with torch.no_grad():
        assert codes(diagnose(loss, x)) == codes(diagnosis)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert codes(diagnose(loss, x)) == codes(diagnosis)
        assert torch.is_inference_mode_enabled()
    with torch.set_grad_enabled(True), watch() as watched:
        diagnose(loss, x)
    assert watched.operations == ()
    assert torch.is_grad_enabled()
    assert calls == []
    assert x.grad is None
    assert versions == (x._version, y._version, loss._version)
    assert codes(diagnosis) == ["hook", "custom-gradients"]
    seen = weakref.ref(y), weakref.ref(loss)
    del y, loss, watched
    gc.collect()
    assert [reference() for reference in seen] == [None, None]
    loss = checkpoint(forward, x, use_reentrant=False).sum()
    loss.backward()
    assert "after" in calls


def test_a_graph_of_20_000_nodes_is_diagnosed():
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    diagnosis = diagnose(y, x)
    assert diagnosis.ok
    assert str(diagnosis).startswith("backward() will run: the graph has 20001 nodes")


# ---- unusual tensors: a clear answer, never a crash


class Sub(torch.Tensor):
    pass


class Unhashable(torch.Tensor):
    __hash__ = None


def nested(layout):
    parts = [torch.ones(2, 3), torch.ones(1, 3)]
    return torch.nested.nested_tensor(parts, layout=layout, requires_grad=True)


UNUSUAL = {
    "a subclass": lambda: torch.ones(2).as_subclass(Sub).requires_grad_(),
    "unhashable": lambda: torch.ones(2).as_subclass(Unhashable).requires_grad_(),
    "sparse": lambda: torch.eye(2).to_sparse().requires_grad_(),
    "sparse rows": lambda: torch.eye(2).to_sparse_csr().requires_grad_(),
    "complex": lambda: torch.ones(2, dtype=torch.complex64, requires_grad=True),
    "meta": lambda: torch.ones(2, device="meta", requires_grad=True),
    "empty": lambda: torch.ones(0, requires_grad=True),
    "jagged": lambda: nested(torch.jagged),
    "nested": lambda: nested(torch.strided),
    "lazy": lambda: nn.LazyLinear(2).weight,
}


def reduced(x):
    """A number that depends on a tensor, by an operation that its kind has."""
    if x.is_nested:
        return x.values().sum() if x.layout is torch.jagged else x.to_padded_tensor(0.0).sum()
    if x.layout is torch.sparse_csr:
        return (x @ torch.ones(2, 2)).sum()
    if x.layout is torch.sparse_coo:
        return torch.sparse.sum(x)
    return x.abs().sum() if x.is_complex() else (x * x).sum()


@pytest.mark.filterwarnings("ignore")
@each("kind", [kind for kind in UNUSUAL if kind != "lazy"])
def test_an_unusual_input_is_told_rightly(kind):
    x = UNUSUAL[kind]()
    loss = reduced(x)
    assert diagnose(loss).ok
    assert diagnose(loss, x).ok and really(loss, x)


@pytest.mark.filterwarnings("ignore")
@each("kind", UNUSUAL)
def test_an_unusual_input_that_is_not_used_is_told_as_such(kind):
    w, x = leaf(1, 2, 3), UNUSUAL[kind]()
    found = [finding.code for finding in diagnose(w.sum(), x) if finding.severity != "info"]
    assert found == ["unused-input"]


@pytest.mark.filterwarnings("ignore")
@each("kind", [kind for kind in UNUSUAL if kind not in {"lazy", "complex"}])
def test_an_unusual_output_of_several_elements_is_not_ok(kind):
    x = UNUSUAL[kind]()
    assert codes(diagnose(x * 2, x))[:1] == ["non-scalar"]
    assert not really(x * 2, x)


def test_inside_a_transform_diagnose_points_to_the_outside():
    diagnoses = []

    def f(v):
        y = (v * v).sum()
        diagnoses.append(diagnose(y, v))
        return y

    torch.vmap(f)(torch.ones(2, 2, requires_grad=True))
    assert diagnoses[0][0].message == (
        "the output does not require grad: it is inside a transform such as torch.vmap; diagnose "
        "the result, outside of it"
    )
    torch.func.grad(f)(torch.ones(2))
    assert len(diagnoses) == 2


# ---- what was told wrongly once


def test_two_tensors_that_have_a_variable_each_are_not_taken_for_one():
    a, b = leaf(1, 2), leaf(3, 4)
    assert codes(diagnose(a.sum(), b)) == ["unused-input"]


def test_parameters_in_a_reentrant_checkpoint_are_no_error():
    model, x = nn.Linear(2, 2), leaf(1, 2)
    loss = checkpoint(model, x, use_reentrant=True).sum()
    diagnosis = diagnose(loss, x, *model.parameters())
    assert diagnosis.ok
    (message,) = [found.message for found in diagnosis if found.code == "unused-input"]
    assert "weight and bias" in message and "use_reentrant=True" in message
    assert really(loss, x, *model.parameters())


def helper(ctx, gradient):
    return gradient * ctx.saved_tensors[0]


READING = {
    "in a function of the module": lambda ctx, gradient: helper(ctx, gradient),
    "by getattr": lambda ctx, gradient: gradient * getattr(ctx, "saved_tensors")[0],  # noqa: B009
    "by its old name": lambda ctx, gradient: gradient * ctx.saved_variables[0],
    "in a function inside": lambda ctx, gradient: (lambda: gradient * ctx.saved_tensors[0])(),
}


@pytest.mark.filterwarnings("ignore:.*saved_variables")
@each("how", READING)
def test_a_freed_function_that_reads_saved_tensors_elsewhere_is_told(how):
    name = {"backward": staticmethod(READING[how])}
    function = types.new_class("Other", (Square,), exec_body=lambda space: space.update(name))
    x = leaf(1, 2)
    loss = function.apply(x).sum()
    loss.backward()
    assert "freed" in codes(diagnose(loss, x))
    assert not really(loss, x)


def test_a_freed_function_that_saved_no_tensors_runs_again():
    x = leaf(1, 2)
    loss = Twice.apply(x).sum()
    loss.backward()
    assert diagnose(loss, x).ok and really(loss, x)


# ---- what torch's own tables say


@functools.cache
def derivatives_of_torch():
    packaged = os.path.join(os.path.dirname(torchgen.__file__), "packaged")
    native = f"{packaged}/ATen/native"
    files = f"{packaged}/autograd/derivatives.yaml", f"{native}/native_functions.yaml"
    infos, _ = load_derivatives(*files, f"{native}/tags.yaml")
    return [info for kinds in infos.values() for info in kinds.values() if info.derivatives]


@torchs_own
def test_the_nodes_without_a_formula_are_those_of_torchs_table():
    found = {}
    for info in derivatives_of_torch():
        slots = [argument.name for argument in info.args_with_derivatives]
        for derivative in info.derivatives:
            if "not_implemented(" in derivative.formula:
                found.setdefault(info.op, set()).update(map(slots.index, derivative.var_names))
    # Of nested tensors alone, whose formula is another; and one whose slots are a list's.
    del found["ChunkBackward0"], found["CudnnRnnBackwardBackward0"]
    assert {name: tuple(sorted(slots)) for name, slots in found.items()} == NOT_IMPLEMENTED


@torchs_own
def test_the_nodes_that_send_zeros_are_those_of_torchs_table():
    zeros = r"zeros_like\(grad\)|(self|other)_info\.zeros\(\)"
    found = {
        operation_of(info.op)
        for info in derivatives_of_torch()
        if all(re.fullmatch(zeros, derivative.formula) for derivative in info.derivatives)
    }
    # Two of the four that fill send zero to the tensor alone. The formula of sgn is a function,
    # which gives zeros for real numbers.
    assert found - {"Fill"} == ZERO - {"Sgn"}


@torchs_own
def test_the_slots_that_get_zeros_are_those_of_torchs_table():
    zeros, found = r"zeros_like\(\w+\)|(self|other)_info\.zeros\(\)", {}
    for info in derivatives_of_torch():
        slots = [argument.name for argument in info.args_with_derivatives]
        for derivative in info.derivatives:
            if operation_of(info.op) not in ZERO and re.fullmatch(zeros, derivative.formula):
                found.setdefault(info.op, set()).update(map(slots.index, derivative.var_names))
    found = {name: tuple(slots) for name, slots in found.items()}
    found |= {"CopyBackwards": (0,)}  # which is in no table
    assert found.items() <= ZERO_SLOTS.items()
    assert HAS_ANOTHER_TORCH or found == ZERO_SLOTS  # torch 2.12 has no formula for nextafter


INSIDE = "x.clamp(-1 + 1e-6, 1 - 1e-6)"
APART = "A + torch.diag(torch.linspace(0, 1e-3, n))"
ENDS = torch.tensor([1.0, -1.0])
# What has an infinite gradient or NaN, at which values, the expression of the cure, and with it.
CURED = {
    "acos": (torch.acos, ENDS, INSIDE, lambda x: x.clamp(-1 + 1e-6, 1 - 1e-6).acos()),
    "atanh": (torch.atanh, ENDS, INSIDE, lambda x: x.clamp(-1 + 1e-6, 1 - 1e-6).atanh()),
    "acosh": (torch.acosh, ENDS[:1], "min=1 + 1e-6", lambda x: x.clamp(min=1 + 1e-6).acosh()),
    "logit": (torch.logit, ENDS[:1], "eps=1e-6", lambda x: torch.logit(x, eps=1e-6)),
    "eigh": (
        lambda x: torch.linalg.eigh(x)[1].abs(),
        torch.eye(3),
        APART,
        lambda x: torch.linalg.eigh(x + torch.diag(torch.linspace(0, 1e-3, 3)))[1].abs(),
    ),
    "slogdet": (
        lambda x: torch.linalg.slogdet(x)[1],
        torch.ones(2, 2),
        "A + 1e-4 * torch.eye(n)",
        lambda x: torch.linalg.slogdet(x + 1e-4 * torch.eye(2))[1],
    ),
    "std": (torch.std, ENDS[:1], "correction=0", lambda x: x.std(correction=0)),
    "sqrt": (torch.sqrt, ENDS - ENDS, "clamp(min=1e-6)", lambda x: x.clamp(min=1e-6).sqrt()),
    "sqrt in float16": (
        torch.sqrt,
        (ENDS - ENDS).half(),
        "clamp(min=1e-2)",  # 1e-12 is 0 there, and of 1e-6 not each slope has a number
        lambda x: x.clamp(min=1e-2).sqrt(),
    ),
}


@pytest.mark.filterwarnings("ignore:std:UserWarning")
@each("name", CURED)
def test_where_a_slope_has_no_end_the_cure_fits_the_function_and_works(name):
    f, at, expression, cured = CURED[name]
    x = at.clone().requires_grad_()
    (cure,) = [found.cure for found in diagnose(f(x).sum(), x) if found.code == "nan-risk"]
    assert expression in cure
    assert not torch.autograd.grad(f(x).sum(), x)[0].isfinite().all()
    loss = cured(x).sum()
    of_the_clamp_and_the_dtype = {"zero-derivative", "half-precision"}
    assert {found.code for found in diagnose(loss, x)} <= of_the_clamp_and_the_dtype
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


# ---- correct programs: those of the lessons

LESSONS = sorted((ROOT / "course").glob("[0-9][0-9]-*.md"))


@contextmanager
def every_warning():
    """Torch says each warning each time, and not once in a process, whatever ran before."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        yield
    finally:
        torch.set_warn_always(always)


@pytest.mark.parametrize("page", every(4, LESSONS), ids=lambda page: page.stem)
def test_of_the_passes_of_the_lessons_those_that_run_have_no_error_and_the_others_have(
    page, monkeypatch
):
    ran, raised, backward = [], [], torch.Tensor.backward
    passes = Counter()  # of each line: those of a training are alike

    def diagnosed(output, gradient=None, *args, **kwargs):
        caller = sys._getframe(1)
        passes[caller.f_code, caller.f_lineno] += 1
        if passes[caller.f_code, caller.f_lineno] > 20:
            return backward(output, gradient, *args, **kwargs)
        graph = Graph.of(output) if output.requires_grad else None
        leaves = [node.grad_fn.variable for node in graph.leaves] if graph else []
        leaves = [leaf for leaf in leaves if leaf.requires_grad]  # not those frozen afterwards
        errors = {found.code for found in diagnose(output, *leaves) if found.severity == "error"}
        if gradient is not None:
            errors -= {"non-scalar", "complex-output"}
        try:
            backward(output, gradient, *args, **kwargs)
        except RuntimeError as error:
            # What nobody can tell: NaN that detect_anomaly met, and what a CopySlices had.
            untold = "returned nan" in str(error)
            untold |= graph is not None and "CopySlices" in {node.name for node in graph.nodes}
            # And what Python code of the lesson raises: a Function, a hook; or a wrong gradient.
            *_, last = traceback.extract_tb(error.__traceback__)
            untold |= not last.filename.startswith(os.path.dirname(torch.__file__))
            untold |= gradient is not None and "Mismatch in shape" in str(error)
            untold |= bool(re.match(r"hook '|function \w+ returned an incorrect", str(error)))
            raised.append((errors, untold, str(error)))
            raise
        ran.append(errors)

    monkeypatch.setattr(torch.Tensor, "backward", diagnosed)
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    snippets = [block for block in extract_from_file(page) if block.syntax[:6] == "python"]
    with torch.random.fork_rng(), warnings.catch_warnings(), every_warning():
        torch.manual_seed(0)
        for block in snippets:
            code = compile("\n" * block.lineno + block.code, str(page), "exec")
            try:
                exec(code, vars(main))
            except Exception:
                assert any("xfail" in mark for mark in block.marks), block.lineno
    assert [errors for errors in ran if errors] == []
    assert [error for errors, untold, error in raised if not errors and not untold] == []
    calls = sum(len(re.findall(r"(?<!def )\bbackward\(", block.code)) for block in snippets)
    assert bool(ran) == bool(calls), calls


@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_a_division_that_rounds_sends_zero(mode):
    x = leaf(1, 2)
    loss = torch.div(x, 2, rounding_mode=mode).sum()
    assert codes(diagnose(loss, x)) == ["zero-derivative"]
    assert really(loss, x) and not x.grad.any()
    x = leaf(1, 2)
    assert codes(diagnose(torch.div(x, 2).sum(), x)) == []


def test_leaves_made_in_inference_mode_get_what_they_really_get():
    with torch.inference_mode():
        x, layer = torch.ones(2, requires_grad=True), torch.nn.Linear(2, 1)
    loss = (x + 1).sum()
    assert diagnose(loss, x).ok and really(loss, x)
    loss = layer(torch.ones(1, 2)).sum()
    diagnosis = diagnose(loss, layer.bias, layer.weight)
    assert [found.code for found in diagnosis if found.severity == "error"] == [
        "input-without-grad"
    ]
    loss.backward()
    assert layer.bias.grad is not None and layer.weight.grad is None


def test_a_cut_that_reached_the_output_once_is_not_told_as_unknown():
    x = leaf(1, 2)
    total = x.sum()
    with watch() as watched:
        for came_back in (True, False):
            number = x.sum().item()
            total = total * number if came_back else total * 2
            print(2 * number)
    findings = [found for found in diagnose(total, x, watch=watched) if found.code == "left-torch"]
    assert [found.severity for found in findings] == ["warning", "info"]
    assert "not known" not in findings[0].message and "not known" in findings[1].message


def test_a_number_in_place_of_a_tensor_has_no_slot():
    index = torch.tensor([[0, 1, 2]])
    for f in (lambda x: torch.ops.aten.sub.Scalar(x, 1.0), lambda x: x.scatter(0, index, 2.0)):
        x = torch.rand(3, 3, requires_grad=True)
        loss = f(x).sum()
        assert not diagnose(loss, x)
        assert really(loss, x)


def test_the_sign_of_a_complex_number_turns_with_it_and_sends_no_zeros():
    z = torch.tensor([1 + 2j], requires_grad=True)
    output = torch.sgn(z).real.sum()
    assert codes(diagnose(output, z)) == ["complex-conjugate"]
    assert torch.autograd.grad(output, z)[0].abs() > 0
    x = leaf(1, 2)
    assert codes(diagnose(torch.sgn(x).sum(), x)) == ["zero-derivative"]


def test_what_ctc_loss_left_unset_is_not_told():
    x = torch.randn(50, 3, 20, requires_grad=True)
    targets, lengths = torch.randint(1, 20, (3, 30)), torch.tensor([30, 25, 20])
    loss = nn.CTCLoss()(x.log_softmax(2), targets, torch.tensor([50, 50, 50]), lengths)
    (node,) = [n for n in Graph.of(loss).nodes if n.name == "CtcLossBackward0"]
    alpha = peek(node.grad_fn).values["result1"]
    alpha.data[2, :, -1] = torch.nan  # of the target of 20, where the longest has 30
    assert not diagnose(loss, x)
    loss.backward()
    assert x.grad.isfinite().all()


def test_a_jagged_output_of_one_element_is_one():
    x = torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged, requires_grad=True)
    assert "non-scalar" not in codes(diagnose(x * 2, x))
    assert really(x * 2, x)


SAMPLED = {
    "normal": lambda p: Normal(p, 1.0).sample(),
    "bernoulli": lambda p: Bernoulli(p.sigmoid()).sample(),
    "categorical": lambda p: Categorical(logits=p).sample().float(),
    "gamma": lambda p: Gamma(p.exp(), 1.0).sample((2,)),
}


@each("kind", SAMPLED)
def test_what_was_sampled_is_told_with_the_cures_of_a_sample(kind):
    p = torch.rand(3, 4, requires_grad=True)
    with watch() as watched:
        loss = SAMPLED[kind](p).sum() + p.sum()
    (found,) = diagnose(loss, p, watch=watched)
    assert found.message.startswith("sample() draws without a graph")
    assert "rsample()" in found.cure and "log_prob" in found.cure
    with watch() as watched:
        loss = Normal(p, 1.0).rsample().sum() + p.sum()
    assert not diagnose(loss, p, watch=watched)


def test_what_no_grad_covers_beside_a_sample_is_told_as_such():
    p = torch.rand(3, 4, requires_grad=True)
    with watch() as watched:
        with torch.no_grad():
            factor = p * 2
        loss = (factor * p).sum()
    (found,) = diagnose(loss, p, watch=watched)
    assert "torch.no_grad" in found.message


LEFT = {
    "item": lambda x: torch.tensor(sum(v.item() for v in x.exp())),
    "a list": lambda x: torch.tensor(x.exp().tolist()).mean(),
    "a list, doubled": lambda x: torch.tensor([2.0 * v for v in x.exp().tolist()]).sum(),
    "numpy": lambda x: torch.from_numpy(x.exp().detach().numpy()).sum(),
}


@each("name", LEFT)
def test_an_output_without_a_graph_is_told_where_values_left_torch(name):
    x = torch.ones(3, requires_grad=True)
    with watch() as watched:
        loss = LEFT[name](x)
    first, *others = diagnose(loss, x, watch=watched)
    assert first.code == "no-graph" and first.source is not None
    assert "the tensor itself" in first.cure or "take it away" in first.cure
    assert not [found for found in others if found.severity == "info"]  # which would say it again


FEW_BITS = [dtype for name, dtype in vars(torch).items() if name.startswith(("float4", "float8"))]


@pytest.mark.parametrize("dtype", FEW_BITS, ids=str)
def test_what_was_saved_in_few_bits_is_no_obstacle(dtype):
    class InFewBits(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(torch.zeros(3, dtype=torch.uint8).view(dtype))
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    x = torch.ones(3, requires_grad=True)
    with watch() as watched:
        y = InFewBits.apply(x).sum()
    assert [found.code for found in diagnose(y, x, watch=watched)] == ["custom-gradients"]


def generator_after_a_step_of_the_discriminator(model, step):
    fake = model["make"](torch.ones(4, 2))
    loss = -model["judge"](fake).mean()
    model["judge"](fake.detach()).mean().backward()
    step()
    return loss


def state_that_is_handed_on(model, step):
    state = torch.tanh(model["make"](torch.ones(4, 2)))
    state = torch.tanh(model["judge"][0](state))
    state.sum().backward(retain_graph=True)
    step()
    return model["judge"](state).mean()


@each("is_watched", [True, False])
@each("train", [generator_after_a_step_of_the_discriminator, state_that_is_handed_on])
def test_a_weight_that_was_updated_before_backward_has_the_cure_of_that(train, is_watched):
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    model = nn.ModuleDict({"make": nn.Linear(2, 3), "judge": judge})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as watched:
        loss = train(model, optimizer.step)
    diagnosis = diagnose(loss, model, watch=watched if is_watched else None)
    first = diagnosis[0]
    assert first.code == "modified-in-place" and first.cure.startswith("call each backward()")
    assert not is_watched or first.source.text == "step()"
    with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
        loss.backward()
    found = explain(caught.value, watch=watched if is_watched else None)
    assert found.cure == first.cure and "AddmmBackward0 saved mat2" in found.message


def test_a_result_that_was_changed_is_not_told_as_a_weight():
    w = torch.ones(3, requires_grad=True)
    y = w.exp()
    y += 1
    first = diagnose(y.sum(), w)[0]
    assert first.code == "modified-in-place" and first.cure.startswith("change a copy")
