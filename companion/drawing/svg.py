"""Graphviz' SVG becomes one for a page: no ids, colours for numbers, labels beside the arrows.

Graphviz keeps a place for a label next to its arrow, but may bend the arrow through it. Such a
label moves along its arrow, or to its other side, to where nothing else is.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from math import dist
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


class _Line:
    """The arrow of an edge."""

    def __init__(self, group: str) -> None:
        self._curve = _points(group[group.index(' d="') :].partition("/>")[0])
        head = group.find('<polygon fill="black"')
        self._head = _points(group[head:].partition("/>")[0]) if head >= 0 else []

    @cached_property
    def points(self) -> list[_Point]:
        """Points of it that are so close together that no label fits between two."""
        found = self._head + self._curve[:1]
        for i in range(0, len(self._curve) - 3, 3):  # from each Bézier curve to the next
            found += _along(*self._curve[i : i + 4])
        return found


class _Map:
    """Which points of arrows and which areas are near a place, told without a look at all others.

    It is divided into squares, each with what is in it.
    """

    def __init__(self) -> None:
        self._points: dict[tuple[int, int], list[_Point]] = defaultdict(list)
        self._areas: dict[tuple[int, int], list[_Area]] = defaultdict(list)

    def add_line(self, line: _Line) -> None:
        for x, y in line.points:
            self._points[int(x // _SQUARE), int(y // _SQUARE)].append((x, y))

    def add(self, area: _Area) -> None:
        for square in _squares(area):
            self._areas[square].append(area)

    def remove(self, area: _Area) -> None:
        for square in _squares(area):
            self._areas[square].remove(area)

    def has_line(self, area: _Area) -> bool:
        """Whether an arrow runs through an area."""
        left, top, right, bottom = area
        return any(
            left < x < right and top < y < bottom
            for square in _squares(area)
            for x, y in self._points.get(square, ())
        )

    def has_area(self, area: _Area) -> bool:
        """Whether something stands in an area."""
        return any(
            area.meets(other) for square in _squares(area) for other in self._areas.get(square, ())
        )


_SQUARE = 16.0


def _squares(area: _Area) -> Iterator[tuple[int, int]]:
    """The squares of the map that an area touches."""
    for column in range(int(area.left // _SQUARE), int(area.right // _SQUARE) + 1):
        for row in range(int(area.top // _SQUARE), int(area.bottom // _SQUARE) + 1):
            yield column, row


def _with_labels_beside_arrows(svg: str) -> str:
    """The same drawing, with no label of an edge where an arrow is, if there is another place."""
    groups = _EDGE.findall(svg)
    labels = {i: label for i, group in enumerate(groups) if (label := _LABEL.search(group))}
    if not labels:
        return svg
    lines = [_Line(group) for group in groups]
    areas = {i: _area_of(label) for i, label in labels.items()}
    taken = _Map()
    for line in lines:
        taken.add_line(line)
    for area in chain((_around(_points(shape)) for shape in _BOX.findall(svg)), areas.values()):
        taken.add(area)
    canvas = _around(_points(svg[svg.index('points="') :].partition("/>")[0]))

    def is_free(place: _Area) -> bool:
        on_canvas = canvas.left <= place.left and place.right <= canvas.right
        return on_canvas and not taken.has_area(place) and not taken.has_line(place)

    moved = dict[str, str]()
    for i, label in labels.items():
        if taken.has_line(areas[i]):
            taken.remove(areas[i])
            areas[i] = next(filter(is_free, _places(lines[i], areas[i])), areas[i])
            taken.add(areas[i])
        moved[groups[i]] = groups[i].replace(label[0], _moved(label, areas[i]))
    return _EDGE.sub(lambda group: moved.get(group[0], group[0]), svg)


_EDGE = re.compile(r'<g class="edge.*?</g>\n', re.S)
_LABEL = re.compile(r'<text [^>]*x="(\S+)" y="(\S+)"[^>]*font-size="([\d.]+)"[^>]*>(.*?)</text>')
_BOX = re.compile(r'<g class="node[^>]*>\n(?:<title>.*?</title>\n)?<p\w+ ([^>]*)/>')
_ABOVE, _BELOW = 0.92, 0.22  # how far a line of text reaches from where it is written, in ems
_SPACE = 0.278  # of Helvetica, in ems


def _area_of(label: re.Match[str]) -> _Area:
    """Where the letters of a label are, as wide as Helvetica has them or a little wider."""
    x, y, size = map(float, label.groups()[:3])
    text = html.unescape(label[4])
    spaces = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
    ems = (_SPACE if c in " []().,:" else 0.6 if c <= "ÿ" else 1 for c in text.strip())
    half = sum(ems) * size / 2
    x += (spaces[0] - spaces[1]) * _SPACE * size / 2
    return _Area(x - half, y - _ABOVE * size, x + half, y + _BELOW * size)


def _places(line: _Line, area: _Area) -> Iterator[_Area]:
    """Right and left of an arrow all along it, the nearest to where a label is now first."""
    width, height = area.right - area.left, area.bottom - area.top
    by_distance = sorted(line.points, key=lambda point: abs(point[1] - area.top - height / 2))
    for gap in _GAPS:
        for _, middle in by_distance:
            top, bottom = middle - height / 2, middle + height / 2
            near = [x for x, y in line.points if top <= y <= bottom]
            for left in (max(near) + gap, min(near) - gap - width):
                yield _Area(left, top, left + width, bottom)


_GAPS = (2.5, 1.0)  # between a label and its arrow


def _moved(label: re.Match[str], area: _Area) -> str:
    """A label at another place, without the spaces that kept its place free."""
    x, y = (area.left + area.right) / 2, area.bottom - _BELOW * float(label[3])
    start = label[0].replace(f'x="{label[1]}" y="{label[2]}"', f'x="{x:.2f}" y="{y:.2f}"')
    return f"{start.partition('>')[0]}>{html.escape(html.unescape(label[4]).strip())}</text>"


# ---- shapes


def _along(a: _Point, b: _Point, c: _Point, d: _Point) -> Iterator[_Point]:
    """Points of a Bézier curve, about 1.5 apart or less."""
    steps = 1 + int((dist(a, b) + dist(b, c) + dist(c, d)) / 1.5)
    for step in range(1, steps + 1):
        t, u = step / steps, 1 - step / steps
        p, q, r, s = u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t
        yield p * a[0] + q * b[0] + r * c[0] + s * d[0], p * a[1] + q * b[1] + r * c[1] + s * d[1]


def _points(shape: str) -> list[_Point]:
    """The points in the ``d`` or ``points`` of a shape."""
    found = re.search(r'(?: d|points)="([^"]*)"', shape)
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", found[1])] if found else []
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _around(points: Sequence[_Point]) -> _Area:
    """The area that points take up."""
    xs, ys = zip(*points, strict=True)
    return _Area(min(xs), min(ys), max(xs), max(ys))
