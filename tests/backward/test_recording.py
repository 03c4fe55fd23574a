"""recording.py: each step against what the engine did, by a route of its own."""

import gc
import subprocess
import sys
import threading
import warnings
import weakref
from collections import Counter, defaultdict
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import get_gradient_edge, save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import companion.backward.copies
import companion.backward.recording
from companion import (
    Arrival,
    Edge,
    Recording,
    Source,
    Step,
    modules,
    play,
    record_backward,
    write_backward,
)
from companion.backward.hooks import CopyingHooks, hooks_for
from tests.cases import each
from tests.programs import OPERATIONS, Double, Silent, programs, run
from tests.slices import DEEP, examples

pytestmark = pytest.mark.filterwarnings(r"ignore:Using backward\(\) with create_graph")

ROOT = Path(__file__).parents[2]


def same(a, b) -> bool:
    """Whether two tensors hold the same bits in the same layout; or both are None."""
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.layout, a.device) != (b.shape, b.dtype, b.layout, b.device):
        return False
    if a.is_sparse:
        return same(a._indices(), b._indices()) and same(a._values(), b._values())
    a, b = (t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(a, b)


def all_same(left, right) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


def names(recording) -> list[str]:
    return [recording.graph.nodes[step.node].name for step in recording.steps]


@pytest.fixture
def as_if_large(monkeypatch):
    """Graphs count as large, and so do gradients: one copy serves in several places."""
    monkeypatch.setattr(companion.backward.recording, "DETAILED", 0)
    monkeypatch.setattr(companion.backward.copies, "LARGE", 1)


def copying(graph, output, gradient, create_graph, detailed):
    """In place of ``hooks_for``: hooks that copy at once, also where they could copy lazily."""
    return CopyingHooks(graph, create_graph, detailed)


all_ways = pytest.mark.parametrize("large", [False, "copied", "lazy"])


@pytest.fixture(autouse=True)
def size(request, monkeypatch):
    large = getattr(request.node, "callspec", None) and request.node.callspec.params.get("large")
    if large:
        request.getfixturevalue("as_if_large")
    if large == "copied":
        monkeypatch.setattr(companion.backward.recording, "hooks_for", copying)


# ---- random programs


def doubled(gradient):
    """Written over, and not replaced."""
    gradient.mul_(2)


def observed(a, how):
    """A tensor whose gradient hooks look at, or change."""
    b = a.sin()
    if how == "tensor":
        b.register_hook(lambda g: LOG.append(("tensor", None if g is None else g.tolist())))
    elif how == "node":
        b.grad_fn.register_prehook(lambda gs: LOG.append(("pre", len(gs))))
        b.grad_fn.register_hook(lambda ins, outs: LOG.append(("post", len(ins), len(outs))))
    elif how == "tensor changes":
        b.register_hook(lambda g: None if g is None else g * 2)
    elif how == "tensor writes":
        b.register_hook(lambda g: None if g is None or 0 in g.stride() else doubled(g))
    elif how == "pre changes":
        b.grad_fn.register_prehook(lambda gs: (gs[0] if gs[0] is None else gs[0] + 1,))
    elif how == "post changes":
        b.grad_fn.register_hook(lambda ins, _: (ins[0] if ins[0] is None else ins[0] - 1,))
    else:
        b.retain_grad()
    return b


def leaf(dtype, how=None):
    x = torch.linspace(-1, 1, 4, dtype=dtype).requires_grad_()
    if how:
        x.register_hook(lambda g: LOG.append(("leaf", None if g is None else g.tolist())))
        x.register_post_accumulate_grad_hook(lambda p: LOG.append(("done", str(p.grad))))
    return x


LOG: list = []
CHANGING = {"tensor changes", "tensor writes", "pre changes", "post changes", "writes in place"}
OBSERVED = {
    "watched leaf": lambda a, b: leaf(a.dtype, "watched"),
    **{
        how: lambda a, b, how=how: observed(a, how)
        for how in ("tensor", "node", "retain", *(CHANGING - {"writes in place"}))
    },
}
SHARED = (
    "add|mul|same twice|split|unbind|svd|max|view|matmul|expand|in place|in place of a result|"
    "detach|custom|pair|silent|writes in place|index|leaf|checkpoint|reentrant"
).split("|")
STEPS = programs([*SHARED, *OBSERVED], max_size=8)


def run_program(steps, dtype=torch.float32):
    """The tensors of a program, its output last."""
    tensors = run(steps, [leaf(dtype), leaf(dtype) * 2], OPERATIONS | OBSERVED)
    return [*tensors, (tensors[-1] * tensors[-2]).sum()]


def walk(output):
    """All Nodes below a tensor, by a loop of this file's own."""
    found = {get_gradient_edge(output).node: None}
    stack = list(found)
    while stack:
        for child, _ in stack.pop().next_functions:
            if child is not None and child not in found:
                found[child] = None
                stack.append(child)
    return list(found)


def leaves_of(output):
    return [fn.variable for fn in walk(output) if hasattr(fn, "variable")]


def copied(gradients):
    return [None if g is None else g.detach().clone() for g in gradients]


def watch(output, run):
    """What the engine says it will do, and what hooks of this file see: (plan, ran)."""
    plan, given, ran = [], {}, []

    def pre(fn):
        def hook(grad_outputs):
            if not plan:
                plan.extend(torch._C._current_graph_task_execution_order())
            given[fn] = copied(grad_outputs)

        return hook

    def post(fn):
        return lambda grad_inputs, _: ran.append((fn, given[fn], copied(grad_inputs)))

    for fn in walk(output):
        fn.register_prehook(pre(fn))
        fn.register_hook(post(fn))
    with torch.autograd.set_multithreading_enabled(False):
        run(output)
    return plan, ran


def readable(fn):
    """The names of the saved tensors of a Node that can be read now."""
    found = set()
    for name in dir(fn):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                value = getattr(fn, name)
            except RuntimeError:
                continue
            value = value if isinstance(value, tuple | list) else [value]
            if any(isinstance(part, torch.Tensor) for part in value):
                found.add(name.removeprefix("_saved_"))
    return found


MODES = ["plain", "plain", "plain", "retain", "twice", "a leaf", "an inner one", "create"]


@settings(deadline=None, max_examples=examples(350))
@given(
    STEPS,
    st.sampled_from(MODES),
    st.sampled_from(["small", "copied", "lazy", "lazy"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_random_program_is_recorded_as_it_runs(steps, mode, way, dtype):
    used = {step for step, _, _ in steps}
    if mode != "plain":  # torch refuses them
        steps = [step for step in steps if step[0] != "reentrant"]
    if mode == "create":  # to write into a gradient that a graph holds is refused
        steps = [step for step in steps if step[0] not in ("writes in place", "tensor writes")]
    runs = [run_program(steps, dtype) for _ in range(3)]
    ours, watched, plain = (tensors[-1] for tensors in runs)
    options: dict = {"retain_graph": mode in ("retain", "twice"), "create_graph": mode == "create"}
    inputs = [None, None, None]
    if mode == "a leaf":
        inputs = [leaves_of(tensors[-1])[:1] for tensors in runs]
    elif mode == "an inner one":
        inputs = [[t for t in tensors[:-1] if t.grad_fn is not None][-2:] for tensors in runs]
    if mode == "twice":  # so that each .grad is added to
        for output in (ours, watched, plain):
            output.backward(retain_graph=True)

    LOG.clear()
    plain.backward(inputs=inputs[2], **options)
    log_of_plain = LOG.copy()
    plan, ran = watch(watched, lambda output: output.backward(inputs=inputs[1], **options))
    LOG.clear()
    nodes = walk(ours)
    checkpointed = "checkpoint" in used  # a look at what it saved would run it forward
    before = {} if checkpointed else {fn: readable(fn) for fn in nodes}
    module, copies = companion.backward.recording, companion.backward.copies
    detailed, least = (module.DETAILED, copies.LARGE) if way == "small" else (0, 1)
    hooks = copying if way == "copied" else hooks_for
    with (
        patch.object(module, "DETAILED", detailed),
        patch.object(copies, "LARGE", least),
        patch.object(module, "hooks_for", hooks),
    ):
        recording = record_backward(ours, inputs=inputs[0], **options)
    found = recording.steps

    # The same gradients, of the same strides, and the same hooks.
    assert log_of_plain == LOG
    for mine, other in zip(runs[0], runs[2], strict=True):
        if mine.is_leaf or mine.retains_grad:
            assert same(mine.grad, other.grad)
            assert mine.grad is None or mine.grad.stride() == other.grad.stride()
    for mine, other in zip(leaves_of(ours), leaves_of(plain), strict=True):
        assert same(mine.grad, other.grad)

    # The same order, and the same gradients into and out of each Node.
    theirs = {fn: i for i, fn in enumerate(walk(watched))}
    own = {fn: i for i, fn in enumerate(nodes)}
    fns = [recording.graph.nodes[step.node].grad_fn for step in found]
    assert [own[fn] for fn in fns] == [theirs[fn] for fn, *_ in ran] == [theirs[fn] for fn in plan]
    assert len(recording) == len(found) and [s.index for s in found] == list(range(len(found)))
    for step, (_, grad_outputs, grad_inputs) in zip(found, ran, strict=True):
        assert all_same(step.grad_outputs, grad_outputs)
        assert all_same(step.grad_inputs, grad_inputs)
        tensors = [*step.grad_outputs, *step.grad_inputs, step.grad_before, step.grad_after]
        assert not any(t.requires_grad for t in tensors if t is not None)

    # What came to a Node, and what was still to come: counted here from the edges.
    to_come = Counter(child for fn in fns for child, _ in fn.next_functions if child in fns)
    index = {node.grad_fn: node.index for node in recording.graph.nodes}
    assert {i: n for i, n in recording.waiting.items() if n} == {
        index[fn]: count for fn, count in to_come.items()
    }
    arrived = defaultdict(list)
    for fn, step, (_, _, grad_inputs) in zip(fns, found, ran, strict=True):
        arrivals = step.arrivals[step.index == 0 :]  # the first came along no edge
        assert [arrival.edge for arrival in arrivals] == [edge for edge, _ in arrived[fn]]
        assert all_same([a.value for a in arrivals], [value for _, value in arrived[fn]])
        waiting, ready = {}, []
        for slot, (child, nr) in enumerate(fn.next_functions):
            if child in to_come:
                edge = Edge(index[fn], index[child], slot, nr)
                arrived[child].append((edge, grad_inputs[slot]))
                to_come[child] -= 1
                waiting[index[child]] = to_come[child]
                ready += [index[child]] if to_come[child] == 0 else []
        assert (step.waiting, step.ready) == (waiting, tuple(ready))
        if not used & CHANGING:
            totals = {a.edge.input_nr if a.edge else 0: a.total for a in step.arrivals}
            for nr, gradient in enumerate(step.grad_outputs):
                assert same(totals.get(nr), gradient)

    # What was freed is what could be read before and cannot be read any more.
    freed = {fn: {n.split("[")[0] for n in step.freed} for fn, step in zip(fns, found, strict=True)}
    for fn in before:
        assert freed.get(fn, set()) == before[fn] - readable(fn)


OTHER_TYPES = [torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
SIMPLE = sorted(
    {"add", "mul", "same twice", "split", "unbind", "expand", "view", "custom", "in place"}
)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(SIMPLE), *[st.integers(0, 99)] * 2), max_size=8),
    st.sampled_from(OTHER_TYPES),
)
def test_sums_of_arrivals_have_the_bits_of_the_engines_in_other_types_too(steps, dtype):
    ours, plain = (run_program(steps, dtype) for _ in range(2))
    gradient = torch.ones((), dtype=dtype)
    recording = record_backward(ours[-1], gradient)
    plain[-1].backward(gradient)
    for mine, other in zip(leaves_of(ours[-1]), leaves_of(plain[-1]), strict=True):
        assert same(mine.grad, other.grad)
    for step in recording.steps:
        totals = {a.edge.input_nr if a.edge else 0: a.total for a in step.arrivals}
        for nr, gradient in enumerate(step.grad_outputs):
            assert same(totals.get(nr), gradient)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_under_create_graph_each_step_tells_the_nodes_it_made(steps):
    unfit = {"reentrant", "writes in place", "tensor writes", "checkpoint"}
    unfit |= {"tensor changes", "pre changes"}  # what they make, they make before the step
    with torch.autograd.set_detect_anomaly(True, check_nan=False):  # it notes who made a Node
        output = run_program([step for step in steps if step[0] not in unfit])[-1]
        recording = record_backward(output, create_graph=True)
    made_by = {step.node: set(step.made) for step in recording.steps}
    nodes = recording.second.nodes if recording.second else ()
    index = {node.grad_fn: node.index for node in recording.graph.nodes}
    for node in nodes:
        parent = index.get(node.grad_fn.metadata.get("parent_"))
        if parent is None or node.name == "AccumulateGrad":
            assert not any(node.index in made for made in made_by.values())
        else:  # the sum of two arrivals is made between two steps
            assert node.index in made_by[parent] or node.name == "AddBackward0"


# ---- what a step tells


def test_the_example_of_a_factor_used_twice():
    x = torch.tensor(3.0, requires_grad=True)
    recording = record_backward(x * x)
    first, second = recording.steps
    assert isinstance(recording, Recording) and isinstance(first, Step)
    assert (first.index, first.node, first.ready, first.waiting) == (0, 0, (1,), {1: 0})
    assert first.grad_outputs == (1.0,) and first.grad_inputs == (3.0, 3.0)
    (begin,) = first.arrivals
    assert isinstance(begin, Arrival)
    assert (begin.edge, begin.value, begin.total) == (None, 1.0, 1.0)
    assert [(a.edge, a.value, a.total) for a in second.arrivals] == [
        (Edge(0, 1, 0, 0), 3.0, 3.0),
        (Edge(0, 1, 1, 0), 3.0, 6.0),
    ]
    assert second.grad_inputs == () and (second.grad_before, second.grad_after) == (None, 6.0)
    assert (first.grad_before, first.grad_after) == (None, None)
    assert first.freed == ("other", "self") and first.saved == {"self": 3.0, "other": 3.0}
    assert second.freed == () and second.saved is None
    assert first.made == () and recording.second is None
    assert recording.waiting == {0: 0, 1: 2} and recording.planned == {0, 1}
    assert (recording.retain_graph, recording.create_graph, recording.error) == (False, False, None)
    assert repr(recording) == "<Recording of a backward pass from MulBackward0: 2 steps>"


def test_the_order_is_the_one_that_the_profiler_sees():
    x, w = torch.ones(4, 4, requires_grad=True), torch.ones(4, 4, requires_grad=True)
    loss = (torch.tanh(x @ w) + x.exp() * w.sin()).sum()
    with warnings.catch_warnings(action="ignore"):  # torch 2.12 tells what its profiler keeps
        with torch.profiler.profile() as profile:
            recording = record_backward(loss)
    begins = "autograd::engine::evaluate_function: "
    events = [e.name.removeprefix(begins) for e in profile.events() if e.name.startswith(begins)]
    assert [name.split("::")[-1] for name in events] == names(recording)


@all_ways
def test_a_gradient_that_is_added_to_is_told_before_and_after(large):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    step = record_backward(y).steps[-1]
    assert step.grad_before.tolist() == [2.0, 4.0]
    assert step.grad_outputs[0].tolist() == [2.0, 4.0]
    assert step.grad_after.tolist() == [4.0, 8.0] == x.grad.tolist()


@all_ways
def test_the_gradient_after_a_step_is_the_one_that_the_users_hook_left(large):
    x, w = (torch.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    x.register_post_accumulate_grad_hook(lambda p: doubled(p.grad))
    w.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    steps = record_backward((x * w).sum()).steps
    assert steps[-2].grad_outputs[0].tolist() == [1.0, 2.0]
    assert steps[-2].grad_after.tolist() == [2.0, 4.0]
    assert steps[-1].grad_after is None


@all_ways
def test_the_caller_changes_nothing_in_a_recording_that_is_done(large):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    gradient = torch.ones(2)
    recording = record_backward(x.view(2), gradient)
    assert x.grad.data_ptr() == gradient.data_ptr()  # as torch does where nobody records
    x.grad.zero_()
    with torch.no_grad():
        x.zero_()
    first, last = recording.steps
    copies = [first.arrivals[0].value, *first.grad_outputs, *first.grad_inputs, *last.grad_outputs]
    assert [t.tolist() for t in (*copies, last.grad_after)] == [[1.0, 1.0]] * 5
    assert recording.values[last.node, 0].tolist() == [1.0, 2.0] if not large else True


def test_a_view_of_a_large_gradient_is_a_view_of_its_copy(as_if_large):
    x = torch.arange(6.0, requires_grad=True)
    y = x.view(2, 3).t().exp()
    recording = record_backward(y, torch.arange(6.0).view(2, 3).t())
    copies = [step.grad_inputs[0] for step in recording.steps[:-1]]
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1
    assert [tuple(copy.shape) for copy in copies] == [(3, 2), (2, 3), (6,)]
    assert same(copies[2].view(2, 3).t(), copies[0]) and same(copies[2], x.grad)
    assert same(recording.steps[-1].grad_after, x.grad)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda g: g.conj(), id="conjugate"),
        pytest.param(lambda g: g.conj().imag._neg_view() + 0j, id="negative"),
        pytest.param(lambda g: torch.view_as_real(g)[:, 0] + 0j, id="another dtype"),
        pytest.param(lambda g: g.expand(1, 4)[0], id="the same again"),
        pytest.param(lambda g: g.flip(0), id="turned round"),
    ],
)
def test_whatever_a_node_gives_on_the_recording_has_its_bits(view, as_if_large):
    x = torch.tensor([1 + 2j, 3 - 1j, 0 + 1j, 2 + 0j], requires_grad=True)
    y = x.sin().exp()
    seen = []
    y.grad_fn.register_hook(lambda ins, outs: (view(outs[0]),))
    y.grad_fn.register_hook(lambda ins, outs: seen.append(ins[0].clone()) or None)
    recording = record_backward(y + 0, torch.tensor([1j, 2.0, 3 + 1j, 4.0]))
    assert same(recording.steps[1].grad_inputs[0], seen[0])
    assert same(recording.steps[2].grad_outputs[0], seen[0])


