"""Whoever is given something in place of a tensor says what to give instead."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from companion import (
    Graph,
    diagnose,
    draw,
    play,
    record_backward,
    saved_memory,
    walk_grad_fn,
    watch,
    who_keeps,
    write_backward,
)
from companion.graph.not_a_tensor import how_to_take_apart
from tests.cases import each

NET = nn.LSTM(2, 3)
LOSS = NET(torch.ones(4, 2))[0].sum()
OTHER = LOSS * 2


@dataclass
class Output:
    logits: torch.Tensor
    name: str = "an output"


OUTPUTS = {
    "list": ([LOSS, OTHER], "output[0]", "Graph.of(*output)"),
    "tuple": ((LOSS, OTHER), "output[0]", "Graph.of(*output)"),
    "dict": ({"loss": LOSS}, "output['loss']", "Graph.of(*output.values())"),
    "like a ModelOutput": (
        OrderedDict(loss=LOSS, logits=OTHER),
        "output['loss']",
        "Graph.of(*output.values())",
    ),
    "an object": (Output(LOSS), "output.logits", None),
    "nested": ({"n": 3, "losses": [(torch.ones(2), LOSS)]}, "output['losses'][0][1]", None),
    "a pair with a tensor that requires nothing": ((torch.ones(2), LOSS), "output[1]", None),
}
READERS = [Graph.of, draw, walk_grad_fn, saved_memory, who_keeps]  # of a Graph as well, but one
TAKERS = [*READERS, record_backward, play, write_backward]


@each("taker", TAKERS)
@each("kind", OUTPUTS)
def test_what_holds_a_tensor_is_refused_with_the_expression_that_gets_it(kind, taker):
    output, expression, of_all = OUTPUTS[kind]
    with pytest.raises(TypeError) as refusal:
        taker(output)
    assert f"give one of its tensors, such as {expression}" in str(refusal.value)
    assert eval(expression) is LOSS
    if taker in READERS and of_all:
        assert of_all in str(refusal.value)
    else:
        assert "or all" not in str(refusal.value)
    if of_all:
        assert eval(of_all).roots


@each("taker", TAKERS)
def test_a_module_is_refused_with_the_word_to_call_it(taker):
    with pytest.raises(TypeError, match="got LSTM; call the module, and give what it returns"):
        taker(NET)


@each("kind", OUTPUTS)
def test_diagnose_says_how_to_take_an_output_apart_too(kind):
    output, expression, _ = OUTPUTS[kind]
    (found,) = diagnose(output)
    assert found.code == "not-a-tensor"
    assert expression in found.message
    assert "item()" not in found.cure


@pytest.mark.parametrize(
    ("output", "way_out"),
    [
        (Graph.of(LOSS), "give the tensor that it is the graph of"),
        (LOSS.grad_fn, "give the tensor that it is the graph of"),
        (record_backward(LOSS, retain_graph=True), "give the tensor that it is the graph of"),
        (None, "does the function that computes it return it?"),
        (LOSS.backward, "call it, and give what it returns"),
        ("loss", ""),
    ],
    ids=["graph", "node", "recording", "none", "method", "text"],
)
def test_diagnose_tells_of_numbers_only_where_the_output_is_some(output, way_out):
    (found,) = diagnose(output)
    assert found.message == f"the output is a {type(output).__name__}, not a tensor" + (
        f"; {way_out}" if way_out else ""
    )
    cure = "return the loss from the function" if output is None else "give the tensor itself"
    assert found.cure.startswith(cure)
    (found,) = diagnose(3.0)
    assert "item()" in found.cure


@each("output", [3.0, "text", None, [], [1, 2], {}, (torch.ones(2),), object()])
def test_what_holds_no_tensor_with_a_graph_has_no_way_out(output):
    assert how_to_take_apart(output) == ""


def test_what_holds_itself_is_looked_at_once_in_a_while_and_not_for_ever():
    output = []
    output.append(output)
    assert how_to_take_apart(output) == ""


# ---- what is no container: parts of a graph, numbers, functions


class Losses(NamedTuple):
    loss: torch.Tensor


READ = Graph.of(LOSS)
RECORDING = record_backward(LOSS, retain_graph=True)


@each("taker", TAKERS)
@each(
    ("given", "way_out"),
    [
        (3.5, "float; numbers have no graph; give the tensor that they were read from"),
        (True, "bool; numbers have no graph"),
        (LOSS.detach().numpy(), "ndarray; numbers have no graph"),
        (LOSS.backward, "method; call it, and give what it returns"),
        (NET.forward, "method; call it, and give what it returns"),
        (Losses(LOSS), "Losses; give one of its tensors, such as output.loss"),
    ],
)
def test_what_is_no_container_is_refused_with_a_way_out(given, way_out, taker):
    with pytest.raises(TypeError, match=f"got {way_out}"):
        taker(given)


@each("taker", [record_backward, play, write_backward, saved_memory, who_keeps])
def test_none_asks_whether_the_function_returns_its_result(taker):
    with pytest.raises(TypeError, match=r"got NoneType; does the function .* return it\?"):
        taker(None)


@each("taker", [reader for reader in READERS if reader is not draw])
def test_who_takes_a_graph_says_where_a_recording_and_its_parts_have_one(taker):
    output = RECORDING
    with pytest.raises(TypeError, match="got Recording; its Graph is output.graph"):
        taker(output)
    assert output.graph.roots[0].grad_fn is LOSS.grad_fn
    output = READ.roots[0]
    with pytest.raises(TypeError, match="got GraphNode; its Node is output.grad_fn"):
        taker(output)
    assert output.grad_fn is LOSS.grad_fn
    output = torch.autograd.graph.get_gradient_edge(LOSS)
    with pytest.raises(TypeError, match="got GradientEdge; its Node is output.node"):
        taker(output)
    assert output.node is LOSS.grad_fn


@each("taker", [record_backward, play, write_backward])
@each("given", [READ, LOSS.grad_fn, READ.roots[0], (READ,)])
def test_who_takes_a_tensor_alone_asks_for_that_of_a_graph(given, taker):
    with pytest.raises(TypeError, match="give the tensor that it is the graph of"):
        taker(given)


@each("taker", READERS[1:])
def test_what_unpacks_a_list_is_taken_where_a_list_is_not(taker):
    taker(READ)
    taker(Graph.of(*[LOSS, OTHER]))


def test_a_graph_is_not_read_again():
    with pytest.raises(TypeError, match="got Graph; it has been read"):
        Graph.of(READ)


def test_draw_says_all_that_it_takes():
    with pytest.raises(TypeError, match="a tensor, a Node .*, a Graph or a Recording, got Watch"):
        with watch() as watched:
            draw(watched)
