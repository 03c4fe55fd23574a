"""saved.py: what a Node saved, and in which state that is."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from companion import Graph, SavedTensor, saved_memory
from companion.graph.saved import held_by, peek


class Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


def test_a_product_saves_its_factors_with_their_shapes_and_versions():
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    w = torch.ones(3, 5, dtype=torch.float64, requires_grad=True)
    assert Graph.of(x @ w).nodes[0].saved == (
        SavedTensor("mat2", (3, 5), torch.float64, 8 * 15, 0, "kept"),
        SavedTensor("self", (2, 3), torch.float64, 8 * 6, 0, "kept"),
    )


def test_a_sum_saves_nothing():
    x = torch.ones(2, requires_grad=True)
    assert Graph.of((x + x).sum()).saved_nbytes == 0


def test_what_was_freed_is_said_to_be_and_counts_nothing():
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    y.sum().backward()
    graph = Graph.of(y)
    assert graph.nodes[0].saved == (SavedTensor("result", None, None, 0, None, "freed"),)
    assert graph.saved_nbytes == 0


def test_what_was_modified_in_place_is_said_to_be():
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    z = y * 1
    y.add_(1)
    (saved,) = Graph.of(z).nodes[-2].saved
    assert (saved.name, saved.version, saved.state) == ("result", 1, "modified in place")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_of_tensors_saved_as_one_list_an_untouched_one_is_still_kept():
    x = torch.ones(2, requires_grad=True)
    a, b = x * 1, x * 2
    y = Both.apply(a, b)
    a.add_(1)
    states = [saved.state for saved in Graph.of(y).nodes[0].saved]
    assert states == ["modified in place", "kept"]


def test_storages_without_memory_are_counted_one_by_one():
    class KeepsMeta(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(torch.empty(1000, device="meta"), torch.empty(10, device="meta"))
            return a * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    x = torch.ones(2, requires_grad=True)
    assert Graph.of(KeepsMeta.apply(x)).saved_nbytes == 4 * 1010


def test_saved_lists_and_those_of_a_custom_function_are_told_one_by_one():
    x = torch.ones(4, 4, requires_grad=True)
    index = torch.tensor([0, 1])
    assert [saved.name for saved in Graph.of(x[index, index]).nodes[0].saved] == [
        "indices[0]",
        "indices[1]",
    ]
    graph = Graph.of(Both.apply(x, x))  # which keeps the Node, up to torch 2.12
    assert [saved.name for saved in graph.nodes[0].saved] == [
        "saved_tensors[0]",
        "saved_tensors[1]",
    ]


def test_a_storage_that_several_nodes_keep_is_counted_once_and_whole():
    x = torch.ones(100, requires_grad=True)
    assert Graph.of(x.exp() * x.sin()).saved_nbytes == 3 * x.nbytes  # exp, sin and x itself
    assert Graph.of(x[:3] * x[:2].sum()).saved_nbytes == x.nbytes + 4


def test_a_sparse_saved_tensor_counts_its_indices_too():
    sparse = torch.eye(2).to_sparse()
    dense = torch.ones(2, 2, requires_grad=True)
    (saved,) = Graph.of(torch.sparse.mm(sparse, dense)).nodes[0].saved
    assert saved.nbytes == 2 * 2 * 8 + 2 * 4


def test_looking_at_saved_tensors_runs_unpack_hooks_and_reading_and_peeking_do_not():
    ran = []
    x = torch.ones(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, lambda t: ran.append("unpack") or t):
        y = x.exp()
    again = checkpoint(lambda t: (ran.append("forward"), t.exp())[1], x, use_reentrant=False)
    ran.clear()
    graph = Graph.of(y, again)
    assert graph.edges and graph.depth
    for root in graph.roots:
        seen = peek(root.grad_fn)
        assert seen.hooked and "result" not in seen.values
    assert ran == []
    assert [root.saved[0].name for root in graph.roots] == ["result", "result"]
    assert ran == ["unpack", "forward"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # once in a process
def test_a_nested_saved_tensor_without_a_shape_is_told_all_the_same():
    x = torch.ones(3, 2, requires_grad=True)
    nested = torch.nested.as_nested_tensor([x, x[:2]])
    (saved,) = Graph.of(torch.nested.to_padded_tensor(nested, 0.0)).nodes[0].saved
    assert (saved.shape, saved.nbytes) == (None, 5 * 2 * 4)


def test_a_peek_gives_numbers_too_and_says_why_a_tensor_cannot_be_used():
    x = torch.ones(2, 3, requires_grad=True)
    assert peek(x.sum(1).grad_fn).values["dim"] == (1,)
    y = x.exp()
    assert not peek(y.grad_fn).hooked and peek(y.grad_fn).values["result"] is not None
    z = y * 1
    y.add_(1)
    seen = peek(z.grad_fn.next_functions[0][0])
    assert seen.broken == {"result": "modified in place"}
    assert len(seen.changed) == 1 and torch.equal(seen.changed[0], y)
    z = x.exp()
    z.sum().backward()
    assert peek(z.grad_fn).broken == {"result": "freed"} and not peek(z.grad_fn).changed


def test_a_peek_reports_what_a_function_lost_whether_or_not_its_backward_asks_for_it():
    x = torch.ones(2, requires_grad=True)
    y = Both.apply(x, x)
    assert len(peek(y.grad_fn).values["saved_tensors"]) == 2 and not peek(y.grad_fn).broken
    y.sum().backward()
    assert peek(y.grad_fn).broken == {"saved_tensors": "freed"} and not peek(y.grad_fn).values


def test_what_is_held_is_told_without_hooks_whether_or_not_it_can_still_be_used():
    x = torch.ones(2, requires_grad=True)
    y, z = x.exp(), Both.apply(x, x)
    assert [name for name, _ in held_by(z.grad_fn)] == ["saved_tensors[0]", "saved_tensors[1]"]
    product = y * y.sin()
    y.add_(1)  # so that backward will refuse it
    assert [(name, held.shape) for name, held in held_by(product.grad_fn)] == [
        ("other", (2,)),
        ("self", (2,)),
    ]
    with saved_tensors_hooks(lambda t: 3, lambda _: pytest.fail("ran a hook")):
        hooked = x.exp()
    assert list(held_by(hooked.grad_fn)) == [("result", None)]
    z.sum().backward()
    assert list(held_by(z.grad_fn)) == []
    z = x.exp()
    z.sum().backward()
    assert list(held_by(z.grad_fn)) == []


def test_a_tensor_without_a_storage_of_the_usual_kind_keeps_no_bytes_of_one():
    leaf = torch.ones(2, 2).to_mkldnn().requires_grad_()
    loss = (leaf * leaf).to_dense().sum()
    assert Graph.of(loss).saved_nbytes == 0
    assert str(saved_memory(loss)) == "0 bytes in 0 storages"
