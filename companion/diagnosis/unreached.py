"""Why no path of the graph leads to an input: each reason is told where there is evidence of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from companion.diagnosis.case import Case, Input, trouble_of, values_of
from companion.diagnosis.custom_functions import runs_backward
from companion.findings import Finding, finding
from companion.forward.places import FUNCTION
from companion.graph.nodes import GraphNode, shape_as_text
from companion.graph.reading import Graph, edge_of
from companion.internals import base_of
from companion.naming import one_line

_SELDOM = {"control-flow", "not-differentiable"}  # cuts that are seldom the one looked for


def about_an_unreached(case: Case, given: Input) -> Iterator[Finding]:
    """A finding for an input that requires grad, if no path of the graph leads to it."""
    if given in case.unreached:
        for reason in _REASONS:
            if found := reason(case, given):
                yield found
                return


def about_leaves_not_given(case: Case) -> Iterator[Finding]:
    """Parameters in the graph that are not among the parameters given: who trains them?"""
    asked = [given.tensor for given in case.inputs]
    if not asked or case.unreached or not all(isinstance(t, nn.Parameter) for t in asked):
        return
    leaves = [n for n in case.leaves_not_given if isinstance(n.grad_fn.variable, nn.Parameter)]
    if leaves:
        s, are, them = ("", "is", "it") if len(leaves) == 1 else ("s", "are", "them")
        message = (
            f"{len(leaves)} parameter{s} in the graph {are} not among the inputs: "
            f"{_listed([_shown(leaf) for leaf in leaves])}; backward() gives {them} a gradient too"
        )
        at = case.at(leaves[0].index)
        yield finding("reassigned", message, severity="info", variant="not-given", **at)


def _used_early(case: Case, given: Input) -> Finding | None:
    if not (given.tensor.is_leaf and given.saved_by):
        return None
    message = f"{given.name} required no grad yet when it was used: its .grad stays None"
    return finding("late-requires-grad", message, **case.at(given.first_saved_by))


def _in_a_backward(case: Case, given: Input) -> Finding | None:
    for node in case.nodes if given.tensor.is_leaf else ():
        if node.is_custom and runs_backward(node.grad_fn):
            is_checkpoint = node.name == "CheckpointFunctionBackward"
            who = "the checkpoint" if is_checkpoint else node.name
            how = " (use_reentrant=True)" if is_checkpoint else ""
            message = (
                f"{given.name} is not in the graph of the output; {who} runs a backward pass of "
                f"its own{how}, which may give it a gradient"
            )
            return finding("unused-input", message, severity="warning", **case.at(node.index))
    return None


def _after_a_cut(case: Case, given: Input) -> Finding | None:
    """Whether its value went into the output by way of a cut."""
    reaching = {(cut.index, cut.code) for cut in case.cuts}
    cuts = [
        cut
        for cut in case.first_cuts.get(given, ())
        if cut.variant == FUNCTION or (cut.index, cut.code) in reaching
    ]
    if not cuts:
        return None
    cut = next((cut for cut in cuts if cut.code not in _SELDOM), cuts[0])
    message = f"{_absent(given)}; its value was cut off: {cut.message}"
    return finding("unused-input", message, source=cut.source, because=(cut.code, cut.variant))


def _copied(case: Case, given: Input) -> Finding | None:
    """Whether a leaf that was not given has the values of this one."""
    values = values_of(given.tensor) if given.tensor.is_leaf and case.leaf_of_values else None
    leaf = case.leaf_of_values.get(values) if values else None
    if leaf is None:
        return None
    label = "" if leaf.label == leaf.name else f", {one_line(leaf.label, 40)}"
    message = (
        f"{given.name} is not in the graph of the output, but another leaf with the same values "
        f"is{label}: its .grad stays None"
    )
    return finding("reassigned", message, **case.at(leaf.index))


def _apart(case: Case, given: Input) -> Finding | None:
    """Whether it was computed from what the output was computed from too."""
    if given.tensor.is_leaf or case.graph is None:
        return None
    shown = {node.grad_fn: _shown(node) for node in case.nodes}
    own = Graph.of(given.tensor)
    base = base_of(given.tensor)
    if base is not None and not trouble_of(base) and (fn := edge_of(base)[0]) in shown:
        message = (
            f"{given.name} is a view of {shown[fn]}, made apart: the graph of the output leads to "
            "its base and not to the view, whose .grad stays None"
        )
        return finding("unused-input", message, variant="view")
    fns = [node.grad_fn for node in own.nodes]
    meeting = [e.target for e in own.edges if fns[e.target] in shown and fns[e.source] not in shown]
    if not meeting:
        return None
    names = _listed([shown[fns[i]] for i in dict.fromkeys(meeting)])
    message = f"{_absent(given)}; it was computed apart from the output, from {names} as well"
    return finding("unused-input", message, variant="apart")


def _from_other_leaves(case: Case, given: Input) -> Finding | None:
    """Whether none of the inputs is in the graph, and other leaves are."""
    asked = sum(other.tensor.requires_grad for other in case.inputs)
    if len(case.unreached) < asked or not case.leaves_not_given:
        return None
    others = _listed([_shown(leaf) for leaf in case.leaves_not_given])
    message = f"{_absent(given)}; the graph ends at other leaves than the inputs: {others}"
    return finding("unused-input", message, variant="others")


def _unused(case: Case, given: Input) -> Finding:
    return finding("unused-input", _absent(given))


_REASONS: tuple[Callable[[Case, Input], Finding | None], ...] = (
    _used_early,
    _in_a_backward,
    _after_a_cut,
    _apart,
    _copied,
    _from_other_leaves,
    _unused,
)


def _absent(given: Input) -> str:
    return f"{given.name} is not in the graph of the output: its .grad stays None"


def _shown(node: GraphNode) -> str:
    """A Node in words: by the name of its tensor, or by what it is."""
    if node.label != node.name:
        return one_line(node.label, 40)
    what = "a leaf" if node.is_leaf else f"a result of {node.name}"
    return f"{what} of shape {shape_as_text(node)}"


def _listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


_SHOWN = 3
