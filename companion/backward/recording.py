"""One real backward pass becomes a ``Recording``: a Step for each Node, in the engine's order.

A hook before and a hook after each Node copy what comes in and what goes out. What the engine did
in between follows from that: a gradient that leaves a Node by a slot arrives at the Node that the
slot leads to, is added to what came before it, and is one thing less to wait for.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

from companion.graph.nodes import Edge
from companion.graph.reading import Graph, garbage_collection_paused
from companion.internals import (
    Node,
    next_number,
    number_of,
    running_pass,
    saved_names,
    saved_raw,
    saved_value,
    unseen_by_subclasses,
    version_of,
)
from companion.naming import callers_names
from companion.source import Source, is_users

LARGE = 1000  # elements: of smaller gradients a copy costs less than to look for one
DETAILED = 150  # Nodes: of larger graphs the values of the forward pass are not copied

Tensor = torch.Tensor
Gradients = tuple[Tensor | None, ...]
_Copied = tuple[Tensor, int, Tensor]  # a tensor, its version when it was copied, and the copy


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A gradient that came to a Node.

    Attributes:
        edge: the edge it came along; None for the gradient that the pass began with.
        input_nr: which input of the Node it entered, as in ``Edge.input_nr``.
        value: a copy of it; None if it was undefined, which counts as zero.
        total: the sum of all that had come to this input of the Node so far, itself included. Made
            of the copies: with sparse gradients among them it may be rounded in another way than
            the sum that the engine made, else it is the same to the bit.
    """

    edge: Edge | None
    input_nr: int
    value: Tensor | None
    total: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What happened when the engine ran one Node. All tensors are copies without a graph.

    One copy may stand in several places, or be a view of another: read them, and write to none.

    Attributes:
        index: its position in ``Recording.steps``.
        node: the index of the Node in ``Recording.graph``.
        arrivals: each gradient that came to the Node, in the order in which they came.
        grad_outputs: what the Node was given: one gradient for each output of its operation, None
            where it is undefined. That is the sum of the arrivals, unless a hook changed it.
        grad_inputs: what the Node gave on: one gradient for each entry of ``next_functions``, None
            where it is undefined. Empty for a leaf; None if the Node, or a hook on it, raised.
        ready: the Nodes that became ready by this step: nothing else was to come to them.
        waiting: for each Node that this step sent a gradient to, how many more were to come.
        freed: the names of the saved tensors that the engine freed after this step.
        grad_before: for a leaf, its ``.grad`` before the step; else None.
        grad_after: for a leaf, its ``.grad`` after the step; else None.
        saved: what the Node had saved for its formula, by name: copies of tensors, and numbers.
            None where that was not recorded.
        made: under ``create_graph=True``, the indices in ``Recording.second`` of the Nodes that the
            step made. The Node of a sum of arrivals, which is made between two steps, and those of
            hooks that ran before the Node belong to none.
    """

    index: int
    node: int
    arrivals: tuple[Arrival, ...]
    grad_outputs: Gradients
    grad_inputs: Gradients | None
    ready: tuple[int, ...]
    waiting: Mapping[int, int]
    freed: tuple[str, ...]
    grad_before: Tensor | None = None
    grad_after: Tensor | None = None
    saved: Mapping[str, Any] | None = field(default=None, repr=False)
    made: tuple[int, ...] = ()


class Recording:
    """What one backward pass did. Made by ``record_backward``.

    Attributes:
        graph: the graph that the pass ran over, read before it began.
        retain_graph: whether the saved tensors were kept.
        create_graph: whether the pass made a graph of its own.
        error: the exception that ended the pass early; None if it came to its end. The Node that it
            came from has a step if the graph has at most 150 Nodes, or if it is a root, a leaf or a
            custom Function; not if a hook of yours raised before the Node ran.
        values: what the forward pass computed, where it can be had, by Node and by number of its
            output: leaves, and tensors that a variable of the caller referred to, as they were when
            the pass began. Of graphs of at most 150 Nodes.
        sources: for each Node the line that made it, where the forward pass ran under
            ``torch.autograd.set_detect_anomaly(True, check_nan=False)``; else None. Of graphs of at
            most 150 Nodes.
        second: under ``create_graph=True``, the graph of the gradients in the ``.grad`` of the
            leaves; else None.
    """

    def __init__(self) -> None:
        raise TypeError("a Recording is made by record_backward(loss)")

    graph: Graph
    retain_graph: bool
    create_graph: bool
    error: BaseException | None
    values: dict[tuple[int, int], Tensor]
    sources: tuple[Source | None, ...]
    second: Graph | None
    _gradient: Tensor  # that the pass began with
    _targets: list[int] | None  # the Nodes of inputs=; None: every leaf
    _ran: list[tuple[int, Gradients, Gradients]]  # Node after Node: what it was given, and gave on
    _entered: dict[int, Gradients]  # what a Node was given that did not come to its end
    _grads: dict[int, Gradients]  # of leaves: before, and after
    _saved: dict[int, dict[str, Any] | None]
    _functions: dict[int, int]  # of custom Functions: how many tensors they had saved
    _numbers: list[tuple[int, int]]  # the next sequence number before and after each Node

    def __len__(self) -> int:
        return len(self._ran) + len(self._entered)

    def __repr__(self) -> str:
        root = self.graph.roots[0].name
        end = f", ended by {type(self.error).__name__}" if self.error else ""
        return f"<Recording of a backward pass from {root}: {len(self)} steps{end}>"

    @cached_property
    def planned(self) -> frozenset[int]:
        """The Nodes that the pass was to run: all, or under ``inputs=`` those that lead to one."""
        if self._targets is None:
            return frozenset(range(len(self.graph)))
        planned = set(self._targets)
        for i in reversed(self.graph.order):  # every Node after all that it leads to
            if any(edge and edge.target in planned for edge in self.graph.slots(i)):
                planned.add(i)
        return frozenset(planned)

    @cached_property
    def waiting(self) -> dict[int, int]:
        """For each planned Node, how many gradients were to come to it when the pass began."""
        waiting = dict.fromkeys(sorted(self.planned), 0)
        for i in waiting:
            for edge in self.graph.slots(i):
                if edge and edge.target in waiting:
                    waiting[edge.target] += 1
        return waiting

    @property
    def steps(self) -> tuple[Step, ...]:
        """A Step for each Node that ran, in the order in which the engine ran them."""
        return self._told[0]

    @property
    def pending(self) -> dict[int, tuple[Arrival, ...]]:
        """What came to Nodes that did not run any more, since an error ended the pass."""
        return self._told[1]

    @cached_property
    def _told(self) -> tuple[tuple[Step, ...], dict[int, tuple[Arrival, ...]]]:
        waiting, steps = dict(self.waiting), list[Step]()
        came = defaultdict[int, list[Arrival]](list)
        totals = dict[tuple[int, int], Tensor | None]()

        def arrive(node: int, nr: int, edge: Edge | None, value: Tensor | None) -> None:
            before = totals.get((node, nr))
            with torch.no_grad():
                total = added(before, value)
            totals[node, nr] = total
            came[node].append(Arrival(edge, nr, value, total))

        arrive(0, self.graph._output_nr.get(0, 0), None, self._gradient)
        ran: list[tuple[int, Gradients, Gradients | None]] = [*self._ran]
        ran += [(node, grad_outputs, None) for node, grad_outputs in self._entered.items()]
        with garbage_collection_paused():
            for index, (node, grad_outputs, grad_inputs) in enumerate(ran):
                ready, less = list[int](), dict[int, int]()
                for slot, value in enumerate(grad_inputs or ()):
                    edge = self.graph.slots(node)[slot]
                    if edge is None or edge.target not in waiting:
                        continue
                    arrive(edge.target, edge.input_nr, edge, value)
                    less[edge.target] = waiting[edge.target] = waiting[edge.target] - 1
                    if less[edge.target] == 0:
                        ready.append(edge.target)
                before, after = (*self._grads.get(node, ()), None, None)[:2]
                freed = () if self.retain_graph or grad_inputs is None else self._freed(node)
                steps.append(
                    Step(
                        index=index,
                        node=node,
                        arrivals=tuple(came.pop(node, ())),
                        grad_outputs=grad_outputs,
                        grad_inputs=grad_inputs,
                        ready=tuple(ready),
                        waiting=less,
                        freed=freed,
                        grad_before=before,
                        grad_after=after,
                        saved=self._saved.get(node),
                        made=self._made.get(index, ()),
                    )
                )
        return tuple(steps), {node: tuple(arrivals) for node, arrivals in came.items()}

    def _freed(self, node: int) -> tuple[str, ...]:
        count = self._functions.get(node)
        if count is not None:  # once freed, a custom Function does not tell what it had saved
            return tuple(f"saved_tensors[{i}]" for i in range(count))
        saved = self.graph.nodes[node].saved
        return tuple(tensor.name for tensor in saved if tensor.state == "freed")

    @cached_property
    def _made(self) -> dict[int, tuple[int, ...]]:
        """For each step the Nodes of the second graph that it made, by their sequence numbers."""
        if self.second is None:
            return {}
        made = defaultdict[int, list[int]](list)
        numbered = sorted((number_of(fn), i) for i, fn in enumerate(self.second._fns))
        step = 0
        for number, i in numbered:
            while step < len(self._numbers) and self._numbers[step][1] <= number:
                step += 1
            if step < len(self._numbers) and self._numbers[step][0] <= number:
                made[step].append(i)
        return {step: tuple(nodes) for step, nodes in made.items()}


def record_backward(
    output: Tensor,
    gradient: Tensor | None = None,
    *,
    inputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> Recording:
    """Run one backward pass as ``output.backward(...)`` does, and record what each Node did.

    The gradients that it leaves in ``.grad`` are those of a pass that nobody recorded, bit for bit.
    Your own hooks run as ever, before those that record, unless added on the way; these are gone
    afterwards, whatever happened. The pass runs in the calling thread alone. Every gradient is
    copied, so a recording of a large model takes a lot of memory. In a graph of more than 150 Nodes
    a hook that writes to a gradient through ``.data``, which autograd does not see, is not seen.

    What happens inside of a Node is not seen: a reentrant ``torch.utils.checkpoint`` is one Node.
    Saved tensors that went through ``torch.autograd.graph.saved_tensors_hooks`` are not looked at,
    since that would run the hooks.

    Args:
        output: the tensor to call backward on, of any shape, dtype and device.
        gradient: what to begin with, of the shape of ``output``; not needed for one real element.
        inputs: one or several tensors, or ``GradientEdge``, to fill ``.grad`` of; by default all
            leaves.
        retain_graph: keep the saved tensors for another pass; by default only if ``create_graph``.
        create_graph: record the pass itself as a graph, to be differentiated again.

    Returns:
        The recording. Nodes are named by the caller's variables that refer to their outputs.

    Raises:
        TypeError: ``output`` or ``gradient`` is not a tensor.
        RuntimeError: what ``backward`` raises: at once if ``output`` does not require grad, or
            needs a ``gradient`` of another shape; on the way if a saved tensor is freed or was
            modified in place. Any exception that leaves the pass has an attribute ``recording``,
            with what ran until then.

    Examples:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> recording = record_backward(x * x)
        >>> [recording.graph.nodes[step.node].name for step in recording.steps]
        ['MulBackward0', 'AccumulateGrad']
        >>> [(a.value.item(), a.total.item()) for a in recording.steps[1].arrivals]
        [(3.0, 3.0), (3.0, 6.0)]
        >>> x.grad
        tensor(6.)

    Source: the engine, torch/csrc/autograd/engine.cpp, as its hooks show it.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"output must be a tensor, got {type(output).__name__}")
    if not isinstance(gradient, Tensor | None):
        kind = type(gradient).__name__
        raise TypeError(f"gradients can be either Tensors or None, but got {kind}")
    if inputs is not None and not isinstance(inputs, Tensor | GradientEdge):
        inputs = tuple(inputs)  # an iterator gives what it has only once

    def run() -> None:
        torch.autograd.backward(output, gradient, retain_graph, create_graph, inputs=inputs)

    if not output.requires_grad:
        run()  # which raises
    recording = Recording.__new__(Recording)
    names = callers_names()
    recording.graph = graph = Graph.of(output, names=names)
    recording.retain_graph = create_graph if retain_graph is None else retain_graph
    recording.create_graph = create_graph
    recording.error = recording.second = None
    recording._targets = None if inputs is None else _targets(graph, inputs)
    with torch.no_grad():
        first = torch.ones_like(output) if gradient is None else gradient
        # Torch casts a real one, and will refuse a complex one of another dtype.
        recording._gradient = _copy(first if first.is_complex() else first.to(output.dtype))
    recording._ran, recording._entered, recording._grads = [], {}, {}
    recording._saved, recording._functions, recording._numbers = {}, {}, []
    recording.values = _values(graph, names) if len(graph) <= DETAILED else {}
    recording.sources = tuple(_source(fn) if len(graph) <= DETAILED else None for fn in graph._fns)
    del names
    try:
        with _hooks(recording), torch.autograd.set_multithreading_enabled(False):
            run()
    except BaseException as error:
        recording.error = error
        with suppress(Exception):  # an exception class of a stranger's may allow no attributes
            error.recording = recording  # type: ignore[attr-defined]
        raise
    if create_graph:
        grads = [leaf.grad_fn.variable.grad for leaf in graph.leaves]
        roots = [grad for grad in grads if grad is not None and grad.grad_fn is not None]
        recording.second = Graph.of(*roots, names=callers_names()) if roots else None
    return recording


