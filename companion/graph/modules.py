"""Which module made which Node of a forward pass.

Autograd numbers the Nodes of a thread as it makes them. A hook before and a hook after the forward
of each module read the number of the next Node, and a Node belongs to the innermost call whose
numbers enclose its own.
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

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


def enclosing(call: Call | None, depth: int) -> Call | None:
    """The call around this one that lies ``depth`` calls deep; this one if it lies no deeper."""
    while call and call.depth > depth:
        call = call.outer
    return call


# The path of a module, its class if a call begins or None if it ends, the number of the next Node.
Event = tuple[str, str | None, int]


class ModuleNames(dict[str, torch.Tensor]):
    """The names of a model's parameters, and the calls of its modules. Made by ``modules``.

    Attributes:
        events: the beginnings and ends of all calls, noted while the model runs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.named_parameters())
        self.events: list[Event] = []


def calls_from(events: Iterable[Event]) -> list[Call]:
    """The calls that events report, in the order in which they began."""
    calls, open_calls = list[Call](), list[Call]()
    for path, kind, number in events:
        if kind is not None:
            outer = open_calls[-1] if open_calls else None
            call = Call(path, kind, outer, len(open_calls), number, number)
            calls.append(call)
            open_calls.append(call)
        elif any(call.path == path for call in open_calls):
            # A call inside of this one that an interrupt ended has no event for its end. It is left
            # without Nodes.
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
    innermost_calls: list[Call | None] = [None] * len(numbers)
    begun, open_calls = 0, list[Call]()
    for number, i in sorted((number, i) for i, number in enumerate(numbers)):
        while begun < len(calls) and calls[begun].start <= number:
            open_calls.append(calls[begun])
            begun += 1
        while open_calls and open_calls[-1].end <= number:
            open_calls.pop()
        if open_calls:  # calls nest, so the last of them is the innermost
            innermost_calls[i] = open_calls[-1]
    return innermost_calls


@contextmanager
def modules(model: nn.Module) -> Iterator[ModuleNames]:
    """Note which module makes which Node while a model runs, for drawings that show modules.

    It gives the names of ``model.named_parameters()``. Handed to ``draw`` or ``Graph.of`` they name
    the leaves, and say for each Node which module made it; a graph with too many Nodes is then
    drawn module by module. The model computes what it always computes.

    It sees calls of the model and its submodules in this thread, by hooks that end with the block.
    A Node made in another thread may be attributed to a wrong module, since each thread counts by
    itself. A Node that torch makes late, for a view that was changed in place, goes to the module
    that looks at it first. The inside of compiled and scripted modules is not seen, nor what a
    reentrant ``torch.utils.checkpoint`` hides. A module with several paths goes by the first.
    While the block runs the model cannot be pickled, because of its hooks; a deep copy made in it
    has none afterwards, and its calls are not seen.

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
    blank = _Blank()

    def note(path: str, kind: str | None) -> None:
        if threading.get_ident() == thread:
            names.events.append((path, kind, next_number()))

    def enter(path: str, module: nn.Module) -> None:
        note(path, type(module).__name__)

    def leave(path: str, _: nn.Module) -> None:
        note(path, None)

    with ExitStack() as hooks:
        for path, module in _python_modules(model):
            # The first comes before the user's own, which may raise; the second after an error too.
            before, after = _Hook(partial(enter, path), blank), _Hook(partial(leave, path), blank)
            first = module.register_forward_pre_hook(before, prepend=True)
            hooks.callback(first.remove)
            last = module.register_forward_hook(after, always_call=True)
            hooks.callback(last.remove)
        hooks.callback(blank.remove)
        yield names


class _Blank:
    """What a copy of a module gets in place of a hook: it does nothing, and goes with the block."""

    def __init__(self) -> None:
        self.copied = False

    def __call__(self, *_: object) -> None:
        """Note nothing."""

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def remove(self) -> None:
        """Take it out of the hooks of all copies, which nobody has listed."""
        for holder in gc.get_referrers(self) if self.copied else ():
            if isinstance(holder, OrderedDict):
                for key in [key for key, hook in holder.items() if hook is self]:
                    del holder[key]


@dataclass(slots=True, eq=False)
class _Hook:
    """A hook on a module, which a deep copy of the module does not get."""

    note: Callable[[nn.Module], None]
    blank: _Blank

    def __call__(self, module: nn.Module, *_: object) -> None:
        self.note(module)

    def __deepcopy__(self, memo: object) -> _Blank:
        self.blank.copied = True
        return self.blank


def _python_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that Python calls; hooks would change what is compiled, and scripts have none."""
    compiled: tuple[str, ...] = ()  # how the paths inside of compiled modules begin
    for path, module in model.named_modules():
        if path.startswith(compiled) or isinstance(module, torch.jit.ScriptModule):
            continue
        if is_compiled(module):
            compiled += (f"{path}." if path else "",)
        else:
            yield path, module
