"""What the page shows and Markdown cannot say: figures as part of the page, the bar of a lesson.

A Python-Markdown extension and no MkDocs hook, because both MkDocs and Zensical run extensions. An
extension cannot copy files into the site. So a page with a player has its style sheet and script
within it, and needs no address of them, which would differ from folder to folder.
"""

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, fromstring

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

from tools import parts
from tools.grammar import DRAWING, NOTEBOOK, PLAYER, parse
from tools.minutes import minutes, minutes_shown

# How the paragraphs of a clinic's entry begin that say what helps and what does not.
ADVICE = {"Do this:": "do-this", "Not this:": "not-this"}
ON_THIS_PAGE = "On this page"  # how the table of a clinic's page begins, which leads to its entries
ANCHOR = re.compile(r'^(## .*)\n\n<a id="([\w-]+)"></a>', re.MULTILINE)


class Anchors(Preprocessor):
    """Gives a heading the id of the empty anchor below it, so that links lead to the heading.

    On GitHub, where a heading has the id of its words, they lead to the anchor itself.
    """

    def run(self, lines: list[str]) -> list[str]:
        return ANCHOR.sub(r"\1 { #\2 }\n\n", "\n".join(lines)).split("\n")


class Minutes(Preprocessor):
    """Reads how long a page takes, from its text as it is written."""

    def run(self, lines: list[str]) -> list[str]:
        self.shown = minutes_shown(*minutes(parse("\n".join(lines) + "\n")))
        return lines


