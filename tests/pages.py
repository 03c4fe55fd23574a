"""What is looked at on each page of the built site: by axe, and in its HTML."""

import re
from pathlib import Path

from axe_playwright_python.base import AXE_SCRIPT

from tests.slices import DEEP

DRAWING = re.compile(r'<svg [^>]*class="drawing[ "].*?</svg>', re.DOTALL)


def drawings(site: Path, lesson: Path) -> list[str]:
    return DRAWING.findall((site / lesson.stem / "index.html").read_text())


NO_TEXT = re.compile(r"(<(svg|code)\b[^>]*>).*?</\2>", re.DOTALL)
OPENING = re.compile(r"<([a-z]\w*)([^>]*)>")
DIFFERING = re.compile(r'\b(?:class|role|type)="[^"]*"')


def kinds_of(page: str) -> set[tuple[str, ...]]:
    """The kinds of elements in the text of a page: those of one tag, class, role and type.

    Pieces of code and parts of drawings are none, nor is what only shapes a text.
    """
    text = page.partition("<article")[2].partition("</article>")[0]
    found = {*OPENING.findall(NO_TEXT.sub(r"\1", text))}
    kinds = {(tag, *sorted(DIFFERING.findall(attributes))) for tag, attributes in found}
    return kinds - {("br",), ("sub",), ("sup",)}


def telling(pages: dict[str, str]) -> set[str]:
    """The names of pages which have together all that any has: kinds of elements, and formulas.

    Those with formulas come first, then always the one with the most that is new.
    """
    kinds = {name: kinds_of(page) for name, page in pages.items()}
    found = {name for name, page in pages.items() if 'class="arithmatex"' in page}
    left = (
        set[tuple[str, ...]]().union(*kinds.values()).difference(*(kinds[name] for name in found))
    )
    while left:
        best = max(kinds, key=lambda name: len(kinds[name] & left))
        found.add(best)
        left -= kinds[best]
    return found


