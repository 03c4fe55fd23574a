"""Why no path leads to an input: right and wrong programs, each checked by a backward pass."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from companion import diagnose, watch
from tests.cases import each
from tests.programs import RunsModule


class RunsBackward(RunsModule):
    """Computes the module again in backward, and runs a backward pass through it."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            ctx.module(x).backward(gradient)
        return x.grad, None


def new_parameter(raw, layer, x):
    layer.weight = nn.Parameter(F.softplus(raw))
    return layer(x).sum(), [raw]


def registered_parameter(raw, layer, x):
    result = F.softplus(raw)
    layer.register_parameter("weight", nn.Parameter(result))
    return layer(x).sum(), [raw]


def loose_parameter(raw, layer, x):
    weight = nn.Parameter(raw * 2)
    return F.linear(x, weight).sum(), [raw]


def parameter_without_gradient(raw, layer, x):
    layer.weight = nn.Parameter(raw.exp(), requires_grad=False)
    return layer(x).sum(), [raw]


def assigned_data(raw, layer, x):
    layer.weight.data = F.softplus(raw)
    return layer(x).sum(), [raw]


def copied_with_gradients_off(raw, layer, x):
    result = F.softplus(raw)
    with torch.no_grad():
        layer.weight.copy_(result)
    return layer(x).sum(), [raw]


def added_with_gradients_off(raw, layer, x):
    with torch.no_grad():
        layer.weight.add_(raw, alpha=0.1)
    return layer(x).sum(), [raw]


def tensor_of_a_tensor(raw, layer, x):
    copied = torch.tensor([raw[0, 0], 1.0], requires_grad=True)
    return (x * copied).sum(), [raw]


def copied_model(raw, layer, x):
    return copy.deepcopy(layer)(x).sum(), [*layer.parameters()]


def copied_leaf(raw, layer, x):
    leaf = torch.rand(2, 2, requires_grad=True)
    return (copy.deepcopy(leaf) * x).sum(), [leaf]


def function_of_a_module(raw, layer, x):
    return RunsModule.apply(x.requires_grad_(), layer).sum(), [*layer.parameters()]


def function_of_frozen_input(raw, layer, x):
    head = nn.Linear(2, 1)
    return head(RunsModule.apply(x, layer)).sum(), [*layer.parameters()]


def checkpoint_of_frozen_input(raw, layer, x):
    head = nn.Linear(2, 1)
    return head(checkpoint(layer, x, use_reentrant=True)).sum(), [*layer.parameters()]


def checkpoint_of_several_operations(raw, layer, x):
    head = nn.Linear(2, 1)
    y = checkpoint(lambda v: (layer(v).tanh() + 1).exp(), x, use_reentrant=True)
    return head(y).sum(), [*layer.parameters()]


def checkpoint_after_checkpoint(raw, layer, x):
    blocks, head = [layer, nn.Sequential(nn.Linear(2, 2), nn.Tanh())], nn.Linear(2, 1)
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=True)
    return head(x).sum(), [*layer.parameters(), *blocks[1].parameters()]


def function_of_several_operations(raw, layer, x):
    head, block = nn.Linear(2, 1), nn.Sequential(layer, nn.Tanh())
    return head(RunsModule.apply(x, block)).sum(), [*block.parameters()]


def drawn(raw, layer, x):
    head = nn.Linear(2, 1)
    return head(Normal(layer(x), 1.0).sample()).sum(), [*layer.parameters()]


def detached_in_vmap(raw, layer, x):
    head = nn.Linear(2, 1)
    return head(torch.vmap(lambda row: row.detach() * 2)(raw)).sum(), [raw]


def parameter_of_a_view_of_a_parameter(raw, layer, x):
    raw.exp()
    layer.weight = nn.Parameter(raw.t())
    return layer(x).sum(), [raw]


def weights_of_the_state(raw, layer, x):
    weights, head = layer.state_dict(), nn.Linear(2, 1)
    return head(torch.func.functional_call(layer, weights, (x,))).sum(), [*layer.parameters()]


def stacked_models(raw, layer, x):
    weights, _ = torch.func.stack_module_state([layer, nn.Linear(2, 2)])
    return (x @ weights["weight"] + weights["bias"][:, None]).sum(), [*layer.parameters()]


def view_with_gradients_off(raw, layer, x):
    with torch.no_grad():
        part = raw[:1]
    return (part * x).sum(), [raw]


def view_of_a_result_with_gradients_off(raw, layer, x):
    hidden = raw.exp()
    with torch.no_grad():
        upper, _ = hidden.unbind()
    return upper.square().sum(), [raw]


def view_in_inference_mode(raw, layer, x):
    with torch.inference_mode():
        part = raw.view(4)
    return part.square().sum(), [raw]


def view_of_a_view_given_to_a_function(raw, layer, x):
    with torch.no_grad():
        part = raw.t()[0]
    return RunsModule.apply(part, lambda part: part * 2).sum(), [raw]


