"""The parts of a page that a reader can do something with, marked for course.js and course.css.

A Markdown preprocessor writes ``<div data-part="...">`` around them and leaves their Markdown as it
is; a tree processor turns options into radio buttons. Without JavaScript all of it is shown.

- Predict: ``[data-part=predict]`` holds the quotation, its snippet, ``button[data-reveal]`` and
  ``.covered`` with what the snippet did and the text on it, up to the next snippet, heading or
  callout. Where the quotation has options, ``data-key`` is the right one, and ``details.answer``
  below it has a sentence for each.
- Question: ``[data-part=question][data-key]`` holds the stem, ``ul.options`` and
  ``details.answer``, in which ``[data-option=A]`` is the sentence on option A.
- Exercise: ``[data-part=exercise]`` holds all that belongs to it, and ``.helps`` its folds.
- Output: ``.language-text.output``, which is ``.error`` or ``.error.todo`` if it is one on purpose.
- In short: ``[data-part=in-short]`` holds the sentences, each with its ``details.proof``.
- A link to a word of the glossary is ``a[data-tip]``, with the first sentence of its entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from markdown import Markdown
from markdown.extensions.toc import slugify
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

from tools.grammar import (
    ANSWER,
    EXERCISE,
    EXERCISED,
    KEY,
    MAKE_IT,
    QUESTION,
    Callout,
    Closing,
    Fence,
    Heading,
    Opening,
    Part,
    Snippet,
    parse,
    sections,
)

REVEAL = "I have an answer: show what PyTorch did"
# Said before anything is drawn, so that what a Predict covers is never seen and nothing moves: also
# where course.js has first to put back what the reader did here before. Where course.js cannot be
# had, nothing stays covered.
SCRIPTED = """<script>
{
  const page = document.documentElement.classList
  page.add("js")
  try {
    const { everything, answers } = JSON.parse(localStorage.getItem("inside-autograd"))
    if (everything) page.add("everything")
    if (Object.keys(answers).some((path) => location.pathname.includes(path))) page.add("returning")
  } catch {}
  addEventListener("load", () => {
    if (!window.courseRuns) page.remove("js")
    page.remove("returning")
  })
}
</script>

