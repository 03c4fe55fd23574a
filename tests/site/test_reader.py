"""What a reader can do on a page: answer, come back, look up a word, print, use the keyboard alone.

On a page made here, which has what no lesson need have, in the clothes of a built one.
"""

import re

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from markdown import markdown
from playwright.sync_api import expect

from tests.conftest import made_for
from tests.pages import SHIFTS
from tools.publish import POLICY, published

CONFIGS = {"pymdownx.highlight": {"pygments_lang_class": True}, "toc": {"permalink": True}}
EXTENSIONS = [*CONFIGS, "attr_list", "md_in_html", "pymdownx.superfences", "tools.pages"]
PATH = "99-made-here/"
TEXT = """
# Made here

<div class="lesson-bar" markdown="0">
<label><input type="checkbox" data-everything> Show everything</label>
<button type="button" data-forget>Forget my answers</button>
</div>

> **Predict.** How many Nodes?
>
> - A. one
> - B. two

<details markdown="1">
<summary>Answer</summary>

**B.** One for each operation.
**A** forgets the leaf.

</details>

```python
print(1)
```

<!--pytest-codeblocks:expected-output-->

```text
LONG
```

It is an [edge](glossary.md#edge).

<span class="drawing-box" tabindex="0">A drawing</span>

<figure class="player" data-key="k1" aria-label="Steps" tabindex="-1"><button>Next</button></figure>

> **Predict.** Is it a leaf?
>
> - A. yes
> - B. no

<details markdown="1">
<summary>Answer</summary>

**A.** It is.
**B** takes it for a root.

</details>

> **Predict.** What is printed?

```python
print(12)
```

<!--pytest-codeblocks:expected-output-->

```text
12
```

<p id="deep">Twelve.</p>

## Questions

**1.** How many of `these`?

- A. none
- B. one
- C. two

<details markdown="1">
<summary>Answer</summary>

**B.** One is enough.
**A** is too few.
**C** counts twice.

```python
assert 1
```

</details>

A [leaf](glossary.md#leaf) here, and a [player](glossary.md#player).

## Exercises

**9.1 Yours.** Do it.

<!--pytest.mark.xfail(raises=NotImplementedError)-->

```python
raise NotImplementedError("your turn")
```

<!--pytest-codeblocks:expected-output-->

```text
NotImplementedError: your turn
```

<details markdown="1">
<summary>Hint 1</summary>

Think.

</details>

<details markdown="1">
<summary>Two wrong answers</summary>

<!--pytest.mark.xfail(raises=AssertionError)-->

```python
assert 0, "this adds where it should multiply"
```

<!--pytest-codeblocks:expected-output-->

```text
AssertionError: this adds where it should multiply
```

</details>

## Make it

Make something.

## In short

A Node is one operation.

<details markdown="1">
<summary>Proof</summary>

```python
assert 1
```

</details>
""".replace("LONG", " ".join(["a long output"] * 20))


@pytest.fixture(scope="module", autouse=True)
def made(site) -> None:
    """The page, with the text of a lesson replaced, as it is published."""
    built = (site / "01-nodes/index.html").read_text(encoding="utf-8")
    article = markdown(TEXT, extensions=EXTENSIONS, extension_configs=CONFIGS)
    built = re.sub(rf"{re.escape(POLICY)}.*?>\n?", "", built, flags=re.S)
    page = re.sub(
        r"(<article.*?>).*(</article>)", lambda m: m[1] + article + m[2], built, flags=re.S
    )
    file = made_for(site, PATH)
    file.parent.mkdir(parents=True)
    file.write_text(published(page, None, "", ""), encoding="utf-8")


@pytest.fixture
def open_page(open_window, new_page, address):
    """Opens the page, in a window of its own where that is to be prepared."""
    own = []

    def open_page(fragment="", prepare=None, **options):
        page = new_page() if prepare else open_window(**options)
        if prepare:
            own.append(page)
            prepare(page)
        page.goto(f"{address}{PATH}{fragment}")
        return page

    yield open_page
    for page in own:
        page.close()


def test_a_window_that_is_opened_again_is_as_new(open_page):
    """Else what one test did could let another one pass."""
    kept = "[localStorage.mine, sessionStorage.mine, document.body.dataset.mine].join()"
    light = "matchMedia('screen and (prefers-color-scheme: light)').matches"
    page = open_page(color_scheme="dark", viewport={"width": 320, "height": 800})
    page.evaluate("localStorage.mine = sessionStorage.mine = document.body.dataset.mine = 1")
    page.emulate_media(media="print")
    page = open_page("#deep")
    assert page.evaluate(f"[{kept}, {light}, innerWidth]") == [",,", True, 1280]


