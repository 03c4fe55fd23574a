"""What is on the pages, counted, and the exercises with the wrong answers that people give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.grammar import (
    EXERCISE,
    EXERCISED,
    QUESTION,
    WRONG_ANSWERS,
    Heading,
    Part,
    Snippet,
    Text,
)


@dataclass(frozen=True)
class Exercise:
    """An exercise of a lesson.

    Attributes:
        number: as it is written, such as ``"4.2"``.
        title: the bold words behind it, without the full stop.
        section: the section it stands in.
        wrong: for each wrong answer below it, what is wrong.
    """

    number: str
    title: str
    section: str
    wrong: tuple[str, ...]


def exercises(parts: Sequence[Part]) -> list[Exercise]:
    """The exercises of a lesson, in order."""
    in_order: list[Exercise] = []
    section = ""
    for n, part in enumerate(parts):
        if isinstance(part, Heading) and part.level == 2:
            section = part.title
        exercise = None if part.inside else EXERCISE.match(part.text)
        if exercise and section in EXERCISED:
            wrong = tuple(wrong_answers(parts[n + 1 :]))
            in_order.append(Exercise(exercise[1], exercise[2].rstrip("."), section, wrong))
    return in_order


def wrong_answers(below: Iterable[Part]) -> list[str]:
    """What is said above each snippet of the wrong answers, up to the next exercise or heading."""
    answers, text = list[str](), ""
    for part in below:
        if isinstance(part, Heading) or not part.inside and EXERCISE.match(part.text):
            break
        if not is_wrong_answer(part):
            continue
        if isinstance(part, Snippet):
            answers.append(" ".join(text.split()).removesuffix(":"))
            text = ""
        elif isinstance(part, Text):
            text += part.text
    return answers


def is_wrong_answer(part: Part) -> bool:
    return any(fold.title == WRONG_ANSWERS for fold in part.inside)


def counts(pages: Iterable[Sequence[Part]]) -> dict[str, int]:
    """How much of what is verified stands on some pages."""
    parts = [part for page in pages for part in page]
    snippets = [part for part in parts if isinstance(part, Snippet)]
    figures = [snippet.figure for snippet in snippets if snippet.figure]
    outside = [part for part in parts if not part.inside]
    return {
        "snippets that run": len(snippets),
        "outputs": sum(snippet.output is not None for snippet in snippets),
        "errors on purpose, among the outputs": sum(bool(snippet.raises) for snippet in snippets),
        "drawings and plots": sum(not figure.is_player for figure in figures),
        "players": sum(figure.is_player for figure in figures),
        "Predicts": sum(part.is_predict for part in parts),
        "questions": sum(bool(QUESTION.match(part.text)) for part in outside),
        "exercises": sum(bool(EXERCISE.match(part.text)) for part in outside),
        "wrong answers": sum(is_wrong_answer(snippet) for snippet in snippets),
    }
