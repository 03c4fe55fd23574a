"""The built site: whole, self-contained, the same from Zensical, and usable by everybody.

A real browser opens every page in tests/site/test_lessons.py.
"""

import re
import textwrap
import traceback
from html.parser import HTMLParser
from itertools import product

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT

from tests.cases import each
from tests.conftest import ROOT
from tests.course.test_clinic import PAGE_OF
from tests.pages import DRAWING, EVERYTHING, PHONE, VIOLATIONS, drawings
from tests.slices import every

LESSONS = sorted((ROOT / "course").glob("[0-9][0-9]-*.md"))


@each("lesson", LESSONS)
def test_each_figure_of_a_lesson_is_drawn_in_its_page(site, lesson):
    """Those of players included, which may have two."""
    figures = re.findall(r"^!?\[.*\]\((figures/.*)\)$", lesson.read_text(), re.MULTILINE)
    drawn = [
        len(DRAWING.findall((lesson.parent / figure).read_text())) if ".html" in figure else 1
        for figure in figures
    ]
    assert len(drawings(site, lesson)) == sum(drawn)


@pytest.mark.parametrize("lesson", every(6, LESSONS), ids=lambda lesson: lesson.stem)
def test_zensical_draws_the_same(site, zensical_site, lesson):
    assert drawings(zensical_site, lesson) == drawings(site, lesson)


class Loads(HTMLParser):
    """Collects the addresses of what a browser loads with a page, which links are not."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        for name, value in attrs:
            loads = name in {"src", "srcset", "poster", "data", "xlink:href"} or (
                name == "href" and tag != "a" and names.get("rel") != "canonical"
            )
            if value and loads:
                self.addresses += value.split(",") if name == "srcset" else [value]


def test_no_page_loads_anything_from_another_host(site):
    foreign = []
    for file in sorted(site.rglob("*")):
        if file.suffix == ".html":
            page = Loads()
            page.feed(file.read_text())
            foreign += [(file.name, a) for a in page.addresses if re.match(r"\s*(\w+:)?//", a)]
        if file.suffix in {".html", ".css", ".svg"}:
            loads = re.findall(r"(?:url\(|@import)\s*[\"']?(?:\w+:)?//[^)\"';]*", file.read_text())
            foreign += [(file.name, load) for load in loads]
    assert foreign == []


def test_each_link_to_the_folder_of_the_course_leads_to_it(site):
    links = [
        (page.parent / link).resolve()
        for page in site.rglob("*.html")
        for link in re.findall(r'href="([^"]*\.zip)"', page.read_text())
    ]
    assert len(links) >= 3 and {*links} == {site.resolve() / "inside-autograd.zip"}
    assert links[0].is_file()


def test_nothing_is_left_as_markup(site):
    """A mistyped callout stays ``///``; docstrings are Markdown, with doctests in ``Examples:``."""
    for file in sorted(site.rglob("*.html")):
        text = re.sub(r"<(pre|script)\b.*?</\1>", "", file.read_text(), flags=re.DOTALL)
        assert not re.search(r"///|:\w+:<code>|<blockquote>\s*<blockquote>", text), file


def test_the_switch_of_colours_is_used_by_the_keyboard(address, window):
    page, _ = window
    page.goto(f"{address}404.html")
    for scheme, title in (("slate", "Switch to light mode"), ("default", "Switch to dark mode")):
        page.locator(f"body[data-md-color-scheme={scheme}]").wait_for()
        page.get_by_title(title).press("Enter")
    page.locator("body[data-md-color-scheme=slate]").wait_for()


FORMULAS = r"""<!doctype html>
<div class="md-content">
  <p>With <span class="arithmatex">\(x^2\)</span>:</p>
  <div class="arithmatex">\[\sum_i x_i\]</div>
</div>
<script src="../assets/course.js"></script>"""


