"""Which Node is told as the cause of NaN, and that the cure of what is said of it works."""

import math
from math import inf, nan

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion import diagnose, watch
from tests.cases import each

OF_VALUES = {"dead-relu", "nan-risk", "non-finite", "zero-derivative"}
x16, x32 = torch.float16, torch.float32


def leaf(*numbers, dtype=x32):
    return torch.tensor(numbers, dtype=dtype, requires_grad=True)


def causes(loss, *inputs):
    """What is said of values, but for the output."""
    found = [each for each in diagnose(loss, *inputs) if each.code in OF_VALUES]
    return [each for each in found if each.message != "the output itself is infinite or NaN"]


def masked(y):
    return torch.where(y.isfinite(), y, torch.zeros(()))


def ctc(x, **options):
    steps, target = x.log_softmax(0)[:, None], torch.tensor([[1, 1]])
    return F.ctc_loss(steps, target, (2,), (2,), **options)


def weight_norm(weight):
    return torch._weight_norm(weight, weight.norm(dim=1, keepdim=True), 0)


# What a message says, words of its cure, a program, and the same with the cure.
CURED = [
    ("rsqrt at 0", "clamp(min=1e-6)", lambda x: masked(x.rsqrt()),
     lambda x: x.clamp(min=1e-6).rsqrt(), leaf(0, 1)),
    ("rsqrt near 0: the gradient overflows", "in float16 clamp(min=1e-2)", lambda x: x.rsqrt(),
     lambda x: x.clamp(min=1e-2).rsqrt(), leaf(1e-4, 1, dtype=x16)),
    ("rsqrt near 0: the gradient overflows", "compute this part in float32",
     lambda x: x.half().rsqrt(), lambda x: x.rsqrt(), leaf(1e-4, 1)),
    ("rsqrt at 0", "x.float().rsqrt()", lambda x: masked(x.half().rsqrt()), lambda x: x.rsqrt(),
     leaf(1e-8, 1)),
    ("division by 0", "clamp(min=1e-2)", lambda x: masked(1 / x),
     lambda x: 1 / x.clamp(min=1e-2), leaf(0, 1, dtype=x16)),
    ("x ** -1 at 0", "clamp(min=1e-2)", lambda x: masked(x**-1),
     lambda x: x.clamp(min=1e-2) ** -1, leaf(0, 1, dtype=x16)),
    ("ToCopyBackward0 sends a gradient that is too large for float16", "scale the loss down",
     lambda x: x.half().float() * 1e5, lambda x: x.half().float() * 1e5 * 0.01, leaf(1, 2)),
    ("MulBackward0 sends a gradient that is too large for float16", "compute this part in float32",
     lambda x: x.half() * 300 * 300, lambda x: x * 300 * 300, leaf(1e-3, 2e-3)),
    ("log near 0: the gradient overflows", "clamp(min=1e-6)", lambda x: x.log(),
     lambda x: x.clamp(min=1e-6).log(), leaf(1e-40, 1)),
    ("division by a number near 0", "clamp(min=1e-6)", lambda x: masked(1 / x**1),
     lambda x: 1 / x.clamp(min=1e-6), leaf(1e-30, 1)),
    ("x ** -1 near 0", "clamp(min=1e-6)", lambda x: x**-1,
     lambda x: x.clamp(min=1e-6) ** -1, leaf(1e-30, 1)),
    ("log gave NaN for values below 0", "x.clamp(min=1e-6) before log", lambda x: x.log(),
     lambda x: x.clamp(min=1e-6).log(), leaf(-1, 1)),
    ("log1p gave NaN for values below -1", "where the function is defined", lambda x: x.log1p(),
     lambda x: x.clamp(min=1e-6).log1p(), leaf(-2, 1)),
    ("sqrt gave NaN, as for values below 0", "x.clamp(min=1e-6) before log, sqrt",
     lambda x: x.sqrt(), lambda x: x.clamp(min=1e-6).sqrt(), leaf(-1, 1)),
    ("a power with a fraction in its exponent gave NaN", "x.sign() * x.abs() ** p",
     lambda x: masked(x**0.3), lambda x: x.sign() * x.abs() ** 0.3, leaf(-1, 1)),
    ("log gave NaN for values below 0", "where the function is defined",
     lambda x: masked(F.mse_loss(x.log(), torch.zeros(2))),
     lambda x: F.mse_loss(x.clamp(min=1e-6).log(), torch.zeros(2)), leaf(-1, 2)),
    ("logsumexp of nothing but -inf", "x.masked_fill(mask, -1e9).logsumexp(-1)",
     lambda x: x.masked_fill(x > 0, -inf).logsumexp(-1) + x[0],
     lambda x: x.masked_fill(x > 0, -1e9).logsumexp(-1) + x[0], leaf(1, 2)),
    ("ctc_loss of a target that is too long for its input", "zero_infinity=True",
     lambda x: ctc(x), lambda x: ctc(x, zero_infinity=True), leaf(1, 2)),
    ("weight_norm of a row of zeros", "nn.init.normal_(weight, std=0.02)",
     lambda x: masked(weight_norm(x[None])),
     lambda x: weight_norm(x[None] + torch.tensor([0.02, -0.01])), leaf(0, 0)),
    ("x ** 1000 of large values", "keep the input", lambda x: masked(x**1000),
     lambda x: x.clamp(max=1) ** 1000, leaf(5, 0.5)),
    ("exp gave infinities: what went in was above 88.7, where float32 ends", "x.clamp(-80, 80)",
     lambda x: x.exp(), lambda x: x.clamp(-80, 80).exp(), leaf(100, 1)),
    ("exp gave infinities: what went in was above 11.1, where float16 ends", "a norm layer",
     lambda x: x.exp(), lambda x: F.layer_norm(x, (2,)).exp(), leaf(12, 1, dtype=x16)),
    ("expm1 gave infinities", "x.clamp(-80, 80)", lambda x: x.expm1(),
     lambda x: x.clamp(-80, 80).expm1(), leaf(100, 1)),
    ("cosh of large values", "x + F.softplus(-2 * x) - math.log(2)", lambda x: x.cosh().log(),
     lambda x: x + F.softplus(-2 * x) - math.log(2), leaf(100, 1)),
    ("log at 0", "F.log_softmax(x, -1) for x.softmax(-1).log()", lambda x: x.softmax(-1).log(),
     lambda x: F.log_softmax(x, -1), leaf(300, 1)),
    ("log at 0", "F.logsigmoid", lambda x: x.sigmoid().log(), F.logsigmoid, leaf(-300, 1)),
    ("log at 0", "torch.logsumexp for the log of a sum of exp", lambda x: x.exp().sum().log(),
     lambda x: torch.logsumexp(x, -1), leaf(-300, -301)),
    ("log at 0", "a sum of logs for that of a product", lambda x: x.prod().log(),
     lambda x: x.log().sum(), leaf(1e-30, 1e-30)),
    ("division by 0", "F.normalize(x, dim=-1) for a vector by its length",
     lambda x: x / x.norm(), lambda x: F.normalize(x, dim=-1), leaf(0, 0)),
    ("division by 0", "x / torch.where(y == 0, 1.0, y), and then mask again",
     lambda x: torch.where(x == 0, 0.0, 1 / x),
     lambda x: torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x)), leaf(0, 2)),
    ("division by 0", "mask.sum().clamp(min=1) for a mean under a mask",
     lambda x: (x * (x > 9)).sum() / (x > 9).sum(),
     lambda x: (x * (x > 9)).sum() / (x > 9).sum().clamp(min=1), leaf(0, 2)),
    ("ProdBackward0 gave infinities of finite numbers", "", lambda x: x.prod(),
     lambda x: x.log().sum(), leaf(1e30, 1e30)),
    ("CumprodBackward0 gave infinities of finite numbers", "", lambda x: x.cumprod(0),
     lambda x: x.log().cumsum(0), leaf(1e30, 1e30)),
    ("LinalgVectorNormBackward0 gave infinities of finite numbers", "compute this part in float32",
     lambda x: x.norm(), lambda x: x.float().norm(), leaf(6e4, 6e4, dtype=x16)),
    ("sinh of large values", "x.clamp(-80, 80)", lambda x: masked(x.sinh()),
     lambda x: x.clamp(-80, 80).sinh(), leaf(100, 1)),
    ("exp2 of large values", "x.clamp(-80, 80)", lambda x: masked(x.exp2()),
     lambda x: x.clamp(-80, 80).exp2(), leaf(200, 1)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CURED)), ids=lambda number: CURED[number][0])
