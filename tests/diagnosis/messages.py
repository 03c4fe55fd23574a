"""What torch says about gradients: small programs that raise or warn, each with its cure.

``PROGRAMS`` has: the code that ``explain`` must answer, what raises it, and what does the
same with the cure, which is true if the right thing came out. ``WRITTEN`` has as text what needs
another device, several processes or a compiler, or is raised by torch's C++ code alone.
"""

import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Function, forward_ad, functional, gradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.multiprocessing.reductions import reduce_tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from tests.programs import GivesNone

grad = torch.autograd.grad
equal = torch.allclose


class Message(NamedTuple):
    """A program that raises, what must be said of it, and the program with the cure."""

    code: str
    raises: Callable[[], object]
    cured: Callable[[], bool]


def leaf(*numbers, dtype=torch.float32):
    return torch.tensor(numbers, dtype=dtype, requires_grad=True)


def apply(**methods):
    """``apply`` of a custom Function with these static methods."""
    return type("Mine", (Function,), {k: staticmethod(v) for k, v in methods.items()}).apply


def cube_old(**more):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    return apply(forward=forward, backward=lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, **more)


def cube_new(**more):
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    return type(
        "Cube",
        (Function,),
        {
            "forward": staticmethod(lambda x: x**3),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g),
            **more,
        },
    ).apply


def gradient(f, *numbers, dtype=torch.float32):
    x = leaf(*numbers, dtype=dtype)
    f(x).sum().backward()
    return x.grad


# ---- checkpoint


def checkpointed(reentrant, prepare=lambda x: x):
    lin = nn.Linear(2, 2)
    x = prepare(torch.ones(3, 2))
    return lin, checkpoint(lin, x, use_reentrant=reentrant).sum()


def trains(lin, loss):
    loss.backward()
    return lin.weight.grad is not None


class Caching(nn.Module):
    """Does more the first time, unless told to be the same each time."""

    def __init__(self, *, wide=False, steady=False):
        super().__init__()
        self.times, self.wide, self.steady = 0, wide, steady

    def forward(self, x):
        self.times += not self.steady
        if self.wide:  # another shape
            return (x.exp() * torch.ones(1 + (self.times == 1), 2)).sum()
        return x.exp() if self.times == 1 else x


def recomputed(f, x=None):
    x = leaf(1, 2) if x is None else x
    checkpoint(f, x, use_reentrant=False).sum().backward()
    return x.grad is not None


def unpacked_twice(times=1):
    def backward(ctx, g):
        for _ in range(times):
            (x,) = ctx.saved_tensors
        return g * x

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x / 2

    double = apply(forward=forward, backward=backward)
    return recomputed(lambda x: double(x.exp()))


def twice_selectively():
    keep = partial(create_selective_checkpoint_contexts, [torch.ops.aten.exp.default])
    y = checkpoint(lambda x: x.exp().sin(), leaf(1), use_reentrant=False, context_fn=keep).sum()
    y.backward(retain_graph=True)
    y.backward()


def through_checkpoint(reentrant):
    x = leaf(1, 2)
    return grad(checkpoint(torch.exp, x, use_reentrant=reentrant).sum(), x)[0] is not None


def in_place_in_checkpoint(reentrant, change):
    lin = nn.Linear(2, 2)
    h = leaf(1, 2).tanh()
    checkpoint(lambda h: lin(change(h)), h, use_reentrant=reentrant).sum().backward()
    return lin.weight.grad is not None


CHECKPOINT = [
    *(
        Message(
            "checkpoint",
            partial(in_place_in_checkpoint, reentrant, lambda h: h.mul_(2)),
            partial(in_place_in_checkpoint, reentrant, lambda h: h * 2),
        )
        for reentrant in (True, False)
    ),
    Message("checkpoint", lambda: through_checkpoint(True), lambda: through_checkpoint(False)),
    Message(
        "checkpoint",
        lambda: checkpointed(True),
        lambda: trains(*checkpointed(False)),
    ),
    Message(
        "checkpoint",
        lambda: grad(
            *(lambda lin, loss: (loss, lin.weight))(
                *checkpointed(True, torch.Tensor.requires_grad_)
            )
        ),
        lambda: grad(*(lambda lin, loss: (loss, lin.weight))(*checkpointed(False)))[0] is not None,
    ),
    Message(
        "checkpoint",
        lambda: recomputed(Caching()),
        lambda: recomputed(Caching(steady=True)),
    ),
    Message("checkpoint", twice_selectively, lambda: recomputed(torch.exp)),
    Message(
        "checkpoint",
        lambda: recomputed(Caching(wide=True)),
        lambda: recomputed(Caching(wide=True, steady=True)),
    ),
    Message("checkpoint", lambda: unpacked_twice(2), lambda: unpacked_twice(1)),
    Message(
        "checkpoint",
        lambda: checkpoint(torch.exp, leaf(1), use_reentrant=True, debug=True),
        lambda: checkpoint(torch.exp, leaf(1), use_reentrant=False, debug=True).requires_grad,
    ),
    Message(
        "checkpoint",
        lambda: checkpoint(torch.exp, leaf(1)),
        lambda: checkpoint(torch.exp, leaf(1), use_reentrant=False).requires_grad,
    ),
]


# ---- distributed


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x):
        return self.used(x)


class Frozen(TwoParts):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


def distributed(net, steps=2, **options):
    """Train under DistributedDataParallel, in a group of one.

    Gloo would look up the name of the machine, which may take minutes without a network; and it
    waits half an hour unless it is told how long.
    """
    options_of_group = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", socket.if_nameindex()[0][1])
        dist.init_process_group("gloo", timeout=timedelta(seconds=20), **options_of_group)
    try:
        net = DistributedDataParallel(net(), **options)
        for _ in range(steps):
            net(torch.ones(3, 2, requires_grad=True)).sum().backward()
        return True
    finally:
        dist.destroy_process_group()


DATA_PARALLEL = [
    Message(
        "data-parallel",
        lambda: distributed(TwoParts),
        lambda: distributed(TwoParts, find_unused_parameters=True),
    ),
    Message(
        "data-parallel",
        lambda: distributed(Frozen),
        lambda: not Frozen()(torch.ones(2)).requires_grad,
    ),
]


# ---- parameters and optimizers


class Layers(nn.Module):
    def __init__(self, keep=list):
        super().__init__()
        self.layers = keep([nn.Linear(2, 2)])


def assigned(value):
    net = nn.Linear(2, 1)
    net.weight = value(net)
    return net


def scaled(connect, step=lambda scaler, opt: scaler.step(opt), dtype=torch.float32):
    net = nn.Linear(2, 1, dtype=dtype)
    opt, scaler = torch.optim.SGD(net.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2)
    loss = connect(net(torch.ones(3, 2, dtype=dtype)))
    scaler.scale(loss.sum() + leaf(0)).backward()
    step(scaler, opt)
    return net.weight.grad is not None


