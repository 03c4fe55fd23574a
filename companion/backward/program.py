"""One backward pass, written as a Python program in the names of the reader."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import CodeType
from typing import Any

import torch

from companion.backward.copies import Tensor, first_gradient
from companion.backward.program_writer import Writer
from companion.findings import as_html
from companion.graph.nodes import shape_or_none
from companion.graph.not_a_tensor import refused
from companion.graph.reading import Graph
from companion.internals import (
    has_memory,
    is_without_numbers,
    mode_of,
    reads_saved_once,
    unseen_by_subclasses,
    version_of,
)
from companion.naming import callers_names, counted


class Program:
    """A backward pass as a Python program. Made by ``write_backward``.

    ``str(program)`` is its text, which ``run`` executes. What the text does not assign itself are
    your tensors, under your names, and Nodes: ``node_3`` is ``Graph.of(loss).nodes[3].grad_fn``.
    In your own session the text runs on your tensors, and its last act is to set their ``.grad``.
    """

    def __init__(self) -> None:
        raise TypeError("a Program is made by write_backward(loss)")

    _text: str
    _code: CodeType
    _space: dict[str, Any]  # what the text does not assign itself, by identifier
    _given: str | None  # the identifier of the gradient that the pass began with
    _keys: dict[str, str]  # for each name of a leaf its identifier
    _used: list[tuple[str, Tensor, int | None]]  # tensors, and their versions at the writing
    _mode: AbstractContextManager[Any]  # in which the text runs
    _graph: Graph  # up to torch 2.12 it alone keeps the Node of a custom Function

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        lines = counted(self._text.count("\n"), "line")
        leaves = counted(len(set(self._keys.values())), "leaf", "leaves")
        return f"<Program of a backward pass: {lines}, {leaves}>"

    def _repr_html_(self) -> str:
        return as_html(self._text)

    def run(self) -> dict[str, Tensor | None]:
        """Execute the text, and return the gradient of each leaf.

        In this run the names in the text stand for tensors that share the memory of yours, so that
        the ``.grad`` of yours stays as it is. Nothing is freed, and it can be run again, also after
        ``loss.backward()`` has freed the graph, unless the text calls Nodes that saved tensors.

        Returns:
            By the name of each leaf its gradient, equal to the bit to what ``backward()`` would
            leave in an empty ``.grad``: of the shape and dtype of the leaf, or None where no
            gradient comes to it. A leaf with several names is there under each.

        Raises:
            RuntimeError: a tensor that the text uses was modified in place, or its storage freed,
                since it was written; or a Node that it calls was freed.
        """
        for name, tensor, version in self._used:
            if version_of(tensor) != version:
                raise RuntimeError(
                    f"{name} was modified in place since the program was written, which uses what "
                    "it held; run the forward pass again and call write_backward again"
                )
            if not (is_without_numbers(tensor) or has_memory(tensor)):
                raise RuntimeError(
                    f"the storage of {name} was freed since the program was written, which uses "
                    "what it held; bring it back and run again"
                )
        space = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in self._space.items()
        }
        if self._given is not None:  # a custom Function may write into it
            space[self._given] = space[self._given].clone()
        with torch.no_grad(), unseen_by_subclasses(), self._mode:
            exec(self._code, space)
            grads = {key: space[name].grad for key, name in self._keys.items()}
            return {key: None if grad is None else grad.clone() for key, grad in grads.items()}


def write_backward(
    output: Tensor,
    gradient: Tensor | None = None,
    *,
    names: Mapping[str, Tensor] | None = None,
    max_nodes: int = 150,
) -> Program:
    """Write the backward pass of a tensor as a Python program.

    It has a step for each Node, in the order of the engine. A step is the rule of the operation,
    such as ``grad_x = grad_y * torch.cos(x)``, in the names of your tensors for what the Node has
    saved. Where paths meet there is a sum, and each leaf has a line ``x.grad = ...``. Where the
    forward pass ran under ``torch.autograd.set_detect_anomaly(True, check_nan=False)``, the line
    that made a Node stands above its step.

    Each Node is called once to write it. A rule is written only if it gives, on the numbers at
    hand, what the Node gave, to the bit. Else the text calls the Node, as in
    ``grad_x = node_3(grad_y)``, and says why.

    To call a Node by hand runs no hooks. So no hook runs, and the text names those that can be
    seen: on Nodes, and on tensors that have a name or were saved. Your ``.grad`` stays as it is,
    also where a Node runs a backward pass inside, as a reentrant checkpoint does; what it finds for
    tensors that are not in the graph is not in the result. What else the backward of a custom
    Function does, it does, once for writing and at each run.

    Args:
        output: the tensor to call backward on, of any shape and dtype.
        gradient: what to begin with, of the shape of ``output``; not needed for one real element.
        names: names for tensors, such as ``dict(model.named_parameters())``; by default the
            variables of the caller. A name that is no identifier of Python, or stands for two
            tensors, is changed, and a comment says so. A leaf without a name is
            ``leaf_<its index in Graph.of(output).nodes>``.
        max_nodes: a graph with more Nodes is refused, since nobody would read the text.

    Returns:
        The program. It keeps the graph and its saved tensors alive.

    Raises:
        TypeError: ``output`` or ``gradient`` is not a tensor, ``names`` does not map strings to
            tensors, or ``max_nodes`` is not an int.
        ValueError: ``output`` has no graph, the graph has more than ``max_nodes`` Nodes, its root
            or a leaf is a nested tensor of the strided layout, or a custom Function in it frees
            what it saved when that is looked at.
        RuntimeError: ``gradient`` is missing where ``output`` is not one real number, or has
            another shape or a dtype that cannot be used; a saved tensor was freed or modified in
            place; or whatever a Node raises.

    Examples:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> wave = torch.sin(x)
        >>> loss = wave * x
        >>> program = write_backward(loss)
        >>> print(program)
        # The backward pass of loss: a step for each Node, in PyTorch's order.
        # grad_x is how fast loss moves with x; grad_x_1 is a part of that.
        # Each .grad is set, as if it had been empty.
        import torch
        <BLANKLINE>
        grad_loss = torch.ones_like(loss)  # loss moves as fast as itself
        <BLANKLINE>
        # MulBackward0, the Node of loss
        grad_wave = grad_loss * x
        grad_x_1 = grad_loss * wave
        <BLANKLINE>
        # SinBackward0, the Node of wave
        grad_x_2 = grad_wave * torch.cos(x)
        x.grad = grad_x_1 + grad_x_2  # 2 gradients arrive
        <BLANKLINE>
        >>> program.run()
        {'x': tensor(0.0770)}

    Source: the rules are those of tools/autograd/derivatives.yaml of PyTorch.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"output must be a tensor, got {refused(output)}")
    if not isinstance(gradient, Tensor | None):
        raise TypeError(f"gradient must be a tensor or None, got {type(gradient).__name__}")
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int):
        raise TypeError(f"max_nodes must be an int, got {type(max_nodes).__name__}")
    graph = Graph.of(output, names=names)
    if any(shape_or_none(node) is None for node in graph.nodes if node.is_leaf or node.index == 0):
        raise ValueError(
            "a program sets .grad, which torch refuses for nested tensors of the strided layout, "
            "which need layout=torch.jagged, and for lazy parameters, whose module must be called"
        )
    if len(graph) > max_nodes:
        raise ValueError(
            f"the graph has {len(graph)} nodes, and max_nodes is {max_nodes}; write the backward "
            "pass of a part, such as one block of the model (companion.modules shows which module "
            "made which node), or give a larger max_nodes"
        )
    _check_gradient(output, gradient)
    _check_functions(graph)
    with torch.no_grad(), unseen_by_subclasses(), mode_of(output):
        writer = Writer(output, gradient, graph, callers_names() if names is None else names)
        text = writer.text()
    program = Program.__new__(Program)
    program._text, program._code = text, compile(text, "<the backward pass>", "exec")
    program._space, program._given, program._keys = writer.space, writer.given, writer.readers.keys
    program._graph, program._mode = graph, mode_of(output)
    program._used = [(name, used, version_of(used)) for name, used in writer.used.items()]
    return program