def test_the_operation_is_named_first_and_its_cure_gives_a_finite_gradient(number):
    said, cure, program, cured, start = CURED[number]
    x = start.detach().clone().requires_grad_()
    if said.startswith("ctc"):
        x = torch.zeros(2, 3, requires_grad=True)  # two steps for two equal labels
    loss = program(x).sum()
    first = causes(loss, x)[0]
    assert said in first.message and cure in first.cure
    loss.backward()
    assert not (x.grad.isfinite().all() and loss.isfinite())

    x.grad = None
    loss = cured(x).sum()
    assert not {"nan-risk", "non-finite"} & {found.code for found in causes(loss, x)}
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_a_label_that_a_mask_leaves_out_is_told(shape):
    x = torch.zeros(shape, requires_grad=True)
    label = torch.ones(shape[:1] + shape[2:], dtype=torch.long)
    label = label if shape[1:] else label[0]
    left_out = torch.tensor([False, True, False]).reshape(3, *[1] * len(shape[2:]))

    def loss_of(label, mask):
        return F.cross_entropy(x.masked_fill(left_out, mask), label, reduction="sum")

    first, of_the_output = diagnose(loss_of(label, -inf))
    count = f"{label.numel()} labels" if shape[1:] else "1 label"
    assert first.message == f"the probability of {count} is 0, and the loss infinite"
    assert loss_of(label, -inf) == inf and "output itself" in of_the_output.message
    others = torch.where(label.cumsum(0) > 1, -100, 0) if shape[1:] else label * 0
    for loss in (loss_of(label, -1e9), loss_of(others, -inf)):
        assert loss.isfinite() and not OF_VALUES & {found.code for found in diagnose(loss)}


