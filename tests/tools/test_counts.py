"""tools.counts on a page whose parts are known, and the tables and plans that are made of it."""

import re
from pathlib import Path

import pytest

from tools import course
from tools.counts import counts, exercises
from tools.grammar import parse

ROOT = Path(__file__).parents[2]
LESSONS = course.lessons(ROOT / "course")

PAGE = """---
title: 1. X
description: It is X.
needs: []
---

# 1. X

> **Predict.** One?

```python
print(1)
```

<!--pytest-codeblocks:expected-output-->

```text
1
```

```python
draw(1)
```

![one](figures/01-x.svg)

```python
play(1)
```

[one](figures/01-x.html)

## Questions

**1.** One?

- A. one

<details markdown="1">
<summary>Answer</summary>

**A.** One.

**2.** No question, since it stands in a fold.

</details>

## Make it

**1.1 The last step is yours.** One.

## Exercises

**1.2 Worked.** One.

```python
x = 1
```

**1.3 Fix it.** One.

<details markdown="1">
<summary>Solution</summary>

One.

```python
x = 2
```

</details>

<details markdown="1">
<summary>Two wrong answers</summary>

One is `a | b`,
and no other:

<!--pytest.mark.xfail(raises=AssertionError)-->

```python
assert False, "one"
```

<!--pytest-codeblocks:expected-output-->

```text
AssertionError: one
```

Two. That is all:

```python
x = 3
```

</details>
"""


def test_each_kind_of_part_is_counted_on_all_pages():
    page = parse(PAGE)
    once = {
        "snippets that run": 7,
        "outputs": 2,
        "errors on purpose, among the outputs": 1,
        "drawings and plots": 1,
        "players": 1,
        "Predicts": 1,
        "questions": 1,
        "exercises": 3,
        "wrong answers": 2,
    }
    assert counts([page]) == once
    assert counts([page, page]) == {what: 2 * count for what, count in once.items()}


def test_an_exercise_has_the_section_it_stands_in_and_what_is_wrong_with_its_wrong_answers():
    first, worked, last = exercises(parse(PAGE))
    assert (first.number, first.section) == ("1.1", "Make it")
    assert first.title == "The last step is yours"
    assert (worked.number, worked.section) == ("1.2", "Exercises")
    assert first.wrong == worked.wrong == ()
    assert last.wrong == ("One is `a | b`, and no other", "Two. That is all")


@pytest.fixture
def small(tmp_path):
    """A course of two lessons, of which the first has exercises, and a README above it."""
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / "01-x.md").write_text(PAGE)
    front = "---\ntitle: 6. Y\ndescription: It is Y.\nneeds: [0, 1]\n---\n\n"
    (folder / "06-y.md").write_text(front + "word " * 200 + "\n")
    (tmp_path / "README.md").write_text("```python\nx = 1\n```\n")
    return course.lessons(folder)


def shown(tmp_path, small, head):
    """The rows that are written below this head, where old ones stood."""
    page = tmp_path / "page.md"
    rule = re.sub("[^|]+", "---", head)
    page.write_text(f"above\n\n{head}\n{rule}\n| old |\n| old |\n\nbelow\n")
    above, below = course.updated(page, small, "").split(f"\n{head}\n{rule}\n")
    assert above == "above\n" and below.endswith("|\n\nbelow\n")
    return below.removesuffix("\n\nbelow\n").splitlines()


def test_the_table_of_counts_is_of_all_pages_of_the_course_and_the_readme(tmp_path, small):
    rows = shown(tmp_path, small, "| on the pages | how many |")
    assert rows[0] == "| snippets that run | 8 |" and rows[-1] == "| wrong answers | 2 |"


def test_the_outline_has_stars_minutes_and_needs(tmp_path, small):
    head = "| lesson | min to read + exercises | needs |"
    read, done = small[0].minutes
    assert shown(tmp_path, small, head) == [
        f"| ★ [1. X](01-x.md) | {read} + {done} | – |",
        "| [6. Y](06-y.md) | 1 + 0 | 0, 1 |",
    ]


