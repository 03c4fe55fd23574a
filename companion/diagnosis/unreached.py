"""Why no path of the graph leads to an input: each reason is told where there is evidence of it.

Of an input that a cut keeps from its gradient ``cuts`` tells, with the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from companion.diagnosis.case import Case
from companion.diagnosis.folding import Said, names_of_all, said
from companion.diagnosis.grads_read import grads_read_in_words, variant_and_line
from companion.diagnosis.inputs import Input, trouble_of
from companion.diagnosis.unregistered import Kept, unregistered_in
from companion.findings import Finding, Severity, finding
from companion.forward.cuts import Operation
from companion.forward.fingerprints import memory_of
from companion.forward.new_leaves import NewLeaf, view_made_into
from companion.forward.tracing import was_begun_in
from companion.graph.nodes import GraphNode, shape_as_text
from companion.graph.reading import Graph, edge_of
from companion.internals import base_of
from companion.naming import counted, is_tensor, one_line

_ABSENT = "{name} {is} not in the graph of the output"
_STAYS_NONE = "{its} .grad stays None"
_LEAF = "leaf", "leaves"
_SHOWN = 3


def about_an_unreached(case: Case, given: Input) -> Iterator[Said]:
    """What is said of an input that requires grad, if no path of the graph leads to it."""
    is_unreached = given in case.unreached and not case.is_a_leaf_apart  # which is said of that
    if is_unreached and given not in case.behind_a_cut:
        yield next(filter(None, (reason(case, given) for reason in _REASONS)))


def about_what_was_written_aside(case: Case) -> Iterator[Finding]:
    """A part of a gradient that is missing since results were written through ``.data``."""
    if case.partly_aside:
        operation = next(iter(case.partly_aside.values()))
        message = (
            f"{_written_aside_by(operation, 'the output')}; the graph of these is lost, and "
            f"{names_of_all(list(case.partly_aside))} can only get a gradient by another way"
        )
        yield finding("copied", message, variant="alias", source=operation.source)


def about_leaves_not_given(case: Case) -> Iterator[Finding]:
    """Parameters in the graph that are not among the parameters given: who trains them?"""
    asked = [given.tensor for given in case.inputs]
    if not asked or not all(isinstance(tensor, nn.Parameter) for tensor in asked):
        return
    known = unregistered_in(case.modules, case.held) if case.leaves_not_given else {}
    for variant, reason, severity in _NOT_GIVEN:
        leaves = [node for node in case.leaves_not_given if _who_has(case, known, node) == variant]
        if leaves and not (case.unreached and severity == "info"):
            are, them = ("is", "it") if len(leaves) == 1 else ("are", "them")
            kept = [known.get(node.grad_fn.variable) for node in leaves]
            names = [k.way if k else _in_words(n) for k, n in zip(kept, leaves, strict=True)]
            is_parameter = all(isinstance(node.grad_fn.variable, nn.Parameter) for node in leaves)
            number = counted(len(leaves), *(("parameter",) if is_parameter else _LEAF))
            message = (
                f"{number} in the graph {are} not among the inputs{reason}: {_some(names)}; "
                f"backward() gives {them} a gradient too"
            )
            at = case.at(leaves[0].index)
            yield finding("reassigned", message, severity=severity, variant=variant, **at)


# By variant the reason, as far as it is known, why leaves of the graph are not among the inputs.
_NOT_GIVEN: list[tuple[str, str, Severity]] = [
    ("unregistered", ", but kept where parameters() does not look", "warning"),
    ("result", ", and kept only as a result, not as a parameter", "warning"),
    ("made-anew", ", but made in the watched block", "info"),
    ("not-given", "", "info"),
]


def _who_has(case: Case, unregistered: Mapping[Tensor, Kept], node: GraphNode) -> str:
    """Which variant is to be said of a leaf that is not given; "" if it is no parameter."""
    leaf = node.grad_fn.variable
    if is_tensor(leaf) and leaf in unregistered:
        return "result" if unregistered[leaf].is_result else "unregistered"
    if not isinstance(leaf, nn.Parameter):
        return ""
    is_new = case.watch is not None and was_begun_in(case.watch, leaf)
    return "made-anew" if is_new and leaf not in case.held else "not-given"


def _without_values(case: Case, given: Input) -> Said | None:
    """Whether it belongs to a lazy module that was not called yet."""
    if not is_lazy(given.tensor):
        return None
    text = "{name} {has} no values yet: no forward pass came to the lazy module that has {them}"
    return said(given, "unused-input", f"{text}, and {_STAYS_NONE}", variant="lazy")


def _used_early(case: Case, given: Input) -> Said | None:
    text = f"{{name}} required no grad yet when {{it was}} used: {_STAYS_NONE}"
    if given.is_constant:
        return said(given, "late-requires-grad", text, **case.at(given.first_saved_by))
    if operation := case.taken_early.get(given):
        return said(given, "late-requires-grad", text, source=operation.source)
    return None


def _by_a_bare_view(case: Case, given: Input) -> Said | None:
    """Whether a Node saved a view of it, or of what it went into, that has no Node."""
    for node, base in case.bare_views:
        if trouble_of(base):
            continue
        ends = [leaf.grad_fn.variable for leaf in Graph.of(base).leaves]
        if any(end is given.tensor for end in ends):
            whose = "{them}" if base is given.tensor else "what came of {them}"
            text = (
                f"{_ABSENT}, but a view of {whose} without a Node is, which was made with "
                f"gradients off, or before its base required grad: {_STAYS_NONE}"
            )
            options = {"severity": "error", "variant": "view", **case.at(node.index)}
            return said(given, "no-grad", text, **options)
    return None


def _in_a_backward(case: Case, given: Input) -> Said | None:
    node = case.running_backward
    if node is None or not given.tensor.is_leaf:
        return None
    is_checkpoint = node.name == "CheckpointFunctionBackward"
    who = "the checkpoint" if is_checkpoint else node.name
    how = " (use_reentrant=True)" if is_checkpoint else ""
    text = (
        f"{_ABSENT}; {who} runs a backward pass of its own{how}, which may give {{them}} a gradient"
    )
    variant = "nested"
    options = {"severity": "warning", "variant": variant, **case.at(node.index)}
    return said(given, "unused-input", text, **options)


def _in_the_same_memory(case: Case, given: Input) -> Said | None:
    """Whether a leaf that was not given shows the memory of this one, as ``nn.Parameter(w)``."""
    memory = memory_of(given.tensor) if given.tensor.is_leaf else None
    leaf = None if memory is None else case.leaf_in_memory.get(memory)
    if leaf is None:
        return None
    text = f"{_ABSENT}, but {{another leaf}} in the same memory {{is}}"
    at, watch = case.at(leaf.index), case.watch
    if view := watch and view_made_into(watch, given.tensor, leaf.grad_fn.variable):
        text, at = f"{text}, made of what {view.called} gave", {"source": view.source}
    return said(given, "reassigned", f"{text}: {_STAYS_NONE}", variant="memory", **at)


def _copied(case: Case, given: Input) -> Said | None:
    """Whether a leaf that was not given has the values of this one."""
    leaf = case.copies.get(given)
    if leaf is None:
        return None
    text = f"{_ABSENT}, but {{another leaf}} with the same values {{is}}: {_STAYS_NONE}"
    return said(given, "reassigned", text, **case.at(leaf.index))


def _apart(case: Case, given: Input) -> Said | None:
    """Whether it was computed from what the output was computed from too."""
    if given.tensor.is_leaf:
        return None
    in_graph = {node.grad_fn: node for node in case.nodes}
    own = Graph.of(given.tensor)
    base = base_of(given.tensor)
    if base is not None and not trouble_of(base) and (fn := edge_of(base)[0]) in in_graph:
        text = (
            f"{{name}} {{is}} a view of {_shown([in_graph[fn]])}, made apart: the graph of the "
            f"output leads to the base and not to {{them}}: {_STAYS_NONE}"
        )
        return said(given, "unused-input", text, variant="view")
    fns = [node.grad_fn for node in own.nodes]
    both = [
        edge.target
        for edge in own.edges
        if fns[edge.target] in in_graph and fns[edge.source] not in in_graph
    ]
    if not both:
        return None
    names = _shown([in_graph[fns[index]] for index in dict.fromkeys(both)])
    text = (
        f"{_ABSENT}: {_STAYS_NONE}; {{it was}} computed apart from the output, from {names} as well"
    )
    return said(given, "unused-input", text, variant="apart")


def _only_added(case: Case, given: Input) -> Said | None:
    """Whether the output was computed from a gradient, in which it has no part."""
    if given not in case.differentiated:
        return None
    text = (
        f"{_ABSENT}: {_STAYS_NONE}; the output was computed from a gradient of what {{it}} went "
        "into, and a gradient does not depend on what is only added"
    )
    return said(given, "unused-input", text, variant="only-added")


def _into_a_parameter(case: Case, given: Input) -> Said | None:
    """Whether what was computed from it became the values of a parameter, by an unseen way."""
    if given not in case.new_leaves:
        return None
    node, new = case.new_leaves[given]
    variant = "written" if new.is_written else "parameter"
    return _lost_at(given, new.operation, "copied", variant, f"{how_it_ended(node, new)}, a leaf")


def _lost_at(given: Input, operation: Operation, code: str, variant: str, how: str) -> Said:
    """What is said of an input whose values an operation took out of the graph."""
    text = f"{_ABSENT}: {_STAYS_NONE}; {how}"
    return said(given, code, text, severity="error", variant=variant, source=operation.source)


def how_it_ended(node: GraphNode, new: NewLeaf) -> str:
    """How a parameter got values that were computed from other tensors, in words."""
    if new.is_written:
        return f"{new.operation.called} wrote the value into {_in_words(node)}"
    return f"{_in_words(node)} was made of what {new.operation.called} gave"


def _written_aside(case: Case, given: Input) -> Said | None:
    """Whether what was computed from it was written into memory by way of ``.data``."""
    if given not in case.written_aside:
        return None
    operation = case.written_aside[given]
    how = _written_aside_by(operation, "the output")
    return _lost_at(given, operation, "copied", "alias", how)


def written_aside_in_words(case: Case) -> str:
    """How values of inputs came into the output without a graph."""
    return _written_aside_by(next(iter(case.written_aside.values())), "it")


def _written_aside_by(operation: Operation, output: str) -> str:
    return (
        f"{operation.called} wrote values through .data or detach() into what {output} was "
        "computed from"
    )


def _taken_as_an_alias(case: Case, given: Input) -> Said | None:
    """Whether an alias of it that requires no grad, as its ``.data``, went into the output."""
    if given not in case.taken_as_alias:
        return None
    operation = case.taken_as_alias[given]
    return _lost_at(given, operation, "detached", "before", taken_in_words(operation, "{them}"))


def taken_in_words(operation: Operation, whose: str) -> str:
    """How values of inputs came into the output without a graph, from before the block."""
    return (
        f"{operation.called} took the values of {whose} without a graph, as detach(), .data and "
        "state_dict() give them, from before the watched block"
    )


def _in_a_grad(case: Case, given: Input) -> Said | None:
    """Whether a pass came to it that filled a ``.grad`` from which the output was computed."""
    if given.grad is None or not case.grads_read:
        return None
    text = f"no gradient comes to {{name}}; {grads_read_in_words(case)}"
    return said(given, "penalty-detached", text, severity="error", **variant_and_line(case))


def _left_torch(case: Case, given: Input) -> Said | None:
    """Whether its values became numbers or arrays: what came of these has no graph."""
    cut = case.last_to_leave.get(given)
    if cut is None:
        return None
    if cut.code == "not-differentiable":
        reason = f"{cut.message.partition(';')[0]}, and these left torch"
        text, variant = f"{_ABSENT}: {_STAYS_NONE}; {reason}", "harmful"
        options = {"severity": "error", "variant": variant, "source": cut.source}
        return said(given, "not-differentiable", text, **options)
    text = f"{_ABSENT}: {_STAYS_NONE}; {{its}} values left torch by way of {case.way_out(cut)}"
    return said(given, "unused-input", text, variant="left", source=cut.source)


def _decided(case: Case, given: Input) -> Said | None:
    """Whether Python decided by its values, and they went into nothing else that is known."""
    cut = case.deciding.get(given)
    if cut is None:
        return None
    how = f"the watch saw {{its}} values only decide what was computed, by {cut.operation.called}"
    text = f"{_ABSENT}: {_STAYS_NONE}; {how}"
    return said(given, "unused-input", text, variant="decided", source=cut.source)


def _from_other_leaves(case: Case, given: Input) -> Said | None:
    """Whether none of the inputs is in the graph, and other leaves are."""
    if len(case.unreached) < len(case.inputs_with_grad) or not case.leaves_not_given:
        return None
    others = _shown(case.leaves_not_given)
    text = f"{_ABSENT}: {_STAYS_NONE}; the graph ends at other leaves than the inputs: {others}"
    leaves = [node.grad_fn.variable for node in case.leaves_not_given]
    are_weights = all(isinstance(leaf, nn.Parameter) for leaf in leaves)
    is_data = are_weights and not isinstance(given.tensor, nn.Parameter)
    variant = "data" if is_data else "others"
    return said(given, "unused-input", text, variant=variant)


def _replaced(case: Case, given: Input) -> Said | None:
    """Whether the modules here hold parameters that are in the graph, and do not hold this one."""
    held = case.held
    others = [node for node in case.leaves_not_given if node.grad_fn.variable in held]
    if not others or given.tensor in held or not isinstance(given.tensor, nn.Parameter):
        return None
    are = "is" if len(others) == 1 else "are"
    text = f"{_ABSENT}: {_STAYS_NONE}; no module here has {{them}}, and the graph has "
    text += f"{_shown(others)}, which {are} not among the inputs"
    return said(given, "unused-input", text, variant="others")


def _unused(case: Case, given: Input) -> Said:
    if given in case.unseen:
        text = f"{_ABSENT}: {_STAYS_NONE}; the watch saw nothing use {{them}}"
        return said(given, "unused-input", text, variant="unseen")
    is_parameter = isinstance(given.tensor, nn.Parameter) and case.watch is None
    variant = "unwatched" if is_parameter else ""
    return said(given, "unused-input", f"{_ABSENT}: {_STAYS_NONE}", variant=variant)


_REASONS: tuple[Callable[[Case, Input], Said | None], ...] = (
    _without_values,
    _taken_as_an_alias,  # before _used_early: both are of one memory
    _used_early,
    _by_a_bare_view,
    _in_a_backward,
    _apart,
    _in_the_same_memory,
    _copied,
    _into_a_parameter,
    _written_aside,
    _in_a_grad,
    _only_added,
    _left_torch,
    _decided,
    _from_other_leaves,
    _replaced,
    _unused,
)


def _shown(nodes: Sequence[GraphNode]) -> str:
    """The first of some Nodes in words, and how many more there are."""
    return _some(list(map(_in_words, nodes)))


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _in_words(node: GraphNode) -> str:
    """A Node by the name of its tensor, or by what it is."""
    if node.label != node.name:
        return one_line(node.label, 40)
    what = "a leaf" if node.is_leaf else f"a result of {node.name}"
    return f"{what} of shape {shape_as_text(node)}"
