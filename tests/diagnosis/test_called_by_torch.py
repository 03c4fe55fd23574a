"""A hook or a custom Function, called by torch, that takes other arguments, or raises."""

import traceback

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from companion import explain
from tests.cases import each


def leaf():
    return torch.ones(3, requires_grad=True)


def custom(forward=lambda ctx, x: x * 2, backward=lambda ctx, g: g * 2):
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Mine", (Function,), methods).apply


def hooked(how, hook):
    """A pass through a module that has a hook of some kind."""
    net = nn.Linear(3, 2)
    getattr(net, how)(hook)
    net(leaf()).sum().backward()


def stepped(how, hook):
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1)
    getattr(optimizer, how)(hook)
    optimizer.step()


def on_tensor(how, hook):
    x = leaf()
    getattr(x, how)(hook)
    (x * 2).sum().backward()


def on_node(how, hook):
    y = leaf() * 2
    getattr(y.grad_fn, how)(hook)
    y.sum().backward()


def error_of(raising, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        raising(*arguments)
    return caught.value


HOOKS = [  # what sets the hook, and how many arguments it is given
    (hooked, "register_forward_pre_hook", 2),
    (hooked, "register_forward_hook", 3),
    (hooked, "register_full_backward_pre_hook", 2),
    (hooked, "register_full_backward_hook", 3),
    (stepped, "register_step_pre_hook", 3),
    (stepped, "register_step_post_hook", 3),
    (on_tensor, "register_hook", 1),
    (on_tensor, "register_post_accumulate_grad_hook", 1),
    (on_node, "register_hook", 2),
    (on_node, "register_prehook", 1),
]
OF = {
    0: lambda: None,
    1: lambda a: None,
    2: lambda a, b: None,
    3: lambda a, b, c: None,
    4: lambda a, b, c, d: None,
}


@each(("run", "how", "count"), HOOKS)
@pytest.mark.parametrize("more", [-1, 1])
def test_a_hook_that_takes_too_few_or_too_many_arguments_is_told_as_such(run, how, count, more):
    run(how, OF[count])  # the cure
    error = error_of(run, how, OF[count + more])
    found = explain(error)
    assert (found.code, found.severity) == ("hook", "error")
    assert "<lambda>()" in found.message and "arguments" in found.message
    assert found.source is not None


FUNCTIONS = {
    "backward of two outputs": (
        lambda: sum(custom(lambda ctx, x: (x.sin(), x.cos()))(leaf())).sum().backward(),
        lambda: (
            sum(custom(lambda ctx, x: (x.sin(), x.cos()), lambda ctx, g, h: g)(leaf()))
            .sum()
            .backward()
        ),
    ),
    "backward without ctx": (
        lambda: custom(backward=lambda g: g)(leaf()).sum().backward(),
        lambda: custom()(leaf()).sum().backward(),
    ),
    "forward without ctx": (
        lambda: type("Mine", (Function,), {"forward": lambda x: x * 2}).apply(leaf()),
        lambda: custom()(leaf()),
    ),
}


@each("how", FUNCTIONS)
def test_so_is_a_function_of_a_custom_function(how):
    wrong, right = FUNCTIONS[how]
    right()
    found = explain(error_of(wrong))
    assert (found.code, found.severity) == ("function-form", "error")
    assert "takes other arguments" in found.message and "ctx" in found.cure


@each(("run", "how", "count"), HOOKS)
def test_the_text_of_a_traceback_is_explained_as_its_error(run, how, count):
    error = error_of(run, how, OF[count + 1])
    assert explain("".join(traceback.format_exception(error))).code == "hook"


def test_other_calls_with_wrong_arguments_are_not_explained():
    def hook(value):
        return value

    def runs(x):
        return hook(x, x)

    class Table:
        @staticmethod
        def apply(row):
            return row

    for raising in (
        lambda: hook(1, 2),
        lambda: Table.apply(1, 2),
        lambda: nn.Linear(2, 2)(1, 2),
        lambda: leaf().sum(1, 2, 3),
    ):
        assert explain(error_of(raising)) is None
    # The hook itself fits; what it calls does not.
    found = explain(error_of(on_tensor, "register_hook", runs))
    assert "takes other arguments" not in found.message


def test_what_a_custom_function_raises_in_the_pass_is_told_with_its_line():
    def backward(ctx, g):
        return g @ torch.ones(7)

    found = explain(error_of(lambda: custom(backward=backward)(leaf()).sum().backward()))
    assert (found.code, found.severity) == ("custom-gradients", "error")
    assert found.message.startswith("backward() raised in the backward pass: ")
    assert found.source.text == "g @ torch.ones(7)"


def test_a_gradient_that_may_not_be_written_to_is_told_of_a_hook_and_of_a_custom_function():
    def write(g):
        return g.mul_(2)

    y = leaf() * 1
    y.register_hook(write)
    hook = explain(error_of(y.sum().backward))
    own = explain(error_of(custom(backward=lambda ctx, g: write(g))(leaf()).sum().backward))
    assert (hook.code, own.code) == ("hook", "custom-gradients")
    assert "more than one element of the written-to tensor" in hook.message
    assert "g.mul_(2)" in hook.cure and "g.mul_(2)" in own.cure


def test_a_module_hook_that_reads_a_gradient_that_is_none_is_told_of_the_hook():
    net = nn.Linear(3, 2)
    net.register_full_backward_hook(lambda module, inputs, outputs: inputs[0].norm())
    with pytest.warns(UserWarning, match="Full backward hook"):
        error = error_of(lambda: net(torch.ones(1, 3)).sum().backward())
    assert explain(error).code == "hook"


def test_a_cause_that_torch_names_comes_before_where_it_was_raised():
    def backward(ctx, g):
        try:
            leaf().sum(0).backward(torch.ones(2))
        except RuntimeError as error:
            raise ValueError("no") from error

    found = explain(error_of(custom(backward=backward)(leaf()).sum().backward))
    assert found.code == "non-scalar"


def test_what_is_raised_elsewhere_is_not_explained():
    """In forward, and where a checkpoint runs the function of the user again."""
    times = []

    def raises_later(x):
        times.append(x)
        if len(times) > 1:
            raise ValueError("later")
        return x.exp()

    again = checkpoint(raises_later, leaf(), use_reentrant=True).sum()
    assert explain(error_of(again.backward)) is None
    assert len(times) == 2
    assert explain(error_of(custom(forward=lambda ctx, x: x @ torch.ones(7)), leaf())) is None
    assert explain(error_of(hooked, "register_forward_hook", lambda m, a, b: 1 / 0)) is None


def test_a_call_of_several_lines_in_a_traceback_is_read_as_one():
    """As Python 3.13 prints it."""
    text = """Traceback (most recent call last):
  File "/home/me/train.py", line 9, in <module>
    loss.backward()
    ~~~~~~~~~~~~~^^
  File "/lib/python3.13/site-packages/torch/autograd/graph.py", line 979, in _engine_run_backward
    return Variable._execution_engine.run_backward(  # Calls into the C++ engine
           ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~^
        t_outputs, *args, **kwargs
        ^^^^^^^^^^^^^^^^^^^^^^^^^^
    )  # to run the backward pass
    ^
TypeError: scale() takes 0 positional arguments but 1 was given
"""
    assert explain(text).code == "hook"
    assert explain(text.replace("Variable._execution_engine.run_backward", "print")) is None
