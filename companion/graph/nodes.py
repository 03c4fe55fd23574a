"""The parts of a Graph: its Nodes and the edges between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from companion.graph.saved import SavedTensor, saved_tensors
from companion.internals import Node, metadata_of


@dataclass(frozen=True, slots=True)
class Edge:
    """One entry of ``next_functions`` that is not None.

    Attributes:
        source: index of the Node whose ``next_functions`` holds the entry.
        target: index of the Node it leads to.
        slot: position of the entry in ``next_functions``.
        input_nr: which input of the target the gradient enters: the number of the forward output,
            counting those that can have a gradient.
    """

    source: int
    target: int
    slot: int
    input_nr: int


@dataclass(frozen=True, slots=True, eq=False)
class GraphNode:
    """One Node of a graph. What costs time or has a side effect is read when you ask for it.

    Attributes:
        index: its position in ``Graph.nodes``; Nodes nearer to a root come first.
        label: the name of the tensor it stands for, where known; else the same as ``name``.
        grad_fn: the live Node.
        module: the path of the module that made it, where ``companion.modules`` noted it and the
            module is not the model itself; else None.
    """

    index: int
    label: str
    grad_fn: Node = field(repr=False)
    module: str | None = field(default=None, repr=False)
    _output_nr: int = field(default=0, repr=False)

    @property
    def name(self) -> str:
        """The class of the Node: ``"MmBackward0"``, ``"AccumulateGrad"``."""
        return type(self.grad_fn).__name__

    @property
    def is_leaf(self) -> bool:
        """Whether this is the ``AccumulateGrad`` of a leaf tensor."""
        return type(self.grad_fn).__name__ == "AccumulateGrad"

    @property
    def is_custom(self) -> bool:
        """Whether this Node is the backward of a ``torch.autograd.Function`` written in Python."""
        return isinstance(self.grad_fn, torch.autograd.function.BackwardCFunction)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf, or of the operation's output by which the graph reached this Node.

        Raises:
            ValueError: it is a nested tensor of the strided layout, which has no shape, or a
                parameter of a lazy module that was not called.
        """
        try:
            return tuple(self._output.shape)
        except RuntimeError as error:
            if is_lazy(self._output):
                raise ValueError(f"{self.name} has no shape before the module is called") from error
            raise ValueError(
                f"{self.name} belongs to a nested tensor of the strided layout, which has no "
                "shape; make it with layout=torch.jagged"
            ) from error

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the leaf, or of the same output as ``shape``."""
        dtype: torch.dtype = self._output.dtype
        return dtype

    @property
    def _output(self) -> Any:
        if self.is_leaf:
            return self.grad_fn.variable
        return metadata_of(self.grad_fn, self._output_nr)

    @property
    def saved(self) -> tuple[SavedTensor, ...]:
        """What this Node holds for the backward pass, by name.

        Looking has a side effect where tensors were saved through hooks: it runs the unpack hooks
        of ``torch.autograd.graph.saved_tensors_hooks``, and under a non-reentrant
        ``torch.utils.checkpoint`` it runs the checkpointed forward pass again.
        """
        return tuple(saved_tensors(self.grad_fn))


def node_of(tensor: torch.Tensor) -> Node | None:
    """The Node that made a tensor; None of a leaf, and of a view whose base was changed in place.

    Nobody may use such a view any more: torch raises when asked for its Node.
    """
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def shape_or_none(value: GraphNode | SavedTensor | torch.Tensor) -> tuple[int, ...] | None:
    """The shape of a Node or a tensor; None where it has none.

    That is a nested tensor of the strided layout, or a parameter of a lazy module.
    """
    try:
        return None if value.shape is None else tuple(value.shape)
    except (RuntimeError, ValueError):
        return None


def shape_as_text(value: GraphNode | SavedTensor | torch.Tensor) -> str:
    """The shape of a Node or a tensor; "nested" or "lazy" where it has none.

    Torch numbers the ragged sizes of a process, as in ``(2, j7, 3)``; this does not.
    """
    shape = shape_or_none(value)
    if shape is None:
        tensor: Any = value._output if isinstance(value, GraphNode) else value
        return "lazy" if is_lazy(tensor) else "nested"
    return re.sub(r"\bj\d+\b", "j", str(shape))
