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
from tests.programs import GivesNone, GivesTwo, Halves, Once, Square, Unused

PROGRAMS = 6000
CHUNKS = 12  # tests, so that several processes can share them


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


    def reassign(self) -> None:
        index = self.random.randrange(len(self.inputs))
        old = self.inputs[index]
        new = old.detach().clone().requires_grad_()
        self.pool.append(new)
        if self.random.random() < 0.5:
            self.inputs[index] = new


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
        assert diagnosis.ok is not bool(errors), trouble
        table[kind] += 1
    for kind, count in table.items():
        record_property(kind, count)
