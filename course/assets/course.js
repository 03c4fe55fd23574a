// What a page needs and the theme does not do. Without JavaScript nothing is lost but typeset formulas: all answers stand
// open. The parts of a page are written by tools/pages.py, which says how each looks in HTML.

const assets = document.currentScript.src
const content = document.querySelector(".md-content")
const every = (selector, root = document) => [...root.querySelectorAll(selector)]
const make = (tag, attributes = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), attributes)
  element.append(...inside)
  return element
}

document.querySelector(".md-search")?.setAttribute("aria-label", "Search")

// The theme adds these while it runs. Its landmark around each copy button, thirty on a page, is no help to find one's
// way. A box that scrolls must be in reach of the keyboard, and one that does not scroll is no place to stop.
const reachable = () => {
  for (const nav of every(".md-code__nav")) nav.role = "none"
  for (const box of every(".md-typeset__scrollwrap, .drawing-box, .md-typeset pre > code")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
    else box.removeAttribute("tabindex")
  }
}
new MutationObserver(reachable).observe(content, { childList: true, subtree: true })
addEventListener("resize", reachable)
reachable()

// KaTeX is fetched only by pages with formulas.
const formulas = every(".arithmatex")
if (formulas.length) {
  const style = make("link", { rel: "stylesheet", href: new URL("katex/katex.min.css", assets) })
  const script = make("script", { src: new URL("katex/katex.min.js", assets) })
  script.onload = () => {
    for (const formula of formulas) {
      const tex = formula.textContent.trim() // \(...\) or \[...\]
      const displayMode = tex.startsWith("\\[")
      katex.render(tex.slice(2, -2), formula, { displayMode, throwOnError: false })
      if (displayMode) formula.tabIndex = 0 // it scrolls on a phone, so the keyboard must reach it
    }
  }
  document.head.append(style, script)
}

// ---- what a reader did stays on this device

const memory = {
  read() {
    try { return JSON.parse(localStorage.getItem("inside-autograd")) ?? {} } catch { return {} }
  },
  change(edit) {
    const all = this.read()
    edit(all)
    try { localStorage.setItem("inside-autograd", JSON.stringify(all)) } catch { /* a private window keeps nothing */ }
  },
}
const here = document.querySelector("[data-lesson]")?.dataset.lesson // its file name without .md; on a lesson alone
const given = () => memory.read().answers?.[here] ?? {}
const remember = (part, letter) => memory.change((all) => {
  all.answers ??= {}
  all.answers[here] = { ...all.answers[here], [part.id]: letter }
  const right = every("[data-part=question]").every((question) => all.answers[here][question.id] === question.dataset.key)
  if (right) all.done = [...new Set([...(all.done ?? []), here])]
})

// The menu and the cards tick the lessons whose questions are all answered right, and those read to the end.
const tick = () => {
  const { done = [], read = [] } = memory.read()
  for (const link of every(".md-nav--primary a[href], .cards a[href]")) {
    const lesson = new URL(link.href).pathname.match(/\/(\d\d-[^/]+)\/$/)?.[1]
    const state = done.includes(lesson) ? "done" : read.includes(lesson) ? "read" : ""
    link.querySelector(".tick")?.remove()
    if (state) link.append(make("span", { className: "tick", textContent: state === "done" ? " ✓" : " ·", title: `${state} on this device` }))
  }
}
const end = document.querySelector("[data-part=in-short]")
if (here && end) {
  new IntersectionObserver(([seen]) => {
    if (!seen.isIntersecting || memory.read().read?.includes(here)) return
    memory.change((all) => { all.read = [...(all.read ?? []), here] })
    tick()
  }).observe(end)
}
tick()

// ---- a Predict covers what follows its snippet; it and a question are answered by a choice

const reveal = (part) => {
  if (part.classList.contains("shown")) return
  part.classList.add("shown")
  part.querySelector("button[data-reveal]")?.setAttribute("hidden", "")
  const player = part.querySelector(".covered figure.player")
  player?.dispatchEvent(new Event("shown"))
  const first = player ?? part.querySelector(".covered > *")
  if (!first) return
  first.tabIndex = -1
  first.focus({ preventScroll: true })
}

