"""The pictures of the course as a whole, made from its own drawings: ``make update`` makes them.

- ``logo.svg``, also the favicon: a small graph as ``draw`` draws it, without its words.
- ``social.png``: what is shown where somebody links to the site.
- ``player.png``: the player, for README.

A browser makes the last two, and each machine has other fonts. So a PNG says in itself what page it
was made from, and is made again, and counts as old, when that page has changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import zlib
from base64 import b64encode
from pathlib import Path

import torch
from companion import Drawing, draw, play
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
)
# Two colours that can be told from a white page and from a black one.
COLOURS = (
    "<style>.graph > polygon { display: none } .node > * { fill: #3b7dd8; stroke: #3b7dd8; "
    "stroke-width: 3 } .leaf > * { fill: #2c9a6a; stroke: #2c9a6a } .leaf > :last-child "
    "{ fill: none } .edge * { stroke: #3b7dd8; stroke-width: 6 }</style>"
)
CARD = """<!doctype html><meta charset="utf-8"><style>
  body {{ display: flex; align-items: center; box-sizing: border-box; width: 1200px; height: 630px;
    margin: 0; padding: 60px; font-family: system-ui, sans-serif; background: white }}
  h1 {{ margin: 30px 0 20px; font-size: 64px; letter-spacing: -0.02em }}
  p {{ margin: 0; font-size: 38px; line-height: 1.4 }}
  .words {{ flex: 1 }} .words img {{ height: 130px }}
  body > svg {{ width: 480px; height: auto }}
</style><body><div class="words"><img src="data:image/svg+xml;base64,{logo}">
<h1>Inside Autograd</h1>
<p>See what <code>.backward()</code> does,<br>step by step.</p></div>{drawing}</body>"""


def logo() -> str:
    """The graph of a product of two results of one leaf, as an SVG."""
    x = torch.tensor(1.0, requires_grad=True)
    drawing = draw(x.exp() * x.sin())
    dot = re.sub(r'\blabel=("[^"]*"|\w+)', 'label=""', drawing.dot)
    look = "node [fixedsize=true height=0.4 width=0.6] edge [dir=none] graph [ranksep=0.22 pad=0.05]"
    svg = Drawing(
        dot.replace("\n\t0 [", f"\n\t{look}\n\t0 [", 1), "Inside Autograd"
    ).svg
    return re.sub("<title>.*</title>\n", "", svg).replace(
        "\n<g", f"\n{COLOURS}\n<g", 1
    )


def pages() -> dict[str, str]:
    """For each PNG the page that it is a picture of."""
    x = torch.tensor(2.0, requires_grad=True)
    y = torch.tensor(3.0, requires_grad=True)
    loss = x * y + torch.sin(x)
    card = CARD.format(
        logo=b64encode(logo().encode()).decode(), drawing=draw(loss).svg
    )
    return {"social.png": card, "player.png": play(loss).html}


def photograph(window: Page, name: str, html: str) -> bytes:
    """A PNG of a page, or of the player in it after its third step."""
    window.set_viewport_size(
        {"width": 960 if name == "player.png" else 1200, "height": 630}
    )
    window.set_content(html)
    if name != "player.png":
        return window.screenshot()
    for _ in range(3):
        window.get_by_role("button", name="Next").first.click()
    window.mouse.move(0, 0)
    return window.locator("figure.player").screenshot()


# ---- a PNG that says what it was made from


def digest(html: str) -> bytes:
    return hashlib.sha256(html.encode()).hexdigest().encode()


def signed(png: bytes, html: str) -> bytes:
    """The PNG, with the digest of its page as a text before its last chunk."""
    text = b"tEXtSource\0" + digest(html)
    chunk = (
        struct.pack(">I", len(text) - 4)
        + text
        + struct.pack(">I", zlib.crc32(text))
    )
    return png[:-12] + chunk + png[-12:]


def is_of(png: bytes, html: str) -> bool:
    return b"tEXtSource\0" + digest(html) in png


def main() -> None:
    (HERE / "logo.svg").write_text(logo(), encoding="utf-8")
    old = {
        name: html
        for name, html in pages().items()
        if not (HERE / name).exists()
        or not is_of((HERE / name).read_bytes(), html)
    }
    browser = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if old and not browser:
        print(
            f"{' and '.join(old)} must be made again, which needs Chromium; see CONTRIBUTING"
        )
    elif old:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=browser, args=["--no-sandbox"]
            )
            window = chromium.new_page()
            for name, html in old.items():
                (HERE / name).write_bytes(
                    signed(photograph(window, name, html), html)
                )
                print(f"wrote {HERE / name}")
            chromium.close()


if __name__ == "__main__":
    main()
