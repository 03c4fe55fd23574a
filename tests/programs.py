"""Random programs, and custom Functions, that several tests share.

A program is a list of steps. A step names an operation and says how far back, among the tensors
made so far, its two operands stand. Hypothesis draws a program, ``run`` runs it, and a failing one
is printed as it stands.
"""

import contextlib
import random
from collections.abc import Callable, Iterable

import torch
from hypothesis import strategies as st
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Step = tuple[str, int, int]
Operation = Callable[[torch.Tensor, torch.Tensor], list[torch.Tensor]]


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
    """The square, with a derivative computed from its saved input."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a * a

    @staticmethod
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return 2 * a * gradient


class Once(Square):
    """The square, whose derivative cannot be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        return 2 * a * gradient


class GivesNone(Function):
    """The cube, with None for a derivative."""

    @staticmethod
    def forward(ctx, a):
        return a**3

    @staticmethod
    def backward(ctx, gradient):
        return None


class GivesTwo(Function):
    """It has one input and gives two gradients."""

    @staticmethod
    def forward(ctx, a):
        return a + 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


class GivesOneOfTwo(Function):
    """It gives no gradient to its first input, also where none came."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.set_materialize_grads(False)
        return a + b

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient


class Halves(Function):
    """Two outputs, and nothing saved as a tensor."""

    @staticmethod
    def forward(ctx, a, b):
        return a / 2, b / 2

    @staticmethod
    def backward(ctx, first, second):
        return first / 2, second / 2


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


class Dirty(Function):
    """It writes over its input."""

    @staticmethod
    def forward(ctx, a):
        a.mul_(2)
        ctx.mark_dirty(a)
        return a

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class WithSetup(Function):
    """Its forward knows nothing of ctx."""

    @staticmethod
    def forward(a):
        return a.sin().cos()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class WritesInPlace(Function):
    """It writes over the gradient that comes, where that can be written to."""

    @staticmethod
    def forward(ctx, a):
        return a * 1

    @staticmethod
    def backward(ctx, gradient):
        if gradient._is_view() or gradient.stride() == (0,):  # an expanded one cannot be written to
            return gradient * 3
        return gradient.mul_(3)


# ---- operations: each makes one or more tensors of four elements from two such tensors


def in_place(a, b):
    copy = a.clone()
    copy[:2].mul_(b[:2])
    copy.view(2, 2)[1] += 1
    return copy


def part_written(a, b):
    copy = a.clone()
    copy[0] = b[1]
    return copy


def unused_parts(a, b):
    u, _, v = torch.linalg.svd(a.sin().view(2, 2) + torch.diag(b[:2].tanh() + 3))
    return (u @ v).view(4)


def with_hooks(a, b):
    with saved_tensors_hooks(lambda t: t, lambda t: t):
        return a * b.sin()


def no_gradient(a):
    with torch.no_grad():
        return a.exp().clamp(max=2)


def loop(a, b, times):
    for _ in range(times):
        b = (b * a).tanh()
    return b


def slope(a, b):
    return torch.autograd.grad((a * a * b.sin()).sum(), a, create_graph=True)[0]


OPERATIONS: dict[str, Operation] = {
    "add": lambda a, b: [a + b],
    "mul": lambda a, b: [a * b.sin()],
    "div": lambda a, b: [a / (b * b + 1)],
    "sin": lambda a, b: [a.sin()],
    "same twice": lambda a, b: [a * a.cos()],
    "split": lambda a, b: [torch.cat([part, part]) for part in a.split(2)],
    "unbind": lambda a, b: [torch.stack([*a.unbind()[2:], *b.unbind()[:2]])],
    "svd": lambda a, b: [unused_parts(a, b)],
    "max": lambda a, b: [torch.stack([a.view(2, 2).max(dim=0).values] * 2).view(4)],
    "sort": lambda a, b: [a.sort().values + b.argmax() + float(b[0].detach())],
    "item": lambda a, b: [a * a.max().item()],
    "view": lambda a, b: [a.view(2, 2).t().reshape(4)],
    "matmul": lambda a, b: [(a.view(2, 2) @ b.view(2, 2).t()).tanh().view(4)],
    "expand": lambda a, b: [a[:1].expand(4)],
    "index": lambda a, b: [a[torch.tensor([0, 0, 1, 3])]],
    "where": lambda a, b: [torch.where(a > 0, a, b.detach())],
    "dropout": lambda a, b: [torch.dropout(a, 0.5, True)],
    "in place": lambda a, b: [in_place(a, b)],
    "in place of a result": lambda a, b: [(a * 1).mul_(b.sin())],
    "part written": lambda a, b: [part_written(a, b)],
    "detach": lambda a, b: [a * b.detach().sin()],
    "no_grad": lambda a, b: [no_gradient(a) + b],
    "leaf": lambda a, b: [torch.linspace(-1, 1, 4, dtype=a.dtype).requires_grad_()],
    "custom": lambda a, b: [Double.apply(a)],
    "custom pair": lambda a, b: [part.sin() for part in Pair.apply(a, 3, b)[::2]],
    "custom, gives one of two": lambda a, b: [GivesOneOfTwo.apply(a, b)],
    "custom, writes in place": lambda a, b: [WritesInPlace.apply(a.sin())],
    "custom, dirty": lambda a, b: [Dirty.apply(a * 1)],
    "custom, with setup": lambda a, b: [WithSetup.apply(a)],
    "checkpoint": lambda a, b: [checkpoint(lambda t: (t * t).sin(), a, use_reentrant=False)],
    "reentrant": lambda a, b: [checkpoint(lambda t: (t * t).sin(), a, use_reentrant=True)],
    "hooks": lambda a, b: [with_hooks(a, b)],
    "double backward": lambda a, b: [slope(a, b)],
}
LOOPS = {f"loop of {n}": lambda a, b, n=n: [loop(a, b, n)] for n in range(1, 7)}


# ---- programs


def programs(
    operations: Iterable[str], min_size: int = 1, max_size: int = 8
) -> st.SearchStrategy[list[Step]]:
    """Programs of these operations."""
    back = st.integers(0, 99)
    step = st.tuples(st.sampled_from(sorted(operations)), back, back)
    return st.lists(step, min_size=min_size, max_size=max_size)


def seeded(chance: random.Random, operations: dict[str, int], size: int) -> list[Step]:
    """A program drawn by chance, each operation as often as its number says.

    For thousands of programs: a hundred times faster than Hypothesis. Operands are often near.
    """
    names = chance.choices(list(operations), list(operations.values()), k=size)
    back = [chance.randrange(4 if chance.random() < 0.7 else 99) for _ in range(2 * size)]
    return list(zip(names, back[::2], back[1::2], strict=True))


def run(
    program: Iterable[Step],
    tensors: Iterable[torch.Tensor],
    operations: dict[str, Operation] = OPERATIONS,
    refused: tuple[type[Exception], ...] = (),
) -> list[torch.Tensor]:
    """The tensors it begins with, and after them all that it makes.

    A step that raises one of the errors that may be ``refused`` is left out.
    """
    made = list(tensors)
    for name, i, j in program:
        with contextlib.suppress(*refused):
            made += operations[name](made[-1 - i % len(made)], made[-1 - j % len(made)])
    return made