def unscale_twice(scaler, opt):
    scaler.unscale_(opt)
    scaler.unscale_(opt)


def unscale_late(scaler, opt):
    scaler.step(opt)
    scaler.unscale_(opt)


def right_order(scaler, opt):
    scaler.unscale_(opt)
    scaler.step(opt)
    scaler.update()


def embedded(optimizer, sparse):
    table = nn.Embedding(5, 2, sparse=sparse)
    opt = optimizer(table.parameters())
    table(torch.tensor([1])).sum().backward()
    opt.step()
    return table.weight.grad is not None


def updated(how):
    w = leaf(1, 2)
    for _ in range(2):
        (w * w).sum().backward()
        w = how(w)
    return equal(w.detach(), torch.tensor([0.64, 1.28]))


def rebound(w):
    w = w - 0.1 * w.grad
    w.grad.zero_()
    return w


def used_before():
    w = leaf(1)
    return w.grad * 0.1


def frozen_grad():
    w = torch.ones(1)
    w.sum()
    return w.grad.norm()


def in_place(w):
    with torch.no_grad():
        w -= 0.1 * w.grad
        w.grad.zero_()
    return w


def assigned_grad(value):
    w = leaf(1, 2)
    w.grad = value
    return equal(w.grad, torch.ones(2))


PARAMETERS = [
    Message(
        "parameters",
        lambda: torch.optim.SGD(Layers().parameters(), 0.1),
        lambda: bool(torch.optim.SGD(Layers(nn.ModuleList).parameters(), 0.1)),
    ),
    Message(
        "parameters",
        lambda: assigned(lambda net: net.weight - 0.1),
        lambda: (
            torch.func.functional_call(
                net := nn.Linear(2, 1), {"weight": net.weight - 0.1}, (torch.ones(2),)
            ).requires_grad
        ),
    ),
    Message(
        "parameters",
        lambda: nn.Module().register_parameter("w", leaf(1) * 2),
        lambda: nn.Module().register_parameter("w", nn.Parameter(torch.ones(1))) is None,
    ),
    Message(
        "parameters",
        lambda: nn.Module().register_parameter("w", nn.Parameter(torch.ones(1)).mul(2)),
        lambda: nn.Module().register_parameter("w", nn.Parameter(torch.ones(1))) is None,
    ),
    Message(
        "parameters",
        lambda: nn.utils.clip_grad_norm_((p for p in ()), 1.0),
        lambda: bool(nn.utils.clip_grad_norm_(nn.Linear(1, 1).parameters(), 1.0) == 0),
    ),
    Message("scaler", lambda: scaled(torch.detach), lambda: scaled(lambda y: y)),
    Message(
        "scaler", lambda: scaled(torch.abs, unscale_twice), lambda: scaled(torch.abs, right_order)
    ),
    Message(
        "scaler", lambda: scaled(torch.abs, unscale_late), lambda: scaled(torch.abs, right_order)
    ),
    Message(
        "scaler",
        lambda: scaled(torch.abs, lambda s, o: s.unscale_(o), torch.float16),
        lambda: scaled(torch.abs, lambda s, o: s.unscale_(o)),
    ),
    Message(
        "scaler",
        lambda: scaled(torch.abs, lambda s, o: s.update()),
        lambda: scaled(torch.abs, right_order),
    ),
    Message(
        "sparse-gradient",
        lambda: embedded(torch.optim.Adam, True),
        lambda: embedded(torch.optim.SparseAdam, True),
    ),
    Message(
        "sparse-gradient",
        lambda: embedded(torch.optim.SparseAdam, False),
        lambda: embedded(torch.optim.Adam, False),
    ),
    Message(
        "sparse-gradient",
        lambda: embedded(lambda p: torch.optim.Adagrad(p, weight_decay=0.1), True),
        lambda: embedded(lambda p: torch.optim.Adagrad(p, weight_decay=0.1), False),
    ),
    Message("grad-is-none", lambda: updated(rebound), lambda: updated(in_place)),
    Message(
        "grad-is-none",
        used_before,
        lambda: equal(gradient(lambda w: w * w, 1) * 0.1, torch.tensor(0.2)),
    ),
    Message("grad-is-none", frozen_grad, lambda: bool(gradient(torch.exp, 0).norm() == 1)),
    Message(
        "assigned-grad", lambda: assigned_grad(torch.ones(3)), lambda: assigned_grad(torch.ones(2))
    ),
    Message(
        "assigned-grad",
        lambda: assigned_grad(torch.ones(2).double()),
        lambda: assigned_grad(torch.ones(2)),
    ),
    Message("assigned-grad", lambda: assigned_grad(1.0), lambda: assigned_grad(torch.ones(2))),
    Message(
        "assigned-grad",
        lambda: assigned_grad(torch.ones(2, device="meta")),
        lambda: assigned_grad(torch.ones(2)),
    ),
    Message(
        "not-implemented",
        lambda: differentiable(True),
        lambda: differentiable(False),
    ),
    Message(
        "sparse-gradient",
        lambda: nn.utils.clip_grad_value_(looked_up(True).parameters(), 1.0),
        lambda: nn.utils.clip_grad_value_(looked_up(False).parameters(), 1.0) is None,
    ),
    Message(
        "sparse-gradient",
        lambda: torch.optim.SGD(looked_up(True).parameters(), weight_decay=0.1).step(),
        lambda: torch.optim.SGD(looked_up(True).parameters()).step() is None,
    ),
    Message(
        "sparse-gradient",
        lambda: frequent(True),
        lambda: frequent(False),
    ),
    Message(
        "parameters",
        lambda: traced(leaf(1)),
        lambda: traced(leaf(1).detach()),
    ),
    Message(
        "non-finite",
        lambda: clipped(float("inf")),
        lambda: clipped(1.0),
    ),
]
if torch.__version__ < "2.15":  # which clips sparse gradients too
    PARAMETERS.append(
        Message(
            "sparse-gradient",
            lambda: nn.utils.clip_grad_norm_(looked_up(True).parameters(), 1.0),
            lambda: bool(nn.utils.clip_grad_norm_(looked_up(False).parameters(), 1.0) > 0),
        )
    )


def differentiable(fused):
    return bool(torch.optim.Adam([leaf(1)], differentiable=True, fused=fused))


def looked_up(sparse):
    """An embedding with a gradient."""
    table = nn.Embedding(3, 2, sparse=sparse)
    table(torch.tensor([1])).sum().backward()
    return table


def frequent(sparse):
    table = nn.Embedding(3, 2, sparse=sparse, scale_grad_by_freq=True)
    table(torch.tensor([1])).sum().backward()
    return table.weight.grad is not None


