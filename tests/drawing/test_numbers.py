"""numbers.py: values and gradients in boxes, what travels in pills, and what is left out."""

import math

import pytest
import torch

from companion import Graph, draw, record_backward, watch
from companion.drawing.numbers import written
from companion.graph.recorded_pass import RecordedPass
from tests.cases import each
from tests.drawing.pictures import boxes, crossed, pills


def numbers_in(svg: str) -> dict[str, list[str]]:
    """By the first line of a box that is not "root", the lines that have numbers."""
    found = {}
    for _, lines, _ in boxes(svg):
        name = lines[lines[0] == "root"]
        found[name] = [line for line in lines if line.startswith(("value", "gradient"))]
    return found


# ---- a recorded pass


def test_a_box_has_its_value_and_below_it_its_gradient_and_an_edge_what_travels():
    a = torch.tensor(2.0, requires_grad=True)
    b = torch.tensor(-3.0, requires_grad=True)
    c = a * b
    drawing = draw(record_backward(c + a))
    assert numbers_in(drawing.svg) == {
        "AddBackward0": ["gradient 1"],  # nobody has a name for the sum
        "MulBackward0": ["value -6", "gradient 1"],
        "leaf a": ["value 2", "gradient -2"],
        "leaf b": ["value -3", "gradient 2"],
    }
    assert pills(drawing.svg) == ["[0] 1", "[1] 1", "[0] -3", "[1] 2"]
    assert drawing.alt == (
        "Backward graph with 4 nodes. Root AddBackward0 leads to MulBackward0 (c) and leaf a (). "
        "It has gradient 1, and sends 1 and 1. "
        "MulBackward0 (c) leads to leaf a () and leaf b (). "
        "It has value -6 and gradient 1, and sends -3 and 2. "
        "Leaf a () has value 2 and gradient -2. Leaf b () has value -3 and gradient 2."
    )


def test_the_numbers_are_those_of_the_pass():
    torch.manual_seed(0)
    x = torch.randn(2, requires_grad=True)
    w = torch.randn(2, 2, requires_grad=True)
    y = (x @ w).sigmoid().sum()
    shown = numbers_in(draw(record_backward(y)).svg)
    assert shown["SumBackward0"][0] == f"value {y.item():.4g}"
    assert shown["leaf x"][1] == "gradient [{}]".format(", ".join(f"{g:.4g}" for g in x.grad))


def test_of_a_leaf_the_gradient_of_this_pass_is_shown_and_not_what_grad_held():
    x = torch.tensor(2.0, requires_grad=True)
    x.grad = torch.tensor(100.0)
    drawing = draw(record_backward(x * 3.0))
    assert numbers_in(drawing.svg)["leaf x"] == ["value 2", "gradient 3"]
    assert x.grad.item() == 103


def test_a_leaf_has_the_value_that_it_had_when_the_pass_began():
    x = torch.tensor(2.0, requires_grad=True)
    recording = record_backward(x * 3.0)
    with torch.no_grad():
        x.fill_(7.0)
    assert numbers_in(draw(recording).svg)["leaf x"][0] == "value 2"
    assert numbers_in(draw(recording.graph, values=True).svg)["leaf x"] == ["value 7"]


def test_a_result_without_a_name_has_a_value_if_its_node_saved_it():
    x = torch.zeros(2, requires_grad=True)
    drawing = draw(record_backward((x.exp() * 2.0).sum()))
    assert numbers_in(drawing.svg)["ExpBackward0"] == ["value [1, 1]", "gradient [2, 2]"]
    assert numbers_in(drawing.svg)["MulBackward0"] == ["gradient [1, 1]"]


def test_each_output_of_an_operation_has_its_numbers():
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    first, second, third = x.unbind()
    assert third == 3
    drawing = draw(record_backward(first * second))
    assert numbers_in(drawing.svg)["UnbindBackward0"] == [
        *("value 0: 1", "value 1: 2", "value 2: 3"),
        *("gradient 0: 2", "gradient 1: 1"),
    ]
    assert pills(drawing.svg)[:2] == ["[0] 2", "[1] input_nr 1: 1"]
    many = torch.ones(10, requires_grad=True).unbind()
    drawn = boxes(draw(record_backward(sum(many[5:]))).svg)
    (lines,) = [lines for _, lines, _ in drawn if "UnbindBackward0" in lines]
    assert lines[1:] == ["gradient 5: 1", "gradient 6: 1", "gradient 7: 1", "2 more gradients"]


