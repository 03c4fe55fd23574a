"""modules.py: which module made which Node, and that the model is left alone."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import checkpoint

import companion
from companion import Graph, draw, modules
from companion.graph.modules import calls_from


class Twice(nn.Module):
    """One module called twice, and an operation of its own after each call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, h):
        return self.linear(self.linear(h).exp()).sin()


def made_by(output, names) -> list[tuple[str, str | None]]:
    nodes = Graph.of(output, names=names).nodes
    return [(node.name, node.module) for node in nodes if not node.is_leaf]


def test_each_node_goes_to_the_innermost_module_that_made_it():
    model = nn.Sequential(Twice(), nn.Tanh())
    with modules(model) as names:
        output = model(torch.ones(1, 2)) * 2
    assert made_by(output, names) == [
        ("MulBackward0", None),
        ("TanhBackward0", "1"),
        ("SinBackward0", "0"),
        ("AddmmBackward0", "0.linear"),
        ("ExpBackward0", "0"),
        ("TBackward0", "0.linear"),
        ("AddmmBackward0", "0.linear"),
        ("TBackward0", "0.linear"),
    ]
    assert all(leaf.module is None for leaf in Graph.of(output, names=names).leaves)


def test_the_names_are_those_of_the_parameters():
    model = Twice()
    with modules(model) as names:
        output = model(torch.ones(1, 2))
    assert dict(names) == dict(model.named_parameters())
    assert {leaf.label for leaf in Graph.of(output, names=names).leaves} == set(names)
    assert [node.module for node in Graph.of(output, names=dict(names)).nodes[:2]] == [None] * 2


def test_all_nodes_of_a_transformer_are_attributed():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    with modules(model) as names:
        output = model(torch.ones(1, 3, 8))
    made = [module for _, module in made_by(output, names)]
    assert len(made) > 100 and None not in made
    assert {m.split(".")[1] for m in made} == {"0", "1"}


def test_several_passes_in_one_block_are_told_apart_by_their_nodes():
    model = Twice()
    with modules(model) as names:
        first, second = model(torch.ones(1, 2)), model(torch.ones(1, 2))
    assert made_by(first, names) == made_by(second, names)
    assert [m for _, m in made_by(first + second, names)][:3] == [None] * 3
    assert len(calls_from(names.events)) == 6


def test_hooks_are_gone_after_the_block_and_after_an_error():
    model = Twice()
    with modules(model):
        pass
    with pytest.raises(KeyError), modules(model):
        raise KeyError
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_forward_that_raises_ends_its_calls():
    class Fails(nn.Module):
        def forward(self, h):
            raise ValueError

    model = nn.ModuleDict({"fails": Fails(), "fine": nn.Tanh()})
    x = torch.ones(2, requires_grad=True)
    with modules(model) as names:
        with pytest.raises(ValueError):
            model["fails"](x)
        output = model["fine"](x).exp()
    assert made_by(output, names) == [("ExpBackward0", None), ("TanhBackward0", "fine")]


def test_a_hook_of_the_users_that_raises_first_disturbs_nothing():
    model = nn.Sequential(nn.Tanh(), nn.Sigmoid())
    x = torch.ones(2, requires_grad=True)

    def refuse(*_):
        raise ValueError

    with model[1].register_forward_pre_hook(refuse):
        with modules(model) as names:
            with pytest.raises(ValueError):
                model(x)
            y = model[0](x)
    assert made_by(y, names) == [("TanhBackward0", "0")]


def test_a_global_hook_that_raises_before_the_call_began_ends_no_other_call():
    model = nn.Sequential(nn.Tanh(), nn.Sigmoid())
    x = torch.ones(2, requires_grad=True)

    def refuse(module, _):
        if isinstance(module, nn.Sigmoid):
            raise ValueError

    with register_module_forward_pre_hook(refuse), modules(model) as names:
        with pytest.raises(ValueError):
            model[1](x)
        y = model[0](x)
    assert made_by(y, names) == [("TanhBackward0", "0")]
    assert [call.path for call in calls_from(names.events)] == ["0"]


def test_a_graph_read_while_a_call_is_open_knows_its_module_when_asked_later():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    graphs = []
    model[1].register_forward_hook(lambda _, __, y: graphs.append(Graph.of(y, names=names)))
    with modules(model) as names:
        model(torch.ones(1, 2))
    assert [(node.name, node.module) for node in graphs[0].nodes[:2]] == [
        ("TanhBackward0", "1"),
        ("AddmmBackward0", "0"),
    ]


def test_to_read_a_graph_takes_no_time_for_the_calls_before(monkeypatch):
    model = nn.Tanh()
    with modules(model) as names:
        y = model(torch.ones(2, requires_grad=True))
    monkeypatch.setattr(companion.graph.reading, "calls_from", lambda events: 1 / 0)
    graph = Graph.of(y, names=names)
    with pytest.raises(ZeroDivisionError):
        _ = graph.calls