def test_a_mask_of_minus_infinity_is_meant_so_and_the_softmax_that_made_nan_of_it_comes_first():
    x = torch.zeros(2, 3, requires_grad=True)
    with watch() as watched:
        masked = x.masked_fill(torch.tensor([[True], [False]]), -inf)
        loss = masked.softmax(1).square().sum()
    cause, consequence = diagnose(loss, x, watch=watched)
    assert cause.message.startswith("softmax gave NaN in 1 row")
    assert "masked_fill() at" in consequence.message and "softmax() at" in consequence.message


def test_a_product_above_a_logarithm_at_0_is_its_consequence():
    p = torch.tensor([[200.0, 0.0]], requires_grad=True).softmax(-1)
    entropy = masked(p * p.log()).sum()
    assert [found.message for found in causes(entropy)] == ["log at 0: the gradient is infinite"]
    x = leaf(0, 1)  # 0 / 0 is NaN, and what follows saves it
    assert [found.message for found in causes(masked((x / x).atan()).sum())] == [
        "division by 0: the gradient is infinite"
    ]


def test_where_the_weights_are_nan_already_they_are_told_and_nothing_above_them():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight[0, 0] = nan
    loss = model(torch.ones(4, 2)).square().mean()
    (found,) = causes(loss, model)
    assert found.message == "0.weight itself has infinite or NaN values"
    assert "a step before this one" in found.cause
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(nan)
    (found,) = causes(model(torch.ones(4, 2)).square().mean(), model)
    assert found.message.startswith("4 parameters (")
    assert found.message.endswith("and 2 more) have infinite or NaN values themselves")


