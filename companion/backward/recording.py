"""One real backward pass becomes a ``Recording``: a Step for each Node, in the engine's order.

A hook before and a hook after each Node copy what comes in and what goes out. What the engine did
in between follows from that: a gradient that leaves a Node by a slot arrives at the Node that the
slot leads to, is added to what came before it, and is one thing less to wait for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

from companion.backward.copies import Gradients, Tensor, copy_of, first_gradient, worst_value_in
from companion.backward.hooks import Log, hooks_for
from companion.graph.anomaly_lines import noted_source
from companion.graph.nodes import Edge
from companion.graph.not_a_tensor import refused
from companion.graph.reading import Graph, garbage_collection_paused
from companion.internals import Node, has_memory, number_of, saved_raw
from companion.naming import callers_names, counted
from companion.source import Source

DETAILED = 150  # Nodes: of larger graphs the values of the forward pass are not copied


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
        grad_inputs: what the Node passed on: one gradient for each entry of ``next_functions``,
            None where it is undefined. Empty for a leaf; None if the Node, or a hook on it, raised.
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
        time: how many seconds the Node ran, with what the engine did to get to it and your hooks on
            it, but without the recording; None if it raised. Of a GPU it is the time in which the
            work was handed over, not done.
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
    time: float | None = None


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
    _function_saved: dict[int, int]  # of custom Functions: how many tensors they had saved
    _log: Log

    def __len__(self) -> int:
        return len(self._log.ran) + len(self._log.entered)

    def __repr__(self) -> str:
        root = self.graph.roots[0].name
        end = f", ended by {type(self.error).__name__}" if self.error else ""
        return f"<Recording of a backward pass from {root}: {counted(len(self), 'step')}{end}>"

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
        return self._replayed[0]

    @cached_property
    def first_nonfinite(self) -> Step | None:
        """The step that gave the first NaN or infinity: all that came to its Node was finite.

        Where infinities came and a NaN was given, it counts too. What came is what arrived, so the
        sum of arrivals and your own hooks are part of the step. None if there was none.

        Examples:
            >>> x = torch.tensor([0.0, 4.0], requires_grad=True)
            >>> recording = record_backward(torch.where(x > 0, x.sqrt(), 0.0).sum())
            >>> recording.graph.nodes[recording.first_nonfinite.node].name
            'SqrtBackward0'
        """
        for step in self.steps:
            came = worst_value_in([arrival.value for arrival in step.arrivals] + [step.grad_before])
            given = worst_value_in([*step.grad_outputs, *(step.grad_inputs or ()), step.grad_after])
            if given > came:
                return step
        return None

    @property
    def pending(self) -> dict[int, tuple[Arrival, ...]]:
        """What came to Nodes that did not run any more, since an error ended the pass."""
        return self._replayed[1]

    @cached_property
    def _replayed(self) -> tuple[tuple[Step, ...], dict[int, tuple[Arrival, ...]]]:
        """The steps, and what is pending after them."""
        engine, log = _Engine(self.graph, dict(self.waiting)), self._log
        engine.arrive(0, self.graph._output_nr.get(0, 0), None, self._gradient)
        ran = list[tuple[int, Gradients, Gradients | None]]()
        for node, gradients in zip(log.ran, log.gradients, strict=False):
            count = len(gradients) - len(self.graph.slots(node))
            ran.append((node, tuple(gradients[:count]), tuple(gradients[count:])))
        ran += [(node, tuple(given), None) for node, given in log.entered.items()]
        with garbage_collection_paused():
            steps = tuple(self._step(engine, index, *entry) for index, entry in enumerate(ran))
        return steps, {node: tuple(arrivals) for node, arrivals in engine.came.items()}

    def _step(
        self,
        engine: _Engine,
        index: int,
        node: int,
        grad_outputs: Gradients,
        grad_inputs: Gradients | None,
    ) -> Step:
        arrivals = tuple(engine.came.pop(node, ()))
        ready, waiting = engine.send(node, grad_inputs or ())
        grads = self._log.grads.get(node, ())
        if len(grads) == 1 and grad_inputs is not None:
            grads += (_added_in_place(grads[0], grad_outputs[0]),)
        before, after = (*grads, None, None)[:2]
        return Step(
            index=index,
            node=node,
            arrivals=arrivals,
            grad_outputs=grad_outputs,
            grad_inputs=grad_inputs,
            ready=ready,
            waiting=waiting,
            freed=() if self.retain_graph or grad_inputs is None else self._freed(node),
            grad_before=before,
            grad_after=after,
            saved=self._log.saved.get(node),
            made=self._made.get(index, ()),
            time=self._log.times[index] if index < len(self._log.times) else None,
        )

    def _freed(self, node: int) -> tuple[str, ...]:
        count = self._function_saved.get(node)
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
        step, numbers = 0, self._log.numbers
        for number, i in numbered:
            while step < len(numbers) and numbers[step][1] <= number:
                step += 1
            if step < len(numbers) and numbers[step][0] <= number:
                made[step].append(i)
        return {step: tuple(nodes) for step, nodes in made.items()}


class _Engine:
    """What the engine knew in between: what came to which Node, and what was still to come.

    Attributes:
        came: by Node, what came to it; until it runs.
    """

    def __init__(self, graph: Graph, waiting: dict[int, int]) -> None:
        self._graph, self._waiting = graph, waiting
        self.came = defaultdict[int, list[Arrival]](list)
        self._totals = dict[tuple[int, int], Tensor | None]()  # by Node and number of its input

    def arrive(self, node: int, input_nr: int, edge: Edge | None, value: Tensor | None) -> None:
        """A gradient comes to an input of a Node."""
        with torch.no_grad():
            total = added(self._totals.get((node, input_nr)), value)
        self._totals[node, input_nr] = total
        self.came[node].append(Arrival(edge, input_nr, value, total))

    def send(self, node: int, gradients: Gradients) -> tuple[tuple[int, ...], dict[int, int]]:
        """A Node gives gradients on: which Nodes are ready now, and for how many each waits."""
        ready, waiting = list[int](), dict[int, int]()
        for edge in self._graph.slots(node) if gradients else ():
            if edge is None or edge.target not in self._waiting:
                continue
            self.arrive(edge.target, edge.input_nr, edge, gradients[edge.slot])
            self._waiting[edge.target] -= 1
            waiting[edge.target] = self._waiting[edge.target]
            if waiting[edge.target] == 0:
                ready.append(edge.target)
        return tuple(ready), waiting


def added(held: Tensor | None, value: Tensor | None) -> Tensor | None:
    """What a buffer holds once a gradient came, added as the engine adds; None counts as zero."""
    if held is None or value is None:
        return held if value is None else value
    return value + held if held.is_sparse else held + value  # torch adds dense and sparse alone


def _added_in_place(grad: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """What a ``.grad`` is after the engine added a gradient to it."""
    if grad is None or gradient is None:
        return grad
    with torch.no_grad():
        return grad.clone().add_(gradient)


def record_backward(
    output: Tensor,
    gradient: Tensor | None = None,
    *,
    inputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    names: Mapping[str, Tensor] | None = None,
) -> Recording:
    """Run one backward pass as ``output.backward(...)`` does, and record what each Node did.

    The gradients that it leaves in ``.grad`` are those of a pass that nobody recorded, bit for bit.
    Your own hooks run as ever, before those that record, unless added on the way; these are gone
    afterwards, whatever happened. The pass runs in the calling thread alone. Every gradient is
    kept, so a recording of a large model takes a lot of memory. In a graph of more than 150 Nodes a
    hook that writes to a gradient where autograd does not see it, as through ``.data``, may not be
    seen; and a tensor that a hook keeps and returns may get new memory when it is written to, which
    an array of NumPy on the old memory does not show.

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
        names: names for tensors, such as those of ``companion.modules``, from which the recording
            also knows the modules. Without it Nodes are named by the caller's variables that refer
            to their outputs.

    Returns:
        The recording.

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
        raise TypeError(f"output must be a tensor, got {refused(output)}")
    if not isinstance(gradient, Tensor | None):
        kind = type(gradient).__name__
        raise TypeError(f"gradients can be either Tensors or None, but got {kind}")
    if inputs is not None and not isinstance(inputs, Tensor | GradientEdge):
        inputs = tuple(inputs)  # an iterator gives what it has only once

    def run() -> None:
        torch.autograd.backward(output, gradient, retain_graph, create_graph, inputs=inputs)

    if not output.requires_grad:
        run()  # which raises
    names = callers_names() if names is None else names
    with garbage_collection_paused():
        recording = _read_before(output, gradient, inputs, names)
        recording.retain_graph = create_graph if retain_graph is None else retain_graph
        recording.create_graph = create_graph
        detailed = len(recording.graph) <= DETAILED
        hooks = hooks_for(recording.graph, output, gradient, create_graph, detailed)
        recording._log = hooks.log
        try:
            with hooks.attached(), torch.autograd.set_multithreading_enabled(False):
                run()
        except BaseException as error:
            recording.error = error
            with suppress(Exception):  # an exception class of a stranger's may allow no attributes
                error.recording = recording  # type: ignore[attr-defined]
            raise
    if create_graph:
        recording.second = _graph_of_gradients(recording.graph)
    return recording