"""
# The class of a fold, by the first word of its summary.
FOLDS = {
    ANSWER: "answer",
    "Hint": "help",
    "Solution": "help",
    "Two": "help",
    "Look": "deeper",
    "Change": "deeper",
    "The": "deeper",
    "Proof": "proof",
}
SECTIONS = {"A puzzle": "puzzle", "Break it": "break", MAKE_IT: "make", "In short": "short"}
TITLE = re.compile(r"\s*# .*\n+")  # of a page, above all else
AFTER_IN_SHORT = re.compile(r"\*\*(New words|Where PyTorch)|Next:")
WORD = re.compile(r"(?:\.\./)*glossary\.md#([\w-]+)")  # the address of a word of the glossary


class Parts(Preprocessor):
    """Marks the parts. A page without any, such as a docstring, stays as it is."""

    def run(self, lines: list[str]) -> list[str]:
        marked = "".join(Marked(parse("\n".join(lines) + "\n")))
        if "<div data-part=" in marked:
            # Below the heading, where MkDocs' search looks for the text.
            top = TITLE.match(marked)
            above = top[0] if top else ""
            marked = above + SCRIPTED + marked.removeprefix(above)
        return marked.split("\n")


class Marked:
    """The Markdown of a page, its parts within elements."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.open: list[str] = []  # the elements that are open, outermost first
        self.section = ""
        self.predicts = 0

    def __iter__(self) -> Iterator[str]:
        for n, part in enumerate(self.parts):
            if part.inside:  # a fold is part of one element as a whole
                yield self.written(part)
                is_end = isinstance(part, Closing) and not part.inside_below
                if is_end and self.open == ["question"]:  # which ends with its answer
                    yield from self.close_to(0)
                continue
            yield from self.close_before(part)
            yield from self.open_before(n, part)
            yield from self.covered(part) if isinstance(part, Snippet) else [self.written(part)]
        yield from self.close_to(0)

    # ---- where elements end

    def close_before(self, part: Part) -> Iterator[str]:
        """End what does not reach over this part."""
        if "helps" in self.open and part.text.strip() and not is_help(part):
            yield from self.close("helps")
        covers = self.open == ["predict", "covered"]
        if isinstance(part, Heading | Callout) or covers and isinstance(part, Snippet):
            yield from self.close("predict")
        if isinstance(part, Heading):
            yield from self.close_to(0)
            self.section = part.title if part.level <= 2 else self.section
        if EXERCISE.match(part.text):
            yield from self.close("exercise")
        if QUESTION.match(part.text):
            yield from self.close("question")
        if AFTER_IN_SHORT.match(part.text) and self.section == "In short":
            yield from self.close("in-short")
            self.section = ""  # what stands below belongs to no section

    def close(self, name: str) -> Iterator[str]:
        if name in self.open:
            yield from self.close_to(self.open.index(name))

    def close_to(self, depth: int) -> Iterator[str]:
        while len(self.open) > depth:
            self.open.pop()
            yield "\n</div>\n\n"

    # ---- where they begin

    def open_before(self, n: int, part: Part) -> Iterator[str]:
        if part.is_predict:
            self.predicts += 1
            yield self.begin("predict", f"predict-{self.predicts}", self.key(n))
        elif (question := QUESTION.match(part.text)) and (key := self.key(n)):
            section = "earlier" if self.section == "From earlier" else "question"
            yield self.begin("question", f"{section}-{question[1]}", key)
        elif (exercise := EXERCISE.match(part.text)) and self.section in EXERCISED:
            yield self.begin("exercise", f"exercise-{exercise[1].replace('.', '-')}")
        elif is_help(part) and self.open == ["exercise"]:
            self.open.append("helps")
            yield '\n<div class="helps" markdown="1">\n\n'
        elif self.section == "In short" and not self.open and not isinstance(part, Heading):
            if part.text.strip() and not AFTER_IN_SHORT.match(part.text):
                yield self.begin("in-short", "in-short-part")

    def begin(self, name: str, identifier: str, key: str = "") -> str:
        self.open.append(name)
        has_key = f' data-key="{key}"' if key else ""
        return f'\n<div data-part="{name}" id="{identifier}"{has_key} markdown="1">\n\n'

    def key(self, n: int) -> str:
        """The right option of a question or a Predict, as the Answer below it says; else ""."""
        for at, part in enumerate(self.parts[n + 1 :], start=n + 1):
            if isinstance(part, Opening) and part.title == ANSWER:
                key = KEY.match(self.parts[at + 1].text)
                return key[1] if key else ""
            if isinstance(part, Heading | Callout | Fence | Snippet) or QUESTION.match(part.text):
                break
        return ""

    # ---- the parts themselves

    def covered(self, snippet: Snippet) -> Iterator[str]:
        """A snippet; that of a Predict covers what it did and all until the Predict ends."""
        text = self.written(snippet)
        if self.open != ["predict"]:
            yield text
            return
        below = len(text) - len(self.did(snippet))
        self.open.append("covered")
        yield text[:below]
        yield '\n<div class="covered" markdown="1">\n'
        yield text[below:]

    def written(self, part: Part) -> str:
        match part:
            case Opening():
                kind = kind_of(part)
                hidden = " data-search-exclude" if kind in ("help", "proof") else ""
                return part.text.replace("<details", f'<details class="{kind}"{hidden}', 1)
            case Snippet():
                return part.text.removesuffix(part.shown) + self.did(part)
            case Heading() if part.title in SECTIONS:
                return f"{part.text.rstrip()} {{ .{SECTIONS[part.title]} }}\n"
        return part.text

    def did(self, snippet: Snippet) -> str:
        """What a snippet did; its class says that it is an output, an error, or still to do."""
        kind = ".output"
        if snippet.raises:
            kind += " .error .todo" if snippet.raises == "NotImplementedError" else " .error"
        # Else the search finds the numbers and names of all outputs.
        kind += ' data-search-exclude=""'
        return re.sub(r"^(`{3,})text$", rf"\1 {{ .text {kind} }}", snippet.shown, flags=re.M)


