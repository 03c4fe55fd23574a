"""formulas.py: each rule gives what its Node gives, and is not told otherwise."""

import pytest
import torch

from companion import record_backward
from companion.backward.formulas import FORMULAS, filled, formula
from companion.backward.player_steps import show
from tests.cases import each

# For each class of Node expressions that make it, of x (2), m (2, 3), n (3, 2), v (3) and b (2).
MAKERS = {
    "AbsBackward0": ["(x - 2.5).abs()"],
    "AddBackward0": ["torch.add(x, x * 1, alpha=3)", "m + v"],
    "AddmmBackward0": ["torch.addmm(b, m, n, beta=2, alpha=3)"],
    "AtanBackward0": ["x.atan()"],
    "CloneBackward0": ["x.clone()"],
    "CosBackward0": ["x.cos()"],
    "CoshBackward0": ["x.cosh()"],
    "CumsumBackward0": ["m.cumsum(1)"],
    "DivBackward0": ["x / (x * 2)", "m / v"],
    "DotBackward0": ["x @ b"],
    "ExpBackward0": ["x.exp()"],
    "ExpandBackward0": ["v.expand(4, 3)"],
    "Expm1Backward0": ["x.expm1()"],
    "Log1PBackward0": ["x.log1p()"],
    "LogBackward0": ["x.log()"],
    "MeanBackward0": ["m.mean()"],
    "MmBackward0": ["m @ n"],
    "MulBackward0": ["x * 3", "m * v"],
    "MvBackward0": ["m @ v"],
    "NegBackward0": ["-x"],
    "PermuteBackward0": ["m[None].permute(2, 0, 1)"],
    "PowBackward0": ["x**3", "x**0.5"],
    "ReciprocalBackward0": ["x.reciprocal()"],
    "ReluBackward0": ["(x - 2.5).relu()"],
    "RsqrtBackward0": ["x.rsqrt()"],
    "SigmoidBackward0": ["x.sigmoid()"],
    "SinBackward0": ["x.sin()"],
    "SinhBackward0": ["x.sinh()"],
    "SoftmaxBackward0": ["m.softmax(1)"],
    "SqrtBackward0": ["x.sqrt()"],
    "SqueezeBackward0": ["m[None].squeeze()"],
    "SubBackward0": ["torch.sub(x, x * 2, alpha=3)", "m - v"],
    "SumBackward0": ["m.sum()"],
    "TBackward0": ["m.t()"],
    "TanBackward0": ["x.tan()"],
    "TanhBackward0": ["x.tanh()"],
    "TransposeBackward0": ["m.transpose(0, 1)"],
    "UnsafeViewBackward0": ["torch.ops.aten._unsafe_view(m, (6,))"],
    "UnsqueezeBackward0": ["m.unsqueeze(1)"],
    "ViewBackward0": ["m.view(6)"],
    "WhereBackward0": ["torch.where(x > 2.5, x, 2 * x)", "torch.where(x > 2.5, 0.0, x)"],
}


def first_step(text, hook=None):
    """The step of the last operation of an expression."""
    torch.manual_seed(0)
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    shapes = {"m": (2, 3), "n": (3, 2), "v": (3,), "b": (2,)}
    tensors = {name: torch.rand(shape, requires_grad=True) for name, shape in shapes.items()}
    y = eval(text, {"torch": torch, "x": x, **tensors})
    if hook:
        y.grad_fn.register_hook(hook)
    recording = record_backward(y, torch.rand(y.shape) + 1)
    return recording.graph.nodes[0].name, recording.steps[0]


def rules(name, step):
    given = step.grad_outputs[0]
    return [formula(name, i, given, step.saved, out) for i, out in enumerate(step.grad_inputs)]


def test_every_rule_has_its_test():
    assert set(FORMULAS) == set(MAKERS)
    assert list(FORMULAS) == sorted(FORMULAS)


@each(("name", "text"), [(name, text) for name, texts in MAKERS.items() for text in texts])
def test_a_rule_gives_what_its_node_gives(name, text):
    made, step = first_step(text)
    assert made == name
    # Where the operation stretched its input, the rule says so.
    found = [rule and rule.partition(".sum_to_size((")[0].strip("()") for rule in rules(name, step)]
    assert found == [
        None if out is None else FORMULAS[name][i].partition(".sum_to_size((")[0].strip("()")
        for i, out in enumerate(step.grad_inputs)
    ]