def question(page):
    return page.locator("[data-part=question]")


def predict(page, number=1):
    return page.locator(f"#predict-{number}")


# ---- answering


def test_a_predict_answers_the_choice_and_shows_what_it_covered(open_page):
    page = open_page()
    expect(predict(page).locator(".covered")).to_be_hidden()
    expect(predict(page).locator("details")).to_be_hidden()
    predict(page).get_by_label("A. one").check()
    expect(page.locator("[data-verdict=wrong]")).to_have_text("✗ Wrong. A forgets the leaf.")
    expect(predict(page).locator(".covered")).to_be_visible()
    expect(predict(page).get_by_role("button", name="I have an answer")).to_be_hidden()
    expect(predict(page).locator("details")).to_be_visible()
    predict(page).get_by_label("B. two").check()
    expect(page.locator("[data-verdict]")).to_have_text("✓ Right. One for each operation.")


def test_a_predict_with_nothing_below_it_answers_the_choice_alone(open_page):
    page = open_page()
    expect(predict(page, 2).locator("[data-reveal]")).to_have_count(0)
    predict(page, 2).get_by_label("A. yes").check()
    expect(predict(page, 2).locator("[data-verdict=right]")).to_have_text("✓ Right. It is.")


def test_the_focus_goes_to_the_player_that_is_shown_but_not_while_the_arrow_keys_choose(open_page):
    page = open_page()
    predict(page).get_by_role("button", name="I have an answer").click()
    expect(page.locator("figure.player")).to_be_focused()
    page = open_page()
    predict(page).get_by_label("A. one").check()
    expect(page.locator("figure.player")).to_be_focused()
    page = open_page()
    predict(page).get_by_label("A. one").focus()
    page.keyboard.press("ArrowDown")
    expect(predict(page).locator(".covered")).to_be_visible()
    expect(predict(page).get_by_label("B. two")).to_be_focused()


def test_the_focus_goes_on_to_what_a_button_showed(open_page):
    page = open_page()
    page.locator("#predict-3 [data-reveal]").press("Enter")
    expect(page.locator("#predict-3 .output")).to_be_focused()


def test_a_question_is_answered_by_the_keyboard_and_says_what_it_is_to_a_screen_reader(open_page):
    page = open_page()
    group = page.get_by_role("radiogroup", name="1. How many of these?")
    assert group.get_by_role("radio").count() == 3
    status = question(page).get_by_role("status")
    expect(status).to_have_text("")
    group.get_by_label("A. none").focus()
    page.keyboard.press("Space")
    expect(status).to_have_text("✗ Wrong. A is too few. Try again.")
    page.keyboard.press("ArrowDown")
    expect(status).to_have_text("✓ Right. One is enough.")
    expect(group.get_by_label("B. one")).to_be_focused()
    expect(question(page).locator("details")).to_have_attribute("open", "")
    expect(page.locator("[data-verdict=wrong]")).to_have_count(0)


def test_a_wrong_answer_to_an_exercise_is_an_error_and_a_stub_is_none(open_page):
    page = open_page()
    page.get_by_text("Two wrong answers").click()
    titles = page.locator("[data-part=exercise] .output pre").evaluate_all(
        "all => all.map(e => getComputedStyle(e, '::before').content)"
    )
    assert titles == ['"To do"', '"Error"']
    signs = "all => all.map(e => getComputedStyle(e, '::before').maskImage.slice(0, 8))"
    assert page.locator("h2.make, h2.short").evaluate_all(signs) == ['url("dat'] * 2


# ---- coming back


def test_answers_stay_on_the_device_until_they_are_forgotten(open_page):
    page = open_page()
    predict(page).get_by_label("A. one").check()
    page.locator("#predict-3 [data-reveal]").click()
    question(page).get_by_label("B. one").check()
    page.reload()
    expect(predict(page).get_by_label("A. one")).to_be_checked()
    expect(predict(page).locator("[data-verdict=wrong]")).to_be_visible()
    expect(predict(page, 2).locator("[data-verdict]")).to_have_count(0)
    expect(page.locator("#deep")).to_be_visible()
    expect(question(page).locator("[data-verdict=right]")).to_be_visible()
    assert page.evaluate("JSON.parse(localStorage['inside-autograd']).done") == ["99-made-here"]
    page.get_by_role("button", name="Forget my answers").click()
    expect(page.locator("#deep")).to_be_hidden()
    expect(page.locator("[data-verdict]")).to_have_count(0)
    assert page.evaluate("localStorage['inside-autograd']") == "{}"


