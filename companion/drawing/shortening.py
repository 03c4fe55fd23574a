"""Long names with dots, such as ``encoder.layer.3.output.weight``, cut so that they stay apart."""

from __future__ import annotations

import re
from collections.abc import Iterable

from companion.naming import one_line


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Each name as it is where it fits; else its end, its first number and what tells it apart.

    Components that are left out are an ellipsis: ``…layer.3…LayerNorm.weight``. No two are equal.

    Args:
        names: all names that are shown.
        width: how many characters fit in a line.

    Examples:
        >>> shortened(["net.layers.0.attention.norm.weight", "x.weight"], 14)
        {'net.layers.0.attention.norm.weight': '…layers.0…norm.weight', 'x.weight': 'x.weight'}
    """
    paths = {name: name.split(".") for name in sorted(set(names))}
    kept = {name: _at_first(path, width) for name, path in paths.items()}
    while True:
        alike: dict[str, list[str]] = {}
        for name, path in paths.items():
            alike.setdefault(_written(path, kept[name], width), []).append(name)
        sizes = [len(indices) for indices in kept.values()]
        for group in alike.values():
            for name, other in zip(group, group[1:], strict=False):
                _tell_apart(paths[name], kept[name], paths[other], kept[other])
        if sizes == [len(indices) for indices in kept.values()]:
            break
    short = {name: written for written, group in alike.items() for name in group}
    for written, group in alike.items():  # names may differ only in what is cut from one component
        for number, name in enumerate(group, start=1) if len(group) > 1 else ():
            short[name] = one_line(written, len(written) - len(f"#{number}")) + f"#{number}"
    return {name: short[name] for name in names}


def lines_of(name: str, width: int, before: str = "") -> list[str]:
    """A shortened name in lines of no more than ``width`` characters, broken between components.

    Args:
        name: the name.
        width: how many characters fit in a line.
        before: what stands before it in the first line.
    """
    lines = [before]
    components = re.split(r"(?<=[^…])(?=…\w)|(?<=\.)", name)
    for component in components:
        if len(lines[-1] + component) > width and len(components) > 1:
            lines.append("")
        lines[-1] += component
    return [line.rstrip() for line in lines]


def _at_first(path: list[str], width: int) -> set[int]:
    """The indices of the last components that fit, of two at least, and of the first number."""
    length, start = len(path[-1]), len(path) - 1
    while start and length + 1 + len(path[start - 1]) + (start > 1) <= width:
        start -= 1
        length += 1 + len(path[start])
    number = next((i for i in range(start + 1) if path[i].isdigit()), None)
    named = set() if number is None else {number, max(number - 1, 0)}
    kept = named | set(range(start, len(path)))
    return kept if len(kept) > 1 else {max(len(path) - 2, 0), *kept}  # "weight" alone says little


def _tell_apart(path: list[str], kept: set[int], other: list[str], other_kept: set[int]) -> None:
    """Keep the first component in which two paths differ."""
    pairs = enumerate(zip(path, other, strict=False))
    index = next((i for i, (a, b) in pairs if a != b), min(len(path), len(other)))
    for components, indices in ((path, kept), (other, other_kept)):
        indices |= {index} if index < len(components) else set()


def _written(path: list[str], kept: set[int], width: int) -> str:
    """The components of these indices; the others are an ellipsis."""
    text = ""
    for i, component in enumerate(path):
        if i in kept:
            # In its line are an ellipsis and a dot as well, or the word before a name of one part.
            dots = text.endswith("…") + (i < len(path) - 1)
            beside = dots if len([*filter(None, path)]) > 1 else len("leaf ")
            text += ("." if text and i - 1 in kept else "") + one_line(component, width - beside)
        elif not text.endswith("…"):
            text += "…"
    return text
