"""NaN and infinities: which Nodes give them, where they were born, whether something hid them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from companion.diagnosis.asking import Look
from companion.diagnosis.case import Case
from companion.diagnosis.custom_functions import attributes_of
from companion.diagnosis.overflowing import overflowing
from companion.diagnosis.paths import below
from companion.diagnosis.rehearsing import Rehearsal, rehearse
from companion.diagnosis.risks import (
    MEANS,
    Risk,
    gives_them,
    impossible,
    infinite_or_nan,
    of_nothing,
    outside_of_domain,
    overflow,
    risk_of,
    shown_by,
)
from companion.diagnosis.values import is_finite, is_plain, is_readable
from companion.findings import Finding, finding
from companion.forward.births import births_before, births_in, brought_before, hidden_by
from companion.forward.cuts import Operation
from companion.forward.watching import Watch
from companion.graph.nodes import shape_or_none
from companion.naming import listed
from companion.source import Source


def about_nan(
    case: Case, looks: Mapping[int, Look], rehearsal: Rehearsal | None = None
) -> tuple[list[Finding], set[int]]:
    """A finding for each Node that is the cause of infinities or NaN among the gradients.

    Args:
        case: what is diagnosed.
        looks: what the Nodes were seen to make of ones.
        rehearsal: of the pass, if there was one already.

    Returns:
        The findings, and all Nodes with infinities or NaN, those of consequences too.
    """
    risks, shown = dict[int, Risk](), dict[int, Risk]()
    hidden = is_plain(case.output) and is_finite(case.output)  # no NaN inside of the graph shows
    for index, look in looks.items():
        node, saved = case.nodes[index], case.peeks[index]
        if look.spoilt:
            risks[index] = risk_of(node.name, saved, look.spoilt)
        elif node.is_custom:  # which cannot be asked
            name = node.name
            if risk := shown_by(name, saved) or shown_by(name, attributes_of(node)):
                risks[index] = risk
        elif risk := (outside_of_domain if hidden else shown_by)(node.name, saved):
            shown[index] = risk
    if not hidden:
        risks |= shown | _given_nothing(case) | _brought(case)
        for index, risk in overflowing(case).items():  # of which others may be consequences
            if index not in risks or risks[index].is_vague:
                risks[index] = risk
        risks = risks or _infinite(case)
    elif rehearsal or risks or any(look.is_extreme for look in looks.values()):
        # Some of it may be overwritten further on.
        risks = _arriving(case, risks, shown, (rehearsal or rehearse(case)).spoiling)
    found = [
        finding(risk.code, risk.message, variant=risk.variant, **case.at(index))
        for index, risk in risks.items()
        if risk.code == "nan-risk"
    ]
    of_values = {i: r for i, r in risks.items() if r.code == "non-finite"}
    if not hidden and case.watch and births_before(case.watch, case.output):  # which say it better
        of_values = {i: r for i, r in of_values.items() if r.variant or not r.is_vague}
    giving = {
        index
        for index, risk in risks.items()
        if risk.code != "nan-risk" or gives_them(case.nodes[index].name, risk)
    }
    found += _about_the_spoilt(case, of_values, giving, hidden)
    if case.graph and found[1:]:  # the deepest first, which gave those above theirs
        depth = {index: depth for depth, index in enumerate(case.graph.order)}
        found.sort(key=lambda each: -depth.get(each.node, 0) if each.node is not None else 0)
    return found, set(risks)


def _brought(case: Case) -> dict[int, Risk]:
    """The leaves that are infinite or NaN themselves: of all one thing is said, at the first."""
    nodes = case.graph.leaves if case.graph else ()
    leaves = [(node.index, node.grad_fn.variable) for node in nodes]
    bad = {i: leaf for i, leaf in leaves if is_readable(leaf) and not is_finite(leaf)}
    if not bad:
        return {}
    names = [case.name_of(leaf) for leaf in bad.values()]
    is_trained = all(isinstance(leaf, torch.nn.Parameter) for leaf in bad.values())
    message = f"{names[0]} itself has infinite or NaN values"
    if names[1:]:
        called = listed(names, "parameters" if is_trained else "leaves")
        message = f"{called} have infinite or NaN values themselves"
    first, *others = bad
    risk = Risk("non-finite", message, "trained" if is_trained else "data")
    return {first: risk} | dict.fromkeys(others, _TOLD_ELSEWHERE)


def _infinite(case: Case) -> dict[int, Risk]:
    """The Nodes that saved infinities, as a log-softmax of what a mask of -inf left out."""
    saved = {node.index: infinite_or_nan(node.name, peek) for node, peek in case.nodes_and_peeks}
    return {index: risk for index, risk in saved.items() if risk}


def _given_nothing(case: Case) -> dict[int, Risk]:
    """The Nodes that gave NaN because nothing was left to take the mean of, and the losses of
    labels that cannot be."""
    means = [(n, saved) for n, saved in case.of(MEANS) if 0 not in (shape_or_none(n) or ())]
    risks = {node.index: of_nothing(saved) for node, saved in means}
    labels = {node.index: impossible(saved) for node, saved in case.of({"NllLoss", "NllLoss2D"})}
    risks |= {index: risk for index, risk in labels.items() if risk}
    return {index: risk for index, risk in risks.items() if risk}


def _arriving(
    case: Case, risks: Mapping[int, Risk], shown: Mapping[int, Risk], sending: Sequence[int]
) -> dict[int, Risk]:
    """Those of some risks that spoil the gradient of a leaf, with what gave them their values."""
    sure = {index for index in risks if index in sending or case.nodes[index].is_custom}
    arriving = {index: risk for index, risk in risks.items() if index in sure}
    spoilt = [index for index, risk in arriving.items() if risk.code == "non-finite"]
    # The gradient of one of these may be overwritten, and what it gave spoils a Node above.
    others = {i: r for i, r in {**risks, **shown}.items() if i not in arriving}
    gave = below(case.graph, spoilt) if case.graph and others else ()
    arriving |= {i: r for i, r in others.items() if i in gave and r.code == "non-finite"}
    return arriving or {index: _overflow(case, index) for index in sending[:1]}


def _overflow(case: Case, index: int) -> Risk:
    """What is to be said of a Node that makes what is infinite of a finite gradient."""
    below = [case.nodes[edge.target] for edge in case.slots(index) if edge]
    return overflow(case.nodes[index].name, any(node.dtype is torch.float16 for node in below))


def _about_the_spoilt(
    case: Case, spoilt: Mapping[int, Risk], giving: Collection[int], hidden: bool
) -> Iterator[Finding]:
    """A finding for each Node with infinite or NaN values that has none below which gave them.

    Args:
        case: what is diagnosed.
        spoilt: by Node what is to be said of it.
        giving: the Nodes that gave infinite or NaN values, or took them.
        hidden: whether the output is finite, so that no NaN inside of the graph shows.
    """
    above = _above(case, giving) if spoilt else set()
    for index, risk in spoilt.items():
        if index in above:
            continue
        node, message, variant = case.nodes[index], risk.message, risk.variant
        if variant == "data" and (names := _names_of_data(case, index)):
            message = message.replace(",", f" ({listed(names, 'tensors')}),", 1)
        if hidden and variant in ("", "data", "large"):
            variant = "masked"
        if hidden:
            operation = hidden_by(case.watch, node.grad_fn) if case.watch else None
            by = _placed(operation) if operation else "something after it"
            message += (
                f"; {by} hides that from the output, which is finite, but not from backward()"
            )
        code = "nan-risk" if hidden else "non-finite"
        yield finding(code, message, variant=variant, **case.at(index))


def _names_of_data(case: Case, index: int) -> list[str]:
    """What the tensors with infinities or NaN are called that a Node saved, if they have names."""
    saved = [tensor for _, tensor in case.peeks[index].tensors if is_plain(tensor)]
    bad = [tensor for tensor in saved if not is_finite(tensor)]
    return [name for name, tensor in case.names.items() if any(tensor is each for each in bad)]


def _above(case: Case, nodes: Collection[int]) -> set[int]:
    """The Nodes from which a path leads to another one of these."""
    above = set[int]()
    for index in reversed(case.graph.order if case.graph else ()):  # after all that it leads to
        if any(e and (e.target in above or e.target in nodes) for e in case.slots(index)):
            above.add(index)
    return above


def about_the_spoilt_loss(case: Case, causes: list[Finding]) -> list[Finding]:
    """What is said of Nodes before what is said of the output, unless that alone has the line."""
    if not is_plain(case.output) or is_finite(case.output):
        return causes
    text, lines, variant = _born_before(case, case.watch) if case.watch else ("", [], "")
    message, source = f"the output itself is infinite or NaN{text}", lines[0] if lines else None
    loss = finding("non-finite", message, source=source, variant=variant)
    known = {found.source for found in causes}
    return [loss, *causes] if lines and known.isdisjoint(lines) else [*causes, loss]


def _born_before(case: Case, watch: Watch) -> tuple[str, list[Source | None], str]:
    """Where the NaN or infinity of the output came from: the end of a sentence, the lines, and the
    variant of the finding."""
    births = births_before(watch, case.output)
    if births:
        made = f", and {_placed(births[1])} made NaN of it" if births[1:] else ""
        text = f": {_placed(births[0])} gave the first{made}"
        meant = births if births[0].name in _MASKING else births[:1]
        return text, [birth.source for birth in meant], "born"
    brought = brought_before(watch, case.output)
    if brought is None or brought[1].requires_grad:  # of a leaf its own finding says so
        return "", [], ""
    operation, tensor = brought
    text = f": {case.name_of(tensor)} had such values before the block"
    return f"{text}, and {_placed(operation)} took them", [operation.source], "data"


def _placed(operation: Operation) -> str:
    """An operation and its line, in words."""
    return operation.called + (f" at {operation.source}" if operation.source else "")


def born_in(watch: Watch) -> tuple[str, Source | None]:
    """Where the first NaN or infinity of a block was born: a sentence, and the line."""
    births = births_in(watch)
    if not births:
        return "every result in the watched block was finite, or no worse than what it took", None
    nan = f", and the first NaN that of {_placed(births[1])}" if births[1:] else ""
    text = f"the first result that was not finite is that of {_placed(births[0])}{nan}"
    return text, births[0].source


# The operations that give an infinity which they were given, as for a mask: what made NaN of it is
# as likely the cause.
_MASKING = set(
    "__setitem__ add fill_ full full_like masked_fill masked_fill_ new_full new_tensor tensor where"
    .split()
)  # fmt: skip
_TOLD_ELSEWHERE = Risk("", "")  # what gave infinities or NaN, and is told with others like it
