"""What a page consists of: ``parse`` reads its parts, ``shown`` writes what a snippet did.

A page is Markdown. The comments and callouts that mean something in it are named here and nowhere
else, so a page gets another notation for one of them by a change of this file alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from html import unescape

EXPECTED = "<!--pytest-codeblocks:expected-output-->"  # above an output
PINNED = "<!--pytest.mark.pinned_torch-->"  # what stands below holds for one version of torch
RAISES = re.compile(r"<!--pytest\.mark\.xfail\(raises=([\w.]+)\)-->")
FENCE = re.compile(r"(`{3,}|~{3,})(.*)")
HEADING = re.compile(r"(#{1,6}) (?!#)(.*)")
FOLD, END_OF_FOLD = '<details markdown="1">', "</details>"
SUMMARY = re.compile(r"<summary>(.*)</summary>")
CALLOUT = re.compile(r"> \*\*(.+?)\.?\*\*")  # a quotation whose first words are bold
QUESTION = re.compile(r"\*\*(\d+)\.\*\* ")  # how the stem of a question begins
EXERCISE = re.compile(r"\*\*(\d+\.\d+) (.+?)\*\*")  # and an exercise
OPTION = re.compile(r"(?:> )?- ([A-D])\. (.*)")
KEY = re.compile(r"\*\*([A-D])\.\*\*")  # how the answer of a question begins
# The titles of a callout, of sections and of folds that several tools know.
PREDICT = "Predict"
MAKE_IT = "Make it"
EXERCISED = (MAKE_IT, "Exercises")  # the sections that have exercises
ANSWER, WRONG_ANSWERS = "Answer", "Two wrong answers"
LINK = re.compile(r"!?\[(.*)\]\((.*)\)")  # or an image, alone on its line
# The files made from a lesson. Group 1 is the file's place in the folder of the lessons.
DRAWING = re.compile(r"(?:[\w.-]*/)*(figures/[\w./-]+\.svg)")
PLAYER = re.compile(r"(?:[\w.-]*/)*(figures/[\w./-]+\.html)")
NOTEBOOK = re.compile(r"(?:[\w.-]*/)*(notebooks/[\w-]+\.ipynb)")
# A picture that no page's snippet makes, but course/assets/pictures.py.
PICTURE = re.compile(r"(?:[\w.-]*/)*assets/([\w-]+\.(?:png|svg))")


@dataclass(frozen=True)
class Part:
    """Some lines of a page. The text of a page is the text of its parts, joined.

    Attributes:
        line: the number of the first line, counted from 1.
        text: the lines, as they are written.
        inside: the folds that are open where it begins, the outermost first.
    """

    line: int
    text: str
    inside: tuple[Opening, ...]

    @property
    def end(self) -> int:
        """The number of the last line; counted from 0 it is the line below the part."""
        return self.line - 1 + len(self.text.splitlines())

    @property
    def inside_below(self) -> tuple[Opening, ...]:
        """The folds that are open where it ends."""
        return self.inside

    @property
    def is_predict(self) -> bool:
        """Whether it asks the reader to predict what the snippet below it does."""
        return isinstance(self, Callout) and self.title == PREDICT


@dataclass(frozen=True)
class FrontMatter(Part):
    """The lines between ``---`` that a page may begin with."""


@dataclass(frozen=True)
class Text(Part):
    """One line of Markdown, which may be blank."""


@dataclass(frozen=True)
class Heading(Part):
    level: int
    title: str


@dataclass(frozen=True)
class Download(Part):
    """A line that is a link to the notebook of the lesson."""


@dataclass(frozen=True)
class Callout(Part):
    """A quotation whose first words are bold: ``> **Predict.** ...``.

    Attributes:
        title: the bold words, without the full stop.
    """

    title: str


@dataclass(frozen=True)
class Opening(Part):
    """The first lines of a fold: the element, its summary, the blank lines below.

    Attributes:
        title: the summary, as HTML.
    """

    title: str

    @property
    def inside_below(self) -> tuple[Opening, ...]:
        return (*self.inside, self)


@dataclass(frozen=True)
class Closing(Part):
    """The last line of a fold."""

    @property
    def inside_below(self) -> tuple[Opening, ...]:
        return self.inside[:-1]


@dataclass(frozen=True)
class Mark(Part):
    """A comment above a snippet: it raises an error on purpose, or its output is of one torch."""

    @property
    def raises(self) -> str:
        """The name of the exception, or nothing."""
        match = RAISES.fullmatch(self.text.strip())
        return match[1] if match else ""


@dataclass(frozen=True)
class Fence(Part):
    """A code block at the margin.

    Attributes:
        mark: the ticks or tildes that open it.
        info: what stands behind them: language and attributes.
        code: the lines in it.
    """

    mark: str
    info: str
    code: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]


@dataclass(frozen=True)
class Figure(Part):
    """A drawing, shown as an image, or a player, to which a link leads.

    Attributes:
        alt: the alternative text, or the text of the link.
        file: its address, as the page has it.
    """

    alt: str
    file: str

    @property
    def is_player(self) -> bool:
        return self.file.endswith(".html")


@dataclass(frozen=True)
class Snippet(Part):
    """A ``python`` fence, which runs, and what it did.

    Attributes:
        fence: the fence itself.
        marks: the comments above it, which are parts of their own.
        output: what it prints, and the error it raises, if any.
        figure: what it draws or records, if anything.
        shown: all lines below the fence that show what it did.
    """

    fence: Fence
    marks: tuple[Mark, ...]
    output: Fence | None
    figure: Figure | None
    shown: str

    @property
    def raises(self) -> str:
        """The name of the exception that it raises on purpose, or nothing."""
        return "".join(mark.raises for mark in self.marks)

    @property
    def is_pinned(self) -> bool:
        """Whether what it did holds for one version of torch."""
        return any(not mark.raises for mark in self.marks)


# ---- reading


@cache
def parse(text: str) -> tuple[Part, ...]:
    """The parts of a page, in order."""
    lines = text.splitlines(keepends=True)
    parts: list[Part] = []
    inside: tuple[Opening, ...] = ()
    while (n := parts[-1].end if parts else 0) < len(lines):
        candidates = (read(lines, n, inside) for read in READERS)
        part = next(filter(None, candidates), None) or Text(n + 1, lines[n], inside)
        parts.append(part)
        inside = part.inside_below
    return tuple(parts)


def _front_matter(lines: list[str], n: int, inside: tuple[Opening, ...]) -> FrontMatter | None:
    if n == 0 and lines[0] == "---\n" and "---\n" in lines[1:]:
        return FrontMatter(1, "".join(lines[: lines.index("---\n", 1) + 1]), inside)
    return None


def _heading(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Heading | None:
    if match := HEADING.match(lines[n]):
        return Heading(n + 1, lines[n], inside, len(match[1]), match[2])
    return None


def _download(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Download | None:
    if (link := LINK.fullmatch(lines[n].strip())) and NOTEBOOK.fullmatch(link[2]):
        return Download(n + 1, lines[n], inside)
    return None


def _callout(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Callout | None:
    match = CALLOUT.match(lines[n])
    if not match:
        return None
    end = next((k for k in range(n, len(lines)) if not lines[k].startswith(">")), len(lines))
    return Callout(n + 1, "".join(lines[n:end]), inside, match[1])


def _opening(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Opening | None:
    summary = SUMMARY.fullmatch(lines[n + 1].rstrip("\n")) if n + 1 < len(lines) else None
    if lines[n].rstrip("\n") != FOLD or summary is None:
        return None
    end = _skip_blank(lines, n + 2)
    return Opening(n + 1, "".join(lines[n:end]), inside, summary[1])


def _closing(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Closing | None:
    if inside and lines[n].rstrip("\n") == END_OF_FOLD:
        return Closing(n + 1, lines[n], inside)
    return None


def _fence(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Fence | None:
    match = FENCE.match(lines[n]) if n < len(lines) else None
    if not match:
        return None
    mark, info = match.groups()
    below = range(n + 1, len(lines))
    end = next((k for k in below if lines[k].startswith(mark)), len(lines))
    text, code = "".join(lines[n : end + 1]), "".join(lines[n + 1 : end])
    return Fence(n + 1, text, inside, mark, info, code)


def _mark(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Mark | None:
    if lines[n].strip() == PINNED or RAISES.fullmatch(lines[n].strip()):
        return Mark(n + 1, lines[n], inside)
    return None


def _snippet(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Snippet | None:
    fence = _fence(lines, n, inside)
    if fence is None or fence.mark[0] != "`" or fence.language != "python":
        return None
    output = _output(lines, fence.end, inside)
    figure = _figure(lines, (output or fence).end, inside)
    end = (figure or output or fence).end
    text, shown = "".join(lines[n:end]), "".join(lines[fence.end : end])
    marks = _marks_above(lines, n, inside)
    return Snippet(n + 1, text, inside, fence, marks, output, figure, shown)


def _marks_above(lines: list[str], n: int, inside: tuple[Opening, ...]) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    for k in reversed(range(n)):
        if mark := _mark(lines, k, inside):
            marks.insert(0, mark)
        elif lines[k].strip():
            break
    return tuple(marks)


def _output(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Fence | None:
    n = _skip_blank(lines, n)
    if n < len(lines) and lines[n].strip() == EXPECTED:
        return _fence(lines, _skip_blank(lines, n + 1), inside)
    return None


def _figure(lines: list[str], n: int, inside: tuple[Opening, ...]) -> Figure | None:
    n = _skip_blank(lines, n)
    link = LINK.fullmatch(lines[n].strip()) if n < len(lines) else None
    if link and (DRAWING.fullmatch(link[2]) or PLAYER.fullmatch(link[2])):
        alt = unescape(re.sub(r"\\(.)", r"\1", link[1]))
        return Figure(n + 1, lines[n], inside, alt, link[2])
    return None


def _skip_blank(lines: list[str], n: int) -> int:
    while n < len(lines) and not lines[n].strip():
        n += 1
    return n


READERS: tuple[Callable[[list[str], int, tuple[Opening, ...]], Part | None], ...] = (
    _front_matter,
    _mark,
    _snippet,
    _fence,
    _callout,
    _opening,
    _closing,
    _heading,
    _download,
)


# ---- larger pieces


def sections(text: str, level: int) -> dict[str, str]:
    """The text below each heading of a level, by heading."""
    texts: dict[str, str] = {}
    title = None
    for part in parse(text):
        if isinstance(part, Heading) and part.level == level:
            title = part.title
            texts[title] = ""
        elif title is not None:
            texts[title] += part.text
    return texts


def blocks(text: str) -> Iterator[tuple[Opening, str]]:
    """Each callout and fold, with the text in it."""
    parts = parse(text)
    for opening in parts:
        if isinstance(opening, Opening):
            within = [p for p in parts if opening in p.inside and opening in p.inside_below]
            yield opening, "".join(part.text for part in within)


# ---- writing


def shown(printed: str, figure: str = "") -> str:
    """What stands below a snippet that printed this and made this figure."""
    text = ""
    if printed:
        fence = max(["```", *(ticks + "`" for ticks in re.findall("`{3,}", printed))], key=len)
        text += f"\n{EXPECTED}\n\n{fence}text\n{printed}{fence}\n"
    return text + (f"\n{figure}\n" if figure else "")


def figure(alt: str, file: str) -> str:
    """A drawing as an image, a player as a link."""
    alt = re.sub(r"([\\`*_\[\]])", r"\\\1", alt).replace("&", "&amp;").replace("<", "&lt;")
    return f"{'!' if file.endswith('.svg') else ''}[{alt}]({file})"