# What is wrong, with what must be said of each input: a word of the message, and one of the cure.
CUT_OFF = {
    new_parameter: ("nn.Parameter()", "functional_call"),
    registered_parameter: ("nn.Parameter()", "parametrize"),
    loose_parameter: ("nn.Parameter()", "functional_call"),
    parameter_without_gradient: ("nn.Parameter()", "functional_call"),
    assigned_data: (".data writes", "functional_call"),
    copied_with_gradients_off: ("copy() writes", "functional_call"),
    added_with_gradients_off: ("add() writes", "functional_call"),
    tensor_of_a_tensor: ("copies the value", "torch.stack"),
    copied_model: ("copy.deepcopy()", "functional_call"),
    copied_leaf: ("copy.deepcopy()", "functional_call"),
    function_of_a_module: ("the forward of a custom Function", "give apply()"),
    function_of_frozen_input: ("the forward of a custom Function", "give apply()"),
    checkpoint_of_frozen_input: ("checkpoint(use_reentrant=True)", "use_reentrant=False"),
    checkpoint_of_several_operations: ("checkpoint(use_reentrant=True)", "use_reentrant=False"),
    checkpoint_after_checkpoint: ("checkpoint(use_reentrant=True)", "use_reentrant=False"),
    function_of_several_operations: ("the forward of a custom Function", "give apply()"),
    drawn: ("sample() draws", "rsample()"),
    detached_in_vmap: ("detach()", "take it away"),
    parameter_of_a_view_of_a_parameter: ("nn.Parameter()", "functional_call"),
    weights_of_the_state: ("detach()", "dict(model.named_parameters())"),
    stacked_models: ("detach()", "torch.stack of parameters"),
    view_with_gradients_off: ("indexing gave a view", "take the view with gradients on"),
    view_of_a_result_with_gradients_off: ("unbind() gave a view", "with gradients on"),
    view_in_inference_mode: ("view() gave a view in inference mode", "and inference mode"),
    view_of_a_view_given_to_a_function: ("indexing gave a view", "with gradients on"),
}
SAVES_THE_VIEW = [view_of_a_result_with_gradients_off, view_in_inference_mode]


def materials():
    torch.manual_seed(0)
    return nn.Parameter(torch.rand(2, 2)), nn.Linear(2, 2), torch.rand(3, 2)[:2]


@pytest.mark.filterwarnings("ignore:None of the inputs", "ignore:Converting a tensor")
@pytest.mark.parametrize("program", CUT_OFF, ids=lambda program: program.__name__)
def test_an_input_that_was_cut_off_is_told_with_its_cut_and_the_cure_of_that(program):
    word, cure = CUT_OFF[program]
    with watch() as watched:
        loss, inputs = program(*materials())
    diagnosis, without_watch = diagnose(loss, *inputs, watch=watched), diagnose(loss, *inputs)
    loss.backward()
    assert [tensor.grad for tensor in inputs] == [None] * len(inputs)
    found, *others = diagnosis  # one for all the inputs
    assert found.severity == "error" and {f.severity for f in others} <= {"warning", "info"}
    assert word in found.message and cure in found.cure and found.source.file == __file__
    costs = "get no gradient" if inputs[1:] else "gets no gradient"
    assert ", and so " in found.message and found.message.endswith(costs)
    # Without a watch nothing is guessed.
    codes = {found.code for found in without_watch if found.severity == "error"}
    is_copy = program in (copied_model, copied_leaf, parameter_of_a_view_of_a_parameter)
    known = {"no-grad"} if program in SAVES_THE_VIEW else {"unused-input"}
    assert codes <= ({"reassigned"} | known if is_copy else known)


@pytest.mark.parametrize("program", SAVES_THE_VIEW, ids=lambda program: program.__name__)
def test_a_view_without_a_node_that_a_node_saved_is_told_without_a_watch(program):
    raw, *rest = materials()
    loss, _ = program(raw, *rest)
    (found,) = diagnose(loss, raw)
    is_of_it = program is view_in_inference_mode
    whose = "a view of it" if is_of_it else "a view of what came of it"
    assert whose in found.message and "take the view with gradients on" in found.cure
    assert "PowBackward0" in found.where
    (found,) = diagnose(loss, torch.nn.Parameter(raw.detach()))  # another leaf
    assert found.code == "unused-input" and "view" not in found.message


def test_a_view_made_before_its_base_required_grad_is_told():
    x = torch.rand(4)
    part = x[:2]
    x.requires_grad_()
    (found,) = diagnose(part.square().sum(), x)
    assert "a view of it without a Node is" in found.message and "before its base" in found.message


def test_what_is_written_into_a_weight_by_way_of_a_view_is_no_cut():
    with watch() as watched:
        loss, _ = weight_written_by_way_of_views(*materials())
    assert watched.cuts == watched.reaching(loss) == ()


def test_a_view_with_gradients_off_beside_another_way_is_an_info():
    raw, layer, x = materials()
    with watch() as watched:
        with torch.no_grad():
            part = raw[:1]
        loss = (raw * part).sum()
    (found,) = diagnose(loss, raw, watch=watched)
    assert (found.severity, found.code) == ("info", "no-grad")


def weight_given_to_functional_call(raw, layer, x):
    weights = {"weight": F.softplus(raw)}
    return torch.func.functional_call(layer, weights, (x,)).sum(), [raw]


def weight_updated_with_gradients_off(raw, layer, x):
    with torch.no_grad():
        layer.weight.sub_(torch.ones(2, 2), alpha=0.1)
        layer.bias.zero_()
    return layer(x).sum(), [*layer.parameters()]


def weight_written_by_way_of_views(raw, layer, x):
    with torch.no_grad():
        layer.weight[0].fill_(0.5)
        row = layer.weight.unbind()[1]
        row.mul_(2).clamp_(max=1)
        layer.bias[:1].copy_(torch.ones(1))
    return layer(x).sum(), [*layer.parameters()]


def view_with_gradients_off_only_looked_at(raw, layer, x):
    with torch.no_grad():
        part = raw[:1]
        assert (part * 2 > 0).all() and part.sum().item() > 0
    return raw.square().sum(), [raw]


