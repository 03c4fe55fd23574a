"""Each lesson becomes a notebook: ``python -m tools.notebooks``.

Nothing runs here. What stands below a snippet in the lesson is what it did, since the tests say so,
and it becomes the output of the cell; so a notebook is a function of its lesson alone.

The cell after a Predict comes without its output: running it shows it, and the text on it is
folded. A snippet in a fold is text, so that *Run all* does not print its answer, unless a later
cell needs a name that it binds; then it is a hidden cell.
"""

from __future__ import annotations

import dis
import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from types import CodeType
from typing import Any
from xml.etree import ElementTree

import nbformat
from nbformat import v4

from tools.course import Lesson, repository
from tools.grammar import (
    Callout,
    Closing,
    Download,
    Fence,
    Figure,
    FrontMatter,
    Heading,
    Mark,
    Opening,
    Part,
    Snippet,
    Text,
)

EMPTY = re.compile(r"<details>\n<summary>.*</summary>\s*</details>\n?")
FOLDED = ["", "</details>", ""]  # the end of a fold; a heading right below would be plain text
FILES = "(?:md|ipynb|svg|html|css|js|png)"  # what links lead to, unlike x[0](y) in code
# Around a Predict. Its text has the colour of the notebook's theme; that of `alert-info` is teal on
# cyan, which is hard to read where JupyterLab is dark.
BOX = (
    '<div class="alert" style="padding: 8px; border: 1px solid #0097a7; '
    'background-color: rgba(0, 151, 167, 0.1)">'
)
AFTER_PREDICT = "Read on when you have run the cell"
NEEDS = "This notebook uses the package `companion` of the course."
MAKE_LAB = "in the folder of the course, `make lab` installs it and opens the notebooks"
SHORT_ERRORS = "Exception reporting mode: Minimal\n"  # what %xmode prints
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(path: Path, repository: str = "", *, covered: bool = True) -> str:
    """The notebook of a lesson, as the text of its ``.ipynb`` file.

    Args:
        path: the Markdown file; drawings and players are read from beside it.
        repository: ``OWNER/NAME`` on GitHub. Where it is given, the companion is installed from
            there if it is missing.
        covered: whether what follows a Predict is covered.
    """
    lesson = Lesson(path)
    parts = [*_covered(lesson.parts)] if covered else lesson.parts
    cells = [*_introduction(lesson, repository), *_cells(parts, path.parent)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    book = v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(book)
    return nbformat.writes(book, version=4) + "\n"


def _introduction(lesson: Lesson, repository: str) -> Iterator[Any]:
    """The title, and how to get the companion where it is missing, or another has its name."""
    address = f"git+https://github.com/{repository}"
    if repository:
        missing = f"Where it is missing, the next cell installs it: `pip install {address}`."
        cure = f"%pip install -q {address}"
    else:
        missing = f"Where it is missing: {MAKE_LAB}."
        message = f'"companion is missing, or another package has its name; "\n        "{MAKE_LAB}"'
        cure = f"raise ModuleNotFoundError(\n        {message}\n    ) from None"
    yield v4.new_markdown_cell(f"# {_title(lesson)}\n\n{NEEDS}\n{missing}")
    magics = ["%xmode Minimal", *["%matplotlib inline"] * ("matplotlib" in lesson.text)]
    source = ["try:", "    from companion import Graph", "except ImportError:", f"    {cure}"]
    source = "\n".join([*magics, *source])
    yield v4.new_code_cell(source, outputs=[v4.new_output("stream", text=SHORT_ERRORS)])


def _title(lesson: Lesson) -> str:
    """The title of the front matter, which has the lesson's number; without one, the heading."""
    if any(isinstance(part, FrontMatter) for part in lesson.parts):
        return lesson.title
    return next((part.title for part in lesson.parts if _is_title(part)), lesson.slug)


def _covered(parts: list[Part]) -> Iterator[Part]:
    """The parts; the snippet after a Predict is without what it did, the text below it folded."""
    asked, fold = False, None
    for part in parts:
        if fold and not isinstance(part, Text | Fence):
            yield Closing(part.line, "", (fold,))
            fold = None
        if isinstance(part, Heading | Callout):
            asked = part.is_predict
        if isinstance(part, Snippet) and not part.inside and asked:
            yield replace(part, output=None, figure=None)
            fold, asked = Opening(part.line, "", (), AFTER_PREDICT), False
            yield fold
        else:
            yield replace(part, inside=(fold,)) if fold else part
    if fold:
        yield Closing(parts[-1].end, "", (fold,))


def _cells(parts: list[Part], folder: Path) -> Iterator[Any]:
    """A cell for each snippet that is to run, and one for what stands between two of them."""
    text: list[Part] = []
    to_run = _to_run(parts)
    for part in parts:
        if isinstance(part, Snippet) and part.line in to_run:
            yield from _text(text, folder)
            yield _code(part, folder)
            text = []
        elif not isinstance(part, FrontMatter | Download) and not _is_title(part):
            text.append(part)
    yield from _text(text, folder)


def _is_title(part: Part) -> bool:
    return isinstance(part, Heading) and part.level == 1


# ---- what runs


def _to_run(parts: list[Part]) -> set[int]:
    """The lines of the snippets outside of folds, and of those that a later one of them needs."""
    lines = set[int]()
    needed = set[str]()
    for part in reversed(parts):
        if isinstance(part, Snippet):
            reads, binds = _names(part.fence.code)
            if not part.inside or binds & needed:
                lines.add(part.line)
                needed = needed - binds | reads
    return lines


def _names(code: str) -> tuple[set[str], set[str]]:
    """The names that a snippet reads before it binds them, and those that it binds."""
    reads, binds = set[str](), set[str]()
    # Instructions come in the order in which they run: in x = x + 1 x is read, then bound.
    module = compile(code, "snippet", "exec")
    waiting = [(module, instruction) for instruction in dis.get_instructions(module)][::-1]
    while waiting:
        within, instruction = waiting.pop()
        name = instruction.argval
        if isinstance(name, CodeType):  # of a function or a class
            waiting += [(name, inner) for inner in dis.get_instructions(name)][::-1]
        elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL") and name not in binds:
            reads.add(name)
        elif instruction.opname == "STORE_GLOBAL":
            binds.add(name)
        elif instruction.opname == "STORE_NAME" and within is module:
            binds.add(name)
    return reads, binds


# ---- code cells


def _code(snippet: Snippet, folder: Path) -> Any:
    """The cell of a snippet, with what it did; in a fold it is folded too."""
    source = snippet.fence.code.removesuffix("\n")
    tags = ["raises-exception" if mark.raises else "pinned_torch" for mark in snippet.marks]
    metadata: dict[str, Any] = {"tags": tags} if tags else {}
    if folds := [opening.title for opening in snippet.inside]:
        # JupyterLab and VS Code fold by the first, Colab by the second and the title.
        metadata |= {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "cellView": "form"}
        title = unescape(re.sub("<[^>]+>", "", folds[-1]))
        source = f"# @title {title}\n{source}"
    outputs = [*_printed(snippet), *_drawn(snippet, folder)]
    return v4.new_code_cell(source, metadata=metadata, outputs=outputs)


def _printed(snippet: Snippet) -> list[Any]:
    """The outputs of a snippet that are text: what it prints, and the error it raises."""
    if snippet.output is None:
        return []
    printed, error = snippet.output.code, None
    if snippet.raises:
        name = re.escape(snippet.raises.rpartition(".")[2])
        error = re.search(rf"^([\w.]*\b{name})(?:: (.*))?\n\Z", printed, re.S | re.M)
        printed = printed[: error.start()] if error else printed
    outputs = [v4.new_output("stream", text=printed)] if printed else []
    if error:
        name = error[1].rpartition(".")[2]  # as a kernel says it
        facts = {"ename": name, "evalue": error[2] or "", "traceback": [error[0].strip()]}
        outputs.append(v4.new_output("error", **facts))
    return outputs


def _drawn(snippet: Snippet, folder: Path) -> list[Any]:
    """The drawing of a snippet or its player, as an output."""
    if snippet.figure is None:
        return []
    data = {"text/html": _html(snippet.figure, folder), "text/plain": snippet.figure.alt}
    return [v4.new_output("display_data", data)]


def _html(figure: Figure, folder: Path) -> str:
    text = (folder / figure.file).read_text(encoding="utf-8")
    return storyboard(text) if figure.is_player else _image(text, figure.alt)


def storyboard(player: str) -> str:
    """What a player shows where no script runs: in a notebook without trust, or on GitHub."""
    still = re.sub(r"<script\b.*?</script>\s*", "", player, flags=re.S)
    return re.sub(
        r"<svg\b.*?</svg>",
        lambda svg: _image(svg[0], ElementTree.fromstring(svg[0]).get("aria-label", "")),
        still,
        flags=re.S,
    )


def _image(svg: str, alt: str) -> str:
    """A drawing as an ``<img>``: JupyterLab hides SVG in a notebook that it does not trust."""
    encoded = b64encode(svg.encode()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{encoded}">'


# ---- text cells


def _text(parts: list[Part], folder: Path) -> list[Any]:
    """The cell of what stands between two code cells, if anything does.

    A fold ends with its cell, and what comes below a hidden cell in it is folded by itself. Where
    it has no text nothing is left of it: its title stands in the hidden cell.
    """
    written = [n for n, part in enumerate(parts) if part.text.strip()]
    if not written:
        return []
    parts = parts[written[0] : written[-1] + 1]
    lines = [line for fold in parts[0].inside for line in _fold(fold)]
    for part in parts:
        lines += _lines(part, folder)
    lines += FOLDED * len(parts[-1].inside_below)
    text = re.sub("\n+</details>\n*", "\n\n</details>\n\n", EMPTY.sub("", "\n".join(lines))).strip()
    return [v4.new_markdown_cell(text)] if text else []


def _lines(part: Part, folder: Path) -> list[str]:
    match part:
        case Opening():
            return _fold(part)
        case Closing():
            return FOLDED
        case Mark():
            return []
        case Fence():
            return part.text.splitlines()
        case Snippet():
            return _as_text(part, folder)
        case Callout() if part.is_predict:  # a box in JupyterLab and VS Code
            text = re.sub("^> ?", "", _links(part.text), flags=re.M)
            return [BOX, "", text, "</div>"]
    return _links(part.text).splitlines()


def _fold(fold: Opening) -> list[str]:
    return ["<details>", f"<summary>{fold.title}</summary>", ""]


def _as_text(snippet: Snippet, folder: Path) -> list[str]:
    """A snippet that does not run, and what it did."""
    did = "It raises:\n" if snippet.raises else "It prints:\n"  # so that it is not taken for code
    output = [did, snippet.output.text] if snippet.output else []
    figures = [_html(snippet.figure, folder)] if snippet.figure else []
    return "\n".join([snippet.fence.text, *output, *figures]).splitlines()


def _links(source: str) -> str:
    """Links to other lessons lead to their notebooks, all others out of the notebooks' folder."""
    source = re.sub(r"\]\((\d\d-[\w-]+)\.md(?:#[\w-]+)?\)", r"](\1.ipynb)", source)
    return re.sub(rf"\]\((?!\d\d-[\w-]+\.ipynb)(?=[\w./-]+\.{FILES}\b)", "](../", source)


def write_all(course: Path) -> list[Path]:
    """Write the notebook of each lesson that differs. One without a lesson is left alone."""
    folder = course / "notebooks"
    folder.mkdir(exist_ok=True)
    written, github = [], repository(course)
    for lesson in sorted(course.glob("[0-9]*.md")):
        path = folder / f"{lesson.stem}.ipynb"
        text = notebook(lesson, github)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


if __name__ == "__main__":
    for path in write_all(Path("course")):
        print(f"wrote {path}", file=sys.stderr)
