"""Each page in a browser: what a lesson covers, what its questions answer, and how it looks.

Each is opened once with scripts, at the widths of a desk and of a phone; all that is looked at is
looked at there.
"""

from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tests.pages import DESK, PHONE, drawings, faults_of_the_opened, telling
from tests.slices import DEEP, every
from tools.course import pages
from tools.grammar import EXERCISE, QUESTION, Callout, Text, parse
from tools.publish import built

COURSE = Path(__file__).parents[2] / "course"
LESSONS = sorted(COURSE.glob("[0-9][0-9]-*.md"))
OTHERS = [page.relative_to(COURSE) for page in pages(COURSE) if page not in LESSONS]
PAGES = [f"{built(page).parent}/".removeprefix("./") for page in OTHERS] + ["404.html"]
PARTS = ("predict", "question", "exercise", "in-short")
COUNT = "kinds => kinds.map(kind => document.querySelectorAll(`[data-part=${kind}]`).length)"

COVERED = """() => {  // before anything was chosen
  const wrong = []
  for (const predict of document.querySelectorAll("[data-part=predict]")) {
    const covered = predict.querySelector(".covered")
    const button = predict.querySelector("button[data-reveal]")
    if (!covered && !predict.querySelector("[type=radio]")) wrong.push(`${predict.id} asks nothing`)
    if (covered?.checkVisibility()) wrong.push(`${predict.id} shows its answer`)
    if (covered && !button?.checkVisibility()) wrong.push(`${predict.id} has no button`)
  }
  return wrong
}"""
SHOWN = """() => {  // on paper, and without JavaScript
  const shown = (selector, is) => [...document.querySelectorAll(selector)]
    .filter(e => e.checkVisibility() !== is)
    .map(e => `${is ? "hidden" : "shown"}: ${e.outerHTML.slice(0, 60)}`)
  return [...shown(".covered, .options li", true), ...shown("[data-reveal], .options input", false)]
}"""
REVEALED = """() => {
  const wrong = []
  for (const predict of document.querySelectorAll("[data-part=predict]:has(.covered)")) {
    const button = predict.querySelector("button[data-reveal]")
    button.focus()
    button.click()
    const covered = predict.querySelector(".covered")
    const target = covered.querySelector("figure.player") ?? covered
    if (!covered.checkVisibility()) wrong.push(`${predict.id} stays covered`)
    if (button.checkVisibility()) wrong.push(`${predict.id} keeps its button`)
    if (!target.contains(document.activeElement)) wrong.push(`${predict.id}: the focus is lost`)
  }
  return wrong
}"""
ANSWERED = """() => {
  const words = element => element.textContent.replace(/\\s+/g, " ").trim()
  const wrong = []
  for (const question of document.querySelectorAll("[data-part=question]")) {
    const say = text => wrong.push(`${question.id}: ${text}`)
    const {key} = question.dataset
    const answer = question.querySelector("details.answer")
    const status = question.querySelector("[role=status]")
    const verdicts = () => [...question.querySelectorAll("[data-verdict]")]
      .filter(e => e.checkVisibility()).map(e => e.dataset.verdict).join()
    const radios = [...question.querySelectorAll("input[type=radio]")]
    if (radios.length < 3) say("fewer than three options")
    if (!words(question.querySelector("[role=radiogroup]").previousElementSibling)) say("no stem")
    // The wrong options first, then the right one.
    for (const radio of radios.sort((a, b) => (a.value === key) - (b.value === key))) {
      const isRight = radio.value === key
      radio.click()
      if (verdicts() !== (isRight ? "right" : "wrong")) say(`${radio.value} is ${verdicts()}`)
      const sentence = words(answer.querySelector(`[data-option=${radio.value}]`))
      const said = words(status)
      const expected = isRight
        ? `✓ Right. ${sentence.slice(2).trim()}`
        : `✗ Wrong. ${sentence} Try again.`
      if (said !== expected) say(`${said} is not ${expected}`)
      if (answer.open !== isRight) say(`${radio.value}: the answer is ${answer.open}`)
      if (radio.disabled || !radio.checked) say(`${radio.value} cannot be chosen again`)
    }
    if (!answer.querySelector(".language-python")) say("nothing proves it")
  }
  return wrong
}"""
FORM = """() => {  // of exercises and of In short
  const wrong = []
  for (const exercise of document.querySelectorAll("[data-part=exercise]")) {
    const say = text => wrong.push(`${exercise.id}: ${text}`)
    if (parseFloat(getComputedStyle(exercise).borderTopWidth) < 3) say("no frame")
    const stub = exercise.querySelector(":scope > .output")
    const title = stub && getComputedStyle(stub.querySelector("pre"), "::before").content
    if (stub?.textContent.startsWith("NotImplementedError") && title !== '"To do"') say(title)
    const chips = [...exercise.querySelectorAll(".helps > details:not([open])")]
    const tops = new Set(chips.map(chip => chip.offsetTop))
    if (tops.size > 1) say("its hints are not in a row")
    if (!exercise.textContent.includes("Worked.") && !chips.length) say("no help")
  }
  const short = document.querySelector("[data-part=in-short]")
  const proofs = [...short.querySelectorAll(":scope > details.proof")]
  for (const proof of proofs) {
    const [beside, own] = [proof.previousElementSibling, proof].map(e => e.getBoundingClientRect())
    if (own.top >= beside.bottom) wrong.push("a proof is not beside its sentence")
  }
  if (proofs.length < 3) wrong.push("fewer than three sentences")
  return wrong
}"""
TICKED = """() => document.querySelectorAll(
  ".md-nav__link--active [aria-label='questions done']"
).length === 1"""
CUT = """() => {
  const folds = [...document.querySelectorAll("details:not([open])")]
  for (const fold of folds) fold.open = true
  const wrong = []
  for (const code of document.querySelectorAll("pre > code")) {
    if (code.scrollWidth > code.clientWidth) wrong.push(`cut: ${code.textContent}`)
    const copy = code.parentElement.querySelector(".md-code__nav")?.getBoundingClientRect()
    if (copy?.height && copy.bottom > code.getBoundingClientRect().top) {
      wrong.push(`the button that copies is over ${code.textContent}`)
    }
  }
  for (const fold of folds) fold.open = false
  return wrong
}"""
# Of what looks alike axe looks at one: the first parts of each kind, one of them covered, one
# answered wrong. Colours of pieces of code are looked at in tests/test_site.py.
FEW = """() => {
  const content = document.querySelector(".md-content article")
  const parts = kind => [...content.querySelectorAll(`[data-part=${kind}]`)]
  const [predict, covered] = parts("predict").filter(e => !e.querySelector(".player, .drawing"))
  const [wrong, right] = parts("question")
  const exercise = parts("exercise").find(e => e.querySelector(".helps"))
  covered?.classList.remove("shown")
  covered?.querySelector("[data-reveal]")?.removeAttribute("hidden")
  wrong?.querySelector(`[type=radio]:not([value=${wrong.dataset.key}])`).click()
  exercise.querySelector("details").open = true
  const title = content.querySelector("h1")
  const bar = content.querySelector(".lesson-bar")
  const kept = [title, bar, predict, covered, wrong, right, exercise, ...parts("in-short")]
  content.replaceChildren(...kept.filter(Boolean))
  for (const code of content.querySelectorAll("pre > code")) code.textContent = code.textContent
}"""
VIOLATIONS = """async ([scheme, primary]) => {
  Object.assign(document.body.dataset, {mdColorScheme: scheme, mdColorPrimary: primary})
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame)  // to settle
  const rules = {"target-size": {enabled: true}}
  const {violations} = await axe.run([".md-content"], {resultTypes: ["violations"], rules})
  return violations.flatMap(({id, nodes}) => nodes.map(
    ({html, failureSummary}) => `${scheme} ${innerWidth}: ${id}: ${html} ${failureSummary}`
  ))
}"""