def traced(w):
    return bool(torch.jit.trace(lambda x: x * w, torch.ones(1))(torch.ones(1)) == 1)


def clipped(slope):
    w = leaf(1)
    (w * slope).backward()
    return nn.utils.clip_grad_norm_([w], 1.0, error_if_nonfinite=True).isfinite().item()


# ---- custom Functions


def forward_alone(ctx, x):
    return x * 2


def backward_alone(ctx, g):
    return g * 2


def saving(what):
    def forward(ctx, x):
        ctx.save_for_backward(*what(ctx, x))
        return x * 2

    return gradient(apply(forward=forward, backward=backward_alone), 1)


def saving_two(ctx, x):
    ctx.two = 2
    return (x,)


def dirty(mark, returned):
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(mark(x))
        return returned(x)

    return gradient(lambda x: apply(forward=forward, backward=backward_alone)(x * 1), 1)


class Doubling(Function):
    forward = staticmethod(forward_alone)
    backward = staticmethod(backward_alone)


def double_is_right(f):
    return bool(f == 2)


def replaced(when):
    x, w = leaf(1, 2), torch.ones(2, 3)
    if when == "before":
        w.data = torch.ones(2, 1)
    y = (x @ w).sum()
    if when == "after":
        w.data = torch.ones(1, 3)
    y.backward()
    return equal(x.grad, torch.ones(2))


def returned_as_is(view):
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    f = apply(
        forward=lambda x: x.view_as(x) if view else x,
        setup_context=setup_context,
        backward=lambda ctx, g: g * ctx.saved_tensors[0],
    )
    return gradient(lambda x: f(x * 1), 2)


FUNCTIONS = [
    Message(
        "function-form",
        lambda: torch.func.grad(cube_old())(torch.tensor(2.0)),
        lambda: equal(torch.func.grad(cube_new())(torch.tensor(2.0)), torch.tensor(12.0)),
    ),
    Message(
        "function-form",
        lambda: torch.vmap(cube_new())(torch.ones(2)),
        lambda: equal(torch.vmap(cube_new(generate_vmap_rule=True))(torch.ones(2)), torch.ones(2)),
    ),
    Message(
        "forward-mode",
        lambda: torch.func.jvp(cube_new(), (torch.ones(1),), (torch.ones(1),)),
        lambda: (
            torch.func.jvp(
                apply(
                    forward=lambda x: x * 2,
                    setup_context=lambda ctx, inputs, output: None,
                    jvp=lambda ctx, t: t * 2,
                ),
                (torch.ones(1),),
                (torch.ones(1),),
            )[1].item()
            == 2
        ),
    ),
    Message(
        "function-form",
        lambda: gradient(apply(backward=backward_alone), 1),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message(
        "function-form",
        lambda: gradient(apply(forward=forward_alone), 1),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message(
        "function-form",
        lambda: gradient(
            apply(forward=forward_alone, backward=backward_alone, vjp=backward_alone), 1
        ),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message(
        "function-form",
        lambda: Doubling(),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message(
        "function-form",
        lambda: saving(lambda ctx, x: (x, 2)),
        lambda: double_is_right(saving(saving_two)),
    ),
    Message(
        "function-form",
        lambda: dirty(lambda x: torch.ones(1), lambda x: x),
        lambda: double_is_right(dirty(lambda x: x, lambda x: x)),
    ),
    Message(
        "function-form",
        lambda: dirty(lambda x: x, lambda x: x * 1),
        lambda: double_is_right(dirty(lambda x: x, lambda x: x)),
    ),
    Message(
        "function-form",
        lambda: returned_as_is(view=False),
        lambda: double_is_right(returned_as_is(view=True)),
    ),
    Message(
        "function-form",
        lambda: apply(
            forward=lambda ctx, x: ctx.mark_non_differentiable(3), backward=backward_alone
        )(leaf(1)),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message("custom-gradients", lambda: replaced("after"), lambda: replaced("before")),
]


# ---- forward mode


def dual(f, tangent=None, level=True):
    x = torch.ones(2)
    tangent = torch.ones(2) if tangent is None else tangent
    if not level:
        return forward_ad.make_dual(x, tangent)
    with forward_ad.dual_level():
        return equal(forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent))).tangent, tangent)


def nested():
    with forward_ad.dual_level(), forward_ad.dual_level():
        return False


def made_twice(levels):
    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        y = forward_ad.make_dual(x if levels else torch.ones(2), torch.ones(2))
        return y is not None


FORWARD_MODE = [
    Message(
        "forward-mode",
        lambda: dual(lambda x: torch.special.gammainc(x, torch.ones(2))),
        lambda: dual(lambda x: x.clone()),
    ),
    Message(
        "forward-mode",
        lambda: dual(lambda x: torch.add(x, 0, out=torch.empty(2))),
        lambda: dual(lambda x: torch.add(x, 0)),
    ),
    Message("forward-mode", lambda: dual(torch.clone, level=False), lambda: dual(torch.clone)),
    Message("forward-mode", nested, lambda: dual(torch.clone)),
    Message("forward-mode", lambda: dual(torch.clone, torch.ones(3)), lambda: dual(torch.clone)),
    Message("forward-mode", lambda: made_twice(1), lambda: made_twice(0)),
]


# ---- transforms


def slope_inside(x):
    y = x**2
    return grad(y, x)[0]


def captured(f):
    total = torch.zeros(())

    def add(x):
        total.add_(x)
        return total * x

    def sum_up(x):
        return (total + x) * x

    return torch.func.grad(add if f == "add" else sum_up)(torch.tensor(2.0))


def squares(x):
    return x**2


X = torch.tensor([1.0, 2.0])

TRANSFORMS = [
    Message(
        "inside-transform",
        lambda: torch.vmap(slope_inside)(leaf(1, 2)),
        lambda: equal(torch.vmap(torch.func.grad(squares))(X), 2 * X),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: slope_inside(x.requires_grad_()))(X),
        lambda: equal(torch.vmap(torch.func.grad(squares))(X), 2 * X),
    ),
    Message(
        "inside-transform",
        lambda: torch.func.grad(lambda x: functional.jacobian(squares, x).sum())(X),
        lambda: equal(
            torch.func.grad(lambda x: torch.func.jacrev(squares)(x).sum())(X), torch.full((2,), 2.0)
        ),
    ),
    Message(
        "inside-transform",
        lambda: torch.func.grad(lambda x: (x * 1).retain_grad())(X[0]),
        lambda: bool(torch.func.grad(squares)(X[0]) == 2),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: x.requires_grad_().backward())(X),
        lambda: equal(torch.vmap(torch.func.grad(squares))(X), 2 * X),
    ),
    Message(
        "inside-transform",
        lambda: torch.func.grad(lambda x: squares(x).backward())(X[0]),
        lambda: bool(torch.func.grad(squares)(X[0]) == 2),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: x.item())(X),
        lambda: equal(torch.vmap(lambda x: x * 1)(X), X),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: x if x > 1 else -x)(X),
        lambda: equal(torch.vmap(lambda x: torch.where(x > 1, x, -x))(X), torch.tensor([-1.0, 2])),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: torch.zeros(()).copy_(x))(X),
        lambda: equal(torch.vmap(lambda x: x.clone())(X), X),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: x + torch.randn(()))(X),
        lambda: torch.vmap(lambda x: x + torch.randn(()), randomness="different")(X).shape == (2,),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: x.data * 2)(X),
        lambda: equal(torch.vmap(lambda x: x.detach() * 2)(X), 2 * X),
    ),
    Message(
        "inside-transform",
        lambda: captured("add"),
        lambda: bool(captured("sum") == 4),
    ),
    Message(
        "inside-transform",
        lambda: torch.vmap(lambda x: x[x > 1])(torch.ones(2, 2)),
        lambda: torch.vmap(lambda x: torch.where(x > 1, x, 0))(torch.ones(2, 2)).shape == (2, 2),
    ),
    Message(
        "non-scalar",
        lambda: torch.func.grad(squares)(X),
        lambda: equal(torch.func.jacrev(squares)(X), (2 * X).diag()),
    ),
    Message(
        "inside-transform",
        lambda: torch.func.grad(lambda x: save_inside(x))(X[0]),
        lambda: bool(torch.func.grad(squares)(X[0]) == 2),
    ),
]


