"""Hooks on the Nodes of a graph write down what each was given, and what it passed on."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from time import perf_counter
from typing import Any

from torch.autograd.function import BackwardCFunction

from companion.backward.copies import (
    Copied,
    Gradients,
    Tensor,
    copied,
    copied_if_large,
    copies_of,
    copy_of,
    lazy_copies_of,
)
from companion.graph.reading import Graph
from companion.graph.saved import peek
from companion.internals import (
    Node,
    end_sharing,
    has_dispatch_mode,
    has_memory,
    is_of_torch_in_cpp,
    is_shared_lazily,
    next_number,
    running_pass,
    version_of,
)

Hook = Callable[..., None]


@dataclass(slots=True)
class Log:
    """What the hooks wrote down. All tensors are copies without a graph.

    Attributes:
        ran: Node after Node, its index.
        gradients: for each of ``ran``, what it was given, and behind it what it passed on.
        entered: what a Node was given that did not come to its end.
        grads: of leaves, the ``.grad`` before and after; before alone if what the leaf was given
            was added to it, and nothing else happened.
        saved: what Nodes had saved; None where a look at it would run hooks.
        numbers: the next sequence number before and after each Node, under ``create_graph``.
        times: for each of ``ran``, how many seconds the Node ran.
    """

    ran: list[int] = field(default_factory=list)
    gradients: list[list[Tensor | None]] = field(default_factory=list)
    entered: dict[int, list[Tensor | None]] = field(default_factory=dict)
    grads: dict[int, Gradients] = field(default_factory=dict)
    saved: dict[int, dict[str, Any] | None] = field(default_factory=dict)
    numbers: list[tuple[int, int]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        for each in fields(self):
            getattr(self, each.name).clear()


class Hooks:
    """The hooks of one backward pass: one after each Node, and one before some.

    Attributes:
        log: what they wrote down.
    """

    def __init__(self, graph: Graph) -> None:
        self.log = Log()
        self._fns = graph._fns
        # Not graph.leaves, which makes an object for each Node.
        self._leaves: dict[int, Tensor] = {
            i: fn.variable
            for i, fn in enumerate(graph._fns)
            if type(fn).__name__ == "AccumulateGrad"
        }
        # Another pass may run over the same Nodes meanwhile, in another thread or begun by a hook.
        # This one begins with the root, in this thread. A pass that a hook on the root began comes
        # to the root before it, and has a higher number.
        self._thread, self._pass = threading.get_ident(), sys.maxsize
        self._began = 0.0  # when the last hook of this pass was done

    @contextmanager
    def attached(self) -> Iterator[None]:
        """In this block the hooks are on the Nodes."""
        handles = list[Any]()
        pairs, leave = self._pairs(), self._leave
        try:
            for i, fn in enumerate(self._fns):
                if i in pairs:
                    before, after = pairs[i]
                    handles.append(fn.register_prehook(before))
                    handles.append(fn.register_hook(after))
                else:
                    handles.append(fn.register_hook(partial(leave, i)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _pairs(self) -> dict[int, tuple[Hook, Hook]]:
        """For each Node that gets a hook before it too, both its hooks. They take twice as long."""
        raise NotImplementedError

    def _leave(self, i: int, grad_inputs: Gradients, grad_outputs: Gradients) -> None:
        """The hook after any other Node."""
        raise NotImplementedError

    def _is_recorded(self, i: int) -> bool:
        """Whether the pass that comes to a Node is the one to record, which it may begin now."""
        number = running_pass()
        if number != self._pass:
            if i > 0 or number > self._pass or threading.get_ident() != self._thread:
                return False
            self._pass = number
            self.log.clear()
        return True


class CopyingHooks(Hooks):
    """Hooks that copy at once. They suit every pass.

    In detail each Node is looked at before it runs, and each copy is a new one, in case that a hook
    of the user's writes where no version counter notices.
    """

    def __init__(self, graph: Graph, create_graph: bool, detailed: bool) -> None:
        super().__init__(graph)
        self._create_graph, self._detailed = create_graph, detailed
        self._targets, self._first = graph._target, graph._first
        self._entering = Counter(graph._target)  # how many edges enter a Node
        self._under_way: dict[int, Copied] = {}  # by Node: what its only edge brings
        self._came: dict[int, int | None] = {}  # by leaf: the version of a large gradient

    def _pairs(self) -> dict[int, tuple[Hook, Hook]]:
        nodes = list(range(len(self._fns)))
        if not (self._detailed or self._create_graph):
            # A custom Function may write into what it is given.
            functions = [i for i in nodes if isinstance(self._fns[i], BackwardCFunction)]
            nodes = [0, *self._leaves, *functions]
        return {i: (partial(self._enter, i), partial(self._leave, i)) for i in nodes}

    def _enter(self, i: int, grad_outputs: Gradients) -> None:
        """The hook before a Node."""
        if not self._is_recorded(i):
            return
        given = self._arrived(i, grad_outputs)
        self.log.entered[i] = [*given]
        if i in self._leaves:
            self.log.grads[i] = copies_of((self._leaves[i].grad,), True)
            # Of the gradient its version alone: the engine takes it for .grad if nobody holds it.
            known = self._reusable(grad_outputs[0], given[0])
            self._came[i] = known.version if known else None
        elif self._detailed:
            self.log.saved[i] = saved_values(self._fns[i])
        if self._create_graph:
            self.log.numbers.append((next_number(), sys.maxsize))
        self._began = perf_counter()

    def _leave(self, i: int, grad_inputs: Gradients, grad_outputs: Gradients) -> None:
        ended = perf_counter()
        if running_pass() != self._pass:
            return
        log = self.log
        if i in log.entered:
            given = tuple(log.entered.pop(i))
            passed_on = copies_of(grad_inputs, self._create_graph)
        else:  # a Node that does not write into what it is given
            given = self._arrived(i, grad_outputs)
            known = self._reusable(grad_outputs[0], given[0])
            passed_on = copies_of(grad_inputs, self._create_graph, known)
        log.ran.append(i)
        log.gradients.append([*given, *passed_on])
        log.times.append(ended - self._began)
        if i in self._leaves:
            known = self._reusable(grad_outputs[0], given[0])
            if known and known.version != self._came[i]:
                known = None
            log.grads[i] += copies_of((self._leaves[i].grad,), True, known)
        if self._create_graph:
            log.numbers[-1] = log.numbers[-1][0], next_number()
        if not self._detailed:
            self._send(i, grad_inputs, passed_on)
        self._began = perf_counter()

    def _arrived(self, i: int, gradients: Gradients) -> Gradients:
        """Copies of what came to a Node: those made when it was sent, if nothing changed it."""
        known = self._under_way.pop(i, None)
        if known and len(gradients) == 1 and gradients[0] is known.tensor and known.is_current():
            return (known.copy,)
        return copies_of(gradients, self._create_graph)

    def _reusable(self, tensor: Tensor | None, copy: Tensor | None) -> Copied | None:
        return None if self._detailed else copied_if_large(tensor, copy)

    def _send(self, i: int, gradients: Gradients, copies: Gradients) -> None:
        """Keep the copy of each gradient that goes along the only edge into a Node."""
        slot = self._first[i]
        for gradient, copy in zip(gradients, copies, strict=True):
            target = self._targets[slot]
            slot += 1
            if self._entering[target] == 1 and (known := copied(gradient, copy)):
                self._under_way[target] = known


class LazyHooks(Hooks):
    """Hooks that copy lazily, and do as little as they can: a recording takes its time here."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._before: Tensor | None = None  # the .grad of the leaf that runs
        self._version: int | None = None  # of that

    def _pairs(self) -> dict[int, tuple[Hook, Hook]]:
        pairs: dict[int, tuple[Hook, Hook]] = {0: (self._enter_root, self._leave_root)}
        enter, leave = self._enter_leaf, self._leave_leaf
        for i, leaf in self._leaves.items():
            pairs[i] = partial(enter, i, leaf), partial(leave, i, leaf)
        return pairs

    def _leave(self, i: int, grad_inputs: Gradients, grad_outputs: Gradients) -> None:
        ended = perf_counter()
        if running_pass() == self._pass:  # then as in _note, which it takes time to call
            log = self.log
            log.gradients.append(lazy_copies_of(grad_outputs, grad_inputs))
            log.ran.append(i)
            log.times.append(ended - self._began)
            self._began = perf_counter()

    def _enter_root(self, grad_outputs: Gradients) -> None:
        if self._is_recorded(0):
            self.log.entered[0] = lazy_copies_of(grad_outputs)
            self._began = perf_counter()

    def _leave_root(self, grad_inputs: Gradients, grad_outputs: Gradients) -> None:
        ended = perf_counter()
        if running_pass() == self._pass:
            self._note(0, self.log.entered.pop(0) + lazy_copies_of(grad_inputs), ended)

    def _enter_leaf(self, i: int, leaf: Tensor, grad_outputs: Gradients) -> None:
        if self._is_recorded(i):
            self.log.entered[i] = lazy_copies_of(grad_outputs)
            self._before = grad = leaf.grad
            self._version = None if grad is None else version_of(grad)
            self.log.grads[i] = copies_of((grad,), False)
            self._began = perf_counter()

    def _leave_leaf(self, i: int, leaf: Tensor, *_: Gradients) -> None:
        ended = perf_counter()
        if running_pass() == self._pass:
            self.log.grads[i] += self._grad_after(leaf.grad)
            self._note(i, self.log.entered.pop(i), ended)

    def _note(self, i: int, gradients: list[Tensor | None], ended: float) -> None:
        log = self.log
        log.ran.append(i)
        log.gradients.append(gradients)
        log.times.append(ended - self._began)
        self._began = perf_counter()

    def _grad_after(self, grad: Tensor | None) -> Gradients:
        """A copy of the ``.grad`` of a leaf; none if the engine added to it, and nobody else."""
        if grad is not None and grad is self._before and self._version is not None:
            if version_of(grad) == self._version + 1:
                return ()
        if grad is None or not is_shared_lazily(grad):
            return copies_of((grad,), False)
        copies = lazy_copies_of((grad,))  # the engine took for it what it gave the leaf
        end_sharing(grad)
        return tuple(copies)


def hooks_for(
    graph: Graph, output: Tensor, gradient: Tensor | None, create_graph: bool, detailed: bool
) -> Hooks:
    """The hooks that suit a pass: those that copy lazily, if torch alone computes with gradients.

    Code of others may know the memory of a gradient by its address, and the user that of the
    gradient that he gives: what they write there, torch does not see. The user's hooks get tensors.
    """
    alone = gradient is None and not has_dispatch_mode()
    alone = alone and all(map(is_of_torch_in_cpp, set(map(type, graph._fns))))
    if detailed or create_graph or not output.is_cpu or not alone:
        return CopyingHooks(graph, create_graph, detailed)
    return LazyHooks(graph)


def saved_values(fn: Node) -> dict[str, Any] | None:
    """What a Node saved: copies of tensors, and numbers. None if not all of it can be had."""
    found = peek(fn)
    if found.hooked or found.broken or not all(has_memory(tensor) for _, tensor in found.tensors):
        return None
    return {name: _copied_value(value) for name, value in found.values.items()}


def _copied_value(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(copy_of(v) if isinstance(v, Tensor) else v for v in value)
    return copy_of(value) if isinstance(value, Tensor) else value
