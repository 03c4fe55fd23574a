"""What is said of a constant, by the part that it has in the output."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable
from torch.func import functional_call

from companion import diagnose, watch
from tests.cases import each


def classifier():
    torch.manual_seed(0)
    return nn.Linear(4, 3), torch.randn(8, 4), torch.arange(8) % 3


def accuracy(logits, target, weight):
    return (logits.argmax(1) != target).float().mean()


def overlap_above_a_threshold(logits, target, weight):
    chosen = (logits.sigmoid() > 0.5).float()
    return 1 - 2 * (chosen[:, 0] * target).sum() / (chosen.sum() + target.sum())


def features_without_gradients(logits, target, weight):
    with torch.no_grad():
        return F.mse_loss(logits.tanh(), torch.ones(8, 3))


def decay_by_data(logits, target, weight):
    return weight.data.norm()


def norms_in_a_new_tensor(logits, target, weight):
    return torch.tensor([row.norm() for row in weight]).sum()


TERMS = [
    accuracy,
    overlap_above_a_threshold,
    features_without_gradients,
    decay_by_data,
    norms_in_a_new_tensor,
]
SUMS = {
    "added": lambda loss, term: loss + 0.5 * term,
    "subtracted": lambda loss, term: 2 * (loss - term) / 3,
    "in place": lambda loss, term: loss.clone().add_(term),
    "stacked": lambda loss, term: torch.stack([loss, torch.as_tensor(term)]).mean(),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@each("how", SUMS)
@each("term", TERMS)
def test_a_term_that_changes_no_gradient_is_a_warning(term, how):
    net, x, target = classifier()
    (alone,) = torch.autograd.grad(SUMS[how](F.cross_entropy(net(x), target), 0.0), net.weight)
    with watch() as watched:
        logits = net(x)
        loss = SUMS[how](F.cross_entropy(logits, target), term(logits, target, net.weight))
    found, *others = diagnose(loss, net, watch=watched)
    assert found.severity == "warning" and "changes no gradient" in found.message and not others
    (gradient,) = torch.autograd.grad(loss, net.weight)
    assert torch.equal(gradient, alone)


def test_a_number_of_a_tensor_that_is_only_added_is_a_warning():
    net, x, target = classifier()
    with watch() as watched:
        logits = net(x)
        loss = F.cross_entropy(logits, target) + logits.exp().mean().item()
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.severity, found.code) == ("warning", "left-torch")
    assert "changes no gradient" in found.message


def surrogate(logits, target):
    loss = F.cross_entropy(logits, target)
    return loss + (accuracy(logits, target, None) - loss).detach()


def magic_box(logits, target):
    loss = F.cross_entropy(logits, target)
    return (loss - loss.detach()).exp() + loss


def divergence_from_a_constant(logits, target):
    p = logits.detach().softmax(1)
    return (p * p.log()).sum(1).mean() - (p * (logits / 2).log_softmax(1)).sum(1).mean()


def load_balance(logits, target):
    share = F.one_hot(logits.argmax(1), 3).float().mean(0)
    return F.cross_entropy(logits, target) + (share * logits.softmax(1).mean(0)).sum()


def elementwise(logits, target):
    return (logits - logits.tanh().detach()).mean()


@each("use", [surrogate, magic_box, divergence_from_a_constant, load_balance, elementwise])
def test_a_constant_that_is_more_than_a_term_is_a_note(use):
    net, x, target = classifier()
    with watch() as watched:
        loss = use(net(x), target)
    assert {found.severity for found in diagnose(loss, net, watch=watched)} == {"info"}


def test_a_number_beside_its_own_tensor_is_a_scale_and_a_note():
    net, x, target = classifier()
    with watch() as watched:
        logits = net(x)
        first, second = F.cross_entropy(logits, target), logits.square().mean()
        loss = first / first.item() + second / second.item()
    found = diagnose(loss, net, watch=watched)
    assert [(each.severity, each.code) for each in found] == [("info", "left-torch")] * 2
    assert found[0].cure.startswith("nothing, where you mean a constant")


def test_a_number_whose_tensor_has_no_other_way_stays_a_warning():
    net, x, _ = classifier()
    with watch() as watched:
        logits = net(x)
        loss = (logits / logits.max().item()).square().mean()
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.severity, found.code) == ("warning", "left-torch")


def test_a_sum_of_a_thousand_terms_is_looked_through():
    w = torch.ones(2, requires_grad=True)
    with watch() as watched:
        loss = torch.zeros(())
        for _ in range(1000):
            loss = loss + w.sum() + w.sum().detach()
    (found,) = diagnose(loss, w, watch=watched)
    assert "(1000 times)" in found.message and "changes no gradient" in found.message


# ---- a tensor of its own in the memory of a result, made by a call that no mode sees


APART = {
    "Variable": Variable,
    "Variable that requires grad": lambda h: Variable(h, requires_grad=True),
    "subclass": lambda h: torch.Tensor._make_subclass(torch.Tensor, h),
}


@each("make", APART)
def test_a_result_that_was_made_a_tensor_of_its_own_is_a_cut(make):
    layer, x, _ = classifier()
    head = nn.Linear(3, 1)
    with watch() as watched:
        h = APART[make](layer(x))
        loss = head(h).sum()
    (found,) = [f for f in diagnose(loss, layer, head, watch=watched) if f.severity == "error"]
    assert found.code == "detached" and found.source.text == "layer(x)"
    assert found.message.startswith("Variable(), or a copy in the same memory, gives the value")
    loss.backward()
    assert layer.weight.grad is None


def test_a_loss_that_was_made_a_variable_is_told_with_the_line_of_what_it_was():
    layer, x, _ = classifier()
    with watch() as watched:
        mean = layer(x).square().mean()
        loss = Variable(mean, requires_grad=True)
    first = diagnose(loss, layer, watch=watched)[0]
    assert (first.severity, first.code) == ("error", "detached")
    assert first.source.text == "layer(x).square().mean()"
    del watched, mean
    assert "Variable()" in diagnose(loss, layer)[0].cure


def test_a_variable_of_data_or_without_gradients_is_no_cut():
    layer, x, _ = classifier()
    with watch() as watched:
        with torch.no_grad():
            mean = Variable(layer(x).mean())
        loss = layer(Variable(x)).square().mean() + float(mean)
    assert all(cut.code != "detached" for cut in watched.cuts)
    assert diagnose(loss, layer, watch=watched).ok


def test_what_a_transform_gives_is_no_variable():
    layer, x, _ = classifier()
    fixed = {name: p.detach().clone() for name, p in layer.named_parameters()}
    energy = lambda row: functional_call(layer, fixed, row).square().sum()  # noqa: E731
    with watch() as watched:
        forces = torch.vmap(torch.func.grad(energy))(x)
        loss = (forces - 1).square().mean()
    assert not watched.cuts and not watched.reaching(loss)
    assert "Variable" not in str(diagnose(loss, layer, watch=watched))


# ---- the cause before what came of it


def test_the_cut_comes_before_the_leaf_that_was_made_of_its_result():
    layer, x, target = classifier()
    with watch() as watched:
        loss = 1 - (layer(x).argmax(1) == target).float().mean()
        loss.requires_grad_()
    first, second = diagnose(loss, layer, watch=watched)
    assert (first.code, second.code) == ("not-differentiable", "leaf-output")
    assert first.source.text == "layer(x).argmax(1)" and "smooth stand-in" in first.cure
    loss.backward()
    assert layer.weight.grad is None
    with watch() as watched:
        loss = F.cross_entropy(layer(x), target).data.requires_grad_()
    assert [found.code for found in diagnose(loss, layer, watch=watched)][0] == "detached"


def test_of_two_cuts_before_an_output_that_of_an_input_is_told():
    queries, x, _ = classifier()
    keys = nn.Linear(4, 3)
    with watch() as watched:
        with torch.no_grad():
            k = keys(x)
        q = queries(x).detach()
        loss = (q * k).sum()
    first = diagnose(loss, queries, watch=watched)[0]
    assert first.code == "no-graph" and first.source.text == "queries(x).detach()"
    first = diagnose(loss, keys, watch=watched)[0]
    assert first.code == "no-graph" and first.source.text == "keys(x)"


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_loss_on_an_average_of_weights_is_laid_to_the_copy_and_not_to_its_update(is_frozen):
    layer, x, target = classifier()
    with watch() as watched:
        average = copy.deepcopy(layer).requires_grad_(not is_frozen)
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), layer.parameters(), strict=True):
                mean.mul_(0.9).add_(weight, alpha=0.1)
        loss = F.cross_entropy(average(x), target)
    diagnosis = diagnose(loss, layer, watch=watched)
    assert [found.severity for found in diagnosis].count("error") == 1
    assert diagnosis[0].message.count("copy.deepcopy() copies the values into new leaves")
    assert "copy.deepcopy(layer)" in diagnosis[0].source.text
    assert "run the model itself" in diagnosis[0].cure


def test_what_is_written_into_a_copy_of_another_tensor_is_the_cause_of_its_own_loss():
    layer, x, target = classifier()
    shift = torch.zeros(layer.bias.shape, requires_grad=True)
    with watch() as watched:
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            twin.bias.add_(shift.exp())
        loss = F.cross_entropy(twin(x), target)
    diagnosis = diagnose(loss, layer, shift, watch=watched)
    lines = {found.source.text: found.message for found in diagnosis if found.severity == "error"}
    assert "the parameters weight and bias get no" in lines["copy.deepcopy(layer)"]
    (message,) = (lines[line] for line in lines if line != "copy.deepcopy(layer)")
    assert "shift gets no gradient" in message


def test_of_a_deep_copy_that_is_given_nothing_is_told():
    layer, x, target = classifier()
    with watch() as watched:
        twin = copy.deepcopy(layer)
        loss = F.cross_entropy(twin(x), target)
    assert not diagnose(loss, twin, watch=watched)
    (found,) = diagnose(loss, layer, watch=watched)
    assert (found.severity, found.code) == ("error", "copied")
    (found,) = diagnose(loss, watch=watched)
    assert (found.severity, found.code) == ("warning", "copied")
