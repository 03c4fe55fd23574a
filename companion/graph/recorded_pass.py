"""A backward pass that was recorded, by what it has: so those who show one need not know how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from companion.graph.reading import Graph

Gradients = Sequence[torch.Tensor | None]


class RecordedStep(Protocol):
    """What happened when the engine ran one Node.

    Attributes:
        node: the index of the Node in the graph.
        grad_outputs: what it was given, one gradient for each output of its operation.
        grad_inputs: what it passed on, one gradient for each entry of ``next_functions``; empty for
            a leaf, None if the Node raised.
        waiting: for each Node that it sent a gradient to, how many more were to come.
        saved: what it had saved for its formula, by name; None where that was not recorded.
    """

    @property
    def node(self) -> int: ...
    @property
    def grad_outputs(self) -> Gradients: ...
    @property
    def grad_inputs(self) -> Gradients | None: ...
    @property
    def waiting(self) -> Mapping[int, int]: ...
    @property
    def saved(self) -> Mapping[str, Any] | None: ...


@runtime_checkable
class RecordedPass(Protocol):
    """One backward pass, such as ``record_backward`` records.

    Attributes:
        graph: the graph that it ran over.
        values: what the forward pass computed, where it can be had, by Node and by number of its
            output.
        steps: a step for each Node that ran.
    """

    @property
    def graph(self) -> Graph: ...
    @property
    def values(self) -> Mapping[tuple[int, int], torch.Tensor]: ...
    @property
    def steps(self) -> Sequence[RecordedStep]: ...