def save_inside(x):
    with save_on_cpu():
        return squares(x)


# ---- hooks


def hooked(hook, f=squares):
    x = leaf(1, 2)
    y = f(x)
    y.register_hook(hook)
    y.sum().backward()
    return x.grad is not None


def module_hooked(hook, net=None, how="register_full_backward_hook", x=None):
    net = net or nn.Linear(2, 2)
    getattr(net, how)(hook)
    x = leaf(1, 2) if x is None else x
    y = net(x)
    (y if isinstance(y, torch.Tensor) else y["y"]).sum().backward()
    return True


def both_hooks():
    net = nn.Linear(2, 2)
    net.register_full_backward_hook(lambda *a: None)
    net.register_backward_hook(lambda *a: None)


class InDict(nn.Linear):
    def forward(self, x):
        return {"y": super().forward(x)}


class InTuple(nn.Linear):
    def forward(self, x):
        return (super().forward(x),)


def in_place_after_hook(inplace):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=inplace))
    net[0].register_full_backward_hook(lambda *a: None)
    net(torch.ones(1, 2)).sum().backward()
    return net[0].weight.grad is not None


def packed(pack, unpack):
    with saved_tensors_hooks(pack, unpack):
        return gradient(squares, 3)


def after_accumulate(t):
    t.register_post_accumulate_grad_hook(lambda t: None)
    return True


def saved_hooks(when):
    x = leaf(1, 2)
    y = x.exp()
    saved = y.grad_fn._raw_saved_result
    if when == "late":
        y.sum().backward()
    saved.register_hooks(lambda t: t, lambda t: t)
    if when == "twice":
        saved.register_hooks(lambda t: t, lambda t: t)
    y.sum().backward()
    return x.grad is not None


def deleted(_):
    return torch.ones(3)


HOOKS = [
    Message("hook", lambda: hooked(deleted), lambda: hooked(lambda g: g * 2)),
    Message("hook", lambda: hooked(lambda g: g.int()), lambda: hooked(lambda g: g * 2)),
    Message("hook", lambda: hooked(lambda g: 1.0), lambda: hooked(lambda g: g * 2)),
    Message(
        "hook",
        lambda: module_hooked(lambda m, i, o: i * 2),
        lambda: module_hooked(lambda m, i, o: i),
    ),
    Message(
        "hook",
        lambda: module_hooked(lambda m, o: o * 2, how="register_full_backward_pre_hook"),
        lambda: module_hooked(lambda m, o: o, how="register_full_backward_pre_hook"),
    ),
    Message(
        "hook",
        lambda: module_hooked(lambda m, i, o: (o[0],), x=torch.ones(1, 2)),
        lambda: module_hooked(lambda m, i, o: None, x=torch.ones(1, 2)),
    ),
    Message("hook", both_hooks, lambda: module_hooked(lambda *a: None)),
    Message(
        "hook",
        lambda: module_hooked(lambda *a: None, InDict(2, 2)),
        lambda: module_hooked(lambda *a: None, nn.Linear(2, 2)),
    ),
    Message(
        "hook",
        lambda: module_hooked(
            lambda *a: None, nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "register_backward_hook"
        ),
        lambda: module_hooked(lambda *a: None),
    ),
    Message(
        "hook",
        lambda: module_hooked(lambda *a: None, x=torch.ones(1, 2)),
        lambda: module_hooked(lambda *a: None),
    ),
    Message(
        "multi-view-in-place", lambda: in_place_after_hook(True), lambda: in_place_after_hook(False)
    ),
    Message("not-a-leaf", lambda: after_accumulate(leaf(1) * 2), lambda: after_accumulate(leaf(1))),
    Message(
        "hook",
        lambda: packed(lambda t: t, lambda t: 3),
        lambda: bool(packed(lambda t: t, lambda t: t) == 6),
    ),
    Message(
        "hook",
        lambda: packed(lambda t: t.mul_(2), lambda t: t),
        lambda: bool(packed(lambda t: t * 2, lambda t: t / 2) == 6),
    ),
    Message("freed", lambda: saved_hooks("late"), lambda: saved_hooks("")),
    Message("hook", lambda: saved_hooks("twice"), lambda: saved_hooks("")),
]


# ---- what is asked of the engine, dtypes, and ends of the graph


def phases():
    a = torch.tensor([[1.0, 2.0], [-3.0, 4.0]], requires_grad=True)
    torch.linalg.eig(a).eigenvectors.real.sum().backward()


def sizes():
    a = torch.tensor([[1.0, 2.0], [-3.0, 4.0]], requires_grad=True)
    torch.linalg.eig(a).eigenvectors.abs().sum().backward()
    return a.grad.isfinite().all().item()


def svd(f):
    a = torch.tensor([[1.0, 2.0j], [-3.0, 4.0]], requires_grad=True)
    f(torch.linalg.svd(a).U).sum().backward()
    return a.grad.isfinite().all().item()


def qr(mode):
    a = torch.tensor([[1.0, 2.0], [-3.0, 4.0], [1, 1]], requires_grad=True)
    torch.linalg.qr(a, mode).R.sum().backward()
    return a.grad.isfinite().all().item()


def huber(target):
    x = leaf(1, 2)
    nn.functional.huber_loss(x, target, delta=9.0, reduction="sum").backward()
    return equal(x.grad, torch.tensor([1.0, 2.0]))


