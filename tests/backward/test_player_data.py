"""player_data.py, player_steps.py, depth_first.py: a player tells what happened or would happen."""

import warnings

import pytest
import torch
from hypothesis import example, given, settings
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from companion import play, record_backward
from companion.backward.depth_first import depth_first
from companion.backward.player_data import (
    engine_order,
    node_names,
    player_data,
    questions,
    second_pass,
)
from companion.backward.player_steps import engine_steps, show
from tests.programs import programs, run


def diamond():
    """A tensor, a, that reaches the root along two paths."""
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 1.0
    y = a * a * 2.0
    return x, y


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


PROGRAMS = programs(["sin", "mul", "add", "split", "unbind", "expand", "divide"], 2, 8)


def built(program):
    """The leaf and the output of a program, whose tensors are used several times."""
    x = torch.tensor([0.5, 1.5, -0.5, 1.0], requires_grad=True)
    made = run(program, [x])
    return x, (made[-1] + made[len(made) // 2]).sum()


def mode(recording, title):
    modes = player_data(recording)["modes"]
    return next((mode for mode in modes if mode["title"].startswith(title)), None)


def names(recording):
    return node_names(recording.graph)


# ---- the Nodes


def test_nodes_that_are_called_the_same_are_numbered():
    x = torch.ones((), requires_grad=True)
    assert names(record_backward(x.sin() * x.sin())) == [
        "MulBackward0",
        "SinBackward0 #1",
        "SinBackward0 #2",
        "x",
    ]


def test_a_node_is_told_with_its_variable_and_a_leaf_by_it():
    x, y = diamond()
    assert names(record_backward(y)) == [
        "MulBackward0 (y)",
        "MulBackward0 #1",
        "MulBackward0 #2",
        "x",
    ]


def test_a_leaf_without_a_name_is_called_by_its_node():
    assert names(record_backward(torch.ones((), requires_grad=True) * 2))[-1] == ("AccumulateGrad")


def test_nodes_tell_values_the_order_of_making_and_what_they_wait_for():
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 2.0
    y = a.sin() + a
    nodes = player_data(record_backward(y))["nodes"]
    assert [(n["made"], n["waits"], n["leaf"]) for n in nodes] == [
        (3, 0, False),
        (2, 1, False),
        (1, 2, False),
        (None, 1, True),
    ]
    assert [node["value"] for node in nodes] == [show(y), None, "6", "3"]


def test_lines_are_told_where_torch_noted_them_and_nowhere_else():
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        x = torch.tensor(3.0, requires_grad=True)
        a = x * 2.0
        y = a.sin()
    data = player_data(record_backward(y + 1.0))
    assert data["lines"] == ["a = x * 2.0", "y = a.sin()", None]
    assert [node["line"] for node in data["nodes"]] == [2, 1, 0, None]


def test_what_inputs_rules_out_waits_for_nothing():
    x, w = (torch.ones((), requires_grad=True) for _ in range(2))
    nodes = player_data(record_backward(x.sin() * w.cos(), inputs=[x]))["nodes"]
    assert {n["name"]: n["waits"] for n in nodes} == {
        "MulBackward0": 0,
        "SinBackward0": 1,
        "CosBackward0": None,
        "x": 1,
        "w": None,
    }


# ---- what happened


@settings(deadline=None, max_examples=60)
@given(PROGRAMS)
def test_each_step_tells_what_the_recording_holds(program):
    recording = record_backward(built(program)[1])
    for data, step in zip(engine_steps(recording), recording.steps, strict=True):
        assert data["node"] == step.node
        assert data["given"] == [show(gradient) for gradient in step.grad_outputs]
        assert [c["value"] for c in data["came"]] == [show(a.value) for a in step.arrivals]
        edges = [edge for edge in recording.graph.slots(step.node) if edge]
        assert [p["to"] for p in data["passed"]] == [edge.target for edge in edges]
        assert [p["value"] for p in data["passed"]] == [
            show(step.grad_inputs[edge.slot]) for edge in edges
        ]
        assert data["ready"] == list(step.ready)
        assert data["changed"] is False
    # What a buffer held after its last gradient is what the Node was given.
    steps = {step.node: step for step in recording.steps}
    last = {(p["to"], p["input"]): p["after"] for s in engine_steps(recording) for p in s["passed"]}
    for (node, nr), after in last.items():
        assert after == show(steps[node].grad_outputs[nr])


def test_a_hook_that_changed_what_came_is_told():
    x, y = diamond()
    y.grad_fn.next_functions[0][0].register_prehook(lambda grads: (grads[0] * 2,))
    assert [step["changed"] for step in engine_steps(record_backward(y))] == [
        False,
        True,
        False,
        False,
    ]


def test_an_error_is_told_at_its_end():
    x, y = diamond()
    y.grad_fn.next_functions[0][0].register_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        record_backward(y)
    engine = player_data(raised.value.recording)["modes"][0]
    assert engine["error"] == "ZeroDivisionError: division by zero"
    assert [step["raised"] for step in engine["steps"]] == [False, True]
    assert engine["steps"][1]["passed"] == []
    assert engine["questions"] == []


def test_an_error_before_a_node_is_not_blamed_on_the_node_before():
    for ran in (0, 1):
        x, y = diamond()
        fn = y.grad_fn if ran == 0 else y.grad_fn.next_functions[0][0]
        fn.register_prehook(lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError) as raised:
            record_backward(y)
        engine = engine_order(raised.value.recording)
        assert [step["raised"] for step in engine["steps"]] == [False] * ran
        assert engine["error"] == (
            "The pass ended before the next Node ran. ZeroDivisionError: division by zero"
        )


def test_new_nodes_are_told_with_the_step_that_made_them():
    x = torch.tensor(3.0, requires_grad=True)
    with warnings.catch_warnings(action="ignore"):  # torch tells of the cycle once a process
        recording = record_backward(x.sin(), create_graph=True)
    made = [{name for _, name in step["made"]} for step in engine_steps(recording)]
    assert made[0] == {"MulBackward0", "CosBackward0"}
    x.grad = None


# ---- questions


def test_questions_come_where_a_walk_would_go_on_too_early():
    x, y = diamond()
    assert questions(record_backward(y)) == []  # here only one Node can ever be next
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 2.0
    recording = record_backward(a.sin() + a)
    (question,) = questions(recording)
    assert question["before"] == 1
    called = [names(recording)[option] for option in question["options"]]
    assert called == ["SinBackward0", "MulBackward0 (a)"]


def test_of_two_that_are_ready_one_is_chosen_but_not_of_two_leaves():
    x, w = (torch.tensor(2.0, requires_grad=True) for _ in range(2))
    recording = record_backward(x.sin() * w.cos())
    called = names(recording)
    asked = [
        {called[option] for option in question["options"]} for question in questions(recording)
    ]
    assert asked == [{"SinBackward0", "CosBackward0"}, {"SinBackward0", "w"}]
    # No rule tells which of two leaves goes first, so nobody is asked.
    assert questions(record_backward(x * w)) == []


@settings(deadline=None, max_examples=60)
@given(PROGRAMS)
def test_the_right_answer_is_the_node_that_ran(program):
    recording = record_backward(built(program)[1])
    found = questions(recording)
    assert len(found) <= 3
    for question in found:
        assert recording.steps[question["before"]].node in question["options"]
        assert len(question["options"]) > 1


# ---- what would happen


@settings(deadline=None, max_examples=60)
@given(PROGRAMS)
def test_a_second_pass_is_what_torch_does_then(program):
    x, y = built(program)
    recording = record_backward(y, retain_graph=True)
    predicted = second_pass(recording)
    second = engine_steps(record_backward(y))
    steps = [
        step | {"grad": predicted["grads"].get(i, step["grad"])}
        for i, step in enumerate(engine_steps(recording))
    ]
    assert [step | {"freed": []} for step in second] == steps


@settings(deadline=None, max_examples=60)
@given(PROGRAMS)
def test_a_second_pass_over_a_freed_graph_stops_where_torch_stops(program):
    x, y = built(program)
    predicted = second_pass(record_backward(y))
    try:
        record_backward(y)
    except RuntimeError as error:
        assert predicted["stop"] == len(error.recording.steps) - 1
        assert predicted["last"]["node"] == error.recording.steps[-1].node
        assert str(error).startswith(predicted["error"].removeprefix("RuntimeError: "))
    else:
        assert "stop" not in predicted


def test_depth_first_gives_54_where_the_engine_gives_36():
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 3.0
    y = a * 6.0 + a * 6.0
    walk = mode(record_backward(y, retain_graph=True), "Depth first")
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
@given(PROGRAMS)
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


def test_depth_first_is_not_told_where_it_would_run_code_of_the_users():
    x = torch.tensor(2.0, requires_grad=True)
    y = Counted.apply(x) * x
    Counted.ran = 0
    assert mode(record_backward(y, retain_graph=True), "Depth first") is None
    assert Counted.ran == 1
    unpacked = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(1) or t)
    with hooks:
        z = x.sin() * x
    recording = record_backward(z, retain_graph=True)
    count = len(unpacked)
    assert mode(recording, "Depth first") is None
    assert len(unpacked) == count
    c = checkpoint(lambda t: t.sin() * t, x, use_reentrant=False)
    assert mode(record_backward(c, retain_graph=True), "Depth first") is None


def test_a_second_pass_is_not_told_where_a_hook_changed_grad_or_something_was_modified():
    x = torch.tensor(2.0, requires_grad=True)
    x.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "grad", None))
    assert second_pass(record_backward(x * 3.0, retain_graph=True)) is None
    x = torch.tensor(2.0, requires_grad=True)
    h = x * 2.0
    recording = record_backward(h * h, retain_graph=True)
    h.detach().add_(1.0)
    assert second_pass(recording) is None
    assert second_pass(record_backward(Counted.apply(x))) is None
    about = second_pass(record_backward(x + 1.0))["about"]
    assert "not retained" in about