DESK, PHONE = {"width": 1280, "height": 800}, {"width": 320, "height": 800}
# How far what was seen moves while a page loads.
SHIFTS = """
window.shifts = []
new PerformanceObserver(list => shifts.push(...list.getEntries().map(shift => shift.value)))
  .observe({type: "layout-shift", buffered: true})
"""
VIOLATIONS = """async ([within, options]) => {
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame)  // to settle
  const {violations} = await axe.run(within, {resultTypes: ["violations"], ...options})
  return violations.flatMap(({id, nodes}) => nodes.map(
    ({html, failureSummary}) => `${id}: ${html} ${failureSummary}`
  ))
}"""
# Target size belongs to WCAG 2.2 AA and is not on by itself yet.
EVERYTHING = {"rules": {"target-size": {"enabled": True}}}
# Colours take most of the time, so they are looked at apart, in a page with fewer texts.
COLOURS = ("color-contrast", "link-in-text-block")
ALL_BUT_COLOURS = {"rules": EVERYTHING["rules"] | {rule: {"enabled": False} for rule in COLOURS}}
FORMULAS = """() => {
  const [formulas, typeset, errors] = [".arithmatex", ".katex", ".katex-error"]
    .map(selector => [...document.querySelectorAll(selector)])
  const wrong = errors.map(error => error.textContent)
  return formulas.length === typeset.length ? wrong : [...wrong, "a formula is not typeset"]
}"""
CLOTHES = "colours => { Object.assign(document.body.dataset, colours) }"
# Of ten elements eight only colour a piece of code, or are parts of a picture that has a label.
# To anything but an eye they are its text, or nothing.
WITHOUT_WHAT_IS_FOR_EYES = """() => {
  const content = document.querySelector(".md-content")
  window.whole = content.cloneNode(true)
  for (const token of content.querySelectorAll("code span[class]")) {
    if (token.attributes.length === 1) token.replaceWith(...token.childNodes)
  }
  for (const picture of content.querySelectorAll("svg[role=img]:not(:has(a, [tabindex]))")) {
    picture.replaceChildren()
  }
  content.normalize()
}"""
# Of what the reference says of one function after the other the first is left, and what has a kind
# of element that none before it has.
WITHOUT_WHAT_IS_ALIKE = """() => {
  const names = ["class", "role", "type"]
  const kind = e => [e.tagName, ...names.map(name => e.getAttribute(name))].join()
  const seen = new Set()
  for (const part of document.querySelectorAll(".doc-object")) {
    const kinds = [part, ...part.querySelectorAll("*")].map(kind)
    if (kinds.every(each => seen.has(each))) part.remove()
    else for (const each of kinds) seen.add(each)
  }
}"""
# Of all texts with the same elements around them one is left, of all pages together. A link is
# left with the text that it stands in.
ONE_TEXT_OF_EACH = """known => {
  const seen = new Set(known)
  const parts = [whole, ...document.querySelectorAll(".md-sidebar")]
  const texts = []
  const left = new Set()
  for (const part of parts) {
    const walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) if (walker.currentNode.data.trim()) texts.push(walker.currentNode)
  }
  for (const text of texts) {
    let around = ""
    for (let e = text.parentElement; e; e = e.parentElement) {
      around += `${e.tagName} ${e.getAttribute("class")};`
    }
    if (seen.has(around)) continue
    seen.add(around)
    left.add(text)
    const link = text.parentElement.closest("a")
    for (const beside of link?.parentElement.childNodes ?? []) left.add(beside)
  }
  for (const text of texts) if (!left.has(text)) text.data = ""
  // Material looks for the last of these when it has the time.
  const typed = "input:not([type=radio], [type=checkbox]), select, textarea"
  const others = `:not(svg *, ${typed}, .md-sidebar__scrollwrap)`
  for (const part of parts) {
    for (const e of [...part.querySelectorAll(others)].reverse()) {
      const isEmpty = e.matches("svg") || !e.childElementCount
      if (isEmpty && !e.textContent.trim()) e.remove()
    }
  }
  document.querySelector(".md-content").replaceWith(whole)
  return [...seen]
}"""


def faults_of_the_opened(page, texts: set[str], *, around: bool) -> list[str]:
    """What axe and others find on the page as it is, which ends as one that has a few texts.

    Args:
        page: a window, as wide as a desk, dark.
        texts: those whose colours were looked at before; the new ones come to them.
        around: whether to look at the header and the sidebars as they are on a desk.
    """
    wrong = []
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    page.evaluate(AXE_SCRIPT)
    wrong += page.evaluate(FORMULAS)
    page.evaluate(WITHOUT_WHAT_IS_FOR_EYES)
    for size, within in ((DESK, [".md-header", ".md-sidebar"]), (PHONE, ["html"])):
        page.set_viewport_size(size)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{size['width']} wide: the page scrolls sideways")
        if size is PHONE and not DEEP:
            page.evaluate(WITHOUT_WHAT_IS_ALIKE)
        if size is PHONE or around:
            violations = page.evaluate(VIOLATIONS, [within, ALL_BUT_COLOURS])
            wrong += [f"{size['width']} wide: {violation}" for violation in violations]
    page.set_viewport_size(DESK)
    now = {*page.evaluate(ONE_TEXT_OF_EACH, list(texts))}
    if now == texts:
        return wrong  # nothing of the page is left
    texts |= now
    if page.evaluate("document.body.dataset.mdColorScheme") != "slate":
        wrong.append("the page is not dark, as the system is")
    for scheme, primary in (("slate", "black"), ("default", "white")):
        page.evaluate(CLOTHES, {"mdColorScheme": scheme, "mdColorPrimary": primary})
        violations = page.evaluate(VIOLATIONS, [["html"], {"runOnly": COLOURS}])
        wrong += [f"{scheme}: {violation}" for violation in violations]
    return wrong
