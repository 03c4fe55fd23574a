"""The list of lessons, their minutes and counts, computed from the pages: nobody types them.

``python -m tools.course`` writes them where a page shows them, and prints a table of all lessons.

The model: 200 words of prose a minute, 12 lines of code, 30 lines of output; a Predict 1 minute, a
drawing half a minute, a player 3, a fold half a minute and what is in it. Headings, tables, and the
stems and options of questions are prose. Exercises are counted apart: a worked one 2 minutes, a
last step 6, a broken program 6, any other 10, *Make it* 10; a question 1 and its answer. Hints,
solutions, wrong answers and alternative texts count nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import yaml

from tools.grammar import (
    EXERCISE,
    QUESTION,
    Callout,
    Closing,
    Download,
    Fence,
    FrontMatter,
    Heading,
    Mark,
    Opening,
    Part,
    Snippet,
    Text,
    parse,
)

# Lessons of the first edition, which the bounds do not bind. The list only shrinks.
FIRST_EDITION = ()
READING, EXERCISES = 30, 30  # minutes, at most
OTHERS = {  # than READING
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

REASON = re.compile(r"\b(because|since|so\s+that|for\s+example)\b", re.IGNORECASE)
NO_SENTENCE = re.compile(r"[-|]|\*\*New words|\*\*Where PyTorch|Next:|\[Download|!\[")
LABEL = re.compile(r"\*\*[^*]+[.:]\*\* ")  # "**B.** ", "**Predict.** ", "**4.2 Yours.** "
SHORT = 6  # words of a short sentence, at most
# What is written into pages: a list of the lessons, how long all of them take, where they can be
# read, which one comes next. The settings of the site have its address too.
LIST = re.compile(r'(?<=<div class="cards" markdown="1">\n).*?(?=\n</div>)', re.DOTALL)
SUM = re.compile(r"\d+ lessons, about \d+ hours to read and \d+ hours of exercises")
SITE = re.compile(r"^Read it on its site.*$", re.MULTILINE)
SITE_URL = re.compile(r'(?<=^site_url: )".*?"', re.MULTILINE)
NEXT = re.compile(r"(?<=\nNext: )\[.*?\]\(.*?\)")


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

    @cached_property
    def minutes(self) -> tuple[int, int]:
        """Minutes to read it, and minutes for its questions and exercises."""
        return minutes(self.parts)

    @property
    def bounds(self) -> tuple[float, float]:
        """The minutes that it may have at most."""
        if self.slug in (*FIRST_EDITION, PROJECT):
            return math.inf, math.inf
        return OTHERS.get(self.slug, READING), EXERCISES


def lessons(course: Path) -> list[Lesson]:
    """The lessons of a course, in order."""
    return [Lesson(path) for path in sorted(course.glob("[0-9][0-9]-*.md"))]


# ---- minutes


def minutes(parts: Sequence[Part]) -> tuple[int, int]:
    """Minutes to read a page, and minutes for its questions and exercises, each rounded up."""
    reading, exercises = 0.0, 0.0
    section, asked_by_question = "", False
    for part in parts:
        if isinstance(part, Heading) and part.level <= 2:
            section = part.title
            exercises += 10 if section == "Make it" else 0
        is_question = not part.inside and bool(QUESTION.match(part.text))
        is_predict = isinstance(part, Callout) and part.title == "Predict"
        if is_question or is_predict:  # which may have an answer too
            asked_by_question = is_question
        if section in ("Exercises", "Make it"):
            exercise = EXERCISE.match(part.text) if section == "Exercises" else None
            exercises += exercise_minutes(exercise[2]) if exercise and not part.inside else 0
        elif asked_by_question and any(fold.title == "Answer" for fold in part.inside_below):
            exercises += content_minutes(part)
        else:
            reading += content_minutes(part)
            exercises += is_question
    return math.ceil(round(reading, 6)), math.ceil(round(exercises, 6))


def exercise_minutes(title: str) -> float:
    """Minutes for an exercise of a title, such as ``"The last step is yours."``."""
    if re.search(r"\bworked\b", title, re.IGNORECASE):
        return 2
    return 6 if re.search(r"\b(last step|broken|fix)\b", title, re.IGNORECASE) else 10


def content_minutes(part: Part) -> float:
    """Minutes to read one part."""
    match part:
        case FrontMatter() | Mark() | Download() | Closing():
            return 0
        case Snippet():
            output = count_lines(part.output.code) / 30 if part.output else 0
            drawn = figure_minutes(part.figure.file) if part.figure else 0
            return count_lines(part.fence.code) / 12 + output + drawn
        case Fence():
            return count_lines(part.code) / 12
        case Opening():
            return 0.5 + count_words(part.title) / 200
        case Callout():
            return count_words(part.text) / 200 + (part.title == "Predict")
    return count_words(part.text) / 200


def figure_minutes(file: str) -> float:
    return 3 if file.endswith(".html") else 0.5


def count_lines(code: str) -> int:
    return sum(1 for line in code.splitlines() if line.strip())


def count_words(text: str) -> int:
    """The words that a reader sees; what Markdown and HTML are written with is none of them."""
    text = re.sub(r"(!\[[^\]]*)?\]\([^)]*\)|<[^>]+>|[#>*`|]", " ", text)
    return sum(1 for word in text.split() if re.search(r"\w", word))


def minutes_shown(reading: int, exercises: int) -> str:
    """How minutes are shown, under the title of a lesson and in lists."""
    return f"{reading} min to read · {exercises} min of exercises"


def reasons(parts: Sequence[Part]) -> float:
    """How often a page gives a reason, per 1,000 words: because, since, so that, for example."""
    prose = "".join(part.text for part in parts if isinstance(part, Text | Callout | Heading))
    return 1000 * len(REASON.findall(prose)) / max(1, count_words(prose))


def sentences(parts: Sequence[Part]) -> list[int]:
    """How many words each sentence of the running text has; a table and a list have none."""
    text = "".join(
        re.sub(r"^> ?", "", part.text, flags=re.M) if isinstance(part, Callout) else part.text
        for part in parts
        if isinstance(part, Text | Callout)
    )
    paragraphs = re.split(r"\n\s*\n|\n(?=\*\*[A-D]\*\* )|\n(?=[-|] )", text)
    found = [
        re.split(r"(?<=[.?!])[*_)]*\s+", LABEL.sub("", paragraph.strip()))
        for paragraph in paragraphs
        if not NO_SENTENCE.match(paragraph.strip())
    ]
    lengths = [count_words(sentence) for paragraph in found for sentence in paragraph]
    return [length for length in lengths if length]


def voice(course: Sequence[Lesson]) -> tuple[float, float]:
    """Words per sentence of some lessons, and the part of their sentences that are short."""
    lengths = [length for lesson in course for length in sentences(lesson.parts)]
    return sum(lengths) / len(lengths), sum(n <= SHORT for n in lengths) / len(lengths)


# ---- what pages show of it


def cards(course: Sequence[Lesson]) -> str:
    """The list of lessons, which course.css shows as cards."""
    return "\n".join(
        f"- {lesson.link}\n\n"
        f"    {lesson.front_matter['description']}\n\n"
        f"    {minutes_shown(*lesson.minutes)}\n"
        for lesson in course
    )


def in_all(course: Sequence[Lesson]) -> str:
    """How many lessons there are, and how long they take."""
    reading, exercises = (
        round(sum(times) / 60) for times in zip(*(lesson.minutes for lesson in course), strict=True)
    )
    return (
        f"{len(course)} lessons, about {reading} hours to read and {exercises} hours of exercises"
    )


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
    text = SITE.sub(site(repository), SUM.sub(in_all(course), text))
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
        mean, short = voice([lesson])
        yield (
            f"{lesson.slug:20}{times[0]:13}{times[1]:13}"
            f"{reasons(lesson.parts):<9.1f}{mean:<7.1f}{short:.0%}"
        )


def main(root: Path) -> None:
    course = lessons(root / "course")
    settings = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))
    for page in [root / "README.md", root / "mkdocs.yml", *sorted((root / "course").glob("*.md"))]:
        text = updated(page, course, settings["extra"]["repository"])
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
            print(f"wrote {page}")
    print(*table(course), sep="\n")


if __name__ == "__main__":
    main(Path())
