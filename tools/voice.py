"""How pages sound: how often they give a reason, and how long their sentences are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tools.grammar import Callout, Heading, Part, Text
from tools.minutes import count_words

REASON = re.compile(r"\b(because|since|so\s+that|for\s+example)\b", re.IGNORECASE)
NO_SENTENCE = re.compile(r"[-|]|\*\*New words|\*\*Where PyTorch|Next:|\[Download|!\[")
LABEL = re.compile(r"\*\*[^*]+[.:]\*\* ")  # "**B.** ", "**Predict.** ", "**4.2 Yours.** "
END_OF_SENTENCE = re.compile(r"(?<=[.?!])[*_)]*\s+")
SHORT = 6  # words of a short sentence, at most


def reasons(parts: Sequence[Part]) -> float:
    """How often a page gives a reason, per 1,000 words: because, since, so that, for example."""
    prose = "".join(part.text for part in parts if isinstance(part, Text | Callout | Heading))
    return 1000 * len(REASON.findall(prose)) / max(1, count_words(prose))


def sentence_lengths(parts: Sequence[Part]) -> list[int]:
    """How many words each sentence of the running text has; a table and a list have none."""
    text = "".join(
        re.sub(r"^> ?", "", part.text, flags=re.M) if isinstance(part, Callout) else part.text
        for part in parts
        if isinstance(part, Text | Callout)
    )
    paragraphs = re.split(r"\n\s*\n|\n(?=\*\*[A-D]\*\* )|\n(?=[-|] )", text)
    lengths = [
        count_words(sentence)
        for paragraph in paragraphs
        if not NO_SENTENCE.match(paragraph)
        for sentence in END_OF_SENTENCE.split(LABEL.sub("", paragraph))
    ]
    return [length for length in lengths if length]


def voice(pages: Iterable[Sequence[Part]]) -> tuple[float, float]:
    """Words per sentence of some pages, and the part of their sentences that are short."""
    lengths = [length for parts in pages for length in sentence_lengths(parts)]
    return sum(lengths) / len(lengths), sum(n <= SHORT for n in lengths) / len(lengths)
