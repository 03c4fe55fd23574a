"""Hooks on the Nodes of a graph write down what each was given, and what it passed on."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
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
)
from companion.graph.reading import Graph
from companion.graph.saved import peek
from companion.internals import Node, has_memory, next_number, running_pass


@dataclass(slots=True)
class Log:
    """What the hooks wrote down. All tensors are copies without a graph.

    Attributes:
        ran: Node after Node, its index, what it was given, and what it passed on.
        entered: what a Node was given that did not come to its end.
        grads: of leaves, the ``.grad`` before and after.
        saved: what Nodes had saved; None where a look at it would run hooks.
        numbers: the next sequence number before and after each Node, under ``create_graph``.
        times: for each of ``ran``, how many seconds the Node ran.
    """

    ran: list[tuple[int, Gradients, Gradients]] = field(default_factory=list)
    entered: dict[int, Gradients] = field(default_factory=dict)
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

    def __init__(self, graph: Graph, create_graph: bool, detailed: bool) -> None:
        # In detail each Node is looked at before it runs, and each copy is a new one, in case that
        # a hook of the user's writes where no version counter notices.
        self.log = Log()
        self._fns, self._create_graph, self._detailed = graph._fns, create_graph, detailed
        # Not graph.leaves, which makes an object for each Node.
        self._leaves: dict[int, Tensor] = {
            i: fn.variable
            for i, fn in enumerate(graph._fns)
            if type(fn).__name__ == "AccumulateGrad"
        }
        self._targets, self._first = graph._target, graph._first
        self._entering = Counter(graph._target)  # how many edges enter a Node
        self._under_way: dict[int, Copied] = {}  # by Node: what its only edge brings
        self._came: dict[int, int | None] = {}  # by leaf: the version of a large gradient
        # Another pass may run over the same Nodes meanwhile, in another thread or begun by a hook.
        # This one begins with the root, in this thread. A pass that a hook on the root began comes
        # to the root before it, and has a higher number.
        self._thread, self._pass = threading.get_ident(), sys.maxsize
        self._began = 0.0  # when the last hook of this pass was done

    @contextmanager
    def attached(self) -> Iterator[None]:
        """In this block the hooks are on the Nodes."""
        handles = list[Any]()
        try:
            for i, fn in enumerate(self._fns):
                if self._looks_before(i, fn):
                    handles.append(fn.register_prehook(partial(self._enter, i)))
                handles.append(fn.register_hook(partial(self._leave, i)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _looks_before(self, i: int, fn: Node) -> bool:
        """Whether a Node gets a hook before it too. Two hooks cost twice as much as one."""
        if i == 0 or self._detailed or self._create_graph or i in self._leaves:
            return True
        return isinstance(fn, BackwardCFunction)  # which may write into what it is given

    def _enter(self, i: int, grad_outputs: Gradients) -> None:
        """The hook before a Node."""
        number = running_pass()
        if number != self._pass:
            if i > 0 or number > self._pass or threading.get_ident() != self._thread:
                return
            self._pass = number
            self.log.clear()
        given = self.log.entered[i] = self._arrived(i, grad_outputs)
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
        """The hook after a Node."""
        ended = perf_counter()
        if running_pass() != self._pass:
            return
        log = self.log
        log.times.append(ended - self._began)
        if i in log.entered:
            given = log.entered.pop(i)
            passed_on = copies_of(grad_inputs, self._create_graph)
        else:  # a Node that does not write into what it is given
            given = self._arrived(i, grad_outputs)
            known = self._reusable(grad_outputs[0], given[0])
            passed_on = copies_of(grad_inputs, self._create_graph, known)
        log.ran.append((i, given, passed_on))
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
