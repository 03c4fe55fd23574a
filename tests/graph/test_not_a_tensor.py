"""Whoever is given a list, a dict, an object or a module says how to get a tensor from it."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from companion import Graph, diagnose, draw, play, record_backward, walk_grad_fn, write_backward
from companion.graph.not_a_tensor import how_to_take_apart

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
TAKERS = [Graph.of, draw, walk_grad_fn, record_backward, play, write_backward]


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_what_holds_a_tensor_is_refused_with_the_expression_that_gets_it(kind, taker):
    output, expression, of_all = OUTPUTS[kind]
    with pytest.raises(TypeError) as refusal:
        taker(output)
    assert f"give one of its tensors, such as {expression}" in str(refusal.value)
    assert eval(expression) is LOSS
    if taker in (Graph.of, draw, walk_grad_fn):
        assert (of_all in str(refusal.value)) if of_all else ("or all" not in str(refusal.value))
    if of_all:
        assert eval(of_all).roots


@pytest.mark.parametrize("taker", TAKERS)
def test_a_module_is_refused_with_the_word_to_call_it(taker):
    with pytest.raises(TypeError, match="got LSTM; call the module, and give what it returns"):
        taker(NET)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_diagnose_says_how_to_take_an_output_apart_too(kind):
    output, expression, _ = OUTPUTS[kind]
    (found,) = diagnose(output)
    assert found.code == "not-a-tensor"
    assert expression in found.message
    assert "item()" not in found.cure


@pytest.mark.parametrize("output", [3.0, "text", None, [], [1, 2], {}, (torch.ones(2),), object()])
def test_what_holds_no_tensor_with_a_graph_has_no_way_out(output):
    assert how_to_take_apart(output) == ""


def test_what_holds_itself_is_looked_at_once_in_a_while_and_not_for_ever():
    output = []
    output.append(output)
    assert how_to_take_apart(output) == ""