def test_data_with_nan_are_told_as_what_came_without_a_graph():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    loss = model(torch.tensor([[1.0, nan]])).sum()
    (found,) = causes(loss, model)
    assert found.message == (
        "AddmmBackward0 saved mat1, which has NaN values, and no graph, as data and masks have none"
    )
    assert "where the data are read" in found.cure


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda y, t: ((y - t) ** 2 * t.isfinite()).sum(),
        lambda y, t: (y - t).abs().mean(),
        lambda y, t: torch.cat([y, t]).square().sum(),
        lambda y, t: torch.where(y > t, y, t).sum(),
    ],
)
def test_with_a_watch_data_that_came_with_nan_are_named_before_what_was_computed_of_them(loss_of):
    model, target = nn.Linear(2, 1), torch.tensor([[1.0], [nan]])
    x = torch.ones(2, 2)
    with watch() as watched:
        loss = loss_of(model(x), target)
    first, *others = diagnose(loss, model, watch=watched)
    assert "target had such values before the block" in first.message
    assert "where the data are read" in first.cure and first.source.line
    assert not [each for each in others if "the output itself" in each.message]


@pytest.mark.parametrize("lost", [inf, nan])
def test_data_that_a_node_saved_go_by_the_name_of_the_variable(lost):
    layer, batch, weights = nn.Linear(2, 1), torch.ones(2, 2), torch.tensor([[1.0], [lost]])
    found = diagnose((layer(batch) * weights).sum(), layer)[0]
    assert found.message.startswith("MulBackward0 saved other (weights), which has")
    batch[0, 1] = lost
    found = diagnose(layer(batch).sum(), layer)[0]
    assert found.message.startswith("AddmmBackward0 saved mat1 (batch), which has")


def test_a_weight_that_came_with_nan_is_said_once_and_not_called_data():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[0, 0] = nan
    with watch() as watched:
        loss = model(torch.ones(2, 2)).sum()
    cause, consequence = diagnose(loss, model, watch=watched)
    assert cause.message == "weight itself has infinite or NaN values"
    assert consequence.message == "the output itself is infinite or NaN"


def test_running_statistics_with_nan_are_no_data_and_their_cure_works():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model(torch.tensor([[1.0, nan], [2.0, 3.0]]))  # one bad batch, in training mode
    x = torch.randn(4, 2)
    first = causes(model.eval()(x).square().sum(), model)[0]
    assert "running_mean" in first.message and "module.reset_running_stats()" in first.cure
    model[1].reset_running_stats()
    model.train()(x)
    assert not causes(model.eval()(x).square().sum(), model)


def test_with_a_watch_what_saved_an_infinity_is_not_told_beside_what_gave_it():
    layer = nn.Linear(2, 3)
    with watch() as watched:
        logits = layer(torch.ones(2)).masked_fill(torch.tensor([False, False, True]), -inf)
        log_p = logits.log_softmax(0)
        loss = (log_p.exp() * log_p).sum()
    (found,) = diagnose(loss, layer, watch=watched)
    assert "masked_fill() at" in found.message and "mul() at" in found.message
    assert "0 times infinity is NaN" in found.cure


def test_what_computed_an_infinity_comes_before_the_softmax_that_made_nan_of_it():
    layer, u = nn.Linear(1, 3), torch.tensor([0.0, 0.5, 1.0])
    with watch() as watched:
        noise = -torch.log(-torch.log(u))  # as of a Gumbel softmax
        loss = (layer(torch.ones(1)) + noise).softmax(-1)[1]
    first, second = diagnose(loss, layer, watch=watched)
    assert "log() at" in first.message and "`torch.log(u)` gave the first" in first.message
    assert second.message.startswith("softmax gave NaN")


