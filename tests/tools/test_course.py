"""tools.course: what pages show of the lessons is computed from the lessons."""

import re
from pathlib import Path

import yaml

from tests.cases import each
from tools import course
from tools.grammar import Callout, Text
from tools.minutes import minutes_shown

ROOT = Path(__file__).parents[2]
LESSONS = course.lessons(ROOT / "course")
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = [ROOT / "README.md", *course.pages(ROOT / "course")]


def test_the_bounds_are_those_that_the_course_promises():
    def bounds(slug):
        return course.Lesson(Path(f"{slug}.md")).bounds

    assert bounds("03-leaves") == bounds("08-define-by-run") == (25, 30)
    assert bounds("04-chain-rule") == bounds("17-jacobians") == (30, 30)
    assert bounds("19-power-series") == (35, 30)
    assert min(bounds("20-your-own")) > 999


# ---- what is computed, on the pages that show it


@each("page", PAGES)
def test_what_a_page_shows_of_the_lessons_is_what_they_are_now(page):
    expected = course.updated(page, LESSONS, SETTINGS["extra"]["repository"])
    assert page.read_text(encoding="utf-8") == expected, "make update writes it"


def test_the_start_page_shows_each_lesson_and_how_long_all_take():
    index = (ROOT / "course/index.md").read_text(encoding="utf-8")
    for lesson in LESSONS:
        assert f"\n- [{lesson.title}]({lesson.path.name})\n" in index
        assert f"\n    {lesson.star}{minutes_shown(*lesson.minutes)}\n" in index
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


@each("lesson", LESSONS)
def test_a_title_begins_with_the_number_and_no_minutes_are_typed(lesson):
    assert lesson.title.startswith(f"{lesson.number}. ")
    assert f"\n# {lesson.title}\n" in lesson.text
    assert "minutes" not in lesson.front_matter
    for part in lesson.parts:
        if isinstance(part, Text | Callout):
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
    (tmp_path / "02-y.md").write_text(front.format("2. Y") + "word " * 200 * 90)
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
