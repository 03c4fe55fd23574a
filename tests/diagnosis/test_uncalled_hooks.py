"""A backward hook of a module is told if this pass does not call it, and only then."""

import pytest
import torch
from torch import nn

from companion import diagnose
from tests.cases import each


def hooked(register="register_full_backward_hook"):
    net, called = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), []
    getattr(net[2], register)(lambda *_: called.append(1))
    return net, called


X = torch.rand(4, 2)
REGISTER = ["register_full_backward_hook", "register_full_backward_pre_hook"]


class Output:
    def __init__(self, value):
        self.value = value


class Wrapping(nn.Linear):
    def forward(self, x):
        return Output(super().forward(x))


UNCALLED = {
    "vmap": lambda net: torch.vmap(net)(X).mean(),
    "forward by name": lambda net: net[2].forward(net[1](net[0](X))).mean(),
    "functional": lambda net: nn.functional.linear(
        net[1](net[0](X)), net[2].weight, net[2].bias
    ).mean(),
}


@each("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@each("how", UNCALLED)
def test_a_hook_that_is_not_called_is_told(how, register):
    net, called = hooked(register)
    output = UNCALLED[how](net)
    (message,) = [f.message for f in diagnose(output) if f.code == "hook"]
    assert "the backward hook of net.2 is not called" in message
    output.backward()
    assert not called


@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_a_hook_that_is_called_is_not_told(register):
    net, called = hooked(register)
    output = net(X).mean()
    assert not diagnose(output)
    output.backward()
    assert called


def test_a_hook_that_was_set_after_the_forward_pass_is_told():
    net, called = nn.Linear(2, 1), []
    output = net(X).mean()
    net.register_full_backward_hook(lambda *_: called.append(1))
    (found,) = diagnose(output)
    assert found.message == "the backward hook of net is not called: no Node calls it"
    assert found.severity == "warning"
    output.backward()
    assert not called


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")
def test_a_hook_of_a_module_whose_output_is_no_tensor_is_told():
    net, called = Wrapping(2, 1), []
    net.register_full_backward_hook(lambda *_: called.append(1))
    output = net(X).value.mean()
    assert [found.code for found in diagnose(output)] == ["hook"]
    output.backward()
    assert not called


def test_hooks_of_modules_that_have_nothing_to_do_with_the_output_are_not_told():
    net, _ = hooked()
    other = nn.Linear(2, 1)
    assert not diagnose(other(X).mean())
    assert not diagnose(net[0](X).mean())


@pytest.mark.usefixtures("fresh_compiler")
def test_a_hook_inside_of_what_torch_compile_made_is_not_judged():
    net, _ = hooked()
    output = torch.compile(net, backend="aot_eager")(X).mean()
    assert "hook" not in [found.code for found in diagnose(output)]
