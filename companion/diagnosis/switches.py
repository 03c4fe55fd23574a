"""Modules that only seem frozen: set on a module, ``requires_grad`` is a name like any other."""

from __future__ import annotations

from collections.abc import Iterator

from companion.diagnosis.case import Case
from companion.diagnosis.paths import shortly_listed
from companion.findings import Finding, finding
from companion.naming import is_tensor


def about_switches(case: Case) -> Iterator[Finding]:
    """One finding for all modules of the caller that only seem to be frozen."""
    leaves = set(filter(is_tensor, (n.grad_fn.variable for n in case.nodes if n.is_leaf)))
    named = {
        part: f"{name}.{path}" if path else name
        for name, module in reversed(list(case.modules.items()))  # the first name counts
        for path, part in module.named_modules()
        if vars(part).get("requires_grad") is False
    }
    unfrozen = [
        name
        for part, name in named.items()
        if any(p in leaves for p in filter(is_tensor, part.parameters()) if p.requires_grad)
    ]
    if unfrozen:
        s, have = ("", "has") if len(unfrozen) == 1 else ("s", "have")
        message = f"the module{s} {shortly_listed(unfrozen)} {have} an attribute requires_grad "
        message += "that is False, and parameters in the graph that get a gradient all the same"
        yield finding("input-without-grad", message, severity="warning", variant="module")
