"""The table of the clinic's start page: the rows of all its pages, where people search them.

Each page of ``course/clinic/`` begins with the rows of its own entries. ``make update`` gathers
them, in the order in which the start page names the pages.
"""

import re
from collections.abc import Iterator
from pathlib import Path

PAGE = re.compile(r"\]\(([\w-]+\.md)\)")  # of the clinic, as its start page links to it
# What is seen, the title of its entry, the code, and as what it comes.
ROW = re.compile(r"^\| (.*) \| \[(.*)\]\(#([\w-]+)\) \| (.*) \|$", re.MULTILINE)


def rows(folder: Path) -> Iterator[str]:
    """The rows of all pages of the clinic.

    The first row of each code has the code as its id: the clinic was one page once, and who comes
    to an old address, such as ``clinic/#freed``, is sent on from there by course.js.
    """
    named = set[str]()
    for page in dict.fromkeys(PAGE.findall((folder / "index.md").read_text(encoding="utf-8"))):
        for seen, title, code, form in ROW.findall((folder / page).read_text(encoding="utf-8")):
            anchor = "" if code in named else f'<a id="{code}"></a>'
            named.add(code)
            yield f"| {seen} | {anchor}[{title}]({page}#{code}) | {form} |"
