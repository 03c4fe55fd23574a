"""``diagnose`` against what really happens: random programs, each diagnosed and then run backward.

What nobody can tell from a graph is listed in the docstring of ``diagnose``; here those cases are
told apart by the kind of their error and the Nodes of their graph, and counted.
"""

import functools
import random
import re
import traceback
from collections import Counter

import pytest
import torch
from torch.utils.checkpoint import CheckpointError, checkpoint

from companion import Graph, diagnose, explain
from companion.graph.saved import peek
from tests.programs import (
    Double,
    GivesNone,
    GivesTwo,
    Halves,
    Once,
    Square,
    run,
    seeded,
)

PROGRAMS = 6000
CHUNKS = 12  # tests, so that several processes can share them


# ---- operations: each makes tensors from two, or changes one; what torch refuses is left out

UNARY = [torch.exp, torch.sin, torch.tanh, torch.sigmoid, torch.relu, torch.round, torch.sign]
UNARY += [torch.square, torch.neg, torch.clone, torch.abs, lambda a: a * 2, lambda a: a + 1]
UNARY += [lambda a: a**3, lambda a: (a * a + 1).sqrt(), lambda a: a.sum(), lambda a: a.mean()]
UNARY += [lambda a: a.float().double(), lambda a: a.cumsum(-1), lambda a: a.softmax(-1)]
UNARY += [lambda a: a.max(), lambda a: a.max(-1).values, lambda a: a.sort(-1).values]
BINARY = [torch.add, torch.mul, torch.sub, torch.div, torch.maximum, torch.atan2]
BINARY += [lambda a, b: torch.where(a > b, a, b), lambda a, b: torch.stack([a, b]).sum(0)]
BINARY += [lambda a, b: (a * b).sum(), lambda a, b: torch.cat([a.view(-1), b.view(-1)])]
VIEWS = [lambda a: a[0], lambda a: a.view(-1), lambda a: a.T, lambda a: a.expand(2, *a.shape)]
VIEWS += [lambda a: a.split(1)[0], lambda a: a.split(1)[1], lambda a: a.unbind()[0]]
VIEWS += [lambda a: a[..., 1:], lambda a: a[a > 0.7], lambda a: a.view_as(a)]
IN_PLACE = [
    lambda a, b: a.add_(1),
    lambda a, b: a.mul_(b),
    lambda a, b: a.__setitem__(0, b if b.dim() < a.dim() else 1.0),
    lambda a, b: a.exp_(),
    torch.no_grad()(lambda a, b: a.add_(1)),
    lambda a, b: a.__setitem__((..., 0), a[..., 0] + 1),
    lambda a, b: a.zero_(),
    lambda a, b: a.detach().add_(1),
]
CUTS = [
    lambda a: a.detach(),
    lambda a: a.data,
    torch.no_grad()(lambda a: a * 2),
    torch.inference_mode()(lambda a: a * 2),
    lambda a: a.long().double(),
    lambda a: (a > 0.7).double(),
    lambda a: torch.tensor(a.tolist(), dtype=torch.float64),
    lambda a: a.argmax(),
    lambda a: a.detach_(),
]
FLAGS = [
    lambda a, b: a.requires_grad_(),
    lambda a, b: a.requires_grad_(False),
    lambda a, b: a.retain_grad(),
    # On a leaf that is a view torch 2.13 ends the process.
    lambda a, b: a.grad_fn is not None and a.register_hook(doubled),
]
BACKWARD = [lambda a, b: a.sum().backward()] * 7
BACKWARD += [lambda a, b: a.sum().backward(retain_graph=True)] * 3


def doubled(gradient):
    """A hook. The gradient of an output that nobody used is None."""
    return gradient * 2


def slope(a, create_graph):
    """The derivative by the first leaf below."""
    fn = a.grad_fn
    while fn is not None and not hasattr(fn, "variable"):
        fn = next((child for child, _ in fn.next_functions if child), None)
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    leaf = a if fn is None else fn.variable
    return torch.autograd.grad(a.sum(), leaf, create_graph=create_graph, grad_outputs=one)[0]


def with_hooks(a):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return a.exp()


RARE = [
    lambda a: torch.special.gammainc(a, a + 1),
    lambda a: torch.floor_divide(a, 2.0),
    lambda a: torch.special.zeta(2.0, a + 1),
    with_hooks,
    lambda a: checkpoint(lambda t: t.exp() * t, a, use_reentrant=False),
    lambda a: torch.view_as_real(torch.complex(a, a)),
]
CUSTOM = [Square.apply] * 12 + [Double.apply] * 6 + [Once.apply] * 12
CUSTOM += [GivesNone.apply, GivesTwo.apply]
SLOPES = [functools.partial(slope, create_graph=True)] * 4
SLOPES += [functools.partial(slope, create_graph=False)]