def model_built_in_the_block(raw, layer, x):
    net = nn.Sequential(nn.Embedding(5, 2, padding_idx=0), nn.Linear(2, 2), nn.LayerNorm(2))
    return net(torch.tensor([1, 2])).square().sum(), [*net.parameters()]


def function_that_is_given_all(raw, layer, x):
    return RunsModule.apply(raw, lambda x: x * 2).sum(), [raw]


def function_whose_result_is_dropped(raw, layer, x):
    RunsModule.apply(raw, lambda x: x * 2)
    return (raw * 2).sum(), [raw]


def function_that_runs_backward(raw, layer, x):
    return RunsBackward.apply(raw, layer).sum(), [raw, *layer.parameters()]


def checkpoint_with_gradients(raw, layer, x):
    out = checkpoint(layer, raw, use_reentrant=True)
    return out.sum(), [raw, *layer.parameters()]


def reparametrised_draw(raw, layer, x):
    return Normal(layer(x), 1.0).rsample().sum(), [*layer.parameters()]


def score_function(raw, layer, x):
    policy = Normal(layer(x), 1.0)
    return policy.log_prob(policy.sample()).sum(), [*layer.parameters()]


def vmap(raw, layer, x):
    return torch.vmap(lambda row: row.exp() * row)(raw).sum(), [raw]


def derivative_of_a_transform(raw, layer, x):
    return torch.func.grad(lambda w: (w**3).sum())(raw).sum(), [raw]


def copy_beside_the_model(raw, layer, x):
    with torch.no_grad():
        copy.deepcopy(layer)(x)
    return layer(x).sum(), [*layer.parameters()]


RIGHT = [
    weight_given_to_functional_call,
    weight_updated_with_gradients_off,
    weight_written_by_way_of_views,
    view_with_gradients_off_only_looked_at,
    model_built_in_the_block,
    function_that_is_given_all,
    function_whose_result_is_dropped,
    function_that_runs_backward,
    checkpoint_with_gradients,
    reparametrised_draw,
    score_function,
    vmap,
    derivative_of_a_transform,
    copy_beside_the_model,
]


@pytest.mark.parametrize("program", RIGHT, ids=lambda program: program.__name__)
def test_of_a_right_program_no_error_is_told_and_no_cut(program):
    with watch() as watched:
        loss, inputs = program(*materials())
    diagnosis = diagnose(loss, *inputs, watch=watched)
    loss.backward()
    assert all(tensor.grad is not None for tensor in inputs) and diagnosis.ok
    told = [found for found in diagnosis if found.severity == "warning"]
    assert all("which may give them a gradient" in found.message for found in told)


def test_an_equal_shape_is_no_evidence_that_a_leaf_stands_for_an_input():
    given, used = nn.Linear(2, 3), nn.Linear(2, 3)
    (found,) = diagnose(used(torch.ones(2)).sum(), given.weight)
    assert found.code == "unused-input" and "optimizer" in found.cure
    assert found.message.endswith("other leaves than the inputs: used.bias, used.weight")


def test_of_a_value_that_only_decided_this_is_told():
    raw, layer, x = materials()
    gate = nn.Parameter(torch.tensor(0.3))
    with watch() as watched:
        y = layer(x) if gate.tanh() > 0 else -layer(x)
        loss = y.sum()
    (found,) = diagnose(loss, gate, layer, raw, watch=watched)[:1]
    assert found.severity == "error" and found.source.text == "gate.tanh() > 0"
    assert "only decide what was computed, by gt()" in found.message
    assert "compute it smoothly" in found.cure
    loss.backward()
    assert gate.grad is None and layer.weight.grad is not None
    gate = nn.Parameter(torch.tensor(0.3))
    with watch() as watched:
        y = layer(x) if gate > 0 else -layer(x)
        loss = (y * gate.sigmoid()).sum()
    assert "unused-input" not in {f.code for f in diagnose(loss, gate, watch=watched)}


@pytest.mark.parametrize(
    "asks",
    [
        lambda gates: (gates > 0).any(),
        lambda gates: ((gates > 0) & gates.isfinite()).all(),
        lambda gates: gates.argmax() == 1,
        lambda gates: (gates > 0).sum() > 1,
    ],
)
def test_a_decision_by_way_of_bools_and_whole_numbers_is_one_too(asks):
    raw, layer, x = materials()
    gates = nn.Parameter(torch.tensor([0.3, -0.2]))
    with watch() as watched:
        loss = (layer(x) if asks(gates) else -layer(x)).sum()
    found = diagnose(loss, gates, layer, watch=watched)[0]
    assert found.severity == "error" and "gates" in found.source.text
    assert "only decide what was computed" in found.message
    assert {cut.code for cut in watched.cuts} == {"control-flow"}

    with watch() as watched:  # the value that decides is computed with as well
        mask = gates > 0
        loss = (layer(x) * mask if mask.any() else -layer(x)).sum()
    assert {cut.code for cut in watched.cuts} == {"not-differentiable"}
    found = diagnose(loss, gates, layer, watch=watched)[0]
    assert (found.severity, found.code) == ("error", "not-differentiable")