def test_where_nothing_else_is_known_of_an_infinite_loss_the_node_that_saved_one_is_named():
    layer = nn.Linear(2, 3)
    logits = layer(torch.ones(1, 2)).masked_fill(torch.tensor([False, False, True]), -inf)
    loss = F.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.1)
    assert loss == inf and causes(loss)[0].message.startswith("LogSoftmaxBackward0 saved result")
    assert not causes(F.cross_entropy(logits, torch.tensor([0])))


def test_a_mean_over_a_count_of_none_is_a_division_by_0_and_not_by_a_number_near_it():
    x = leaf(nan, nan)
    assert "division by 0: the gradient is infinite" in [c.message for c in causes(x.nanmean())]


def test_what_is_said_of_the_output_comes_last_without_a_line():
    loss = leaf(-1, 1).log().sum()
    cause, consequence = diagnose(loss)
    assert cause.message.startswith("log gave NaN")
    assert consequence.message == "the output itself is infinite or NaN"


def test_of_several_causes_the_deepest_comes_first():
    e = leaf(1000, 1).exp()  # infinite, so that the other share is 0
    loss = -(e / e.sum()).log()[1]
    assert causes(loss)[0].message.startswith("exp gave infinities")


def test_a_square_root_comes_before_the_division_by_it_that_a_mask_hides():
    """As the angle of a rotation by nothing."""
    pose = torch.zeros(2, 3, requires_grad=True)
    angle = pose.square().sum(-1, keepdim=True).sqrt()
    axis = torch.where(angle > 0, pose / angle, pose)
    found = [each.message for each in causes(axis.sum(), pose)]
    assert [message.split(":")[0] for message in found] == ["sqrt at 0", "division by 0"]


def test_what_a_norm_layer_computed_is_no_data():
    loss = F.layer_norm(torch.ones(1, 4, requires_grad=True), (4,), eps=0.0).nan_to_num().sum()
    (found,) = causes(loss)
    assert found.message.startswith("NativeLayerNormBackward0 saved result2, which has infinite")
    assert "no graph" not in found.message


def test_a_grad_that_is_left_comes_after_what_spoils_the_gradient():
    x = leaf(0, 1)
    x.grad = torch.ones(2)
    codes = [found.code for found in diagnose(x.sqrt().sum(), x)]
    assert codes == ["nan-risk", "accumulates"]
    codes = [found.code for found in diagnose((0 * x.new_zeros(2) * x).sum() + 1, x)]
    assert codes == ["zero-derivative", "accumulates"]


