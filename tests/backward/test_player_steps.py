"""player_steps.py: what a player tells of a step, and how it writes a value."""

import warnings

import torch
from hypothesis import given, settings

from companion import record_backward
from companion.backward.player_steps import engine_steps, show
from tests.backward.models import RANDOM, built, square
from tests.cases import each

# ---- what happened


@settings(deadline=None, max_examples=60)
@given(RANDOM)
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
    x, y = square()
    y.grad_fn.next_functions[0][0].register_prehook(lambda grads: (grads[0] * 2,))
    assert [step["changed"] for step in engine_steps(record_backward(y))] == [
        False,
        True,
        False,
        False,
    ]


def test_a_hook_that_only_swaps_numbers_is_told():
    x = torch.arange(8.0, requires_grad=True)
    h = x * x
    h.register_hook(lambda gradient: gradient.flip(0))
    steps = engine_steps(record_backward((h * torch.arange(8.0)).sum()))
    assert [step["changed"] for step in steps] == [False, False, True, False]


def test_new_nodes_are_told_with_the_step_that_made_them():
    x = torch.tensor(3.0, requires_grad=True)
    with warnings.catch_warnings(action="ignore"):  # torch tells of the cycle once a process
        recording = record_backward(x.sin(), create_graph=True)
    made = [{name for _, name in step["made"]} for step in engine_steps(recording)]
    assert made[0] == {"MulBackward0", "CosBackward0"}
    x.grad = None


# ---- numbers


@each(
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