def test_what_one_switch_cut_off_on_a_line_is_one_finding():
    raw, layer, x = materials()
    with watch() as watched:
        with torch.no_grad():
            both = raw.exp() @ raw.tanh()
        loss = (both * x.requires_grad_()).sum()
    (found,) = diagnose(loss, raw, x, watch=watched)
    assert found.message.startswith("exp() and tanh() ran while gradients were off")


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (lambda w: w.t(), "w.t()"),
        (lambda w: w.T[:1], "w.T[:1]"),
        (lambda w: (w.T, w.T)[0], ""),  # of two it is not known
        (lambda w: (w.T * 2, w.T)[1], "w.T"),
        (lambda w: w, ""),  # there is no view
    ],
)
def test_of_a_parameter_made_of_a_view_the_line_of_the_view_is_told(view, line):
    raw, layer, x = materials()
    with watch() as watched:
        weight = nn.Parameter(view(raw))
        loss = (x[:, : len(weight)] @ weight).sum()
    (found,) = diagnose(loss, raw, watch=watched)
    assert (found.code, found.severity) == ("reassigned", "error")
    assert (found.source is not None) is bool(line) is (", made of what" in found.message)
    assert line in (found.source.text if found.source else "")
    loss.backward()
    assert raw.grad is None


@pytest.mark.parametrize("again", [nn.Parameter, lambda w: nn.Parameter(w.t()), Tensor.detach])
def test_a_leaf_in_the_memory_of_an_input_is_told_without_a_watch(again):
    raw, layer, x = materials()
    leaf = again(raw).requires_grad_()
    (found,) = diagnose((x @ leaf).sum(), raw)
    assert (found.code, found.severity) == ("reassigned", "error")
    assert "another leaf in the same memory is" in found.message
    assert "use the parameter itself" in found.cure


def test_equal_values_are_evidence_unless_all_are_one_number():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    twin = copy.deepcopy(model)
    loss = twin(torch.ones(2)).sum()
    (found,) = diagnose(loss, model)
    assert (found.code, found.message.partition(",")[0]) == (
        "reassigned",
        "4 parameters (0.weight",
    )
    assert "but other leaves with the same values are: their" in found.message
    (found,) = diagnose(loss, model[1])
    assert (found.code, found.message.partition(" are ")[0]) == (
        "unused-input",
        "the parameters weight and bias",
    )


# ---- aliases without a graph from before the block


ALIASES = {
    "detach": lambda net: {name: p.detach() for name, p in net.named_parameters()},
    "data": lambda net: {name: p.data for name, p in net.named_parameters()},
    "state_dict": lambda net: net.state_dict(),
}
USES = {
    "call": lambda net, given, x: functional_call(net, given, x),
    "vmap": lambda net, given, x: torch.vmap(lambda row: functional_call(net, given, row))(x),
    "by hand": lambda net, given, x: F.linear(x, given["weight"], given["bias"]),
}


@each("make", ALIASES)
@each("use", USES)
def test_parameters_whose_values_were_taken_without_a_graph_before_the_block_are_told(make, use):
    net, head, x = nn.Linear(2, 1), nn.Linear(1, 1), torch.rand(3, 2)
    given = ALIASES[make](net)
    with watch() as watched:
        h = USES[use](net, given, x)
        loss, alone = head(h).sum(), h.sum()
    (found,) = diagnose(loss, net, head, watch=watched)
    assert (found.severity, found.code) == ("error", "detached")
    assert "took the values of them without a graph" in found.message
    assert "net.weight and net.bias" in found.message and found.source.file == __file__
    assert "dict(model.named_parameters())" in found.cure
    (found,) = diagnose(alone, net, watch=watched)
    assert found.code == "no-graph" and "took the values of the parameters" in found.message
    assert "dict(model.named_parameters())" in found.cure
    loss.backward()
    assert net.weight.grad is None
    assert not diagnose((net(x) + h).sum(), net, watch=watched)


def test_what_required_no_grad_yet_is_told_as_such_and_not_as_an_alias():
    w, head = torch.rand(2), nn.Linear(2, 1)
    with watch() as watched:
        loss = head(w * 2).sum()
    w.requires_grad_()
    assert diagnose(loss, w, watch=watched)[0].code == "late-requires-grad"


# ---- values that left torch


def loss_of_numbers(net, x):
    total = 0.0
    for row in net(x):
        total -= row.item() * 2
    return torch.tensor(total, requires_grad=True)


def loss_of_an_array(net, x):
    return torch.tensor(net(x).detach().numpy().mean(), requires_grad=True)


def array_in_the_middle(net, x):
    h = torch.from_numpy(net(x).detach().numpy() ** 2)
    return (h * torch.ones(1, requires_grad=True)).sum()


def as_a_length(net, x):
    length = int(net(x).sum().abs())
    return torch.ones(9, requires_grad=True)[:length].sum()


@each("program", [loss_of_numbers, loss_of_an_array, array_in_the_middle, as_a_length])
def test_of_inputs_whose_values_left_torch_the_line_is_told_first(program):
    net, x = nn.Linear(2, 1), torch.rand(3, 2)
    with watch() as watched:
        loss = program(net, x)
        loss.item()
    first, *others = diagnose(loss, net, watch=watched)
    assert first.severity == "error" and first.code in ("unused-input", "leaf-output")
    assert "left torch by way of" in first.message
    assert program.__code__.co_firstlineno < first.source.line
    assert "compute on with the tensor itself" in first.cure
    assert not [found for found in others if found.source == first.source]
    loss.backward()
    assert net.weight.grad is None


@each("take", [torch.topk, torch.kthvalue])
def test_indices_beside_values_that_choose_a_module_are_told_with_the_line(take):
    gate, experts = nn.Linear(2, 3), nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    x = torch.rand(5, 2)
    with watch() as watched:
        chosen = take(gate(x), 1).indices.flatten()
        loss = sum(experts[i](row).sum() for i, row in zip(chosen.tolist(), x, strict=True))
    first = diagnose(loss, gate, watch=watched)[0]
    assert (first.severity, first.code) == ("error", "not-differentiable")
    assert "gives int64 values, which carry no gradient, and these left torch" in first.message
    assert first.source.text == "take(gate(x), 1)" and "smooth stand-in" in first.cure
    assert not [f for f in diagnose(loss, experts, watch=watched) if f.code == first.code]
    loss.backward()
    assert gate.weight.grad is None


