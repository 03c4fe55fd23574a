"""A page with a drawing: zoom it, move it, search in it, open its blocks, and ask its boxes.

Its policy lets nothing run but drawing.js, and nothing be loaded. The details of boxes and the
insides of blocks are compressed; an inside is unpacked when it is opened.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from companion.drawing.numbers import Row
from companion.drawing.searching import Texts


@dataclass(frozen=True, slots=True)
class BoxDetails:
    """What is told of a box that is chosen.

    Attributes:
        name: what it is called.
        rows: what each detail is, and the detail.
        opens: of a block that can be opened, the number of the picture of its inside.
        drawn: the equal block whose inside that picture shows; "" where it is its own.
    """

    name: str
    rows: Sequence[Row]
    opens: int | None = None
    drawn: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """Boxes that are drawn together, as plain text.

    Attributes:
        dot: the picture in DOT.
        details: for each box, by its name in DOT, what is told of it.
    """

    dot: str
    details: Mapping[str, BoxDetails]


@dataclass(frozen=True, slots=True)
class Picture:
    """A view that is laid out.

    Attributes:
        svg: the picture.
        boxes: for each ``.node`` of the picture what is told of it, or None.
    """

    svg: str
    boxes: Sequence[BoxDetails | None]


def boxes_in(laid_out: str, view: View) -> list[BoxDetails | None]:
    """What is told of each ``.node`` of the SVG that Graphviz made of a view."""
    return [view.details.get(html.unescape(name)) for name in _NODE.findall(laid_out)]


_NODE = re.compile(r'<g id="\w+" class="node[^"]*">\n<title>(.*?)</title>')


def page_of(alt: str, whole: Picture, insides: Sequence[Picture], texts: Texts) -> str:
    """The page of a drawing, and of what is inside its blocks.

    Args:
        alt: the drawing in sentences.
        whole: the drawing.
        insides: the pictures that its blocks open into.
        texts: what a search finds, as ``texts_by_way`` gives it.
    """
    style, script = (
        "\n" + (_HERE / name).read_text("utf-8") for name in ("drawing.css", "drawing.js")
    )
    style += f".start {{ left: {_root_of(whole.svg):.0f}pt; }}\n"
    pictures = [replace(whole, svg=""), *insides]  # that of the whole stands in the page
    return _PAGE.format(
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
        title=html.escape(alt),
        svg=light(whole.svg),
        data=json.dumps(
            {
                "pictures": [packed(asdict(picture)) for picture in pictures],
                "found": packed([[way, found] for way, found in texts.items()]),
            }
        ),
        style=style,
        script=script,
    )


def frame_of(page: str, alt: str, height: float) -> str:
    """The page in a frame, for a notebook, of which it can reach nothing.

    So it cannot ask whether the notebook is dark; where that is known, a style of the notebook
    turns the colours of the frame around. A notebook that is not trusted takes the frame away and
    leaves the sentences that are in it.

    Args:
        page: the page.
        alt: the drawing in sentences.
        height: that of the drawing, in pixels.
    """
    alt, page = html.escape(alt), html.escape(page.replace("<html ", '<html class="framed" ', 1))
    look = f"width:100%;height:min(44rem,{height + _BAR:.0f}px);border:0"
    start = f'<iframe class="companion-drawing" sandbox="allow-scripts" title="{alt}"'
    return f'{_DARK}{start} srcdoc="{page}" style="{look}">{alt}</iframe>'


# How JupyterLab, VS Code and Colab say that they are dark.
_DARK = (
    "<style>@media screen{:is([data-jp-theme-light=false],.vscode-dark,[theme=dark]) "
    ".companion-drawing{filter:invert(.88) hue-rotate(180deg)}}</style>"
)
_BAR = 170  # pixels above a drawing, with some details


def _root_of(svg: str) -> float:
    """How many points the first box is from the left."""
    found = _FIRST_BOX.search(svg)
    return float(found[1]) + float(found[2]) if found else 0.0


_FIRST_BOX = re.compile(r'translate\((\S+) .*?<g class="node.*?<text [^>]*x="(\S+?)"', re.DOTALL)


def packed(data: object) -> str:
    """JSON as short text, which drawing.js and player_blocks.js unpack."""
    return b64encode(zlib.compress(json.dumps(data).encode(), 9)).decode()


def light(svg: str) -> str:
    """The same picture with what nearly every text says of itself said once, around them all."""
    for said in ('xml:space="preserve"', *_OF_TEXTS):  # the style of the page says the first
        svg = svg.replace(f" {said}", "")
    return svg.replace('<g class="graph"', f'<g class="graph" {" ".join(_OF_TEXTS)}', 1)


_OF_TEXTS = (
    'text-anchor="middle"',
    'font-family="Helvetica,sans-Serif"',
    'font-size="12.00"',
)


def _hash(text: str) -> str:
    """What a policy calls a script or a style by."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_HERE = Path(__file__).parent
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
<body>
<main class="view" tabindex="-1">
<span class="start"></span>{svg}
</main>
<script type="application/json" class="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
