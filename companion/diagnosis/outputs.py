"""What is wrong with the output itself: it has no graph, is a leaf, or cannot begin a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from companion.diagnosis.case import Case
from companion.diagnosis.folding import names_of_all
from companion.diagnosis.grads_read import grads_read_in_words, variant_and_line
from companion.diagnosis.inputs import code_of_trouble, trouble_of
from companion.diagnosis.unreached import (
    taken_in_words,
    written_aside_in_words,
)
from companion.findings import Finding, Severity, finding
from companion.forward.cuts import variant_of_harm
from companion.graph.nodes import shape_or_none
from companion.graph.not_a_tensor import how_to_take_apart, is_of_numbers, way_out
from companion.internals import is_wrapped

Tensor = torch.Tensor


def about_the_output(case: Case) -> Iterator[Finding]:
    if isinstance(case.output, Tensor):
        yield from _no_graph(case, case.output)
        yield from _first_gradient(case, case.output)
    else:
        message = f"the output is a {type(case.output).__name__}, not a tensor"
        if is_of_numbers(case.output):
            yield finding("not-a-tensor", message)
            return
        words = way_out(case.output)
        message += f"; {words}" if words else ""
        variant = "several" if how_to_take_apart(case.output) else "itself"
        variant = "none" if case.output is None else variant
        yield finding("not-a-tensor", message, variant=variant)


def _no_graph(case: Case, output: Tensor) -> Iterator[Finding]:
    if output.requires_grad and case.graph is None:
        trouble = trouble_of(output)
        yield finding(code_of_trouble(trouble, "no-graph"), f"backward() will raise: {trouble}")
    elif case.graph is None:
        message = f"the output does not require grad: {_why_no_graph(case)}"
        variant = "transform" if is_wrapped(output) else "inference" * output.is_inference()
        because, source = None, None
        if cut := case.cut_before:
            because, source = (cut.code, variant_of_harm(cut)), cut.source
        elif left := case.left_before:
            because, source = case.why_left(left), left.source
        elif case.written_aside:
            because, source = ("copied", "alias"), next(iter(case.written_aside.values())).source
        elif taken := next(iter(case.taken_as_alias.values()), None):
            because, source = ("detached", "before"), taken.source
        elif case.grads_read:
            because, source = ("penalty-detached", "read"), variant_and_line(case)["source"]
        elif not variant:
            variant = "constants" * _is_all_frozen(case) or "unseen" * bool(case.unseen)
        because = None if variant else because
        yield finding("no-graph", message, source=source, variant=variant, because=because)


def _is_all_frozen(case: Case) -> bool:
    return bool(case.inputs) and not any(given.tensor.requires_grad for given in case.inputs)


def _why_no_graph(case: Case) -> str:
    output = case.output
    if is_wrapped(output):
        return "it is inside a transform such as torch.vmap; diagnose the result, outside of it"
    if output.is_inference():
        return "it was made under torch.inference_mode()"
    if not (output.is_floating_point() or output.is_complex()):
        return f"it is {output.dtype}, and whole numbers have no derivative"
    if _is_all_frozen(case):
        return "none of the inputs requires grad"
    if cut := case.cut_before:
        return cut.message.partition(";")[0]  # what follows says that it may be harmless
    if left := case.left_before:
        return f"values left torch before it by way of {case.way_out(left)}"
    if case.written_aside:
        return written_aside_in_words(case)
    if taken := case.taken_as_alias:
        return taken_in_words(next(iter(taken.values())), names_of_all(list(taken)))
    if case.grads_read:
        return grads_read_in_words(case).replace("the output", "it", 1)
    if case.unseen:
        names = names_of_all(case.unseen)
        return f"nothing that went into it required grad, and the watch saw nothing use {names}"
    return "its history was cut, or no tensor in it required grad"


def about_a_leaf_output(case: Case) -> Iterator[Finding]:
    if case.graph is not None and case.is_a_leaf_apart:
        message = "the output is itself a leaf: no other tensor can get a gradient from it"
        # Without inputs to fill, this backward does what it says.
        severity: Severity = "error" if case.inputs else "warning"
        cut = next(iter(case.last_to_leave.values()), case.left_before)
        if cut:
            gone = [given for given, last in case.last_to_leave.items() if last is cut]
            whose = f"the values of {names_of_all(gone)}" if gone else "values"
            message += f"; {whose} left torch by way of {case.way_out(cut)}"
        is_decided = cut and cut.code == "not-differentiable"
        because = ("not-differentiable", "harmful") if is_decided else None
        variant = "left" if cut else ""
        options: dict[str, Any] = {"variant": variant, "because": because}
        source = cut.source if cut else None
        yield finding("leaf-output", message, severity=severity, source=source, **options)


def _first_gradient(case: Case, output: Tensor) -> Iterator[Finding]:
    """Whether ``backward()`` can make up the gradient of the output, 1.0."""
    if not output.requires_grad:
        return
    if output.numel() != 1:
        shape = shape_or_none(output)
        kind = "is nested" if shape is None else f"has shape {shape}"
        yield finding("non-scalar", f"the output {kind}, and backward() needs one element")
    elif output.layout not in (torch.strided, torch.jagged):
        message = f"the output is {output.layout}, and backward() needs a dense tensor"
        yield finding("non-scalar", message)
    elif output.is_complex():
        message = f"the output is complex ({output.dtype}), and backward() needs a real number"
        yield finding("complex-output", message)