def test_a_gap_in_memory_that_was_not_copied_is_not_read(as_if_large):
    x = torch.arange(3.0, requires_grad=True)
    y = x.sin().exp()
    whole = torch.arange(9.0).view(3, 3)
    y.grad_fn.register_hook(lambda ins, outs: (whole.t()[0],))
    recording = record_backward(y + 0, whole[0])
    assert recording.steps[2].grad_outputs[0].tolist() == [0.0, 3.0, 6.0]


def test_a_view_of_an_expanded_gradient_is_not_read_from_its_dense_copy(as_if_large):
    x = torch.ones(3, 2, requires_grad=True)
    column = torch.tensor([[1.0], [2.0]])
    recording = record_backward(x.sin().t() + 0, column.expand(2, 3))
    assert names(recording)[:2] == ["AddBackward0", "TBackward0"]
    assert recording.steps[1].grad_inputs[0].tolist() == [[1.0, 2.0]] * 3


def test_a_view_of_another_dtype_is_a_copy_of_its_own(as_if_large):
    x = torch.tensor([1 + 2j, 3 - 1j], requires_grad=True)
    gradient = torch.arange(4.0).view(2, 2)
    recording = record_backward(torch.view_as_real(x.sin()) + 0, gradient)
    assert recording.steps[1].grad_inputs[0].tolist() == [1j, 2 + 3j]


