"""keepers.py: who keeps a graph alive, kind by kind; and that correct programs are left alone."""

import gc
import re
import sys
import types
import warnings
import weakref
from collections import deque, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import companion.graph.keepers
from companion import Graph, Keeper, Keepers, record_backward, who_keeps
from tests.programs import Square, Twice


@dataclass(slots=True)
class Entry:
    loss: torch.Tensor


Transition = namedtuple("Transition", "state reward")


def leaf():
    return torch.ones(3, requires_grad=True)


def loss_of(w):
    return (w * w).sum()


def found(what):
    return [(keeper.name, keeper.kind, keeper.where) for keeper in who_keeps(what)]


@pytest.fixture
def with_globals():
    """The variables of modules are searched too, which tests/conftest.py froze."""
    gc.unfreeze()
    yield
    gc.freeze()


# ---- what keeps a graph


def test_a_list_a_dict_and_what_lies_in_them_are_told_by_the_way_to_the_tensor():
    here = "variable of test_a_list_a_dict_and_what_lies_in_them_are_told_by_the_way_to_the_tensor"
    w = leaf()
    for make, path in [
        (lambda loss: [0, loss], "[1]"),
        (lambda loss: {"loss": loss}, "['loss']"),
        (lambda loss: {3: [{"a": loss}]}, "[3][0]['a']"),
        (lambda loss: deque([loss]), "[0]"),
        (lambda loss: [Entry(loss)], "[0].loss"),
        (lambda loss: [Transition(loss, 1.0)], "[0].state"),
        (lambda loss: {loss}, ".…"),
        (lambda loss: [(0, loss)], "[0][1]"),
    ]:
        loss = loss_of(w)
        kept = make(loss)
        assert found(loss) == [(f"kept{path}", type(kept).__name__, here)]


def test_a_sum_over_steps_leads_to_the_graph_of_each_step():
    w, total = leaf(), 0.0
    for _ in range(3):
        loss = loss_of(w)
        total = total + loss
    (keeper,) = who_keeps(loss)
    assert str(keeper).startswith("total (Tensor, variable of test_a_sum_over_steps")
    assert str(keeper).endswith(" → AddBackward0 → … → SumBackward0")


def test_an_attribute_of_a_module_is_named_as_torch_names_it():
    class Remembers(nn.Linear):
        def forward(self, x):
            self.last = super().forward(x)
            return self.last

    model = nn.Sequential(nn.Tanh(), nn.Sequential(Remembers(3, 3)))
    loss = model(torch.ones(2, 3)).sum()
    assert [name for name, _, _ in found(loss)] == ["model.1.0.last"]


def test_globals_and_classes_are_told_with_their_module(monkeypatch):
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    exec("KEPT = []\nclass Registry:\n    kept = {}", module.__dict__)
    loss = loss_of(leaf())
    module.KEPT.append(loss)
    module.Registry.kept["loss"] = loss
    assert found(loss) == [
        ("KEPT[0]", "list", "variable of module mine"),
        ("Registry.kept['loss']", "class", "of module mine"),
    ]


def test_a_closure_is_told_by_the_variable_that_it_took():
    def report(loss):
        return lambda: loss

    loss = loss_of(leaf())
    callbacks = [report(loss)]
    assert [name for name, _, _ in found(loss)] == ["callbacks[0] → its loss"]
    del callbacks


def test_an_exception_is_told_by_the_variable_in_its_traceback():
    def fail(w):
        loss = loss_of(w)
        nodes.append(weakref.ref(loss))
        raise ValueError("on purpose")

    nodes, errors = [], []
    try:
        fail(leaf())
    except ValueError as error:
        errors.append(error)
    loss = nodes[0]()
    ((name, _, _),) = found(loss)
    assert name == f"errors[0].__traceback__ → loss of {fail.__qualname__}"


def test_a_generator_that_waits_is_told_by_its_variable():
    def losses(w):
        while True:
            loss = loss_of(w)
            yield loss

    made = losses(leaf())
    loss = next(made)
    assert [name for name, _, _ in found(loss)] == [f"made → loss of {losses.__qualname__}"]