def _read_before(
    output: Tensor, gradient: Tensor | None, inputs: Any, names: Mapping[str, Tensor]
) -> Recording:
    """A recording with all that is known before the pass begins."""
    recording = Recording.__new__(Recording)
    recording.graph = graph = Graph.of(output, names=names)
    recording.error = recording.second = None
    recording._targets = None if inputs is None else _targets(graph, inputs)
    with torch.no_grad():
        first = first_gradient(output) if gradient is None else gradient
        # Torch casts a real one, and will refuse a complex one of another dtype.
        recording._gradient = copy_of(first if first.is_complex() else first.to(output.dtype))
    detailed = len(graph) <= DETAILED
    recording.values = _values(graph, names) if detailed else {}
    recording.sources = tuple(map(noted_source, graph._fns)) if detailed else (None,) * len(graph)
    recording._function_saved = {
        i: _saved_count(fn) for i, fn in enumerate(graph._fns) if isinstance(fn, BackwardCFunction)
    }
    return recording


def _graph_of_gradients(graph: Graph) -> Graph | None:
    """The graph of the gradients in the ``.grad`` of the leaves; None if they have none."""
    grads = [leaf.grad_fn.variable.grad for leaf in graph.leaves]
    roots = [grad for grad in grads if grad is not None and grad.grad_fn is not None]
    return Graph.of(*roots, names=callers_names()) if roots else None