def kind_of(fold: Opening) -> str:
    """The class of a fold."""
    return FOLDS.get(fold.title.split(" ")[0], "")


def is_help(part: Part) -> bool:
    return isinstance(part, Opening) and kind_of(part) == "help"


class Answers(Treeprocessor):
    """Turns options into radio buttons, and splits an answer into its sentences on options."""

    def run(self, root: Element) -> None:
        for part in root.iter("div"):
            kind = part.get("data-part")
            if kind == "predict":
                cover(part)
            if kind in ("predict", "question") and part.get("data-key"):
                around = part.find("blockquote") if kind == "predict" else part
                if around is not None and (options := around.findall("ul")):
                    offer(options[-1], part.get("id", ""))
                for answer in part.findall("details[@class='answer']"):
                    split(answer)


def cover(predict: Element) -> None:
    """Put a button above what a Predict covers, if there is anything."""
    covered = predict.find("div[@class='covered']")
    if covered is None:
        return
    if not len(covered) and not (covered.text or "").strip():
        predict.remove(covered)
        return
    button = Element("button", {"type": "button", "data-reveal": ""})
    button.text = REVEAL
    predict.insert(list(predict).index(covered), button)


def offer(options: Element, name: str) -> None:
    """Turn a list of options into radio buttons of one name."""
    options.set("class", "options")
    for item in options:
        paragraph = item.find("p")
        inside = item if paragraph is None else paragraph
        words = Element("span")
        words.text, words[:] = inside.text, list(inside)
        item.clear()
        label = SubElement(item, "label")
        letter = (words.text or "")[:1]
        SubElement(label, "input", {"type": "radio", "name": name, "value": letter})
        label.append(words)


def split(answer: Element) -> None:
    """Give each sentence on an option a paragraph of its own, which says which option it is."""
    for paragraph in answer.findall("p"):
        sentences = list[Element]()
        before = f"{paragraph.text or ''}\n"  # the text above a child, which begins a line or not
        for child in list(paragraph):
            letter = child.tag == "strong" and re.fullmatch(r"([A-D])\.?", child.text or "")
            if letter and before.endswith("\n"):
                sentences.append(Element("p", {"data-option": letter[1]}))
            before = child.tail or ""
            if sentences:
                paragraph.remove(child)
                sentences[-1].append(child)
        position = list(answer).index(paragraph)
        if sentences and not (paragraph.text or "").strip() and not len(paragraph):
            answer.remove(paragraph)
        else:
            position += 1
        answer[position:position] = sentences


class Tips(Treeprocessor):
    """Gives each link to a word of the glossary the first sentence of its entry."""

    def __init__(self, md: Markdown, docs: str) -> None:
        super().__init__(md)
        self.glossary = Path(docs, "glossary.md")

    def run(self, root: Element) -> None:
        links = [(link, WORD.fullmatch(link.get("href", ""))) for link in root.iter("a")]
        words = [(link, word[1]) for link, word in links if word]
        if not words or not self.glossary.is_file():
            return
        meanings = {
            slugify(title, "-"): first_sentence(entry)
            for title, entry in sections(self.glossary.read_text(encoding="utf-8"), 2).items()
        }
        for link, word in words:
            if word in meanings:
                link.set("data-tip", meanings[word])


def first_sentence(entry: str) -> str:
    """The first sentence of some Markdown, as plain text."""
    text = " ".join(entry.split()).replace("<sub>", "_")
    text = re.sub(r"\[([^]]*)\]\([^)]*\)|<[^>]+>|[`*]", r"\1", text)
    return re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0]


def add_to(md: Markdown, docs: str) -> None:
    # Before fences are taken out of the text (25), and raw HTML (20).
    md.preprocessors.register(Parts(md), "parts", 26)
    # After the text within paragraphs is parsed (20), before MkDocs moves the addresses (0).
    md.treeprocessors.register(Answers(md), "answers", 2)
    md.treeprocessors.register(Tips(md, docs), "tips", 2)