@pytest.fixture(scope="module")
def opened(site) -> set[str]:
    """The addresses of the pages that are opened: all in ``make deep``, else the telling ones."""
    paths = [*(f"{lesson.stem}/" for lesson in LESSONS), *PAGES]
    files = {path: site / path / ("" if ".html" in path else "index.html") for path in paths}
    return {*paths} if DEEP else telling({path: file.read_text() for path, file in files.items()})


@pytest.fixture
def visit(address, window, opened):
    """Open a page, and give what goes wrong in it."""

    def visit(path: str):
        if path not in opened:
            pytest.skip("made of the same parts as those that are opened; make deep opens it")
        page, wrong = window
        wrong.clear()
        page.set_viewport_size(DESK)
        page.goto(address + path)
        return page, wrong

    return visit


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_asks_before_it_shows(visit, opened, texts, lesson):
    page, wrong = visit(f"{lesson.stem}/")
    first = next(lesson for lesson in LESSONS if f"{lesson.stem}/" in opened)
    if page.evaluate(COUNT, PARTS) != counted(lesson):
        wrong.append(f"{page.evaluate(COUNT, PARTS)} parts in place of {counted(lesson)}")
    wrong += [f"the page moves by {shift}" for shift in page.evaluate("shifts")]
    wrong += page.evaluate(COVERED)
    page.emulate_media(media="print")
    wrong += page.evaluate(SHOWN)
    page.emulate_media(media="screen")
    wrong += page.evaluate(REVEALED) + page.evaluate(CUT) + page.evaluate(FORM)
    wrong += page.evaluate(ANSWERED)
    if page.evaluate(TICKED) != bool(counted(lesson)[1]):
        wrong.append("the menu does not tick the lesson")
    wrong += faults_of_the_opened(page, texts, around=lesson == first)
    assert wrong == []


