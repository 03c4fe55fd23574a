"""Which module made which Node: the calls of a forward pass, told apart by sequence numbers.

Autograd numbers the Nodes of a thread as it makes them. A hook before and a hook after the forward
of each module read the number of the next Node, and a Node belongs to the innermost call whose
numbers enclose its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from companion.internals import is_compiled, next_number


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        path: where the module is in the model, as in ``named_modules``; ``""`` is the model.
        kind: the class of the module.
        outer: the call inside which it was made; None for the outermost.
        depth: how many calls are around it.
        start: the sequence number of the first Node made in it.
        end: the sequence number of the first Node made after it.
    """

    path: str
    kind: str
    outer: Call | None
    depth: int
    start: int
    end: int


# The path of a module, its class where a call begins and None where it ends, and the number of the
# next Node.
Event = tuple[str, str | None, int]


class ModuleNames(dict[str, torch.Tensor]):
    """The names of a model's parameters, and the calls of its modules. Made by ``modules``.

    Attributes:
        events: the beginnings and ends of all calls, which is what is noted while the model runs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.named_parameters())
        self.events: list[Event] = []


def calls_from(events: Iterable[Event]) -> list[Call]:
    """Every call that events tell of, in the order in which it began."""
    calls, open_calls = list[Call](), list[Call]()
    for path, kind, number in events:
        if kind is not None:
            outer = open_calls[-1] if open_calls else None
            call = Call(path, kind, outer, len(open_calls), number, number)
            calls.append(call)
            open_calls.append(call)
        elif any(call.path == path for call in open_calls):
            # A call inside of it that an interrupt ended has no end; it is left empty.
            while (call := open_calls.pop()).path != path:
                pass
            call.end = number
    return calls


def innermost(calls: Sequence[Call], numbers: Sequence[int]) -> list[Call | None]:
    """For each sequence number the innermost call that made the Node of that number.

    Args:
        calls: of one thread, in the order in which they began.
        numbers: sequence numbers of Nodes.
    """
    found: list[Call | None] = [None] * len(numbers)
    begun, around = 0, list[Call]()
    for number, place in sorted((number, place) for place, number in enumerate(numbers)):
        while begun < len(calls) and calls[begun].start <= number:
            around.append(calls[begun])
            begun += 1
        while around and around[-1].end <= number:
            around.pop()
        if around:  # calls nest, so of those that go on the last to begin is the innermost
            found[place] = around[-1]
    return found


@contextmanager
def modules(model: nn.Module) -> Iterator[ModuleNames]:
    """Note which module makes which Node while a model runs, for drawings that show modules.

    The names that it gives are those of ``model.named_parameters()``. Handed to ``draw`` or
    ``Graph.of`` they name the leaves, and tell for each Node the module that made it; a graph with
    too many Nodes is then drawn module by module. The model computes what it always computes.

    It sees calls of the model and its submodules in this thread, by hooks that end with the block.
    A Node made in another thread may be attributed wrongly, since each thread counts by itself, and
    a Node that torch makes late, for a view that was changed in place, goes to whoever looks at it
    first. Of compiled and scripted modules the inside is not seen, nor what a reentrant
    ``torch.utils.checkpoint`` hides. A module that stands at several places goes by the first.
    While the block runs the model cannot be pickled, because of its hooks.

    Args:
        model: the module whose forward will run in the block, once or several times.

    Yields:
        The names, to be passed on as ``names=`` once the forward has run.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
        >>> with modules(model) as names:
        ...     loss = model(torch.ones(4, 2)).sum()
        >>> list(names)
        ['0.weight', '0.bias']
        >>> from companion import Graph
        >>> [(node.name, node.module) for node in Graph.of(loss, names=names).nodes[:3]]
        [('SumBackward0', None), ('TanhBackward0', '1'), ('AddmmBackward0', '0')]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    names = ModuleNames(model)
    thread = threading.get_ident()
    over = False  # for hooks on a copy of the model, which stay
    note = names.events.append

    def follow(path: str, module: nn.Module, hooks: ExitStack) -> None:
        def enter(*_: object) -> None:
            if not over and threading.get_ident() == thread:
                note((path, type(module).__name__, next_number()))

        def leave(*_: object) -> None:
            if not over and threading.get_ident() == thread:
                note((path, None, next_number()))

        # Before the user's own, which may raise; and after an error as well.
        hooks.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
        hooks.callback(module.register_forward_hook(leave, always_call=True).remove)

    with ExitStack() as hooks:
        for path, module in _python_modules(model):
            follow(path, module, hooks)
        try:
            yield names
        finally:
            over = True


def _python_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that Python calls; hooks would change what is compiled, and scripts have none."""
    closed: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}." if outer else "") for outer in closed)
        if inside or isinstance(module, torch.jit.ScriptModule):
            continue
        if is_compiled(module):
            closed.append(path)
            continue
        yield path, module
