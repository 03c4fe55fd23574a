"""tools.plots: an SVG of the same bytes everywhere, in the colours of a page."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree.ElementTree import fromstring

import matplotlib
import pytest
from matplotlib.figure import Figure

from tests.cases import each
from tools import plots

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def figure(shift: float = 0.0) -> Figure:
    """Lines, markers, areas, bars, text, formulas, a legend, an arrow: what lessons draw."""
    made = Figure(figsize=(4, 3))
    axes = made.subplots()
    points = [n / 10 + shift for n in range(100)]
    axes.plot(points, [p**2 for p in points], label="a <b> & c")
    axes.plot(points, points, "o--", color="C1", label="$x^2_1$", markerfacecolor="white")
    axes.fill_between(points, 0, points, alpha=0.3)
    axes.bar([1, 2], [3, 4])
    axes.set(title="two\nlines", xlabel=r"$\frac{a}{b}$", ylabel="y", ylim=(0, 5))
    axes.annotate("here", (2, 1), (4, 3), arrowprops={"arrowstyle": "->"})
    axes.legend()
    return made


def elements(svg: str) -> list:
    return list(fromstring(svg).iter())


def test_it_is_the_same_bytes_each_time_and_in_another_process(tmp_path):
    plots.set_settings(None)
    drawn = plots.svg(figure())
    assert plots.svg(figure()) == drawn
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\n")
    code = "import sys, tests.tools.test_plots as t; t.plots.set_settings(None)"
    code += "; sys.stdout.write(t.plots.svg(t.figure()))"
    environment = os.environ | {
        "PYTHONHASHSEED": "7",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONUTF8": "1",
    }
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    assert other.stdout.decode() == drawn


def test_the_last_digits_of_the_values_are_not_seen():
    def drawn(shift: float) -> str:
        made = Figure()
        made.subplots().set(xlim=(0, 2), ylim=(0, 1))
        made.axes[0].plot([0, 1, 2], [0.2 + shift, 0.6 - shift, 0.9 + shift])
        return plots.svg(made)

    assert drawn(1e-5) == drawn(0) == drawn(-1e-5)
    assert drawn(1e-2) != drawn(0)
    assert plots.svg(figure(1e-12)) == plots.svg(figure())


def test_a_long_line_keeps_its_points():
    made = Figure()
    made.subplots().plot(range(2000), [n % 3 for n in range(2000)])
    plots.set_settings(None)
    longest = max(plots.svg(made).splitlines(), key=len)
    assert longest.count("L") > 1900


def test_two_on_a_page_share_nothing():
    for element in elements(plots.svg(figure())):
        assert element.tag.removeprefix(SVG) in {
            "svg",
            "g",
            "path",
            "polygon",
            "rect",
            "text",
            "tspan",
        }
        assert not {"id", "style", "clip-path"} & set(element.attrib)
        assert "url(" not in json.dumps(element.attrib)


def test_black_and_white_are_those_of_drawings_which_the_page_gives_its_colours():
    root, graph, paper, *others = elements(plots.svg(figure()))
    assert (graph.get("class"), graph.get("fill")) == ("graph", "black")
    assert (paper.tag, paper.get("fill")) == (f"{SVG}polygon", "white")
    assert {"black", "#cccccc"} <= {element.get("stroke") for element in others}
    for element in others:
        for value in (element.get("fill"), element.get("stroke")):
            assert value not in ("white", "#ffffff", "#000000")


def luminance(colour: str) -> float:
    parts = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@each("colour", matplotlib.color_sequences["tab10"])
def test_the_colours_of_the_cycle_are_seen_on_light_and_dark_pages(colour):
    made = Figure()
    made.subplots().plot([0, 1], color=colour)
    (line,) = (e for e in elements(plots.svg(made)) if e.get("stroke-width") == "1.5")
    for page in ("#ffffff", "#1e2029"):
        darker, lighter = sorted([luminance(page), luminance(line.get("stroke"))])
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_text_is_text():
    svg = plots.svg(figure())
    texts = ["".join(e.itertext()) for e in elements(svg) if e.tag == f"{SVG}text"]
    assert {"a <b> & c", "two", "lines", "y", "here", "x12", "ab"} <= set(texts)
    assert "DejaVu" not in svg


def test_nothing_is_cut_off_at_the_border():
    made = Figure(figsize=(4, 2))
    made.subplots().set_xlabel("below")
    svg = plots.svg(made)
    height = float(fromstring(svg).get("viewBox").split()[3])
    (label,) = (e for e in elements(svg) if e.text == "below")
    assert float(label.get("y")) < height - 2


def test_what_lies_outside_of_the_axes_is_not_seen():
    made = Figure(figsize=(4, 3))
    made.subplots().set(xlim=(0, 1), ylim=(0, 1))
    made.axes[0].plot([0, 9], [0, 9])
    (frame,) = (e for e in elements(plots.svg(made)) if e.get("x") and e.tag == f"{SVG}svg")
    assert frame.get("viewBox").split() == [frame.get(n) for n in ("x", "y", "width", "height")]
    assert frame[0].get("stroke") == "#1f77b4"


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda axes: axes.imshow([[0, 1]]), "holds pixels.*pcolormesh"),
        (lambda axes: axes.bar([1], [1], hatch="/"), "holds a pattern.*hatch"),
    ],
)
def test_what_would_differ_or_need_an_id_is_refused(draw, reason):
    made = Figure()
    draw(made.subplots())
    with pytest.raises(ValueError, match=reason):
        plots.svg(made)


def test_areas_of_a_grid_are_drawn():
    made = Figure()
    made.subplots().pcolormesh([[0, 1], [2, 3]], edgecolors="face")
    assert len({e.get("fill") for e in elements(plots.svg(made))}) >= 4
