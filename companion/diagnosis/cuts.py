"""The cuts that a watch saw, each with the inputs that get no gradient because of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from companion.diagnosis.case import Case, Input, Tensor
from companion.diagnosis.folding import names_of_all
from companion.findings import Finding, Severity, cut_message, finding
from companion.forward.cuts import Cut
from companion.forward.places import DEEPCOPY, SAMPLE
from companion.forward.tracing import made_at
from companion.forward.watching import Watch

_SWITCHED = {"no-grad", "inference-mode"}  # one switch makes many cuts on a line
_DETACH = {"detach", "detach_"}
_WHOLE = {DEEPCOPY, SAMPLE}  # one call makes many cuts, and is what is told


def about_the_cuts(case: Case) -> Iterator[Finding]:
    """A finding for each line with cuts that reach the output, and for those that may reach it.

    A cut that a library made is told if an input, or the output, has no gradient because of it.
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
        if inputs:
            yield _harmful(cuts, inputs)
        elif case.graph is not None and all(cut.by_library for cut in cuts):
            continue
        elif case.graph is not None and taking.isdisjoint(cuts):
            yield _told(cuts, "; none of the inputs went into that", "info")
        elif case.graph is not None and _is_meant(cuts[0]) and case.costly.isdisjoint(cuts):
            yield _told(cuts, "; what went in gets a gradient by another way", "info", "meant")
        else:  # what is drawn is a constant on purpose, as a rule
            yield _told(cuts, severity="info" if cuts[0].variant == SAMPLE else None)
    for cuts in _by_line(_not_followed(case, case.watch)):
        yield _told(cuts, "; whether it came back into the output is not known", "info")


def _not_followed(case: Case, watch: Watch) -> Iterator[Cut]:
    """The cuts at which a value became a number in Python, or an array: nobody followed that."""
    reached = {cut.index for cut in case.cuts_reaching}
    made = made_at(watch, case.output) if isinstance(case.output, Tensor) else None
    for cut in watch.cuts:
        is_later = made is not None and cut.index > made  # than all that went into the output
        if not (cut.follows or cut.by_library or is_later or cut.index in reached):
            yield cut


def _taking_from_inputs(case: Case) -> set[Cut]:
    """The cuts that values of the inputs went into; all of them where that is not known."""
    if case.inputs and case.taking is not None:
        return {taken.cut for taken in case.taking}
    return set(case.cuts_reaching)


def _is_meant(cut: Cut) -> bool:
    """Whether the user asked for a constant in so many words, by detach() or torch.no_grad()."""
    return cut.operation.name in _DETACH or (cut.code, cut.variant) == ("no-grad", "")


def _by_line(cuts: Iterable[Cut]) -> Iterable[list[Cut]]:
    """The cuts that are told in one finding: of one kind, on one line."""
    lines = dict[object, list[Cut]]()
    for cut in cuts:
        is_switched = cut.code in _SWITCHED and not cut.variant
        key = cut.code, cut.variant, cut.source, "" if is_switched else cut.message
        lines.setdefault(key, []).append(cut)
    return lines.values()


def _told(
    cuts: list[Cut], end: str = "", severity: Severity | None = None, variant: str = ""
) -> Finding:
    """One finding for all the times that a line ran."""
    message, cut, variant = _message(cuts) + end, cuts[0], variant or cuts[0].variant
    return finding(cut.code, message, severity=severity, source=cut.source, variant=variant)


def _harmful(cuts: list[Cut], inputs: list[Input]) -> Finding:
    """A finding for a line that keeps inputs from their gradients."""
    message = _message(cuts).partition(";")[0]  # what follows says that it may be harmless
    s = "s" * (len(inputs) == 1)
    message += f", and so {names_of_all(inputs)} get{s} no gradient"
    code, source, variant = cuts[0].code, cuts[0].source, cuts[0].variant or "harmful"
    return finding(code, message, severity="error", source=source, variant=variant)


def _message(cuts: list[Cut]) -> str:
    times = f" ({len(cuts)} times)" if len(cuts) > 1 and cuts[0].variant not in _WHOLE else ""
    called = list(dict.fromkeys(cut.operation.called for cut in cuts))
    if len(called) == 1:
        return cuts[0].message + times
    names = f"{', '.join(called[:-1])} and {called[-1]}"
    return cut_message(cuts[0].code, names, "", cuts[0].variant) + times
