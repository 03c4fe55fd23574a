"""The course as a whole: each lesson has its parts, and together they hold what they must."""

import re
from pathlib import Path

import yaml

from tests.cases import each
from tools.course import Lesson, pages
from tools.grammar import (
    EXERCISE,
    KEY,
    OPTION,
    QUESTION,
    Callout,
    Fence,
    Snippet,
    Text,
    blocks,
    parse,
    sections,
)

COURSE = Path(__file__).parents[2] / "course"
LESSONS = sorted(COURSE.glob("[0-9]*.md"))
WORDS = re.findall(r"^## (.*)\n\n(.*)$", (COURSE / "glossary.md").read_text("utf-8"), re.M)
GLOSSARY = {word.lower().replace(" ", "-"): meaning for word, meaning in WORDS}  # by anchor
each_lesson = each("path", LESSONS)
MADE = (1, 2, 4, 6, 15)  # the lessons in which an autograd of one's own grows
# Words that readers stumbled over, and what says nothing without them.
AVOIDED = r"\b(mend\w*|overheard|at hand|c[oa]mes? by|hand(s|ed)? on|g[ai]ves? on|as ever|simply)\b"


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


def exercises(path: Path) -> list[tuple[str, str, str]]:
    """The exercises of a lesson: the number, the kind, and the text of each."""
    found = sections(body(path), 2)
    text = found.get("Make it", "") + found["Exercises"]
    parts = re.split(rf"^{EXERCISE.pattern}", text, flags=re.M)
    exercises = [*zip(parts[1::3], parts[2::3], parts[3::3], strict=True)]
    numbers = [f"{int(path.stem[:2])}.{n}" for n in range(1, len(exercises) + 1)]
    assert [number for number, _, _ in exercises] == numbers
    return exercises


def options(question: str) -> list[str]:
    return re.findall(rf"^{OPTION.pattern}", question.partition("<details")[0], re.M)


# ---- the parts of a lesson


@each_lesson
def test_the_front_matter_says_what_the_page_says(path):
    facts, text = front(path), body(path)
    assert set(facts) == {"title", "description", "objectives", "needs"}
    (heading,) = sections(text, 1)
    assert re.sub(r"^\d+\W+", "", facts["title"]) == re.sub(r"^\d+\W+", "", heading)
    assert f"](notebooks/{path.stem}.ipynb)" in text


@each_lesson
def test_what_a_lesson_needs_comes_before_it_and_is_linked(path):
    number = int(path.stem[:2])
    for needed in front(path)["needs"]:
        assert needed < number
        assert re.search(rf"\]\({needed:02}-[\w-]+\.md\)", body(path).split("\n## ")[0])


@each_lesson
def test_a_lesson_has_its_parts_in_order(path):
    number, text = int(path.stem[:2]), body(path)
    steps = [heading for heading in sections(text, 2) if heading.startswith("Step ")]
    assert [step.partition(": ")[0] for step in steps] == [
        f"Step {n}" for n in range(1, len(steps) + 1)
    ]
    assert 2 <= len(steps) <= 4
    parts = ["From earlier", "A puzzle", *steps, "Break it", "Make it", "Questions"]
    parts += ["Exercises", "In short"]
    absent = [
        name
        for name, stands in (
            ("From earlier", number >= 3),
            ("Break it", number > 0),
            ("Make it", number in MADE),
        )
        if not stands
    ]
    assert list(sections(text, 2)) == [name for name in parts if name not in absent]
    above = text.partition("\n## ")[0]
    assert re.search(r"^# .*\n\nAfter this lesson you can [^.]*\.\n", above, re.M)
    assert "](figures/" in text


@each_lesson
def test_no_line_of_code_is_longer_than_80_columns(path):
    """Or it is cut where an exercise or a fold leaves no more room."""
    fences = [part for part in parse(path.read_text("utf-8")) if isinstance(part, Fence | Snippet)]
    code = [part.fence.code if isinstance(part, Snippet) else part.code for part in fences]
    assert [line for text in code for line in text.splitlines() if len(line) > 80] == []