@contextmanager
def _hooks(recording: Recording) -> Iterator[None]:
    """Hooks that write into the recording: one after each Node, and before some as well."""
    graph, create_graph = recording.graph, recording.create_graph
    fns, detailed = graph._fns, len(graph) <= DETAILED
    # Not graph.leaves, which makes an object for each Node.
    leaves = {i: fn.variable for i, fn in enumerate(fns) if type(fn).__name__ == "AccumulateGrad"}
    targets, first = graph._target, graph._first
    entering = Counter(targets)
    ran, entered = recording._ran, recording._entered
    # Another pass may run over the same Nodes meanwhile, in another thread or begun by a hook.
    # This one begins with the root, in this thread. A pass that a hook on the root began comes to
    # the root before it, and has a higher number.
    here, this_pass = threading.get_ident(), sys.maxsize
    # New memory is what costs most: to copy 64 KB into it may take as long as an operation does. So
    # in a large graph one copy of a gradient serves as long as nothing is written to it: on its way
    # along the only edge into a Node, and, if it is large, through a view and as .grad of a leaf.
    under_way: dict[int, _Copied] = {}
    versions: dict[int, int | None] = {}  # of what came to a leaf

    def arrived(i: int, gradients: Gradients) -> Gradients:
        known = under_way.pop(i, None)
        if known and len(gradients) == 1 and gradients[0] is known[0]:
            if version_of(known[0]) == known[1]:
                return (known[2],)
        return _copies(gradients, create_graph)

    def noted(tensor: Tensor | None, copy: Tensor | None) -> _Copied | None:
        if detailed or tensor is None or copy is None or tensor.numel() < LARGE:
            return None
        version = version_of(tensor)
        return None if version is None else (tensor, version, copy)

    def enter(i: int, grad_outputs: Gradients) -> None:
        nonlocal this_pass
        number = running_pass()
        if number != this_pass:
            if i > 0 or number > this_pass or threading.get_ident() != here:
                return
            this_pass = number
            for log in (ran, entered, recording._grads, recording._saved, recording._numbers):
                log.clear()
        entered[i] = arrived(i, grad_outputs)
        if i in leaves:
            recording._grads[i] = _copies((leaves[i].grad,), True)
            # The gradient itself must go: the engine takes it for .grad if nobody else holds it.
            known = noted(grad_outputs[0], entered[i][0])
            versions[i] = known[1] if known else None
        elif detailed:
            recording._saved[i] = _saved_values(fns[i])
        if create_graph:
            recording._numbers.append((next_number(), sys.maxsize))

    def leave(i: int, grad_inputs: Gradients, grad_outputs: Gradients) -> None:
        if running_pass() != this_pass:
            return
        if i in entered:
            given = entered.pop(i)
            passed_on = _copies(grad_inputs, create_graph)
        else:  # it is not one that may write into what it is given
            given = arrived(i, grad_outputs)
            passed_on = _copies(grad_inputs, create_graph, noted(grad_outputs[0], given[0]))
        ran.append((i, given, passed_on))
        if i in leaves:
            known = noted(grad_outputs[0], given[0])
            unchanged = known is not None and known[1] == versions[i]
            recording._grads[i] += _copies((leaves[i].grad,), True, known if unchanged else None)
        if create_graph:
            recording._numbers[-1] = recording._numbers[-1][0], next_number()
        if detailed:  # each copy is a new one, in case that hooks write where nobody counts it
            return
        place = first[i]
        for tensor, copy in zip(grad_inputs, passed_on, strict=True):
            target = targets[place]
            place += 1
            if tensor is None or copy is None or entering[target] > 1:
                continue
            if (version := version_of(tensor)) is not None:
                under_way[target] = tensor, version, copy

    with ExitStack() as stack, garbage_collection_paused():
        handles = list[Any]()
        stack.callback(lambda: [handle.remove() for handle in handles])
        for i, fn in enumerate(fns):
            is_function = isinstance(fn, BackwardCFunction)
            # A Function may write into what it is given. Two hooks cost twice as much as one.
            if i == 0 or i in leaves or is_function or detailed or create_graph:
                handles.append(fn.register_prehook(partial(enter, i)))
            handles.append(fn.register_hook(partial(leave, i)))
            if is_function:
                recording._functions[i] = 0
                with suppress(RuntimeError):  # it was freed before
                    recording._functions[i] = len(saved_raw(fn, "saved_tensors"))
        yield


