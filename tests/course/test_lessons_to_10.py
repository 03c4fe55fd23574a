"""Sentences of lessons 0 to 10 that no snippet of theirs shows."""

import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import GradientEdge, saved_tensors_hooks

from companion import Graph, record_backward


def test_a_pass_can_begin_at_any_node():
    """Lesson 1, step 3: also at one whose tensor is gone, and at that of a leaf."""
    x = torch.ones(2, 2, requires_grad=True)
    loss = (torch.mm(x, torch.ones(2, 1)) + 2.0).mean()
    for node in Graph.of(loss).nodes:
        x.grad = None
        root, given = GradientEdge(node.grad_fn, 0), torch.ones(node.shape)
        torch.autograd.backward([root], [given], retain_graph=True)
        assert x.grad is not None and x.grad.count_nonzero() == 4


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_pass_adds_in_place_but_for_one_with_create_graph(create_graph):
    """Lesson 3, question 1."""
    weight = torch.ones(1, requires_grad=True)
    (2 * weight).backward()
    before = weight.grad
    with warnings.catch_warnings(action="ignore"):  # of a cycle, which the last line ends
        (3 * weight).backward(create_graph=create_graph)
    assert weight.grad == 5 and (weight.grad is before) != create_graph
    assert before == (2 if create_graph else 5)
    weight.grad = None


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_graph_of_a_micro_batch_is_gone_before_the_next_is_computed(parts):
    """Lesson 3, step 4: so what is saved at one time is what one part saves."""
    weight = torch.ones(1, requires_grad=True)
    kept, most = weakref.WeakSet(), 0

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def keep(tensor):
        nonlocal most
        saved = Kept(tensor)
        kept.add(saved)
        most = max(most, sum(each.tensor.numel() for each in kept if each.tensor.numel() > 1))
        return saved

    with saved_tensors_hooks(keep, lambda saved: saved.tensor):
        for part in torch.ones(8).chunk(parts):
            (((weight * part).exp().mean()) / parts).backward()
    assert most == 2 * 8 / parts  # the factor of the product, and the result of exp


def test_of_a_nudge_to_both_sides_the_errors_partly_cancel():
    """Lesson 4, Break it."""
    x, h = torch.tensor(2.0, dtype=torch.float64), 0.001
    slope = 3 * x**2
    one_side = ((x + h) ** 3 - x**3) / h - slope
    both_sides = ((x + h) ** 3 - (x - h) ** 3) / (2 * h) - slope
    assert 0 < both_sides.abs() < one_side.abs() / 1000


def test_a_factor_that_was_changed_in_place_is_noticed():
    """Lesson 4, question 4: the call itself raises where gradients are on."""
    x, y = (torch.tensor(v, requires_grad=True) for v in (2.0, 3.0))
    product = x * y
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        y.fill_(100.0)
    with torch.no_grad():
        y.fill_(100.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("in_one_pass", [True, False])
def test_with_retain_graph_the_trunk_runs_once_for_each_loss(in_one_pass):
    """Lesson 5, Break it."""
    trunk, heads = nn.Linear(3, 2), [nn.Linear(2, 1) for _ in range(2)]
    shared, runs = torch.tanh(trunk(torch.ones(4, 3))), []
    shared.grad_fn.register_prehook(lambda _: runs.append("ran"))
    losses = [head(shared).square().mean() for head in heads]
    if in_one_pass:
        sum(losses).backward()
    else:
        losses[0].backward(retain_graph=True)
        losses[1].backward()
    assert len(runs) == (1 if in_one_pass else 2)


@pytest.mark.parametrize("hooked", [False, True])
def test_the_last_node_of_a_failed_pass_raised_unless_a_hook_did(hooked):
    """Lesson 6, Break it."""
    x = torch.ones(1, requires_grad=True)
    square = x * x
    if hooked:
        square.register_hook(lambda gradient: 1 / 0)
    else:
        square.backward()
    with pytest.raises(ZeroDivisionError if hooked else RuntimeError) as raised:
        record_backward(square.sin())
    recording = raised.value.recording
    names = [recording.graph.nodes[step.node].name for step in recording.steps]
    assert names == ["SinBackward0"] + ["MulBackward0"] * (not hooked)


@pytest.mark.parametrize("options", [{"weight_decay": 0.5}, {}])
def test_adam_skips_none_and_moves_what_has_a_zero(options):
    """Lesson 8, step 2: by weight decay, and by what it remembers of the last step."""
    p = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([p], **options)
    if not options:
        p.grad = torch.ones(1)
        optimizer.step()
    for gradient, moves in ((None, False), (torch.zeros(1), True)):
        before, p.grad = p.detach().clone(), gradient
        optimizer.step()
        assert (p != before) == moves


class Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, needs):
        ctx.save_for_backward(x)
        ctx.needs = needs
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] ** 0 if ctx.needs else 1), None