def test_katex_is_loaded_where_there_are_formulas_and_nowhere_else(address, new_page):
    loaded: list[str] = []
    page = new_page()
    page.on("request", lambda request: loaded.append(request.url.removeprefix(address)))
    page.goto(f"{address}404.html")
    assert [file for file in loaded if "katex" in file] == []
    page.route(
        f"{address}formulas/", lambda to: to.fulfill(content_type="text/html", body=FORMULAS)
    )
    page.goto(f"{address}formulas/")
    assert page.locator("p .katex").count() == 1
    assert page.locator("div[tabindex] > .katex-display").count() == 1
    assert page.locator(".katex-error").count() == 0
    assert {"assets/katex/katex.min.js", "assets/katex/katex.min.css"} <= set(loaded)
    page.close()


def test_a_drawing_that_is_too_wide_scrolls_in_its_box_by_the_keyboard(address, new_page):
    page = new_page(viewport={"width": 200, "height": 800})
    page.goto(f"{address}{LESSONS[0].stem}/")
    page.locator(".drawing-box").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.scrollLeft > 0")
    assert page.locator(".drawing-box:focus").count() == 1
    page.close()


def test_a_drawing_that_is_too_wide_begins_where_its_root_is(address, new_page):
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{address}real-models/")
    box = page.locator(".drawing-box[tabindex]:visible:has(.drawing)").first
    root = box.locator(".root").bounding_box()
    assert box.evaluate("box => box.scrollLeft") > 0
    outer = box.bounding_box()
    assert outer["x"] <= root["x"] and root["x"] + root["width"] <= outer["x"] + outer["width"]
    page.close()


# ---- the clinic, whose table is searched by a pasted error or by words


@pytest.fixture(scope="module")
def opened_clinic(new_page, address):
    """The start page, opened once."""
    page = new_page(viewport=PHONE)
    page.goto(f"{address}clinic/")
    yield page
    page.close()


@pytest.fixture
def clinic(opened_clinic):
    """The page as it was opened."""
    yield opened_clinic
    opened_clinic.emulate_media(media="screen", color_scheme="light", reduced_motion="null")
    opened_clinic.get_by_label("Paste an error").fill("")
    opened_clinic.evaluate("location.hash = ''")


def found(clinic) -> list[str]:
    """The entries that the rows in sight lead to."""
    rows = clinic.locator(".finder tbody tr:visible a[href]")
    return rows.evaluate_all("all => all.map(link => link.hash.slice(1))")


def test_a_pasted_traceback_finds_its_entry_however_it_was_wrapped(clinic):
    y = torch.ones(2, requires_grad=True).exp()
    y += 1
    with pytest.raises(RuntimeError) as error:
        y.sum().backward()
    text = "".join(traceback.format_exception(error.value))
    for pasted in (text, textwrap.fill(text, 40), text.upper()):
        clinic.get_by_label("Paste an error").fill(pasted)
        assert found(clinic) == ["modified-in-place"]


TITLES_FOUND = """pasted => pasted.map(text => {
  const box = document.querySelector(".finder textarea")
  box.value = text
  box.dispatchEvent(new Event("input"))
  const rows = [...document.querySelectorAll(".finder tbody tr")]
  return rows.filter(row => row.checkVisibility()).map(row => row.cells[1].innerText)
})"""


def test_each_message_of_the_table_finds_its_own_entry_and_no_other(clinic):
    rows = clinic.locator(".finder tbody tr").evaluate_all(
        "all => all.map(({cells: [seen, is]}) => [seen.innerHTML, seen.innerText, is.innerText])"
    )
    messages = [row[1:] for row in rows if re.fullmatch("<code>[^<]*</code>", row[0])]
    assert len(messages) > 30
    above = "  File 'a.py', line 3\n    loss.backward()\nRuntimeError: "
    errors = [f"{above}{message} and so on".replace("…", "0") for message, _ in messages]
    titles = clinic.evaluate(TITLES_FOUND, errors)
    for (message, title), found in zip(messages, titles, strict=True):
        assert set(found) == {title}, message