def added(held: Tensor | None, value: Tensor | None) -> Tensor | None:
    """What a buffer holds once a gradient came, added as the engine adds; None counts as zero."""
    if held is None or value is None:
        return held if value is None else value
    return value + held if held.is_sparse else held + value  # torch adds dense and sparse alone


def _copies(gradients: Gradients, has_graph: bool, known: _Copied | None = None) -> Gradients:
    """Copies without a graph. A pass that makes no graph runs with gradients off."""
    if known is None and has_graph:
        return tuple([None if g is None else g.detach().clone() for g in gradients])
    if known is None:
        return tuple([None if g is None else g.clone() for g in gradients])
    found = [None if g is None else _known_copy(g, *known) for g in gradients]
    return tuple(
        [
            copy if copy is not None or g is None else g.detach().clone()
            for g, copy in zip(gradients, found, strict=True)
        ]
    )


def _known_copy(tensor: Tensor, source: Tensor, version: int, copy: Tensor) -> Tensor | None:
    """The same view of a copy as the tensor is of its source; None if it is none, or no longer."""
    if version_of(source) != version:
        return None
    if tensor is source:
        return copy
    plain = type(tensor) is type(source) is Tensor and tensor.layout is source.layout is _STRIDED
    if not plain or tensor.data_ptr() != source.data_ptr() or tensor.dtype != source.dtype:
        return None
    # The copy has the strides of its source only if it holds all of its memory, gaps included.
    if copy.stride() != source.stride() or _reach(tensor) > _reach(source):
        return None
    if tensor.is_conj() or source.is_conj() or tensor.is_neg() or source.is_neg():
        return None
    return copy.as_strided(tensor.shape, tensor.stride())