class Pages(Treeprocessor):
    """Works on the parsed page, where alt texts and links are data and need no escaping."""

    def __init__(
        self, md: Markdown, minutes: Minutes, docs: str, player: str, repository: str
    ) -> None:
        super().__init__(md)
        self.minutes = minutes
        self.docs = docs
        self.player = player
        self.repository = repository

    def run(self, root: Element) -> None:
        players: list[tuple[Element, str]] = []
        heading = ""  # the id of the last one
        for parent in list(root.iter()):
            for child in list(parent):
                address = child.get("src" if child.tag == "img" else "href", "")
                if child.tag == "img" and (drawing := DRAWING.fullmatch(address)):
                    self.inline(child, drawing[1])
                elif child.get("class") == "buttons":
                    show_as_buttons(child)
                elif child.tag == "strong" and not parent.text and child.text in ADVICE:
                    parent.set("class", ADVICE[child.text])
                elif child.tag == "h2":
                    heading = child.get("id", "")
                elif child.tag == "p" and "Also said as" in "".join(child.itertext()):
                    make_found(child, heading)
                elif child.tag == "table" and child.findtext("thead/tr/th") == ON_THIS_PAGE:
                    child.set("data-search-exclude", "")  # its entries are found themselves
                elif not is_paragraph_of(child, parent):
                    continue
                elif notebook := NOTEBOOK.fullmatch(address):
                    self.offer(parent, child, notebook[1])
                elif player := PLAYER.fullmatch(address):
                    players.append((parent, player[1]))
        if players:
            self.play(root, players)

    def read(self, figure: str, shown: str) -> tuple[Element, str]:
        """A figure, as a tree and as it is written.

        Raises:
            FileNotFoundError: the figure was never made.
            ValueError: it has ids; two figures on one page would have the same ones.
        """
        path = Path(self.docs, figure)
        if not path.is_file():
            raise FileNotFoundError(
                f"the page shows {shown}, but {path} does not exist; "
                "make it with `make update`, or correct the link"
            )
        source = path.read_text(encoding="utf-8")
        tree = fromstring(source)
        if any("id" in element.attrib for element in tree.iter()):
            raise ValueError(
                f"{path} has id attributes, and two figures on one page would share them; "
                "make it with companion.draw or companion.play, which write none"
            )
        return tree, source

    def play(self, root: Element, players: list[tuple[Element, str]]) -> None:
        """Put each player in the place of its paragraph, and what all of them need once.

        The style sheet stands above the first, so that none is seen without it, and not at the top
        of the page, where MkDocs looks for the title. The script stands below the last.
        """
        styles = sorted(Path(self.player).glob("player*.css"))
        style = "".join(file.read_text(encoding="utf-8") for file in styles)
        scripts = sorted(Path(self.player).glob("player*.js"), reverse=True)  # player.js is last
        script = "".join(file.read_text(encoding="utf-8") for file in scripts)
        before = f"<style>\n{style}</style>\n"
        for paragraph, figure in players:
            _, fragment = self.read(figure, f"the player {figure}")
            paragraph.clear()
            paragraph.text = self.md.htmlStash.store(before + fragment)
            before = ""
        # What ends a script, or opens another, can stand in one only as part of a string.
        script = re.sub(r"<(?=!--|/?script)", r"\\x3C", script, flags=re.IGNORECASE)
        SubElement(root, "p").text = self.md.htmlStash.store(f"<script>\n{script}</script>\n")

    def inline(self, image: Element, figure: str) -> None:
        """Turn the image into a box that scrolls and holds the SVG, in the colours of the page."""
        alt = image.get("alt", "")
        svg, source = self.read(figure, f"![{alt}]({figure})")
        image.tag = "span"
        image.attrib = {
            "class": "drawing-box",
            "role": "group",
            "aria-label": "Drawing",
            "data-search-exclude": "",
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
        """Turn the paragraph of the link into a bar: minutes, buttons, what course.js drives."""
        link.set("class", "md-button")
        link.set("download", "")
        parent.tag = "div"
        parent.attrib = {"class": "lesson-bar", "data-lesson": Path(notebook).stem}
        parent.set("data-search-exclude", "")
        parent.remove(link)
        SubElement(parent, "span").text = self.minutes.shown
        parent.append(link)
        if self.repository:
            address = f"{self.repository}/blob/main/{self.docs}/{notebook}"
            href = f"https://colab.research.google.com/github/{address}"
            colab = SubElement(parent, "a", {"class": "md-button", "href": href})
            colab.text = "Open in Colab"
        label = SubElement(parent, "label")
        everything = SubElement(label, "input", {"type": "checkbox", "data-everything": ""})
        everything.tail = " Show everything"
        forget = SubElement(parent, "button", {"type": "button", "data-forget": ""})
        forget.text = "Forget my answers"


class Moved(Treeprocessor):
    """A page of ``> **Moved.** ... [new](../new.md)`` sends its readers on to where its link leads.

    It is the ``index.md`` in a folder of the old name, so that its address is the old one, and the
    link leads from the address as it does from the file.
    """

    def run(self, root: Element) -> None:
        for quotation in root.iter("blockquote"):
            word, link = quotation.find("p/strong"), quotation.find("p/a")
            if word is not None and word.text == "Moved." and link is not None:
                address = re.sub(r"(?<![^/])index\.md", "", link.get("href", ""))
                content = f"0; url={address.replace('.md', '/')}"
                SubElement(quotation, "meta", {"http-equiv": "refresh", "content": content})


def show_as_buttons(links: Element) -> None:
    """The first one is the one that most readers need."""
    for number, link in enumerate(links.iter("a")):
        link.set("class", "md-button" if number else "md-button md-button--primary")


def make_found(said: Element, entry: str) -> None:
    """Let the search know each message of an entry as it knows headings, by which it finds most.

    For whoever reads or hears the page it stays code in a sentence.
    """
    said.tag = "div"
    said.set("class", "said")
    code, *messages = said
    for number, message in enumerate(messages, start=2):  # the first is the heading of the entry
        around = Element("div")  # where it ends, what the search finds by this heading ends
        around.tail, message.tail = message.tail, None
        said[number - 1] = around
        SubElement(around, "h6", {"id": f"{entry}-{number}", "role": "none"}).append(message)


def is_paragraph_of(link: Element, parent: Element) -> bool:
    """Whether the link is all that its parent, a paragraph, has."""
    texts = ["".join(element.itertext()).strip() for element in (link, parent)]
    return link.tag == "a" and parent.tag == "p" and len(parent) == 1 and texts[0] == texts[1]


class PagesExtension(Extension):
    def __init__(self, **kwargs: Any) -> None:
        self.config = {
            "docs": ["course", "where the figures are, from where the build is started"],
            "player": ["companion/backward", "where player.css and player.js are, likewise"],
            "repository": ["", "OWNER/NAME on GitHub; without it no page links to Colab"],
        }
        super().__init__(**kwargs)

    def extendMarkdown(self, md: Markdown) -> None:
        parts.add_to(md, self.getConfig("docs"))
        minutes = Minutes(md)
        md.preprocessors.register(Anchors(md), "anchors", 28)
        md.preprocessors.register(minutes, "minutes", 27)  # before the parts are marked (26)
        # After the images and links are parsed (20), before MkDocs moves their addresses (0).
        md.treeprocessors.register(Pages(md, minutes, **self.getConfigs()), "pages", 1)
        md.treeprocessors.register(Moved(md), "moved", 1)


def makeExtension(**kwargs: Any) -> PagesExtension:
    return PagesExtension(**kwargs)
