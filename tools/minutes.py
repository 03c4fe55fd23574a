"""How long a page takes, computed from its parts: nobody types it.

The model: 200 words of prose a minute, 12 lines of code, 30 lines of output; a Predict 1 minute, a
drawing half a minute, a player 3, a fold half a minute and what is in it. Headings, tables, and the
stems and options of questions are prose. Exercises are counted apart: a worked one 2 minutes, a
last step 6, a broken program 6, any other 10, *Make it* 10; a question 1 and its answer. Hints,
solutions, wrong answers and alternative texts count nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tools.grammar import (
    ANSWER,
    EXERCISE,
    EXERCISED,
    MAKE_IT,
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
)

MAKING = 10  # minutes of Make it


def minutes(parts: Sequence[Part]) -> tuple[int, int]:
    """Minutes to read a page, and minutes for its questions and exercises, each rounded up."""
    reading, to_do = 0.0, 0.0
    section, asked_by_question = "", False
    for part in parts:
        if isinstance(part, Heading) and part.level <= 2:
            section = part.title
            to_do += MAKING if section == MAKE_IT else 0
        is_question = not part.inside and bool(QUESTION.match(part.text))
        if is_question or part.is_predict:  # which may have an answer too
            asked_by_question = is_question
        if section in EXERCISED:
            exercise = EXERCISE.match(part.text) if section != MAKE_IT else None
            to_do += exercise_minutes(exercise[2]) if exercise and not part.inside else 0
        elif asked_by_question and any(fold.title == ANSWER for fold in part.inside_below):
            to_do += content_minutes(part)
        else:
            reading += content_minutes(part)
            to_do += is_question
    return math.ceil(round(reading, 6)), math.ceil(round(to_do, 6))


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
            figure = (3 if part.figure.is_player else 0.5) if part.figure else 0
            return count_lines(part.fence.code) / 12 + output + figure
        case Fence():
            return count_lines(part.code) / 12
        case Opening():
            return 0.5 + count_words(part.title) / 200
        case Callout():
            return count_words(part.text) / 200 + part.is_predict
    return count_words(part.text) / 200


def count_lines(code: str) -> int:
    return sum(1 for line in code.splitlines() if line.strip())


def count_words(text: str) -> int:
    """The words that a reader sees; what Markdown and HTML are written with is none of them."""
    text = re.sub(r"(!\[[^\]]*)?\]\([^)]*\)|<[^>]+>|[#>*`|]", " ", text)
    return sum(1 for word in text.split() if re.search(r"\w", word))


def minutes_shown(reading: int, exercises: int) -> str:
    """How minutes are shown, under the title of a lesson and in lists."""
    return f"{reading} min to read · {exercises} min of exercises"
