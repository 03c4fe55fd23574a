"""An error that torch raised, explained: from its message to the code of finding that it means.

The messages are in the table of findings, ``KINDS``, under ``errors`` and ``variants``. Where one
message has several causes, a function here asks what torch was called with, which the traceback
has, and what a ``Watch`` saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from companion.diagnosis.called_by_torch import about_arguments, about_own_code
from companion.diagnosis.custom_functions import peek_at
from companion.diagnosis.diagnosing import diagnose
from companion.diagnosis.none_grads import about_none, about_none_in_text
from companion.diagnosis.nonfinite import born_in
from companion.diagnosis.paths import below
from companion.diagnosis.tracebacks import (
    calling_line,
    chain_of,
    distributed_module,
    engine_call,
    errors_in,
    runs_checkpoint_again,
    users_frame,
)
from companion.findings import KINDS, Finding, finding
from companion.forward.cuts import variant_of_harm
from companion.forward.tracing import first_reaching, passes_in, source_of, was_made_in
from companion.forward.watching import Watch
from companion.graph.reading import Graph
from companion.internals import is_wrapped, number_of
from companion.naming import is_tensor
from companion.source import Source

Tensor = torch.Tensor


def explain(error: BaseException | str, *, watch: Watch | None = None) -> Finding | None:
    """Say what an error about gradients means, and what to do.

    Args:
        error: an exception that torch raised, or a warning of it that was caught or made an error.
            Of one that left ``record_backward`` the steps that ran are looked at. Or the text of
            one, as in a log, also where its lines were broken. Of a whole traceback the last
            message counts that is known, and so it is of errors that led to one another.
        watch: what ``with watch() as watched:`` saw of the forward pass. With it the cut is found
            for which there is no graph, and the line that changed a saved tensor.

    Returns:
        A finding of the same kind that ``diagnose`` gives; its ``source`` is the line of your
        program that the error passed last, which a text does not tell. None if the message is not
        known.

    Raises:
        TypeError: ``error`` is neither an exception nor a text, or ``watch`` is not a ``Watch``.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> try:
        ...     (x * x).backward()
        ... except RuntimeError as error:
        ...     explained = explain(error)
        >>> explained.code, explained.cure[:38]
        ('non-scalar', 'reduce the output to one number, as wi')
        >>> explain("RuntimeError: derivative for aten::nextafter is not implemented").code
        'not-implemented'
        >>> explain(ValueError("something else")) is None
        True
    """
    if isinstance(error, str):
        return _explained_text(error, watch)
    if not isinstance(error, BaseException):
        raise TypeError(
            f"error must be an exception or the text of one, got {type(error).__name__}; catch it: "
            "except RuntimeError as error"
        )
    _check_watch(watch)
    explained = (_explained(each, watch) for each in chain_of(error))
    return next(filter(None, explained), None) or about_own_code(error, _source_of(error))


def _explained(error: BaseException, watch: Watch | None) -> Finding | None:
    """What ``explain`` says of one error, whatever led to it."""
    frame, source = users_frame(error) or (None, None)
    if frame and source and (cause := about_none(error, frame, source)):
        return cause
    if match := _match(error):
        return _found(Matched(error, watch, source, *match))
    return about_arguments(error, calling_line(error), source)


def _source_of(error: BaseException) -> Source | None:
    _, source = users_frame(error) or (None, None)
    return source


def _check_watch(watch: Watch | None) -> None:
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            f"watch must be what `with watch() as watched:` gave, got {type(watch).__name__}"
        )


def _explained_text(text: str, watch: Watch | None) -> Finding | None:
    """What ``explain`` says of an error that came as text."""
    _check_watch(watch)
    for error, line in errors_in(text):
        if cause := about_none_in_text(error, line):
            return cause
        if match := _match(error):
            return _found(Matched(error, watch, None, *match))
        if cause := about_arguments(error, line, None):
            return cause
    return None


class Matched(NamedTuple):
    """An error, and what the table says of its message."""

    error: BaseException
    watch: Watch | None
    source: Source | None  # the user's line
    code: str
    variant: str
    message: str


def _match(error: BaseException) -> tuple[str, str, str] | None:
    """Code, variant and message of the first expression that fits an error."""
    text = f"{type(error).__name__}: {error}"
    for code, kind in KINDS.items():
        for pattern, message, variant in kind.wordings:
            if match := re.search(pattern, text, re.MULTILINE):  # a log goes on below
                fields = {name: value or "" for name, value in match.groupdict().items()}
                return code, variant, message.format(**fields)
    return None


def _found(matched: Matched) -> Finding:
    return _CAUSES.get(matched.code, _finding_of)(matched)


def _finding_of(matched: Matched) -> Finding:
    return finding(
        matched.code,
        matched.message,
        severity="error",
        source=matched.source,
        variant=matched.variant,
    )


# ---- messages that have several causes


def _no_graph(matched: Matched) -> Finding:
    """Why the output has no graph, as far as the output itself and a watch tell."""
    outputs, inputs = engine_call(matched.error)
    index = _index(matched.error)
    if index >= len(outputs) or not is_tensor(outputs[index]):
        return _finding_of(matched)
    if inputs:
        message = "a gradient was asked of a tensor that has no graph"
        matched = matched._replace(variant="gradient", message=message)
    output: Tensor = outputs[index]
    if is_wrapped(output):
        message = f"{matched.message}, inside a transform of torch.func"
        return _finding_of(matched._replace(code="inside-transform", message=message))
    if output.is_inference():
        message = f"{matched.message}: it was computed under torch.inference_mode()"
        return _finding_of(matched._replace(code="inference-mode", message=message))
    if matched.watch and first_reaching(matched.watch, output):
        return _by_the_cuts(matched, matched.watch, output)
    if not (output.is_floating_point() or output.is_complex()):
        message = f"{matched.message}: its dtype is {output.dtype}"
        return _finding_of(matched._replace(code="not-differentiable", message=message))
    if matched.watch is None:
        return _finding_of(matched)
    return _by_the_cuts(matched, matched.watch, output)


def _by_the_cuts(matched: Matched, watch: Watch, output: Tensor) -> Finding:
    """Which of the cuts that a watch saw took the graph from an output."""
    reaching = sorted(first_reaching(watch, output), key=lambda cut: _is_info(cut.code))
    if reaching:
        cut = reaching[0]
        # What follows says that it may be harmless.
        message = f"{matched.message}: {cut.message.partition(';')[0]}"
        variant = variant_of_harm(cut)
        matched = matched._replace(code=cut.code, variant=variant, source=cut.source)
        return _finding_of(matched._replace(message=message))
    if was_made_in(watch, output) and all(cut.follows for cut in watch.cuts):
        message = f"{matched.message}, and nothing that went into it in the block required grad"
        return _finding_of(matched._replace(variant="constants", message=message))
    cause = diagnose(output, watch=watch)[0]
    if cause.code == "no-graph" and cause.source:
        reason = cause.message.partition(": ")[2]
        return replace(cause, severity="error", message=f"{matched.message}: {reason}")
    # What was computed after the block, or came back from outside of torch, nobody followed.
    harmful = [cut for cut in watch.cuts if not _is_info(cut.code)]
    if len(harmful) == 1:
        message = f"{matched.message}; in the watched block {harmful[0].message}"
        return _finding_of(matched._replace(message=message, source=harmful[0].source))
    return _finding_of(matched)


def _is_info(code: str) -> bool:
    return KINDS[code].severity == "info"


def _no_gradient(matched: Matched) -> Finding:
    """Why no gradient came to an input: what ``diagnose`` says of it, or a Node sent None."""
    outputs, inputs = engine_call(matched.error)
    index = _index(matched.error)
    if len(outputs) != 1 or index >= len(inputs) or not all(map(is_tensor, (*outputs, *inputs))):
        return _finding_of(matched)
    wanted = inputs[index]
    if is_wrapped(wanted) or is_wrapped(outputs[0]):
        return _finding_of(matched._replace(code="inside-transform"))
    names = {node.name for node in Graph.of(*outputs).nodes} if outputs[0].requires_grad else ()
    if "CheckpointFunctionBackward" in names:
        message = f"{matched.message}, which a reentrant checkpoint hides"
        return _finding_of(
            matched._replace(code="checkpoint", variant="reentrant", message=message)
        )
    findings = diagnose(outputs[0], wanted, watch=matched.watch)
    # The pass that raised has freed what it ran, so that is no cause.
    cause = next(filter(_is_of_an_input, findings), None)
    if cause is None:
        return _finding_of(matched._replace(variant="sends-none"))
    # Equal values are a guess, which the error does not confirm.
    if cause.code == "reassigned" or cause.cause in (KINDS[matched.code].cause, *_NO_REASONS):
        return _finding_of(matched)
    return replace(cause, severity="error", source=cause.source or matched.source)


def _is_of_an_input(found: Finding) -> bool:
    """Whether a finding says why the one input has no gradient; of a cut an error says so."""
    is_a_cut = bool(KINDS[found.code].cut) and found.severity == "error"
    return is_a_cut or found.code in _OF_AN_INPUT


def _index(error: BaseException) -> int:
    """Which of the tensors that the engine was given an error means; the first if it says none."""
    match = re.search(r"(?:element|index) (\d+)", str(error))
    return int(match[1]) if match else 0


def _leaf_in_place(matched: Matched) -> Finding:
    return _changed_in_checkpoint(matched) or _finding_of(matched)


def _changed_in_checkpoint(matched: Matched) -> Finding | None:
    """A finding, if a checkpoint cannot run again since its function works in place."""
    if not runs_checkpoint_again(matched.error):
        return None
    message = f"{matched.message}, where a checkpoint runs its function again"
    return _finding_of(matched._replace(code="checkpoint", variant="in-place", message=message))


def _modified(matched: Matched) -> Finding:
    """Which Node saved the tensor that was changed; and on which line, if a watch saw it."""
    if cause := _changed_in_checkpoint(matched):
        return cause
    outputs, _ = engine_call(matched.error)
    if len(outputs) == 1 and is_tensor(outputs[0]):
        for cause in diagnose(outputs[0], watch=matched.watch):
            if cause.code == matched.code:
                text = cause.message.removeprefix("backward() will raise: ")
                message, source = f"{matched.message}; {text}", cause.source or matched.source
                where = cause.where if cause.source else str(source or "")
                return replace(cause, message=message, where=where, source=source)
    return _finding_of(matched)


def _freed(matched: Matched) -> Finding:
    """Whether the output is the sum of many steps; or which part of it an earlier pass had run.

    The pass that raised has freed what it ran too, so without a watch no part can be told.
    """
    outputs, _ = engine_call(matched.error)
    if len(outputs) != 1 or not is_tensor(outputs[0]):
        return _finding_of(matched)
    grown = [each for each in diagnose(outputs[0]) if each.code == "growing-graph"]
    if grown:
        message = f"{matched.message}; {grown[0].message}"
        return _finding_of(matched._replace(variant="sum", message=message))
    if matched.watch is None:
        return _finding_of(matched)
    watch, graph = matched.watch, Graph.of(outputs[0])
    for cut in first_reaching(watch, outputs[0]):
        if cut.code == "penalty-detached" and not cut.variant:
            message = f"{matched.message}, by torch.autograd.grad without create_graph=True"
            matched = matched._replace(variant="grad", message=message, source=cut.source)
            return _finding_of(matched)
    freed = {node.index for node in graph.nodes if "freed" in peek_at(node).broken.values()}
    sources = {index: source_of(watch, graph.nodes[index].grad_fn) for index in freed}
    before = {index for index, source in sources.items() if source is None}
    older = before | (freed & _run_earlier(watch, graph, outputs[0]))
    first = min(older - below(graph, older), default=None)
    if not first or not was_made_in(watch, outputs[0]):  # of all that ran earlier no part is told
        return _finding_of(matched)
    name, source = graph.nodes[first].name, sources[first]
    message = f"{matched.message}; {name} was computed earlier"
    if source is None:
        message += ", before the watched block, and kept"
        return _finding_of(matched._replace(variant="part", message=message))
    where = f"node {first}, {name}, at {source}"
    found = _finding_of(matched._replace(variant="part", message=f"{message} and kept"))
    return replace(found, where=where, source=source)


def _run_earlier(watch: Watch, graph: Graph, output: Tensor) -> set[int]:
    """The Nodes of a graph that backward passes of a block ran before the one that raised.

    Where the output of a pass is gone, these are the Nodes made before it, if this output was not.
    """
    passes = passes_in(watch)
    own = [i for i, (other, _) in enumerate(passes) if other is output]
    passes = passes[: own[-1]] if own else passes  # the one that raised may run others inside
    numbers = [number_of(node.grad_fn) for node in graph.nodes]
    gone = [number for other, number in passes if other is None and number <= numbers[0]]
    ran = {index for index, number in enumerate(numbers) if number < max(gone, default=0)}
    for other, started in passes:
        if other is not None:
            fns = {node.grad_fn for node in Graph.of(other).nodes}
            shared = {node.index for node in graph.nodes if node.grad_fn in fns}
            ran |= {index for index in shared if numbers[index] < started}
    return ran


def _nan(matched: Matched) -> Finding:
    """Whether the Node that gave NaN was the first, and whether the forward pass was finite."""
    message, source = matched.message, matched.source
    step = getattr(getattr(matched.error, "recording", None), "first_nonfinite", None)
    if step is not None:
        node = matched.error.recording.graph.nodes[step.node]  # type: ignore[attr-defined]
        message += f"; node {step.node}, {node.name}, was the first to get finite gradients and "
        message += "give others"
    if matched.watch is not None:
        born, line = born_in(matched.watch)
        message, source = f"{message}; {born}", line or source
        if matched.watch.first_nonfinite is None and matched.variant == "after":
            matched = matched._replace(code="nan-risk", variant="")
    return _finding_of(matched._replace(message=message, source=source))


def _in_parallel(matched: Matched) -> Finding:
    """Which parameters got no gradient: torch tells their indices."""
    wrapped = distributed_module(matched.error)
    indices = re.search(r"rank \d+: ([\d ]+)", str(matched.error))
    if wrapped is None or indices is None:
        return _finding_of(matched)
    named = [name for name, each in wrapped.module.named_parameters() if each.requires_grad]
    names = [named[int(index)] for index in indices[1].split() if int(index) < len(named)]
    return _finding_of(matched._replace(message=f"{matched.message}: {some_of(names)}"))


def some_of(names: Sequence[str]) -> str:
    """A list of names, shortened."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


_MOST_NAMES = 6
# Causes of an unused input that say no more than the error.
_NO_REASONS = [KINDS["unused-input"].variants[variant][0] for variant in ("unwatched", "others")]
_OF_AN_INPUT = {
    "unused-input",
    "reassigned",
    "late-requires-grad",
    "input-without-grad",
    "inference-tensor",
    "integer-tensor",
}
_CAUSES: dict[str, Callable[[Matched], Finding]] = {
    "no-graph": _no_graph,
    "freed": _freed,
    "unused-input": _no_gradient,
    "input-without-grad": _no_gradient,
    "modified-in-place": _modified,
    "leaf-in-place": _leaf_in_place,
    "non-finite": _nan,
    "data-parallel": _in_parallel,
}
