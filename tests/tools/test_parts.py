"""The parts of a page, as tools.parts marks them in HTML. In a browser: tests/site/."""

import re
from xml.etree.ElementTree import Element, fromstring

import pytest
from markdown import markdown

from tests.cases import each
from tools.parts import SCRIPTED, first_sentence

EXTENSIONS = ["attr_list", "md_in_html", "pymdownx.highlight", "pymdownx.superfences"]
OPTIONS = "- A. one, `1`\n- B. two\n- C. three\n"
ANSWER = """<details markdown="1">
<summary>Answer</summary>

**B.** It counts, as **A** does not.
**A** forgets one.
**C** counts twice.

```python
print(2)
```

</details>
"""


def snippet(code: str, printed: str = "") -> str:
    mark = "<!--pytest-codeblocks:expected-output-->"
    return f"```python\n{code}\n```\n" + (
        f"\n{mark}\n\n```text\n{printed}\n```\n" if printed else ""
    )


def html(text: str) -> str:
    configs = {"pymdownx.highlight": {"pygments_lang_class": True}}
    return markdown(text, extensions=[*EXTENSIONS, "tools.pages"], extension_configs=configs)


def page(text: str) -> Element:
    return fromstring(
        f"<body>{html(text).replace(SCRIPTED, '').replace(SCRIPTED.strip(), '')}</body>"
    )


def part(text: str, kind: str) -> Element:
    """The only part of this kind."""
    (found,) = page(text).findall(f".//*[@data-part='{kind}']")
    return found


def words(element: Element | None) -> str:
    assert element is not None
    return " ".join("".join(element.itertext()).split())


@each("end", ["## Next", "> **Note.** Next", snippet("print('Next')"), "> **Predict.** Next?"])
def test_a_predict_covers_what_its_snippet_did_and_what_is_said_of_it(end):
    text = f"> **Predict.** What?\n\n{snippet('print(1)', 'seen')}\nBecause.\n\n{end}\n"
    predict = page(text).findall(".//*[@data-part='predict']")[0]
    assert [child.tag for child in predict] == ["blockquote", "div", "button", "div"]
    assert "print(1)" in words(predict[1])
    assert predict[2].get("data-reveal") == ""
    assert predict[3].get("class") == "covered"
    assert words(predict[3]) == "seen Because."


def test_a_predict_covers_the_folds_below_its_snippet():
    fold = ANSWER.replace("Answer", "Look deeper: why?")
    text = f"> **Predict.** What?\n\n{snippet('print(1)', '1')}\n{fold}"
    assert (
        part(text, "predict").find(".//div[@class='covered']/details[@class='deeper']") is not None
    )


def test_a_predict_with_options_has_a_key_and_a_sentence_for_each():
    quoted = "> **Predict.** How many?\n>\n" + re.sub("^", "> ", OPTIONS, flags=re.M).rstrip("> ")
    predict = part(f"{quoted}\n{ANSWER}\n{snippet('print(1)', '1')}", "predict")
    assert predict.get("data-key") == "B"
    radios = predict.findall("blockquote/ul[@class='options']/li/label/input[@type='radio']")
    assert [radio.get("value") for radio in radios] == ["A", "B", "C"]
    assert len(predict.findall("details[@class='answer']/p[@data-option]")) == 3
    assert predict.find("button") is not None


def test_a_predict_with_nothing_below_it_has_no_button():
    assert (
        part(f"> **Predict.** What?\n\n{snippet('x = 1')}\n## Next\n", "predict").find("button")
        is None
    )


def test_a_question_holds_its_options_and_a_sentence_for_each():
    body = page(f"## From earlier\n\n**1.** How many?\n\n{OPTIONS}\n{ANSWER}\nAfterwards.\n")
    question = body.find("div[@data-part='question']")
    assert (question.get("id"), question.get("data-key")) == ("earlier-1", "B")
    assert words(question.find("ul/li/label")) == "A. one, 1"
    assert {radio.get("name") for radio in question.findall(".//input")} == {"earlier-1"}
    sentences = question.findall("details/p[@data-option]")
    assert {sentence.get("data-option"): words(sentence) for sentence in sentences} == {
        "A": "A forgets one.",
        "B": "B. It counts, as A does not.",
        "C": "C counts twice.",
    }
    assert question.find("details/p[@data-option='B']").tail is None
    assert "Afterwards." not in words(question)


