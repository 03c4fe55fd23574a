"""Graphviz' SVG becomes one for a page: no ids, colours for numbers, labels beside the arrows.

Graphviz keeps a place for a label next to its arrow, but may bend the arrow through it. Such a
label moves along its arrow, or to its other side, to where nothing else is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from companion.drawing.dot import GREY, MARK, ORANGE

_Point = tuple[float, float]


def clean(svg: str, alt: str) -> str:
    """The ``<svg>`` element: no ids to clash, titles that say something, and a label."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\n|<title>.*?</title>\n| id=\"\w+\"", "", svg, flags=re.S)
    svg = re.sub(r'<g><a xlink:title="\s*">\n(.*?)</a>\n</g>\n', r"\1", svg, flags=re.S)
    svg = re.sub(
        r'<g><a xlink:title="(.*?)">\n(.*?)</a>\n</g>\n', r"<title>\1</title>\n\2", svg, flags=re.S
    )
    svg = re.sub(f"(<text [^>]*)>{MARK}", rf'\1 fill="{ORANGE}">', svg)
    svg = re.sub(f">([^<>]+){MARK}", rf'><tspan fill="{GREY}">\1</tspan>', svg)
    label = html.escape(alt)
    svg = svg.replace("<svg ", f'<svg class="drawing" role="img" aria-label="{label}" ', 1)
    return _with_labels_beside_arrows(svg)


# ---- labels


class _Area(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Area) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class _Line(NamedTuple):
    """An arrow, as points that are close together, and the area that it runs through."""

    points: Sequence[_Point]
    area: _Area

    def crosses(self, area: _Area) -> bool:
        return self.area.meets(area) and any(
            area.left < x < area.right and area.top < y < area.bottom for x, y in self.points
        )


def _with_labels_beside_arrows(svg: str) -> str:
    """The same drawing, with no label of an edge where an arrow is, if there is another place."""
    groups = [group[0] for group in re.finditer(r'<g class="edge.*?</g>\n', svg, re.S)]
    labels = [_LABEL.search(group) for group in groups]
    if not any(labels):
        return svg
    lines = [_line(group) for group in groups]
    areas = [label and _area_of(label) for label in labels]
    boxes = [_around(_points(shape)) for shape in _BOX.findall(svg)]
    canvas = _around(_points(svg[svg.index('points="') :].partition("/>")[0]))
    for i, (group, label, area) in enumerate(zip(groups, labels, areas, strict=True)):
        if label is None or area is None or not any(line.crosses(area) for line in lines):
            continue
        taken = boxes + [other for j, other in enumerate(areas) if other and i != j]
        for place in _places(lines[i], area):
            inside = canvas.left <= place.left and place.right <= canvas.right
            if (
                inside
                and not any(map(place.meets, taken))
                and not any(line.crosses(place) for line in lines)
            ):
                areas[i] = place
                break
        svg = svg.replace(group, _moved(group, label, area, areas[i]), 1)
    return svg


_LABEL = re.compile(r'<text [^>]*x="(\S+)" y="(\S+)"[^>]*font-size="([\d.]+)"[^>]*>(.*?)</text>')
_BOX = re.compile(r'<g class="node[^>]*>\n(?:<title>.*?</title>\n)?<p\w+ ([^>]*)/>')
_ABOVE, _BELOW = 0.75, 0.2  # how far letters reach from their line, in font sizes


def _area_of(label: re.Match[str]) -> _Area:
    """Where the letters of a label are, as wide as Helvetica would be, or a little wider."""
    x, y, size = map(float, label.groups()[:3])
    text = html.unescape(label[4])
    spaces = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
    letters = (0.28 if c in " []().,:" else 0.56 if c.isascii() else 0.9 for c in text.strip())
    half = sum(letters) * size / 2
    x += (spaces[0] - spaces[1]) * 0.28 * size / 2
    return _Area(x - half, y - _ABOVE * size, x + half, y + _BELOW * size)


def _places(line: _Line, area: _Area) -> Iterator[_Area]:
    """Right and left of an arrow all along it, the nearest to where a label is now first."""
    width, height = area.right - area.left, area.bottom - area.top
    for _, middle in sorted(line.points, key=lambda point: abs(point[1] - area.top - height / 2)):
        top, bottom = middle - height / 2, middle + height / 2
        near = [x for x, y in line.points if top <= y <= bottom]
        for left in (max(near) + _GAP, min(near) - _GAP - width):
            yield _Area(left, top, left + width, bottom)


_GAP = 2.5


def _moved(group: str, label: re.Match[str], old: _Area, new: _Area | None) -> str:
    """An edge with its label in another place."""
    if new is None or new == old:
        return group
    x, y = float(label[1]) + new.left - old.left, float(label[2]) + new.top - old.top
    text = label[0].replace(f'x="{label[1]}" y="{label[2]}"', f'x="{x:.2f}" y="{y:.2f}"')
    return group.replace(label[0], text)


# ---- shapes


def _line(group: str) -> _Line:
    """The arrow of an edge: its curve, which consists of Bézier curves, and its head."""
    start, *rest = _points(group[group.index(' d="') :].partition("/>")[0])
    points = [start]
    for i in range(0, len(rest) - 2, 3):
        curve = (points[-1], *rest[i : i + 3])
        points += [_on_curve(curve, step / _STEPS) for step in range(1, _STEPS + 1)]
    for head in re.findall(r'<polygon[^>]* points="[^"]*"', group):
        corners = _points(head)
        points += [_between(a, b, t) for a, b in pairwise(corners) for t in (0.25, 0.5, 0.75, 1)]
    return _Line(points, _around(points))


_STEPS = 24  # on a curve


def _on_curve(curve: Sequence[_Point], t: float) -> _Point:
    """The point of a Bézier curve at ``t``, by de Casteljau's way."""
    while len(curve) > 1:
        curve = [_between(a, b, t) for a, b in pairwise(curve)]
    return curve[0]


def _between(a: _Point, b: _Point, t: float) -> _Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _points(shape: str) -> list[_Point]:
    """The points in the ``d`` or ``points`` of a shape."""
    found = re.search(r'(?: d|points)="([^"]*)"', shape)
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", found[1])] if found else []
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _around(points: Sequence[_Point]) -> _Area:
    """The area that points take up."""
    xs, ys = zip(*points, strict=True)
    return _Area(min(xs), min(ys), max(xs), max(ys))
