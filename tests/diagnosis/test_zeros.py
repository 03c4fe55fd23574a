"""Why a gradient is exactly zero, told before the pass; and nothing where a part of it is not."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F

from companion import diagnose, watch
from tests.cases import each

OF_VALUES = {"dead-relu", "nan-risk", "non-finite", "zero-derivative"}
ones, zeros = torch.ones, torch.zeros


class Layer:
    """A linear layer and what it gives, of which the programs compute a loss."""

    def __init__(self):
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
        self.out = self.layer(torch.randn(4, 3))


def labels(*numbers):
    return torch.tensor(numbers)


def ctc(y, target):
    steps = y.reshape(3, 1, 4).log_softmax(-1)
    return F.ctc_loss(steps, target[None], (3,), (len(target),), zero_infinity=True)


nothing, one = torch.arange(4) < 0, torch.arange(4) < 1
# Of each kind: what is said of it, its severity, a program whose gradient is zero, and a program
# that differs in one element or number, whose gradient is not.
PROGRAMS = {
    "an empty mask": (
        "a product with zeros alone",
        "warning",
        lambda y: (y.square().mean(1) * nothing.float()).sum(),
        lambda y: (y.square().mean(1) * one.float()).sum(),
    ),
    "an empty mask of bools": (
        "a product with zeros alone",
        "warning",
        lambda y: (y * nothing[:, None]).sum(),
        lambda y: (y * one[:, None]).sum(),
    ),
    "an empty selection": (
        "the result of index has no element",
        "warning",
        lambda y: y[nothing].square().sum(),
        lambda y: y[one].square().sum(),
    ),
    "labels that are all ignored": (
        "every label is ignore_index",
        "warning",
        lambda y: F.cross_entropy(y, labels(-100, -100, -100, -100), reduction="sum"),
        lambda y: F.cross_entropy(y, labels(-100, -100, -100, 1), reduction="sum"),
    ),
    "classes without weight": (
        "every label is ignore_index, or of a class whose weight is 0",
        "warning",
        lambda y: F.cross_entropy(
            y, labels(0, 0, 0, 0), torch.tensor([0.0, 1, 1]), reduction="sum"
        ),
        lambda y: F.cross_entropy(
            y, labels(0, 0, 0, 1), torch.tensor([0.0, 1, 1]), reduction="sum"
        ),
    ),
    "a term that counts nothing": (
        "a product with the number 0",
        "info",
        lambda y: 0.0 * y.square().sum(),
        lambda y: 1e-3 * y.square().sum(),
    ),
    "dropout of everything": (
        "a product with the number 0",
        "info",
        lambda y: F.dropout(y, 1.0).sum(),
        lambda y: F.dropout(y, 0.5).sum(),
    ),
    "a branch that begins at zero": (
        "a product with a parameter that is all zeros",
        "info",
        lambda y: (y.detach() + y * nn.Parameter(zeros(3))).sum(),
        lambda y: (y.detach() + y * nn.Parameter(torch.tensor([0.0, 0, 1]))).sum(),
    ),
    "a norm layer that begins at zero": (
        "a product with a parameter that is all zeros",
        "info",
        lambda y: (F.batch_norm(y, None, None, nn.Parameter(zeros(3)), training=True)[0]).sum(),
        lambda y: (F.batch_norm(y, None, None, nn.Parameter(ones(3)), training=True)[0]).sum(),
    ),
    "a convolution by zeros": (
        "a product with a parameter that is all zeros",
        "info",
        lambda y: F.conv1d(y[None], nn.Parameter(zeros(2, 4, 1))).sum(),
        lambda y: F.conv1d(y[None], nn.Parameter(ones(2, 4, 1))).sum(),
    ),
    "a tensor and itself": (
        "a tensor is compared with itself",
        "warning",
        lambda y: F.mse_loss(y, y),
        lambda y: F.mse_loss(y, y.flip(0)),
    ),
    "a target that is met": (
        "input and target are equal",
        "info",
        lambda y: F.smooth_l1_loss(y, y.detach().clone()),
        lambda y: F.smooth_l1_loss(y, y.detach() + labels(0, 0, 1)),
    ),
    "a ratio of equal probabilities, as of PPO": (
        "a tensor minus itself",
        "warning",
        lambda y: (y.log_softmax(1) - y.log_softmax(1)).exp().mean(),
        lambda y: (y.log_softmax(1) - y.log_softmax(1).detach()).exp().mean(),
    ),
    "one tensor for both probabilities": (
        "a tensor minus itself",
        "warning",
        lambda y: (2 * y[0, 0] - y[0, 1] - (2 * y[0, 0] - y[0, 1])).exp(),
        lambda y: (2 * y[0, 0] - y[0, 1] - (2 * y[0, 0] - y[0, 2])).exp(),
    ),
    "a difference whose square is taken": (
        "a tensor minus itself",
        "warning",
        lambda y: (y.tanh() - y.tanh()).square().sum(),
        lambda y: (y.tanh() - y.sin()).square().sum(),
    ),
    "a quotient of what is equal": (
        "a tensor divided by itself",
        "warning",
        lambda y: (y.exp() / y.exp()).sum(),
        lambda y: (y.exp() / y.exp().sum()).square().sum(),
    ),
    "a difference of what other noise went into": (
        "a tensor minus itself",
        "warning",
        lambda y: (y * ones(3) - y * ones(3)).exp().sum(),
        lambda y: (y * ones(3) - y * labels(1, 1, 2)).exp().sum(),
    ),
    "a difference of what is also used otherwise": (
        "a tensor minus itself",
        "warning",
        lambda y: (lambda z: (z - y.tanh()).exp().sum())(y.tanh()),
        lambda y: (lambda z: (z - y.tanh()).exp().sum() + z.sum())(y.tanh()),
    ),
    "numbers written over all": (
        "every element is overwritten",
        "warning",
        lambda y: y.mul(2).fill_(labels(1).sum()).sum(),
        lambda y: y.mul(2).index_fill(0, labels(1), 0.0).sum(),
    ),
    "a copy written over all": (
        "every element is overwritten",
        "warning",
        lambda y: y.mul(2).copy_(ones(4, 3)).sum(),
        lambda y: ones(4, 3).copy_(y).sum(),
    ),
    "the sign of another": (
        "always sends zero",
        "warning",
        lambda y: torch.copysign(ones(4, 3), y).sum(),
        lambda y: torch.copysign(y, ones(4, 3)).sum(),
    ),
    "what float16 has no number for": (
        "float16 has no number but 0",
        "warning",
        lambda y: y.half().float().sum() * 1e-9,
        lambda y: y.half().float().sum() * 1e-4,
    ),
    "what a product in float16 rounds to zero": (
        "float16 has no number but 0",
        "warning",
        lambda y: (y.half() * 1e-4 * 1e-4).sum(),
        lambda y: (y.half() * 1e-2 * 1e-2).sum(),
    ),
    "samples that ctc_loss leaves out": (
        "whose target is too long for ctc_loss",
        "warning",
        lambda y: ctc(y, labels(1, 1, 2)),
        lambda y: ctc(y, labels(1, 2)),
    ),
    "the mean of no overlap": (
        "zeros alone, divided by it",
        "warning",
        lambda y: (y.exp() * zeros(4, 3)).sum() / y.exp().sum(),
        lambda y: (y.exp() * labels(0, 0, 1)).sum() / y.exp().sum(),
    ),
    "a product of several zeros": (
        "a product of which two factors or more are 0",
        "warning",
        lambda y: (y - y.detach()).prod(),
        lambda y: (y - y.detach() + 1).prod(),
    ),
    "the determinant of zeros": (
        "a product with minors that are all 0",
        "warning",
        lambda y: (y - y.detach())[:3].det(),
        lambda y: y[:3].det(),
    ),
    "the distances of equal points": (
        "the distances of equal points alone",
        "info",
        lambda y: F.pdist(y - y.detach()).sum(),
        lambda y: F.pdist(y).square().sum(),
    ),
    "the norm of zeros": (
        "the norm of zeros alone",
        "info",
        lambda y: (y - y.detach()).norm(),
        lambda y: (y - y.detach() + labels(0, 0, 1)).norm(),
    ),
    "the variance of equal numbers": (
        "var of equal elements",
        "info",
        lambda y: (y - y.detach()).var(),
        lambda y: (y - y.detach() + labels(0, 0, 1)).var(),
    ),
    "a product with zeros that something gave": (
        "a product with zeros alone",
        "warning",
        lambda y: (y.new_zeros(2, 4) @ y).sum(),
        lambda y: (y.new_ones(2, 4) @ y).sum(),
    ),
    "a sum that begins with a number": (
        "the sum over softmax is constant",
        "warning",
        lambda y: 1 - y.softmax(1).sum(),
        lambda y: 1 - y.softmax(1)[:, 0].sum(),
    ),
    "a softmax whose sum goes on": (
        "the sum over softmax is constant",
        "warning",
        lambda y: y.softmax(-1).mean(-1).tanh().sum(),
        lambda y: y.softmax(-1).mean(0).tanh().sum(),
    ),
    "what a layer norm gave, on the average": (
        "the sum over what layer_norm gave is constant",
        "warning",
        lambda y: F.layer_norm(y, (3,)).mean(-1).sin().sum(),
        lambda y: F.layer_norm(y, (3,)).mean(0).sin().sum(),
    ),
    "probabilities that are as even as they can be": (
        "what comes to it is the same for all elements here",
        "info",
        lambda y: (y * 1e-9).softmax(1).square().sum(),
        lambda y: y.softmax(1).square().sum(),
    ),
    "a student that is its teacher": (
        "the probabilities are already those that the loss asks for",
        "info",
        lambda y: F.kl_div(y.log_softmax(1), y.detach().softmax(1), reduction="sum"),
        lambda y: F.kl_div(y.log_softmax(1), y.detach().mul(2).softmax(1), reduction="sum"),
    ),
    "logits that are far apart": (
        "softmax of the logits is rounded to 0 and 1 everywhere",
        "warning",
        lambda y: F.cross_entropy(1e6 * y, y.argmax(1)),
        lambda y: F.cross_entropy(1e6 * y, labels(0, 1, 2, 0)),
    ),
    "logits that are far on the side of their labels": (
        "the sigmoid of every logit is rounded to its label",
        "warning",
        lambda y: F.binary_cross_entropy_with_logits(1e6 * y, (y > 0).float()),
        lambda y: F.binary_cross_entropy_with_logits(1e6 * y, ones(4, 3)),
    ),
    "probabilities that are their labels": (
        "every probability is so near to its label",
        "warning",
        lambda y: F.binary_cross_entropy(torch.sigmoid(1e6 * y), (y > 0).float()),
        lambda y: F.binary_cross_entropy(torch.sigmoid(y), (y > 0).float()),
    ),
    "a loss whose weights leave nothing": (
        "a product with zeros alone",
        "warning",
        lambda y: F.binary_cross_entropy_with_logits(y, ones(4, 3), zeros(3)),
        lambda y: F.binary_cross_entropy_with_logits(y, ones(4, 3), labels(0.0, 0, 1)),
    ),
    "margins that are kept": (
        "every margin is so large that the loss is rounded to 0",
        "warning",
        lambda y: F.soft_margin_loss(1e6 * y, y.sign().detach()),
        lambda y: F.soft_margin_loss(y, ones(4, 3)),
    ),
    "margins of several labels, of which a product with zeros is no reason": (
        "logsigmoid of values so high that it is rounded to 0",
        "warning",
        lambda y: F.multilabel_soft_margin_loss(y + 500, ones(4, 3)),
        lambda y: F.multilabel_soft_margin_loss(y, ones(4, 3)),
    ),
    "a softmax over one, below a loss that is met": (
        "softmax over one element",
        "warning",
        lambda y: F.binary_cross_entropy(y.sum(1, keepdim=True).softmax(1), ones(4, 1)),
        lambda y: F.binary_cross_entropy(y.softmax(1), ones(4, 3)),
    ),
    "a product of probabilities that are rounded to 1": (
        "sigmoid is rounded to 0 or 1 everywhere",
        "warning",
        lambda y: (1 - (1e6 * y).sigmoid()).cumprod(1)[:, -1].sum(),
        lambda y: (1 - y.sigmoid()).cumprod(1)[:, -1].sum(),
    ),
    "a unit that is dead for all that reads it": (
        "its slope is 0 wherever a gradient comes to it",
        "warning",
        lambda y: F.relu(y - labels(99, 0, 0))[:, 0].sum(),
        lambda y: F.relu(y - labels(0, 0, 99))[:, 0].sum(),
    ),
    "terms that cancel": (
        "by several ways from",
        "warning",
        lambda y: (y * 2 - y - y).sum(),
        lambda y: (y * 2 - y).sum(),
    ),
    "a function and its inverse": (
        "by several ways from",
        "warning",
        lambda y: (y.exp().log() - y).sum(),
        lambda y: (y.exp().log() - y.sin()).sum(),
    ),
    "the length of what is of length one": (
        "by several ways from",
        "warning",
        lambda y: F.normalize(y, dim=1).norm(dim=1).mean(),
        lambda y: F.normalize(y, dim=1).norm(dim=0).mean(),
    ),
    "the cosine of a tensor and itself": (
        "by several ways from",
        "warning",
        lambda y: 1 - F.cosine_similarity(y, y * 3).mean(),
        lambda y: 1 - F.cosine_similarity(y, y.flip(0)).mean(),
    ),
    "the mean of what was standardised by hand": (
        "by several ways from",
        "warning",
        lambda y: ((y - y.mean(0)) / y.std(0)).mean(),
        lambda y: ((y - y.mean(0)) / y.std(0)).pow(3).mean(),
    ),
    "probabilities that were made by hand": (
        "by several ways from",
        "warning",
        lambda y: (y.exp() / y.exp().sum(1, keepdim=True)).sum(),
        lambda y: (y.exp() / y.exp().sum(1, keepdim=True))[:, 0].sum(),
    ),
    "the sum of probabilities that were made of their logarithms": (
        "the sum over softmax is constant",
        "warning",
        lambda y: y.log_softmax(1).exp().sum(),
        lambda y: y.log_softmax(1).exp()[:, 0].sum(),
    ),
    "the sum of probabilities as a product with ones": (
        "the sum over softmax is constant",
        "warning",
        lambda y: (y.softmax(1) @ ones(3, 1)).sum(),
        lambda y: (y.softmax(1) @ labels(1.0, 1, 2)[:, None]).sum(),
    ),
    "a prior that is its posterior": (
        "cancels (at these values, not at others)",
        "info",
        lambda y: (lambda log_var: (log_var.exp() - 1 - log_var).mean())(y - y.detach()),
        lambda y: (lambda log_var: (log_var.exp() - 1 - log_var).mean())(y - y.detach() + 0.1),
    ),
    "the divergence of two distributions that are equal now": (
        "cancels (at these values, not at others)",
        "info",
        lambda y: kl_divergence(Categorical(logits=y), Categorical(logits=y.detach())).mean(),
        lambda y: kl_divergence(Categorical(logits=y), Categorical(logits=2 * y.detach())).mean(),
    ),
    "the divergence of a distribution and itself": (
        "cancels: nothing is left",
        "warning",
        lambda y: kl_divergence(Normal(y, y.exp()), Normal(y, y.exp())).mean(),
        lambda y: (
            kl_divergence(Normal(y, y.exp()), Normal(y, 2 * y.exp())).log().sum()
            + kl_divergence(Normal(y, y.exp()), Normal(y + 1, y.exp())).mean()
        ),
    ),
    "terms that cancel in half precision, of which rounding is told of none": (
        "by several ways from",
        "warning",
        lambda y: (lambda z: (z * 2 - z - z).sum())(y.bfloat16()),
        lambda y: (lambda z: (z * 1.1 - z).sum())(y.bfloat16()),
    ),
    "a dead unit in half precision": (
        "its slope is 0 wherever a gradient comes to it",
        "warning",
        lambda y: F.relu(y.half() - labels(99, 0, 0).half())[:, 0].sum(),
        lambda y: F.relu(y.half() - labels(0, 0, 99).half())[:, 0].sum(),
    ),
    "another operation": (
        "the slope of polygamma is 0 at all of its values",
        "warning",
        lambda y: torch.polygamma(1, y.double().abs() + 1e200).sum(),
        lambda y: torch.polygamma(1, y.double().abs() + 1).sum(),
    ),
}


@each("kind", PROGRAMS)
def test_a_gradient_of_zero_is_told_with_its_reason_and_one_that_is_not_is_not(kind):
    reason, severity, flat, sloped = PROGRAMS[kind]
    model = Layer()
    loss = flat(model.out)
    (found,) = [f for f in diagnose(loss, model.layer) if f.code == "zero-derivative"]
    assert found.severity == severity
    if "parameter" not in reason:  # without inputs it is said of the Node
        assert any(reason in each.message for each in diagnose(loss))
    assert reason in found.message or reason == "always sends zero"
    loss.backward()
    assert model.layer.weight.grad.abs().max() < 1e-6  # of a softmax it is rounded

    model = Layer()
    loss = sloped(model.out)
    assert not OF_VALUES & {found.code for found in diagnose(loss, model.layer)}
    loss.backward()
    assert model.layer.weight.grad.abs().max() > 1e-6


def test_the_second_derivative_of_a_relu_is_told_as_such():
    x, w = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    for activation in (F.relu, F.softplus):
        (slope,) = torch.autograd.grad(activation(x * w).sum(), w, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), w, retain_graph=True)
        (last,) = torch.autograd.grad((slope / x.detach()).sum(), x, retain_graph=True)
        found = [f for f in diagnose(slope.sum(), w) if f.code == "zero-derivative"]
        assert bool(found) == (not second.any()) and last.any()
        assert all("(the second derivative of relu is 0)" in each.message for each in found)
        assert all("softplus" in each.cure for each in found)


@each(
    ("write", "is_whole"),
    [
        (lambda y: y[:4].zero_(), True),
        (lambda y: y[:3].zero_(), False),
        (lambda y: y.view(-1).__setitem__(slice(None), 0.0), True),
        (lambda y: y.view(-1).__setitem__(slice(1, None), 0.0), False),
        (lambda y: y.view(-1).copy_(ones(12)), True),
        (lambda y: y.view(-1).mul_(0.5), False),
    ],
)
def test_what_is_written_over_all_of_a_view_is_told_with_a_watch(write, is_whole):
    model = Layer()
    with watch() as watched:
        y = model.out * 2
        write(y)
        loss = y.sum()
    assert y.grad_fn.name().endswith("CopySlices")
    found = diagnose(loss, model.layer, watch=watched)
    assert [each.code for each in found] == ["zero-derivative"] * is_whole
    assert all("every element is overwritten" in each.message for each in found)
    loss.backward()
    assert model.layer.weight.grad.any() != is_whole


def test_a_view_whose_writing_may_have_saved_something_is_not_asked():
    model, calls = Layer(), []
    hooks = (lambda t: t), (lambda t: calls.append(t) or t)
    with watch() as watched, torch.autograd.graph.saved_tensors_hooks(*hooks):
        y = model.out * 2
        y.view(-1)[torch.arange(12)] = 0.0
        y.view(-1).mul_(model.out.sum())
        loss = y.sum()
    assert not OF_VALUES & {f.code for f in diagnose(loss, model.layer, watch=watched)}
    assert calls == []


def test_an_embedding_of_padding_alone_gets_zero():
    table = nn.Embedding(4, 3, padding_idx=0)
    (found,) = diagnose(table(labels(0, 0)).sum(), table)
    assert "every index is padding_idx" in found.message
    assert not diagnose(table(labels(0, 1)).sum(), table)
    assert not diagnose(nn.Embedding(4, 3)(labels(0, 0)).sum())


def test_an_operation_of_which_one_result_has_no_element_is_not_empty():
    chosen, others = Layer().out.split([0, 4])
    assert not OF_VALUES & {f.code for f in diagnose(chosen.sum() + others.sum())}
    assert "split" in diagnose(Layer().out.split([0, 4])[0].sum())[0].message


def test_of_two_weights_that_are_zero_one_gets_no_gradient_because_of_the_other():
    down, up = (nn.Linear(3, 3, bias=False) for _ in range(2))
    nn.init.zeros_(up.weight)
    (found,) = diagnose(up(down(ones(2, 3))).sum(), down, up)
    assert found.severity == "info" and "down.weight" in found.message  # as in LoRA: up learns
    nn.init.zeros_(down.weight)
    of_up, of_down = diagnose(up(down(ones(2, 3))).sum(), down, up)
    assert (of_up.severity, of_down.severity) == ("warning", "info")  # neither does
    assert "up.weight passes" in of_up.message and "down.weight passes" in of_down.message


@each(
    ("loss_of", "said"),
    [
        (lambda y: F.cross_entropy(y, labels(-100, -100, -100, -100)), "every label is ignore"),
        (lambda y: y[nothing].mean(), "the mean of no element is NaN"),
        (lambda y: y[nothing].mean(0).sum(), "the mean of no element is NaN"),
        (lambda y: F.smooth_l1_loss(y[nothing], zeros(0, 3)), "the mean of no element is NaN"),
    ],
)
def test_a_mean_over_nothing_is_told_before_the_loss_that_is_nan(loss_of, said):
    model = Layer()
    loss = loss_of(model.out)
    assert loss.isnan()
    cause, consequence = diagnose(loss, model.layer)
    assert cause.message.startswith(said)
    assert consequence.message == "the output itself is infinite or NaN"


def test_a_mean_of_nothing_that_gives_nothing_is_no_nan():
    model = Layer()
    loss = model.out.sum() + model.out[nothing].mean(1).sum()
    assert loss.isfinite() and not diagnose(loss, model.layer)


@pytest.mark.filterwarnings("ignore:std")
def test_nan_that_std_of_one_element_gave_is_told_there_alone_and_is_no_dead_relu():
    model = nn.Linear(3, 2)
    loss = F.relu(1 - model(ones(1, 3)).std(0)).mean()
    cause, consequence = diagnose(loss, model)
    assert "std or var of one element" in cause.message
    assert consequence.message == "the output itself is infinite or NaN"


def test_a_zero_of_another_reason_is_not_laid_to_float16():
    for f in (F.relu, lambda y: F.relu(y) * 1e-3):
        model = Layer()
        found = diagnose(f((model.out - 100).half()).float().sum(), model.layer)
        assert {each.code for each in found} == {"dead-relu", "half-precision"}


def test_of_many_parts_that_are_written_none_is_asked():
    model = Layer()
    with watch() as watched:
        y = model.out.repeat(10, 1)
        for row in range(40):
            y[row] = 0.0
        y.view(-1).zero_()
    assert not OF_VALUES & {each.code for each in diagnose(y.sum(), model.layer, watch=watched)}


def test_of_an_output_of_several_elements_no_sum_is_known():
    model = Layer()
    assert not OF_VALUES & {each.code for each in diagnose(model.out.softmax(1), model.layer)}
    assert not OF_VALUES & {each.code for each in diagnose(2 * model.out.softmax(1), model.layer)}


def test_what_cancels_above_another_way_to_the_same_tensor_is_no_zero():
    model = Layer()
    y = model.out
    for other in (y.sum(), model.layer(torch.ones(3)).sum(), model.layer.weight.sum()):
        loss = (y.exp().log() - y).sum() + y.softmax(1).sum() + other
        assert not OF_VALUES & {each.code for each in diagnose(loss, model.layer.weight)}


def test_a_network_below_what_cancels_gets_nothing_however_deep_it_is():
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(40)])
    y = model(torch.randn(4, 3))
    (found,) = diagnose(F.normalize(y, dim=1).square().sum(), model)
    assert "what comes to 80 parameters" in found.message and "target" in found.cure


@pytest.mark.parametrize(
    "f", [lambda p: (1 - p).log().mean(), lambda p: p.logit().sum(), lambda p: (1 - p).sqrt().sum()]
)
def test_a_softmax_over_one_comes_before_the_infinity_or_nan_that_it_gave(f):
    model = nn.Linear(3, 1)
    first, *others = diagnose(f(model(torch.randn(4, 3)).softmax(1)), model)
    assert "goes over one element" in first.message and "sigmoid" in first.cure
    assert others[0].code == "nan-risk"
    model = nn.Linear(3, 2)
    assert diagnose(f(model(100 * torch.randn(4, 3)).softmax(1)), model)[0].code == "nan-risk"


def test_a_gradient_too_small_for_a_float_is_no_flat_part_and_cancels_nothing():
    model = Layer()
    loss = (model.out * 1e-30 * 1e-30).sum()
    assert not OF_VALUES & {each.code for each in diagnose(loss, model.layer)}
    scalar = torch.ones((), requires_grad=True)  # has no dimension to take the sum over
    assert diagnose(scalar.sum(0).mean(0), scalar).ok


@pytest.mark.parametrize(
    "stop",
    [
        lambda r: r.clamp(max=20),
        lambda r: torch.where(r > 20, 20.0, r),
        lambda r: r.masked_fill(r > 20, 20.0),
    ],
)
def test_where_the_largest_element_alone_is_stopped_the_rest_of_the_gradient_is_no_rounding(stop):
    """As the ratio of a policy that was clipped: one element is huge, and gets no gradient."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0]]))
    ratio = layer(torch.tensor([[50.0, 70.0], [0.1, 0.2], [0.3, -0.1]])).squeeze(1)
    loss = (stop(ratio).exp() * torch.tensor([-1.0, 0.5, 0.25])).mean()
    assert not OF_VALUES & {each.code for each in diagnose(loss, layer)}
    loss.backward()
    assert layer.weight.grad.abs().max() > 1e-4