def test_a_large_gradient_that_is_written_to_on_its_way_is_copied_again(as_if_large):
    x = torch.arange(4.0, requires_grad=True)
    h = x.sin()
    h.register_hook(doubled)
    recording = record_backward(h.exp() * 1, torch.ones(4))
    multiplied, exp, sin, _ = recording.steps
    assert same(sin.arrivals[0].value, exp.grad_inputs[0])
    assert same(sin.grad_outputs[0], exp.grad_inputs[0] * 2)


def test_in_a_small_graph_even_a_write_that_autograd_does_not_see_is_seen():
    x = torch.ones(2000, requires_grad=True)
    h = x * 3.0
    h.register_hook(lambda g: doubled(g.data))
    x.register_post_accumulate_grad_hook(lambda p: doubled(p.grad.data))
    _, multiplied, last = record_backward(h.exp() * 1, torch.ones(2000)).steps[1:]
    assert same(multiplied.grad_outputs[0], 2 * multiplied.arrivals[0].value)
    assert same(last.grad_after, 2 * last.grad_outputs[0]) and same(last.grad_after, x.grad)


def test_steps_tell_of_undefined_gradients():
    x = torch.arange(3.0, requires_grad=True)
    first, _, last = x.unbind()
    unbind = record_backward(first * 2 + last).steps[2]
    assert [g if g is None else g.item() for g in unbind.grad_outputs] == [2.0, None, 1.0]
    steps = record_backward(Silent.apply(x * 1, x.sin()).sum()).steps
    assert steps[1].grad_inputs[0] is None
    undefined = [a for step in steps for a in step.arrivals if a.value is None]
    assert len(undefined) == 2 and undefined[0].total is None
    assert undefined[1].total is not None  # it counts as zero


