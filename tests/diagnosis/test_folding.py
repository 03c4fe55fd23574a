"""What is said of many is said once; what explains other findings comes before them."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from companion import diagnose, watch
from companion.diagnosis.folding import about_inputs, said
from companion.diagnosis.inputs import Input
from tests.cases import each
from tests.programs import RunsModule


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, requires_grad=True)


def codes(diagnosis) -> list[tuple[str, str]]:
    return [(found.severity, found.code) for found in diagnosis]


# ---- inputs


def test_what_is_said_of_several_inputs_is_one_finding_in_the_plural():
    x, w, v = ones(2), ones(2), ones(3)
    w.grad, v.grad = torch.ones(2), torch.ones(3)
    found = diagnose((x * w).sum() + v.sum(), x, w, v)
    assert [f.message for f in found] == ["w and v have a .grad already: backward() adds to it"]
    found = diagnose(x.sum(), x, w, v, ones(4), ones(5))
    assert found[0].message == (
        "4 inputs (w, v and 2 more) are not in the graph of the output: their .grad stays None"
    )


def test_each_question_about_an_input_can_be_said_of_several():
    inputs = [Input(name, ones(2), ()) for name in ("a", "b")]
    texts = [
        "{name} {is} not {a leaf}: {its} .grad stays None",
        "{name} required no grad yet when {it was} used",
        "{name} count{s} as a constant, where {it} {does} and {was} and {has} {them}{each}",
    ]
    for one, several in [(inputs[:1], False), (inputs, True)]:
        for text in texts:
            (found,) = about_inputs(said(given, "hook", text) for given in one)
            assert "{" not in found.message
            assert found.message.startswith("a and b " if several else "a ")
    (found,) = about_inputs(said(given, "hook", texts[2]) for given in inputs)
    assert found.message == (
        "a and b count as a constant, where they do and were and have them each"
    )


def test_what_differs_is_told_apart():
    x = ones(2)
    loss = x.sum()
    x.register_hook(abs)
    w = ones(2)
    w.register_hook(abs)
    w.register_hook(abs)
    loss = loss + w.sum()
    messages = [found.message for found in diagnose(loss, x, w)]
    assert messages == [
        "x has 1 hook that may change its gradient",
        "w has 2 hooks that may change its gradient",
    ]


def test_a_thousand_parameters_without_a_gradient_make_a_short_text():
    spare = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(1_000))
    x = ones(2)
    diagnosis = diagnose(x.sum(), x, spare)
    assert codes(diagnosis) == [("error", "unused-input")]
    assert "1000 parameters" in diagnosis[0].message and len(str(diagnosis)) < 1_000


# ---- Nodes


@each("count", [1, 3, 4, 40])
def test_of_many_nodes_of_which_the_same_is_said_the_first_is_told(count):
    layers = [ones(2) for _ in range(count)]
    loss = sum((-layer).relu().sum() for layer in layers)
    found = [f for f in diagnose(loss, *layers) if f.code == "dead-relu"]
    assert len(found) == (count if count <= 3 else 1)
    if count > 3:
        assert f"node {found[0].node}, ReluBackward0; the same at nodes " in found[0].where
        assert ("and 36 more" in found[0].where) == (count == 40)


# ---- a cut and what it costs


class Quantiser(nn.Module):
    """It takes the code of the largest feature, which is no function of it that has a slope."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.codes, self.head = nn.Embedding(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.codes(self.encoder(x).mean(1).argmax(1)))


@pytest.mark.parametrize("is_module", [True, False])
def test_the_cut_comes_first_and_says_how_many_parameters_it_costs_their_gradient(is_module):
    model = Quantiser()
    with watch() as watched:
        loss = model(torch.ones(5, 3, 8)).square().mean()
    inputs = [model] if is_module else list(model.parameters())
    diagnosis = diagnose(loss, *inputs, watch=watched)
    assert codes(diagnosis) == [("error", "not-differentiable")]
    assert not diagnosis.ok
    found = diagnosis[0]
    assert found.message == (
        "argmax() gives int64 values, which carry no gradient, and so 36 parameters of "
        "encoder.layers get no gradient"
    )
    assert found.source.text == "self.encoder(x).mean(1).argmax(1)"
    assert found.cure.startswith("a smooth stand-in")
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert len(without) == 36 and all(name.startswith("encoder.") for name in without)