def test_what_is_still_covered_and_what_was_answered_wrong_is_accessible(address, window):
    """On one lesson, since it is alike on all."""
    page, wrong = window
    wrong.clear()
    page.goto(f"{address}{LESSONS[0].stem}/")
    page.evaluate(REVEALED)
    page.evaluate(ANSWERED)
    page.evaluate(FEW)
    page.evaluate(AXE_SCRIPT)
    # Each size and each scheme once: no colour depends on the size.
    for size, scheme in ((DESK, ["slate", "black"]), (PHONE, ["default", "white"])):
        page.set_viewport_size(size)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{size['width']} wide: the page scrolls sideways")
        wrong += page.evaluate(VIOLATIONS, scheme)
    page.set_viewport_size(DESK)
    assert wrong == []


def counted(lesson: Path) -> list[int]:
    """How many parts of each kind the Markdown has."""
    parts = parse(lesson.read_text(encoding="utf-8"))
    texts = [part.text for part in parts if isinstance(part, Text)]
    predicts = sum(isinstance(part, Callout) and part.title == "Predict" for part in parts)
    kinds = [sum(bool(kind.match(text)) for text in texts) for kind in (QUESTION, EXERCISE)]
    return [predicts, *kinds, 1]


# ---- the other pages, in the same window, with the same texts

# What a wide page has more is in its header and sidebars, and those are alike on all other pages.
AROUND = {"", "reference/", "404.html"}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible_and_self_contained(visit, texts, path):
    page, wrong = visit(path)
    wrong += faults_of_the_opened(page, texts, around=path in AROUND)
    assert wrong == []


# ---- without JavaScript


@pytest.fixture(scope="module", params=every(6, LESSONS), ids=lambda lesson: lesson.stem)
def plain_lesson(request, address, plain):
    """A lesson in it, opened once for the tests that look at it."""
    plain.goto(f"{address}{request.param.stem}/")
    return request.param


ON_PAPER = """() => {
  const all = selector => [...document.querySelectorAll(selector)]
  const cut = e => e.scrollWidth > e.clientWidth + 1
  const wrong = [
    ...all("details > *").filter(e => !e.checkVisibility()),
    ...all("pre > code, .drawing-box").filter(cut),
    ...all(".md-header, .md-sidebar, .md-footer, .md-button").filter(e => e.checkVisibility())
  ]
  return wrong.map(e => e.outerHTML)
}"""
WHOLE = """() => {
  const shown = selector => [...document.querySelectorAll(selector)].map(e => e.checkVisibility())
  const [title] = shown("h1")
  document.querySelector("summary").click()
  const [inside] = shown("details > :not(summary)")
  for (const fold of document.querySelectorAll("details")) fold.open = true
  return [title, inside, shown("svg.drawing")]
}"""


def test_on_paper_folds_are_open_and_nothing_is_cut_off(plain, plain_lesson):
    """Without JavaScript, with which the theme opens the folds itself."""
    plain.emulate_media(media="print")
    assert plain.evaluate(ON_PAPER) == []


def test_without_javascript_a_lesson_covers_nothing_and_asks_nothing(plain, plain_lesson):
    plain.emulate_media(media="screen")
    assert plain.evaluate(SHOWN) == []


def test_without_javascript_a_lesson_is_whole(site, plain, plain_lesson):
    drawn = len(drawings(site, plain_lesson))
    assert plain.evaluate(WHOLE) == [True, True, [True] * drawn]


# ---- which pages are opened


def test_the_pages_that_are_opened_have_together_all_kinds_of_elements_and_formulas():
    def page(text: str) -> str:
        return f"<nav><b>x</b></nav><article><p>Text</p>{text}</article><footer><i>x</i></footer>"

    pages = {
        "plain": page("<br>"),
        "alike": page('<p id="x">Other</p>'),
        "a class": page('<p class="a">x</p>'),
        "it and another": page('<p class="a">x</p><p class="a b">y</p>'),
        "a piece of code": page('<code><span class="n">x</span></code>'),
        "a coloured one": page('<code><span class="n">x</span><span class="k">y</span></code>'),
        "a formula": page('<span class="arithmatex">x</span>'),
        "another": page('<span class="arithmatex">y</span>'),
    }
    assert telling(pages) == {"it and another", "a piece of code", "a formula", "another"}
