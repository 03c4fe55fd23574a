"""Backward hooks of modules that this backward pass will not call.

A module that has one and is called puts a Node round its output, through which all gradients of its
parameters pass. So where a parameter is in the graph and no such Node is above it, the hook is not
called.
"""

from __future__ import annotations

from collections.abc import Iterator

from companion.diagnosis.case import Case
from companion.diagnosis.paths import below, shortly_listed
from companion.findings import Finding, finding
from companion.internals import has_backward_hook


def about_uncalled_hooks(case: Case) -> Iterator[Finding]:
    """One finding for all modules of the caller's variables whose hooks are not called."""
    hooked = {
        part: f"{name}.{path}" if path else name
        for name, module in reversed(list(case.modules.items()))  # the first name counts
        for path, part in module.named_modules()
        if has_backward_hook(part)
    }
    if case.graph is None or not hooked:
        return
    leaves = {node.grad_fn.variable: node.index for node in case.graph.leaves}
    calling = {node.index for node in case.nodes if node.name in _CALLING}
    called = below(case.graph, calling)
    uncalled = list[str]()
    for module, name in hooked.items():
        own = {leaves[p] for p in module.parameters() if p in leaves}
        if own and not own & called:
            uncalled.append(name)
    if uncalled:
        s, are = ("", "is") if len(uncalled) == 1 else ("s", "are")
        them = "it" if len(uncalled) == 1 else "them"
        message = f"the backward hook{s} of {shortly_listed(uncalled)} {are} not called: "
        message += f"no Node calls {them}"
        yield finding("hook", message, severity="warning", variant="uncalled")


# The Nodes that call hooks, or may.
_CALLING = {"BackwardHookFunctionBackward", "CompiledFunctionBackward"}