def test_an_exercise_holds_its_stub_which_is_to_do_and_its_helps():
    stub = "<!--pytest.mark.xfail(raises=NotImplementedError)-->\n\n" + snippet("raise", "to come")
    helps = "".join(ANSWER.replace("Answer", title) + "\n" for title in ("Hint 1", "Solution"))
    body = page(
        f"## Exercises\n\n**4.1 Yours.** Do.\n\n{stub}\n{helps}**4.2 Yours.** Do.\n\n## In short\n"
    )
    first, second = body.findall("div[@data-part='exercise']")
    assert first.get("id") == "exercise-4-1"
    assert "todo" in first.find("div[2]").get("class").split()
    assert [words(s) for s in first.findall("div[@class='helps']/details/summary")] == [
        "Hint 1",
        "Solution",
    ]
    assert words(second) == "4.2 Yours. Do."


def test_a_fold_that_helps_nobody_stands_below_the_helps_of_an_exercise():
    folds = "".join(
        ANSWER.replace("Answer", title) + "\n" for title in ("Hint 1", "Look deeper: a")
    )
    exercise = part(f"## Make it\n\n**4.1 Yours.** Do.\n\n{folds}", "exercise")
    assert [words(s) for s in exercise.findall("div[@class='helps']/details/summary")] == ["Hint 1"]
    assert words(exercise.find("details[@class='deeper']/summary")) == "Look deeper: a"


def test_the_thread_has_an_exercise_and_other_sections_have_none():
    assert part("## Make it\n\n**4.1 Yours.** Do.\n", "exercise").get("id") == "exercise-4-1"
    assert page("## Step 1\n\n**4.1 Yours.** Do.\n").find(".//*[@data-part='exercise']") is None


def test_in_short_holds_its_sentences_and_not_what_stands_below():
    proof = ANSWER.replace("Answer", "Proof")
    text = f"## In short\n\nOne.\n\n{proof}\nTwo.\n\n{proof}\n**New words:** none.\n\nA hint.\n"
    (short,) = page(text).findall(".//*[@data-part='in-short']")
    assert [child.tag for child in short] == ["p", "details", "p", "details"]
    assert "New words" not in words(short)


@pytest.mark.parametrize("raises, kinds", [("", "output"), ("RuntimeError", "output error")])
def test_an_output_says_whether_it_is_an_error_on_purpose(raises, kinds):
    mark = f"<!--pytest.mark.xfail(raises={raises})-->\n\n" if raises else ""
    body = page(mark + snippet("f()", "told"))
    assert body.find("div[2]").get("class") == f"language-text {kinds} highlight"
    assert body.find("div[2]//code").text == "told\n"


def test_outputs_solutions_and_proofs_are_not_searched():
    solution, proof, answer = (
        ANSWER.replace("Answer", word) for word in ("Solution", "Proof", "Answer")
    )
    body = page(f"{snippet('f()', 'told')}\n\n{solution}\n{proof}\n{answer}")
    left_out = [part.get("class") for part in body.iter() if "data-search-exclude" in part.attrib]
    assert left_out == ["language-text output highlight", "help", "proof"]


def test_a_page_with_parts_says_below_its_title_that_scripts_run_and_no_other_page_does():
    """Above the title it would come between MkDocs' search and the text of the page."""
    predict = f"# Title\n\n> **Predict.** What?\n\n{snippet('x', '1')}"
    assert html(predict).partition("</h1>\n")[2].startswith(SCRIPTED.strip())
    assert html(predict.removeprefix("# Title\n\n")).startswith(SCRIPTED.strip())
    assert "<script" not in html("# Title\n\n" + snippet("x", "1"))


def test_a_link_to_a_word_tells_the_first_sentence_of_its_entry(tmp_path, monkeypatch):
    (tmp_path / "course").mkdir()
    entry = "The [Node](#node) of `f(x.y)`, or c<sub>k</sub>. Not *this*. ([Lesson 1](01.md))"
    (tmp_path / "course/glossary.md").write_text(f"# Glossary\n\n## A word\n\n{entry}\n")
    monkeypatch.chdir(tmp_path)
    body = page(
        "[a](glossary.md#a-word) [b](../glossary.md#a-word) [c](glossary.md#none) [d](x.md)"
    )
    tips = [link.get("data-tip") for link in body.iter("a")]
    assert tips == ["The Node of f(x.y), or c_k."] * 2 + [None] * 2


def test_an_entry_without_a_second_sentence_is_told_whole():
    assert first_sentence("Is it 1.5? Yes.") == "Is it 1.5?"
    assert first_sentence("No stop") == "No stop"