def whole_numbers():
    logits = torch.tensor([[1.0, 2.0]], requires_grad=True)
    logits.argmax(1).sum().backward()


def inference_loss(mode):
    with torch.inference_mode(mode):
        x = torch.ones(2, requires_grad=True)
        loss = (x * x).sum()
    loss.backward()
    return equal(x.grad, torch.full((2,), 2.0))


def data_of(value):
    x = leaf(1)
    x.data = value
    return x.requires_grad


def resized(f):
    return f(leaf(1, 2, 3, 4) * 1).shape == (2, 2)


def detached_view(f):
    return not f((leaf(1, 2) * 1).view(2, 1)).requires_grad


def as_it_came(change):
    f = apply(forward=lambda ctx, x: x.view_as(x), backward=lambda ctx, g: g)
    return bool(gradient(lambda x: change(f(x * 1)), 3) == 2)


def twice_through(stance):
    torch.compiler.reset()  # torch compiles eight of one code, and then none
    sine = torch.compile(torch.sin, backend="aot_eager")
    with torch.compiler.set_stance(stance):
        (g,) = grad(sine(x := leaf(0.5)), x, create_graph=True)
        return equal(grad(g, x)[0], -torch.sin(x))


ENGINE = [
    Message(
        "compiled",
        lambda: twice_through("default"),
        lambda: twice_through("force_eager"),
    ),
    Message(
        "multi-view-in-place",
        lambda: as_it_came(lambda y: y.mul_(2)),
        lambda: as_it_came(lambda y: y * 2),
    ),
    Message(
        "custom-gradients",
        lambda: gradient(apply(forward=forward_alone, backward=lambda ctx, g: "two"), 1),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message(
        "parameters",
        lambda: torch.optim.SGD(leaf(1), 0.1),
        lambda: len(torch.optim.SGD([leaf(1)], 0.1).param_groups[0]["params"]) == 1,
    ),
    Message(
        "not-a-tensor",
        lambda: grad(leaf(1), [1.0]),
        lambda: grad(x := leaf(1), x, X[:1])[0].item() == 1,
    ),
    Message("not-unique", phases, sizes),
    Message("not-unique", lambda: svd(torch.real), lambda: svd(torch.abs)),
    Message("not-implemented", lambda: qr("complete"), lambda: qr("reduced")),
    Message("not-implemented", lambda: qr("r"), lambda: qr("reduced")),
    Message("mixed-dtypes", lambda: huber(torch.zeros(2).double()), lambda: huber(torch.zeros(2))),
    Message(
        "unused-input",
        lambda: grad(GivesNone.apply(x := leaf(1)), x),
        lambda: grad(Doubling.apply(x := leaf(1)), x)[0].item() == 2,
    ),
    Message(
        "unused-input",
        lambda: grad((x := leaf(1, 2)).norm(p=0), x),
        lambda: equal(grad((x := leaf(1, 2)).norm(p=1), x)[0], torch.ones(2)),
    ),
    Message(
        "not-differentiable",
        whole_numbers,
        lambda: gradient(lambda x: x.softmax(0), 1, 2).isfinite().all().item(),
    ),
    Message("inference-mode", lambda: inference_loss(True), lambda: inference_loss(False)),
    Message(
        "parameters",
        lambda: squares(leaf(1)).backward(inputs=[]),
        lambda: (y := squares(x := leaf(1))).backward(inputs=[x]) is None and y is not None,
    ),
    Message(
        "parameters",
        lambda: grad(leaf(1), []),
        lambda: bool(grad(x := leaf(1), [x], torch.ones(1))[0] == 1),
    ),
    Message(
        "non-scalar",
        lambda: functional.hessian(squares, X),
        lambda: functional.hessian(lambda x: squares(x).sum(), X).shape == (2, 2),
    ),
    *(
        Message(
            "non-scalar",
            partial(product, squares, X, torch.ones(2)),
            lambda product=product: equal(
                product(lambda x: squares(x).sum(), X, torch.ones(2))[1], torch.full((2,), 2.0)
            ),
        )
        for product in (functional.hvp, functional.vhp)
    ),
    Message(
        "non-scalar",
        lambda: functional.vjp(squares, X, (torch.ones(2), torch.ones(2))),
        lambda: equal(functional.vjp(squares, X, torch.ones(2))[1], 2 * X),
    ),
    Message(
        "unused-input",
        lambda: functional.vjp(lambda x: leaf(1), X, torch.ones(1), strict=True),
        lambda: equal(functional.vjp(lambda x: leaf(1), X, torch.ones(1))[1], torch.zeros(2)),
    ),
    Message(
        "non-scalar",
        lambda: functional.vjp(squares, X),
        lambda: equal(functional.vjp(squares, X, torch.ones(2))[1], 2 * X),
    ),
    Message(
        "no-graph",
        lambda: functional.jacobian(lambda x: x.detach(), X, strict=True),
        lambda: equal(functional.jacobian(lambda x: x * 1, X, strict=True), torch.eye(2)),
    ),
    Message(
        "unused-input",
        lambda: functional.jacobian(lambda x: leaf(1, 2) * 2, X, strict=True),
        lambda: equal(functional.jacobian(lambda x: x * 1, X, strict=True), torch.eye(2)),
    ),
    Message(
        "constant-gradient",
        lambda: functional.hessian(lambda x: x.sum(), X, strict=True),
        lambda: bool((functional.hessian(lambda x: x.sum(), X) == 0).all()),
    ),
    Message(
        "input-without-grad",
        lambda: torch.autograd.graph.get_gradient_edge(X),
        lambda: torch.autograd.graph.get_gradient_edge(leaf(1)).node is not None,
    ),
    Message(
        "complex-output",
        lambda: (torch.ones(2, requires_grad=True) * 1j).backward(torch.ones(2)),
        lambda: (torch.ones(2, requires_grad=True) * 1j).backward(torch.ones(2) * 1j) is None,
    ),
    Message(
        "integer-tensor", lambda: data_of(torch.tensor([1])), lambda: data_of(torch.tensor([1.0]))
    ),
    Message(
        "not-implemented",
        lambda: torch.exp(leaf(1), out=torch.empty(1)),
        lambda: torch.exp(leaf(1)).requires_grad,
    ),
    Message(
        "not-implemented",
        lambda: resized(lambda x: x.resize_(2, 2)),
        lambda: resized(lambda x: x.reshape(2, 2)),
    ),
    Message(
        "numpy",
        lambda: leaf(1).apply_(lambda v: v),
        lambda: bool(leaf(1).detach().apply_(lambda v: v) == 1),
    ),
    Message(
        "numpy", lambda: leaf(1).__dlpack__(), lambda: leaf(1).detach().__dlpack__() is not None
    ),
    Message(
        "numpy",
        lambda: leaf(1).map_(X[:1], max),
        lambda: bool(leaf(1).detach().map_(X[:1], max) == 1),
    ),
    Message(
        "custom-gradients",
        lambda: torch.library.register_autograd("aten::exp.out", lambda ctx, g: g),
        lambda: double_is_right(gradient(Doubling.apply, 1)),
    ),
    Message(
        "multi-view-in-place",
        lambda: detached_view(lambda v: v.detach_()),
        lambda: detached_view(lambda v: v.detach()),
    ),
    Message(
        "deepcopy",
        lambda: reduce_tensor(leaf(1) * 2),
        lambda: bool(reduce_tensor((leaf(1) * 2).detach())),
    ),
]


# ---- gradcheck


def doubles(*numbers):
    return leaf(*numbers, dtype=torch.float64)


def checked(f, *inputs, **options):
    return gradcheck(f, inputs or (doubles(1, 2),), **options)


def no_right_gradient(backward):
    return apply(forward=forward_alone, backward=backward)


class Noisy:
    times = 0

    def __call__(self, ctx, g):
        self.times += 1
        return 2 * g + 1e-9 * self.times


def no_undefined(ctx, x):
    ctx.set_materialize_grads(False)
    return x * 2


def one_for_undefined(ctx, g):
    return torch.ones(2) if g is None else 2 * g


GRADCHECK = [
    Message(
        "gradcheck",
        lambda: checked(apply(forward=no_undefined, backward=one_for_undefined)),
        lambda: checked(Doubling.apply),
    ),
    Message(
        "gradcheck", lambda: checked(no_right_gradient(Noisy())), lambda: checked(Doubling.apply)
    ),
    Message(
        "gradcheck", lambda: checked(lambda x: x.detach() * 2), lambda: checked(lambda x: x * 2)
    ),
    Message("gradcheck", lambda: checked(squares, doubles(1).expand(3)), lambda: checked(squares)),
    Message(
        "gradcheck",
        lambda: checked(
            no_right_gradient(lambda ctx, g: torch.full_like(g, 2)), check_undefined_grad=False
        ),
        lambda: checked(Doubling.apply),
    ),
]


PROGRAMS = [
    Message(
        "non-finite",
        lambda: F.binary_cross_entropy(leaf(1.5), torch.ones(1)),
        lambda: F.binary_cross_entropy_with_logits(leaf(1.5), torch.ones(1)).isfinite().item(),
    ),
    *CHECKPOINT,
    *DATA_PARALLEL,
    *PARAMETERS,
    *FUNCTIONS,
    *FORWARD_MODE,
    *TRANSFORMS,
    *HOOKS,
    *ENGINE,
    *GRADCHECK,
]


WRITTEN = [
    ("gradcheck", "Expected at least one of check_forward_ad or check_backward_ad to be True"),
    ("gradcheck", "Expected inputs to be non-complex for _get_analytical_jacobian_forward_ad."),
    ("not-implemented", "Batched grads are not supported with GradientEdge"),
    ("not-implemented", "Script and require grads is not supported atm. If you just want to do "
     "the forward, use .detach() on A and B before calling into lobpcg"),
    ("not-implemented", "The while_loop HigherOrderOperator does not currently support "
     "training with in-place input or buffer mutations"),
    ("not-implemented", "Module 'flash_attn_interface' does not expose FA3 backward kernels"),
    ("non-scalar", "`grad_tensors` and `grad_variables` (deprecated) arguments both passed to "
     "`backward()`. Please only use `grad_tensors`."),
    ("modified-in-place", "_apply(): Couldn't swap Linear.weight"),
    ("grad-is-none", "only_inputs argument is deprecated and is ignored now (defaults to True)."),
    ("parameters", "In any :class:`~torch.nn.Module` passed to "
     ":func:`~make_graphed_callables`, only parameters may be trainable. All buffers must have "
     "``requires_grad=False``."),
    ("parameters", "`inputs` argument to `grad()` must be a dict, not OrderedDict. Other "
     "Mapping types are not supported."),
    ("parameters", "Param gradient must be a 2D matrix"),
    ("parameters", "Expected weight from each model to have the same .requires_grad"),
    ("scaler", "_scale is None in unscale_"),
    ("scaler", "step() has already been called since the last update()."),
    ("checkpoint", "torch.utils.checkpoint: expected context_fn generator to yield exactly "
     "twice, but it yielded more than twice."),
    ("checkpoint", "Tensor arguments, excluding CPU tensors, are detected on at least two "
     "types of devices. Device state will only be saved for devices of a single device type"),
    ("forward-mode", "torch.autograd.functional.jacobian: `strict=True` and "
     "`strategy=\"forward-mode\"` are not supported together (yet)."),
    ("accumulates", "Current Expanded Weights accumulates the gradients, which will be "
     "incorrect for multiple calls without clearing gradients."),
    ("hook", "backward hook <function scale at 0x7f> on tensor will not be serialized. If this "
     "is expected, you can decorate the function"),
    ("hook", "forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got "
     "3."),
    ("hook", "You are trying to call the hook of a dead Module!"),
    ("non-finite", "Expected parameter loc (Tensor of shape (1, 2)) of distribution "
     "Normal(loc: torch.Size([1, 2]), scale: torch.Size([1, 2])) to satisfy the constraint "
     "Real(), but found invalid values:\ntensor([[nan, nan]])"),
    ("data-parallel", "Expected to mark a variable ready only once. This error is caused by one of "
     "the following reasons: 1) Use of a module parameter outside the `forward` function. 2) "
     "Reused parameters in multiple reentrant backward passes."),
    ("data-parallel", "Parameter at index 3 with name layers.0.weight has been marked as ready "
     "twice. This means that multiple autograd engine  hooks have fired for this particular "
     "parameter during this iteration."),
    ("data-parallel", "find_unused_parameters=True was specified in DDP constructor, but did not "
     "find any unused parameters in the forward pass. This flag results in an extra traversal"),
    ("data-parallel", "Grad strides do not match bucket view strides. This may indicate grad was "
     "not created according to the gradient layout contract"),
    ("data-parallel", "grad and param do not obey the gradient layout contract. This is not an "
     "error, but may impair performance."),
    ("data-parallel", "Unable to handle autograd's threading in combination with fork-based "
     "multiprocessing. See https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork"),
    ("data-parallel", "Calling .zero_grad() from a module created with nn.DataParallel() has no "
     "effect. The parameters are copied (in a differentiable manner) from the original module."),
    ("cudnn-rnn", "cudnn RNN backward can only be called in training mode"),
    ("cudnn-rnn", "miopen RNN backward can only be called in training mode"),
    ("cudnn-rnn", "Double backwards is not supported for CuDNN RNNs due to limitations in the "
     "CuDNN API. To run double backwards, please disable the CuDNN backend temporarily"),
    ("compiled", "Error: accessing tensor output of CUDAGraphs that has been overwritten by a "
     "subsequent run. Stack trace: ..."),
    ("checkpoint", "torch.utils.checkpoint: trying to save more tensors during recomputation than "
     "during the original forward pass."),
    ("checkpoint", "torch.ops.aten.mm.default encountered during backward but not found in "
     "storage. "),
    ("checkpoint", "Tensor cached during selective activation checkpoint has been mutated"),
    ("checkpoint", "none of output has requires_grad=True, this checkpoint() is not necessary"),
    ("parameters", "Cannot assign non-leaf Tensor to parameter 'weight'. Model parameters must be "
     "created explicitly."),
    ("parameters", "No Tensors requiring grad found in input"),
    ("function-form", "'needs_input_grad' is invalid for this instance of _C._FunctionBase. "
     "Accessing this attribute directly on an instance of autograd.Function is a legacy access "
     "pattern that is no longer supported."),
    ("function-form", "You tried to vmap over Cube, but it has both generate_vmap_rule=True and an "
     "overridden vmap staticmethod."),
    ("function-form", "ctx.mark_dirty() received a tensor that was not an input. Only input "
     "Tensors that have been mutated should be passed to ctx.mark_dirty()."),
    ("function-form", "If your Function modifies inplace an input that is a view of another "
     "Tensor, your Function cannot return more than one Tensor."),
    ("function-form", "saved_tensors can only be accessed once when "
     "clear_saved_tensors_on_access=True is set on the autograd.Function."),
    ("forward-mode", "Trying to access a forward AD level with an invalid index. This index was "
     "either not created or is already deleted."),
    ("forward-mode", "Function's jvp returned an invalid number of forward gradients (expected 1 "
     "but got 2)"),
    ("forward-mode", "An inplace custom Function is not returning the forward mode gradients "
     "as-is."),
    ("forward-mode", "batch_norm is not differentiable wrt running_mean and running_var, they "
     "cannot have forward grad defined"),
    ("inside-transform", "backward() called inside torch.vmap. This is not supported, please call "
     "backward() outside torch.vmap or instead use torch.autograd.grad inside torch.vmap"),
    ("inside-transform", "torch.autograd.grad(outputs, inputs, grad_outputs) called inside "
     "torch.vmap. We do not support the case where any outputs are vmapped tensors"),
    ("inside-transform", "mutating directly with `.data` inside functorch transform is not "
     "allowed."),
    ("hook", "Cannot set Module backward hook for a Module with no input Tensors."),
    ("hook", "can't replace a None gradient with a non-None value"),
    ("hook", "Backward hook for Modules where no input requires gradient should always return "
     "None or None for all gradients."),
    ("hook", "expected this hook to be called inside a backward call"),
    ("hook", "Final callbacks can only be installed during backward pass."),
    ("freed", "linear_cross_entropy chunked backward called twice; retain_graph=True / double "
     "backward are not supported."),
    ("non-scalar", "got 1 tensors and 2 gradients"),
    ("non-scalar", "gradients can be either Tensors or None, but got int"),
    ("non-scalar", "v has invalid size: should be torch.Size([2]) but got torch.Size([3])."),
    ("assigned-grad", "can't assign Variable as its own grad"),
    ("inference-tensor", "Inference tensors do not track version counter."),
    ("numpy", "Cannot input a tensor that requires grad as a scalar argument"),
    ("not-implemented", "The function 'native_batch_norm' is not differentiable with respect to "
     "argument 'running_mean'. This input cannot have requires_grad True."),
    ("not-implemented", "max_pool2d with `return_indices=False` is not infinitely "
     "differentiable."),
    ("custom-gradients", "expected Variable or None (got numpy.ndarray)"),
    ("custom-gradients", "Expected the return from backward to be of the same structure as the "
     "inputs. Got: ..."),
    ("gradcheck", "backward not multiplied by grad_output"),
    ("grad-is-none", "'NoneType' object has no attribute 'zero_'"),
    ("not-implemented", "lobpcg.backward does not support sparse input yet. Note that "
     "lobpcg.forward does though."),
    ("not-implemented", "angle does not support automatic differentiation for outputs with complex "
     "dtype."),
    ("not-implemented", "max mode does not support scaling the gradient by the frequency"),
    ("not-implemented", "In-place leakyReLu backward calculation is triggered with a negative "
     "slope which is not supported. This is caused by calling in-place forward function with a "
     "negative slope, please call out-of-place version instead."),
    ("not-implemented", "Autograd has not been implemented for operator mylib::f"),
    ("function-form", "The autograd.Function's vmap staticmethod returned an unexpected number of "
     "outputs"),
    ("copied", "It is not recommended to create a MaskedTensor with a tensor that requires_grad. "
     "To avoid this, you can use data.detach().clone()"),
    ("not-implemented", "FlexAttention does not support backward on CPU. Please set the input "
     "requires_grad to False or use another device."),
    ("not-implemented", "FA3 SDPA backward unsupported: dropout"),
    ("not-implemented", "grid_sampler_3d double backward not implemented for interpolation_mode="),
    ("not-implemented", "FSDP does not support gradients of gradients"),
    ("not-implemented", "tensordot(): the 'out' tensor was specified and requires gradients, and "
     "its shape does not match the expected result."),
    ("modified-in-place", "Trying to execute AccumulateGrad node that was poisoned by swap_tensors "
     "this can happen when you try to run backward on a tensor that was swapped."),
    ("inside-transform", "cannot use C++ torch::autograd::Function with functorch transforms "
     "(vmap, grad, vjp, etc)"),
    ("hook", "Modules must not have hooks registered at the time they are passed. However, "
     "registering hooks on modules after passing them through make_graphed_callables is allowed."),
    ("hook", "expected tuple, but hook returned 'list'"),
    ("data-parallel", "setStorage: sizes [3, 3], strides [3, 1], storage offset 0, and itemsize 4 "
     "requiring a storage size of 36 are out of bounds for storage of size 0"),
    ("data-parallel", "Must flatten tensors with uniform `requires_grad` when "
     "`use_orig_params=False`"),
    ("data-parallel", "step() requires gradients to be enabled for backward computation; it should "
     "not be used under torch.no_grad() context. Please call eval() instead."),
    ("data-parallel", "Current thread doesn't have a valid autograd context. Please wrap your code "
     "using: `with torch.distributed.autograd.context() as context_id`"),
    ("not-implemented", "set_storage is not allowed on a Tensor created from .data or .detach()."),
    ("compiled", "linear_cross_entropy chunked op: compute_input_grad was False at trace time but "
     "input.requires_grad is True at runtime; recompile the graph with the desired requires_grad."),
    ("assigned-grad", "grad_dtype can only be set on leaf tensors."),
    ("sparse-gradient", "`_fused_sgd` does not support sparse gradients"),
    ("parameters", "grad requires non-empty inputs."),
]  # fmt: skip

# What other libraries say where gradients are the cause.
OF_OTHER_LIBRARIES = [
    ("non-finite", "Detected nan or inf in gradients"),
    ("non-finite", "Loss is nan, stopping training"),
    ("non-finite", "NaN loss encountered. Training stopped."),
    ("non-finite", "Model diverged with loss = NaN"),
    ("non-finite", "The loss returned in `training_step` is nan."),
    ("non-finite", "gradients are Nan/Inf"),
    ("non-finite", "Predicted boxes or scores contain Inf/NaN. Training has diverged."),
    (
        "data-parallel",
        "It looks like your LightningModule has parameters that were not used in "
        "producing the loss returned by training_step. If this is intentional, you must enable "
        "the detection of unused parameters in DDP",
    ),
    (
        "not-a-tensor",
        "In automatic optimization, `training_step` must return a Tensor, a dict, "
        "or None (where the step will be skipped).",
    ),
    (
        "not-a-tensor",
        "In automatic_optimization, when `training_step` returns a dict, the "
        "'loss' key needs to be present",
    ),
    (
        "not-a-tensor",
        "The model did not return a loss from the inputs, only the following "
        "keys: logits. For reference, the inputs it received are input_ids,attention_mask.",
    ),
    (
        "checkpoint",
        "`use_cache=True` is incompatible with gradient checkpointing. Setting "
        "`use_cache=False`...",
    ),
    (
        "checkpoint",
        "Caching is incompatible with gradient checkpointing in GptOssDecoderLayer. "
        "Setting `past_key_value=None`.",
    ),
    (
        "integer-tensor",
        "You cannot perform fine-tuning on purely quantized models. Please "
        "attach trainable adapters on top of the quantized model to correctly perform fine-tuning.",
    ),
    (
        "data-parallel",
        "Communication call has not been issued for this bucket (0/12 params have grad available)",
    ),
    (
        "data-parallel",
        "The parameter 255 has already been reduced. Gradient computed twice for "
        "this partition. Multiple gradient reduction is currently not supported",
    ),
    (
        "data-parallel",
        "no_sync context manager is incompatible with gradient partitioning logic of ZeRO stage 2",
    ),
    (
        "scaler",
        "Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.",
    ),
    (
        "data-parallel",
        "Gradients were computed more than backward_passes_per_step times before "
        "call to step(). Increase backward_passes_per_step to accumulate gradients locally.",
    ),
    (
        "data-parallel",
        "optimizer.zero_grad() was called after loss.backward() but before "
        "optimizer.step() or optimizer.synchronize(). This is prohibited as it can cause a race "
        "condition.",
    ),
    ("hook", "Per sample gradient is not initialized. Not updated in backward pass?"),
    ("hook", "Per sample gradient not found. Are you using GradSampleModule?"),
    (
        "hook",
        "A Module ReLU() was detected that does not contain some of the input/output "
        "attributes that are required for DeepLift computations. This can occur, for example, if "
        "your module is being used more than once in the network.",
    ),
    (
        "input-without-grad",
        "Input Tensor 0 did not already require gradients, required_grads "
        "has been set automatically.",
    ),
    (
        "unused-input",
        "Could not compute gradients for node features. Please make sure that "
        "node features are used inside the model or disable it via `node_mask_type=None`.",
    ),
    (
        "unused-input",
        "Could not compute gradients for edges. Please make sure that edges are "
        "used via message passing inside the model or disable it via `edge_mask_type=None`.",
    ),
    ("not-implemented", "double backwards on roi_align not supported"),
    (
        "not-implemented",
        "No operator found for `memory_efficient_attention_backward` with "
        "inputs: query : shape=(1, 4096, 1, 512) (torch.float32)",
    ),
    (
        "not-implemented",
        "FlashAttention backward for head dim > 192 requires A100/A800 or H100/H800",
    ),
    (
        "scaler",
        "Minimum loss scale reached (0.0001). Your loss is probably exploding. Try "
        "lowering the learning rate, using gradient clipping or increasing the batch size.",
    ),
    ("scaler", "Gradient overflow.  Skipping step, loss scaler 0 reducing loss scale to 32768.0"),
    (
        "non-finite",
        "Loss became infinite or NaN at iteration=12! loss_dict = {'loss_cls': tensor(nan)}",
    ),
    ("non-finite", "underflow in dt nan"),
    (
        "parameters",
        "func must be an instance of nn.Module to specify the adjoint parameters; "
        "alternatively they can be specified explicitly via the `adjoint_params` argument.",
    ),
    (
        "non-finite",
        "Rank 3: found NaN in local grad norm in backward pass before data-parallel "
        "communication collective. Device: 3, node: n1",
    ),
    (
        "non-finite",
        "1 elements of the 2 element gradient array `gradf` are NaN. This often "
        "indicates numerical issues.",
    ),
    ("non-finite", "cholesky_cpu: 30 of 900 elements of the torch.Size([30, 30]) tensor are NaN."),
    ("non-finite", "Encountered NaN: loss"),
    ("non-finite", "probability tensor contains either `inf`, `nan` or element < 0"),
]

# What says nothing about gradients, though it has words of such messages in it.
OTHERS = [
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)",
    "The size of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 0",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB",
    "CUDA error: device-side assert triggered",
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
    "cpu!",
    "expected scalar type Double but found Float",
    "expected m1 and m2 to have the same dtype, but got: float != c10::Half",
    "'NoneType' object has no attribute 'shape'",
    "'NoneType' object has no attribute 'data'",
    "unsupported operand type(s) for *: 'NoneType' and 'float'",
    "'Tensor' object has no attribute 'backwards'",
    "'Linear' object has no attribute 'grad'",
    "a parameter must be positive, got an empty list",
    "parameter group didn't specify a value of required optimization parameter lr",
    "some parameters appear in more than one parameter group",
    "Error(s) in loading state_dict for Linear: size mismatch for weight: copying a param with "
    "shape torch.Size([2, 2]) from checkpoint",
    "unexpected checkpoint format: no gradient checkpointing in this model",
    "You must implement this method",
    "the hook for the door is missing",
    "this function is not implemented for the derivative market",
    "the Jacobian is independent of the input",
    "could not find the backward compatible version",
    "Default process group has not been initialized, please make sure to call init_process_group.",
    "DataLoader worker (pid 3) is killed by signal: Killed.",
    "result type Float can't be cast to the desired output type Long",
    "expected target dtype to be Long or Byte, but got Float",
    "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes [2, 3]",
    "grad_fn",
    "No module named 'torch.autograd.grads'",
]
