"""tools.grammar: the parts of a page, and that what is written is read again."""

from pathlib import Path

import pytest

from tests.cases import each
from tools.course import pages
from tools.grammar import (
    EXPECTED,
    PINNED,
    Callout,
    Closing,
    Fence,
    FrontMatter,
    Heading,
    Mark,
    Opening,
    Snippet,
    Text,
    blocks,
    figure,
    parse,
    sections,
    shown,
)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages(ROOT / "course")]
RAISES = "<!--pytest.mark.xfail(raises=ValueError)-->\n"
LESSON = f"""---
title: X
---

# X

> **Predict.** Which?
> - A. one

<details markdown="1">
<summary>Answer</summary>

**A.** One.

</details>

{RAISES}
{PINNED}

```python
# no heading
1
```

{EXPECTED}

```text
# nor this
```

[a](figures/x.html)
</details>
"""


@each("page", PAGES)
def test_the_parts_of_a_page_are_the_page_and_know_their_lines(page):
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    parts = parse(text)
    assert "".join(part.text for part in parts) == text
    assert all("".join(lines[part.line - 1 : part.end]) == part.text for part in parts)


def test_each_part_is_found_on_its_line():
    found = [(part.line, type(part)) for part in parse(LESSON) if part.text.strip()]
    assert found == [
        (1, FrontMatter),
        (5, Heading),
        (7, Callout),
        (10, Opening),
        (13, Text),
        (15, Closing),
        (17, Mark),
        (19, Mark),
        (21, Snippet),
        (33, Text),  # it closes nothing
    ]


def test_a_snippet_has_its_marks_and_what_it_did():
    (snippet,) = (part for part in parse(LESSON) if isinstance(part, Snippet))
    assert [mark.line for mark in snippet.marks] == [17, 19]
    assert snippet.raises == "ValueError" and snippet.is_pinned
    assert snippet.fence.code == "# no heading\n1\n"
    assert (snippet.output.line, snippet.output.code) == (28, "# nor this\n")
    assert snippet.figure.file == "figures/x.html"
    assert snippet.shown == LESSON[LESSON.index(f"\n{EXPECTED}") : LESSON.rindex("</details>")]


@each(
    "between",
    ["text", "```py\n1\n```", "</details>", "<!--pytest.mark.skip-->", f"{EXPECTED}\n\ntext"],
)
def test_what_stands_between_keeps_marks_and_outputs_from_a_snippet(between):
    below = shown("1\n", "![a](figures/x.svg)")
    text = f"{RAISES}\n{between}\n\n```python\n1\n```\n\n{between}\n{below}"
    (snippet,) = (part for part in parse(text) if isinstance(part, Snippet))
    assert snippet.marks == ()
    assert (snippet.output, snippet.figure, snippet.shown) == (None, None, "")


@each("printed", ["", "1\n", "```\n", "````text\n1\n", "\n\n1\n\n"])
@each("file", ["", "figures/x.svg", "../figures/x.html"])
def test_what_is_written_below_a_snippet_is_read_again(printed, file):
    alt = r"A [b] & c_d < `e` * \ &amp;."
    written = shown(printed, figure(alt, file) if file else "")
    snippet, *below = parse(f"```python\n1\n```\n{written}Text.\n\n![b](figures/y.svg)\n")
    assert snippet.shown == written
    assert (snippet.output.code if snippet.output else "") == printed
    if file:
        assert (snippet.figure.alt, snippet.figure.file) == (alt, file)
    assert [part.text for part in below] == ["Text.\n", "\n", "![b](figures/y.svg)\n"]


def test_a_part_knows_what_it_stands_in():
    begin = '<details markdown="1">\n<summary>{}</summary>\n\n'
    end = "</details>\n"
    text = f"{begin.format('Answer')}a\n{begin.format('<b>Why</b>?')}b\n{end}c\n{end}d\n"
    inside = {part.text: [o.title for o in part.inside] for part in parse(text)}
    assert inside["a\n"] == inside["c\n"] == ["Answer"]
    assert inside["b\n"] == ["Answer", "<b>Why</b>?"]
    assert inside["d\n"] == []
    answer, why = blocks(text)
    assert why[1] == "b\n"
    assert answer[1] == text[len(begin.format("Answer")) : -len(f"{end}d\n")]


@pytest.mark.parametrize("words", ["**Predict.** Which?", "**Predict**", "**Predict.**"])
def test_a_quotation_whose_first_words_are_bold_is_a_callout(words):
    callout, below = parse(f"> {words}\n>\n> - A. one\nText.\n")
    assert isinstance(callout, Callout) and callout.title == "Predict"
    assert below.text == "Text.\n"
    assert {type(part) for part in parse(f"> Not {words}\n")} == {Text}


def test_a_fence_that_nothing_closes_goes_to_the_end_of_the_page():
    (fence,) = parse("```py\n1\n")
    assert isinstance(fence, Fence) and fence.code == "1\n"


def test_a_comment_in_code_is_no_heading_of_a_section():
    text = "a\n## B\n```python\n## 1\n```\n### C\nd\n## E\n"
    assert sections(text, 2) == {"B": "```python\n## 1\n```\n### C\nd\n", "E": ""}
    assert sections(text, 3) == {"C": "d\n## E\n"}
