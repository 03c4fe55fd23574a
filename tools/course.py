"""The list of lessons, their minutes and counts, computed from the pages: nobody types them.

``python -m tools.course`` writes them where a page shows them, and prints a table of all lessons.
A table of a page is written below its head, which says which table it is (``TABLES``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import yaml

from tools import clinic
from tools.counts import counts, exercises
from tools.grammar import MAKE_IT, Part, parse
from tools.minutes import MAKING, exercise_minutes, minutes, minutes_shown
from tools.voice import reasons, voice

READING, EXERCISES = 30, 30  # minutes, at most
READING_OF = {  # minutes, of lessons with another bound
    "00-first-look": 12,
    "01-nodes": 25,
    "03-leaves": 25,
    "08-define-by-run": 25,
    "09-cutting": 25,
    "12-in-place": 25,
    "13-hooks": 20,
    "16-any-order": 25,
    "18-kinks": 35,
    "19-power-series": 35,
}
PROJECT = "20-your-own"  # takes as long as it takes
# What comes first, for who wants no more; each lesson finds in it what it needs.
CORE = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 15, 17)
# A day for teachers: the lessons of each sitting, and the exercises that are done in it.
WORKSHOP = (
    ((0, 1, 2), ("1.3",)),
    ((3, 4), ("3.3", "4.3")),
    ((5, 8), ("5.3", "8.3")),
    ((9, 10), ("9.3", "10.3")),
)
SITTING = 75  # minutes that are planned of a sitting, at most; it takes 90
# Six weeks for them. Lessons that are not written yet are left out.
WEEKS = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12), (13, 14, 15), (16, 17, 18))

# What is written into pages: a list of the lessons, how long all of them take, where they can be
# read, which one comes next. The settings of the site have its address too.
LIST = re.compile(r'(?<=<div class="cards" markdown="1">\n).*?(?=\n</div>)', re.DOTALL)
SUM = re.compile(
    r"\d+ lessons( of the core path|), about \d+ hours to read and \d+ hours of exercises"
)
SITE = re.compile(r"^Read it on its site.*$", re.MULTILINE)
SITE_URL = re.compile(r'(?<=^site_url: )".*?"', re.MULTILINE)
NEXT = re.compile(r"(?<=\nNext: )\[.*?\]\(.*?\)")
MOVED = "\n> **Moved.** "  # what stands at the old address of a page


@dataclass(frozen=True)
class Lesson:
    """One lesson, read from its page."""

    path: Path

    @property
    def slug(self) -> str:
        """The name of its page without ``.md``: ``"01-nodes"``."""
        return self.path.stem

    @property
    def number(self) -> int:
        return int(self.slug.partition("-")[0])

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def parts(self) -> list[Part]:
        return parse(self.text)

    @cached_property
    def front_matter(self) -> dict[str, object]:
        loaded: dict[str, object] = yaml.safe_load(self.parts[0].text.strip("-\n"))
        return loaded

    @property
    def title(self) -> str:
        """Its title, which begins with its number."""
        return str(self.front_matter["title"])

    @property
    def link(self) -> str:
        """A link to it from a page beside it."""
        return f"[{self.title}]({self.path.name})"

    @property
    def is_core(self) -> bool:
        return self.number in CORE

    @property
    def star(self) -> str:
        """What stands before a lesson of the core path in lists."""
        return "★ " if self.is_core else ""

    @property
    def needs(self) -> list[int]:
        """The numbers of the lessons that it builds on."""
        return cast(list[int], self.front_matter["needs"])

    @cached_property
    def minutes(self) -> tuple[int, int]:
        """Minutes to read it, and minutes for its questions and exercises."""
        return minutes(self.parts)

    @property
    def bounds(self) -> tuple[float, float]:
        """The minutes that it may have at most."""
        if self.slug == PROJECT:
            return math.inf, math.inf
        return READING_OF.get(self.slug, READING), EXERCISES


def lessons(course: Path) -> list[Lesson]:
    """The lessons of a course, in order."""
    return [Lesson(path) for path in sorted(course.glob("[0-9][0-9]-*.md"))]


def pages(course: Path) -> list[Path]:
    """All pages, those in folders too, but not what stands at the old address of a page."""
    paths = sorted(course.rglob("*.md"))
    return [path for path in paths if MOVED not in path.read_text(encoding="utf-8")]


# ---- what pages show of it


def cards(course: Sequence[Lesson]) -> str:
    """The list of lessons, which course.css shows as cards."""
    return "\n".join(
        f"- {lesson.link}\n\n"
        f"    {lesson.front_matter['description']}\n\n"
        f"    {lesson.star}{minutes_shown(*lesson.minutes)}\n"
        for lesson in course
    )


def total(course: Sequence[Lesson]) -> tuple[int, int]:
    """Minutes to read some lessons, and minutes of their exercises."""
    return sum(lesson.minutes[0] for lesson in course), sum(lesson.minutes[1] for lesson in course)


def in_all(course: Sequence[Lesson], which: str = "") -> str:
    """How many lessons there are, and how long they take; all, or those of the core path."""
    if which:
        course = [lesson for lesson in course if lesson.is_core]
    read, done = (round(time / 60) for time in total(course))
    return f"{len(course)} lessons{which}, about {read} hours to read and {done} hours of exercises"


def counted(course: Sequence[Lesson]) -> Iterator[str]:
    """What is verified on all pages, a row for each kind."""
    folder = course[0].path.parent
    files = [page for page in (*pages(folder), folder.parent / "README.md") if page.exists()]
    parsed = (parse(page.read_text(encoding="utf-8")) for page in files)
    for what, count in counts(parsed).items():
        yield f"| {what} | {count:,} |"


def outline(course: Sequence[Lesson]) -> Iterator[str]:
    """A row for each lesson; a star where it belongs to the core path."""
    for lesson in course:
        read, done = lesson.minutes
        needs = ", ".join(map(str, lesson.needs)) or "–"
        yield f"| {lesson.star}{lesson.link} | {read} + {done} | {needs} |"


def named(course: Sequence[Lesson], numbers: Sequence[int]) -> list[Lesson]:
    """The lessons of these numbers, as far as they are written."""
    return [lesson for lesson in course if lesson.number in numbers]


def workshop(course: Sequence[Lesson]) -> Iterator[str]:
    """A row for each sitting of the day."""
    for number, (numbers, chosen) in enumerate(WORKSHOP, 1):
        taught = named(course, numbers)
        read, done = total(taught)[0], minutes_of(course, chosen)
        lessons, to_do = "<br>".join(lesson.link for lesson in taught), ", ".join(chosen)
        yield f"| {number} | {lessons} | {to_do} | {read} + {done} = {read + done} |"


def minutes_of(course: Sequence[Lesson], chosen: Sequence[str]) -> int:
    """Minutes for the exercises of these numbers."""
    return sum(
        round(MAKING if exercise.section == MAKE_IT else exercise_minutes(exercise.title))
        for lesson in course
        for exercise in exercises(lesson.parts)
        if exercise.number in chosen
    )


def weeks(course: Sequence[Lesson]) -> Iterator[str]:
    """A row for each week of the six."""
    for number, numbers in enumerate(WEEKS, 1):
        read, done = total(named(course, numbers))
        lessons = "<br>".join(lesson.link for lesson in named(course, numbers))
        yield f"| {number} | {lessons} | {read} + {done} |"


def answers(course: Sequence[Lesson]) -> Iterator[str]:
    """A row for each exercise below which there are wrong answers."""
    for lesson in course:
        for exercise in exercises(lesson.parts):
            if exercise.wrong:
                section = exercise.section.lower().replace(" ", "-")
                link = f"[{exercise.number}]({lesson.path.name}#{section}) {exercise.title}"
                wrong = "<br>".join(answer.replace("|", "\\|") for answer in exercise.wrong)
                yield f"| {link} | {minutes_of([lesson], [exercise.number])} | {wrong} |"


def symptoms(course: Sequence[Lesson]) -> Iterator[str]:
    """A row for each message and symptom that the clinic knows."""
    return clinic.rows(course[0].path.parent / "clinic")


# The tables that a page may have, by their heads.
TABLES: dict[str, Callable[[Sequence[Lesson]], Iterator[str]]] = {
    "| on the pages | how many |": counted,
    "| lesson | min to read + exercises | needs |": outline,
    "| sitting | lessons | exercises | min to read + exercises |": workshop,
    "| week | lessons | min to read + exercises |": weeks,
    "| exercise | min | what somebody may do |": answers,
    "| You see | It is | Comes as |": symptoms,
}


def with_table(text: str, head: str, rows: Iterator[str]) -> str:
    """The text of a page with these rows in the table that has this head, if it has one."""
    table = re.compile(rf"^({re.escape(head)}\n\|[-|:]+\n)(?:\|.*\n)*", re.MULTILINE)
    return table.sub(lambda match: "\n".join([match[1].rstrip(), *rows, ""]), text)


def site_settings(course: Path) -> dict[str, Any]:
    """What mkdocs.yml, beside the folder of a course, says of its site."""
    text = (course.parent / "mkdocs.yml").read_text(encoding="utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def repository(course: Path) -> str:
    """The ``OWNER/NAME`` on GitHub that ``extra.repository`` in mkdocs.yml says, or nothing."""
    return site_settings(course).get("extra", {}).get("repository") or ""


def address(repository: str) -> str:
    """The address that GitHub gives a site. ``repository`` is OWNER/NAME on GitHub, or nothing."""
    owner, _, name = repository.partition("/")
    host = f"{owner.lower()}.github.io"
    if not name:
        return ""
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def site(repository: str) -> str:
    """Where to read the course."""
    if not repository:
        return "Read it on its site, which `make serve` builds on your machine."
    return f"Read it on its site, <{address(repository)}>."


def updated(page: Path, course: Sequence[Lesson], repository: str) -> str:
    """The text of a page, with what it shows of the course as it is now."""
    text = page.read_text(encoding="utf-8")
    text = LIST.sub(lambda _: "\n" + cards(course), text)
    text = SUM.sub(lambda match: in_all(course, match[1]), text)
    for head, rows in TABLES.items():
        text = with_table(text, head, rows(course))
    text = SITE.sub(site(repository), text)
    text = SITE_URL.sub(f'"{address(repository)}"', text)
    below = next((after for before, after in pairwise(course) if before.path == page), None)
    return NEXT.sub(lambda _: below.link, text) if below else text


def table(course: Sequence[Lesson]) -> Iterator[str]:
    """For each lesson its minutes, those it may have, and how it sounds.

    Its sound: reasons per 1,000 words (5 or more), words per sentence (12 to 20), and how many of
    the sentences are short (22 % or less).
    """
    yield "lesson              reading      exercises    reasons  words  short"
    for lesson in course:
        times = [
            f"{time} of {bound}" if bound < math.inf else str(time)
            for time, bound in zip(lesson.minutes, lesson.bounds, strict=True)
        ]
        mean, short = voice([lesson.parts])
        yield (
            f"{lesson.slug:20}{times[0]:13}{times[1]:13}"
            f"{reasons(lesson.parts):<9.1f}{mean:<7.1f}{short:.0%}"
        )


def main(root: Path) -> None:
    course = lessons(root / "course")
    github = repository(root / "course")
    for page in [root / "README.md", root / "mkdocs.yml", *pages(root / "course")]:
        text = updated(page, course, github)
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page}")
    print(*table(course), sep="\n")


if __name__ == "__main__":
    main(Path())