def test_a_rule_says_where_the_operation_stretched_its_input():
    name, step = first_step("m * v")
    assert rules(name, step) == ["grad * other", "(grad * self).sum_to_size((3,))"]
    name, step = first_step("m + v")
    assert rules(name, step) == ["grad", "(grad * alpha).sum_to_size((3,))"]


@each(
    ("dtype", "factor"),
    [
        (torch.bfloat16, 0.9),
        (torch.float16, 0.99),
        (torch.float32, 1.0001),
        (torch.float64, 1 + 1e-12),
    ],
)
@each("size", [1.0, 1e-9])
def test_a_rule_holds_in_each_precision_and_a_small_change_ends_it(dtype, factor, size):
    x = torch.tensor([1.37, -2.1], dtype=dtype, requires_grad=True)
    for hook in (False, True):
        y = torch.tanh(x * size)
        if hook:
            y.grad_fn.register_hook(lambda grad_inputs, _: (grad_inputs[0] * factor,))
        step = record_backward(y, torch.tensor([0.7, 1.3], dtype=dtype)).steps[0]
        assert rules("TanhBackward0", step) == (
            [None] if hook else ["grad * (1 - result * result)"]
        )


@each(
    ("dtype", "accepted", "refused"),
    [
        # Twice the 2 roundings of low precision, or the 18 of others: relative and absolute.
        (torch.bfloat16, 3, 5),
        (torch.float16, 3, 5),
        (torch.float32, 32, 40),
        (torch.float64, 32, 40),
    ],
)
def test_a_rule_may_differ_by_a_few_roundings_and_no_more(dtype, accepted, refused):
    grad = torch.ones(1, dtype=dtype)
    for roundings, rule in ((0, "-grad"), (accepted, "-grad"), (refused, None)):
        given = -grad * (1 + roundings * torch.finfo(dtype).eps)
        assert formula("NegBackward0", 0, grad, {}, given) == rule


def test_where_numbers_cancel_a_rule_is_measured_by_the_largest():
    grad = torch.tensor([1.0, 0.0])
    for rest, rule in ((1e-6, "-grad"), (1e-5, None)):
        assert formula("NegBackward0", 0, grad, {}, torch.tensor([-1.0, rest])) == rule


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_no_rule_is_told_where_a_hook_changed_what_the_node_gave(factor):
    hook = lambda grad_inputs, _: tuple(g * factor for g in grad_inputs)  # noqa: E731
    assert rules(*first_step("x.sin()", hook)) == [None]


def test_no_rule_is_told_where_something_is_not_known():
    name, step = first_step("x.sin()")
    out = step.grad_inputs[0]
    assert formula(name, 0, None, step.saved, out) is None
    assert formula(name, 0, step.grad_outputs[0], None, out) is None
    assert formula(name, 0, step.grad_outputs[0], step.saved, None) is None
    assert formula(name, 1, step.grad_outputs[0], step.saved, out) is None
    assert formula("CustomBackward", 0, step.grad_outputs[0], step.saved, out) is None
    assert formula(name, 0, step.grad_outputs[0], {"self": None}, out) is None


@each(
    ("rule", "values", "text"),
    [
        ("grad * other", {"grad": 2.0, "other": 3.5}, "2 * 3.5"),
        ("grad * cos(self)", {"grad": -2.0, "self": 1.0}, "(-2) * cos(1)"),
        ("grad", {"grad": 0.25}, "0.25"),
        ("grad * other", {"grad": 2.0, "other": 1 + 2j}, "2 * (1+2j)"),
        ("grad.expand(sizes)", {"grad": 1.0, "sizes": (2, 3)}, "(1).expand((2, 3))"),
    ],
)
def test_a_rule_with_numbers_put_in(rule, values, text):
    tensors = {
        k: torch.tensor(v) if isinstance(v, float | complex) else v for k, v in values.items()
    }
    grad = tensors.pop("grad")
    assert filled(rule, grad, tensors, show) == text


def test_no_numbers_are_put_in_for_a_tensor_of_several():
    assert filled("grad * other", torch.ones(2), {"other": torch.ones(2)}, show) is None
