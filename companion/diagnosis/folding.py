"""Many findings that say the same become one: of several inputs, or of several Nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from companion.diagnosis.inputs import Input
from companion.findings import Finding, finding
from companion.naming import listed

FEW = 3  # up to so many Nodes get a finding each, if they are not of one line


class Said(NamedTuple):
    """What is to be said of an input, and perhaps of others as well.

    Attributes:
        given: the input.
        code: the code of the finding.
        text: its message, with ``{name}`` for the input and ``{is}``, ``{has}``, ``{its}`` and so
            on for the words that change where it is said of several.
        options: the rest of the finding, as ``finding`` takes it.
    """

    given: Input
    code: str
    text: str
    options: dict[str, Any]


def said(given: Input, code: str, text: str, **options: Any) -> Said:
    return Said(given, code, text, options)


def about_inputs(all_said: Iterable[Said]) -> Iterator[Finding]:
    """One finding for all the inputs of which the same is said; its source is that of the first."""
    groups = dict[tuple[Any, ...], list[Said]]()
    for statement in all_said:
        options = statement.options
        key = statement.code, statement.text, options.get("severity"), options.get("variant")
        groups.setdefault(key, []).append(statement)
    for (code, text, *_), group in groups.items():
        message = _worded(text, [statement.given for statement in group])
        yield finding(code, message, **group[0].options)


def names_of_all(inputs: Sequence[Input]) -> str:
    """Inputs in words: "x and w", "34 parameters of decoder"."""
    if len(inputs) == 1:
        return inputs[0].name
    names = [given.name.partition(",")[0] for given in inputs]  # without their shapes
    all_named = all("," not in given.name for given in inputs)
    if not (all_named and all(isinstance(given.tensor, nn.Parameter) for given in inputs)):
        return listed(names, "inputs")
    return ("the parameters " if len(names) <= 3 else "") + listed(names, "parameters")


def _worded(text: str, inputs: Sequence[Input]) -> str:
    for placeholder, singular, plural in _WORDS:
        text = text.replace("{" + placeholder + "}", plural if len(inputs) > 1 else singular)
    return text.replace("{name}", names_of_all(inputs))


_WORDS = [
    ("is", "is", "are"),
    ("has", "has", "have"),
    ("its", "its", "their"),
    ("it", "it", "they"),
    ("them", "it", "them"),
    ("was", "was", "were"),
    ("does", "does", "do"),
    ("it was", "it was", "they were"),
    ("a leaf", "a leaf", "leaves"),
    ("another leaf", "another leaf", "other leaves"),
    ("s", "s", ""),  # of a verb: count{s}
    ("each", "", " each"),
]


def about_nodes(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, of which one stands for all Nodes of which the same is said.

    Those of one line are one, as of a module that is called twice; of several lines only many are.
    """
    groups = dict[tuple[str, str, str, str], list[Finding]]()
    for found in findings:
        key = found.code, found.severity, found.message, found.cure
        groups.setdefault(key, []).append(found)
    for group in groups.values():
        if group[0].node is None:
            yield from group
        elif len(group) > FEW:
            yield _of_all(group)
        else:
            by_line = dict[object, list[Finding]]()
            for found in group:
                by_line.setdefault(found.source or found.node, []).append(found)
            yield from map(_of_all, by_line.values())


def _of_all(findings: Sequence[Finding]) -> Finding:
    """The first of some findings, which names the Nodes of the others."""
    first, *others = findings
    if not others:
        return first
    nodes = [str(node) for node in sorted({each.node for each in others if each.node is not None})]
    more = f" and {len(nodes) - FEW} more" if len(nodes) > FEW else ""
    at = f"at node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:FEW])}{more}"
    return replace(first, where=f"{first.where}; the same {at}")