class TimesLog(torch.autograd.Function):
    """Gives what it takes; its gradient is the logarithm of that."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.log())
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        (log,) = ctx.saved_tensors
        return gradient * log


def test_a_custom_function_cannot_be_asked_and_is_told_by_the_nan_that_it_saved():
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    first = diagnose(TimesLog.apply(x).sum(), x)[0]
    assert (first.code, first.severity, first.node) == ("nan-risk", "warning", 1)
    assert "TimesLogBackward saved saved_tensors, which has NaN values" in first.message
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert [found.code for found in diagnose(TimesLog.apply(x).sum(), x)] == ["custom-gradients"]


class KeepsLog(TimesLog):
    """The same, and it keeps the logarithm as an attribute."""

    @staticmethod
    def forward(ctx, x):
        ctx.log = x.log()
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.log


def test_nan_that_a_custom_function_keeps_beside_what_it_saved_is_told():
    x = leaf(-1, 2)
    loss = KeepsLog.apply(x).sum()
    first = diagnose(loss, x)[0]
    assert (first.code, first.node) == ("nan-risk", 1)
    assert "KeepsLogBackward keeps ctx.log, which has NaN values; something" in first.message
    loss.backward()
    assert x.grad.isnan().any()
    x = leaf(1, 2)
    assert [found.code for found in diagnose(KeepsLog.apply(x).sum(), x)] == ["custom-gradients"]


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="is not in this torch")
def test_a_function_of_torch_that_keeps_its_gradients_is_told_by_these():
    from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

    labels, options = torch.tensor([0, 1]), LinearCrossEntropyOptions(batch_chunk_size=1)
    for largest in (1.0, inf):
        x, weight = leaf([1.0, 2], [3, 4]), leaf([1.0, 2], [largest, 4])
        loss = masked(F.linear_cross_entropy(x, weight, labels, options=options))
        codes = [found.code for found in diagnose(loss, x, weight)]  # nothing of its author
        assert ("nan-risk" in codes) == (largest == inf) and "custom-gradients" not in codes
        loss.backward()
        assert weight.grad.isfinite().all() == (largest != inf)


# An operation each, and two leaves of large numbers.
OVERFLOWS = {
    "add": lambda x, y: (x + y).sum(),
    "sub": lambda x, y: torch.sub(x, y, alpha=-2).sum(),
    "mul": lambda x, y: (x * y).mean(),
    "a number": lambda x, y: ((x * y) * 1e20).sum(),
    "div": lambda x, y: (x / (y.detach() * 0 + 1e-10)).mean(),
    "pow": lambda x, y: x.pow(2).sum(),
    "sum": lambda x, y: (x * 1e5).sum(),
    "sum along a dimension": lambda x, y: x.sum(1).sigmoid().log().sum() - x.sum(1).sum(),
    "mean": lambda x, y: x.mean(),
    "mm": lambda x, y: (x @ y.T).sum(),
    "bmm": lambda x, y: (x[None] @ y.T[None]).sum(),
    "addmm": lambda x, y: F.linear(x, y, torch.zeros(2)).sum(),
    "mse_loss": lambda x, y: F.mse_loss(x, -y) + F.mse_loss(x, y, reduction="sum"),
    "dot": lambda x, y: x[0].dot(y[0]),
    "mv": lambda x, y: (x @ y[0]).sum(),
    "two products": lambda x, y: (x * y * x).sum(),
    "a sum of exp": lambda x, y: x.clamp(max=88).exp().sum(),
}


@each("kind", OVERFLOWS)
def test_the_operation_that_overflows_is_told_without_a_watch_as_with_one(kind):
    told_at = list[float]()
    for factor in (1.0, 1e19, 1e25, 3e38):
        x, y = (torch.full((2, 64), factor, requires_grad=True) for _ in range(2))
        with watch() as watched:
            loss = OVERFLOWS[kind](x, y)
        found = [f for f in diagnose(loss, watch=watched) if f.code == "non-finite"]
        told = [f.source for f in found if f.message.endswith("too large for float32")]
        first = watched.first_nonfinite
        assert set(told) <= {first.source if first else None}
        alone = [f.message for f in diagnose(loss) if "too large for float32" in f.message]
        assert len(alone) == len(told)
        told_at += [factor] * len(alone)
    assert told_at and 1.0 not in told_at


class Half(torch.autograd.Function):
    """Casts to float16."""

    @staticmethod
    def forward(ctx, x):
        return x.half()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.float()


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_what_a_custom_function_casts_to_float16_is_looked_at_too(factor):
    x = leaf(1, 2)
    loss = Half.apply(x).float().sum() * factor
    codes = {found.code for found in diagnose(loss, x)}
    (gradient,) = torch.autograd.grad(loss, x)
    assert ("nan-risk" in codes) == (not gradient.isfinite().all())


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (lambda x: x / (x * 0), "division by 0: the gradient is infinite"),
        (lambda x: x * torch.tensor([inf, 1.0]), "MulBackward0 saved other"),
        (lambda x: (x * 0 - 1) ** 0.5, "a power with a fraction in its exponent gave NaN"),
    ],
)
def test_an_infinity_or_nan_of_another_reason_is_no_overflow(f, said):
    x = leaf(1, 2)
    found = [each.message for each in diagnose(f(x).sum(), x) if each.code in OF_VALUES]
    assert found[0].startswith(said) and not any("too large" in each for each in found)