def test_an_undefined_gradient_is_told_as_none():
    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    drawing = draw(record_backward(First.apply(a, b * 2.0).sum()))
    assert pills(drawing.svg) == ["[1, 1]", "[0] [1, 1]", "[1] None", "[0] None"]
    assert numbers_in(drawing.svg)["MulBackward0"] == ["gradient None"]


def test_a_node_that_did_not_run_has_no_gradient_and_nothing_travels_to_it():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    drawing = draw(record_backward((x * w).sum(), inputs=[x]))
    assert numbers_in(drawing.svg)["leaf w"] == ["value [1, 1]"]
    assert pills(drawing.svg) == ["[1, 1]", "[0] [1, 1]"]


def test_a_node_that_raised_gave_nothing_on():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    z = x * w
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError) as caught:
        record_backward(z.sum())
    drawing = draw(caught.value.recording)
    assert pills(drawing.svg) == ["[1, 1]"]


def test_a_large_recording_is_folded_and_its_blocks_have_no_numbers():
    t = torch.ones((), requires_grad=True)
    y = t
    for _ in range(200):
        y = y * t
    drawing = draw(record_backward(y), max_nodes=10)
    root, block, *_ = boxes(drawing.svg)
    assert root[1][-1] == "gradient 1" and block[1] == ["×198", "MulBackward0"]
    assert "It has gradient 1, and sends 1 and 1." in drawing.alt


def test_a_large_drawing_tells_the_numbers_of_its_roots_and_leaves():
    x = torch.zeros((), requires_grad=True)
    y = x
    for _ in range(20):
        y = y.sin()
    assert draw(record_backward(y)).alt == (
        "Backward graph with 21 nodes: 20 SinBackward0, 1 AccumulateGrad. "
        "Root SinBackward0 (y). It ends at leaf x (). "
        "SinBackward0 (y) has value 0 and gradient 1, and sends 1. "
        "Leaf x () has value 0 and gradient 1."
    )


def test_what_a_recording_must_have_is_in_a_protocol():
    x = torch.ones(2, requires_grad=True)
    assert isinstance(record_backward(x.sum()), RecordedPass)
    assert not isinstance(x, RecordedPass) and not isinstance(Graph.of(x), RecordedPass)


# ---- values without a pass


def test_values_are_shown_where_they_can_be_had_and_left_out_elsewhere():
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    h = x * 2.0
    y = ((h + 1.0).exp() - 1.0).sum()
    drawing = draw(y, values=True)
    assert numbers_in(drawing.svg) == {
        "SumBackward0": [f"value {math.e + math.e**3 - 2:.4g}"],  # what was given to draw
        "SubBackward0": [],
        "ExpBackward0": ["value [2.718, 20.09]"],  # which it saved
        "AddBackward0": [],
        "MulBackward0": ["value [0, 2]"],  # of a variable
        "leaf x": ["value [0, 1]"],
    }
    (sub,) = [lines for _, lines, _ in boxes(drawing.svg) if "SubBackward0" in lines]
    assert sub == ["SubBackward0"], "no gap where nothing is known"
    assert x.grad is None and y.grad_fn.next_functions


def test_with_names_only_their_tensors_have_values():
    x = torch.tensor(3.0, requires_grad=True)
    h = x * 2.0
    k = h + 1.0
    shown = numbers_in(draw(k * 1.0, names={"k": k}, values=True).svg)
    assert shown["AddBackward0"] == ["value 7"]
    assert numbers_in(draw(k + h, names={}, values=True).svg)["MulBackward0"] == []


def test_values_run_no_hooks_and_no_pass_and_a_watch_sees_nothing():
    ran = []
    x = torch.ones(2, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: ran.append(t) or t):
        y = x.exp().sum()
    y.register_hook(ran.append)
    with watch() as watched:
        drawing = draw(y, values=True)
    assert numbers_in(drawing.svg)["ExpBackward0"] == [], "it was saved through hooks"
    assert ran == [] and x.grad is None and len(watched.operations) == 0