def test_a_grad_with_a_graph_keeps_it_by_its_leaf():
    w = leaf()
    loss = w.exp().sum()
    with warnings.catch_warnings(action="ignore"):
        loss.backward(create_graph=True)
    assert [name for name, _, _ in found(loss)] == ["w.grad"]
    assert [name for name, _, _ in found(w.grad)] == ["w.grad"]
    w.grad = None
    assert found(loss) == []


def test_a_node_a_graph_and_a_recording_keep_what_is_below():
    loss = loss_of(leaf())
    nodes = [loss.grad_fn]
    assert [name for name, _, _ in found(loss)] == ["nodes[0]"]
    del nodes
    graph = Graph.of(loss)
    assert found(loss) == [("graph", "Graph", found(loss)[0][2])]
    assert found(graph) == []
    del graph
    recording = record_backward(loss, retain_graph=True)
    assert [name for name, _, _ in found(loss)] == ["recording"] and recording


def test_what_a_function_keeps_on_ctx_of_its_own_result_is_a_circle():
    y = Twice.apply(leaf() * 1)
    y.grad_fn.result = y
    ((name, kind, where),) = found(y)
    assert (name, where) == ("ctx.result", "Node of the graph itself")
    assert kind == "TwiceBackward"
    del y.grad_fn.result
    x = leaf() * 1
    y = Twice.apply(x)
    y.grad_fn.input = x  # no circle: the graph keeps what is below anyway
    assert found(y) == []


def test_a_tensor_without_a_graph_is_told_itself():
    x = torch.ones(3)
    assert found(x) == []
    kept = [x]
    assert [name for name, _, _ in found(x)] == ["kept[0]"]
    w = leaf()
    parameters = {"w": w}
    assert [name for name, _, _ in found(w)] == ["parameters['w']"]
    del kept, parameters


# ---- correct programs


def test_a_training_loop_has_nothing_to_tell():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = torch.optim.Adam(model.parameters())
    total, losses = 0.0, []
    for _ in range(3):
        prediction = model(torch.ones(2, 3))
        loss = prediction.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        losses.append(loss.detach())
        assert found(loss) == []
    assert str(who_keeps(loss)) == "found no name that keeps this graph"


def test_variables_tuples_arguments_and_hooks_of_the_step_itself_are_no_keepers():
    @torch.enable_grad()
    def step(model, x):
        output, hidden = result = model(x)
        hidden.register_hook(lambda gradient: gradient * 2)
        output.retain_grad()
        loss = output.sum()
        loss.backward()
        return loss, (output, result)

    loss, parts = step(nn.GRU(3, 3), torch.ones(2, 3))
    assert found(loss) == [] and parts


def test_checkpoints_and_custom_functions_keep_their_own_graph_alone():
    w = leaf()
    loss = checkpoint(lambda t: Square.apply(t).exp(), w * 1, use_reentrant=False).sum()
    assert found(loss) == []
    with torch.autograd.graph.save_on_cpu():
        loss = Square.apply(w * 1).exp().sum()
    assert found(loss) == []


def test_the_leaves_that_graphs_share_do_not_make_them_one():
    w = leaf()
    others = [loss_of(w)]
    loss = loss_of(w)
    assert found(loss) == [] and others


def test_what_runs_code_from_a_string_as_notebooks_do_has_no_part_in_it():
    """Its variable for the namespace is not the user's name for what is in it."""
    code = """
import torch
from companion import who_keeps
w = torch.ones(3, requires_grad=True)
before, total = 0.0, 0.0
for _ in range(2):
    loss = (w * w).sum()
    parts = (loss, w)
alone = list(who_keeps(loss))
for _ in range(2):
    loss = (w * w).sum()
    before = loss
    total = total + loss
keepers = list(who_keeps(loss))
"""
    namespace = {}
    exec(compile(code, "cell", "exec"), namespace)
    assert namespace["alone"] == []
    (keeper,) = namespace["keepers"]
    assert (keeper.name, keeper.where, keeper.count) == ("total", "global variable", 1)


