"""What is given to ``diagnose``, and what it calls a tensor."""

import pytest
import torch
from torch import nn

from companion import diagnose, modules
from companion.diagnosis.inputs import names_and_modules, tensors_of


class Pair(nn.Module):
    """Two parts, of which the forward pass uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(torch.ones(3, 2)).square().sum()


def message(diagnosis) -> str:
    (found,) = diagnosis
    return found.message


SPARE = "the parameters {}spare.weight and {}spare.bias are not in the graph of the output"


# ---- modules


def test_a_module_stands_for_its_parameters_by_their_paths():
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8), 4, enable_nested_tensor=False
    )
    assert diagnose(model(torch.ones(2, 3, 4)).sum(), model).ok
    names, _ = names_and_modules([model], None)
    assert {name: names[name] for name, _ in model.named_parameters()} == dict(
        model.named_parameters()
    )
    loss = model.layers[1](torch.ones(2, 3, 4)).sum()
    (found,) = diagnose(loss, model.layers[3].norm1.weight)
    assert found.message.startswith("layers.3.norm1.weight is not in the graph")


def test_a_module_given_and_its_parameters_given_one_by_one_are_told_alike():
    model = Pair()
    loss = loss_of(model)
    assert message(diagnose(loss, model)).startswith(SPARE.format("", ""))
    assert message(diagnose(loss, model)) == message(diagnose(loss, *model.parameters()))


def test_of_several_modules_each_parameter_has_the_name_of_its_module():
    first, second = Pair(), Pair()
    loss = loss_of(first) + loss_of(second)
    for inputs in [(first, second), (*first.parameters(), *second.parameters())]:
        assert message(diagnose(loss, *inputs)).startswith(
            "4 parameters (2 of first and 2 of second) are not in the graph"
        )


def test_a_module_without_a_variable_goes_by_its_path_in_one_or_by_its_place():
    whole = nn.ModuleDict({"actor": Pair(), "critic": Pair()})
    names, _ = names_and_modules([whole["actor"], whole["critic"]], None)
    assert {"whole.actor.spare.bias", "whole.critic.spare.bias"} <= set(names)
    apart = [Pair(), Pair()]
    assert "inputs[1].spare.bias" in names_and_modules(apart, None)[0]


def test_a_path_that_is_a_variable_of_another_tensor_has_its_module_before_it():
    model, weight = nn.Linear(2, 2), torch.ones(2, requires_grad=True)
    loss = torch.ones((), requires_grad=True) * 1
    names, _ = names_and_modules([weight, model], None)
    assert (names["weight"] is weight, names["bias"] is model.bias) == (True, True)
    assert names["model.weight"] is model.weight
    (found,) = diagnose(loss, weight, model)
    assert found.message.startswith("weight, model.weight and bias are not in the graph")


def test_parameters_are_named_by_the_caller_inside_of_its_methods_and_wrappers():
    class Trainer(Pair):
        def check(self):
            return message(diagnose(loss_of(self), *self.parameters()))

    assert Trainer().check().startswith(SPARE.format("", ""))
    wrapped = nn.Sequential(Pair())
    assert message(diagnose(loss_of(wrapped), *wrapped.parameters())).startswith(
        SPARE.format("0.", "0.")
    )


def test_a_part_that_is_a_variable_too_goes_by_its_path_in_the_whole():
    part = Pair()
    whole = nn.Sequential(part)
    assert message(diagnose(loss_of(whole), *part.parameters())).startswith(
        SPARE.format("0.", "0.")
    )


def test_beside_tensors_without_a_name_the_parameters_of_the_caller_have_theirs():
    model = Pair()
    held = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(6))]
    names, _ = names_and_modules(held, None)
    assert set(names) == {name for name, _ in model.named_parameters()}
    assert message(diagnose(loss_of(model), *held)).startswith("input 0 and input 1 are not in")


def test_leaves_that_are_not_given_have_the_names_of_their_modules_too():
    made, judge = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1))
    loss = judge(made(torch.ones(4, 2))).mean()
    assert message(diagnose(loss, made)) == (
        "2 parameters in the graph are not among the inputs: judge.0.bias, judge.0.weight; "
        "backward() gives them a gradient too"
    )


def test_a_tensor_that_is_given_twice_is_told_once():
    model = Pair()
    inputs = [model, model, model.spare.weight]
    assert len(tensors_of(inputs)) == 4
    assert message(diagnose(loss_of(model), *inputs)).startswith(SPARE.format("", ""))


class HalfMade(nn.Module):
    """Its ``__init__`` calls something before it calls that of ``nn.Module``."""

    def __init__(self, call) -> None:
        self.told = call(self)
        super().__init__()


class Unhashable(nn.Module):
    __hash__ = None


def test_modules_of_the_caller_that_cannot_be_asked_do_no_harm():
    x, w = torch.ones(2, requires_grad=True), [torch.ones(3, requires_grad=True)]
    odd = Unhashable()
    scripted = torch.jit.script(nn.Linear(2, 2))
    made = HalfMade(lambda half: names_and_modules([x, w[0], scripted.weight], None)[0])
    assert set(made.told) == {"x", "weight", "bias"}
    assert type(odd).__hash__ is None


# ---- names=


def test_names_take_the_place_of_the_callers_variables():
    x, w = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    (found,) = diagnose(x.log().sum() * 0 + x.sum(), w, names={"signal": x, "gain": w})
    assert found.message.startswith("gain is not in the graph")
    (found,) = diagnose(x.sum(), w, names={"signal": x})
    assert found.message.startswith("input 0, of shape (3,), is not in the graph")


def test_names_of_modules_are_taken_as_they_are():
    model = Pair()
    with modules(model) as names:
        loss = loss_of(model)
    assert message(diagnose(loss, *model.parameters(), names=names)).startswith(
        SPARE.format("", "")
    )


def test_names_that_are_none_are_refused():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="^names must map names to tensors"):
        diagnose(x.sum(), x, names=["x"])
