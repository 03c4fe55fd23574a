"""The clinic: every kind of finding has its entry, and every message leads to the right one."""

import builtins
import json
import re
import symtable
from pathlib import Path

import pytest

import companion
from companion import explain
from companion.findings import KINDS
from tests.cases import each
from tools.clinic import ROW

COURSE = Path(__file__).parents[2] / "course"
START, *PAGES = [  # the start page, and a page for each kind
    COURSE / "clinic/index.md",
    *(page for page in sorted((COURSE / "clinic").glob("*.md")) if page.name != "index.md"),
]


def entries(page: Path) -> dict[str, str]:
    """The entries of a page.

    A heading says what is seen. Below it stand its id and its code, which are the same; what no
    tool finds has a name in place of a code.
    """
    text = page.read_text(encoding="utf-8")
    # A comment in a snippet is no heading, so it stands one place further in.
    text = re.sub(r"^(`{3,}).*?^\1", lambda m: m[0].replace("\n#", "\n #"), text, flags=re.M | re.S)
    codes = re.findall(r'^## .*\n\n<a id="([\w-]+)"></a>(?:Code|Name): `\1`\.', text, re.M)
    return dict(zip(codes, re.split(r"^## ", text, flags=re.M)[1:], strict=True))


PAGE_OF = {code: page.name for page in PAGES for code in entries(page)}
ENTRIES = {code: entry for page in PAGES for code, entry in entries(page).items()}
CODES = list(ENTRIES)
# Of each row what is seen, the code it is linked to, as what it comes.
ROWS = [
    (seen, code, form)
    for page in PAGES
    for seen, _, code, form in ROW.findall(page.read_text(encoding="utf-8"))
]
# A message is a cell with nothing but code in it. "…" stands for what differs each time.
MESSAGES = [(seen[1:-1], code, form) for seen, code, form in ROWS if re.fullmatch("`[^`]+`", seen)]
# What helps comes first. What shows the cause stands in a fold at the end.
SEEN_AT_ONCE = ["You see", "Do this", "Not this", "Why"]
FOLDED = ["The graph", "The tools say", "Without the tools"]
PARTS = SEEN_AT_ONCE + FOLDED
ERROR = re.compile(
    r"^<!--pytest\.mark\.xfail\([^`]*^```python\n(?:(?!^```).)*^```\n\n"
    r"<!--pytest-codeblocks:expected-output-->\n\n```text\n(.*?)^```$",
    re.M | re.S,
)
each_entry = each("code", CODES)


def parts(code: str) -> dict[str, str]:
    """What an entry says behind each of its bold words, snippets included."""
    _, *found = re.split(rf"^\*\*({'|'.join(PARTS)})[.:]?\*\*", ENTRIES[code], flags=re.M)
    return dict(zip(found[::2], found[1::2], strict=True))


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def shown_first(code: str) -> str:
    """The program that an entry shows, and its cure."""
    return "".join(snippets(parts(code)["You see"] + parts(code)["Do this"]))


def lacking(program: str) -> set[str]:
    """The names that a program reads and neither makes nor imports."""
    top = symtable.symtable(program, "program", "exec")
    scopes, read = [top], set()
    for scope in scopes:
        scopes += scope.get_children()
        read |= {
            symbol.get_name()
            for symbol in scope.get_symbols()
            if symbol.is_referenced() and (scope is top or symbol.is_global())
        }
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return read - made - set(dir(builtins))


def quotes(phrase: str, text: str) -> bool:
    """Whether the parts of the phrase stand in the text in their order, as course.js has it."""
    pattern = ".*".join(map(re.escape, phrase.split("…")))
    return re.search(pattern, " ".join(text.split()), re.I) is not None


