"""tools.course on small pages whose minutes are known, and on the course itself."""

import re
from pathlib import Path

import pytest
import yaml

from tools import course
from tools.grammar import parse

ROOT = Path(__file__).parents[2]
LESSONS = course.lessons(ROOT / "course")
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = [ROOT / "README.md", *course.pages(ROOT / "course")]

WORDS = "word " * 200 + "\n\n"  # a minute
CODE = "```python\n" + "x = 1\n\n" * 12 + "```\n\n"  # a minute
SHOWN = "\n<!--pytest-codeblocks:expected-output-->\n\n```text\n" + "1\n" * 30 + "```\n\n"
STEM = "**1.** " + "word " * 199 + "\n\n- A. " + "word " * 199 + "\n\n"  # two minutes


def fold(title: str, inside: str) -> str:
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{inside}\n</details>\n\n'


@pytest.mark.parametrize(
    ("page", "reading", "exercises"),
    [
        ("", 0, 0),
        (WORDS * 3, 3, 0),
        ("# " + WORDS + "| a |\n|---|\n| " + "word " * 199 + "|\n", 2, 0),  # headings, tables
        ("---\ntitle: " + "word " * 200 + "\n---\n\n", 0, 0),
        ("[" + "word " * 200 + "](notebooks/01-x.ipynb)\n", 0, 0),
        ("![" + "word " * 200 + "](assets/x.png)\n", 0, 0),
        (("[one](" + "a" * 9 + " two)  " + "**one** ## > ") * 100, 1, 0),  # of addresses nothing
        (CODE * 2, 2, 0),
        (CODE.replace("python", "console") * 2, 2, 0),
        (CODE + SHOWN, 2, 0),
        (CODE + "![" + "word " * 400 + "](figures/01-x.svg)\n\n" + CODE.replace("x", "y", 6), 3, 0),
        (CODE + "[" + "word " * 400 + "](figures/01-x.html)\n", 4, 0),
        ("> **Predict.** " + "word " * 199 + "\n", 2, 0),
        ("> **Note.** " + "word " * 199 + "\n", 1, 0),
        (fold("Look deeper: one", WORDS) * 2, 4, 0),  # 3.03
        (fold("Hint", "") * 4, 3, 0),  # 2.02
        ("> **Predict.** one\n\n" + CODE + fold("Answer", WORDS), 4, 0),  # 3.52
        (STEM, 2, 1),
        (STEM + fold("Answer", WORDS + CODE), 2, 4),  # 3.5
        (STEM + fold("Answer", fold("Look deeper", WORDS)), 2, 4),  # 3.01
        (STEM + fold("Answer", "") + "> **Predict.** one\n\n" + fold("Answer", WORDS), 5, 2),
        ("## From earlier\n\n" + STEM + fold("Answer", WORDS), 3, 3),  # with its heading, 2.01
        ("## Exercises\n\n" + WORDS + CODE + SHOWN, 0, 0),
        ("## Exercises\n\n**1.1 Worked.** one\n\n" + WORDS, 0, 2),
        ("## Exercises\n\n**1.2 The last step is yours.** one\n\n", 0, 6),
        ("## Exercises\n\n**1.3 Yours.** one\n\n" + fold("Hint 1", WORDS), 0, 10),
        ("## Exercises\n\n**1.4 A broken program.** one\n\n", 0, 6),
        ("## Exercises\n\n**1.5 Fix the loop.** one\n\n", 0, 6),
        ("## Exercises\n\n**1.6 Write a prefix.** one\n\n", 0, 10),
        ("## Exercises\n\n### One\n\n**1.1 Worked.** a\n\n**1.2 Yours.** b\n\n", 0, 12),
        ("## Make it\n\n" + WORDS + "**1.5 Yours.** one\n\n" + CODE, 0, 10),
        ("## Make it\n\none\n\n## In short\n\n" + WORDS + fold("Proof", CODE), 3, 10),  # 2.52
    ],
)
def test_minutes_are_those_of_the_model(page, reading, exercises):
    assert course.minutes(parse(page)) == (reading, exercises)


def test_minutes_are_not_rounded_up_for_a_rounding_error():
    """A tenth is not exact in binary: 0.1 + 0.1 + 0.1 > 0.3."""
    assert course.minutes(parse(("word " * 20 + "\n") * 30)) == (3, 0)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_a_lesson_takes_no_more_minutes_than_it_may(lesson):
    for minutes, bound in zip(lesson.minutes, lesson.bounds, strict=True):
        assert minutes <= bound


def test_the_bounds_are_those_that_the_course_promises():
    def bounds(slug):
        return course.Lesson(Path(f"{slug}.md")).bounds

    assert bounds("03-leaves") == bounds("08-define-by-run") == (25, 30)
    assert bounds("04-chain-rule") == bounds("17-jacobians") == (30, 30)
    assert bounds("19-power-series") == (35, 30)
    assert min(bounds("20-your-own")) > 999