def test_depth_first_starts_from_the_grad_that_was_there():
    x = torch.tensor(3.0, requires_grad=True)
    x.grad = torch.tensor(5.0)
    h = x * 2.0
    steps = depth_first(record_backward(h * h, retain_graph=True))["steps"]
    assert [step["grad"] for step in steps if step["grad"]] == [["5", "17"], ["17", "41"]]
    assert [step.get("held") for step in steps if step["node"] == 1] == [None, "6"]


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


def test_a_hook_that_only_swaps_numbers_is_told():
    x = torch.arange(8.0, requires_grad=True)
    h = x * x
    h.register_hook(lambda gradient: gradient.flip(0))
    steps = engine_steps(record_backward((h * torch.arange(8.0)).sum()))
    assert [step["changed"] for step in steps] == [False, False, True, False]


def test_sparse_gradients_and_dtypes_that_can_do_little_are_told():
    w = torch.ones(4, 2, requires_grad=True)
    picked = torch.nn.functional.embedding(torch.tensor([0, 1]), w, sparse=True)
    for y in (picked.sum() + (w * 2).sum(), (w * 2).sum() + picked.sum()):
        data = player_data(record_backward(y, retain_graph=True))
        assert data["modes"][0]["steps"][-1]["grad"] is not None
        w.grad = None
    x = torch.ones(8).to(torch.float8_e4m3fn).requires_grad_()
    data = player_data(record_backward((x.to(torch.float32) * 2).sum(), retain_graph=True))
    assert data["modes"][0]["steps"][-1]["given"] == ["a Tensor of float8_e4m3fn"]


