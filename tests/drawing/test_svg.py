"""svg.py: no label is crossed by an arrow, and colours that can be read."""

import re
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
import torch

from companion import draw, record_backward
from tests.cases import each
from tests.drawing.pictures import SVG, crossed
from tests.programs import Double

ROOT = Path(__file__).parents[2]
FIGURES = sorted((ROOT / "course/figures").iterdir())


@each("figure", FIGURES)
def test_in_no_committed_drawing_a_label_is_crossed(figure):
    for svg in re.findall(r"<svg .*?</svg>", figure.read_text(encoding="utf-8"), re.DOTALL):
        if 'class="drawing' in svg:
            assert crossed(svg) == []


def test_in_a_tangled_graph_no_label_is_crossed():
    x = torch.ones(3, requires_grad=True)
    y = x
    for i in range(6):
        left, right = torch.stack([y * x, y + 1.0]).unbind()
        y = left * right - (x if i % 3 else right)
    svg = draw(y).svg
    assert crossed(svg) == []
    labels = [text for text in fromstring(svg).iter(f"{SVG}text") if text.get("fill")]
    assert len(labels) > 30
    left, right = 0.0, float(fromstring(svg).get("viewBox").split()[2])
    assert all(left < float(label.get("x")) < right for label in labels)


@pytest.mark.parametrize("count", [6, 9, 13])
def test_where_arrows_fan_out_none_cuts_the_corner_of_a_label(count):
    leaves = [torch.ones(2, requires_grad=True) for _ in range(count)]
    y = torch.cat([leaf * 1 if i % 3 else leaf for i, leaf in enumerate(leaves)])
    names = {f"leaf{i}" * (1 + i % 2): leaf for i, leaf in enumerate(leaves)}
    assert crossed(draw(y, names=names).svg) == []


def test_a_test_for_crossings_sees_one():
    svg = draw(torch.ones(2, requires_grad=True).exp()).svg
    edge = re.search(r' d="M([\d.]+),([-\d.]+)C[^ ]* [^ ]* ([\d.]+),([-\d.]+)"/>\n<polygon', svg)
    middle = (float(edge[2]) + float(edge[4])) / 2 + 4
    label = f'<text x="{edge[1]}" y="{middle}" font-size="10">label</text>\n<polygon fill="black"'
    assert crossed(svg.replace('<polygon fill="black"', label)) == ["label"]


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""

    def luminance(color: str) -> float:
        names = {"black": "#000000", "white": "#ffffff", "none": "#ffffff"}
        parts = [int(names.get(color, color)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("most", [1, 150])
def test_a_picture_stands_on_white_and_asks_nobody_for_colours(most):
    svg = draw(torch.ones(2, requires_grad=True).exp().sum(), max_nodes=most).svg
    ground = next(fromstring(svg).iter(f"{SVG}polygon"))
    corners = [tuple(map(float, p.split(","))) for p in ground.get("points").split()]
    width, height = (float(n) for n in fromstring(svg).get("viewBox").split()[2:])
    assert ground.get("fill") == "white"
    assert max(x for x, _ in corners) - min(x for x, _ in corners) == pytest.approx(width, abs=1)
    assert max(y for _, y in corners) - min(y for _, y in corners) == pytest.approx(height, abs=1)
    assert "currentColor" not in svg and "<style" not in svg


def test_every_text_can_be_read_on_its_box_and_on_white():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    svg = draw(record_backward((Double.apply(a) * b + 1.0).sum())).svg
    fills = set()
    for group in fromstring(svg).iter(f"{SVG}g"):
        if group.get("class") in (None, "graph"):
            continue
        shapes = [e.get("fill") for tag in ("path", "polygon") for e in group.iter(f"{SVG}{tag}")]
        background = next((fill for fill in shapes if fill[0] == "#"), "white")
        fills.add(background)
        for text in (e for tag in ("text", "tspan") for e in group.iter(f"{SVG}{tag}")):
            assert contrast(text.get("fill", "black"), background) >= 4.5
    assert len(fills) == 6, "white, root, leaf, operation, custom Function and pill differ"