@pytest.mark.parametrize("needs", [True, False])
def test_a_node_that_needs_what_it_saved_serves_one_pass(needs):
    """Lesson 8, In short: "needs", since one that saved a tensor for nothing serves another."""
    x = torch.ones(1, requires_grad=True)
    y = Copy.apply(x, needs)
    y.backward()
    assert [saved.state for saved in Graph.of(y).nodes[0].saved] == ["freed"]
    if needs:
        with pytest.raises(RuntimeError, match="a second time"):
            y.backward()
    else:
        y.backward()
        assert x.grad == 2


def test_only_the_flag_of_a_leaf_can_be_set():
    """Lesson 9, step 3."""
    leaf = torch.ones(1, requires_grad=True)
    result = leaf * 2
    with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf"):
        result.requires_grad_(False)
    leaf.requires_grad_(False)
    assert result.requires_grad and not leaf.requires_grad


def test_under_inference_mode_only_tensors_on_new_memory_are_marked_and_not_counted():
    """Lesson 9, step 2, and the glossary."""
    old = torch.ones(3)
    with torch.inference_mode():
        new, view = old * 2, old[1:]
        view.add_(1)
    assert new.is_inference() and new[1:].is_inference()
    assert not view.is_inference() and old._version == 1
    with pytest.raises(RuntimeError, match="do not track version counter"):
        print(new._version)
    assert not new.clone().is_inference()


@pytest.mark.parametrize("gradients_off", [torch.no_grad, torch.inference_mode])
def test_a_view_made_while_gradients_are_off_requires_grad_and_gets_none(gradients_off):
    """Lesson 9, question 3, and the glossary, grad mode."""
    x = torch.ones(3, requires_grad=True)
    with gradients_off():
        view = x[1:]
    assert view.requires_grad and view.is_leaf
    product = view * 2
    assert product.grad_fn.next_functions == ((None, 0), (None, 0))
    product.sum().backward()
    assert view.grad is None and x.grad is None


def messages(line):
    with warnings.catch_warnings(record=True, action="always") as caught:
        line()
    return [str(warning.message) for warning in caught]


def test_of_the_lines_that_leave_pytorch_two_share_a_warning_that_is_given_once():
    """Lesson 10, step 2. Another test may have had it, and torch can be told to repeat it."""
    t = torch.ones((), requires_grad=True)
    lines = {
        "torch.tensor": lambda: torch.tensor([t, t]),
        "float": lambda: float(t),
        "item": lambda: t.item(),
        "int": lambda: int(t),
    }
    assert sum(len(messages(line)) for line in [*lines.values()] * 2) <= 1
    torch.set_warn_always(True)
    try:
        given = {name: set(messages(line)) for name, line in lines.items()}
    finally:
        torch.set_warn_always(False)
    assert given["float"] == given["torch.tensor"] and not given["item"] | given["int"]
    (message,) = given["float"]
    assert message.startswith("Converting a tensor with requires_grad=True to a scalar")


class SendsNone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def test_zeros_without_a_path_and_none_in_spite_of_one():
    """Lesson 10, step 1: the exceptions, and what ``materialize_grads`` does (question 4)."""
    used, unused = (torch.ones(1, requires_grad=True) for _ in range(2))
    unused.grad = torch.ones(1)
    torch.optim.SGD([used, unused]).zero_grad(set_to_none=False)
    (used * 2).backward()
    assert unused.grad == 0

    silent = torch.ones(1, requires_grad=True)
    (SendsNone.apply(silent) + used).backward()
    assert silent.grad is None

    late = torch.ones(1, requires_grad=True)
    loss = late * 2
    late.requires_grad_(False)
    loss.backward()
    assert late.grad is None

    of_grad = torch.autograd.grad(used * 2, unused, allow_unused=True, materialize_grads=True)
    assert of_grad[0] == 0
