"""What ``output.backward()`` will do, read from the graph alone, before it is called.

Nothing runs: a loop over the Nodes looks at what they are, where they lead and what they saved.

Each kind of finding has a question, a function that yields the findings of that kind. To add one,
write the question and put it into the tuple of its like: ``_OF_THE_OUTPUT``, ``_OF_AN_INPUT``,
``_OF_A_NODE``, or ``_QUESTIONS`` if it looks at the whole case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch

from companion.diagnosis.case import Case, Input, placed, trouble_of
from companion.diagnosis.custom_functions import peek_at
from companion.diagnosis.derivatives_yaml import NOT_IMPLEMENTED
from companion.diagnosis.nonfinite import about_the_spoilt, born_before
from companion.diagnosis.risks import is_plain, risks
from companion.diagnosis.unreached import about_an_unreached, about_leaves_not_given
from companion.diagnosis.zeros import about_zeros
from companion.findings import Finding, Severity, as_html, finding
from companion.forward.cuts import Cut
from companion.forward.places import SAMPLE
from companion.forward.tracing import first_reaching, written_at
from companion.forward.watching import Watch
from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.reading import Graph
from companion.graph.saved import Peek
from companion.internals import hooks_on, is_wrapped, unseen
from companion.naming import callers_names, one_line

Tensor = torch.Tensor
_ORDER: tuple[Severity, ...] = ("error", "warning", "info")


class Diagnosis(tuple[Finding, ...]):
    """What ``diagnose`` found: a tuple of findings, errors first. Its ``str`` reads as advice.

    Attributes:
        ok: True if ``output.backward()`` would run without an error and leave a gradient in every
            input.
    """

    _subject: str

    def __new__(cls, findings: Iterable[Finding], subject: str = "") -> Self:
        errors_first = sorted(findings, key=lambda found: _ORDER.index(found.severity))
        diagnosis = super().__new__(cls, errors_first)
        diagnosis._subject = subject
        return diagnosis

    @property
    def ok(self) -> bool:
        return all(found.severity != "error" for found in self)

    def __repr__(self) -> str:
        return f"<Diagnosis: {', '.join(found.code for found in self) or 'nothing found'}>"

    def __str__(self) -> str:
        if self.ok:
            verdict = f"backward() will run: {self._subject}."
        else:
            verdict = f"backward() will not do what you want: {self._subject}."
        return "\n\n".join([verdict, *map(str, self)])

    def _repr_html_(self) -> str:
        return as_html(str(self))


def diagnose(output: Any, *inputs: Tensor, watch: Watch | None = None) -> Diagnosis:
    """Tell what ``output.backward()`` would do, and why a gradient would be missing or wrong.

    Nothing is executed, no gradient is computed, no ``.grad`` is touched. Saved tensors are looked
    at, but not where that would run hooks (``saved_tensors_hooks``, a non-reentrant checkpoint).

    ``.ok`` is True exactly when ``output.backward()`` would run without an error and leave a
    gradient, not None, in every input; a ``.grad`` that is left over from before does not count.
    Warnings and infos do not change it. What nobody can tell from a graph:

    - what the ``backward`` of a custom Function does: whether it raises, gives None, or gives
      gradients of a wrong number or shape. One that was freed is taken to fail where its code,
      or that of a function of its module that it names, names ``saved_tensors``;
    - what was saved inside a ``CopySlices``, the Node of a change to a part of a tensor, and
      whether an earlier backward pass freed it;
    - whether a tensor that was saved through hooks can be had again;
    - what a backward pass inside the backward of a custom Function reaches. That of
      ``torch.utils.checkpoint`` with ``use_reentrant=True`` gives gradients to parameters that no
      path of the graph leads to: with one in the graph they are a warning;
    - what your hooks do: raise, or change the gradient;
    - what becomes of a leaf that was given other values of another shape through ``.data``;
    - errors that depend on the values of gradients, such as those of singular value
      decompositions, on how they lie in memory, or on devices.

    Args:
        output: the tensor to call backward on, of any shape and dtype. A number or an array is a
            finding, not an error.
        *inputs: the tensors that should get a gradient, such as ``*model.parameters()``.
        watch: what ``with watch() as watched:`` saw of the forward pass. With it findings have the
            line of your program, and cuts that leave the rest of the graph whole are found.

    Returns:
        The findings, errors first, then warnings, then infos.

    Raises:
        TypeError: an input is not a tensor, or ``watch`` is not a ``Watch``.

    Examples:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> w = torch.ones(2, requires_grad=True)
        >>> diagnose((x * x).sum(), x).ok
        True
        >>> diagnosis = diagnose((x * x).sum(), x, w)
        >>> diagnosis.ok, diagnosis[0].code, diagnosis[0].message
        (False, 'unused-input', 'w is not in the graph of the output: its .grad stays None')
        >>> diagnose(x * x, x)[0].code
        'non-scalar'
    """
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"input {index} must be a tensor, got {type(tensor).__name__}; unpack lists and "
                "generators with a star: diagnose(loss, *model.parameters())"
            )
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            f"watch must be what `with watch() as watched:` gave, got {type(watch).__name__}"
        )
    names = callers_names()
    with unseen(), torch.no_grad():
        case = _look(output, inputs, names, watch)
        return Diagnosis(_ask(_QUESTIONS, case), case.subject)


def _look(
    output: Any, inputs: Sequence[Tensor], names: Mapping[str, Tensor], watch: Watch | None
) -> Case:
    """Read the graph and what its Nodes saved, all that the questions ask about."""
    if not isinstance(output, Tensor) or not output.requires_grad or trouble_of(output):
        return Case(output, placed(inputs, names), watch)
    graph = Graph.of(output, names=names)
    peeks = [peek_at(node) for node in graph.nodes]
    return Case(output, placed(inputs, names, graph.nodes, peeks), watch, graph, peeks)


def _code_of(trouble: str, otherwise: str) -> str:
    return "multi-view-in-place" if "modified inplace" in trouble else otherwise


def _ask(questions: Sequence[Callable[..., Iterator[Finding]]], *about: Any) -> Iterator[Finding]:
    """What all of these questions find."""
    for question in questions:
        yield from question(*about)


# ---- the output


def _about_the_output(case: Case) -> Iterator[Finding]:
    if isinstance(case.output, Tensor):
        yield from _ask(_OF_THE_OUTPUT, case, case.output)
    else:
        message = f"the output is a {type(case.output).__name__}, not a tensor"
        yield finding("not-a-tensor", message)


def _no_graph(case: Case, output: Tensor) -> Iterator[Finding]:
    if output.requires_grad and case.graph is None:
        trouble = trouble_of(output)
        yield finding(_code_of(trouble, "no-graph"), f"backward() will raise: {trouble}")
    elif case.graph is None:
        message = f"the output does not require grad: {_why_no_graph(case)}"
        cuts = first_reaching(case.watch, output) if case.watch else ()
        source = cuts[0].source if cuts else None
        variant = "transform" if is_wrapped(output) else "inference" * output.is_inference()
        because = (cuts[0].code, cuts[0].variant) if cuts and not variant else None
        yield finding("no-graph", message, source=source, variant=variant, because=because)


def _why_no_graph(case: Case) -> str:
    output = case.output
    if is_wrapped(output):
        return "it is inside a transform such as torch.vmap; diagnose the result, outside of it"
    if output.is_inference():
        return "it was made under torch.inference_mode()"
    if not (output.is_floating_point() or output.is_complex()):
        return f"it is {output.dtype}, and whole numbers have no derivative"
    if case.inputs and not any(given.tensor.requires_grad for given in case.inputs):
        return "none of the inputs requires grad"
    if case.watch and (cuts := first_reaching(case.watch, output)):
        return cuts[0].message
    return "its history was cut, or no tensor in it required grad"


def _leaf_output(case: Case, output: Tensor) -> Iterator[Finding]:
    if case.graph is not None and case.is_a_leaf_apart:
        message = "the output is itself a leaf: no other tensor can get a gradient from it"
        # Without inputs to fill, this backward does what it says.
        yield finding("leaf-output", message, severity="error" if case.inputs else "warning")


def _first_gradient(case: Case, output: Tensor) -> Iterator[Finding]:
    """Whether ``backward()`` can make up the gradient of the output, 1.0."""
    if not output.requires_grad:
        return
    if output.numel() != 1:
        shape = shape_or_none(output)
        kind = "is nested" if shape is None else f"has shape {shape}"
        yield finding("non-scalar", f"the output {kind}, and backward() needs one element")
    elif output.layout is not torch.strided:
        message = f"the output is {output.layout}, and backward() needs a dense tensor"
        yield finding("non-scalar", message)
    elif output.is_complex():
        message = f"the output is complex ({output.dtype}), and backward() needs a real number"
        yield finding("complex-output", message)


def _non_finite(case: Case, output: Tensor) -> Iterator[Finding]:
    if is_plain(output) and not output.isfinite().all():
        born, source = born_before(case.watch, output) if case.watch else ("", None)
        yield finding("non-finite", f"the output itself is infinite or NaN{born}", source=source)


_OF_THE_OUTPUT: tuple[Callable[[Case, Tensor], Iterator[Finding]], ...] = (
    _no_graph,
    _leaf_output,
    _first_gradient,
    _non_finite,
)


# ---- the inputs


def _about_the_inputs(case: Case) -> Iterator[Finding]:
    for given in case.inputs:
        if not given.tensor.requires_grad:
            yield _without_grad(case, given)
        elif given.trouble:
            message = f"{given.name} cannot get a gradient: {given.trouble}"
            variant = "inference" * given.tensor.is_inference()
            code = _code_of(given.trouble, "input-without-grad")
            yield finding(code, message, variant=variant)
        else:
            yield from _ask(_OF_AN_INPUT, case, given)


def _without_grad(case: Case, given: Input) -> Finding:
    name, tensor, at = given.name, given.tensor, case.at(given.first_saved_by)
    if tensor.is_inference():
        message = f"{name} was made under torch.inference_mode() and cannot get a gradient"
        return finding("inference-tensor", message, **at)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        message = f"{name} is {tensor.dtype} and cannot get a gradient"
        return finding("integer-tensor", message, **at)
    if is_wrapped(tensor):
        message = f"{name} is inside a transform such as torch.vmap, where it does not require grad"
        return finding("input-without-grad", message, variant="transform", **at)
    as_constant = ", and the graph has it as a constant" if given.saved_by else ""
    message = f"{name} does not require grad{as_constant}: its .grad stays None"
    return finding("input-without-grad", message, **at)


def _constant_somewhere(case: Case, given: Input) -> Iterator[Finding]:
    if not (given.tensor.is_leaf and case.is_reached(given)):
        return
    for index in given.saved_by:
        if not any(edge and edge.target == given.node for edge in case.slots(index)):
            name = given.name
            message = f"{name} counts as a constant in one place, where it required no grad yet"
            yield finding("late-requires-grad", message, severity="warning", **case.at(index))
            return


def _not_a_leaf(case: Case, given: Input) -> Iterator[Finding]:
    if not (given.tensor.is_leaf or given.tensor.retains_grad) and case.is_reached(given):
        message = f"{given.name} is not a leaf: its .grad stays None"
        yield finding("not-a-leaf", message, **case.at(given.node))


def _accumulates(case: Case, given: Input) -> Iterator[Finding]:
    if given.grad is not None:
        yield finding("accumulates", f"{given.name} has a .grad already: backward() adds to it")


def _cycle(case: Case, given: Input) -> Iterator[Finding]:
    if given.grad is not None and given.grad.requires_grad:
        message = f"the .grad of {given.name} has a graph, which keeps all that is in it alive"
        yield finding("reference-cycle", message)


def _complex(case: Case, given: Input) -> Iterator[Finding]:
    if given.tensor.is_complex():
        message = f"{given.name} is complex: its gradient is that of steepest ascent"
        yield finding("complex-conjugate", message)


def _hooked(case: Case, given: Input) -> Iterator[Finding]:
    if hooks := hooks_on(given.tensor):
        s = "s" * (hooks != 1)
        yield finding("hook", f"{given.name} has {hooks} hook{s} that may change its gradient")


_OF_AN_INPUT: tuple[Callable[[Case, Input], Iterator[Finding]], ...] = (
    about_an_unreached,
    _constant_somewhere,
    _not_a_leaf,
    _accumulates,
    _cycle,
    _complex,
    _hooked,
)


# ---- the Nodes


def _about_the_nodes(case: Case) -> Iterator[Finding]:
    for node, saved in case.nodes_and_peeks:
        yield from _ask(_OF_A_NODE, case, node, saved)


def _not_recorded(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    if node.name == "Error":
        message = "the pass will raise at the end of a backward that was not recorded"
        yield finding("once-differentiable", message, **case.at(node.index))


def _not_implemented(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    raising = NOT_IMPLEMENTED.get(node.name, ())
    slots = case.slots(node.index) if raising else ()
    if node.name == "NotImplemented" or any(slots[slot] for slot in raising if slot < len(slots)):
        message = "backward() will raise at a Node without a formula"
        yield finding("not-implemented", message, **case.at(node.index))


def _overwritten(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    if node.is_leaf and node.grad_fn.variable.grad_fn is not None:
        leaf = "a leaf" if node.label == node.name else f"the leaf {one_line(node.label, 40)}"
        message = f"backward() will raise: {leaf} was overwritten by a result"
        yield finding("leaf-in-place", message, **case.at(node.index))


def _whole_numbers(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    """Torch lets floats with a graph into whole numbers, which can have no gradient."""
    dtype = node.dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        message = f"backward() will raise: the values of {node.name} are {dtype}"
        yield finding("integer-tensor", message, **case.at(node.index))


def _changed(case: Case, node: GraphNode, saved: Peek) -> Iterator[Finding]:
    reasons = saved.broken.values()
    if not reasons or "freed" in reasons:  # _about_freed_nodes says that once for all
        return
    at = case.at(node.index)
    if "a stale view" in reasons:
        message = f"backward() will raise: {node.name} saved a view whose base was changed"
        yield finding("multi-view-in-place", message, **at)
        return
    names = " and ".join(saved.broken)
    message = f"backward() will raise: {node.name} saved {names}, which was changed since"
    written = [written_at(case.watch, tensor) for tensor in saved.changed] if case.watch else []
    if source := next(filter(None, written), None):  # better than where it was saved
        at |= {"where": f"{at['where']}; changed at {source}", "source": source}
    yield finding("modified-in-place", message, **at)


_OF_A_NODE: tuple[Callable[[Case, GraphNode, Peek], Iterator[Finding]], ...] = (
    _not_recorded,
    _not_implemented,
    _overwritten,
    _whole_numbers,
    _changed,
)


# ---- the graph as a whole


def _about_freed_nodes(case: Case) -> Iterator[Finding]:
    freed = [node.index for node, saved in case.nodes_and_peeks if "freed" in saved.broken.values()]
    if freed:
        count = len(freed)
        nodes = "a Node has freed what it" if count == 1 else f"{count} Nodes have freed what they"
        message = f"{nodes} saved: an earlier backward pass ran here"
        yield finding("freed", message, **case.at(freed[0]))


def _about_the_values(case: Case) -> Iterator[Finding]:
    spoilt = dict[int, str]()
    for node, saved in case.nodes_and_peeks:
        outputs = {number for number in range(3) if (node.index, number) in case.reached}
        about = shape_or_none(node), case.slots(node.index), outputs
        for code, message in risks(node.name, saved, *about):
            if code == "non-finite":
                spoilt[node.index] = message
            else:
                yield finding(code, message, **case.at(node.index))
    yield from about_the_spoilt(case, spoilt)


def _about_precision(case: Case) -> Iterator[Finding]:
    for node in case.nodes:
        if node.dtype in (torch.float16, torch.bfloat16):
            message = f"gradients pass here as {node.dtype}"
            yield finding("half-precision", message, **case.at(node.index))
            return  # one finding is enough


def _about_custom_functions(case: Case) -> Iterator[Finding]:
    first = dict[str, GraphNode]()
    for node in case.nodes:
        if node.is_custom:
            first.setdefault(node.name, node)
    for name, node in first.items():
        message = f"{name} is a custom Function, whose backward cannot be checked unrun"
        yield finding("custom-gradients", message, severity="info", **case.at(node.index))


# ---- what a watch saw


def _about_the_cuts(case: Case) -> Iterator[Finding]:
    if case.watch is None:
        return
    yield from _counted(case.cuts)
    # What became of a number in Python, or of an array in NumPy, nobody followed.
    reached = {cut.index for cut in case.cuts}
    lost = [cut for cut in case.watch.cuts if not cut.follows and cut.index not in reached]
    yield from _counted(lost, "; whether it came back into the output is not known", "info")


def _counted(
    cuts: Iterable[Cut], end: str = "", severity: Severity | None = None
) -> Iterator[Finding]:
    """One finding for all the times that a line ran."""
    lines = Counter((cut.code, cut.variant, cut.message, cut.source) for cut in cuts)
    for (code, variant, message, source), times in lines.items():
        text = message + (f" ({times} times)" if times > 1 else "") + end
        # What is drawn is a constant on purpose, unless an input is missing.
        how_bad = severity or ("info" if variant == SAMPLE else None)
        yield finding(code, text, severity=how_bad, source=source, variant=variant)


def _about_mutations(case: Case) -> Iterator[Finding]:
    for mutation in case.watch.mutations if case.watch else ():
        yield finding("changed-behind", mutation.message, source=mutation.source)


_QUESTIONS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _about_the_output,
    _about_the_inputs,
    about_leaves_not_given,
    _about_the_nodes,
    _about_freed_nodes,
    _about_the_cuts,
    _about_mutations,
    about_zeros,
    _about_the_values,
    _about_precision,
    _about_custom_functions,
)