@pytest.mark.parametrize("dense_first", [False, True])
def test_sparse_gradients_are_added_to_each_other_and_to_dense_ones(dense_first):
    table = torch.nn.Embedding(5, 2, sparse=True)
    look_up = lambda: table(torch.tensor([1, 1, 3])).sum()  # noqa: E731
    square = (table.weight**2).sum() if not dense_first else 0.0
    loss = look_up() + square + look_up()
    loss = loss + (table.weight**2).sum() if dense_first else loss
    step = record_backward(loss).steps[-1]
    assert {a.value.is_sparse for a in step.arrivals} == {True, False}
    torch.testing.assert_close(step.arrivals[-1].total, step.grad_outputs[0])
    assert same(step.grad_after, table.weight.grad)


# ---- what is looked at, and what is not


def test_values_are_those_of_leaves_and_of_named_tensors():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    first, second = x.split(1)
    hidden = (first * second).exp()
    recording = record_backward(hidden * 1)
    by_name = {
        (recording.graph.nodes[i].name, nr): value.tolist()
        for (i, nr), value in recording.values.items()
    }
    assert by_name == {
        ("AccumulateGrad", 0): [1.0, 2.0],
        ("SplitBackward0", 0): [1.0],
        ("SplitBackward0", 1): [2.0],
        ("ExpBackward0", 0): hidden.tolist(),
    }
    assert not any(value.requires_grad for value in recording.values.values())
    assert recording.graph.leaves[0].label == "x"


