"""An output that was computed from the ``.grad`` of a leaf, which has no graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from companion.diagnosis.case import Case
from companion.findings import Finding, Severity, finding
from companion.naming import listed


def about_grads_read(case: Case) -> Iterator[Finding]:
    """One finding for all that were taken: an info if each was a step, as to an adversarial
    example. Where the output has no graph, ``no-graph`` tells it."""
    if case.graph is not None and case.grads_read:
        are_steps = all(is_step for _, is_step in case.grads_read.values())
        severity: Severity | None = "info" if are_steps else None
        options = variant_and_line(case)
        yield finding("penalty-detached", grads_read_in_words(case), severity=severity, **options)


def grads_read_in_words(case: Case) -> str:
    names = listed([case.name_of(leaf) for leaf in case.grads_read], "leaves")
    return f"the output was computed from the .grad of {names}, which has no graph"


def variant_and_line(case: Case) -> dict[str, Any]:
    """The variant of a finding about them, and the line that took the first, for ``finding``."""
    operation, _ = next(iter(case.grads_read.values()))
    return {"variant": "read", "source": operation.source}
