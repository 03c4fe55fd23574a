"""The list of lessons, their minutes and counts, computed from the pages: nobody types them.

The model: 200 words of prose a minute, 12 lines of code, 30 lines of output; a Predict 1 minute, a
drawing half a minute, a player 3, a fold half a minute and what is in it. Exercises are counted
apart: a worked one 2 minutes, a last step 6, a broken program 6, any other 10, *Make it* 10; a
question 1 and its answer. Hints, solutions, wrong answers and alternative texts count nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
    parse,
)

# Lessons of the first edition, which the bounds do not bind. The list only shrinks.
FIRST_EDITION = (
    "00-first-look",
    "01-nodes",
    "02-walking",
    "04-engine",
    "07-cutting",
    "08-saved-tensors",
    "10-create-graph",
    "12-kinks",
)
READING, EXERCISES = 30, 30  # minutes, at most
LONGER = {"18-kinks": 35, "19-power-series": 35, "20-your-own": 60}


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
        return str(self.front_matter["title"])

    @cached_property
    def minutes(self) -> tuple[int, int]:
        """Minutes to read it, and minutes for its questions and exercises."""
        return minutes(self.parts)


def lessons(course: Path) -> list[Lesson]:
    """The lessons of a course, in order."""
    return [Lesson(path) for path in sorted(course.glob("[0-9][0-9]-*.md"))]


def minutes(parts: Sequence[Part]) -> tuple[int, int]:
    """Minutes to read a page, and minutes for its questions and exercises, each rounded up."""
    reading, exercises = 0.0, 0.0
    section = ""
    for part in parts:
        if isinstance(part, Heading) and part.level <= 2:
            section = part.title
            exercises += 10 if section == "Make it" else 0
        in_answer = any(fold.title == "Answer" for fold in part.inside_below)
        exercise = EXERCISE.match(part.text)
        if section in ("Exercises", "Make it"):
            exercises += exercise_minutes(exercise[2]) if exercise and not part.inside else 0
        elif in_answer:
            exercises += content_minutes(part)
        else:
            reading += content_minutes(part)
            exercises += bool(QUESTION.match(part.text)) and not part.inside
    return math.ceil(reading), math.ceil(exercises)


def exercise_minutes(title: str) -> float:
    """Minutes for an exercise of a title, such as ``"The last step is yours."``."""
    title = title.lower()
    if "worked" in title:
        return 2
    return 6 if "last step" in title or "broken" in title or "fix" in title else 10


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
    text = re.sub(r"\]\([^)]*\)|<[^>]+>|[#>*`|]", " ", text)  # addresses of links, marks
    return sum(1 for word in text.split() if re.search(r"\w", word))
