"""hooks.py: when copies are lazy, and that nobody can tell but by the time and memory they take."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import companion.backward.recording
from companion import record_backward
from companion.internals import is_shared_lazily
from tests.backward.test_recording import all_same, copying, same
from tests.programs import Double

recording_module = companion.backward.recording


@pytest.fixture
def as_if_large(monkeypatch):
    """Graphs count as large."""
    monkeypatch.setattr(recording_module, "DETAILED", 0)


def copies_of(recording):
    """All tensors of the steps."""
    tensors = []
    for step in recording.steps:
        tensors += [*step.grad_outputs, *step.grad_inputs, step.grad_before, step.grad_after]
    return [tensor for tensor in tensors if tensor is not None]


def bits(recording):
    return [tensor.clone() for tensor in copies_of(recording)]


# ---- when copies are lazy


def test_where_torch_alone_computes_copies_have_the_memory_of_the_gradients(as_if_large):
    x = torch.ones(3, requires_grad=True)
    seen = []
    y = x.sin()
    y.register_hook(lambda g: seen.append(torch._C._data_address(g)))
    sin = record_backward(y.exp().sum()).steps[-2]
    assert {torch._C._data_address(g) for g in sin.grad_outputs} == set(seen)
    assert torch._C._data_address(sin.arrivals[0].value) == seen[0]


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def under_a_mode(x):
    with Watching():
        return record_backward(x.sin().sum())


def scripted(x):
    with torch.jit.optimized_execution(True):
        function = torch.jit.script(tanh_of_product)
    for _ in range(3):  # it is compiled after some calls
        y = function(x, x)
    assert "DifferentiableGraph" in y.grad_fn.name()
    return record_backward(y.sum())


def tanh_of_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).tanh() * a


@pytest.mark.filterwarnings("ignore:Using backward", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "record",
    [
        pytest.param(lambda x: record_backward(x.sin(), torch.ones(3)), id="a gradient is given"),
        pytest.param(
            lambda x: record_backward(x.sin().sum(), create_graph=True), id="create_graph"
        ),
        pytest.param(lambda x: record_backward(Double.apply(x).sum()), id="a custom Function"),
        pytest.param(scripted, id="a scripted function"),
        pytest.param(under_a_mode, id="a mode that sees all operations"),
    ],
)
def test_elsewhere_every_copy_is_one_at_once(record, as_if_large):
    x = torch.ones(3, requires_grad=True)
    assert any(map(is_shared_lazily, copies_of(record_backward(x.sin().sum()))))
    assert not any(map(is_shared_lazily, copies_of(record(x))))


def test_in_a_small_graph_every_copy_is_one_at_once():
    x = torch.ones(3, requires_grad=True)
    assert not any(map(is_shared_lazily, copies_of(record_backward(x.sin().sum()))))


def test_who_gave_a_gradient_may_write_to_it_past_torch(as_if_large):
    x = torch.ones(3, requires_grad=True)
    gradient = torch.ones(3)
    known = gradient.numpy()
    recording = record_backward(x.view(3, 1).view(3), gradient)
    known[:] = 7
    assert gradient.tolist() == [7.0] * 3  # where it was
    assert {value for copy in copies_of(recording) for value in copy.view(-1).tolist()} == {1.0}


class OfNumpy(torch.autograd.Function):
    """Its backward computes in memory of its own, each time in the same."""

    buffer = torch.ones(3)
    known = buffer.numpy()

    @staticmethod
    def forward(ctx, a):
        return a * 2

    @staticmethod
    def backward(ctx, gradient):
        np.multiply(gradient.numpy(), 2, out=OfNumpy.known)
        return OfNumpy.buffer


def test_a_custom_function_may_write_past_torch_to_what_it_gave_on(as_if_large):
    x = torch.ones(3, requires_grad=True)
    recording = record_backward(OfNumpy.apply(x.view(3, 1).view(3)).sum())
    OfNumpy.known[:] = 7
    assert OfNumpy.buffer.tolist() == [7.0] * 3
    assert not any(7.0 in copy.view(-1).tolist() for copy in copies_of(recording))


# ---- nobody can tell


WAYS_TO_WRITE = {
    "in place": lambda g: g.mul_(3),
    "through .data": lambda g: g.data.mul_(3),
    "through NumPy": lambda g: np.multiply(g.numpy(), 3, out=g.numpy()),
}


@pytest.mark.parametrize("how", WAYS_TO_WRITE)
def test_a_hook_that_writes_to_a_gradient_changes_no_copy_made_before(how, as_if_large):
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: (WAYS_TO_WRITE[how](g), None)[1])
    exp, times = record_backward((y.exp() * 1).sum()).steps[-3:-1]
    assert same(times.arrivals[0].value, exp.grad_inputs[0])
    assert same(times.grad_outputs[0], 3 * exp.grad_inputs[0])


def test_a_hook_may_keep_a_gradient_and_write_to_it_later(as_if_large):
    x = torch.ones(3, requires_grad=True)
    y = x.sin()
    kept = []
    y.register_hook(kept.append)
    recording = record_backward(y.exp().sum())
    before = bits(recording)
    kept[0].zero_()
    assert all_same(copies_of(recording), before)


def model_and_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1, bias=False))
    return model, lambda: model(torch.linspace(-1, 1, 6).view(2, 3)).square().sum()


@pytest.mark.parametrize("has_grads", [False, True])
def test_afterwards_all_that_is_the_users_is_his_alone(has_grads, as_if_large):
    model, loss = model_and_loss()
    if has_grads:
        loss().backward()
    recording = record_backward(loss())
    before = bits(recording)
    grads = [parameter.grad for parameter in model.parameters()]
    assert not any(map(is_shared_lazily, [*model.parameters(), *grads]))
    torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1).step()
    for grad in grads:
        grad.zero_()
        grad.resize_(100)
    assert all_same(copies_of(recording), before)


def test_a_grad_that_is_added_to_stays_where_it_is(as_if_large):
    model, loss = model_and_loss()
    loss().backward()
    known = [parameter.grad.numpy() for parameter in model.parameters()]
    recording = record_backward(loss())
    for parameter, array in zip(model.parameters(), known, strict=True):
        assert parameter.grad.tolist() == array.tolist()
    assert recording.steps[-1].grad_after is not None


@pytest.mark.parametrize("how", [lambda p: p.grad.mul_(2), lambda p: setattr(p, "grad", None)])
@pytest.mark.parametrize("has_grad", [False, True])
def test_the_grad_after_a_step_is_what_hooks_of_the_user_left(how, has_grad, as_if_large):
    x = torch.ones(3, requires_grad=True)
    if has_grad:
        x.grad = torch.full((3,), 0.5)
    x.register_post_accumulate_grad_hook(lambda p: (how(p), None)[1])
    step = record_backward(x.sin().sum()).steps[-1]
    assert same(step.grad_before, torch.full((3,), 0.5) if has_grad else None)
    assert same(step.grad_after, x.grad)


def test_a_leaf_that_did_not_come_to_its_end_has_no_grad_after(as_if_large):
    x = torch.ones(3, requires_grad=True)
    x.grad = torch.full((3,), 0.5)
    x.register_post_accumulate_grad_hook(lambda p: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        record_backward(x.sin().sum())
    step = raised.value.recording.steps[-1]
    assert step.grad_before.tolist() == [0.5] * 3
    assert (step.grad_inputs, step.grad_after, step.time) == (None, None, None)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_grad_is_added_to_as_the_engine_does(sparse, as_if_large):
    table = nn.Embedding(5, 2, sparse=sparse)
    for _ in range(3):
        before = None if table.weight.grad is None else table.weight.grad.clone()
        step = record_backward(table(torch.tensor([1, 1, 3])).exp().sum()).steps[-1]
        assert same(step.grad_before, before)
        assert same(step.grad_after, table.weight.grad)


class Wrapper(torch.Tensor):
    """A tensor around another one, which takes no operation that it does not know."""

    @staticmethod
    def __new__(cls, inner):
        wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        wrapper.inner = inner
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._lazy_clone.default:
            raise KeyError("not known")
        result = function(*[getattr(a, "inner", a) for a in args], **(kwargs or {}))
        return cls(result) if isinstance(result, torch.Tensor) else result


def test_what_refuses_a_lazy_copy_is_copied_at_once(as_if_large):
    x = Wrapper(torch.ones(3)).requires_grad_()
    sin, last = record_backward(x.sin().sum()).steps[1:]
    assert last.grad_after.inner.tolist() == x.grad.inner.tolist()
    assert sin.grad_inputs[0].inner.tolist() == torch.ones(3).cos().tolist()


LAYOUTS = {
    "transposed": lambda x: (x.t() @ torch.ones(2, 2)).exp(),
    "one column": lambda x: x[:, :1].exp().t() @ x,
    "one row": lambda x: (x[:1] * x).sum(0, keepdim=True).t(),
    "expanded": lambda x: x.sum(0).expand(5, 3),
    "a sum": lambda x: x.exp() + x.t().exp().t() + x * x,
    "channels last": lambda x: nn.functional.conv2d(
        x.view(1, 2, 3, 1).to(memory_format=torch.channels_last), torch.ones(2, 2, 1, 1)
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_grads_have_the_strides_of_a_pass_that_nobody_recorded(name, as_if_large):
    for shape, made in (((2, 3), lambda x: x), ((3, 2), lambda x: x.t())):
        ours, plain = (made(torch.ones(shape)).requires_grad_() for _ in range(2))
        LAYOUTS[name](plain).sum().backward()
        recording = record_backward(LAYOUTS[name](ours).sum())
        assert any(map(is_shared_lazily, copies_of(recording)))
        assert same(ours.grad, plain.grad) and ours.grad.stride() == plain.grad.stride()


@pytest.mark.parametrize("has_grads", [False, True])
def test_both_kinds_of_hooks_write_down_the_same(has_grads, as_if_large, monkeypatch):
    recordings = []
    for hooks_for in (recording_module.hooks_for, copying):
        monkeypatch.setattr(recording_module, "hooks_for", hooks_for)
        model, loss = model_and_loss()
        if has_grads:
            loss().backward()
        recordings.append(record_backward(loss()))
    lazy, copied = map(copies_of, recordings)
    assert any(map(is_shared_lazily, lazy)) and not any(map(is_shared_lazily, copied))
    assert all_same(lazy, copied)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_another_device_every_copy_is_one_at_once(as_if_large):
    x = torch.ones(3, requires_grad=True)
    for output in (x.cuda().sin().cpu().exp().sum(), x.cuda().sin().sum()):
        copies = [copy for copy in copies_of(record_backward(output)) if copy.is_cuda]
        assert copies and not any(map(is_shared_lazily, copies))