def test_the_class_is_that_at_the_time_of_the_call():
    model = nn.Sequential(nn.LazyLinear(3), nn.Tanh())
    with modules(model) as names:
        model(torch.ones(1, 2))
        model(torch.ones(1, 2))
    kinds = [call.kind for call in calls_from(names.events) if call.path == "0"]
    assert kinds == ["LazyLinear", "Linear"]


def test_the_model_computes_what_it_always_computes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 1))
    torch.manual_seed(1)
    expected = model(torch.ones(4, 2))
    torch.manual_seed(1)
    with modules(model):
        assert torch.equal(model(torch.ones(4, 2)), expected)


def test_what_another_thread_computes_meanwhile_is_not_attributed():
    model = Twice()
    with modules(model) as names:
        thread = threading.Thread(target=model, args=[torch.ones(1, 2)])
        thread.start()
        thread.join()
    assert names.events == []


def test_a_checkpoint_is_attributed_as_well_and_its_second_forward_does_no_harm():
    model = Twice()
    with modules(model) as names:
        x = torch.ones(1, 2, requires_grad=True)
        output = checkpoint(model, x, use_reentrant=False)
        before = made_by(output, names)
        output.sum().backward()
    assert ("AddmmBackward0", "linear") in before
    assert made_by(output, names) == before


@pytest.mark.filterwarnings("ignore")  # of torch's own, about torch.jit and inside of compile
@pytest.mark.usefixtures("fresh_compiler")
def test_scripted_and_compiled_modules_stay_as_they_are():
    scripted = torch.jit.script(nn.Linear(2, 2))
    compiled = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    in_place = Twice()
    in_place.compile(backend="aot_eager", fullgraph=True)
    whole = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    model = nn.Sequential(scripted, whole, in_place, nn.Sigmoid())
    with modules(model) as names:
        output = model(torch.ones(1, 2))
    made = made_by(output, names)
    assert made[0] == ("SigmoidBackward0", "3")
    assert [name for name, _ in made].count("CompiledFunctionBackward") == 2
    assert {module for _, module in made} == {"3", None}
    with modules(whole) as names:
        assert made_by(whole(torch.ones(1, 2)), names) == [("CompiledFunctionBackward", None)]
    assert "_orig_mod.0.weight" in names


def test_a_copy_of_the_model_made_meanwhile_keeps_no_hook_of_ours_and_is_not_seen():
    def users(*_):
        """A hook that a copy keeps."""

    model = nn.Sequential(Twice(), nn.Tanh())
    model[0].linear.register_forward_hook(users)
    with modules(model) as names:
        twins = [copy.deepcopy(model), copy.deepcopy(copy.deepcopy(model)), copy.copy(model)]
        again = copy.deepcopy(twins[0])
        twins[1](torch.ones(1, 2))
    assert names.events == []
    for twin in (*twins, again, model):
        hooks = [{**part._forward_hooks, **part._forward_pre_hooks} for part in twin.modules()]
        assert [list(found.values()) for found in hooks] == [[], [], [users], []]
    pickle.dumps(nn.Sequential(twins[0][1], again[1]))


def test_a_module_that_calls_itself_and_fails_inside_keeps_its_own_call():
    class Nested(nn.Module):
        def forward(self, h, again=True):
            if again:
                with pytest.raises(ValueError):
                    self(h, again=False)
            return h.tanh()

    def refuse(_, arguments, options):
        if not options.get("again", True):
            raise ValueError

    model = nn.Sequential(Nested())
    x = torch.ones(2, requires_grad=True)
    with model[0].register_forward_pre_hook(refuse, with_kwargs=True), modules(model) as names:
        output = model(x)
    assert made_by(output, names) == [("TanhBackward0", "0")]


def test_an_interrupt_in_a_forward_leaves_no_call_open_for_the_outer_ones():
    class Interrupted(nn.Module):
        def forward(self, h):
            raise KeyboardInterrupt

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Interrupted()

        def forward(self, h):
            with pytest.raises(KeyboardInterrupt):
                self.inner(h)
            return h.tanh()

    model = nn.Sequential(Outer(), nn.Sigmoid())
    with modules(model) as names:
        output = model(torch.ones(2, requires_grad=True)).exp()
    assert made_by(output, names) == [
        ("ExpBackward0", None),
        ("SigmoidBackward0", "1"),
        ("TanhBackward0", "0"),
    ]


def test_a_small_graph_is_drawn_node_by_node_and_hover_names_the_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with modules(model) as names:
        output = model(torch.ones(1, 2))
    assert "TanhBackward0, made (1, 2) float32, in the module 1" in draw(output, names=names).svg


def test_something_else_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        with modules([nn.Linear(1, 1)]):
            pass
