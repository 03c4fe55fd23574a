"""Random programs, and the custom Functions that tests share.

A program is a list of steps: the name of an operation, and which two of the tensors made so far it
takes. So the same program can be run several times, and hypothesis can make it shorter. A test
names the operations that it wants, and may bring its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Tensor = torch.Tensor
Step = tuple[str, int, int]

# ---- custom Functions


class Twice(Function):
    """Two times its input. It saves nothing."""

    @staticmethod
    def forward(ctx, a):
        return a * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Double(Twice):
    """Two times its input, which it saves for no reason but to be found."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a * 2


class Square(Function):
    """The square, with a derivative computed from a saved tensor."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a * a

    @staticmethod
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return 2 * a * gradient


class Once(Square):
    """The square, which can be differentiated only once."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return 2 * a * gradient


class Cube(Function):
    """The cube, with a derivative computed from a saved tensor."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a**3

    @staticmethod
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return gradient * 3 * a * a


class Pair(Function):
    """Three outputs, of which the second takes no part in the backward pass."""

    @staticmethod
    def forward(ctx, a, number, b):
        whole = torch.arange(4)
        ctx.mark_non_differentiable(whole)
        return a + b, whole, a * b

    @staticmethod
    def backward(ctx, first, _, third):
        return first, None, third


class Halves(Function):
    """Two outputs, and nothing saved as a tensor."""

    @staticmethod
    def forward(ctx, a, b):
        return a / 2, b / 2

    @staticmethod
    def backward(ctx, first, second):
        return first / 2, second / 2


class Unused(Function):
    """Saves a tensor that its backward does not look at."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a + 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class GivesNone(Function):
    """The cube, with None for a derivative."""

    @staticmethod
    def forward(ctx, a):
        return a**3

    @staticmethod
    def backward(ctx, gradient):
        return None


class WrongShape(Function):
    """The same as its input, with a derivative of too few elements."""

    @staticmethod
    def forward(ctx, a):
        return a * 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient[1:]


class RunsModule(Function):
    """What a module computes: it is given the input, and not the parameters."""

    @staticmethod
    def forward(ctx, a, module):
        return module(a)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class GivesTwo(Function):
    """Its backward gives a gradient too many."""

    @staticmethod
    def forward(ctx, a):
        return a + 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