def press_until(page, key: str, selector: str) -> None:
    """Press a key until an element has the focus; the box around the table may be a stop."""
    for _ in range(3):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{key} does not lead to {selector}")


def test_the_keyboard_alone_searches_the_table_and_the_number_of_rows_is_announced(clinic):
    every = found(clinic)
    said = clinic.locator(".finder [role=status]")
    clinic.locator(".finder a[href]").first.focus()
    press_until(clinic, "Shift+Tab", "textarea")
    clinic.keyboard.type("xyzzy")
    assert found(clinic) == []
    assert said.inner_text().startswith("No row fits. Paste the last line")
    clinic.keyboard.press("Control+A")
    clinic.keyboard.press("Delete")
    assert found(clinic) == every
    assert said.inner_text() == f"{len(every)} of {len(every)} rows"
    clinic.keyboard.type("torch.where,  SQRT")
    assert found(clinic) == ["nan-risk"]
    assert said.inner_text() == f"1 of {len(every)} rows, the nearest first"
    press_until(clinic, "Tab", ".finder tbody a")
    clinic.keyboard.press("Enter")
    clinic.wait_for_url("**/clinic/nan/#nan-risk")
    clinic.go_back()


def test_an_address_of_the_one_page_that_the_clinic_was_leads_on_to_the_entry(address, new_page):
    """As findings name it, too; and back does not lead into it again."""
    page = new_page()
    elsewhere = f"{address}assets/logo.svg"
    page.goto(elsewhere)
    for code in every(4, ("freed", "no-graph", "nan-risk", "growing-graph")):
        page.evaluate("address => location = address", f"{address}clinic/#{code}")
        entry = f"**/clinic/{PAGE_OF[code].removesuffix('.md')}/#{code}"
        page.wait_for_url(entry, wait_until="domcontentloaded")
        assert page.locator(f"h2#{code}").count() == 1
        page.go_back()
        assert page.url == elsewhere
    page.goto(f"{address}clinic/#all-codes")
    page.evaluate("location.hash = 'hook'")
    page.wait_for_url("**/clinic/wrong-step/#hook")
    page.close()


def test_a_search_is_accessible_with_and_without_rows(clinic):
    clinic.evaluate(AXE_SCRIPT)
    finder = clinic.locator(".finder")
    finder.evaluate("""finder => {
      window.wholePage = [...finder.parentElement.childNodes]  // of which axe would look at all
      finder.parentElement.replaceChildren(finder)
    }""")
    for scheme, text in every(3, product(("light", "dark"), ("grad none", "xyzzy"))):
        clinic.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        clinic.get_by_label("Paste an error").fill(text)
        assert clinic.evaluate(VIOLATIONS, [[".finder"], EVERYTHING]) == []
    finder.evaluate("finder => finder.parentElement.replaceChildren(...wholePage)")


def test_on_a_phone_the_table_of_the_clinic_has_all_its_columns_in_sight(clinic):
    boxes = clinic.locator(".md-typeset__scrollwrap:has(table)")
    boxes.first.wait_for()
    assert boxes.first.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_without_javascript_and_on_paper_the_table_of_the_clinic_is_whole(clinic, address, plain):
    every = found(clinic)
    plain.emulate_media(media="screen")
    plain.goto(f"{address}clinic/")
    assert found(plain) == every
    assert plain.get_by_label("Paste an error").count() == 0
    clinic.emulate_media(media="print")
    assert found(clinic) == every
    assert not clinic.get_by_label("Paste an error").is_visible()


def test_the_search_of_the_site_and_zensical_know_the_table_of_the_clinic(site, zensical_site):
    index = (site / "search/search_index.json").read_text()
    assert "does not require grad and does not have a grad_fn" in index
    table = re.compile(r'<div class="finder">\s*<table>.*?</table>\s*</div>', re.DOTALL)
    pages = [(folder / "clinic/index.html").read_text() for folder in (site, zensical_site)]
    tables = [" ".join(table.search(page)[0].split()) for page in pages]
    assert tables[0] == tables[1]
