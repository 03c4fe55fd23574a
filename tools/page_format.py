"""What is wrong with a page that no snippet would catch.

A fence that nothing runs, an output, a picture or a player that nothing produced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.grammar import (
    EXPECTED,
    PICTURE,
    PLAYER,
    Closing,
    Fence,
    FrontMatter,
    Mark,
    Opening,
    Part,
    Snippet,
    parse,
)

INFO = re.compile(r'(python|py|console|text)(?: (?:title|hl_lines|linenums)="[^"`]*")*')
ALLOWED = "use python (runs), py or console (shown), with title, hl_lines or linenums"
IMAGE = re.compile(r"!\[(.*?)\]\((.*?)\)")
# Whatever leads to a player: a link, a link's address below the text, HTML.
TO_PLAYER = re.compile(rf"""(?:\]\(|\]:|href=)[\s<"']*({PLAYER.pattern})""")


def problems(text: str, run: list[int]) -> Iterator[tuple[int, str]]:
    """The faults of a page, each after its line.

    Args:
        text: the page.
        run: the lines of the fences that pytest-codeblocks runs.
    """
    parts = parse(text)
    marks = [mark for part in parts if isinstance(part, Snippet) for mark in part.marks]
    for part, below in zip(parts, [*parts[1:], None], strict=True):
        match part:
            case FrontMatter():
                continue
            case Snippet():
                yield from _of_snippet(part, run, below)
            case Fence():
                yield from _of_fence(part, run)
                if part.language == "text":
                    message = "an output that no snippet produced; it stands below one and "
                    yield part.line, message + EXPECTED
            case Mark():
                if part not in marks:
                    yield part.line, "a mark without a python fence right below it"
            case _:
                for number, line in enumerate(part.text.splitlines(), part.line):
                    yield from ((number, message) for message in _of_text(line))


def _of_snippet(snippet: Snippet, run: list[int], below: Part | None) -> Iterator[tuple[int, str]]:
    yield from _of_fence(snippet.fence, run)
    if snippet.output:
        yield from _of_fence(snippet.output, run)
    if figure := snippet.figure:
        if not figure.alt.strip():
            message = "has no alternative text; write what it shows between the brackets"
            yield figure.line, f"the image {figure.file} {message}"
        ends = below is None or isinstance(below, Opening | Closing) or not below.text.strip()
        if figure.is_player and not ends:
            message = f"the player {figure.file} does not stand in a paragraph of its own"
            yield figure.line, message


def _of_fence(fence: Fence, run: list[int]) -> Iterator[tuple[int, str]]:
    if INFO.fullmatch(fence.info) is None or fence.mark[0] == "~":
        yield fence.line, f"a fence that nothing runs, {fence.mark}{fence.info}; {ALLOWED}"
    elif fence.language == "python" and fence.line not in run:
        yield fence.line, "a python fence that pytest-codeblocks does not run"


def _of_text(line: str) -> Iterator[str]:
    """What is wrong with a line that is no part of a snippet."""
    if re.match(r"[\s>*+-]*(`{3,}|~{3,})", line):
        yield f"a fence that is not at the margin: {line.strip()}"
    elif line.strip() == EXPECTED:
        yield "an output that no snippet produced"
    elif "<!--" in line:
        yield f"a comment that means nothing here: {line.strip()}"
    elif re.search(r"<(img|svg|iframe|picture|pre|script)\b", line):
        yield "HTML that nothing tests; a snippet draws it and ![...](...) shows it"
    images = IMAGE.findall(line)
    if line.count("![") > len(images):
        yield "an image that is not written as ![alternative text](file)"
    for alt, target in images:
        if not alt.strip():
            yield f"the image {target} has no alternative text"
        if not PICTURE.fullmatch(target):
            yield f"the image {target} is not below a snippet that draws it"
    for link in TO_PLAYER.finditer(line):
        yield f"the player {link[1]} is not below a snippet that makes it"
