"""What is looked at on each page of the built site: by axe, and in its HTML."""

import re
from pathlib import Path

from axe_playwright_python.base import AXE_SCRIPT

DRAWING = re.compile(r'<svg [^>]*class="drawing[ "].*?</svg>', re.DOTALL)


def drawings(site: Path, lesson: Path) -> list[str]:
    return DRAWING.findall((site / lesson.stem / "index.html").read_text())


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
ALL_BUT_COLOURS = {
    "rules": {"target-size": {"enabled": True}, "color-contrast": {"enabled": False}}
}
FORMULAS = """() => {
  const [formulas, typeset, errors] = [".arithmatex", ".katex", ".katex-error"]
    .map(selector => [...document.querySelectorAll(selector)])
  const wrong = errors.map(error => error.textContent)
  return formulas.length === typeset.length ? wrong : [...wrong, "a formula is not typeset"]
}"""
CLOTHES = "colours => { Object.assign(document.body.dataset, colours) }"
COLOURS = {"runOnly": ["color-contrast"]}
# Of ten elements seven only colour a piece of code. To anything but an eye they are its text.
WITHOUT_TOKENS = """() => {
  const content = document.querySelector(".md-content")
  window.whole = content.cloneNode(true)
  for (const token of content.querySelectorAll("code span[class]")) {
    if (token.attributes.length === 1) token.replaceWith(...token.childNodes)
  }
  content.normalize()
}"""
# Of all texts with the same elements around them one is left, of all pages together.
ONE_TEXT_OF_EACH = """known => {
  const seen = new Set(known)
  for (const part of [whole, ...document.querySelectorAll(".md-sidebar")]) {
    const texts = document.createTreeWalker(part, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
      let around = ""
      for (let e = texts.currentNode.parentElement; e; e = e.parentElement) {
        around += `${e.tagName} ${e.getAttribute("class")};`
      }
      if (seen.has(around)) texts.currentNode.data = ""
      else if (texts.currentNode.data.trim()) seen.add(around)
    }
  }
  // Material looks for the last of these when it has the time.
  const others = ":not(svg, svg *, button, input, select, textarea, .md-sidebar__scrollwrap)"
  for (const part of [whole, ...document.querySelectorAll(".md-sidebar")]) {
    for (const e of [...part.querySelectorAll(others)].reverse()) {
      if (!e.childElementCount && !e.textContent.trim()) e.remove()
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
    page.evaluate(WITHOUT_TOKENS)
    for size, within in ((DESK, [".md-header", ".md-sidebar"]), (PHONE, ["html"])):
        page.set_viewport_size(size)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{size['width']} wide: the page scrolls sideways")
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
        violations = page.evaluate(VIOLATIONS, [["html"], COLOURS])
        wrong += [f"{scheme}: {violation}" for violation in violations]
    return wrong