def test_of_indices_that_were_only_counted_nothing_is_told():
    net, x = nn.Linear(2, 3), torch.rand(5, 2)
    with watch() as watched:
        logits = net(x)
        right = (logits.max(1).indices == 0).sum().item()
        loss = F.cross_entropy(logits, torch.zeros(5).long())
    assert right >= 0 and not diagnose(loss, net, watch=watched)


def test_a_loss_of_numbers_is_told_with_the_line_without_inputs_too():
    net, x = nn.Linear(2, 1), torch.rand(3, 2)
    with watch() as watched:
        loss = loss_of_numbers(net, x)
    (found,) = diagnose(loss, watch=watched)
    assert (found.severity, found.code) == ("warning", "leaf-output")
    assert found.message.endswith("; values left torch by way of item()")
    assert found.source.text == "row.item()"
    (found,) = diagnose(loss)
    assert "requires_grad=True away" in found.cure and found.source is None


def test_what_left_torch_by_numpy_is_told_with_that_and_not_with_detach():
    net, head, x = nn.Linear(2, 2), nn.Linear(2, 1), torch.rand(3, 2)
    with watch() as watched:
        h = net(x)
        array = h.detach().cpu().numpy()
        features = torch.from_numpy(np.tanh(array))
        loss, alone = head(features).sum(), features.sum()
    (found,) = diagnose(loss, net, head, watch=watched)
    assert found.message.endswith("their values left torch by way of numpy()")
    found = diagnose(alone, net, watch=watched)[0]
    assert found.message.endswith(": values left torch before it by way of numpy()")
    assert "torch.autograd.Function with a backward" in found.cure
    torch.tanh(h).sum().backward()  # the cure
    assert net.weight.grad is not None


# ---- values that were written past the graph


def row_by_row(out, rows):
    for i, row in enumerate(rows):
        out.data[i] = row


def into_views(out, rows):
    for i, row in enumerate(rows):
        out[i].data.copy_(row)


def through_detach(out, rows):
    for i, row in enumerate(rows):
        out.detach()[i] = row


def added_at_once(out, rows):
    out.data.add_(rows)


def first_detached(out, rows):
    for i, row in enumerate(rows.detach()):
        out.data[i] = row


WRITES = [row_by_row, into_views, through_detach, added_at_once, first_detached]


@each("write", WRITES)
@each("is_leaf", [False, True])
def test_what_was_written_past_the_graph_is_told_with_its_line(write, is_leaf):
    net, head, x = nn.Linear(2, 2), nn.Linear(2, 1), torch.rand(3, 2)
    with watch() as watched:
        out = torch.zeros(3, 2)
        write(out, net(x))
        out.requires_grad_(is_leaf)
        loss = head(out).sum()
    first = diagnose(loss, net, head, watch=watched)[0]
    assert (first.severity, first.code) == ("error", "copied")
    assert first.source.line > write.__code__.co_firstlineno
    assert "out[i] = result for out.data[i] = result" in first.cure
    loss.backward()
    assert net.weight.grad is None and head.weight.grad is not None


@each("write", WRITES)
def test_what_was_written_past_the_graph_is_told_of_an_output_without_one(write):
    net, x = nn.Linear(2, 2), torch.rand(3, 2)
    with watch() as watched:
        out = torch.zeros(3, 2)
        write(out, net(x))
        loss = out.sum()
    first = diagnose(loss, net, watch=watched)[0]
    assert first.code == "no-graph" and "through .data or detach() into what it" in first.message
    assert first.source.line > write.__code__.co_firstlineno


@each("write", WRITES)
def test_a_part_of_a_gradient_that_was_written_past_the_graph_is_a_warning(write):
    net, x = nn.Linear(2, 2), torch.rand(3, 2)
    with watch() as watched:
        rows, out = net(x), torch.zeros(3, 2)
        write(out, rows)
        loss = (out * rows).sum()
    found = [each for each in diagnose(loss, net, watch=watched) if each.severity == "warning"]
    if write is first_detached:  # a constant was asked for
        assert not found
        return
    (found,) = found
    assert found.code == "copied" and "can only get a gradient by another way" in found.message
    assert found.source.line > write.__code__.co_firstlineno
    loss.backward()
    (whole,) = torch.autograd.grad(net(x).pow(2).sum(), net.bias)
    assert torch.allclose(2 * net.bias.grad, whole)


def test_of_what_was_written_into_the_tensor_itself_nothing_is_told():
    net, spare, x = nn.Linear(2, 2), nn.Linear(2, 2), torch.rand(3, 2)
    with watch() as watched:
        out, other = torch.zeros(3, 2), torch.zeros(3, 2)
        for i in range(3):
            out[i] = net(x[i])
        shown = other.data
        shown[0] = net(x[0])
        loss = out.sum() + shown.sum()
        other.data[0] = spare(x[0])
    assert not diagnose(loss, net, watch=watched)
    (found,) = diagnose(loss, net, spare, watch=watched)
    assert found.code == "unused-input" and ".data" not in found.message
    loss.backward()
    assert net.weight.grad is not None and spare.weight.grad is None


# ---- what the block did not use


