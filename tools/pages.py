"""What the page shows and Markdown cannot say: drawings as part of the page, notebooks as buttons.

A Python-Markdown extension and no MkDocs hook, because both MkDocs and Zensical run extensions.
"""

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, fromstring

from markdown import Extension, Markdown
from markdown.postprocessors import Postprocessor
from markdown.treeprocessors import Treeprocessor

FIGURE = re.compile(r"(?:\.\./)*(figures/.+\.svg)")
NOTEBOOK = re.compile(r"(?:\.\./)*(notebooks/.+\.ipynb)")
# The mark of an error on purpose, one snippet, and its output.
ERROR = re.compile(
    r'<!--pytest\.mark\.xfail[^>]*-->\s*<div class="language-python'
    r'(?:(?!<!--|<div class="language-).)*'
    r'<!--pytest-codeblocks:expected-output-->\s*<div class="language-text',
    re.DOTALL,
)


class Pages(Treeprocessor):
    """Works on the parsed page, where alt texts and links are data and need no escaping."""

    def __init__(self, md: Markdown, docs: str, repository: str) -> None:
        super().__init__(md)
        self.docs = docs
        self.repository = repository

    def run(self, root: Element) -> None:
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag == "img" and (figure := FIGURE.fullmatch(child.get("src", ""))):
                    self.inline(child, figure[1])
                if child.tag == "a" and (notebook := NOTEBOOK.fullmatch(child.get("href", ""))):
                    self.offer(parent, child, notebook[1])

    def inline(self, image: Element, figure: str) -> None:
        """Turn the image into a box that scrolls and holds the SVG, which takes the page's colours.

        Raises:
            FileNotFoundError: the figure was never drawn.
            ValueError: the SVG has ids; two drawings on one page would have the same ones.
        """
        alt = image.get("alt", "")
        path = Path(self.docs, figure)
        if not path.is_file():
            raise FileNotFoundError(
                f"the page shows ![{alt}]({figure}), but {path} does not exist; "
                "draw it with `make update`, or correct the link"
            )
        source = path.read_text(encoding="utf-8")
        svg = fromstring(source)
        if any("id" in element.attrib for element in svg.iter()):
            raise ValueError(
                f"{path} has id attributes, and two drawings on one page would share them; "
                "draw it with companion.draw, which writes none"
            )
        image.tag = "span"
        image.attrib = {
            "class": "drawing-box",
            "role": "group",
            "aria-label": "Drawing",
            "tabindex": "0",  # a box that scrolls must be in reach of the keyboard
        }
        drawing = SubElement(image, "svg", svg.attrib)
        drawing.set("class", "drawing")
        drawing.set("role", "img")
        drawing.set("aria-label", alt)
        drawing.set("style", f"--width: {svg.attrib['viewBox'].split()[2]}")  # for course.css
        inside = source[source.index(">", source.index("<svg")) + 1 : source.rindex("</svg>")]
        drawing.text = self.md.htmlStash.store(inside)

    def offer(self, parent: Element, link: Element, notebook: str) -> None:
        """Turn the link into a download button, followed by one that opens it in Colab."""
        link.set("class", "md-button")
        link.set("download", "")
        if self.repository:
            address = f"{self.repository}/blob/main/{self.docs}/{notebook}"
            colab = Element("a", {"class": "md-button"})
            colab.set("href", f"https://colab.research.google.com/github/{address}")
            colab.text = "Open in Colab"
            link.tail, colab.tail = " ", link.tail
            parent.insert(list(parent).index(link) + 1, colab)


class Errors(Postprocessor):
    """Gives the output of a snippet that fails on purpose the class ``error``."""

    def run(self, text: str) -> str:
        return ERROR.sub(r"\g<0> error", text)


class PagesExtension(Extension):
    def __init__(self, **kwargs: Any) -> None:
        self.config = {
            "docs": ["course", "where the figures are, from where the build is started"],
            "repository": ["", "OWNER/NAME on GitHub; without it no page links to Colab"],
        }
        super().__init__(**kwargs)

    def extendMarkdown(self, md: Markdown) -> None:
        # After the images and links are parsed (20), before MkDocs moves their addresses (0).
        md.treeprocessors.register(Pages(md, **self.getConfigs()), "pages", 1)
        # After the snippets and comments are back in the text (30).
        md.postprocessors.register(Errors(md), "errors", 1)


def makeExtension(**kwargs: Any) -> PagesExtension:
    return PagesExtension(**kwargs)