def test_what_was_modified_or_freed_since_is_left_out():
    x = torch.zeros(2, requires_grad=True)
    h = x.exp()
    y = h.sum()
    h.add_(1)
    del h
    assert numbers_in(draw(y, values=True).svg)["ExpBackward0"] == []
    z = x.exp().sum()
    z.backward()
    assert numbers_in(draw(z, values=True).svg)["ExpBackward0"] == []


def test_a_graph_shows_values_too():
    x = torch.tensor(2.0, requires_grad=True)
    h = x * 3.0
    graph = Graph.of(h.sin())
    assert numbers_in(draw(graph, values=True).svg)["MulBackward0"] == ["value 6"]


def test_without_values_nothing_is_different():
    x = torch.tensor(2.0, requires_grad=True)
    drawing = draw(x.exp())
    assert "value" not in drawing.svg and "pill" not in drawing.svg
    assert numbers_in(drawing.svg) == {"ExpBackward0": [], "leaf x": []}


# ---- a tensor as text


@each(
    ("numbers", "text"),
    [
        (-0.0, "0"),
        (1 / 3, "0.3333"),
        (123456.0, "1.235e+05"),
        ([math.nan, math.inf, -math.inf], "[nan, inf, -inf]"),
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "[[1, 2, 3], [4, 5, 6]]"),
        ([[[2.0]]], "[[[2]]]"),
        ([1 + 2j, -0.0j], "[1+2j, 0+0j]"),
        ([True, False], "[True, False]"),
        ([], "[]"),
        ([[3.0] * 4] * 4, "(4, 4) norm 12"),
        ([3j] * 16, "(16,) norm 12"),
        ([2] * 9, "(9,) norm 6"),
        ([math.nan] * 7, "(7,) norm nan"),
    ],
)
def test_a_tensor_is_written_in_full_or_by_shape_and_norm(numbers, text):
    assert written(torch.tensor(numbers)) == text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_norm_is_added_up_in_double_precision(dtype):
    assert written(torch.full((10_000,), 256.0, dtype=dtype)) == "(10000,) norm 2.56e+04"


@pytest.mark.filterwarnings("ignore")
def test_sparse_and_nested_tensors_have_a_norm_and_what_has_no_numbers_is_left_out():
    assert written(torch.eye(4).to_sparse()) == "(4, 4) norm 2"
    assert written(torch.eye(4).to_sparse_csr()) == "(4, 4) norm 2"
    assert written(torch.ones(3, device="meta")) == ""
    assert written(torch.nested.nested_tensor([torch.ones(2), torch.ones(1)])) == ""


def test_numbers_that_do_not_fit_are_broken_into_lines():
    x = torch.full((2, 3), 0.12345, requires_grad=True)
    (_, lines, _) = boxes(draw(x, values=True).svg)[0]
    assert lines[-3:] == ["value", "[[0.1235, 0.1235, 0.1235],", "[0.1235, 0.1235, 0.1235]]"]


# ---- what is refused


@pytest.mark.parametrize("values", [1, None, "all"])
def test_values_that_are_no_bool_are_refused(values):
    with pytest.raises(
        TypeError, match=f"values must be True or False, got {type(values).__name__}"
    ):
        draw(torch.ones(1, requires_grad=True), values=values)


def test_names_for_a_recorded_pass_are_refused():
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="recorded pass has its names already"):
        draw(record_backward(x.sum()), names={"x": x})


# ---- names that look like numbers


@each("name", ["gradient 5", "\xa0gradient 5", "[0]\xa05", "[a  b"])
def test_a_name_is_never_coloured_as_a_number(name):
    x = torch.ones(2, requires_grad=True)
    svg = draw(x * 2, names={name: x}, values=True).svg
    assert "#8a3b00" not in svg and "tspan" not in svg


def test_no_arrow_crosses_a_pill_or_a_number():
    torch.manual_seed(0)
    x = torch.randn(3, requires_grad=True)
    y = x
    for i in range(6):
        left, right = torch.stack([y * x, y + 1.0]).unbind()
        y = left * right - (x if i % 2 else left)
    assert crossed(draw(record_backward(y.sum())).svg) == []
