"""The cuts that a watch saw, each with the inputs that get no gradient because of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from companion.diagnosis.case import Case
from companion.diagnosis.folding import names_of_all
from companion.diagnosis.inputs import Input
from companion.diagnosis.unreached import how_it_ended
from companion.findings import Finding, Severity, cut_message, finding
from companion.forward.cuts import Cut, variant_of_harm
from companion.forward.gradients_used import is_a_step
from companion.forward.places import DEEPCOPY, SAMPLE

_SWITCHED = {"no-grad", "inference-mode"}  # one switch makes many cuts on a line
_WHOLE = {DEEPCOPY, SAMPLE}  # one call makes many cuts, and is what the finding names


def about_the_cuts(case: Case) -> Iterator[Finding]:
    """A finding for each line with cuts that reach the output, and for those that may reach it.

    A cut that a library made has one only where an input, or the output, has no gradient for it.
    """
    if case.watch is None:
        return
    behind = defaultdict[Cut, list[Input]](list)
    for given, cut in case.behind_a_cut.items():
        behind[cut].append(given)
    order = {given: i for i, given in enumerate(case.inputs)}
    taking = _taking_from_inputs(case)
    for cuts in _by_line(dict.fromkeys([*case.cuts_reaching, *behind])):
        inputs = sorted([given for cut in cuts for given in behind[cut]], key=order.__getitem__)
        if inputs or case.graph is None:
            yield _harmful(case, cuts, inputs)
        elif not (all(cut.by_library for cut in cuts) or _is_given(case, cuts, taking)):
            yield _perhaps_harmless(case, cuts, taking)
    elsewhere = (*case.last_to_leave.values(), case.left_before)
    told_elsewhere = {cut.source for cut in elsewhere if cut}
    for cuts in _by_line(case.not_followed):
        if cuts[0].source not in told_elsewhere:
            yield _about_line(cuts, "; whether it came back into the output is not known", "info")


def _is_given(case: Case, cuts: list[Cut], taking: set[Cut]) -> bool:
    """Whether the cuts are a deep copy that is given itself, as are all leaves of the graph."""
    is_copy = cuts[0].variant == DEEPCOPY and taking.isdisjoint(cuts)
    return is_copy and bool(case.inputs) and not case.leaves_not_given


def _perhaps_harmless(case: Case, cuts: list[Cut], taking: set[Cut]) -> Finding:
    """A finding for a line that keeps none of the inputs from a gradient.

    Args:
        case: what is diagnosed.
        cuts: the cuts of the line.
        taking: the cuts that values of the inputs went into.
    """
    if taking.isdisjoint(cuts):
        return _about_line(cuts, "; none of the inputs went into that", "info")
    if cuts[0].variant == SAMPLE:  # what is drawn is a constant on purpose, as a rule
        return _about_line(cuts, severity="info")
    indices = {cut.index for cut in cuts}
    if indices <= case.only_added:
        end = "; what came of it is only added to the output, which changes no gradient"
        return _about_line(cuts, end, "warning", "term")
    if indices <= case.scales:
        end = "; the output has the tensor itself as well"
        return _about_line(cuts, end, "info", "scale")
    not_meant = [cut for cut in cuts if cut.index in case.not_meant and not _is_step(case, cut)]
    if not not_meant and case.costly.isdisjoint(cuts):
        went_in = "the inputs that went in get" if case.inputs else "what went in gets"
        end, variant = f"; {went_in} a gradient by another way", cuts[0].variant or "meant"
        return _about_line(cuts, end, "info", variant)
    return _about_line(cuts)


def _is_step(case: Case, cut: Cut) -> bool:
    is_gradient = cut.code == "penalty-detached" and case.watch is not None
    return is_gradient and is_a_step(case.watch, case.output, cut)  # type: ignore[arg-type]


def _taking_from_inputs(case: Case) -> set[Cut]:
    """The cuts that values of the inputs went into; all of them where that is not known."""
    if case.inputs and case.taking is not None:
        return {taken.cut for taken in case.taking}
    return set(case.cuts_reaching)


def _by_line(cuts: Iterable[Cut]) -> Iterable[list[Cut]]:
    """The cuts that share a finding: of one kind, on one line."""
    lines = dict[object, list[Cut]]()
    for cut in cuts:
        is_switched = cut.code in _SWITCHED and cut.variant in {"", "view"}
        line = (cut.source.file, cut.source.line) if cut.source and is_switched else cut.source
        key = cut.code, cut.variant, line, "" if is_switched else cut.message
        lines.setdefault(key, []).append(cut)
    return lines.values()


def _about_line(
    cuts: list[Cut], end: str = "", severity: Severity | None = None, variant: str = ""
) -> Finding:
    """One finding for all the times that a line ran."""
    message, cut, variant = _message(cuts), cuts[0], variant or cuts[0].variant
    message = (message.partition(";")[0] if variant == "term" else message) + end
    return finding(cut.code, message, severity=severity, source=cut.source, variant=variant)


def _harmful(case: Case, cuts: list[Cut], inputs: list[Input]) -> Finding:
    """A finding for a line that keeps inputs from their gradients, or the output from a graph."""
    message = _message(cuts).partition(";")[0]  # what follows says that it may be harmless
    if inputs:
        s = "s" * (len(inputs) == 1)
        message += f", and so {names_of_all(inputs)} get{s} no gradient"
    code, source, variant = cuts[0].code, cuts[0].source, variant_of_harm(cuts[0])
    because: tuple[str, str] | None = None
    ending = next((case.new_leaves[given] for given in inputs if given in case.new_leaves), None)
    if ending and code != "copied":  # to take the cut away would not help
        message += f"; {how_it_ended(*ending)}"
        because = "copied", "written" if ending[1].is_written else "parameter"
    severity: Severity | None = "error" if inputs else None
    options: dict[str, Any] = {"severity": severity, "source": source, "because": because}
    return finding(code, message, variant=variant, **options)


def _message(cuts: list[Cut]) -> str:
    times = f" ({len(cuts)} times)" if len(cuts) > 1 and cuts[0].variant not in _WHOLE else ""
    called = list(dict.fromkeys(cut.operation.called for cut in cuts))
    if len(called) == 1:
        return cuts[0].message + times
    names = f"{', '.join(called[:-1])} and {called[-1]}"
    return cut_message(cuts[0].code, names, "", cuts[0].variant) + times