def _saved_count(fn: Node) -> int:
    """How many tensors a custom Function saved; 0 once they are freed."""
    try:
        return len(saved_raw(fn, "saved_tensors"))
    except RuntimeError:
        return 0


def _values(graph: Graph, names: Mapping[str, Tensor]) -> dict[tuple[int, int], Tensor]:
    """What the leaves and the named tensors hold, by Node and number of its output."""
    index = {fn: i for i, fn in enumerate(graph._fns)}
    tensors = {(leaf.index, 0): leaf.grad_fn.variable for leaf in graph.leaves}
    for tensor in names.values():
        if tensor.grad_fn in index:
            tensors[index[tensor.grad_fn], tensor.output_nr] = tensor
    return {output: copy_of(tensor) for output, tensor in tensors.items() if has_memory(tensor)}


def _targets(graph: Graph, inputs: Any) -> list[int]:
    """The Nodes of the tensors of ``inputs=`` that are in the graph."""
    index = {fn: i for i, fn in enumerate(graph._fns)}
    fns = list[Node]()
    with torch.inference_mode(False), torch.enable_grad():  # others know no edge of a leaf
        for entry in [inputs] if isinstance(inputs, Tensor | GradientEdge) else inputs:
            if isinstance(entry, Tensor) and entry.requires_grad:
                entry = get_gradient_edge(entry)
            if isinstance(entry, GradientEdge):
                fns.append(entry.node)
    return [index[fn] for fn in fns if fn in index]