const answerable = (part) => {
  const answer = part.querySelector("details.answer")
  const verdict = make("p", { className: "verdict" })
  verdict.setAttribute("role", "status")
  part.querySelector(".options").after(verdict)
  const choose = (letter) => {
    const isRight = letter === part.dataset.key
    const reason = answer?.querySelector(`[data-option="${letter}"]`)?.cloneNode(true)
    reason?.querySelector("strong")?.remove()
    const sign = make("span", { className: "sign", textContent: isRight ? "✓" : "✗" })
    sign.setAttribute("aria-hidden", "true")
    verdict.replaceChildren(sign, make("strong", { textContent: isRight ? " Right. " : " Not this one. " }), ...(reason?.childNodes ?? []))
    if (!isRight && part.dataset.part === "question") verdict.append(make("em", { textContent: " Try again." }))
    verdict.dataset.verdict = isRight ? "right" : "wrong"
    for (const label of every("label", part)) label.className = ""
    part.querySelector(`input[value="${letter}"]`).closest("label").className = isRight ? "right" : "wrong"
    if (part.dataset.part === "predict") reveal(part)
    else if (isRight && answer) answer.open = true
  }
  for (const radio of every("input[type=radio]", part)) {
    radio.addEventListener("change", () => { choose(radio.value); remember(part, radio.value); tick() })
  }
  if (given()[part.id]) {
    part.querySelector(`input[value="${given()[part.id]}"]`)?.setAttribute("checked", "")
    choose(given()[part.id])
  }
}

for (const part of every("[data-part=predict], [data-part=question]")) {
  part.querySelector("button[data-reveal]")?.addEventListener("click", () => reveal(part))
  if (part.querySelector("input[type=radio]")) answerable(part)
}

// An address that leads into what is covered shows it.
const follow = () => {
  const [, key] = location.hash.match(/^#play-(\w+)/) ?? []
  const target = key ? document.querySelector(`figure[data-key="${key}"]`) : document.getElementById(location.hash.slice(1))
  const part = target?.closest(".covered")?.closest("[data-part=predict]")
  if (part) reveal(part)
}
addEventListener("hashchange", follow)
follow()

// The bar below the title: show everything, and forget everything.
const everything = document.querySelector("[data-everything]")
if (everything) {
  const show = () => document.documentElement.classList.toggle("everything", everything.checked)
  everything.checked = Boolean(memory.read().everything)
  everything.addEventListener("change", () => { memory.change((all) => { all.everything = everything.checked }); show() })
  show()
}
for (const button of every("button[data-forget]")) {
  button.addEventListener("click", () => { memory.change((all) => { for (const name of Object.keys(all)) delete all[name] }); location.reload() })
}

// ---- a word of the glossary tells what it means on hover, on focus and by a tap

const words = every("a[data-tip]")
if (words.length) {
  const tip = make("div", { id: "tip", className: "tip", hidden: true })
  tip.setAttribute("role", "tooltip")
  content.append(tip)
  let shown = null
  const hide = () => { tip.hidden = true; shown?.removeAttribute("aria-describedby"); shown = null }
  const show = (word) => {
    tip.textContent = word.dataset.tip
    tip.hidden = false
    shown = word
    word.setAttribute("aria-describedby", "tip")
    const box = word.getBoundingClientRect()
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8)
    tip.style.left = `${Math.max(8, left) + scrollX}px`
    tip.style.top = `${box.bottom + scrollY + 4}px`
  }
  for (const word of words) {
    word.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(word) })
    word.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && !tip.matches(":hover")) hide() })
    word.addEventListener("focus", () => show(word))
    word.addEventListener("blur", hide)
    // A first tap tells, a second one leads on.
    let tapped = false
    word.addEventListener("pointerdown", (event) => { tapped = event.pointerType === "touch" && shown !== word })
    word.addEventListener("click", (event) => { if (tapped) { event.preventDefault(); show(word) } })
  }
  tip.addEventListener("pointerleave", hide)
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide() })
}
// The table of the clinic can be searched. A row stays if what it quotes is in the text, where "…" stands for anything,
// or if it has all words of the text; so an empty box keeps them all.
const finder = document.querySelector(".finder")
if (finder) {
  finder.insertAdjacentHTML("afterbegin", `<label for="find">Paste an error with its whole traceback, or type what you see</label>
    <textarea id="find" rows="3" spellcheck="false"></textarea><p role="status"></p>`)
  const [box, status] = finder.querySelectorAll("textarea, [role=status]")
  const fold = (text) => text.toLowerCase().replace(/\s+/g, " ").trim()
  const rows = [...finder.querySelectorAll("tbody tr")].map((row) => [row, fold(row.textContent), fold(row.cells[0].textContent)])
  const quotes = (phrase, text) => {
    let from = 0
    return phrase.split("…").every((part) => (from = text.indexOf(part, from) + 1))
  }
  const find = () => {
    const text = fold(box.value)
    const words = text.split(/[\s:;,'"`]+/)
    let left = 0
    for (const [row, all, phrase] of rows) {
      row.hidden = !quotes(phrase, text) && !words.every((word) => all.includes(word))
      left += !row.hidden
    }
    status.textContent = left
      ? `${left} of ${rows.length} rows`
      : "No row fits. Paste the last line of the error whole, or fewer words of it, or try words such as “grad none”; or run diagnose."
  }
  box.addEventListener("input", find)
  find()
}
