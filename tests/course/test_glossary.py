"""Sentences of the glossary that no lesson proves, and that were once wrong."""

import pytest
import torch
from torch import nn


@pytest.mark.parametrize(("fused", "moves"), [(False, True), (True, False)])
def test_a_fused_optimiser_moves_no_version_counter(fused, moves):
    """In-place operation, which names it as an exception."""
    weight = torch.ones(1, requires_grad=True)
    (weight * weight).sum().backward()
    version = weight._version
    torch.optim.SGD([weight], lr=0.1, fused=fused).step()
    assert weight.item() != 1.0
    assert (weight._version != version) == moves


def test_the_running_statistics_of_a_batch_norm_move_no_version_counter():
    norm = nn.BatchNorm1d(1)
    version = norm.running_var._version
    norm(torch.tensor([[1.0], [5.0]]))
    assert norm.running_var.item() != 1.0 and norm.running_var._version == version


class Round(torch.autograd.Function):
    """Saves what its backward reads or does not read."""

    @staticmethod
    def forward(ctx, x, reads):
        ctx.save_for_backward(x)
        ctx.reads = reads
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + (0 * ctx.saved_tensors[0] if ctx.reads else 0), None


@pytest.mark.parametrize("reads", [True, False])
def test_a_node_refuses_what_it_reads_and_was_changed(reads):
    """Version counter: "refuses to read", since a Node that never reads it runs."""
    x = torch.ones(2, requires_grad=True)
    h = x * 1
    y = Round.apply(h, reads)
    with torch.no_grad():
        h.add_(1)
    if reads:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    else:
        y.sum().backward()
        assert x.grad.tolist() == [1, 1]


class Best(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        index = x.argmax()
        ctx.mark_non_differentiable(index)
        return index, "a name", x * 2

    @staticmethod
    def backward(ctx, _index, _name, gradient):
        return gradient * 2


def test_a_custom_function_counts_all_that_it_returns():
    """input_nr: torch's own operations count those that can have a gradient."""
    index, _, doubled = Best.apply(torch.ones(2, requires_grad=True))
    assert not index.requires_grad and doubled.output_nr == 2
    assert (doubled * 1).grad_fn.next_functions[0][1] == 2


def test_a_leaf_whose_dtype_was_changed_has_another_accumulategrad():
    """AccumulateGrad: one for a leaf, until ``model.double()`` and its like."""
    model = nn.Linear(2, 1, bias=False)
    before = model.weight * 1
    model.double()
    after = model.weight * 1
    ends = [y.grad_fn.next_functions[0][0] for y in (before, after)]
    assert ends[0].variable is ends[1].variable is model.weight
    assert ends[0] is not ends[1]


def test_an_accumulategrad_lives_as_long_as_a_graph_leads_to_it():
    """AccumulateGrad: a leaf has one while a graph does; ``metadata`` goes with the Node."""
    leaf = torch.ones(1, requires_grad=True)
    first, second = leaf * 2, leaf * 3
    end = first.grad_fn.next_functions[0][0]
    assert second.grad_fn.next_functions[0][0] is end
    end.metadata["seen"] = True
    del end, first, second
    assert (leaf * 2).grad_fn.next_functions[0][0].metadata == {}
