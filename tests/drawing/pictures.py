"""What the tests of drawings share: a graph to draw, and an SVG read back."""

import re
from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import torch

from companion import Drawing, draw

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> list[tuple[str, list[str], str]]:
    """For each Node as drawn: its class, the lines in it, and the hover text."""
    found = []
    for group in fromstring(svg).iter(f"{SVG}g"):
        kind = group.get("class", "")
        if kind.startswith("node") and kind not in ("node none", "node pill"):
            lines = ["".join(text.itertext()) for text in group.iter(f"{SVG}text")]
            hover = group.findtext(f"{SVG}title", "")
            found.append((kind.removeprefix("node "), lines, hover))
    return found


def the_pass() -> Drawing:
    x = torch.ones(2, 3, requires_grad=True)
    w = torch.ones(3, 2, requires_grad=True)
    return draw((torch.mm(x, w) + 2.0).mean())


def pills(svg: str) -> list[str]:
    """The text in each pill, in the order of the drawing."""
    groups = [g for g in fromstring(svg).iter(f"{SVG}g") if g.get("class") == "node pill"]
    return [" ".join(" ".join(g.itertext()).split()) for g in groups]


# ---- what crosses what


def crossed(svg: str) -> list[str]:
    """The labels of edges and the lines in boxes that an arrow crosses."""
    arrows, texts = [], []
    for group in fromstring(svg).iter(f"{SVG}g"):
        if group.get("class", "").startswith("edge"):
            arrows += [points for path in group.iter(f"{SVG}path") for points in curves(path)]
        texts += [text for text in group.findall(f"{SVG}text") if "".join(text.itertext()).strip()]
    return [
        "".join(text.itertext())
        for text in texts
        if any(is_inside(point, area_of(text)) for points in arrows for point in points)
    ]


def area_of(text: Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a line of text; half an em is less than most letters have."""
    words, size = "".join(text.itertext()), float(text.get("font-size", 0))
    x, y = float(text.get("x", 0)), float(text.get("y", 0))
    half = size * sum(0.28 if c in " []().,:" else 0.5 for c in words) / 2
    return x - half, y - 0.9 * size, x + half, y + 0.2 * size


def is_inside(point: tuple[float, float], area: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = area
    return left < point[0] < right and top < point[1] < bottom


def curves(path: Element) -> list[list[tuple[float, float]]]:
    """100 points of each Bézier curve of a path."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    parts = [points[i : i + 4] for i in range(0, len(points) - 3, 3)]
    return [[on_curve(part, t / 100) for t in range(101)] for part in parts]


def on_curve(part: list[tuple[float, float]], t: float) -> tuple[float, float]:
    """A point by de Casteljau's way."""
    while len(part) > 1:
        part = [
            tuple(a + (b - a) * t for a, b in zip(*ends, strict=True)) for ends in pairwise(part)
        ]
    return part[0]
