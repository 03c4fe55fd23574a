"""What ``output.backward()`` will do, read from the graph alone, before it is called.

No pass runs: a loop over the Nodes looks at what they are, where they lead and what they saved, and
asks those that may give infinities or NaN what their formula makes of a gradient.

Each kind of finding has a question, a function that yields the findings of that kind. To add one,
write the question and put it into the tuple of its like: ``_OF_AN_INPUT``, ``_OF_A_NODE``, or
``_QUESTIONS`` if it looks at the whole case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import nn

from companion.diagnosis.asking import Look, look_at
from companion.diagnosis.case import Case
from companion.diagnosis.choices import CHOOSING, choice_of
from companion.diagnosis.custom_functions import peek_at
from companion.diagnosis.cuts import about_the_cuts
from companion.diagnosis.derivatives_yaml import NOT_IMPLEMENTED
from companion.diagnosis.doubts import about_doubts
from companion.diagnosis.earlier_passes import about_earlier_passes
from companion.diagnosis.folding import Said, about_inputs, about_nodes, said
from companion.diagnosis.function_constants import about_function_constants
from companion.diagnosis.grads_read import about_grads_read
from companion.diagnosis.inputs import (
    Input,
    code_of_trouble,
    names_and_modules,
    placed,
    tensors_of,
    trouble_of,
)
from companion.diagnosis.losses import about_losses
from companion.diagnosis.mutations import about_mutations, about_recomputing
from companion.diagnosis.nonfinite import about_nan, about_the_spoilt_loss
from companion.diagnosis.outputs import about_a_leaf_output, about_the_output
from companion.diagnosis.rehearsing import has_half, rehearse
from companion.diagnosis.slow_slices import about_slow_slices
from companion.diagnosis.switches import about_switches
from companion.diagnosis.uncalled_hooks import about_uncalled_hooks
from companion.diagnosis.unreached import (
    about_an_unreached,
    about_leaves_not_given,
    about_what_was_written_aside,
)
from companion.diagnosis.values import is_readable
from companion.diagnosis.zeros import about_constants, about_zeros
from companion.findings import Finding, Severity, as_html, finding
from companion.forward.fingerprints import memory_of
from companion.forward.tracing import last_written_by, was_made_in
from companion.forward.watching import Watch
from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.reading import Graph
from companion.graph.saved import Peek
from companion.internals import hooks_on, is_of_torch, is_wrapped, unseen_by_all
from companion.naming import counted, one_line

Tensor = torch.Tensor
_ORDER: tuple[Severity, ...] = ("error", "warning", "info")
_ABOVE = "as above"


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
        texts, advice = [verdict], ("", "")
        for found in self:
            is_same, advice = advice == (found.cause, found.cure), (found.cause, found.cure)
            texts.append(str(replace(found, cause=_ABOVE, cure=_ABOVE) if is_same else found))
        return "\n\n".join(texts)

    def _repr_html_(self) -> str:
        return as_html(str(self))


def diagnose(
    output: Any,
    *inputs: Tensor | nn.Module,
    watch: Watch | None = None,
    names: Mapping[str, Tensor] | None = None,
) -> Diagnosis:
    """Tell what ``output.backward()`` would do, and why a gradient would be missing or wrong.

    No backward pass runs, no hook is called, no ``.grad`` is touched. Saved tensors are looked at,
    but not where that would run hooks (``saved_tensors_hooks``, a non-reentrant checkpoint). A Node
    of torch that may give infinities or NaN is asked for them: its formula is computed alone. Those
    of all Nodes are where one does and the output is finite, to see whether it arrives, and where
    gradients pass as float16, to see whether it has numbers for them. Those of the first few are
    where the output is one number, to see whether the gradient cancels. Of an output that is not
    finite, sums and products are computed again. Modes, counters of FLOPs and profilers do not see
    that.

    ``.ok`` is True exactly when ``output.backward()`` would run without an error and leave a
    gradient, not None, in every input; a ``.grad`` that is left over from before does not count.
    A parameter that is frozen (an ``nn.Parameter`` whose ``requires_grad`` is off) beside inputs
    that are not counts as meant so: an info. Warnings and infos do not change ``.ok``, nor does
    what is not known.

    What explains other findings comes before them or has them in it: with a ``watch``, a cut says
    how many inputs get no gradient because of it. It is an info where no input went in; and where a
    constant was asked for, by ``detach()``, ``torch.no_grad()``, a deep copy that requires no grad
    or the update of a weight, and the inputs that went in get a gradient by another way. Of a cut
    that torch itself or an installed library makes, such as the power iteration of
    ``spectral_norm``, nothing is said unless an input gets no gradient because of it. What is
    said of several inputs is one finding, and so is what is said of more than three Nodes.

    What nobody can tell from a graph is told where it comes up, as ``custom-gradients`` or
    ``cannot-know``:

    - what the ``backward`` of a custom Function does: whether it raises, gives None, or gives
      gradients of a wrong number or shape. One that was freed is taken to fail where its code,
      or that of a function of its module that it names, names ``saved_tensors``;
    - what a formula does that gives no gradient, or raises, for how it was called: ``norm(p=0)``,
      the sign of ``slogdet``, modes of ``qr``, sparse tensors, an operator without a formula;
    - what a formula divides by that was saved through hooks, as in a checkpoint;
    - what ``torch.compile`` compiled, what is written in C++, what is inside a transform;
    - what a backward pass inside the backward of a custom Function reaches. That of
      ``torch.utils.checkpoint`` with ``use_reentrant=True`` gives gradients to parameters that no
      path of the graph leads to: with one in the graph they are a warning.

    And, without a word of it:

    - what was saved inside a ``CopySlices``, the Node of a change to a part of a tensor, and
      whether an earlier backward pass freed it; whether it overwrites all is told with a ``watch``;
    - whether a tensor that was saved through hooks can be had again;
    - what your hooks do: raise, or change the gradient;
    - what becomes of a leaf that was given other values of another shape through ``.data``;
    - errors that depend on the values of gradients, such as those of singular value
      decompositions, on how they lie in memory, or on devices.

    Args:
        output: the tensor to call backward on, of any shape and dtype. A number or an array is a
            finding, not an error.
        *inputs: the tensors that should get a gradient, and modules, which stand for their
            parameters.
        watch: what ``with watch() as watched:`` saw of the forward pass. With it findings have the
            line of your program, and cuts that leave the rest of the graph whole are found.
        names: names for tensors, such as ``dict(model.named_parameters())``. Without it a tensor
            goes by a variable of the caller, or by its path in a module that is given or that is a
            variable of the caller; where several modules have parameters among the inputs, the name
            of the module comes before the path.

    Returns:
        The findings: errors, of which those that ``backward`` raises come before gradients that
        stay None; then warnings, then infos.

    Raises:
        TypeError: an input is neither a tensor nor a module, ``watch`` is not a ``Watch``, or
            ``names`` does not map strings to tensors.

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
        >>> model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "spare": torch.nn.PReLU()})
        >>> print(diagnose(model["used"](x).sum(), model)[0].message)
        spare.weight is not in the graph of the output: its .grad stays None
    """
    tensors = tensors_of(inputs)
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            f"watch must be what `with watch() as watched:` gave, got {type(watch).__name__}"
        )
    called, modules = names_and_modules(inputs, names)
    with unseen_by_all(), torch.no_grad():
        case = _look(output, tensors, watch, modules, called)
        return Diagnosis(about_nodes(_ask(_QUESTIONS, case)), _subject_of(case.graph))


def _look(
    output: Any,
    inputs: Sequence[Tensor],
    watch: Watch | None,
    modules: Mapping[str, nn.Module],
    names: Mapping[str, Tensor],
) -> Case:
    """Read the graph and what its Nodes saved, all that the questions ask about."""
    if watch and isinstance(output, Tensor):
        was_made_in(watch, output)  # a Variable of the last result becomes a cut as it is seen
    if not isinstance(output, Tensor) or not output.requires_grad or trouble_of(output):
        return Case(output, placed(inputs, names), watch, modules, names)
    graph = Graph.of(output, names=names)
    peeks = [peek_at(node) for node in graph.nodes]
    given = placed(inputs, names, graph.nodes, peeks)
    return Case(output, given, watch, modules, names, graph, peeks)


def _subject_of(graph: Graph | None) -> str:
    """What was looked at, in words."""
    if graph is None:
        return "the output has no graph"
    nodes, leaves = counted(len(graph), "node"), counted(len(graph.leaves), "leaf", "leaves")
    return f"the graph has {nodes}, {leaves} among them"


def _ask(questions: Sequence[Callable[..., Iterator[Any]]], *about: Any) -> Iterator[Any]:
    """What all of these questions find."""
    for question in questions:
        yield from question(*about)


# ---- the inputs


def _about_the_inputs(case: Case) -> Iterator[Finding]:
    every = (found for given in case.inputs for found in _about_an_input(case, given))
    yield from about_inputs(every)


def _about_grads_left(case: Case) -> Iterator[Finding]:
    can_have = [given for given in case.inputs if given.tensor.requires_grad and not given.trouble]
    yield from about_inputs(found for given in can_have for found in _ask(_OF_A_GRAD, case, given))


def _about_an_input(case: Case, given: Input) -> Iterator[Said]:
    if not given.tensor.requires_grad:
        yield _without_grad(case, given)
    elif given.trouble:
        code = code_of_trouble(given.trouble, "input-without-grad")
        variant = "inference" * given.tensor.is_inference()
        text = f"{{name}} cannot get a gradient: {given.trouble}"
        yield said(given, code, text, variant=variant)
    else:
        yield from _ask(_OF_AN_INPUT, case, given)


def _without_grad(case: Case, given: Input) -> Said:
    tensor, at = given.tensor, case.at(given.first_saved_by)
    if isinstance(tensor, nn.Parameter) and any(i.tensor.requires_grad for i in case.inputs):
        text = "{name} {is} frozen: requires_grad is off, so {its} .grad stays None"
        options = {"severity": "info", "variant": "frozen"}
        return said(given, "input-without-grad", text, **options)
    if tensor.is_inference():
        text = "{name} {was} made under torch.inference_mode() and cannot get a gradient"
        return said(given, "inference-tensor", text, **at)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        text = f"{{name}} {{is}} {tensor.dtype} and cannot get a gradient"
        return said(given, "integer-tensor", text, **at)
    if is_wrapped(tensor):
        text = (
            "{name} {is} inside a transform such as torch.vmap, where {it} {does} not require grad"
        )
        return said(given, "input-without-grad", text, variant="transform", **at)
    if tensor.retains_grad:  # detach_() leaves that to the Node it had
        text = (
            "{name} {was} detached in place after retain_grad(): the Node that made {them} may "
            "fill {its} .grad nevertheless"
        )
        return said(given, "cannot-know", text, variant="retained")
    as_constant = ", and the graph has {them} as a constant" if given.saved_by else ""
    text = f"{{name}} {{does}} not require grad{as_constant}: {{its}} .grad stays None"
    return said(given, "input-without-grad", text, **at)


def _constant_somewhere(case: Case, given: Input) -> Iterator[Said]:
    if not (given.tensor.is_leaf and case.is_reached(given)):
        return
    for index in given.saved_by:
        if not any(edge and edge.target == given.node for edge in case.slots(index)):
            text = "{name} count{s} as a constant in one place, where {it} required no grad yet"
            yield said(given, "late-requires-grad", text, severity="warning", **case.at(index))
            return


def _not_a_leaf(case: Case, given: Input) -> Iterator[Said]:
    if not (given.tensor.is_leaf or given.tensor.retains_grad) and case.is_reached(given):
        text = "{name} {is} not {a leaf}: {its} .grad stays None"
        yield said(given, "not-a-leaf", text, **case.at(given.node))


def _accumulates(case: Case, given: Input) -> Iterator[Said]:
    grad = given.grad
    if grad is not None and not (is_readable(grad) and not grad.any()):  # zero_() leaves zeros
        yield said(given, "accumulates", "{name} {has} a .grad already: backward() adds to it")


def _cycle(case: Case, given: Input) -> Iterator[Said]:
    if given.grad is not None and given.grad.requires_grad:
        text = "the .grad of {name} has a graph, which keeps all that is in it alive"
        yield said(given, "reference-cycle", text)


def _complex(case: Case, given: Input) -> Iterator[Said]:
    if given.tensor.is_complex():
        text = "{name} {is} complex: {its} gradient is that of steepest ascent"
        yield said(given, "complex-conjugate", text)


def _hooked(case: Case, given: Input) -> Iterator[Said]:
    if hooks := hooks_on(given.tensor):
        s = "s" * (hooks != 1)
        text = f"{{name}} {{has}} {hooks} hook{s}{{each}} that may change {{its}} gradient"
        yield said(given, "hook", text)


_OF_AN_INPUT: tuple[Callable[[Case, Input], Iterator[Said]], ...] = (
    about_an_unreached,
    _constant_somewhere,
    _not_a_leaf,
    _complex,
    _hooked,
)
_OF_A_GRAD: tuple[Callable[[Case, Input], Iterator[Said]], ...] = (_accumulates, _cycle)


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
        message, variant = "backward() will raise at a Node without a formula", ""
        below = [case.nodes[edge.target].name for edge in case.slots(node.index) if edge]
        if attention := next((name for name in (node.name, *below) if "Attention" in name), None):
            message += f" for the derivative of {attention}, a fused attention"
            variant = "attention"
        elif node.name.endswith("BackwardBackward0"):
            variant = "second"
        yield finding("not-implemented", message, variant=variant, **case.at(node.index))


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
    if not reasons or "freed" in reasons:  # about_earlier_passes says that once for all
        return
    at = case.at(node.index)
    if "a stale view" in reasons:
        message = f"backward() will raise: {node.name} saved a view whose base was changed"
        yield finding("multi-view-in-place", message, **at)
        return
    names = " and ".join(saved.broken)
    message = f"backward() will raise: {node.name} saved {names}, which was changed since"
    written = [last_written_by(case.watch, t) for t in saved.changed] if case.watch else []
    if writer := next((each for each in written if each and each.source), None):
        is_there = writer.source == at["source"]  # as in a Sequential
        how = f"by {writer.called} on the same line" if is_there else f"at {writer.source}"
        at |= {"where": f"{at['where']}; changed {how}", "source": writer.source}
    memories = {memory_of(tensor) for tensor in saved.changed}
    variant = "leaf" if memories and memories <= case.memory_of_leaves else ""
    yield finding("modified-in-place", message, variant=variant, **at)


_OF_A_NODE: tuple[Callable[[Case, GraphNode, Peek], Iterator[Finding]], ...] = (
    _not_recorded,
    _not_implemented,
    _overwritten,
    _whole_numbers,
    _changed,
)


# ---- the graph as a whole


def _about_the_values(case: Case) -> Iterator[Finding]:
    looks = dict[int, Look]()
    for node, saved in case.nodes_and_peeks:
        if look := look_at(node, saved, case.reached):
            looks[node.index] = look
    rehearsal = rehearse(case) if has_half(case) else None  # its range is narrow
    found, spoiling = about_nan(case, looks, rehearsal)
    yield from about_constants(case, spoiling)
    yield from about_the_spoilt_loss(case, found)
    yield from about_zeros(case, looks, spoiling, rehearsal.rounded_to_zero if rehearsal else ())


def _about_choices(case: Case) -> Iterator[Finding]:
    for node, saved in case.of(CHOOSING):
        about = node.name, saved.values, shape_or_none(node), case.slots(node.index)
        if choice := choice_of(*about):
            yield finding(choice.code, choice.message, **case.at(node.index))


def _about_precision(case: Case) -> Iterator[Finding]:
    for node in case.nodes:
        if node.dtype in (torch.float16, torch.bfloat16):
            message = f"gradients pass here as {node.dtype}"
            yield finding("half-precision", message, **case.at(node.index))
            return  # one finding is enough


def _about_custom_functions(case: Case) -> Iterator[Finding]:
    first = dict[str, GraphNode]()
    for node in case.nodes:
        if node.is_custom and not is_of_torch(node.grad_fn):
            first.setdefault(node.name, node)
    for name, node in first.items():
        message = f"{name} is a custom Function, whose backward cannot be checked unrun"
        yield finding("custom-gradients", message, severity="info", **case.at(node.index))


_QUESTIONS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    about_the_output,
    _about_the_nodes,  # an error that is raised, before a gradient that stays None
    about_earlier_passes,
    about_the_cuts,  # before the inputs that they keep from a gradient
    about_a_leaf_output,  # its graph was cut before it was made a leaf
    about_grads_read,
    about_what_was_written_aside,
    _about_the_inputs,
    about_leaves_not_given,
    about_mutations,
    about_recomputing,
    _about_choices,
    about_losses,
    _about_the_values,
    _about_grads_left,  # as in any loop: after what spoils a gradient
    _about_precision,
    _about_custom_functions,
    about_function_constants,
    about_doubts,
    about_slow_slices,
    about_uncalled_hooks,
    about_switches,
)