def test_without_a_watch_one_finding_tells_of_all_and_how_to_find_the_cut():
    model = Quantiser()
    diagnosis = diagnose(model(torch.ones(5, 3, 8)).square().mean(), model)
    assert codes(diagnosis) == [("error", "unused-input")]
    assert diagnosis[0].message.startswith("36 parameters of encoder.layers are not in")
    assert "watch=watched" in diagnosis[0].cure


def test_an_input_that_went_into_no_cut_is_not_blamed_on_one():
    x, w, unused = ones(3), ones(3), ones(3)
    with watch() as watched:
        loss = (x * (w > 0.5)).sum()
    diagnosis = diagnose(loss, x, w, unused, watch=watched)
    assert codes(diagnosis) == [("error", "not-differentiable"), ("error", "unused-input")]
    assert diagnosis[0].message.endswith("and so w gets no gradient")
    assert diagnosis[1].message.startswith("unused is not in the graph")


def test_of_equal_tensors_the_one_that_went_into_the_cut_is_told():
    first, second = ones(3), ones(3)
    x = ones(3)
    with watch() as watched:
        y = first.detach() * x
        y = y + second.exp().detach()
    found = diagnose(y.sum(), first, second, x, watch=watched)
    assert [(f.source.text, f.message.split(", and so ")[1]) for f in found] == [
        ("first.detach()", "first gets no gradient"),
        ("second.exp().detach()", "second gets no gradient"),
    ]


def test_of_several_cuts_the_one_is_told_whose_mending_brings_the_gradient_back():
    x, w = ones(3), ones(3)
    with watch() as watched:
        h = x.exp().detach() * w
        loss = (h * (h > 1)).sum()  # the mask takes x too, but h needs no mask
    found = diagnose(loss, x, w, watch=watched)
    assert [(f.severity, f.source.text) for f in found] == [
        ("error", "x.exp().detach()"),
        ("info", "h > 1"),
    ]
    with watch() as watched:
        centred = x - x.detach().max()  # goes no further than into the argmax
        loss = w[centred.argmax()]
    found = diagnose(loss, x, w, watch=watched)
    assert [(f.severity, f.source.text) for f in found] == [
        ("error", "centred.argmax()"),
        ("warning", "x.detach()"),
    ]


def test_a_model_that_ran_without_gradients_over_several_lines_is_one_finding():
    first, second, x = nn.Linear(2, 2), nn.Linear(2, 2), ones(2)
    with watch() as watched:
        with torch.no_grad():
            aim = first(x)
            aim = second(aim)
        loss = (x - aim).square().sum()
    found, other = diagnose(loss, x, first, second, watch=watched)
    assert found.severity == "error" and found.source.text == "second(aim)"
    assert "4 parameters (2 of first and 2 of second) get no gradient" in found.message
    assert (other.severity, other.source.text) == ("warning", "first(x)")


def test_a_function_is_a_cut_for_what_it_was_not_given_and_for_nothing_else():
    x, layer = ones(2), nn.Linear(2, 2)
    nn.init.ones_(layer.weight)  # else the mask may be all zeros, which is told
    with watch() as watched:
        y = RunsModule.apply(x, layer)
        loss = (y * (y > 0)).sum()
    found, mask, *_ = diagnose(loss, x, layer, watch=watched)
    assert (found.code, found.source.text) == ("no-grad", "RunsModule.apply(x, layer)")
    assert found.message.endswith("and so the parameters weight and bias get no gradient")
    assert mask.severity == "info"
    w = ones(2)
    with watch() as watched:
        loss = (RunsModule.apply(x, layer).detach() * w).sum()
    found = diagnose(loss, x, w, watch=watched)[0]
    assert (found.code, found.message.partition(", and so ")[2]) == (
        "detached",
        "x gets no gradient",
    )


def test_what_a_checkpoint_computes_with_is_not_blamed_on_a_mask_behind_it():
    x, layer = ones(2, 2), nn.Linear(2, 2)
    with watch() as watched:
        y = checkpoint(layer, x, use_reentrant=True)
        loss = (y * (y > 0)).sum()
    diagnosis = diagnose(loss, x, layer, watch=watched)
    assert diagnosis.ok
    loss.backward()
    assert layer.weight.grad is not None


