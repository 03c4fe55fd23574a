"""player_data.py: the Nodes, questions and modes of a player tell what happened or would happen."""

import pytest
import torch
from hypothesis import given, settings
from torch._subclasses import FakeTensorMode

from companion import play, record_backward
from companion.backward.player_data import (
    engine_order,
    node_names,
    player_data,
    questions,
    second_pass,
)
from companion.backward.player_steps import engine_steps, show
from tests.backward.models import RANDOM, built, square
from tests.programs import Square


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
    x, y = square()
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


def test_an_error_is_told_at_its_end():
    x, y = square()
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
        x, y = square()
        fn = y.grad_fn if ran == 0 else y.grad_fn.next_functions[0][0]
        fn.register_prehook(lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError) as raised:
            record_backward(y)
        engine = engine_order(raised.value.recording)
        assert [step["raised"] for step in engine["steps"]] == [False] * ran
        assert engine["error"] == (
            "The pass ended before the next Node ran. ZeroDivisionError: division by zero"
        )


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


@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
def test_a_pass_without_values_is_played(mode):
    with mode():
        x = torch.ones(3, requires_grad=True)
    assert "in 3 steps" in repr(play((x * x).sum()))
    assert "in 3 steps" in repr(play((x * 2).sum()))  # the 2 that it saved is a real tensor


def test_nothing_of_this_changes_a_gradient():
    x, y = square()
    recording = record_backward(y, retain_graph=True)
    before = x.grad.clone()
    player_data(recording)
    assert torch.equal(x.grad, before)
    assert len(recording.steps) == 4


# ---- questions


def test_questions_come_where_a_walk_would_go_on_too_early():
    x, y = square()
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
@given(RANDOM)
def test_the_right_answer_is_the_node_that_ran(program):
    recording = record_backward(built(program)[1])
    found = questions(recording)
    assert len(found) <= 3
    for question in found:
        assert recording.steps[question["before"]].node in question["options"]
        assert len(question["options"]) > 1


# ---- a second pass


@settings(deadline=None, max_examples=60)
@given(RANDOM)
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
@given(RANDOM)
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


def test_a_second_pass_is_not_told_where_a_hook_changed_grad_or_something_was_modified():
    x = torch.tensor(2.0, requires_grad=True)
    x.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "grad", None))
    assert second_pass(record_backward(x * 3.0, retain_graph=True)) is None
    x = torch.tensor(2.0, requires_grad=True)
    h = x * 2.0
    recording = record_backward(h * h, retain_graph=True)
    h.detach().add_(1.0)
    assert second_pass(recording) is None
    assert second_pass(record_backward(Square.apply(x))) is None
    about = second_pass(record_backward(x + 1.0))["about"]
    assert "not retained" in about
