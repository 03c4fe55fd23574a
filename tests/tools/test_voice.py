"""tools.voice on small pages, and on the course itself."""

from pathlib import Path

import pytest

from tests.cases import each
from tools.course import lessons
from tools.grammar import parse
from tools.voice import reasons, sentence_lengths, voice

LESSONS = lessons(Path(__file__).parents[2] / "course")


def test_reasons_are_counted_in_prose_and_per_thousand_words():
    prose = "Because it is so. It waits, so\nthat, since 1.\n\n> **Note.** For example this.\n"
    page = "# Since\n\n" + prose + "\n```python\nbecause = since = 1\n```\n"
    words = 1 + 10 + 4
    assert reasons(parse(page)) == pytest.approx(1000 * 5 / words)
    assert reasons(parse("")) == 0


@each(
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
    assert sentence_lengths(parse(page)) == lengths


def test_the_lessons_have_the_voice_that_they_should_have():
    for lesson in LESSONS:
        assert reasons(lesson.parts) >= 5, lesson.slug
    mean, short = voice(lesson.parts for lesson in LESSONS)
    assert 12 <= mean <= 20 and short <= 0.22