def test_a_tensor_in_the_middle_goes_into_its_cut():
    x = ones(3)
    with watch() as watched:
        h = x * 2
        h.retain_grad()
        loss = (h * h.detach()).sum()
    (found,) = diagnose(loss, h, watch=watched)
    assert (found.severity, found.source.text) == ("info", "h.detach()")


# ---- a cut that costs nobody the gradient


def network_and_data():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)


def straight_through(net, x):
    soft = net(x) + 1  # rounded not to zeros alone
    return soft + (soft.round() - soft).detach()


def straight_through_the_other_way(net, x):
    soft = net(x)
    return soft.round().detach() + soft - soft.detach()


def target_of_the_same_network(net, x):
    with torch.no_grad():
        aim = net(x + 1).max(1).values
    return net(x)[:, 0] - aim


def stop_gradient(net, x):
    first, second = net(x), net(x + 1)
    return first * second.detach() + second * first.detach()


def shifted_by_the_largest(net, x):
    z = net(x)
    largest = z.max(1, keepdim=True).values.detach()
    return largest + (z - largest).exp().sum(1, keepdim=True).log()


def truncated(net, x):
    state = torch.zeros(5, 1)
    for _ in range(3):
        state = state.detach() + net(x).sum(1, keepdim=True)
    return state


def weight_updated_by_data(net, x):
    for parameter in net.parameters():
        parameter.data -= 0.1 * torch.ones_like(parameter)
        parameter.data = parameter.data * 0.9
    return net(x)


def weight_averaged_by_data(net, x):
    slow = copy.deepcopy(net).requires_grad_(False)
    for parameter, average in zip(net.parameters(), slow.parameters(), strict=True):
        average.data.mul_(0.9).add_(parameter.data)
    return net(x) - slow(x).detach()


def gradient_that_is_detached(net, x):
    (gradient,) = torch.autograd.grad(net(x).sum(), net[0].weight, retain_graph=True)
    return net(x) * (gradient.norm() + 1).detach()


def losses_balanced_by_their_gradients(net, x):
    losses = net(x).square().mean(0)
    norms = [
        torch.autograd.grad(loss, net[2].weight, retain_graph=True)[0].norm() for loss in losses
    ]
    return losses[0] + (norms[0] / norms[1]).item() * losses[1]


def frozen_copy(net, x):
    target = copy.deepcopy(net).requires_grad_(False)
    return net(x) - target(x + 1)


IDIOMS = [
    frozen_copy,
    losses_balanced_by_their_gradients,
    weight_updated_by_data,
    weight_averaged_by_data,
    gradient_that_is_detached,
    straight_through,
    straight_through_the_other_way,
    target_of_the_same_network,
    stop_gradient,
    shifted_by_the_largest,
    truncated,
]


@each("idiom", IDIOMS)
def test_a_constant_that_one_asked_for_is_a_note_if_what_went_in_gets_a_gradient(idiom):
    net, x = network_and_data()
    with watch() as watched:
        loss = idiom(net, x).square().mean()
    for diagnosis in (diagnose(loss, net, watch=watched), diagnose(loss, watch=watched)):
        assert diagnosis and all(found.severity == "info" for found in diagnosis), str(diagnosis)
        cures = [found.cure for found in diagnosis if found.code in ("detached", "no-grad")]
        assert all(cure.startswith("nothing, where you mean a constant") for cure in cures)
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_copy_that_still_requires_grad_is_none_that_one_asked_for():
    net, x = network_and_data()
    with watch() as watched:
        loss = (net(x) - copy.deepcopy(net)(x + 1)).square().mean()
    assert ("warning", "copied") in codes(diagnose(loss, net, watch=watched))


@each("idiom", IDIOMS)
def test_it_is_no_note_where_something_that_went_in_gets_none(idiom):
    net, x = network_and_data()
    spare = nn.Parameter(torch.randn(5, 3))
    with watch() as watched:
        part = idiom(net, x)
        loss = (part + (part.detach() * spare[:, :1]).detach()).square().mean()
    told = [found for found in diagnose(loss, net, spare, watch=watched) if found.code[:2] != "no"]
    assert told[0].severity == "error" and "spare gets no gradient" in told[0].message
    told = diagnose(loss, watch=watched)
    assert ("warning", "spare") in [(f.severity, f.source.text[17:22]) for f in told if f.source]


