"""The rules of ``formulas.py``, written with the names of a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from companion.backward.formulas import FORMULAS


def rules_of(name: str, slot: int) -> tuple[str, ...]:
    """The rules for a slot of a Node, the first to be tried first."""
    rules = FORMULAS.get(name, ())
    return (rules[slot],) if slot < len(rules) else ()


def derived(name: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a Node saved, as its rule wants it: plain numbers and tuples."""
    return {key: _plain(value) for key, value in saved.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, int) and value >= 2**63:  # torch gives -1 as a number without a sign
        return value - 2**64
    if isinstance(value, tuple | list):
        return tuple(_plain(entry) for entry in value)
    return value


def written(rule: str, show: Callable[[str], str | None], saved: Mapping[str, Any]) -> str | None:
    """The rule with names of the program; None if something in it is not known."""
    for factor in ("alpha", "beta"):
        if saved.get(factor) == 1:
            rule = rule.replace(f" * {factor}", "")
    missing = False

    def name(match: re.Match[str]) -> str:
        nonlocal missing
        word, rest = match[0], rule[match.end() :]
        if word != "grad" and word not in saved:
            if hasattr(torch, word) and rest.startswith("("):
                return f"torch.{word}"
            return word
        text = show(word)
        if text is None:
            missing = True
            return word
        is_bare = text.isidentifier() or (text[0] not in "-" and not rest.startswith("."))
        return text if is_bare else f"({text})"

    text = re.sub(r"(?<![\w.])[a-zA-Z]\w*", name, rule)
    return None if missing else text