def test_an_output_of_a_notebook_is_told_by_the_name_that_people_use_first(with_globals):
    code = """
loss = (w * w).sum()
_oh = Out = {3: loss}
_ = _3 = loss
sys.last_value = loss
keepers = list(who_keeps(loss))
"""
    namespace = {"sys": sys, "w": leaf(), "who_keeps": who_keeps}
    try:
        exec(compile(code, "cell", "exec"), namespace)
    finally:
        del sys.last_value
    assert [k.name for k in namespace["keepers"]] == ["Out[3]", "last_value"]


# ---- how it is told, and what it leaves


def test_names_that_differ_by_an_index_are_one_line_and_private_names_come_last():
    w = leaf()
    _first, history, loss = [], [], 0.0
    for _ in range(3):
        loss = loss + loss_of(w)
        history.append({"loss": loss})
        _first.append(loss)
    text = str(who_keeps(loss)).splitlines()
    names = [re.sub(r"\d", "i", line.partition(" ")[0]) for line in text]
    assert names == ["history[i]['loss']", "_first[i]"]
    assert all(line.endswith(", and 2 more there") for line in text)


def test_objects_beyond_those_that_are_followed_are_counted(monkeypatch):
    monkeypatch.setattr(companion.graph.keepers, "_HITS", 5)
    w = leaf()
    loss = loss_of(w)
    history = [{"loss": loss} for _ in range(12)]
    keepers = who_keeps(loss)
    assert len(keepers) == 1 and 0 < keepers[0].count <= 5  # the cell of ``loss`` is one of them
    assert keepers.left_out >= len(history) - 5
    last = f"{keepers.left_out} more objects that refer to it were not followed"
    assert str(keepers).splitlines()[-1] == last


def test_a_search_that_would_take_too_long_ends(monkeypatch):
    monkeypatch.setattr(companion.graph.keepers, "_COMPARISONS", 0)
    w = leaf()
    loss = loss_of(w)
    total = loss * 2
    deep = [[[total]]]
    names = [(name, where) for name, _, where in found(loss)]
    assert names[0][0] == "total"
    assert names[1] == ("a list", "no name found") and deep


def test_it_keeps_nothing_alive_and_changes_nothing():
    w = leaf()
    loss = loss_of(w)
    kept = [loss]
    result = who_keeps(loss)
    alive = weakref.ref(loss)
    assert isinstance(result, Keepers) and isinstance(result[0], Keeper)
    was_on = gc.isenabled()
    kept.clear()
    del loss
    assert alive() is None
    assert gc.isenabled() == was_on
    assert "kept[0]" in result._repr_html_()


def test_of_a_deep_graph_the_fuses_are_no_keepers():
    y = leaf()
    for _ in range(3000):
        y = y * 1.0
    assert (found(y), who_keeps(y).left_out) == ([], 0)
    kept = [y]
    assert [name for name, _, _ in found(y)] == ["kept[0]"]
    del kept


def test_a_view_that_nobody_may_use_any_more_does_not_stop_the_search():
    parts = (torch.ones(2, requires_grad=True) * 2).unbind()
    with torch.no_grad():
        parts[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified inplace"):
        parts[1].grad_fn  # noqa: B018
    losses = [torch.ones(2, requires_grad=True).sum()]
    assert "losses" in str(who_keeps(losses[0]))


def test_what_is_no_part_of_a_graph_is_refused():
    with pytest.raises(TypeError, match="what must be a tensor, a Node .* or a Graph, got list; g"):
        who_keeps([loss_of(leaf())])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_an_object_of_a_function_is_in_no_graph_and_does_not_stop_the_search():
    """In torch 2.12 its ``next_functions`` raises."""
    function = Square()
    losses = [torch.ones(2, requires_grad=True).sum()]
    assert "losses" in str(who_keeps(losses[0]))
    del function
