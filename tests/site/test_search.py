"""The search of the site: whoever types or pastes an error message gets its entry of the clinic."""

import gzip
import re

import pytest

from tests.course.test_clinic import CODES, ENTRIES, MESSAGES, PAGE_OF
from tests.slices import every

HEADINGS = [(ENTRIES[code].partition("\n")[0].replace("`", ""), code) for code in CODES]


def page_of(code: str) -> str:
    """The address of the page that has the entry of a code."""
    return f"clinic/{PAGE_OF[code].removesuffix('.md')}/"


def entry(code: str) -> str:
    return f"{page_of(code)}#{code}"


# What people type, and the page or the entry that they should find.
TYPED = [
    ("a second time", entry("freed")),
    ("Trying to backward through the graph a second time", entry("freed")),
    ("element 0 of tensors does not require grad", entry("no-graph")),
    ("grad is None", entry("not-a-leaf")),
    ('"grad is None"', entry("not-a-leaf")),
    ("modified by an inplace operation", entry("modified-in-place")),
    ("memory leak", entry("growing-graph")),
    ("weights do not change", entry("leaf-output")),
    ("autograd.Function", entry("custom-gradients")),
    ("AccumulateGrad", "glossary/"),
    ("walk_grad_fn", "reference/"),
    ("Hessian", "glossary/"),
    ("retain_graph", "11-saved-tensors/"),
]
# Types a text, and gives the pages that are found: of each its address, then those of its sections.
SEARCH = """async (text) => {
  const box = document.querySelector(".md-search__input")
  const type = async (text, shown) => {
    box.value = text
    box.dispatchEvent(new KeyboardEvent("keyup"))
    const told = () => document.querySelector(".md-search-result__meta").textContent
    for (let tries = 0; !shown.test(told()); tries++) {
      if (tries > 1000) throw Error(`${text}: ${told()}`)
      await new Promise(done => setTimeout(done, 10))
    }
  }
  await type("qqqq", /No matching/)
  await type(text, /[0-9]+ matching/)
  return [...document.querySelectorAll(".md-search-result__item")].map(
    item => [...item.querySelectorAll("a")].map(link => link.href.replace(/[?]h=[^#]*/, ""))
  )
}"""


@pytest.fixture(scope="module")
def search(browser, searched):
    page = browser.new_page()
    page.goto(searched)
    page.get_by_role("textbox", name="Search").focus()

    def search(text: str) -> list[list[str]]:
        """A message that is no heading has a place of its own in its entry: `freed-2`."""
        found = page.evaluate(SEARCH, text)
        return [
            [re.sub(r"-\d+$", "", link.removeprefix(searched)) for link in links] for links in found
        ]

    yield search
    page.close()


@pytest.mark.parametrize(("typed", "wanted"), every(3, TYPED))
def test_what_people_type_finds_what_they_look_for_first(search, typed, wanted):
    page, *sections = search(typed)[0]
    assert wanted == (sections[0] if "#" in wanted else page)


@pytest.mark.parametrize(("heading", "code"), every(12, HEADINGS))
def test_the_heading_of_an_entry_finds_it_first(search, heading, code):
    assert search(heading.replace("…", "0"))[0][:2] == [page_of(code), entry(code)]


@pytest.mark.parametrize(("message", "code", "form"), every(12, MESSAGES))
def test_a_message_finds_its_entry_first(search, message, code, form):
    assert search(message.replace("…", "0"))[0][:2] == [page_of(code), entry(code)]


def test_a_message_in_quotation_marks_is_found_first_too(search):
    for message, code, _ in MESSAGES[:4]:
        assert search(f'"{message.replace("…", "0")}"')[0][:2] == [page_of(code), entry(code)]


def test_the_index_that_a_search_fetches_is_small(site):
    index = (site / "search/search_index.json").read_bytes()
    assert len(gzip.compress(index)) < 260_000