class Silent(Function):
    """It passes no gradient on to its first input."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.set_materialize_grads(False)
        return a + b

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient


class WritesInPlace(Function):
    """Its backward writes into the gradient that it is given."""

    @staticmethod
    def forward(ctx, a):
        return a * 1

    @staticmethod
    def backward(ctx, gradient):
        if gradient._is_view() or gradient.stride() == (0,):  # an expanded one cannot be written to
            return gradient * 3
        return gradient.mul_(3)


class Dirty(Function):
    """Its forward writes into its input."""

    @staticmethod
    def forward(ctx, a):
        a.mul_(2)
        ctx.mark_dirty(a)
        return a

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class WithSetup(Function):
    """Its forward takes no context."""

    @staticmethod
    def forward(a):
        return a.sin().cos()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


# ---- operations: each makes one or more tensors of four elements from two such tensors


def in_place(a: Tensor, b: Tensor) -> Tensor:
    copy = a.clone()
    copy[:2].mul_(b[:2])
    copy.view(2, 2)[1] += 1
    return copy


def unused_parts(a: Tensor, b: Tensor) -> Tensor:
    """A Node with three outputs, of which one is not used."""
    u, _, v = torch.linalg.svd(a.sin().view(2, 2) + torch.diag(b[:2].tanh() + 3))
    return (u @ v).view(4)


def through_hooks(a: Tensor, b: Tensor) -> Tensor:
    with saved_tensors_hooks(lambda t: t, lambda t: t):
        return a * b


def without_gradient(a: Tensor) -> Tensor:
    with torch.no_grad():
        return a.exp().clamp(max=2)


def loop(a: Tensor, b: Tensor, times: int) -> Tensor:
    for _ in range(times):
        b = (b * a).tanh()
    return b


Operation = Callable[[Tensor, Tensor], Any]
OPERATIONS: dict[str, Operation] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b.sin(),
    "divide": lambda a, b: a / (b * b + 1),
    "sin": lambda a, b: a.sin(),
    "same twice": lambda a, b: a * a.cos(),
    "split": lambda a, b: [torch.cat([part, part]) for part in a.split(2)],
    "unbind": lambda a, b: torch.stack([*a.unbind()[2:], *b.unbind()[:2]]),
    "svd": unused_parts,
    "max": lambda a, b: torch.stack([a.view(2, 2).max(dim=0).values] * 2).view(4),
    "view": lambda a, b: a.view(2, 2).t().reshape(4),
    "matmul": lambda a, b: (a.view(2, 2) @ b.view(2, 2).t()).tanh().view(4),
    "expand": lambda a, b: a[:1].expand(4),
    "index": lambda a, b: a[torch.tensor([0, 0, 1, 3])],
    "sort": lambda a, b: a.sort(0).values + b.argmax().double(),
    "where": lambda a, b: torch.where(a > 0, a, 0.0),
    "where detached": lambda a, b: torch.where(a > 0, a, b.detach()),
    "in place": in_place,
    "in place of a result": lambda a, b: (a * 1).mul_(b.sin()),
    "detach": lambda a, b: a * b.detach().sin(),
    "no_grad": lambda a, b: without_gradient(b) + a,
    "item": lambda a, b: a * a.max().item() + float(b[0].detach()),
    "dropout": lambda a, b: torch.dropout(a, 0.5, True),
    "custom": lambda a, b: Double.apply(a),
    "pair": lambda a, b: [part.sin() for part in Pair.apply(a, 3, b)[::2]],
    "silent": lambda a, b: Silent.apply(a, b),
    "writes in place": lambda a, b: WritesInPlace.apply(a.sin()),
    "dirty": lambda a, b: Dirty.apply(a * 1),
    "with setup": lambda a, b: WithSetup.apply(a),
    "leaf": lambda a, b: torch.linspace(-1, 1, 4, dtype=a.dtype).requires_grad_(),
    "checkpoint": lambda a, b: checkpoint(lambda t: (t * t).sin(), a, use_reentrant=False),
    "reentrant": lambda a, b: checkpoint(lambda t: (t * t).sin(), a, use_reentrant=True),
    "hooks": through_hooks,
    "double backward": lambda a, b: torch.autograd.grad((a * a * b).sum(), a, create_graph=True)[0],
    **{f"loop {n}": lambda a, b, n=n: loop(a, b, n) for n in range(7)},
}


# ---- programs


def set_seed(seed: int) -> None:
    """Random numbers on the CPU begin as after ``torch.manual_seed``.

    That notes the whole stack for each kind of device that is not there: 2 ms in a test.
    """
    torch.default_generator.manual_seed(seed)


def programs(
    operations: Sequence[str] = tuple(OPERATIONS), min_size: int = 1, max_size: int = 12
) -> st.SearchStrategy[list[Step]]:
    """Programs of some operations, in so many steps."""
    step = st.tuples(st.sampled_from(sorted(operations)), st.integers(0, 99), st.integers(0, 99))
    return st.lists(step, min_size=min_size, max_size=max_size)


def run(
    program: Sequence[Step],
    tensors: Sequence[Tensor],
    operations: Mapping[str, Operation] = OPERATIONS,
) -> list[Tensor]:
    """The tensors that a program begins with, and after them all that it makes.

    A step counts its two tensors from the last that was made, so that most of them are used.
    """
    made = list(tensors)
    for name, i, j in program:
        result = operations[name](made[-1 - i % len(made)], made[-1 - j % len(made)])
        made += result if isinstance(result, list | tuple) else [result]
    return made
