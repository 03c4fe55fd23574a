"""The table of findings: complete, and in sentences of its own for each kind."""

import re
from html import escape
from pathlib import Path

import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from companion import Cut, diagnose, explain, watch
from companion.findings import KINDS, cut_message, finding
from companion.source import Source
from tests.cases import each

COURSE = Path(__file__).parents[1] / "course"


@each("code", KINDS)
def test_a_kind_is_complete_and_its_cause_and_cure_are_sentences_without_a_full_stop(code):
    kind = KINDS[code]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
    assert kind.severity in {"error", "warning", "info"}
    texts = [text for cause, cure, *_ in kind.variants.values() for text in (cause, cure)]
    for text in (kind.cause, kind.cure, *texts):
        assert len(text.split()) >= 4
        assert text == text.strip() and text[-1] not in ".:;,"
        assert "  " not in text and "\n" not in text
        assert text.count("(") == text.count(")") and text.count("`") % 2 == 0
    assert not kind.cause[0].isupper() or kind.cause.split()[0] in {"AccumulateGrad", "PyTorch"} | {
        "NumPy",
        "Python",
    }


@each("code", KINDS)
def test_the_lesson_that_teaches_a_kind_is_there(code):
    assert (COURSE / KINDS[code].lesson).is_file()


def test_no_two_kinds_have_the_same_cause():
    causes = [kind.cause for kind in KINDS.values()]
    assert len(set(causes)) == len(causes) >= 40


def test_each_variant_of_a_cut_has_its_sentence_its_cause_and_its_cure():
    for code, kind in KINDS.items():
        assert set(kind.cut_variants) <= set(kind.variants)
        for variant, sentence in kind.cut_variants.items():
            told = cut_message(code, "f()", "int64", variant)
            assert told == sentence.format(called="f()") != cut_message(code, "f()", "int64")


def test_every_code_of_a_cut_has_its_sentence_and_no_other_code_has_one():
    codes = set(re.findall(r'``"([\w-]+)"``', Cut.__doc__))
    assert codes == {code for code, kind in KINDS.items() if kind.cut}
    for code in codes:
        assert cut_message(code, "f()", "int64").startswith("f() ")


@each("code", KINDS)
def test_the_fields_of_our_message_for_an_error_are_groups_of_its_pattern(code):
    for pattern, message, _ in KINDS[code].wordings:
        groups = re.compile(pattern).groupindex
        assert set(re.findall(r"\{(\w+)\}", message)) == set(groups)


def test_every_code_that_diagnose_gives_is_a_kind():
    sources = (path.read_text() for path in (COURSE.parent / "companion/diagnosis").glob("*.py"))
    code = r'(?:finding\(|said\(given,)\s*"([\w-]+)"'
    given = {found for source in sources for found in re.findall(code, source)}
    assert len(given) > 30
    assert given <= set(KINDS)


def test_a_finding_takes_the_severity_of_its_code_unless_given_another():
    assert finding("freed", "a Node").severity == "error"
    assert finding("freed", "a Node", severity="info").severity == "info"
    with pytest.raises(KeyError):
        finding("no-such-code", "a Node")


def test_a_finding_reads_as_advice():
    found = finding("hook", "w has 1 hook", where="node 3", node=3, source=Source("a.py", 1, "w"))
    assert str(found).splitlines() == [
        "info hook: w has 1 hook",
        "  where: node 3",
        "  why:   a hook may change the gradient that passes, or change it in place for others as",
        "         well",
        "  cure:  make hooks return a new tensor, and take away the ones you do not need:",
        "         handle.remove()",
        "  read:  13-hooks.md, clinic/#hook",
    ]
    assert "where" not in str(finding("hook", "w has 1 hook"))
    assert (found.node, found.source.line) == (3, 1)
    assert "source" not in repr(found)
    assert finding("hook", "w has 1 hook", source=found.source).where == str(found.source)


@each("code", KINDS)
def test_a_finding_fits_a_terminal_and_loses_no_word(code):
    kind = KINDS[code]
    text = str(finding(code, "a message"))
    assert max(map(len, text.splitlines())) <= 90
    words = " ".join(text.split())
    assert " ".join(kind.cause.split()) in words and " ".join(kind.cure.split()) in words


# ---- what a notebook shows of them


def shown(value: object) -> str:
    """The HTML that a notebook shows of the value of a last line."""
    return DisplayFormatter().format(value)[0]["text/html"]


def test_a_notebook_shows_advice_as_text_in_which_nothing_of_the_user_is_html():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x * (x + len("<b>&")).detach()
    (cut,) = watched.cuts
    diagnosis = diagnose(y, watch=watched)
    texts = {diagnosis: diagnosis, diagnosis[0]: diagnosis[0], watched.cuts: cut}
    for advice, text in texts.items():
        html = shown(advice)
        assert html == f"<pre>{escape(str(text))}</pre>"
        assert "<" not in html.removeprefix("<pre>").removesuffix("</pre>")
    assert "&quot;&lt;b&gt;&amp;&quot;" in shown(watched.cuts)
    assert shown(watched.cuts) == shown(watched.reaching(y))
    explained = explain(RuntimeError("grad can be implicitly created only for scalar outputs"))
    assert "error non-scalar: " in shown(explained) and "  cure:  " in shown(explained)


def test_cuts_are_a_tuple_and_without_one_it_is_said():
    with watch() as watched:
        pass
    assert watched.cuts == () and isinstance(watched.cuts, tuple)
    assert shown(watched.cuts) == "<pre>no cuts</pre>"


def test_the_table_stands_in_the_order_of_the_clinic_under_the_names_of_its_pages():
    table = (COURSE.parent / "companion/findings.py").read_text().partition("KINDS: ")[2]
    shown = dict[str, list[str]]()
    for page, code in re.findall(r"^    (?:# ---- (.*)|\"([a-z-]+)\": Kind\()$", table, re.M):
        if page:
            shown[page] = []
        else:
            shown[list(shown)[-1]].append(code)
    start = (COURSE / "clinic/index.md").read_text()
    assert list(shown) == list(dict.fromkeys(re.findall(r"\]\(([\w-]+\.md)\)", start)))
    for page, codes in shown.items():
        entries = re.findall(r'<a id="([\w-]+)"></a>Code', (COURSE / "clinic" / page).read_text())
        assert codes == [code for code in entries if code in KINDS], page