@pytest.mark.parametrize("reason", ["freed", "one path", "inputs", "modified"])
def test_depth_first_is_not_told_where_it_cannot_be_or_shows_nothing(reason):
    x = torch.tensor(2.0, requires_grad=True)
    a = x * 2.0
    y = a.exp() if reason == "one path" else a * a.exp()
    keep = {"retain_graph": reason != "freed"}
    recording = record_backward(y, inputs=[a] if reason == "inputs" else None, **keep)
    if reason == "modified":
        with torch.no_grad():
            a.add_(1.0)
    assert mode(recording, "Depth first") is None


def test_depth_first_ends_before_its_steps_are_too_many():
    x = torch.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(12):
        y = y * y
    assert mode(record_backward(y, retain_graph=True), "Depth first") is None


def test_nothing_of_this_changes_a_gradient():
    x, y = diamond()
    recording = record_backward(y, retain_graph=True)
    before = x.grad.clone()
    player_data(recording)
    assert torch.equal(x.grad, before)
    assert len(recording.steps) == 4


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (2, "2"),
        (0.123456, "0.1235"),
        ((2, 3), "(2, 3)"),
        (torch.tensor(0.123456), "0.1235"),
        (torch.tensor(-1e-9), "-1e-09"),
        (torch.tensor(float("nan")), "nan"),
        (torch.tensor([[1.0, 2.5], [3.0, -4.0]]), "[[1, 2.5], [3, -4]]"),
        (torch.tensor([1, 2]), "[1, 2]"),
        (torch.tensor([]), "[]"),
        (torch.ones(1000, 0), "(1000, 0), empty"),
        (torch.ones(7), "(7,), from 1 to 1"),
        (torch.ones(6), "[1, 1, 1, 1, 1, 1]"),
        (torch.tensor(1 + 2j), "1+2j"),
        (torch.arange(8.0), "(8,), from 0 to 7"),
        (torch.ones(8, dtype=torch.complex64), "(8,), complex"),
        (torch.ones(8, dtype=torch.bfloat16), "(8,), from 1 to 1"),
        (torch.ones(3).to_sparse(), "a sparse_coo tensor"),
        (torch.empty(3, device="meta"), "a meta tensor"),
        ("a\nb" * 40, "a\\nb" * 9 + "a\\n…"),
    ],
)
def test_a_value_is_told_in_one_short_line(value, text):
    assert show(value) == text


@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
def test_a_pass_without_values_is_played(mode):
    with mode():
        x = torch.ones(3, requires_grad=True)
    assert "in 3 steps" in repr(play((x * x).sum()))
    assert "in 3 steps" in repr(play((x * 2).sum()))  # the 2 that it saved is a real tensor
