"""The form of each Predict: asked where it is seen, and answered. Questions: test_course.py."""

import re
from collections import Counter
from pathlib import Path

from tests.cases import each
from tools.grammar import KEY, OPTION, Callout, Heading, Opening, Part, Snippet, parse

LESSONS = sorted((Path(__file__).parents[2] / "course").glob("[0-9][0-9]-*.md"))


def predicts(lesson: Path) -> list[tuple[Part, list[Part]]]:
    """Each Predict, and the parts below it up to the next heading or callout."""
    parts = parse(lesson.read_text(encoding="utf-8"))
    found = []
    for n, part in enumerate(parts):
        if isinstance(part, Callout) and part.title == "Predict":
            below = parts[n + 1 :]
            ends = (k for k, p in enumerate(below) if isinstance(p, Heading | Callout))
            found.append((part, below[: next(ends, None)]))
    return found


def options(predict: Part) -> dict[str, str]:
    """Its options by their letters."""
    lines = predict.text.splitlines()
    return {found[1]: line for line in lines if (found := OPTION.match(line))}


def key(below: list[Part]) -> str:
    """The letter with which the fold below its options begins."""
    answer = next(part.text for part in below if part.inside)
    found = KEY.match(answer)
    assert found, answer
    return found[1]


def covers(below: list[Part]) -> bool:
    """Whether its snippet did something, or something is said before the next one."""
    snippets = [n for n, part in enumerate(below) if isinstance(part, Snippet) and not part.inside]
    if not snippets:
        return False
    said = below[snippets[0] + 1 : snippets[1] if len(snippets) > 1 else None]
    return bool(below[snippets[0]].shown or "".join(part.text for part in said).strip())


@each("lesson", LESSONS)
def test_no_predict_stands_in_a_fold_and_each_covers_something_or_has_options(lesson):
    for predict, below in predicts(lesson):
        assert not predict.inside, predict
        assert covers(below) or options(predict), predict


@each("lesson", LESSONS)
def test_the_options_of_a_predict_have_a_key_and_a_sentence_each(lesson):
    for predict, below in predicts(lesson):
        letters = list(options(predict))
        if not letters:
            continue
        assert letters == ["A", "B", "C", "D"][: len(letters)] and len(letters) >= 2, predict
        n = next(n for n, part in enumerate(below) if part.text.strip())
        assert isinstance(below[n], Opening) and below[n].title == "Answer", predict
        answer = [part.text for part in below[n + 1 :] if below[n] in part.inside]
        assert KEY.match(answer[0]), predict
        said = [text[2] for text in answer if text.startswith("**")]
        assert sorted(said) == letters, predict


@each("lesson", LESSONS)
def test_a_reason_does_not_tell_the_right_option_from_all_others(lesson):
    # Where it alone has a reason, or alone has none, it is found without thinking.
    for predict, below in predicts(lesson):
        reasons = {a: bool(re.search("because|since", o)) for a, o in options(predict).items()}
        if reasons:
            right = reasons.pop(key(below))
            assert right in reasons.values(), predict


def test_no_letter_is_right_too_often():
    found = [pair for lesson in LESSONS for pair in predicts(lesson)]
    keys = Counter(key(below) for predict, below in found if options(predict))
    assert max(keys.values()) <= 0.45 * keys.total(), keys