def test_there_is_an_entry_for_each_kind_of_finding_and_a_row_for_each_entry():
    entries_of_all = [code for page in PAGES for code in entries(page)]
    assert len(entries_of_all) == len(ENTRIES)
    with_a_code = [code for code in ENTRIES if f"</a>Code: `{code}`." in ENTRIES[code]]
    assert {*with_a_code} == {*KINDS}
    assert {code for _, code, _ in ROWS} == set(ENTRIES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_a_table_whose_lines_are_the_rows_of_its_entries(page):
    top = page.read_text(encoding="utf-8").partition("\n## ")[0]
    head, line, *rows = re.findall(r"^\|.*", top, re.M)
    assert (head, line) == ("| On this page | It is | Comes as |", "|---|---|---|")
    assert all(map(ROW.fullmatch, rows))
    assert {ROW.fullmatch(row)[3] for row in rows} == set(entries(page))


def test_the_start_page_has_all_rows_and_each_code_once_as_an_id():
    """That they are the rows of the pages as they are now is tested with all tables."""
    text = START.read_text(encoding="utf-8")
    table = text.partition("| You see | It is | Comes as |\n|---|---|---|\n")[2].partition("\n\n")[
        0
    ]
    assert len(table.splitlines()) == len(ROWS)
    anchors = re.findall(r'<a id="(.*?)"></a>\[.*?\]\((.*?)#\1\)', text)
    assert sorted(anchors) == sorted(PAGE_OF.items())


def test_no_two_rows_show_the_same():
    assert len({seen for seen, _, _ in ROWS}) == len(ROWS)


@each_entry
def test_an_entry_has_its_parts_in_order(code):
    found = re.findall(rf"^\*\*({'|'.join(PARTS)})[.:]?\*\*", ENTRIES[code], re.M)
    assert found == [part for part in PARTS if part in found]
    assert set(PARTS) - set(found) <= {"The graph", "Without the tools"}


@each_entry
def test_of_an_entry_the_graph_and_the_tools_stand_in_its_one_fold_at_the_end(code):
    at_once, fold, folded = ENTRIES[code].partition('\n<details markdown="1">\n<summary>')
    assert fold and folded.startswith("Look deeper: ") and folded.count("</details>") == 1
    assert folded.rstrip().endswith("</details>")
    assert not any(f"**{part}" in at_once for part in FOLDED)
    assert not any(f"**{part}" in folded for part in SEEN_AT_ONCE)


@each_entry
def test_what_an_entry_shows_first_needs_no_tools(code):
    """The program that somebody has, and its cure, run where there is no companion."""
    assert not lacking(shown_first(code)) & set(companion.__all__)


@each_entry
def test_what_an_entry_shows_first_needs_no_other_entry(code):
    """Who comes from the search pastes the imports of the page, and what the entry begins with."""
    imports = snippets((COURSE / "clinic" / PAGE_OF[code]).read_text(encoding="utf-8"))[0]
    assert not lacking(imports + shown_first(code))


@each_entry
def test_an_entry_draws_its_graph_or_says_why_there_is_none_to_see(code):
    shown = parts(code)["You see"] + "The graph" + parts(code).get("The graph", "")
    if drawn := re.findall(r"\]\(\.\./figures/(.*?)\)$", shown, re.M):
        assert f"clinic-{code}.svg" in drawn
        return
    words = re.sub(r"^(`{3,}).*?^\1", "", shown, flags=re.M | re.S)
    sentences = [s for s in re.split(r"(?<=[.:])\s", words) if re.search("graph|draw|show", s)]
    assert any(re.search(r"\b(no|not|nothing|none|cannot)\b", s, re.I) for s in sentences), words


@each_entry
def test_an_entry_runs_what_is_seen_the_cure_and_what_only_seems_to_be_one(code):
    for part in ("You see", "Do this", "Not this"):
        assert "```python\n" in parts(code)[part], part


@each(("message", "code", "form"), MESSAGES)
def test_a_message_of_the_table_is_explained_under_the_code_of_its_row(message, code, form):
    assert form in {"error", "warning"}
    found = [explain(RuntimeError(message.replace("…", filled))) for filled in ("0", "0th")]
    assert code in [finding.code for finding in found if finding]


@each(("message", "code", "form"), MESSAGES)
def test_a_message_of_the_table_leads_to_no_other_entry(message, code, form):
    assert {other for phrase, other, _ in MESSAGES if quotes(phrase, message)} == {code}


@each(("message", "code", "form"), MESSAGES)
def test_a_message_of_the_table_stands_at_the_top_of_its_entry(message, code, form):
    """Where the search of the site finds it."""
    top = ENTRIES[code].partition("\n**You see")[0]
    assert quotes(message, top.replace("element 0", "element …"))


@each_entry
def test_an_error_that_an_entry_raises_is_in_the_table(code):
    """One that it shows as its symptom leads to this entry, or to one that links to this."""
    for part, text in parts(code).items():
        for told in ERROR.findall(text):
            found = {other for phrase, other, _ in MESSAGES if quotes(phrase, told)}
            assert found, told
            sent_on = any(f"#{code})" in ENTRIES[other] for other in found)
            assert part != "You see" or code in found or sent_on, told


def test_the_box_has_every_message_that_explain_knows_with_its_cure_and_in_its_order():
    file = COURSE / "assets/messages.json"  # which course/assets/messages.py writes
    known = [
        (code, cure, message.replace("(?<", "(?P<"))
        for code, cure, messages in json.loads(file.read_text(encoding="utf-8"))
        for message in messages
    ]
    assert known == [
        (code, kind.variants[variant][1] if variant else kind.cure, message)
        for code, kind in KINDS.items()
        for message, _, variant in kind.wordings
    ], "make update writes the file"


def test_the_lesson_that_a_finding_names_exists():
    for code, kind in KINDS.items():
        assert (COURSE / kind.lesson).is_file(), code
