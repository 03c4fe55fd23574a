"""depth_first.py: what a walk would compute that goes on from each Node at once."""

import pytest
import torch
from hypothesis import example, given, settings
from torch.utils.checkpoint import checkpoint

from companion import record_backward
from companion.backward.depth_first import depth_first
from companion.backward.player_data import player_data
from companion.backward.player_steps import show
from tests.backward.models import RANDOM, built
from tests.cases import each


class Counted(torch.autograd.Function):
    """Counts how often its backward ran, and fails once it was freed."""

    ran = 0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        Counted.ran += 1
        return grad * 2 + 0 * ctx.saved_tensors[0]


def walk_of(recording):
    """The walk as a mode of a player; None where it has none."""
    modes = player_data(recording)["modes"]
    return next((mode for mode in modes if mode["title"].startswith("Depth first")), None)


# ---- what the walk computes


def test_depth_first_gives_54_where_the_engine_gives_36():
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 3.0
    y = a * 6.0 + a * 6.0
    walk = walk_of(record_backward(y, retain_graph=True))
    assert x.grad == 36.0
    assert [step["grad"] for step in walk["steps"] if step["grad"]] == [
        ["None", "18"],
        ["18", "54"],
    ]


def naive(y):
    """The same mistake, written as a recursion: what arrives is added, and passed on at once."""
    buffers, grads = {}, {}

    def visit(fn, nr, gradient):
        if type(fn).__name__ == "AccumulateGrad":
            if gradient is not None:
                grads[fn] = grads.get(fn, 0) + gradient
            return
        held = buffers.setdefault(fn, [None] * len(fn._input_metadata))
        if gradient is not None:
            held[nr] = gradient if held[nr] is None else held[nr] + gradient
        out = fn(*held)
        out = out if isinstance(out, tuple) else (out,)
        for (child, number), value in zip(fn.next_functions, out, strict=True):
            if child is not None:
                visit(child, number, value)

    with torch.no_grad():
        visit(y.grad_fn, 0, torch.ones_like(y))
    return [show(gradient) for gradient in grads.values()]


@settings(deadline=None, max_examples=60)
@given(RANDOM)
@example([("mul", 0, 0), ("expand", 0, 0), ("add", 0, 0)])  # zeros of both signs arrive
def test_depth_first_tells_what_a_naive_recursion_computes(program):
    x, y = built(program)
    recording = record_backward(y, retain_graph=True)
    walk = depth_first(recording)
    if walk is None:
        nodes = recording.graph.nodes
        many = any(len(s.arrivals) > 1 and not nodes[s.node].is_leaf for s in recording.steps)
        assert not many or len(recording.steps) > 8  # more than 200 visits
        return
    last = [step["grad"][1] for step in walk["steps"] if step["grad"]][-1:]
    assert last == naive(y)


def test_depth_first_starts_from_the_grad_that_was_there():
    x = torch.tensor(3.0, requires_grad=True)
    x.grad = torch.tensor(5.0)
    h = x * 2.0
    steps = depth_first(record_backward(h * h, retain_graph=True))["steps"]
    assert [step["grad"] for step in steps if step["grad"]] == [["5", "17"], ["17", "41"]]
    assert [step.get("held") for step in steps if step["node"] == 1] == [None, "6"]


# ---- where there is none


def test_depth_first_is_not_told_where_it_would_run_code_of_the_users():
    x = torch.tensor(2.0, requires_grad=True)
    y = Counted.apply(x) * x
    Counted.ran = 0
    assert walk_of(record_backward(y, retain_graph=True)) is None
    assert Counted.ran == 1
    unpacked = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(1) or t)
    with hooks:
        z = x.sin() * x
    recording = record_backward(z, retain_graph=True)
    count = len(unpacked)
    assert walk_of(recording) is None
    assert len(unpacked) == count
    c = checkpoint(lambda t: t.sin() * t, x, use_reentrant=False)
    assert walk_of(record_backward(c, retain_graph=True)) is None


def test_depth_first_is_not_told_where_gradients_meet_at_leaves_alone():
    x = torch.tensor(3.0, requires_grad=True)
    assert depth_first(record_backward(x * x, retain_graph=True)) is None


@pytest.mark.parametrize("where", ["tensor", "before", "after"])
def test_depth_first_is_not_told_where_a_hook_makes_the_difference(where):
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 3.0
    if where == "tensor":
        a.register_hook(lambda gradient: gradient * 1.00001)
    elif where == "before":
        a.grad_fn.register_prehook(lambda grads: (grads[0] * 1.00001,))
    else:
        a.grad_fn.register_hook(lambda grads, _: (grads[0] * 1.00001, None))
    recording = record_backward(a * 6.0 + a * 6.0, retain_graph=True)
    assert depth_first(recording) is None


def test_depth_first_is_not_told_for_large_tensors_or_after_a_silent_change():
    x = torch.ones(1001, requires_grad=True)
    h = x * 2.0
    assert depth_first(record_backward((h * h).sum(), retain_graph=True)) is None
    x = torch.ones(3, requires_grad=True)
    h = x * 2.0
    recording = record_backward((h * h).sum(), retain_graph=True)
    assert depth_first(recording) is not None
    h.data.fill_(100.0)
    assert depth_first(recording) is None


@each("reason", ["freed", "one path", "inputs", "modified"])
def test_depth_first_is_not_told_where_it_cannot_be_or_shows_nothing(reason):
    x = torch.tensor(2.0, requires_grad=True)
    a = x * 2.0
    y = a.exp() if reason == "one path" else a * a.exp()
    keep = {"retain_graph": reason != "freed"}
    recording = record_backward(y, inputs=[a] if reason == "inputs" else None, **keep)
    if reason == "modified":
        with torch.no_grad():
            a.add_(1.0)
    assert walk_of(recording) is None


def test_depth_first_ends_before_its_steps_are_too_many():
    x = torch.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(12):
        y = y * y
    assert walk_of(record_backward(y, retain_graph=True)) is None
