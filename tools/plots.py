"""A figure of matplotlib as an SVG that is the same on every machine, and as a page wants it.

It is made like a drawing of the companion: black on white paper, which the style sheet gives the
colours of the page; without ids, which two figures on a page would share. Numbers are rounded, so
that the last digits of another processor are not seen.
"""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure

matplotlib.use("agg")  # no window is opened

SETTINGS = {
    "path.simplify": False,  # which points it leaves out depends on the last digits
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "inside-autograd",
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
FONT = "Helvetica,sans-Serif"  # that of drawings
# Colours of matplotlib's that are hard to see on white or on the dark page, and what stands for
# them; each differs from both by 3 : 1 at least. The other colours of its cycle do so too.
COLOURS = {
    "#000000": "black",
    "#ff7f0e": "#d2691e",
    "#8c564b": "#a0634f",
    "#e377c2": "#d0559f",
    "#bcbd22": "#8a8a1a",
    "#17becf": "#1590a0",
}
POSITION = ("d", "transform", "x", "y", "width", "height")
HREF = "{http://www.w3.org/1999/xlink}href"


class Plot(NamedTuple):
    """What a page shows of a figure, as of a drawing. What it shows in words the lesson says."""

    svg: str
    alt: str = ""

    def _repr_svg_(self) -> str:
        return self.svg


# ---- the state of matplotlib


def settings() -> dict[str, Any]:
    return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}


def set_settings(saved: dict[str, Any] | None) -> None:
    """Set matplotlib as it was, or to its own defaults, whatever a file of the user's says."""
    close_all()
    if saved is None:
        matplotlib.rcdefaults()
        saved = SETTINGS
    now = settings()  # to set them all takes longer than most snippets
    matplotlib.rcParams.update({name: v for name, v in saved.items() if now[name] != v})


def close_all() -> list[Figure]:
    """Close the figures that pyplot holds open, and give them."""
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    pyplot.close("all")
    return figures


# ---- the picture


def svg(figure: Figure) -> str:
    """The figure as an SVG.

    Raises:
        ValueError: it holds pixels or patterns.
    """
    written = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        # As in a notebook, nothing is cut off at the border.
        figure.savefig(written, format="svg", metadata=NO_METADATA, bbox_inches="tight")
    source = ElementTree.fromstring(written.getvalue())
    named = {f"#{element.get('id')}": element for element in source.iter()}
    size = {name: _rounded(source.attrib[name], 1) for name in ("width", "height", "viewBox")}
    root = Element("svg", {"class": "plot", **size, "xmlns": "http://www.w3.org/2000/svg"})
    shared = {"fill": "black", "stroke-linejoin": "round", "stroke-linecap": "butt"}
    graph = SubElement(root, "g", {"class": "graph", **shared})
    _, _, width, height = size["viewBox"].split()
    corners = f"0,0 {width},0 {width},{height} 0,{height}"
    SubElement(graph, "polygon", {"fill": "white", "stroke": "none", "points": corners})
    waiting = [(graph, child) for child in reversed(source)]
    while waiting:
        target, element = waiting.pop()
        tag = element.tag.rpartition("}")[2]
        if tag in ("defs", "metadata"):
            continue
        attributes = _attributes(element, tag, named)
        _check(tag, attributes)
        if attributes.get("fill") == "none" and "stroke" not in attributes:
            continue
        if clip := element.get("clip-path"):
            target = _clipped(target, named[clip[len("url(") : -1]][0])
        if tag != "g" or attributes:
            target = SubElement(target, "path" if tag == "use" else tag, attributes)
        if tag in ("text", "tspan"):
            target.text = element.text if (element.text or "").strip() else None
        waiting += [(target, child) for child in reversed(element)]
    return _one_element_a_line(root)


def _attributes(element: Element, tag: str, named: dict[str, Element]) -> dict[str, str]:
    """The attributes of an element, its style among them."""
    attributes = {k: v for k, v in element.attrib.items() if k in (*POSITION, "points")}
    style = element.get("style", "")
    if tag == "use":
        used = named[element.attrib[HREF]]
        moved = f"translate({attributes['x']} {attributes['y']})"
        attributes = {"d": used.attrib["d"], "transform": moved}
        style = f"{used.get('style', '')}; {style}"
    for name, value in re.findall(r"([\w-]+): ([^;]+)", style):
        attributes[name] = COLOURS.get(value, value)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if "font-family" in attributes:
        attributes["font-family"] = FONT
    if tag != "text" and attributes.get("fill") == "#ffffff":
        attributes["fill"] = "none"  # the page shows through
    return {k: _rounded(v, 1 if k in POSITION else 2) for k, v in attributes.items()}


def _rounded(value: str, digits: int) -> str:
    """The numbers in an attribute with at most so many digits, blanks between them."""

    def short(number: re.Match[str]) -> str:
        written = f"{float(number[0]):.{digits}f}".rstrip("0").rstrip(".")
        return "0" if written == "-0" else written

    return re.sub(r"-?\d+\.\d+", short, " ".join(value.split()))


def _clipped(target: Element, frame: Element) -> Element:
    """An element in ``target`` that shows what lies in the frame. A clipPath would need an id."""
    box = {name: _rounded(frame.attrib[name], 1) for name in ("x", "y", "width", "height")}
    return SubElement(target, "svg", {**box, "viewBox": " ".join(box.values())})


def _check(tag: str, attributes: dict[str, str]) -> None:
    if tag == "image":
        raise ValueError(
            "the plot holds pixels, which are not the same bytes on every machine; "
            "draw areas instead, such as with pcolormesh in place of imshow"
        )
    if any("url(" in value for value in attributes.values()):
        raise ValueError("the plot holds a pattern, which needs an id; draw it without a hatch")


def _one_element_a_line(root: Element) -> str:
    for element in root.iter():
        if element.tag not in ("text", "tspan"):
            element.text = "\n" if len(element) else None
            for child in element:
                child.tail = "\n"
    return ElementTree.tostring(root, encoding="unicode") + "\n"