def test_a_cut_that_nobody_asked_for_in_so_many_words_stays_a_warning():
    x = ones(3)
    with watch() as watched:
        loss = (x * (x > 0.5) * x.data * x.sum().item()).sum()
    assert codes(diagnose(loss, x, watch=watched)) == [
        ("warning", "detached"),
        ("warning", "left-torch"),
        ("info", "not-differentiable"),
    ]


FUNCTIONAL = {
    "jacobian": lambda net, x: torch.autograd.functional.jacobian(net, x),
    "hessian": lambda net, x: torch.autograd.functional.hessian(lambda z: net(z).sum(), x),
    "vjp": lambda net, x: torch.autograd.functional.vjp(net, x, torch.ones(5, 2))[1],
    "jvp": lambda net, x: torch.autograd.functional.jvp(net, x, x)[1],
}


@each("name", FUNCTIONAL)
def test_a_derivative_that_torchs_own_function_gives_without_a_graph_is_told(name):
    net, x = network_and_data()
    with watch() as watched:
        loss = net(x).sum() + FUNCTIONAL[name](net, x).square().sum()
    (found,) = diagnose(loss, net, watch=watched)
    assert (found.severity, found.code) == ("warning", "penalty-detached")
    assert f"functional.{name}" in found.source.text


def test_a_number_that_was_taken_of_the_loss_itself_did_not_come_back_into_it():
    x, log = ones(3), []
    with watch() as watched:
        part = x.square().sum()
        log.append(part.item())
        loss = part + x.exp().sum()
        log.append(loss.item())
        log.append(part.tolist())
    (found,) = diagnose(loss, x, watch=watched)
    assert (found.severity, found.source.text) == ("info", "part.item()")


def discriminator():
    made, judge = nn.Linear(2, 3), nn.Linear(3, 1)
    return judge, lambda: judge(made(torch.ones(4, 2)).detach()).sum()


def target_that_requires_grad():
    online, target, x = nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3), nn.Tanh()), ones(4, 2)

    def loss():
        with torch.no_grad():
            aim = target(x.detach() + 1)
        return (online(torch.ones(4, 2)) - aim).square().sum()

    return online, loss


@pytest.mark.parametrize("make", [discriminator, target_that_requires_grad])
def test_a_cut_that_no_input_went_into_is_a_note(make):
    model, loss_of = make()
    with watch() as watched:
        loss = loss_of()
    diagnosis = diagnose(loss, model, watch=watched)
    assert diagnosis and {found.severity for found in diagnosis} == {"info"}
    for found in diagnosis:
        assert found.message.endswith("; none of the inputs went into that")
    assert all(found.severity == "warning" for found in diagnose(loss, watch=watched))


def test_a_cut_of_what_came_from_before_the_block_may_take_from_the_inputs():
    cell, x = nn.Linear(2, 2), torch.ones(3, 2)
    state = cell(x)
    with watch() as watched:
        loss = cell(state.detach()).sum()
    (found,) = diagnose(loss, cell, watch=watched)
    assert (found.code, found.severity) == ("detached", "info")
    assert found.message.endswith("; the inputs that went in get a gradient by another way")


def test_a_tensor_in_the_middle_that_a_cut_leaves_out_is_told_too():
    x = ones(3)
    with watch() as watched:
        h = x * 2
        h.retain_grad()
        loss = (h.detach() * x).sum()
    (found,) = diagnose(loss, h, watch=watched)
    assert found.severity == "error" and found.message.endswith(", and so h gets no gradient")


def test_one_switch_on_one_line_is_one_finding():
    target, x = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), ones(2)
    with watch() as watched:
        with torch.no_grad():
            aim = target(x)
        loss = (x - aim).square().sum()
    (found,) = diagnose(loss, x, target, watch=watched)
    assert found.message.startswith("linear() ran while gradients were off")
    assert found.message.endswith(
        "and so 4 parameters (0.weight, 0.bias and 2 more) get no gradient"
    )
    assert "switch requires_grad off" in found.cure


