"""What the tests of drawings share: a graph to draw, and an SVG read back."""

from xml.etree.ElementTree import fromstring

import torch

from companion import Drawing, draw

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> list[tuple[str, list[str], str]]:
    """For each Node as drawn: its class, the lines in it, and the hover text."""
    found = []
    for group in fromstring(svg).iter(f"{SVG}g"):
        kind = group.get("class", "")
        if kind.startswith("node") and kind != "node none":
            lines = [text.text or "" for text in group.iter(f"{SVG}text")]
            hover = group.findtext(f"{SVG}title", "")
            found.append((kind.removeprefix("node "), lines, hover))
    return found


def the_pass() -> Drawing:
    x = torch.ones(2, 3, requires_grad=True)
    w = torch.ones(3, 2, requires_grad=True)
    return draw((torch.mm(x, w) + 2.0).mean())