def _check_functions(graph: Graph) -> None:
    """Raise before a look at a Node frees what it saved."""
    for node in graph.nodes:
        if node.is_custom and reads_saved_once(node.grad_fn):
            raise ValueError(
                f"node {node.index} ({node.name}) frees its saved tensors as soon as they are "
                "looked at, and a program runs it more than once; set "
                "clear_saved_tensors_on_access = False in its class"
            )


def _check_gradient(output: Tensor, gradient: Tensor | None) -> None:
    """Raise where backward would."""
    shape, dtype = tuple(output.shape), output.dtype
    if gradient is None:
        first_gradient(output)
        if output.numel() != 1:
            raise RuntimeError(
                "grad can be implicitly created only for scalar outputs, and output has the shape "
                f"{shape}; give gradient=, a tensor of that shape, or take output.sum()"
            )
        if not output.is_floating_point():
            raise RuntimeError(
                "grad can be implicitly created only for real scalar outputs, and output is "
                f"{dtype}; give gradient=, a tensor of that dtype"
            )
    elif gradient.shape != output.shape:
        raise RuntimeError(
            f"mismatch in shape: gradient must have the shape of output, {shape}, got "
            f"{tuple(gradient.shape)}"
        )
    elif (gradient.is_complex() or output.is_complex()) and gradient.dtype != dtype:
        raise RuntimeError(
            f"mismatch in dtype: gradient must be {dtype}, as output is, got {gradient.dtype}"
        )
