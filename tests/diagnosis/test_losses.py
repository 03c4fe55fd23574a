"""That a loss which is given what it does not take is told, and one that is right is not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion import diagnose

CODES = {"broadcast", "probabilities"}
X, LABELS, TARGETS = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), torch.rand(6, 1)


def told(loss, layer):
    return [found for found in diagnose(loss, layer) if found.code in CODES]


# A loss of logits that takes probabilities, and what it should be given.
PROBABILITIES = [
    ("softmax", lambda x: F.cross_entropy(x.softmax(-1), LABELS),
     lambda x: F.cross_entropy(x, LABELS)),
    ("softmax", lambda x: F.cross_entropy(x.softmax(1), LABELS, label_smoothing=0.1),
     lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1)),
    ("softmax", lambda x: x.view(2, 3, 3).softmax(-1).log_softmax(2).sum(),
     lambda x: x.view(2, 3, 3).log_softmax(2).sum()),
    ("softmax", lambda x: F.cross_entropy(x.view(2, 3, 3).softmax(-1).view(-1, 3), LABELS),
     lambda x: F.cross_entropy(x.view(2, 3, 3).view(-1, 3), LABELS)),
    ("softmax", lambda x: F.cross_entropy(x.view(1, 3, 2, 3).softmax(1), LABELS.view(1, 2, 3)),
     lambda x: F.cross_entropy(x.view(1, 3, 2, 3), LABELS.view(1, 2, 3))),
    ("softmax", lambda x: F.nll_loss(x.softmax(-1), LABELS),
     lambda x: F.nll_loss(F.log_softmax(x, -1), LABELS)),
    ("sigmoid", lambda x: F.binary_cross_entropy_with_logits(x[:, :1].sigmoid(), TARGETS),
     lambda x: F.binary_cross_entropy_with_logits(x[:, :1], TARGETS)),
    ("sigmoid", lambda x: F.binary_cross_entropy_with_logits(x[:, 0].sigmoid(), TARGETS[:, 0]),
     lambda x: F.binary_cross_entropy_with_logits(x[:, 0], TARGETS[:, 0])),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(PROBABILITIES)))
def test_a_loss_of_logits_that_is_given_probabilities_is_told(number):
    operation, loss_of, cured = PROBABILITIES[number]
    layer = nn.Linear(4, 3)
    (found,) = told(loss_of(layer(X)), layer)
    assert (found.code, found.severity) == ("probabilities", "warning")
    assert found.message.endswith(f"was given what {operation} gave")
    assert not told(cured(layer(X)), layer)


@pytest.mark.parametrize("loss_of", [F.mse_loss, F.huber_loss, F.smooth_l1_loss])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_over_all_pairs_of_outputs_and_targets_is_told(loss_of):
    layer = nn.Linear(4, 1)
    outputs = layer(X)
    for loss in (loss_of(outputs, TARGETS.squeeze(1)), loss_of(outputs.squeeze(1), TARGETS)):
        (found,) = told(loss, layer)
        assert (found.code, found.severity) == ("broadcast", "warning")
        assert "(6, 6)" in found.message
    for loss in (loss_of(outputs.squeeze(1), TARGETS.squeeze(1)), loss_of(outputs, TARGETS)):
        assert not told(loss, layer)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_difference_over_all_pairs_may_be_meant_so_and_is_an_info():
    layer, flat = nn.Linear(4, 1), TARGETS.squeeze(1)
    outputs = layer(X)
    for loss in (
        (outputs - flat).square().mean(),
        (flat - outputs).abs().mean(),
        (TARGETS - outputs.squeeze(1)).square().mean(),
        F.l1_loss(outputs, flat),
    ):
        (found,) = told(loss, layer)
        assert (found.code, found.severity) == ("broadcast", "info")
        assert "was broadcast to (6, 6)" in found.message


# Losses that are right although they look alike.
RIGHT = [
    lambda x: F.cross_entropy(x.softmax(-1) @ torch.ones(3, 3), LABELS),
    lambda x: x.softmax(0).log_softmax(1).sum(),
    lambda x: F.nll_loss((x.softmax(-1) + 1e-9).log(), LABELS),
    lambda x: F.kl_div(x.log_softmax(-1), x.softmax(-1).detach(), reduction="batchmean"),
    lambda x: F.binary_cross_entropy(x.sigmoid(), TARGETS.expand(6, 3)),
    lambda x: F.mse_loss(x, x.mean(0, keepdim=True).expand(6, 3)),
    lambda x: F.mse_loss(x[:, :1].expand(6, 3), torch.ones(6, 3)),
    lambda x: F.mse_loss(x[:1, :1], TARGETS[:1]),
    lambda x: (x[:, None] - x[None]).square().sum(),
    lambda x: (x[:3] - x[:3].mean(0)).square().sum(),
    lambda x: (x[:3] - x[:3].mean(1, keepdim=True)).square().sum(),
    lambda x: (x[:, :1] - torch.rand(4)).square().sum(),
    lambda x: (x[:3] - 1.0).square().sum(),
    lambda x: (x[0] - torch.rand(3)).square().sum(),
]


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_a_loss_that_is_right_is_not_told(number):
    layer = nn.Linear(4, 3)
    assert not told(RIGHT[number](layer(X)), layer)


def test_the_mean_of_a_square_matrix_is_a_leaf_that_may_well_be_broadcast():
    mean = torch.zeros(3, requires_grad=True)
    assert not told((torch.rand(3, 3) - mean).square().mean(), mean)