class MadeOnce(nn.Module):
    """Computes its weight when it is made, with gradients off, and has a layer after it."""

    def __init__(self):
        super().__init__()
        self.raw, self.head = nn.Parameter(torch.randn(2, 2)), nn.Linear(2, 1)
        with torch.no_grad():
            self.weight = self.raw.exp()

    def forward(self, x):
        return x @ self.weight


def test_a_weight_that_was_computed_before_the_block_is_told_as_not_used_in_it():
    net, x = MadeOnce(), torch.rand(3, 2)
    with watch() as watched:
        loss, alone = net.head(net(x)).sum(), net(x).sum()
    (found,) = diagnose(loss, net, watch=watched)
    assert found.message.startswith("raw is not in the graph")
    assert found.message.endswith("; the watch saw nothing use it")
    found = diagnose(alone, net, watch=watched)[0]
    assert found.code == "no-graph" and found.message.endswith("saw nothing use raw")
    assert "in each forward pass" in found.cure
    net.weight = net.raw.exp()  # the cure
    assert diagnose(net.head(net(x)).sum(), net).ok


def test_what_the_block_used_in_vain_or_did_not_compute_is_not_told_as_unused():
    w, x = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with watch() as watched:
        (w * 2).sum()
        loss = x.sum()
    (found,) = diagnose(loss, w, watch=watched)
    assert "the watch saw" not in found.message
    with watch() as watched:
        pass
    (found,) = diagnose(loss, w, watch=watched)
    assert "the watch saw" not in found.message


def test_what_was_only_logged_beside_another_cut_is_not_blamed():
    net, x, w = nn.Linear(2, 1), torch.rand(3, 2), torch.ones(1, requires_grad=True)
    with watch() as watched:
        y = net(x)
        y.mean().item()
        loss = (y.detach() * w).sum()
    first, *others = diagnose(loss, net, w, watch=watched)
    assert (first.code, first.source.text) == ("detached", "y.detach()")
    assert [(found.severity, found.source.text) for found in others] == [
        ("info", "y.mean().item()")
    ]


def test_a_bias_that_drops_out_of_a_derivative_is_told_as_such():
    net, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.rand(4, 2)
    spare, x = nn.Linear(2, 2), x.requires_grad_()
    with watch() as watched:
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        loss = slope.square().sum()
    found, other = diagnose(loss, net, spare, watch=watched)
    assert found.code == other.code == "unused-input"
    assert found.message.startswith("net.2.bias is not in") and "only added" in found.message
    assert other.message.startswith("the parameters spare.weight and spare.bias are not in the")
    with watch() as watched:
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        loss = slope.square().sum() + u.square().sum()
    assert not diagnose(loss, net, watch=watched)


def test_a_layer_that_was_unfrozen_after_the_pass_is_told_with_its_line():
    net, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.rand(4, 2)
    net[0].requires_grad_(False)
    with watch() as watched:
        loss = net(x).sum()
        net[0].requires_grad_(True)
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.code, found.source.text) == ("late-requires-grad", "net(x)")
    assert found.message.startswith("the parameters 0.weight and 0.bias required no grad yet when")
    unused = nn.Linear(2, 2).requires_grad_(False)
    with watch() as watched:
        unused(x)
        loss = net(x).sum()
    (found,) = diagnose(loss, net, unused.requires_grad_(True), watch=watched)
    assert found.code == "unused-input"


def test_an_input_that_is_a_view_of_what_is_in_the_graph_is_told_with_its_base():
    X, net = torch.rand(5, 2, requires_grad=True), nn.Linear(2, 1)
    loss, x = net(X).sum(), X[:, 0:1]
    hidden = net(X)
    above, part = (hidden * hidden).sum(), hidden[0]
    found = diagnose(loss, x)[0]
    assert "x is a view of X" in found.message and "torch.cat" not in found.message
    assert "gradient by the base" in found.cure
    assert "part is a view of hidden" in diagnose(above, part)[0].message
    assert diagnose((x * 2).sum(), X).ok


def test_an_input_that_was_computed_again_is_told_with_what_both_come_from():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    loss, weight = layer(torch.rand(3, 2)).sum(), layer.weight
    found = diagnose(loss, weight)[0]
    assert "weight is not in the graph" in found.message and "apart" in found.message
    assert "keep it in a variable" in found.cure
    with torch.nn.utils.parametrize.cached():
        weight = layer.weight
        weight.retain_grad()
        assert diagnose(layer(torch.rand(3, 2)).sum(), weight).ok


class Keeping(nn.Module):
    """A layer, and what a function makes of a second layer or of its weight."""

    def __init__(self, keep):
        super().__init__()
        self.first, self.rest = nn.Linear(2, 2), keep(nn.Linear(2, 2))

    def forward(self, x, take):
        return take(self.first(x), self.rest).sum()


KEPT = {
    "list": (lambda layer: [layer], lambda h, rest: rest[0](h), "rest[0].bias, net.rest[0].weight"),
    "dict": (lambda layer: {"a": layer}, lambda h, rest: rest["a"](h), "rest['a'].bias, net"),
    "parameter": (lambda layer: [[layer.weight]], lambda h, rest: h @ rest[0][0], "rest[0][0];"),
    "tensor": (lambda layer: layer.weight.data.requires_grad_(), torch.matmul, "rest;"),
}


@each("how", KEPT)
def test_what_a_model_keeps_where_parameters_does_not_look_is_told_by_name(how):
    keep, take, name = KEPT[how]
    net, x = Keeping(keep), torch.rand(3, 2)
    diagnosis = diagnose(net(x, take), *net.parameters())
    (found,) = diagnosis
    assert diagnosis.ok and (found.severity, found.code) == ("warning", "reassigned")
    assert "not among the inputs, but kept where" in found.message
    assert f"net.{name}" in found.message and "nn.ModuleList" in found.cure