def test_reasons_are_counted_in_prose_and_per_thousand_words():
    prose = "Because it is so. It waits, so\nthat, since 1.\n\n> **Note.** For example this.\n"
    page = "# Since\n\n" + prose + "\n```python\nbecause = since = 1\n```\n"
    words = 1 + 10 + 4
    assert course.reasons(parse(page)) == pytest.approx(1000 * 5 / words)
    assert course.reasons(parse("")) == 0


@pytest.mark.parametrize(
    ("page", "lengths"),
    [
        ("One two. One\ntwo three? One.\n", [2, 3, 1]),
        ("Of `a.b.c` and 0.5 it\nis said: yes.\n\nNo.\n", [8, 1]),
        ("> **Predict.** How many of\n> them?\n>\n> - A. one\n> - B. two\n", [4]),
        ("**A.** It is. So.\n**B** it is not.\n", [2, 1, 4]),
        ("# Of no heading\n\n| no | table |\n|---|---|\n\n- A. and no list\n", []),
        ("**New words:** none.\n\nNext: [One](two.md).\n", []),
        ("```python\nx = 1  # No code. None.\n```\n", []),
    ],
)
def test_sentences_are_those_of_the_running_text(page, lengths):
    assert course.sentences(parse(page)) == lengths


def test_the_lessons_have_the_voice_that_they_should_have():
    for lesson in LESSONS:
        assert course.reasons(lesson.parts) >= 5, lesson.slug
    mean, short = course.voice(LESSONS)
    assert 12 <= mean <= 20 and short <= 0.22


# ---- what is computed, on the pages that show it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_of_the_lessons_is_what_they_are_now(page):
    expected = course.updated(page, LESSONS, SETTINGS["extra"]["repository"])
    assert page.read_text(encoding="utf-8") == expected, "make update writes it"


def test_the_start_page_shows_each_lesson_and_how_long_all_take():
    index = (ROOT / "course/index.md").read_text(encoding="utf-8")
    for lesson in LESSONS:
        assert f"\n- [{lesson.title}]({lesson.path.name})\n" in index
        assert f"\n    {lesson.star}{course.minutes_shown(*lesson.minutes)}\n" in index
    for page in ("course/index.md", "course/about.md", "README.md"):
        assert course.in_all(LESSONS) in (ROOT / page).read_text(encoding="utf-8")


def test_the_torch_that_is_said_to_be_shown_is_the_pinned_one():
    pinned = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    about = (ROOT / "course/about.md").read_text(encoding="utf-8")
    assert f" torch {pinned} on a CPU" in about


def test_the_menu_has_each_lesson_in_order():
    groups = [group for entry in SETTINGS["nav"] for group in entry.items()]
    lessons = [page for title, pages in groups if title.startswith("Lessons ") for page in pages]
    assert lessons == [lesson.path.name for lesson in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.slug)
def test_a_title_begins_with_the_number_and_no_minutes_are_typed(lesson):
    assert lesson.title.startswith(f"{lesson.number}. ")
    assert f"\n# {lesson.title}\n" in lesson.text
    assert "minutes" not in lesson.front_matter
    for part in lesson.parts:
        if isinstance(part, course.Text | course.Callout):
            assert not re.search(r"\d+ min(ute)?s?\b", part.text), part.line


def test_pages_in_folders_are_pages_but_not_what_stands_at_an_old_address(tmp_path):
    moved = "# X\n\n> **Moved.** This page is now [X](../x.md).\n"
    for name, text in {"x.md": "# X\n", "kind/index.md": "# K\n", "old/index.md": moved}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert course.pages(tmp_path) == [tmp_path / "kind/index.md", tmp_path / "x.md"]


def test_a_changed_list_sum_and_link_to_the_next_lesson_are_written_anew(tmp_path):
    page = tmp_path / "01-x.md"
    front = "---\ntitle: {0}\ndescription: It is {0}.\n---\n\n"
    page.write_text(front.format("1. X") + "word\n\nNext: [Old](old.md).\n")
    (tmp_path / "02-y.md").write_text(front.format("2. Y") + WORDS * 90)
    index = tmp_path / "index.md"
    index.write_text(
        '<div class="cards" markdown="1">\n\nold\n\n</div>\n\n'
        "7 lessons, about 9 hours to read and 9 hours of exercises.\n"
        "Read it on its site, long ago.\n"
    )
    lessons = course.lessons(tmp_path)
    assert course.updated(page, lessons, "").endswith("\n\nNext: [2. Y](02-y.md).\n")
    assert course.updated(index, lessons, "Some/course") == (
        '<div class="cards" markdown="1">\n\n'
        "- [1. X](01-x.md)\n\n    It is 1. X.\n\n    ★ 1 min to read · 0 min of exercises\n\n"
        "- [2. Y](02-y.md)\n\n    It is 2. Y.\n\n    ★ 90 min to read · 0 min of exercises\n\n"
        "</div>\n\n2 lessons, about 2 hours to read and 0 hours of exercises.\n"
        "Read it on its site, <https://some.github.io/course/>.\n"
    )


def test_the_table_has_a_line_for_each_lesson():
    head, *rows = course.table(LESSONS)
    assert [row.split()[0] for row in rows] == [lesson.slug for lesson in LESSONS]
    assert head.split() == ["lesson", "reading", "exercises", "reasons", "words", "short"]