ANSWER_ALL = """() => {
  for (const button of document.querySelectorAll("[data-reveal]")) button.click()
  for (const radio of document.querySelectorAll(".options [value=B]")) radio.click()
}"""


def test_nothing_moves_on_a_page_to_which_a_reader_comes_back(browser, address):
    """On a long one, of which much is drawn before its end is there."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(SHIFTS)
    page.goto(f"{address}15-create-graph/")
    page.evaluate(ANSWER_ALL)
    page.evaluate("scrollTo(0, 9000)")
    page.reload()
    expect(page.locator("#predict-1 .covered")).to_be_visible()
    assert page.evaluate("scrollY") == 9000 and page.evaluate("shifts") == []
    page.goto("about:blank")
    page.goto(f"{address}15-create-graph/#question-2")
    expect(page.locator("#question-2 [data-verdict]")).to_be_in_viewport()
    assert page.evaluate("shifts") == []
    page.close()


def test_the_menu_ticks_what_is_done_and_marks_what_was_read(open_page):
    kept = '{"done": ["02-walking"], "read": ["02-walking", "05-engine"]}'
    page = open_page(
        prepare=lambda page: page.add_init_script(f"""
        localStorage['inside-autograd'] ??= '{kept}'
    """)
    )
    menu = page.locator(".md-nav--primary")
    assert menu.get_by_role("link", name="questions done").count() == 1
    assert menu.get_by_role("link", name="read", exact=False).locator(".tick").count() == 1
    page.locator("[data-part=in-short]").scroll_into_view_if_needed()
    page.wait_for_function("() => localStorage['inside-autograd'].includes('99-made-here')")


def test_everything_is_shown_to_who_asks_for_it_and_that_is_remembered(open_page):
    page = open_page()
    page.get_by_label("Show everything").check()
    for _ in range(2):
        expect(page.locator("#deep")).to_be_visible()
        expect(predict(page).locator("details")).to_be_visible()
        expect(page.locator("[data-reveal]").first).to_be_hidden()
        page.reload()
    page.get_by_label("Show everything").uncheck()
    expect(page.locator("#deep")).to_be_hidden()


@pytest.mark.parametrize("fragment", ["#play-k1-0-2", "#deep"])
def test_an_address_that_leads_into_what_is_covered_shows_it(open_page, fragment):
    page = open_page(fragment)
    target = page.locator("#deep" if fragment == "#deep" else "figure.player")
    expect(target).to_be_in_viewport()
    assert page.locator("[data-part=predict].shown").count() == 1


def test_a_page_works_where_nothing_can_be_kept(open_page):
    def forbid(page):
        page.add_init_script(
            "for (const name of ['getItem', 'setItem']) Storage.prototype[name] = () => "
            "{ throw new Error('no storage') }"
        )

    page = open_page(prepare=forbid)
    question(page).get_by_label("A. none").check()
    expect(page.locator("[data-verdict=wrong]")).to_be_visible()


# ---- where scripts do not run, and on paper


def test_nothing_stays_covered_where_the_script_cannot_be_had(open_page):
    page = open_page(prepare=lambda page: page.route("**/course.js", lambda to: to.abort()))
    expect(page.locator("#deep")).to_be_visible()
    expect(page.locator("[data-reveal]").first).to_be_hidden()


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_dark_is_dark_without_javascript_and_on_paper_all_is_light(open_page):
    page = open_page(color_scheme="dark")
    dark = page.evaluate(BACKGROUND)
    plain = open_page(color_scheme="dark", java_script_enabled=False)
    assert plain.evaluate(BACKGROUND) == dark != "rgb(255, 255, 255)"
    for window in (page, plain):
        window.emulate_media(media="print")
        assert window.evaluate(BACKGROUND) == "rgb(255, 255, 255)"


FOLDS = """all => all.map(fold => [
  fold.closest("[data-part]")?.id, fold.previousElementSibling?.tagName, fold.innerText
])"""


def test_on_paper_answers_and_hints_stand_at_the_end_and_afterwards_at_their_places(open_page):
    page = open_page()
    folds = page.locator("details")
    folds.evaluate_all("all => all.forEach(fold => fold.open = true)")  # as the theme does
    before = folds.evaluate_all(FOLDS)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    end = page.locator("article > :last-child")
    titles = ["Answers", "Question 1.", "Exercise 9.1 Yours."]
    assert end.locator("h2, h3").all_inner_texts() == titles
    assert end.get_by_text("One is enough.").count() == 1
    assert question(page).get_by_text("One is enough.").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert folds.evaluate_all(FOLDS) == before
    expect(page.get_by_role("heading", name="Answers")).to_have_count(0)


def test_a_handout_asks_and_answers_nothing(open_page):
    page = open_page("?handout")
    for media in ("screen", "print"):
        page.emulate_media(media=media)
        asked = page.locator("[data-part=predict], [data-part=question], [data-part=exercise]")
        assert all(part.is_visible() for part in asked.all())
        for hidden in (".covered", ".answer", ".helps", "#deep", ".lesson-bar", "figure.player"):
            assert page.locator(hidden).count()
            assert not any(part.is_visible() for part in page.locator(hidden).all())


# ---- words of the glossary


def test_a_word_tells_its_meaning_on_hover_on_focus_and_not_after_escape(open_page):
    page = open_page()
    word, tip = question_word(page), page.get_by_role("tooltip")
    word.hover()
    meaning = "A tensor whose grad_fn is None: no recorded operation made it."
    expect(tip).to_have_text(meaning)
    expect(word).to_have_accessible_description(meaning)
    tip.hover()
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    word.focus()
    expect(tip).to_be_visible()
    box, at = tip.bounding_box(), word.bounding_box()
    assert abs(box["y"] - at["y"] - at["height"]) < 8
    page.evaluate(AXE_SCRIPT)
    violations = page.evaluate("axe.run('article').then(found => found.violations.map(v => v.id))")
    assert violations == []
    page.keyboard.press("Tab")
    expect(tip).to_contain_text("One recorded backward pass")
    page.mouse.click(5, 400)
    expect(tip).to_be_hidden()


def question_word(page):
    return page.locator("a[data-tip]").get_by_text("leaf", exact=True)


def test_a_first_tap_on_a_word_tells_and_a_second_one_leads_on(open_page):
    page = open_page(has_touch=True, viewport={"width": 320, "height": 800})
    question_word(page).tap()
    expect(page.get_by_role("tooltip")).to_be_visible()
    box = page.get_by_role("tooltip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 320
    question_word(page).tap()
    page.wait_for_url("**/glossary*#leaf")


# ---- code, and the way by the keyboard


def test_no_box_stops_the_keyboard_unless_it_scrolls_and_that_is_seen(open_page):
    page = open_page()
    page.get_by_label("Show everything").check()
    boxes = page.locator(
        "pre > code[tabindex], .drawing-box[tabindex], .headerlink:not([tabindex='-1'])"
    )
    assert boxes.evaluate_all("all => all.filter(e => e.checkVisibility()).length") == 0
    page.set_viewport_size({"width": 320, "height": 800})
    code = page.locator("[data-part=exercise] > .language-python code")
    expect(code).to_have_attribute("tabindex", "0")
    assert "gradient" in code.evaluate("e => getComputedStyle(e).backgroundImage")
    output = page.locator("#predict-1 .output code")
    assert output.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_the_link_of_a_heading_takes_no_room_where_no_pointer_can_be_on_it(open_page):
    phone = {"is_mobile": True, "has_touch": True, "viewport": {"width": 390, "height": 800}}
    for options, has_room in (({}, True), (phone, False)):
        links = open_page(**options).locator(".headerlink")
        seen = links.evaluate_all("all => all.map(link => link.checkVisibility())")
        assert set(seen) == {has_room}


def test_the_button_that_copies_comes_with_the_pointer_and_with_the_focus(open_page):
    page = open_page()
    code = page.locator("#predict-3 .language-python")
    code.scroll_into_view_if_needed()
    button = code.locator(".md-code__button")
    nav = code.locator(".md-code__nav")
    expect(nav).to_have_css("opacity", "0")
    code.hover()
    expect(nav).to_have_css("opacity", "1")
    page.mouse.move(0, 0)
    expect(nav).to_have_css("opacity", "0")
    button.focus()
    expect(nav).to_have_css("opacity", "1")