def test_values_and_sources_of_a_large_graph_are_not_looked_for(as_if_large):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        recording = record_backward(x.exp().sum())
    assert recording.values == {} and recording.sources == (None,) * 3
    assert [step.saved for step in recording.steps] == [None] * 3


def test_detail_ends_at_150_nodes():
    def chain(n):
        y = torch.ones((), requires_grad=True)
        for _ in range(n - 1):
            y = y * 2.0
        return record_backward(y)

    assert chain(150).values and chain(150).steps[0].saved
    assert not chain(151).values and not chain(151).steps[0].saved


def test_sources_are_told_where_anomaly_mode_noted_them():
    x = torch.ones(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        y = torch.nn.functional.softplus(x)
    line = y.grad_fn.metadata["traceback_"][-1].split("line ")[1]
    sources = record_backward(y.sum()).sources
    here = sys._getframe().f_code.co_firstlineno + 3
    source = Source(__file__, here, "y = torch.nn.functional.softplus(x)")
    assert sources == (None, source, source)
    assert int(line.split(",")[0]) == here


def test_saved_values_are_copies_and_numbers_of_before_the_step():
    x = torch.tensor([[3.0, 1.0]], requires_grad=True)
    steps = record_backward(torch.nn.functional.cross_entropy(x, torch.tensor([1]))).steps
    assert steps[0].saved["target"].tolist() == [1] and steps[0].saved["reduction"] == 1
    assert steps[0].saved["weight"] is None and steps[1].saved["dim"] == 1
    assert set(steps[0].freed) == {"self", "target", "total_weight"}
    index = torch.tensor([0, 0])
    indexed = record_backward(x[index, index].sum()).steps[1]
    assert [part.tolist() for part in indexed.saved["indices"]] == [[0, 0], [0, 0]]


def test_of_a_custom_function_what_torch_saved_is_told_and_what_its_author_keeps_is_not():
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx._raw_saved_mine, ctx._saved_mine = 1, [a]
            ctx.save_for_backward(a, a * 2)
            return a * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    x = torch.ones(2, requires_grad=True)
    step = record_backward(Keeps.apply(x).sum()).steps[1]
    assert set(step.saved) == {"saved_tensors"}
    assert [t.tolist() for t in step.saved["saved_tensors"]] == [[1.0, 1.0], [2.0, 2.0]]
    assert step.freed == ("saved_tensors[0]", "saved_tensors[1]")


def test_what_was_freed_before_is_not_freed_again():
    x = torch.ones(2, requires_grad=True)
    h = Double.apply(x)  # it does not look at what it saved
    h.sum().backward()
    step = record_backward(h.sum()).steps[1]
    assert step.freed == () and step.saved is None


def test_recording_runs_no_hooks_of_saved_tensors():
    ran = []
    x = torch.ones(2, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, lambda t: ran.append("unpack") or t):
        y = x.exp()
    again = checkpoint(lambda t: (ran.append("forward"), t.exp())[1], x, use_reentrant=False)
    with save_on_cpu():
        y = y * again
    ran.clear()
    steps = record_backward(y.sum()).steps
    assert ran == ["forward", "unpack"]  # once, by the Nodes themselves
    assert [step.saved for step in steps[1:]] == [None] * 4
    assert [step.freed for step in steps[1:4]] == [("other", "self"), ("result",), ("result",)]


def test_a_reentrant_checkpoint_is_one_node_and_its_leaves_get_their_gradients():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    recording = record_backward(checkpoint(lambda t: t * w, x, use_reentrant=True).sum())
    assert names(recording) == ["SumBackward0", "CheckpointFunctionBackward", "AccumulateGrad"]
    assert w.grad.tolist() == [1.0, 1.0]


# ---- options


def test_under_inputs_only_what_leads_to_them_runs():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    h = x.exp()
    recording = record_backward((h * w.sin()).sum(), inputs=[x])
    assert names(recording) == ["SumBackward0", "MulBackward0", "ExpBackward0", "AccumulateGrad"]
    assert recording.planned == {step.node for step in recording.steps}
    assert recording.steps[1].ready == (recording.steps[2].node,)
    assert w.grad is None


@pytest.mark.parametrize("as_inputs", [lambda x: x, get_gradient_edge, lambda x: iter([x])])
def test_inputs_may_be_whatever_torch_takes(as_inputs):
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    recording = record_backward((x * w).sum(), inputs=as_inputs(x))
    assert x.grad.tolist() == [1.0, 1.0] and w.grad is None
    assert len(recording.steps) == len(recording.planned) == 3


def test_inputs_that_nothing_leads_to_leave_a_recording_without_steps():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    recording = record_backward(x.sum(), inputs=[w])
    assert (len(recording), recording.steps, recording.planned) == (0, (), frozenset())


def test_retain_graph_follows_create_graph_and_what_is_kept_is_not_freed():
    x = torch.ones(2, requires_grad=True)
    y = x.exp().sum()
    for options in ({"retain_graph": True}, {"create_graph": True}):
        recording = record_backward(y, **options)
        assert recording.retain_graph is True
    y.backward()
    assert [step.freed for step in recording.steps] == [()] * 3
    assert record_backward(x.exp().sum()).retain_graph is False


def test_under_create_graph_the_gradients_have_a_graph_to_be_differentiated_again():
    x = torch.tensor(2.0, requires_grad=True)
    recording = record_backward(x**3, create_graph=True)
    (power, _), second = recording.steps, recording.second
    assert "PowBackward0" in [second.nodes[i].name for i in power.made]
    (gradient,) = torch.autograd.grad(x.grad, x)
    assert gradient.item() == 12.0


def test_a_gradient_of_another_dtype_arrives_as_torch_casts_it():
    x = torch.ones(2, requires_grad=True)
    first = record_backward(x * 2, torch.ones(2, dtype=torch.float64)).steps[0]
    assert same(first.arrivals[0].total, first.grad_outputs[0])


def test_an_output_of_a_node_with_several_begins_at_that_one():
    first, second = torch.arange(4.0, requires_grad=True).split(2)
    step = record_backward(second, torch.ones(2)).steps[0]
    assert step.grad_outputs[0] is None and step.grad_outputs[1].tolist() == [1.0, 1.0]


def test_a_leaf_alone_is_one_step():
    x = torch.tensor(2.0, requires_grad=True)
    (step,) = record_backward(x).steps
    assert (step.grad_before, step.grad_after, x.grad.item()) == (None, 1.0, 1.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@all_ways
def test_a_mode_without_gradients_changes_nothing(mode, large):
    x = torch.ones(2, requires_grad=True)
    y, z = (x.sin() * x).sum(), (x.sin() * x).sum()
    with mode():
        recording = record_backward(y, inputs=[x])
        ours, x.grad = x.grad, None
        z.backward(inputs=[x])
    assert same(ours, x.grad) and len(recording.steps) == 4


# ---- kinds of tensors


class Loud(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("clone", "detach"):
            raise AssertionError("a copy was asked of a subclass")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_subclass_of_tensor_is_not_asked_for_copies():
    x = torch.ones(2).as_subclass(Loud).requires_grad_()
    recording = record_backward((x * x).sum())
    assert recording.steps[-1].grad_after.tolist() == [2.0, 2.0]
    assert type(recording.values[recording.steps[-1].node, 0]) is torch.Tensor


@all_ways
def test_nested_tensors_are_recorded(large):
    parts = [torch.ones(2), torch.ones(3)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
    recording = record_backward(torch.nested.to_padded_tensor(x.sin() * x, 0.0).sum())
    assert [part.shape for part in recording.steps[-1].grad_after.unbind()] == [(2,), (3,)]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@all_ways
def test_a_pass_on_a_cuda_device_is_recorded(large):
    torch.manual_seed(0)
    x = torch.randn(4, 4, device="cuda", requires_grad=True)
    (torch.tanh(x @ x) + x.cpu().exp().cuda()).sum().backward()
    expected, x.grad = x.grad, None
    recording = record_backward((torch.tanh(x @ x) + x.cpu().exp().cuda()).sum())
    assert same(x.grad, expected) and same(recording.steps[-1].grad_after, expected)
    assert same(recording.steps[-1].arrivals[-1].total, expected)
    assert recording.steps[0].grad_outputs[0].is_cuda


# ---- what is refused, and what ends early


@pytest.mark.parametrize(
    ("gradient", "inputs"),
    [
        pytest.param(torch.ones(2), None, id="shape"),
        pytest.param(torch.ones((), dtype=torch.cfloat), None, id="complex"),
        pytest.param("ones", None, id="no tensor"),
        pytest.param(None, [], id="no inputs"),
        pytest.param(None, [3.0], id="inputs that are no tensors"),
        pytest.param(None, torch.ones(2), id="inputs without a graph"),
        pytest.param(None, 3, id="inputs that are no sequence"),
    ],
)
def test_bad_input_gets_the_error_that_torch_gives_and_nothing_runs(gradient, inputs):
    x = torch.ones(2, requires_grad=True)
    y = x.exp().sum()
    with pytest.raises((TypeError, RuntimeError)) as torchs:
        y.backward(gradient, inputs=inputs)
    with pytest.raises(torchs.type) as ours:
        record_backward(y, gradient, inputs=inputs)
    assert str(ours.value) == str(torchs.value) and x.grad is None
    record_backward(y)  # nothing was freed


@pytest.mark.parametrize("make", [lambda x: x.detach(), lambda x: x * 2, lambda x: x.cfloat()[0]])
def test_an_output_without_a_graph_or_of_several_elements_gets_the_error_of_torch(make):
    output = make(torch.ones(2, requires_grad=True))
    with pytest.raises(RuntimeError) as torchs:
        output.backward()
    with pytest.raises(RuntimeError) as ours:
        record_backward(output)
    assert str(ours.value) == str(torchs.value)


@pytest.mark.parametrize("shape", [(), (1, 1), (3, 3)])
def test_a_sparse_output_is_refused_as_backward_does_in_words_that_help(shape):
    output = torch.ones(shape).to_sparse().requires_grad_() * 2
    with pytest.raises(RuntimeError) as torchs:
        output.backward()
    for call in (record_backward, play, write_backward):
        with pytest.raises(torchs.type, match=r"give gradient=.*or take output\.sum\(\)"):
            call(output)
    for cured in (output.sum(), output):
        record_backward(cured, torch.ones(cured.shape), retain_graph=True)


def test_what_is_no_tensor_is_refused_by_its_kind():
    with pytest.raises(TypeError, match="output must be a tensor, got list"):
        record_backward([torch.ones(1, requires_grad=True)])
    with pytest.raises(TypeError, match="got list"):
        record_backward(torch.ones((), requires_grad=True) * 2, [torch.ones(())])


def test_a_recording_is_not_made_by_hand():
    with pytest.raises(TypeError, match=r"made by record_backward\(loss\)"):
        Recording()


def test_a_second_pass_over_what_is_freed_raises_and_leaves_what_ran():
    x = torch.ones(2, requires_grad=True)
    y = x.exp().sum()
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time") as caught:
        record_backward(y)
    recording = caught.value.recording
    assert recording.error is caught.value
    assert names(recording) == ["SumBackward0", "ExpBackward0"] and len(recording) == 2
    done, failed = recording.steps
    assert done.ready == (1,) and failed.ready == () and failed.waiting == {}
    assert failed.grad_outputs[0].tolist() == [1.0, 1.0] and failed.grad_inputs is None
    assert failed.freed == () and len(failed.arrivals) == 1
    assert repr(recording).endswith("2 steps, ended by RuntimeError>")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, type("E", (Exception,), {})])
@all_ways
def test_whatever_a_hook_raises_comes_out_with_the_recording(error, large):
    x = torch.ones(2, requires_grad=True)
    h = x.exp()
    w = torch.ones(2, requires_grad=True)

    def stop(*_):
        raise error

    h.grad_fn.register_hook(stop)
    with pytest.raises(error) as caught:
        record_backward((h * w).sum())
    steps = caught.value.recording.steps
    assert names(caught.value.recording)[:2] == ["SumBackward0", "MulBackward0"]
    assert w.grad.tolist() == x.exp().tolist()  # a leaf that was reached keeps its gradient
    assert [step.freed for step in steps[:2]] == [(), ("other", "self")]


def test_an_exception_that_takes_no_attribute_comes_out_as_it_is():
    class Closed(Exception):
        def __setattr__(self, name, value):
            if name == "recording":
                raise TypeError("closed")
            super().__setattr__(name, value)

    def stop(_):
        raise Closed

    x = torch.ones(2, requires_grad=True)
    y = x.sum()
    y.register_hook(stop)
    with pytest.raises(Closed):
        record_backward(y)


# ---- afterwards, and meanwhile


@all_ways
def test_no_hook_is_left_and_nothing_kept_alive(no_gc, large):
    x = torch.ones(2, requires_grad=True)
    y = (x.exp() * x).sum()
    recording = record_backward(y, retain_graph=True)
    assert recording.steps
    gone = weakref.ref(recording)
    del recording
    assert gone() is None  # each hook of ours holds it, and the Nodes are still there
    leaf = weakref.ref(x)
    del x, y
    assert leaf() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_no_hook_is_left_after_an_exception(error):
    def stop(_):
        raise error

    x = torch.ones(2, requires_grad=True)
    y = (x.exp() * x).sum()
    handle = x.register_hook(stop)
    with pytest.raises(error) as caught:
        record_backward(y, retain_graph=True)
    gone = weakref.ref(caught.value.recording)
    del caught
    gc.collect()
    assert gone() is None
    handle.remove()
    y.backward()
    assert x.grad is not None


@pytest.mark.parametrize("was_on", [False, True])
def test_the_search_for_cycles_is_on_afterwards_if_it_was_before(was_on):
    seen = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda _: seen.append(gc.isenabled()))
    try:
        gc.enable() if was_on else gc.disable()
        record_backward(x.sum())
        assert gc.isenabled() is was_on and seen == [False]
    finally:
        gc.enable()


def test_a_pass_runs_in_one_thread_and_the_next_backward_may_use_several_again():
    seen = []
    x = torch.ones((), requires_grad=True)
    x.register_hook(lambda _: seen.append(torch._C._is_multithreading_enabled()))
    was = torch._C._is_multithreading_enabled()
    record_backward(x * 2)
    assert seen == [False] and torch._C._is_multithreading_enabled() is was


@all_ways
@pytest.mark.parametrize("where", ["root", "middle", "leaf"])
def test_a_pass_that_a_hook_begins_over_the_same_nodes_is_not_recorded(where, large):
    x = torch.ones(2, requires_grad=True)
    h = x.exp()
    y = h.sum()
    inner = []

    def begin(_):
        if not inner:
            inner.append(None)
            inner[0] = torch.autograd.grad(y, x, torch.tensor(7.0), retain_graph=True)

    {"root": y, "middle": h, "leaf": x}[where].register_hook(begin)
    recording = record_backward(y, retain_graph=True)
    assert names(recording) == ["SumBackward0", "ExpBackward0", "AccumulateGrad"]
    assert recording.steps[0].grad_outputs[0].item() == 1.0
    assert recording.steps[2].grad_after.tolist() == x.exp().tolist()
    assert inner[0][0].tolist() == (7 * x.exp()).tolist()


def test_a_recording_may_be_made_inside_of_another():
    x = torch.ones(2, requires_grad=True)
    y = x.exp().sum()
    inner = []

    def record(_):
        if not inner:
            inner.append(None)
            inner.append(record_backward(y, retain_graph=True))

    x.register_hook(record)
    outer = record_backward(y, retain_graph=True)
    assert names(outer) == names(inner[1])
    assert inner[1].steps[2].grad_before is None
    assert outer.steps[2].grad_before.tolist() == x.exp().tolist()
    assert outer.steps[2].grad_after.tolist() == (2 * x.exp()).tolist()


def test_a_pass_of_another_thread_over_the_same_nodes_is_not_recorded():
    x = torch.ones(2, requires_grad=True)
    h = x.exp()
    y = h.sum()
    waiting = []

    def other(gradient):
        if not waiting:
            waiting.append(None)
            thread = threading.Thread(
                target=lambda: torch.autograd.grad(y, x, torch.tensor(7.0), retain_graph=True)
            )
            thread.start()
            thread.join()

    y.register_hook(other)
    recording = record_backward(y)
    assert [step.grad_outputs[0].tolist() for step in recording.steps[:2]] == [1.0, [1.0, 1.0]]
    assert names(recording) == ["SumBackward0", "ExpBackward0", "AccumulateGrad"]


def test_a_pass_of_another_thread_that_began_earlier_is_not_recorded():
    x = torch.ones(2, requires_grad=True)
    h = x.exp()
    y = h.sum()
    here, began, go_on = threading.get_ident(), threading.Event(), threading.Event()

    def wait(_):
        if threading.get_ident() != here:
            began.set()
            go_on.wait(5)

    def run():
        torch.autograd.grad(y, x, torch.tensor(7.0), retain_graph=True)

    def let_go(_):
        if threading.get_ident() == here:
            go_on.set()
            other.join(5)

    y.register_hook(wait)
    h.register_hook(let_go)
    other = threading.Thread(target=run)
    other.start()
    began.wait(5)
    recording = record_backward(y, retain_graph=True)
    assert [step.grad_outputs[0].tolist() for step in recording.steps[:2]] == [1.0, [1.0, 1.0]]
    assert names(recording) == ["SumBackward0", "ExpBackward0", "AccumulateGrad"]


def test_deep_graphs_are_recorded_on_a_small_stack_and_freed():
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def record_deep(levels):
    y = torch.ones((), requires_grad=True)
    for _ in range(levels):
        y = y * 1.0
    assert len(record_backward(y)) == levels + 1


def main() -> None:
    """What ends the process of a walk that leaves the freeing to torch."""
    failed = []
    threading.excepthook = lambda args: failed.append(args.exc_value)
    threading.stack_size(512 * 1024)
    thread = threading.Thread(target=record_deep, args=[4_000])
    thread.start()
    thread.join()
    assert not failed, failed
    # Without a pass in the main thread, torch 2.12 itself may abort when the process ends.
    record_deep(45_000 if DEEP else 450)
    print("done")


if __name__ == "__main__":
    main()


def test_what_came_to_nodes_that_did_not_run_any_more_is_pending():
    x = torch.tensor(2.0, requires_grad=True)
    a = x * 3.0
    b = a.exp()
    y = a * b
    b.grad_fn.register_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        record_backward(y)
    recording = raised.value.recording
    label = [node.label for node in recording.graph.nodes]
    ((node, (arrival,)),) = recording.pending.items()
    assert label[node] == "a"
    assert (arrival.edge.source, arrival.value, arrival.total) == (0, b, b)
    x.grad = None
    assert record_backward(x * 3.0).pending == {}


# ---- the first NaN or infinity


@each(
    ("f", "name"),
    [
        (lambda x: torch.where(x > 0, x.sqrt(), x).sum(), "SqrtBackward0"),
        (lambda x: ((x**2).sqrt() * 0).sum(), "SqrtBackward0"),
        (lambda x: (x.sqrt() ** 2).sum(), "SqrtBackward0"),
        (lambda x: (x * 3e38).sum() + (x * 3e38).sum(), "AccumulateGrad"),  # their sum
        (lambda x: (x * x).sum(), None),
    ],
)
def test_the_first_step_that_gives_nan_or_infinity_to_what_came_finite(f, name):
    recording = record_backward(f(torch.tensor([0.0, 4.0], requires_grad=True)))
    first = recording.first_nonfinite
    assert (first and recording.graph.nodes[first.node].name) == name
    assert first is None or first in recording.steps


def test_what_the_pass_began_with_was_not_born_in_it():
    x = torch.ones(2, requires_grad=True)
    begin = torch.tensor([torch.inf, 1.0])
    assert record_backward(x * 2, begin).first_nonfinite is None
    first = record_backward(x * 0, begin).first_nonfinite  # NaN of the infinity
    assert first.node == 0 and first.grad_inputs[0].isnan().any()
    nans = record_backward(x * 0, begin * torch.nan)
    assert nans.first_nonfinite is None


def test_a_sparse_gradient_can_be_asked():
    table = torch.nn.Embedding(3, 2, sparse=True)
    recording = record_backward(table(torch.tensor([1, 1])).sum() * torch.inf)
    assert recording.graph.nodes[recording.first_nonfinite.node].name == "MulBackward0"


def test_a_hook_that_gives_nan_is_told_with_the_node_it_is_on():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: g * torch.nan)
    recording = record_backward(y.sum())
    assert recording.graph.nodes[recording.first_nonfinite.node].name == "MulBackward0"


@pytest.mark.parametrize("operations", [3, 200])
def test_each_step_has_the_seconds_that_its_node_ran(operations):
    y = torch.ones((), requires_grad=True)
    for _ in range(operations):
        y = y * 1.0
    recording = record_backward(y)
    assert all(step.time is not None and step.time > 0 for step in recording.steps)


def test_a_node_that_raised_has_no_time():
    x = torch.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError) as raised:
        record_backward(y)
    times = [step.time for step in raised.value.recording.steps]
    assert times[0] is not None
    assert times[-1] is None


def test_names_name_the_leaves_and_tell_the_modules():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    with modules(model) as names:
        loss = model(torch.ones(4, 2)).sum()
    graph = record_backward(loss, names=names).graph
    assert {leaf.label for leaf in graph.leaves} == {"0.weight", "0.bias"}
    assert {node.module for node in graph.nodes} == {None, "0", "1"}
    with pytest.raises(TypeError, match="names"):
        record_backward(loss, names=["loss"])