@each_lesson
def test_each_step_asks_before_it_shows(path):
    for heading, step in sections(body(path), 2).items():
        if heading.startswith("Step "):
            assert "Predict" in [p.title for p in parse(step) if isinstance(p, Callout)], heading


@each_lesson
def test_two_questions_come_from_earlier(path):
    earlier = sections(body(path), 2).get("From earlier", "")
    assert len(re.findall(rf"^{QUESTION.pattern}", earlier, re.M)) == 2 * (int(path.stem[:2]) >= 3)


@each("path", pages(COURSE))
def test_a_page_says_things_in_plain_words(path):
    prose = "".join(part.text for part in parse(body(path)) if isinstance(part, Text | Callout))
    assert not re.search(AVOIDED, prose), re.search(f".*{AVOIDED}.*", prose)[0]


@each_lesson
def test_the_lesson_breaks_something_on_purpose(path):
    text = sections(body(path), 2).get("Break it")
    assert text is None and path == LESSONS[0] or "pytest.mark.xfail(raises=" in text


@each_lesson
def test_each_question_has_options_and_an_answer_that_shows_itself(path):
    count = len(folds(sections(body(path), 2).get("Questions", ""), "Answer"))
    assert 4 <= count <= 5 or path == LESSONS[0] and count <= 3
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


@each("path", LESSONS)
def test_a_reason_does_not_tell_the_right_option_from_all_others(path):
    # Where it alone has a reason, or alone has none, it is found without thinking.
    for question in questions(path):
        found = options(question)
        reasons = {letter: bool(re.search("because|since", text)) for letter, text in found}
        right = reasons.pop(KEY.match(folds(question, "Answer")[0])[1])
        assert right in reasons.values(), question


@each("path", LESSONS[1:])
def test_the_right_options_are_not_always_the_same(path):
    assert len({KEY.match(folds(question, "Answer")[0])[1] for question in questions(path)}) >= 2


@each_lesson
def test_a_lesson_takes_no_longer_than_it_may(path):
    lesson = Lesson(path)
    for minutes, bound in zip(lesson.minutes, lesson.bounds, strict=True):
        assert minutes <= bound


@each_lesson
def test_each_exercise_fails_first_and_its_wrong_answers_run_into_messages_that_teach(path):
    """That a snippet raises what is shown below it is tested as the page is run."""
    found = exercises(path)
    counts = {LESSONS[0]: {1}, LESSONS[-1]: {7}}  # the first look, and the project
    assert len(found) in counts.get(path, {3, 4})
    assert sum("Worked" in kind for _, kind, _ in found) <= 1
    if path != LESSONS[0]:
        assert re.search(r"\b(Fix|fix|broken)\b", found[-1][1])
    for name, kind, text in found:
        if "Worked" in kind:
            continue
        stub = text.partition("<details")[0]
        assert stub.count("<!--pytest.mark.xfail(raises=") == 1, name
        assert re.search(r'raise NotImplementedError\("your turn"\)', stub) or "ix" in kind, name
        assert len(folds(text, r"Hint [123]")) == 3, name
        (solution,) = folds(text, "Solution")
        assert f'print("{name} right")' in solution
        (wrong,) = folds(text, "Two wrong answers")
        assert wrong.count("<!--pytest.mark.xfail(raises=AssertionError)-->") == 2, name
        messages = re.findall(r"^AssertionError: (.*)$", wrong, re.M)
        assert len(set(messages)) == 2 and all(len(m.split()) >= 5 for m in messages), name


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


def test_every_figure_is_shown_on_a_page():
    shown = "".join(p.read_text("utf-8") for p in [COURSE.parent / "README.md", *pages(COURSE)])
    figures = {figure.name for figure in (COURSE / "figures").iterdir()}
    assert {name for name in figures if f"figures/{name})" not in shown} == set()


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


@each(
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
