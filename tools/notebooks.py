"""Each lesson becomes a notebook: ``python -m tools.notebooks``.

Nothing runs here. What stands below a snippet in the lesson is what it did, since the tests say so,
and it becomes the output of the cell; so a notebook is a function of its lesson alone.
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import yaml
from nbformat import v4

from tools.grammar import (
    PLAYER,
    Closing,
    Download,
    FrontMatter,
    Mark,
    Opening,
    Part,
    Snippet,
    parse,
)

EMPTY = re.compile(r"<details>\n<summary>.*</summary>\s*</details>\n?")
FOLDED = ["", "</details>"]  # the end of a fold
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(lesson: Path, repository: str = "") -> str:
    """The notebook of a lesson, as the text of its ``.ipynb`` file.

    Args:
        lesson: the Markdown file; drawings and players are read from beside it.
        repository: ``OWNER/NAME`` on GitHub. Where it is given, a first cell installs the companion
            from there, which Colab needs.
    """
    cells = [*_cells(parse(lesson.read_text(encoding="utf-8")), lesson.parent)]
    if repository:
        cells.insert(0, v4.new_code_cell(f"%pip install -q git+https://github.com/{repository}"))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    book = v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(book)
    return nbformat.writes(book, version=4) + "\n"


def _cells(parts: list[Part], folder: Path) -> Iterator[Any]:
    """A cell for each snippet, and one for what stands between two snippets."""
    text: list[Part] = []
    for part in parts:
        if isinstance(part, Snippet):
            yield from _text(text)
            yield _code(part, folder)
            text = []
        elif not isinstance(part, FrontMatter | Download):
            text.append(part)
    yield from _text(text)


# ---- code cells


def _code(snippet: Snippet, folder: Path) -> Any:
    """The cell of a snippet, with what it did; in a fold it is folded too."""
    source = snippet.fence.code.removesuffix("\n")
    tags = ["raises-exception" if mark.raises else "pinned_torch" for mark in snippet.marks]
    metadata: dict[str, Any] = {"tags": tags} if tags else {}
    if folds := [opening.title for opening in snippet.inside]:
        # JupyterLab and VS Code fold by the first, Colab by the second and the title.
        metadata |= {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "cellView": "form"}
        source = f"# @title {folds[-1]}\n{source}"
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
        facts = {"ename": error[1], "evalue": error[2] or "", "traceback": [error[0].strip()]}
        outputs.append(v4.new_output("error", **facts))
    return outputs


def _drawn(snippet: Snippet, folder: Path) -> list[Any]:
    """The drawing of a snippet or its player, as an output."""
    if snippet.figure is None:
        return []
    alt, file = snippet.figure.alt, snippet.figure.file
    text = (folder / file).read_text(encoding="utf-8")
    html = storyboard(text) if PLAYER.fullmatch(file) else _image(text, alt)
    return [v4.new_output("display_data", {"text/html": html, "text/plain": alt})]


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


def _text(parts: list[Part]) -> list[Any]:
    """The cell of what stands between two snippets, if anything does.

    A fold ends with its cell, and what comes below a snippet in it is folded by itself. Where it
    has no text nothing is left of it: its title
    stands in the cell of its snippet.
    """
    written = [n for n, part in enumerate(parts) if part.text.strip()]
    if not written:
        return []
    parts = parts[written[0] : written[-1] + 1]
    lines = [line for fold in parts[0].inside for line in _fold(fold)]
    for part in parts:
        lines += _lines(part)
    lines += FOLDED * len(parts[-1].inside_below)
    text = EMPTY.sub("", "\n".join(lines)).strip()
    return [v4.new_markdown_cell(_links(text))] if text.strip("> \n") else []


def _lines(part: Part) -> list[str]:
    match part:
        case Opening():
            return _fold(part)
        case Closing():
            return FOLDED
        case Mark():
            return []
    return part.text.splitlines()


def _fold(fold: Opening) -> list[str]:
    return ["<details>", f"<summary>{fold.title}</summary>", ""]


def _links(source: str) -> str:
    """Links to other lessons lead to their notebooks, all others out of the notebooks' folder."""
    source = re.sub(r"\]\((\d\d-[\w-]+)\.md(?:#[\w-]+)?\)", r"](\1.ipynb)", source)
    return re.sub(r"\]\((?!https?:|#|\d\d-[\w-]+\.ipynb)", "](../", source)


def repository(course: Path) -> str:
    """The ``OWNER/NAME`` that ``extra.repository`` in mkdocs.yml says, or nothing."""
    settings = yaml.safe_load((course.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    return settings.get("extra", {}).get("repository") or ""


def write_all(course: Path) -> list[Path]:
    """Write the notebook of each lesson that differs. One without a lesson is left alone."""
    folder = course / "notebooks"
    folder.mkdir(exist_ok=True)
    lessons = {
        folder / f"{lesson.stem}.ipynb": lesson for lesson in sorted(course.glob("[0-9]*.md"))
    }
    written = []
    for path, lesson in lessons.items():
        text = notebook(lesson, repository(course))
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


if __name__ == "__main__":
    for path in write_all(Path("course")):
        print(f"wrote {path}", file=sys.stderr)