def _reach(tensor: Tensor) -> int:
    """How far from its first element its last one lies in memory."""
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _copy(tensor: Tensor) -> Tensor:
    """A copy without a graph, whatever a subclass of Tensor makes of ``clone``."""
    with unseen_by_subclasses():
        return tensor.detach().clone()


def _saved_values(fn: Node) -> dict[str, Any] | None:
    """What a Node saved: copies of tensors, and numbers. None if looking would run hooks."""
    values, names = dict[str, Any](), saved_names(fn)
    try:
        for raw in (saved_raw(fn, name) for name in names):
            if any(one.unpack_hook for one in (raw if isinstance(raw, tuple) else (raw,)) if one):
                return None
        for name in names:
            value = saved_value(fn, name)
            if isinstance(value, tuple | list):
                value = tuple(_copy(v) if isinstance(v, Tensor) else v for v in value)
            elif isinstance(value, Tensor):
                value = _copy(value)
            values[name] = value
    except RuntimeError:  # freed or modified in place: the Node itself will tell
        return None
    return values


def _values(graph: Graph, names: Mapping[str, Tensor]) -> dict[tuple[int, int], Tensor]:
    """What the leaves and the named tensors hold, by Node and number of its output."""
    index = {fn: i for i, fn in enumerate(graph._fns)}
    found = {(leaf.index, 0): leaf.grad_fn.variable for leaf in graph.leaves}
    for tensor in names.values():
        if tensor.grad_fn in index:
            found[index[tensor.grad_fn], tensor.output_nr] = tensor
    return {place: _copy(tensor) for place, tensor in found.items()}


def _source(fn: Node) -> Source | None:
    """The innermost line outside of torch that made a Node, as anomaly mode noted it."""
    for entry in reversed(fn.metadata.get("traceback_", ())):
        told = re.match(r'\s*File "(.*)", line (\d+).*\n\s*(.*)', entry)
        if told and told[3] and is_users(told[1]):
            return Source(told[1], int(told[2]), told[3].strip())
    return None


def _targets(graph: Graph, inputs: Any) -> list[int]:
    """The Nodes of the tensors of ``inputs=`` that are in the graph."""
    index = {fn: i for i, fn in enumerate(graph._fns)}
    fns = list[Node]()
    with torch.inference_mode(False), torch.enable_grad():  # others know no edge of a leaf
        for one in [inputs] if isinstance(inputs, Tensor | GradientEdge) else inputs:
            if isinstance(one, Tensor) and one.requires_grad:
                one = get_gradient_edge(one)
            if isinstance(one, GradientEdge):
                fns.append(one.node)
    return [index[fn] for fn in fns if fn in index]


_STRIDED = torch.strided
