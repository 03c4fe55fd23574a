"""The search of the site: whoever types or pastes an error message gets its entry of the clinic."""

import pytest

from tests.course.test_clinic import CODES, ENTRIES, MESSAGES

HEADINGS = [(ENTRIES[code].partition("\n")[0].replace("`", ""), code) for code in CODES]
# What people type, and the page or the entry that they should find.
TYPED = [
    ("a second time", "clinic/#freed"),
    ("Trying to backward through the graph a second time", "clinic/#freed"),
    ("element 0 of tensors does not require grad", "clinic/#no-graph"),
    ("grad is None", "clinic/#not-a-leaf"),
    ('"grad is None"', "clinic/#not-a-leaf"),
    ("modified by an inplace operation", "clinic/#modified-in-place"),
    ("memory leak", "clinic/#growing-graph"),
    ("weights do not change", "clinic/#leaf-output"),
    ("autograd.Function", "clinic/#custom-gradients"),
    ("AccumulateGrad", "glossary/"),
    ("walk_grad_fn", "reference/"),
    ("Hessian", "17-jacobians/"),
    ("retain_graph", "11-saved-tensors/"),
]
SECOND = {"a second time"}  # finds its entry as the second: "a" begins many words of titles
# Types a text, and gives the first page that is found: its address, then those of its sections.
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
  return [...document.querySelectorAll(".md-search-result__item:first-child a")]
    .map(link => link.href.replace(/[?]h=[^#]*/, ""))
}"""


@pytest.fixture(scope="module")
def search(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("textbox", name="Search").focus()

    def search(text: str) -> list[str]:
        return [link.removeprefix(address) for link in page.evaluate(SEARCH, text)]

    yield search
    page.close()


@pytest.mark.parametrize(("typed", "wanted"), TYPED)
def test_what_people_type_finds_what_they_look_for_first(search, typed, wanted):
    page, *sections = search(typed)
    if "#" not in wanted:
        assert page == wanted
    else:
        assert sections[typed in SECOND] == wanted


@pytest.mark.parametrize(("heading", "code"), HEADINGS)
def test_the_heading_of_an_entry_finds_it_first(search, heading, code):
    assert search(heading.replace("…", "0"))[:2] == ["clinic/", f"clinic/#{code}"]


@pytest.mark.parametrize(("message", "code", "form"), MESSAGES)
def test_a_message_finds_the_page_of_its_entry_first(search, message, code, form):
    page, *sections = search(message.replace("…", "0"))
    assert page == "clinic/"
    assert f"clinic/#{code}" in sections


def test_a_message_in_quotation_marks_is_found_too(search):
    for message, code, _ in MESSAGES[:4]:
        assert f"clinic/#{code}" in search(f'"{message.replace("…", "0")}"')
