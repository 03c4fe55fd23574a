"""The course as a whole: each lesson has its parts, and together they hold what they must."""

import re
from pathlib import Path

import pytest
import yaml

from tools.grammar import EXERCISE, KEY, OPTION, QUESTION, Callout, blocks, parse, sections

COURSE = Path(__file__).parents[2] / "course"
LESSONS = sorted(COURSE.glob("[0-9]*.md"))
WORDS = re.findall(r"^## (.*)\n\n(.*)$", (COURSE / "glossary.md").read_text("utf-8"), re.M)
GLOSSARY = {word.lower().replace(" ", "-"): meaning for word, meaning in WORDS}  # by anchor
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def front(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])


def body(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("---\n", 2)[2]


def folds(text: str, title: str) -> list[str]:
    """What stands in the folds of this title."""
    return [inner for opening, inner in blocks(text) if re.fullmatch(title, opening.title)]


def questions(path: Path) -> list[str]:
    """The questions of a lesson, those from earlier lessons first."""
    found = sections(body(path), 2)
    text = found.get("From earlier", "") + found.get("Questions", "")
    return re.split(rf"^(?={QUESTION.pattern})", text, flags=re.M)[2::2]


def options(question: str) -> list[str]:
    return re.findall(rf"^{OPTION.pattern}", question.partition("<details")[0], re.M)


# ---- the parts of a lesson


@each_lesson
def test_the_front_matter_says_what_the_page_says(path):
    facts, text = front(path), body(path)
    assert set(facts) == {"title", "description", "objectives", "needs"}
    (heading,) = sections(text, 1)
    assert re.sub(r"^\d+\W+", "", facts["title"]) == re.sub(r"^\d+\W+", "", heading)
    (abstract,) = (p for p in parse(text) if isinstance(p, Callout) and "Afterwards" in p.title)
    objectives = "".join(f"> - {objective}\n" for objective in facts["objectives"])
    assert abstract.text.startswith(f"> **Afterwards you can**\n>\n{objectives}>\n")
    assert f"](notebooks/{path.stem}.ipynb)" in text


@each_lesson
def test_what_a_lesson_needs_comes_before_it_and_is_linked(path):
    number = int(path.stem[:2])
    for needed in front(path)["needs"]:
        assert needed < number
        assert re.search(rf"\]\({needed:02}-[\w-]+\.md\)", body(path).split("\n## ")[0])


@each_lesson
def test_a_lesson_has_its_parts_in_order(path):
    parts = ["A puzzle", "The model", "Break it", "Questions", "Exercises", "In short"]
    if path == LESSONS[0]:  # its questions, which place a reader, stand on the start page
        parts.remove("Questions")
    expected = (["From earlier"] if front(path)["needs"] else []) + parts
    assert [heading.partition(":")[0] for heading in sections(body(path), 2)] == expected
    model = next(v for k, v in sections(body(path), 2).items() if k.startswith("The model"))
    assert "](figures/" in model.partition("\n### ")[0]
    steps = [heading for heading in sections(model, 3) if heading.startswith("Step ")]
    assert 3 <= len(steps) <= 7
    assert [int(re.search(r"\d+", step)[0]) for step in steps] == list(range(1, len(steps) + 1))


@each_lesson
def test_each_step_predicts_and_goes_on_from_what_was_seen(path):
    model = next(v for k, v in sections(body(path), 2).items() if k.startswith("The model"))
    for heading, step in sections(model, 3).items():
        assert "Predict" in [part.title for part in parse(step) if isinstance(part, Callout)]
        assert folds(step, "(Look deeper|Change it): .+"), heading


@each_lesson
def test_the_lesson_breaks_something_on_purpose(path):
    assert "pytest.mark.xfail(raises=" in sections(body(path), 2)["Break it"]


@each_lesson
def test_each_question_has_options_and_an_answer_that_shows_itself(path):
    count = len(folds(sections(body(path), 2).get("Questions", ""), "Answer"))
    assert 3 <= count <= 5 or path == LESSONS[0]
    for question in questions(path):
        letters = [letter for letter, _ in options(question)]
        assert letters == ["A", "B", "C", "D"][: len(letters)] and len(letters) >= 3
        (answer,) = folds(question, "Answer")
        reasons = re.findall(r"^\*\*([A-D])(\.?)\*\* \S.+", answer.partition("```")[0], re.M)
        assert [letter for letter, _ in sorted(reasons)] == letters, question
        assert [dot for _, dot in reasons] == ["."] + [""] * (len(letters) - 1), question
        assert "```python\n" in answer


def test_no_letter_is_right_much_more_often_than_the_others():
    keys = [KEY.match(folds(q, "Answer")[0])[1] for path in LESSONS for q in questions(path)]
    assert max(keys.count(letter) for letter in "ABCD") <= 0.45 * len(keys)


@pytest.mark.parametrize("path", LESSONS[1:], ids=lambda path: path.stem)
def test_the_right_options_are_not_always_the_same(path):
    assert len({KEY.match(folds(question, "Answer")[0])[1] for question in questions(path)}) >= 2


@each_lesson
def test_each_exercise_to_be_solved_fails_first_has_three_hints_and_a_solution_that_runs(path):
    number = int(path.stem[:2])
    found = re.split(rf"^{EXERCISE.pattern}", sections(body(path), 2)["Exercises"], flags=re.M)
    exercises = [*zip(found[1::3], found[2::3], found[3::3], strict=True)]
    names = [name for name, _, _ in exercises]
    assert names == [f"{number}.{n}" for n in range(1, len(exercises) + 1)]
    kinds = [kind for _, kind, _ in exercises]
    assert kinds[:3] == ["Worked.", "The last step is yours.", "Yours."]
    for name, kind, text in exercises:
        if not kind.startswith(("The last step", "Yours")):
            continue
        assert text.count("pytest.mark.xfail(raises=NotImplementedError)") == 1
        assert text.count('raise NotImplementedError("your turn")') == 1
        assert len(folds(text, r"Hint [123]")) == 3
        (solution,) = folds(text, "Solution")
        assert f'print("{name} right")' in solution
        stub = re.search(r"```python\n(.*?)```", text, re.S)[1]
        asserts = re.findall(r"^assert .*$", stub, re.M)
        assert asserts and all(line in solution for line in asserts), name


@each_lesson
def test_a_lesson_ends_in_three_sentences_with_an_assertion_each(path):
    end = sections(body(path), 2)["In short"]
    sentences = re.sub(r"<details.*?</details>", "", end.partition("**New words")[0], flags=re.S)
    assert [line[-1] for line in sentences.splitlines() if line] == ["."] * 3
    proofs = folds(end, "Proof")
    assert len(proofs) == 3
    for proof in proofs:
        assert re.search(r"```python\n(.*\n)*assert ", proof)
    assert "**New words:**" in end and "**Where PyTorch says so:** [" in end


@each_lesson
def test_a_lesson_names_few_new_words_and_the_glossary_has_them(path):
    line = re.search(r"^\*\*New words:\*\* (.*)$", body(path), re.M)[1]
    new = line.partition("; in passing")[0]
    assert 1 <= new.count("](glossary.md#") <= 5
    for anchor in re.findall(r"\]\(glossary\.md#([\w-]+)\)", line):
        assert f"]({path.name})" in GLOSSARY[anchor], f"{anchor} does not name this lesson"


# ---- the whole


def test_the_glossary_is_in_order_and_each_word_is_linked_from_its_lesson():
    assert list(GLOSSARY) == sorted(GLOSSARY)
    for anchor, meaning in GLOSSARY.items():
        lesson = re.search(r"\(\[Lesson \d+\]\((.*?)\)\)$", meaning)[1]
        assert f"](glossary.md#{anchor})" in body(COURSE / lesson), anchor


def test_no_sentence_is_longer_than_forty_words():
    for path in [*LESSONS, COURSE / "index.md", COURSE / "about.md"]:
        text = re.sub(
            r"^(`{3,}).*?^\1|^!\[[^\n]*$|^---\n.*?\n---",
            "",
            path.read_text(),
            flags=re.M | re.S,
        )
        for sentence in re.split(r"(?<=[.?!:])\s|\n", text):
            assert len(sentence.split()) <= 40, f"{path.name}: {sentence}"


@pytest.mark.parametrize(
    "topic",
    [
        r"torch\.mm\(x, w\)",  # the worked pass
        r"z = y \+ 2\.0",
        r"MeanBackward0\n  input\[0\] → AddBackward0\n    input\[0\] → MmBackward0\n"
        r"      input\[0\] → AccumulateGrad \(x\)\n      input\[1\] → AccumulateGrad \(w\)\n"
        r"    input\[1\] → None \(no grad path\)\n",
        r"\*DAG\*",
        r"\*directed\*",
        r"\*acyclic\*",
        r"\[\*forward pass\*\]",
        r"\[\*backward pass\*\]",
        r"\[\*root\*\]",
        r"\[\*leaves\*\]",
        r"\[\*edge\*\]",
        r"next_functions\[0\]\[0\]",
        r"\(None, 0\)",
        r"already seen",
        r"max depth reached",
        r"grad can be implicitly created only for scalar outputs",
        r"retain_grad\(\)",
        r"\[\*define-by-run\*\]",
        r"create_graph=True",
        r"1 0\.28747\n2 -0\.05553\n3 -0\.15883\n4 0\.17455\n",
        r"0\.28746968091443026198",
        r"-37\.539012973027170878",
        r"\[\*Jacobian\*\]",
        r"\[\*Hessian\*\]",
    ],
)
def test_the_course_holds_what_the_seed_held(topic):
    assert re.search(topic, "\n".join(body(path) for path in LESSONS))