RESULTS = {
    "other dtype": lambda layer: nn.Parameter(layer.weight.detach()).double().float(),
    "scaled": lambda layer: 0.02 * nn.Parameter(layer.weight.detach()),
    "another shape": lambda layer: nn.Parameter(layer.weight.detach().flatten()).view(2, 2),
    "in a list": lambda layer: [nn.Parameter(layer.weight.detach()).clone()],
}


@each("how", RESULTS)
def test_a_parameter_of_which_a_model_has_only_a_result_is_told(how):
    net, x = Keeping(RESULTS[how]), torch.rand(3, 2)
    loss = net(x, lambda h, rest: h @ (rest[0] if how == "in a list" else rest))
    (found,) = diagnose(loss, net)
    assert (found.severity, found.code) == ("warning", "reassigned")
    assert "kept only as a result, not as a parameter: net.rest" in found.message
    assert "for nn.Parameter(values).double()" in found.cure


def test_a_state_and_a_weight_of_parameters_that_a_model_has_are_no_results_of_lost_ones():
    net, other, x = nn.Linear(2, 2), nn.Linear(2, 2), torch.rand(3, 2)
    net.state = other(x)  # of two parameters: no copy of one
    net.scaled = net.weight * 2
    assert not diagnose((net(x) + net.scaled.sum()).sum(), net)
    (found,) = diagnose((net(x) + net.state).sum(), net)
    assert found.severity == "info" and "kept only" not in found.message


def test_a_model_that_is_given_is_looked_through_where_no_variable_of_the_caller_has_it():
    models, x = [Keeping(lambda layer: [layer])], torch.rand(3, 2)
    (found,) = diagnose(models[0](x, lambda h, rest: rest[0](h)), models[0])
    assert (found.severity, found.code) == ("warning", "reassigned")
    assert "inputs[0].rest[0].weight" in found.message


def test_what_is_registered_or_given_or_needs_no_gradient_is_not_told():
    x, first = torch.rand(3, 2), lambda h, rest: rest[0](h)
    net = Keeping(lambda layer: nn.ModuleList([layer]))
    assert not diagnose(net(x, first), *net.parameters())
    net = Keeping(lambda layer: [layer])
    assert not diagnose(net(x, first), net, net.rest[0])
    frozen = Keeping(lambda layer: [layer.requires_grad_(False)])
    assert not diagnose(frozen(x, first), frozen)
    data = Keeping(lambda layer: [torch.rand(3, 2, requires_grad=True)] * 2000)
    assert not diagnose(data(x, lambda h, rest: h * rest[-1]), data)
    x.requires_grad_()
    assert not diagnose(net(x, first), x)  # who asks for one input knows of the others


def test_parameters_of_another_model_of_the_caller_are_a_note():
    net, other = nn.Linear(2, 2), Keeping(lambda layer: [layer])
    net.helper = [other.first]  # kept on purpose, so that it is no part of the net
    (found,) = diagnose(other.first(net(torch.rand(3, 2))).sum(), net)
    assert (found.severity, found.code) == ("info", "reassigned")
    assert found.message.startswith("2 parameters in the graph are not among the inputs: ")


def test_a_layer_that_is_made_in_the_forward_pass_is_told():
    net, x = nn.Linear(2, 2), torch.rand(3, 2)
    with watch() as watched:
        loss = nn.Linear(2, 1)(net(x)).sum()
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.severity, found.code) == ("info", "reassigned")
    assert "but made in the watched block" in found.message and "__init__" in found.cure
    with watch() as watched:
        other = nn.Linear(2, 1)
        loss = other(net(x)).sum()
    (found,) = diagnose(loss, net, watch=watched)
    assert "made in" not in found.message and "other.weight" in found.message


def test_inside_a_transform_and_in_inference_mode_the_cure_is_another():
    found = []

    def slope(v):
        found.extend(diagnose(v**2, v))
        return v

    torch.vmap(slope)(torch.ones(2, requires_grad=True))
    with torch.inference_mode(), torch.enable_grad():
        x = torch.ones(2).requires_grad_()
        with watch() as watched:
            y = (x * 2).sum()
        found += diagnose(y, x, watch=watched)
    assert [f.code for f in found] == [
        *("no-graph", "input-without-grad"),
        *("no-graph", "input-without-grad", "inference-mode"),
    ]
    assert all("torch.func.grad" in f.cure for f in found[:2])
    assert all("inference_mode(False)" in f.cure for f in found[2:])


# ---- values that end in a parameter


def copied_into_data(layer, result):
    layer.weight.data.copy_(result)


def part_of_data(layer, result):
    layer.weight.data[:] = result


def added_to_data(layer, result):
    layer.weight.data.mul_(0).add_(result)


def detached_into_data(layer, result):
    layer.weight.data = result.detach()


def detached_and_copied(layer, result):
    with torch.no_grad():
        layer.weight.copy_(result.detach() * 2)


def loaded(layer, result):
    layer.load_state_dict({"weight": result.detach(), "bias": layer.bias})


def from_a_vector(layer, result):
    nn.utils.vector_to_parameters(torch.cat([result.flatten(), layer.bias]), layer.parameters())


def made_of_detached(layer, result):
    layer.weight = nn.Parameter(result.detach())


def filled_with_a_number(layer, result):
    layer.weight.data.fill_(result.mean().item())