def test_a_sitting_has_the_minutes_of_its_lessons_and_of_the_chosen_exercises(
    tmp_path, small, monkeypatch
):
    monkeypatch.setattr(course, "WORKSHOP", (((1,), ("1.1", "1.3")), ((6, 7), ())))
    head = "| sitting | lessons | exercises | min to read + exercises |"
    read, _ = small[0].minutes
    assert shown(tmp_path, small, head) == [
        f"| 1 | [1. X](01-x.md) | 1.1, 1.3 | {read} + 16 = {read + 16} |",
        "| 2 | [6. Y](06-y.md) |  | 1 + 0 = 1 |",
    ]


def test_a_week_has_the_minutes_of_its_lessons(tmp_path, small, monkeypatch):
    monkeypatch.setattr(course, "WEEKS", ((1, 6), (7,)))
    head = "| week | lessons | min to read + exercises |"
    read, done = small[0].minutes
    assert shown(tmp_path, small, head) == [
        f"| 1 | [1. X](01-x.md)<br>[6. Y](06-y.md) | {read + 1} + {done} |",
        "| 2 |  | 0 + 0 |",
    ]


def test_the_table_of_wrong_answers_has_a_row_for_each_exercise_with_some(tmp_path, small):
    head = "| exercise | min | what somebody may do |"
    assert shown(tmp_path, small, head) == [
        "| [1.3](01-x.md#exercises) Fix it | 6 "
        r"| One is `a \| b`, and no other<br>Two. That is all |"
    ]


def test_a_sum_of_the_core_path_is_of_the_lessons_with_a_star(tmp_path, small):
    page = tmp_path / "page.md"
    page.write_text(
        "9 lessons, about 9 hours to read and 9 hours of exercises; "
        "9 lessons of the core path, about 9 hours to read and 9 hours of exercises.\n"
    )
    for lesson in small:
        lesson.__dict__["minutes"] = (60, 120)
    assert course.updated(page, small, "") == (
        "2 lessons, about 2 hours to read and 4 hours of exercises; "
        "1 lessons of the core path, about 1 hours to read and 2 hours of exercises.\n"
    )


# ---- the plans, on the course itself


def test_each_table_stands_on_a_page():
    pages = [page.read_text(encoding="utf-8") for page in course.pages(ROOT / "course")]
    for head in course.TABLES:
        assert sum(head in page for page in pages) == 1, head
    assert sum(" of the core path, about " in page for page in pages) == 1


def test_a_sitting_leaves_time_for_what_the_room_asks():
    for row in course.workshop(LESSONS):
        assert int(row.split(" = ")[1].removesuffix(" |")) <= course.SITTING


def test_the_exercises_of_a_sitting_are_exercises_of_its_lessons():
    for taught, chosen in course.WORKSHOP:
        lessons = course.named(LESSONS, taught)
        assert len(lessons) == len(taught)
        found = {e.number for lesson in lessons for e in exercises(lesson.parts)}
        assert {*chosen} <= found


def test_the_day_teaches_what_a_lesson_needs_before_it():
    before = set()
    for taught, _ in course.WORKSHOP:
        for lesson in course.named(LESSONS, taught):
            assert {*lesson.needs} <= before, lesson.slug
            before.add(lesson.number)


def test_the_six_weeks_have_each_lesson_of_the_first_three_parts_once_and_in_order():
    assert [number for week in course.WEEKS for number in week] == [*range(19)]


def test_the_core_path_needs_nothing_beside_it_but_the_engine():
    """Which lesson 15 needs for *Make it* alone; about.md says so."""
    for lesson in LESSONS:
        if lesson.is_core:
            assert {*lesson.needs} <= {*course.CORE, 6}, lesson.slug