def of_one(function):
    return lambda a, b: [function(a)]


def of_two(function):
    return lambda a, b: [function(a, b)]


def changing(function):
    return lambda a, b: [function(a, b)][:0]


# How often each kind comes, and its operations.
KINDS = {
    "unary": (12, map(of_one, UNARY)),
    "binary": (12, map(of_two, BINARY)),
    "view": (6, map(of_one, VIEWS)),
    "in place": (8, map(changing, IN_PLACE)),
    "cut": (4, map(of_one, CUTS)),
    "custom": (3, map(of_one, CUSTOM)),
    "custom, of two": (1, [Halves.apply, lambda a, b: Halves.apply(a, b)[1:]]),
    "flag": (2, map(changing, FLAGS)),
    "backward": (2, map(changing, BACKWARD)),
    "second order": (6, map(of_one, SLOPES)),
    "reassigned": (2, [lambda a, b: [a.detach().clone().requires_grad_()]]),
    "rare": (2, map(of_one, RARE)),
}
OPERATIONS, OFTEN = {}, {}
for kind, (often, functions) in KINDS.items():
    named = {f"{kind} {i}": function for i, function in enumerate(functions)}
    OPERATIONS |= named
    OFTEN |= dict.fromkeys(named, often / len(named))
REFUSED = (RuntimeError, TypeError, IndexError, NotImplementedError, ValueError)


def random_leaf(chance):
    leaf = torch.rand(chance.choice([(), (3,), (2, 3), (2, 3)]), dtype=torch.float64) + 0.5
    if chance.random() < 0.05:
        return leaf.long()
    return leaf.requires_grad_(chance.random() < 0.9)


def random_output(chance, tensors):
    tensor, kind = chance.choice(tensors[-3:]), chance.random()
    if kind < 0.04:
        return tensor
    if kind < 0.06:
        return torch.complex(tensor.double(), tensor.double()).sum()
    if kind < 0.2:
        return tensor.sum()
    # Most of what was computed goes into the output.
    used = [t for t in tensors if t.requires_grad and chance.random() < 0.8]
    return sum((t.sum() for t in used), tensor.sum())


def gets_a_gradient(tensor):
    try:
        return tensor.requires_grad and (tensor.is_leaf or tensor.retains_grad)
    except RuntimeError:  # such a view
        return False


def random_program(seed):
    """A program that has run: its steps, its output, and inputs that it may have used."""
    chance = random.Random(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every device
    leaves = [random_leaf(chance) for _ in range(chance.randint(1, 3))]
    program = seeded(chance, OFTEN, chance.randint(2, 9))
    tensors = run(program, leaves, OPERATIONS, REFUSED)
    try:
        output = random_output(chance, tensors)
    except RuntimeError:  # a view that nobody may use any more
        output = tensors[-1]
    inputs = leaves + [t for t in tensors[len(leaves) :] if gets_a_gradient(t)]
    extra = [t for t in tensors if chance.random() < 0.06]
    return program, output, [t for t in inputs if chance.random() < 0.7] + extra


LEAVES_NONE = {"unused-input", "reassigned", "late-requires-grad", "not-a-leaf", "leaf-output"}
LEAVES_NONE |= {"multi-view-in-place", "input-without-grad", "integer-tensor", "inference-tensor"}


INSIDE = {"freed", "modified-in-place", "not-implemented"}


def happened(output, inputs) -> BaseException | bool:
    """The error of backward, or whether every input got a gradient."""
    for one in inputs:
        one.grad = None
    try:
        output.backward()
    except Exception as error:
        return error
    return all(one.grad is not None for one in inputs)


def untold(graph: Graph | None, hooked: bool, result) -> str | None:
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
    if hooked and (code in {"freed", "modified-in-place"} or isinstance(result, CheckpointError)):
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
        program, output, inputs = random_program(seed)
        told, graph = diagnose(output, *inputs), graph_of(output)
        hooked = graph is not None and any(peek(node.grad_fn).hooked for node in graph.nodes)
        result = happened(output, inputs)
        trouble = f"seed {seed}: {program}\ntold: {told!r}\nhappened: {result!r}"
        errors = {one.code for one in told if one.severity == "error"}
        if isinstance(result, Exception):
            explained = explain(result)
            kind = explained.code if explained else type(result).__name__
            right = kind in errors
        elif result is False:
            kind = "a gradient is None"
            right = bool(errors) and errors <= LEAVES_NONE
        else:
            kind, right = "ok", not errors
        if not right:
            why = untold(graph, hooked, result)
            assert why, trouble
            kind = f"not told: {why}"
        assert told.ok is not bool(errors), trouble
        table[kind] += 1
    for kind, count in table.items():
        record_property(kind, count)
