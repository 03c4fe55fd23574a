"""What is asked of a Node itself: where its gradient is not finite, and with no side effect."""

from itertools import product
from math import inf

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from companion import Graph, diagnose
from companion.diagnosis.asking import answer_of, look_at, ones_for
from companion.graph.saved import peek
from tests.cases import each

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


OF_TWO = set(
    "Addcdiv Atan2 Copysign Div Fmod Hypot Igamma Igammac Ldexp Logaddexp Logaddexp2 "
    "Remainder".split()
)


def at_all_points(name):
    """One tensor of all points for an operation of one input; of all pairs for one of two."""
    points = zip(*product(POINTS, repeat=2 if name in OF_TWO else 1), strict=True)
    return [torch.tensor(each, dtype=torch.float64) for each in points]


def is_told(loss, *inputs):
    return bool({"nan-risk", "non-finite"} & {found.code for found in diagnose(loss, *inputs)})


@each("hide", [lambda y: y, lambda y: torch.where(y.isfinite(), y, 0)])
@each("name", OPERATIONS)
def test_a_gradient_that_is_not_finite_is_told_and_no_other(name, hide):
    of_all = at_all_points(name)
    for i in range(len(name) % 4, len(of_all[0]), 4 * len(of_all) ** 2 - 1):  # some of the points
        inputs = [x[i : i + 1].clone().requires_grad_() for x in of_all]
        loss = hide(OPERATIONS[name](*inputs)).sum()
        if loss.isfinite():
            told = is_told(loss, *inputs)
            loss.backward()
            gradients = [x.grad for x in inputs if x.grad is not None]
            assert all(g.isfinite().all() for g in gradients) != told, inputs


def node_of(loss, name):
    (node,) = [node for node in Graph.of(loss).nodes if node.name == name]
    return node, peek(node.grad_fn)


def test_to_ask_a_node_calls_no_hook_and_frees_nothing():
    called = []
    x = torch.zeros(2, requires_grad=True)
    y = x.sqrt()
    y.register_hook(called.append)
    y.grad_fn.register_hook(lambda *gradients: called.append(gradients))
    y.grad_fn.register_prehook(lambda *gradients: called.append(gradients))
    node, saved = node_of(y, "SqrtBackward0")
    (sent,) = answer_of(node, saved, ones_for(node, [0]))
    assert sent.isinf().all() and look_at(node, saved, {(node.index, 0)}).spoilt.slot == 0
    assert is_told(y.sum(), x) and not called and x.grad is None
    y.sum().backward()  # what was saved is still there
    assert len(called) == 3 and x.grad.isinf().all()


class Calls(TorchFunctionMode):
    def __init__(self):
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_neither_a_mode_of_the_user_nor_a_profiler_sees_that_a_node_is_asked():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    loss = model(torch.ones(4, 2)).square().mean().sqrt().log()
    flops = FlopCounterMode(display=False)
    profiler = profile(acc_events=True)  # else torch 2.12 warns
    with profiler as profiled, flops, Calls() as calls, Dispatches() as dispatches:
        diagnose(loss, model)
        assert not calls.seen and not dispatches.seen
        torch.mm(loss.new_ones(2, 2), loss.new_ones(2, 2))  # what is the user's is seen as before
    assert torch.mm in calls.seen and torch.ops.aten.mm.default in dispatches.seen
    assert flops.get_total_flops() == 2 * 2**3
    counted = {event.key for event in profiled.key_averages()}
    assert "aten::mm" in counted and not {"aten::aminmax", "SqrtBackward0"} & counted


class Passes(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        Passes.calls += 1
        return gradient


def test_a_custom_function_and_what_was_saved_through_hooks_are_not_asked():
    unpacked = []
    x = torch.zeros(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(t) or t):
        y = x.sqrt()
    assert not is_told((Passes.apply(y) * 2).sum(), x)
    assert not unpacked and Passes.calls == 0


@each("mask", [torch.tensor([True, False]), torch.tensor([False, False])])
@each("between", [lambda y: y, Passes.apply])
def test_of_infinities_those_alone_are_told_that_arrive_at_a_leaf(between, mask):
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    y = between(torch.where(mask, 0.0, x)).sqrt()  # infinite at 0, which the mask may overwrite
    assert is_told(y.sum(), x) == (not mask[0])


def test_an_operation_with_several_outputs_is_asked_for_those_that_were_used():
    x = torch.eye(3, requires_grad=True)
    vectors, values = (f(torch.linalg.svd(x)) for f in (lambda s: s[0], lambda s: s[1]))
    assert is_told(vectors.sum(), x) and not is_told(values.sum(), x)


def test_a_node_whose_own_gradient_is_overwritten_is_told_if_what_it_gave_spoils_another():
    scores, values = torch.zeros(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    loss = (scores.masked_fill(mask, -inf).softmax(-1) @ values)[0]
    (found,) = diagnose(loss, scores, values)
    assert found.message.startswith("softmax gave NaN in 1 row")
    loss.backward()
    assert scores.grad.isfinite().all() and values.grad.isnan().all()


def test_huge_values_whose_gradient_overflows_are_told():
    x = torch.tensor([1e200, 1.0], dtype=torch.float64, requires_grad=True)
    loss = (x * (x * 1e200)[0].atan() * 1e-200).sum()
    assert loss.isfinite()
    told = is_told(loss, x)
    loss.backward()
    assert told != x.grad.isfinite().all()


def test_gradients_that_cancel_for_ones_are_no_zeros():
    image = torch.randn(1, 1, 4, 4)
    grid = (torch.rand(1, 3, 3, 2) - 0.5).requires_grad_()
    image = torch.cat([image, -image], 1)
    sampled = F.grid_sample(image, grid, align_corners=False)
    loss = (sampled * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)).sum()
    assert "zero-derivative" not in {found.code for found in diagnose(loss, grid)}
    layer = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(layer.weight)
    x = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    loss = (layer(x) - torch.arange(4.0).view(1, 1, 2, 2)).pow(2).sum()
    assert "zero-derivative" not in {found.code for found in diagnose(loss, layer)}


def test_what_gave_nan_below_zero_is_not_told_as_zero():
    x = torch.tensor([-1.0, -2.0, 3.0], requires_grad=True)
    (found,) = [f for f in diagnose(x.sqrt().sum(), x) if f.node is not None]
    assert found.code == "non-finite" and "at 0" not in found.message