# ---- parameters that are frozen on purpose


def frozen_backbone():
    backbone, head = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)
    model = nn.Sequential(backbone.requires_grad_(False), head)
    return model, lambda: model(torch.ones(2, 3)).square().sum()


class Lora(nn.Module):
    """A frozen layer, and a small change to it that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 6).requires_grad_(False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def lora():
    model = nn.Sequential(*(Lora() for _ in range(8)))
    return model, lambda: model(torch.ones(2, 6)).square().sum()


def target_of_q_learning():
    online = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    target = copy.deepcopy(online).requires_grad_(False)
    state, reward = torch.ones(5, 4), torch.ones(5)

    def loss():
        with torch.no_grad():
            aim = reward + 0.9 * target(state).max(1).values
        return F.smooth_l1_loss(online(state)[:, 0], aim)

    return nn.ModuleDict({"online": online, "target": target}), loss


def target_of_byol():
    online = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    target, predictor = copy.deepcopy(online), nn.Linear(3, 3)
    target.requires_grad_(False)
    model = nn.ModuleDict({"online": online, "target": target, "predictor": predictor})

    def loss():
        with torch.no_grad():
            aim = target(torch.ones(5, 4) * 2)
        return 2 - F.cosine_similarity(predictor(online(torch.ones(5, 4))), aim).mean()

    return model, loss


@each("is_module", [True, False])
@each("make", [frozen_backbone, lora, target_of_q_learning, target_of_byol])
def test_what_is_frozen_on_purpose_is_a_note(make, is_module):
    torch.manual_seed(0)  # with other numbers a ReLU may be dead
    model, loss_of = make()
    with watch() as watched:
        loss = loss_of()
    inputs = [model] if is_module else list(model.parameters())
    for seen in (None, watched):
        diagnosis = diagnose(loss, *inputs, watch=seen)
        assert codes(diagnosis) == [("info", "input-without-grad")]
        assert diagnosis.ok and str(diagnosis).startswith("backward() will run: ")
    assert "frozen" in diagnosis[0].message and diagnosis[0].cure.startswith("nothing, ")
    loss.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


def test_a_target_that_requires_grad_is_one_error_with_the_way_out():
    model, loss_of = target_of_byol()
    model["target"].requires_grad_(True)
    with watch() as watched:
        loss = loss_of()
    diagnosis = diagnose(loss, model, watch=watched)
    assert codes(diagnosis) == [("error", "no-grad")]
    assert "4 parameters of target get no gradient" in diagnosis[0].message
    assert diagnose(loss, model["online"], model["predictor"], watch=watched).ok


def test_where_nothing_else_gets_a_gradient_a_frozen_parameter_is_an_error():
    layer, x = nn.Linear(2, 2), ones(2)
    layer.weight.requires_grad_(False)
    loss = layer(x).sum()
    assert not diagnose(loss, layer.weight).ok
    assert diagnose(loss, layer).ok
    assert not diagnose(loss, x, torch.ones(2)).ok  # data that was meant to require grad


# ---- what libraries do by themselves


def test_what_a_library_does_by_itself_is_told_where_it_costs_a_gradient(tmp_path):
    path = tmp_path / "site-packages" / "wheels.py"
    path.parent.mkdir()
    path.write_text(
        "import torch\n"
        "def stable_softmax(x):\n"
        "    return (x - x.detach().max()).softmax(0)\n"
        "def loose(x):\n"
        "    with torch.no_grad():\n"
        "        return x.exp()\n"
        "@torch.no_grad()\n"
        "def marked(x):\n"
        "    return x.exp()\n"
    )
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    x, w = ones(3), ones(3)
    with watch() as watched:
        loss = (scope["stable_softmax"](x) * x).sum()
    assert [cut.by_library for cut in watched.cuts] == [True]
    assert codes(diagnose(loss, x, watch=watched)) == []
    for name, code in [("loose", "no-grad"), ("marked", "no-grad")]:
        with watch() as watched:
            loss = (scope[name](x) * w).sum()
        assert codes(diagnose(loss, w, watch=watched)) == []
        (found,) = diagnose(loss, x, w, watch=watched)
        assert (found.severity, found.code) == ("error", code)
        assert found.source.text == "scope[name](x)" and found.source.inside.text == "x.exp()"
        assert str(found.source) in found.where and "leaves gradients on" in found.cure
        with watch() as watched:
            with torch.no_grad():  # by the user, whatever the library does in it
                y = scope[name](x)
            loss = (y * w).sum()
        assert codes(diagnose(loss, watch=watched)) == [("warning", "no-grad")]


def test_what_autocast_kept_of_a_discarded_call_is_no_cut_and_a_target_from_there_is():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), torch.randn(3, 4)
    with watch() as watched, torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            aim = net(x)
        first = net(x).float().sum()
        second = (net(x) - aim).float().sum()
    codes_of = [
        {found.code for found in diagnose(loss, net, watch=watched)} for loss in (first, second)
    ]
    assert ["no-grad" in codes for codes in codes_of] == [False, True]
    first.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_of_the_power_iteration_of_spectral_norm_nothing_is_told_and_of_the_users_switch_it_is():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    with watch() as watched:
        loss = layer(torch.ones(2, 3)).sum()
    assert any(cut.by_library for cut in watched.cuts)
    assert codes(diagnose(loss, layer, watch=watched)) == []
    x = ones(2, 3)
    with watch() as watched:
        with torch.no_grad():
            aim = layer(x)
        loss = (x - aim).sum()
    assert not any(cut.by_library for cut in watched.cuts)
    assert codes(diagnose(loss, x, watch=watched)) == [("info", "no-grad")]


def log_prob(layer, x):
    return torch.distributions.Categorical(logits=layer(x)).log_prob(torch.tensor([0, 1, 2]))


def pooled_and_put_back(layer, x):
    pool, put_back = nn.MaxPool1d(2, return_indices=True), nn.MaxUnpool1d(2)
    return put_back(*pool(layer(x)[None]))


@pytest.mark.parametrize("torchs_own", [log_prob, pooled_and_put_back])
def test_indices_that_torchs_own_code_gives_beside_values_are_not_told(torchs_own):
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    with watch() as watched:
        loss = torchs_own(layer, x).sum()
    assert codes(diagnose(loss, layer, watch=watched)) == []


def test_indices_that_torchs_own_code_gives_are_told_where_they_cost_a_gradient():
    x, w = ones(1, 4), ones(1, 2)
    with watch() as watched:
        _, indices = nn.MaxPool1d(2, return_indices=True)(x)
        loss = (indices * w).sum()
    diagnosis = diagnose(loss, x, w, watch=watched)
    assert codes(diagnosis) == [("error", "not-differentiable")]
    assert diagnosis[0].message.endswith("and so x gets no gradient")


@pytest.mark.parametrize("by_user", [lambda y: y.max(0), lambda y: y.sort(), lambda y: y.topk(2)])
def test_indices_that_the_user_asked_for_are_told(by_user):
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    with watch() as watched:
        values, indices = by_user(layer(x))
        loss = (values * indices).sum()
    assert codes(diagnose(loss, layer, watch=watched)) == [("info", "not-differentiable")]


def test_fake_quantisation_is_silent_about_its_own_constants():
    x, fake = torch.rand(4, 3).requires_grad_(), torch.ao.quantization.FakeQuantize()
    with watch() as watched:
        loss = fake(x).sum()
    assert codes(diagnose(loss, x, watch=watched)) == []
    loss.backward()
    assert x.grad.count_nonzero()


class Gated(nn.Module):
    def forward(self, x):
        h = x.sigmoid()
        return h.relu_() * x


def test_what_one_line_did_for_two_nodes_is_one_finding_and_two_lines_are_two():
    x = torch.randn(3, requires_grad=True)
    blocks = nn.Sequential(Gated(), Gated())
    with watch() as watched:
        output = blocks(x)
    (found,) = diagnose(output.sum(), watch=watched)
    assert found.code == "modified-in-place" and re.search(r"; the same at node \d+$", found.where)
    with watch() as watched:
        first, second = x.tanh(), x.tanh()
        first.relu_()
        second.relu_()
        output = first + second
    assert len(diagnose(output.sum(), watch=watched)) == 2
