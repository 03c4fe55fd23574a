"""tools.minutes on small pages whose minutes are known."""

from tests.cases import each
from tools.grammar import parse
from tools.minutes import minutes

WORDS = "word " * 200 + "\n\n"  # a minute
CODE = "```python\n" + "x = 1\n\n" * 12 + "```\n\n"  # a minute
SHOWN = "\n<!--pytest-codeblocks:expected-output-->\n\n```text\n" + "1\n" * 30 + "```\n\n"
STEM = "**1.** " + "word " * 199 + "\n\n- A. " + "word " * 199 + "\n\n"  # two minutes


def fold(title: str, inside: str) -> str:
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{inside}\n</details>\n\n'


@each(
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
    assert minutes(parse(page)) == (reading, exercises)


def test_minutes_are_not_rounded_up_for_a_rounding_error():
    """A tenth is not exact in binary: 0.1 + 0.1 + 0.1 > 0.3."""
    assert minutes(parse(("word " * 20 + "\n") * 30)) == (3, 0)
