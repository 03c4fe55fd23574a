"""Each lesson becomes a notebook: ``python -m tools.notebooks``.

Nothing runs here. What stands below a snippet in the lesson is what it did, since the tests say so,
and it becomes the output of the cell; so a notebook is a function of its lesson alone.
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from html import escape, unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jupytext
import nbformat
import yaml
from nbformat import v4

EXPECTED = re.compile(
    r"<!--pytest-codeblocks:expected-output-->\s*(`{3,})text\n(.*?)^\1\s*", re.S | re.M
)
FIGURE = re.compile(r"!?\[(.*)\]\(([\w./-]*figures/[\w./-]+\.(?:svg|html))\)\s*")
MARK = re.compile(r"<!--pytest\.mark\.(?:xfail\(raises=([\w.]+)\)|(\w+))-->\s*")
DOWNLOAD = re.compile(r"^\[[^\]]*\]\(notebooks/[\w-]+\.ipynb\)\n", re.M)
EMPTY = re.compile(r"<details>\n<summary>.*</summary>\s*</details>\n?")
OPENING = re.compile(r"(/{3,}) (\w+)(?: \| (.*))?")
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
    cells: list[Any] = []
    if repository:
        cells.append(v4.new_code_cell(f"%pip install -q git+https://github.com/{repository}"))
    blocks: list[tuple[str, str, str]] = []  # the callouts open here: slashes, kind and title
    raises, tags = "", []
    for cell in jupytext.reads(lesson.read_text(encoding="utf-8"), fmt="md").cells:
        if cell.cell_type == "code":
            folds = [title for _, kind, title in blocks if kind == "details"]
            cells.append(_code(cell.source, tags, folds))
            continue
        if cell.cell_type == "raw":  # the front matter
            continue
        source = cell.source + "\n"
        if cells and cells[-1].cell_type == "code":
            source = _take_outputs(cells[-1], source, raises, lesson.parent)
        marks = MARK.findall(source)
        raises = "".join(error for error, _ in marks)
        tags = [mark or "raises-exception" for _, mark in marks]
        source = _links(_callouts(MARK.sub("", DOWNLOAD.sub("", source)), blocks))
        if source:
            cells.append(v4.new_markdown_cell(source))
    count = 0
    for place, cell in enumerate(cells):
        cell.id = f"cell-{place}"
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    book = v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(book)
    return nbformat.writes(book, version=4) + "\n"


def _code(source: str, tags: list[str], folds: list[str]) -> Any:
    metadata: dict[str, Any] = {"tags": tags} if tags else {}
    if folds:  # JupyterLab and VS Code fold by the first, Colab by the second and the title
        metadata |= {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "cellView": "form"}
        source = f"# @title {folds[-1]}\n{source}"
    return v4.new_code_cell(source, metadata=metadata)


def _take_outputs(cell: Any, source: str, raises: str, folder: Path) -> str:
    """Move what the text begins with, if it is what the cell did, into the cell's outputs."""
    if expected := EXPECTED.match(source):
        printed, error = expected[2], None
        if raises:
            name = re.escape(raises.rpartition(".")[2])
            error = re.search(rf"^([\w.]*\b{name})(?:: (.*))?\n\Z", printed, re.S | re.M)
            printed = printed[: error.start()] if error else printed
        if printed:
            cell.outputs.append(v4.new_output("stream", text=printed))
        if error:
            told = {"ename": error[1], "evalue": error[2] or "", "traceback": [error[0].strip()]}
            cell.outputs.append(v4.new_output("error", **told))
        source = source[expected.end() :]
    if figure := FIGURE.match(source):
        alt = unescape(re.sub(r"\\(.)", r"\1", figure[1]))
        text = (folder / figure[2]).read_text(encoding="utf-8")
        html = storyboard(text) if figure[2].endswith(".html") else _image(text, alt)
        cell.outputs.append(v4.new_output("display_data", {"text/html": html, "text/plain": alt}))
        source = source[figure.end() :]
    return source


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


def _callouts(source: str, blocks: list[tuple[str, str, str]]) -> str:
    """``/// kind | Title`` blocks become blockquotes, and those of the kind ``details`` folds.

    A fold ends with its cell, and what comes below a snippet in it is folded by itself. Where it
    has no text nothing is left of it: its title stands in the cell of its snippet.
    """
    lines = [line for _, kind, title in blocks if kind == "details" for line in _fold(title)]
    options = False
    for line in source.splitlines():
        if opening := OPENING.fullmatch(line):
            slashes, kind, title = opening[1], opening[2], opening[3] or opening[2].title()
            lines += _fold(title) if kind == "details" else [f"> **{title}**", ">"]
            blocks.append((slashes, kind, title))
            options = True
        elif options and (line.startswith("    ") or not line):
            pass  # an option of the block, such as its type, or the line below them
        elif blocks and line == blocks[-1][0]:
            lines += ["", "</details>"] if blocks.pop()[1] == "details" else []
        else:
            options = False
            quoted = any(kind != "details" for _, kind, _ in blocks)
            lines.append(f"> {line}".rstrip() if quoted else line)
    lines += ["", "</details>"] * sum(kind == "details" for _, kind, _ in blocks)
    text = EMPTY.sub("", "\n".join(lines)).strip()
    return text if text.strip("> \n") else ""


def _fold(title: str) -> list[str]:
    """The opening of a fold; its title is HTML, in which Markdown means nothing."""
    title = re.sub("`(.+?)`", r"<code>\1</code>", escape(title, quote=False))
    return ["<details>", f"<summary>{title}</summary>", ""]


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
