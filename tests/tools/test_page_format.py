"""tools.page_format: what nothing would test is found, with its line."""

import re

from tests.cases import each
from tests.tools.test_lessons import prints, python
from tools.grammar import EXPECTED, PINNED
from tools.page_format import problems

FOLD = '<details markdown="1">\n<summary>Answer</summary>\n\n'


@each(
    ("text", "line", "reason"),
    [
        ("a\n\n```python title=x\n1\n```\n", 3, "a fence that nothing runs, ```python title=x"),
        ("```{.python}\n1\n```\n", 1, "a fence that nothing runs"),
        ("```\n1\n```\n", 1, "a fence that nothing runs"),
        ("```pycon\n>>> 1\n```\n", 1, "use python .runs., py or console .shown."),
        ("```python .noeval\n1\n```\n", 1, "a fence that nothing runs"),
        ("~~~python\n1\n~~~\n", 1, "a fence that nothing runs, ~~~python"),
        ("> ```python\n> 1\n> ```\n", 1, "a fence that is not at the margin"),
        ("- a\n\n    ```python\n    1\n    ```\n", 3, "a fence that is not at the margin"),
        ("a\n```python\n1\n```\n", 2, "pytest-codeblocks does not run"),
        (f"{EXPECTED}\n\n```text\n1\n```\n", 1, "an output that no snippet produced"),
        ("```text\n1\n```\n", 1, "an output that no snippet produced"),
        ("<!--pytest.mark.xfail(raises=E)-->\n\ntext\n", 1, "a mark without a python fence"),
        ("<!--pytest.mark.skip-->\n", 1, "a comment that means nothing here"),
        ("a\n\n<!-- later -->\n", 3, "a comment that means nothing here"),
        ("![](figures/x.svg)\n", 1, "figures/x.svg has no alternative text"),
        ("![a](figures/x.svg)\n", 1, "not below a snippet that draws it"),
        ("a\n\n[a](figures/x.html)\n", 3, "x.html is not below a snippet that makes it"),
        ("see [a](../course/figures/x.html#b)\n", 1, "not below a snippet that makes it"),
        ("[a]\n\n[a]: figures/x.html\n", 3, "not below a snippet that makes it"),
        ('<a href="figures/x.html">\n', 1, "not below a snippet that makes it"),
        ("see ![a][ref]\n", 1, "an image that is not written as"),
        ('<img src="x.png">\n', 1, "HTML that nothing tests"),
        ("<pre>1</pre>\n", 1, "HTML that nothing tests"),
    ],
)
def test_what_nothing_would_test_is_found_with_its_line(text, line, reason):
    found = list(problems(text, run=[]))
    assert any(at == line and re.search(reason, what) for at, what in found), found


@each(
    "text",
    [
        '---\ntitle: "<!-- a -->"\n---\n\ntext\n',
        '```py title="a.py" linenums="1"\nx\n```\n',
        "```console\nmake\n```\n",
        "````py\n```\n````\n",
        "`figures/x.html` and [a](https://x.org/figures/x.html)\n",
    ],
)
def test_what_needs_no_test_is_let_through(text):
    assert list(problems(text, run=[])) == []


@each("figure", ["![a](figures/x.svg)", "[a](figures/x.html)"])
@each(("before", "after"), [("", ""), ("", "\nText.\n"), (FOLD, "</details>\n")])
def test_a_snippet_with_its_output_and_figure_is_let_through(figure, before, after):
    text = f"{before}{prints('1', '1')}\n{figure}\n{after}"
    assert list(problems(text, run=[1 + before.count("\n")])) == []


def test_a_mark_above_its_snippet_is_let_through():
    text = f"<!--pytest.mark.xfail(raises=E)-->\n{PINNED}\n\n{python('1')}"
    assert list(problems(text, run=[4])) == []


def test_a_player_with_text_in_its_paragraph_is_found_with_its_line_and_a_drawing_may_have_some():
    assert list(problems(f"{python('1')}\n![a](figures/x.svg)\nText.\n", run=[1])) == []
    ((line, what),) = problems(f"{python('1')}\n[a](figures/x.html)\nText.\n", run=[1])
    assert line == 5 and "figures/x.html does not stand in a paragraph of its own" in what
