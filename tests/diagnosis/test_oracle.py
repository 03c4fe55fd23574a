"""``diagnose`` against what really happens: random programs, each diagnosed and then run backward.

What nobody can tell from a graph is listed in the docstring of ``diagnose``; here those cases are
told apart by the kind of their error and the Nodes of their graph, and counted.
"""

import random
import re
import traceback
import warnings
from collections import Counter

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from companion import Graph, diagnose, explain
from companion.graph.saved import peek
from tests.programs import GivesNone, GivesTwo, Halves, Once, Square, Unused, set_seed
from tests.slices import examples

PROGRAMS = examples(6000)
CHUNKS = 12  # tests


def doubled(gradient):
    """A hook. The gradient of an output that nobody used is None."""
    return gradient * 2


class Program:
    """One random program: it runs as it is made, and refused steps are left out."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        set_seed(seed)
        self.pool = [self.leaf() for _ in range(self.random.randint(1, 3))]
        self.inputs = list(self.pool)
        for _ in range(self.random.randint(2, 9)):
            self.step()
        try:
            self.output = self.end()
        except RuntimeError:  # a view that nobody may use any more
            self.output = self.pool[-1]
        chosen = [t for t in self.inputs if self.random.random() < 0.7]
        extra = [t for t in self.pool if self.random.random() < 0.06]
        self.inputs = chosen + extra

    def leaf(self):
        shape = self.random.choice([(), (3,), (2, 3), (2, 3)])
        leaf = torch.rand(shape, dtype=torch.float64) + 0.5
        if self.random.random() < 0.05:
            return leaf.long()
        return leaf.requires_grad_(self.random.random() < 0.9)

    def pick(self):
        return self.random.choice(self.pool[-4:] if self.random.random() < 0.7 else self.pool)

    def step(self) -> None:
        kinds = [
            *[self.unary] * 6,
            *[self.binary] * 6,
            *[self.view] * 3,
            *[self.in_place] * 4,
            *[self.cut] * 2,
            self.custom,
            self.custom,
            self.flags,
            self.backward_before,
            *[self.second_order] * 3,
            self.reassign,
            self.rare,
        ]
        kind = self.random.choice(kinds)
        try:
            kind()
        except (RuntimeError, TypeError, IndexError, NotImplementedError, ValueError) as error:
            self.lines.append(f"# {kind.__name__}: {error}"[:90])
        else:
            self.lines.append(kind.__name__)

    def unary(self) -> None:
        f = self.random.choice(
            [torch.exp, torch.sin, torch.tanh, torch.sigmoid, torch.relu, torch.round, torch.sign]
            + [torch.square, torch.neg, torch.clone, torch.abs, lambda t: t * 2, lambda t: t + 1]
            + [lambda t: t**3, lambda t: (t * t + 1).sqrt(), lambda t: t.sum(), lambda t: t.mean()]
            + [lambda t: t.float().double(), lambda t: t.cumsum(-1), lambda t: t.softmax(-1)]
            + [lambda t: t.max(), lambda t: t.max(-1).values, lambda t: t.sort(-1).values]
        )
        self.pool.append(f(self.pick()))

    def binary(self) -> None:
        f = self.random.choice(
            [torch.add, torch.mul, torch.sub, torch.div, torch.maximum, torch.atan2]
            + [lambda a, b: torch.where(a > b, a, b), lambda a, b: torch.stack([a, b]).sum(0)]
            + [lambda a, b: (a * b).sum(), lambda a, b: torch.cat([a.view(-1), b.view(-1)])]
        )
        self.pool.append(f(self.pick(), self.pick()))

    def view(self) -> None:
        f = self.random.choice(
            [lambda t: t[0], lambda t: t.view(-1), lambda t: t.T, lambda t: t.expand(2, *t.shape)]
            + [lambda t: t.split(1)[self.random.randrange(2)], lambda t: t.unbind()[0]]
            + [lambda t: t[..., 1:], lambda t: t[t > 0.7], lambda t: t.view_as(t)]
        )
        self.pool.append(f(self.pick()))

    def in_place(self) -> None:
        t, other = self.pick(), self.pick()
        choice = self.random.randrange(8)
        if choice == 0:
            t.add_(1)
        elif choice == 1:
            t.mul_(other)
        elif choice == 2:
            t[0] = other if other.dim() < t.dim() else 1.0
        elif choice == 3:
            t.exp_()
        elif choice == 4:
            with torch.no_grad():
                t.add_(1)
        elif choice == 5:
            t[..., 0] += 1
        elif choice == 6:
            t.zero_()
        else:
            t.detach().add_(1)

    def cut(self) -> None:
        t = self.pick()
        choice = self.random.randrange(9)
        if choice == 0:
            t = t.detach()
        elif choice == 1:
            t = t.data
        elif choice == 2:
            with torch.no_grad():
                t = t * 2
        elif choice == 3:
            with torch.inference_mode():
                t = t * 2
        elif choice == 4:
            t = t.long().double()
        elif choice == 5:
            t = (t > 0.7).double()
        elif choice == 6:
            t = torch.tensor(t.tolist(), dtype=torch.float64)
        elif choice == 7:
            t = t.argmax()
        else:
            t.detach_()
            return
        self.pool.append(t)

    def custom(self) -> None:
        bad = [GivesNone, GivesTwo] if self.random.random() < 0.1 else []
        f = self.random.choice([Square, Square, Halves, Unused, Once, Once, *bad])
        if f is Halves:
            self.pool += f.apply(self.pick(), self.pick())[self.random.randrange(2) :]
        else:
            self.pool.append(f.apply(self.pick()))

    def flags(self) -> None:
        t = self.pick()
        choice = self.random.randrange(4)
        if choice == 0:
            t.requires_grad_()
            if t.is_leaf:
                self.inputs.append(t)
        elif choice == 1:
            t.requires_grad_(False)
        elif choice == 2:
            t.retain_grad()
            self.inputs.append(t)
        elif t.grad_fn is not None:  # on a leaf that is a view torch 2.13 ends the process
            t.register_hook(doubled)

    def backward_before(self) -> None:
        t = self.pick()
        keep = self.random.random() < 0.3
        t.sum().backward(retain_graph=keep)

    def second_order(self) -> None:
        y = self.pick()
        leaves = [t for t in self.inputs if t.requires_grad]
        g = torch.autograd.grad(
            y.sum(),
            self.random.choice(leaves or self.pool),
            create_graph=self.random.random() < 0.8,
            grad_outputs=torch.ones((), dtype=torch.float64, requires_grad=True),
        )
        self.pool.append(g[0])

    def reassign(self) -> None:
        index = self.random.randrange(len(self.inputs))
        old = self.inputs[index]
        new = old.detach().clone().requires_grad_()
        self.pool.append(new)
        if self.random.random() < 0.5:
            self.inputs[index] = new

    def rare(self) -> None:
        t = self.pick()
        choice = self.random.randrange(6)
        if choice == 0:
            self.pool.append(torch.special.gammainc(t, t + 1))
        elif choice == 1:
            self.pool.append(torch.floor_divide(t, 2.0))
        elif choice == 2:
            self.pool.append(torch.special.zeta(2.0, t + 1))
        elif choice == 3:
            with torch.autograd.graph.saved_tensors_hooks(lambda s: s, lambda s: s):
                self.pool.append(t.exp())
        elif choice == 4:
            self.pool.append(checkpoint(lambda s: s.exp() * s, t, use_reentrant=False))
        else:
            self.pool.append(torch.view_as_real(torch.complex(t, t)))

    def end(self):
        t = self.random.choice(self.pool[-3:])
        choice = self.random.random()
        if choice < 0.04:
            return t
        if choice < 0.06:
            return torch.complex(t.double(), t.double()).sum()
        if choice < 0.2:
            return t.sum()
        # Most of what was computed goes into the output.
        used = [
            tensor for tensor in self.pool if tensor.requires_grad and self.random.random() < 0.8
        ]
        return sum((tensor.sum() for tensor in used), t.sum())


# What explain says of an output without a graph, from the output itself.
WHY_NO_GRAPH = {"not-differentiable", "inference-mode", "inside-transform"}
LEAVES_NONE = {"unused-input", "reassigned", "late-requires-grad", "not-a-leaf", "leaf-output"}
LEAVES_NONE |= {"multi-view-in-place", "input-without-grad", "integer-tensor", "inference-tensor"}


INSIDE = {"freed", "modified-in-place", "not-implemented"}


def happened(output, inputs) -> BaseException | bool:
    """The error of backward, or whether every input got a gradient."""
    for tensor in inputs:
        tensor.grad = None
    try:
        output.backward()
    except Exception as error:
        return error
    return all(tensor.grad is not None for tensor in inputs)


def untold(graph: Graph | None, hooked: bool, inputs, result) -> str | None:
    """Which of the things that no graph tells explains the result; None if none does."""
    if graph is None:
        return None
    names = {node.name for node in graph.nodes}
    explained = explain(result) if isinstance(result, Exception) else None
    code = explained.code if explained else ""
    if "GivesTwoBackward" in names and code == "custom-gradients":
        return "a custom Function gave gradients of a wrong number"
    if "GivesNoneBackward" in names and (result is False or isinstance(result, TypeError)):
        return "a custom Function gave None"
    if isinstance(result, TypeError) and raised_in(result) == "doubled":
        return "a hook raised"
    if re.search("storage_offset|last dimension with stride", str(result)):
        return "how a gradient lies in memory"
    if "CopySlices" in names and (code in INSIDE or "written-to tensor" in str(result)):
        return "inside a CopySlices"
    if result is False and any(t.retains_grad and not t.requires_grad for t in inputs):
        return "detached in place after retain_grad()"
    if hooked and code in {"freed", "modified-in-place", "checkpoint"}:
        return "saved through hooks"
    return None


def raised_in(error: BaseException) -> str:
    """The name of the function that an error came from."""
    return traceback.extract_tb(error.__traceback__)[-1].name


def graph_of(output) -> Graph | None:
    try:
        return Graph.of(output)
    except (ValueError, RuntimeError):
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_diagnose_tells_what_backward_does(chunk, record_property):
    table = Counter()
    for seed in range(chunk, PROGRAMS, CHUNKS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = Program(seed)
        output, inputs = program.output, program.inputs
        diagnosis, graph = diagnose(output, *inputs), graph_of(output)
        hooked = graph is not None and any(peek(node.grad_fn).hooked for node in graph.nodes)
        result = happened(output, inputs)
        trouble = f"seed {seed}: {program.lines}\ntold: {diagnosis!r}\nhappened: {result!r}"
        errors = {found.code for found in diagnosis if found.severity == "error"}
        if isinstance(result, Exception):
            explained = explain(result)
            kind = explained.code if explained else type(result).__name__
            right = kind in errors or ("no-graph" in errors and kind in WHY_NO_GRAPH)
        elif result is False:
            kind = "a gradient is None"
            right = bool(errors) and errors <= LEAVES_NONE
        else:
            kind, right = "ok", not errors
        if not right:
            why = untold(graph, hooked, inputs, result)
            assert why, trouble
            kind = f"not told: {why}"
        assert diagnosis.ok is not bool(errors), trouble
        table[kind] += 1
    for kind, count in table.items():
        record_property(kind, count)