ENDS_IN_A_PARAMETER = [
    copied_into_data,
    part_of_data,
    added_to_data,
    detached_into_data,
    detached_and_copied,
    loaded,
    from_a_vector,
    made_of_detached,
    filled_with_a_number,
]


@each("put", ENDS_IN_A_PARAMETER)
def test_a_result_that_ends_in_a_parameter_is_told_with_the_cure_of_that(put):
    raw, layer = nn.Parameter(torch.zeros(3, 2)), nn.Linear(2, 3)
    with watch() as watched:
        put(layer, F.softplus(raw))
        loss = layer(torch.ones(1, 2)).sum()
    first = diagnose(loss, raw, watch=watched)[0]
    assert first.severity == "error" and "weight" in first.message
    assert "functional_call" in first.cure and first.source
    loss.backward()
    assert raw.grad is None


def test_a_parameter_that_got_none_of_its_values_is_not_blamed():
    raw, layer = nn.Parameter(torch.zeros(3, 2)), nn.Linear(2, 3)
    with watch() as watched:
        layer.weight.data.copy_(torch.ones(3, 2))
        loss = layer(raw.detach()[:1]).sum()
    first = diagnose(loss, raw, watch=watched)[0]
    assert first.code == "detached" and "functional_call" not in first.cure


def test_parameters_of_a_layer_that_was_replaced_by_another_shape_are_told_with_the_new_ones():
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "head": nn.Linear(4, 1)})
    held = list(model.parameters())
    model["table"] = nn.Embedding(7, 4)
    loss = model["head"](model["table"](torch.tensor([0, 6]))).sum()
    first = diagnose(loss, *held)[0]
    assert first.severity == "error" and "optimizer" in first.cure
    assert "no module here has it, and the graph has table.weight" in first.message
    unused = nn.ModuleDict({"table": nn.Embedding(7, 4), "head": nn.Linear(4, 1)})
    loss = unused["head"](torch.ones(2, 4)).sum()
    assert "no module here" not in diagnose(loss, *unused.parameters())[0].message


def test_a_lazy_layer_that_was_never_called_is_told_as_such():
    model = nn.ModuleDict({"used": nn.LazyLinear(3), "spare": nn.LazyLinear(2)})
    loss = model["used"](torch.ones(2, 5)).sum()
    (found,) = diagnose(loss, model)
    assert found.code == "unused-input" and "spare.weight and spare.bias have no values yet" in (
        found.message
    )
    assert "call the module in the forward pass" in found.cure
    assert diagnose(loss + model["spare"](torch.ones(2, 5)).sum(), model).ok  # the cure


def test_where_all_is_frozen_the_cure_is_to_thaw_it():
    layer = nn.Linear(2, 1).requires_grad_(False)
    first = diagnose(layer(torch.ones(3, 2)).sum(), layer)[0]
    assert first.code == "no-graph" and "if they are frozen" in first.cure


def test_data_that_was_copied_before_it_required_grad_is_told_with_the_cure_of_that():
    layer, x = nn.Linear(2, 1), torch.ones(3, 2, dtype=torch.float64)
    batch = x.float()
    x.requires_grad_()
    (found,) = diagnose(layer(batch).sum(), x)
    assert "graph ends at other leaves" in found.message and "x.to(device)" in found.cure
    assert "optimizer" not in found.cure
    assert diagnose(layer(x.float()).sum(), x).ok  # the cure


def test_parameters_in_a_reentrant_checkpoint_need_no_use_elsewhere():
    layer, x = nn.Linear(2, 1), torch.ones(3, 2, requires_grad=True)
    loss = checkpoint(layer, x, use_reentrant=True).sum()
    found = diagnose(loss, layer)[0]
    assert (found.severity, found.code) == ("warning", "unused-input")
    assert found.cure.startswith("nothing, if it is used in there")
    loss.backward()
    assert layer.weight.grad is not None


def test_two_parameters_that_share_memory_are_each_a_leaf_and_no_copy():
    table, out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    out.weight.data = table.weight.data
    with watch() as watched:
        loss = out(table(torch.tensor([0, 4]))).square().sum()
    assert not diagnose(loss, table, out, watch=watched)


def test_a_decision_whose_numbers_left_torch_has_the_cure_of_a_decision():
    layer, x = nn.Linear(2, 3), torch.ones(4, 2)
    with watch() as watched:
        wrong = sum(label != 1 for label in layer(x).argmax(1).tolist())
        loss = torch.tensor(float(wrong), requires_grad=True)
    first = diagnose(loss, layer, watch=watched)[0]
    assert first.code == "leaf-output" and "smooth stand-in" in first.cure
    with watch() as watched:
        wrong = sum(label != 1 for label in layer(x).argmax(1).tolist())
        other = nn.Linear(1, 1)
        loss = other(torch.tensor([float(wrong)])).sum()
    first = diagnose(loss, layer, other, watch=watched)[0]
    assert first.code == "not-differentiable" and "smooth stand-in" in first.cure
    assert "argmax() gives int64 values, which carry no gradient, and these left" in first.message


def test_a_module_that_only_seems_frozen_is_told():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    net[0].requires_grad = False
    (found,) = diagnose(net(torch.ones(4, 2)).sum(), net)
    assert (found.severity, found.code) == ("warning", "input-without-grad")
    assert found.message.startswith("the module net.0 has an attribute requires_grad")
    net[0].requires_grad_(False)  # the cure
    found = diagnose(net(torch.ones(4, 2)).sum(), net)
    assert [each.severity for each in found] == ["info"]
