"""What the ``forward`` of a custom Function computed and saved, in a derivative of a derivative.

Inside ``forward`` no graph is made. A first derivative needs none; a second takes what was computed
there for a constant, and its part of the gradient is missing without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from companion.diagnosis.case import Case
from companion.findings import Finding, finding
from companion.forward.tracing import computed_in_functions, has_functions
from companion.naming import is_tensor


def about_function_constants(case: Case) -> Iterator[Finding]:
    """A finding for each line that called such a Function, at the first Node that computes with it.

    A custom Function's own Node has what it saved for the first derivative.
    """
    if case.watch is None or not has_functions(case.watch):
        return
    saved_by = {
        tensor: node
        for node, saved in reversed(list(case.nodes_and_peeks))  # the first Node counts
        for _, tensor in saved.tensors
        if is_tensor(tensor) and not node.is_custom
    }
    sources = computed_in_functions(case.watch, list(saved_by))
    lines = {source: saved_by[tensor] for tensor, source in reversed(sources.items())}
    for source, node in reversed(lines.items()):
        message = (
            f"{node.name} computes with what the forward of a custom Function computed, which is a "
            "constant there: the derivative of this derivative lacks a part"
        )
        options: dict[str, Any] = {"node": node.index, "source": source, "variant": "saved"}
        yield finding("constant-gradient", message, **options)
