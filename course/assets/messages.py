"""What ``explain`` knows, for the box of the clinic's start page; ``make update`` writes it.

A row of the table has the messages that most people meet. Of all others the box needs only to know
to which entry they lead, and what helps.
"""

import json
from pathlib import Path

from companion.findings import KINDS

FILE = Path(__file__).with_name("messages.json")


def messages() -> str:
    """As JSON a list of lists: the code of an entry, a cure, and the messages that it cures.

    A message is a regular expression, whose named groups are written as JavaScript has them. They
    stand in the order in which ``explain`` tries them.
    """
    cured = dict[tuple[str, str], list[str]]()
    for code, kind in KINDS.items():
        for message, _, variant in kind.wordings:
            cure = kind.variants[variant][1] if variant else kind.cure
            cured.setdefault((code, cure), []).append(
                message.replace("(?P<", "(?<")
            )
    lines = [
        json.dumps([*key, found], ensure_ascii=False)
        for key, found in cured.items()
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(messages(), encoding="utf-8")
