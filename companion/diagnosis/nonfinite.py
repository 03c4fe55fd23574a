"""NaN and infinities of the forward pass: where they were born, and whether something hid them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.values import is_finite, is_plain
from companion.findings import Finding, finding
from companion.forward.cuts import Operation
from companion.forward.tracing import births_before, hidden_by
from companion.forward.watching import Watch
from companion.source import Source


def about_the_spoilt(case: Case, spoilt: Mapping[int, str]) -> Iterator[Finding]:
    """A finding for each Node with infinite or NaN values that has no other such Node below.

    Args:
        case: what is diagnosed.
        spoilt: by Node what is to be said of it.
    """
    hidden = is_hidden(case)
    above = _above(case, spoilt) if spoilt else set()
    for index, message in spoilt.items():
        if index in above:
            continue
        node, variant = case.nodes[index], "masked" if hidden else ""
        if operation_of(node.name) in ("Softmax", "LogSoftmax"):
            variant = "empty-row"
        if hidden:
            operation = hidden_by(case.watch, node.grad_fn) if case.watch else None
            by = _placed(operation) if operation else "something after it"
            message += (
                f"; {by} hides that from the output, which is finite, but not from backward()"
            )
        code = "nan-risk" if hidden else "non-finite"
        yield finding(code, message, variant=variant, **case.at(index))


def is_hidden(case: Case) -> bool:
    """Whether the output is finite, so that no NaN inside of the graph shows."""
    return is_plain(case.output) and is_finite(case.output)


def _above(case: Case, spoilt: Mapping[int, str]) -> set[int]:
    """The Nodes from which a path leads to another one of these."""
    above = set[int]()
    for index in reversed(case.graph.order if case.graph else ()):  # after all that it leads to
        if any(e and (e.target in above or e.target in spoilt) for e in case.slots(index)):
            above.add(index)
    return above


def all_below(case: Case, nodes: Collection[int]) -> set[int]:
    """The Nodes to which a path leads from one of these."""
    below = set[int]()
    for index in case.graph.order if case.graph else ():  # before all that it leads to
        if index in below or index in nodes:
            below |= {edge.target for edge in case.slots(index) if edge}
    return below


def born_before(watch: Watch, output: torch.Tensor) -> tuple[str, Source | None]:
    """Where the NaN or infinity of an output was born: the end of a sentence, and the line."""
    births = births_before(watch, output)
    if not births:
        return "", None
    made = f", and {_placed(births[1])} made NaN of it" if births[1:] else ""
    return f": {_placed(births[0])} gave the first{made}", births[0].source


def _placed(operation: Operation) -> str:
    """An operation and its line, in words."""
    return operation.called + (f" at {operation.source}" if operation.source else "")


def born_in(watch: Watch) -> tuple[str, Source | None]:
    """Where the first NaN or infinity of a block was born: a sentence, and the line."""
    first = watch.first_nonfinite
    if first is None:
        return "every result in the watched block was finite, or no worse than what it took", None
    return f"the first result that was not finite is that of {_placed(first)}", first.source
