// What a page needs and the theme does not do. Without JavaScript nothing is lost but typeset formulas: all answers stand
// open. The parts of a page are written by tools/parts.py, which says how each looks in HTML.

const assets = document.currentScript.src
const page = document.documentElement.classList
const content = document.querySelector(".md-content")
const every = (selector, root = document) => [...root.querySelectorAll(selector)]
const make = (tag, attributes = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), attributes)
  element.append(...inside)
  return element
}

document.querySelector(".md-search")?.setAttribute("aria-label", "Search")

// The search finds words that begin as those typed. A word that is whole counts more here, or "None" would find NoneType
// first, since that is rarer; and quotation marks, as around a message, ask for nothing.
const { postMessage } = Worker.prototype
const wholeWords = (text) => text.replace(/["“”]/g, " ").replace(/(^|\s)([\w.]+)(?=\s|$)/g, "$1$2^2 $2")
Worker.prototype.postMessage = function (message, ...others) {
  if (typeof message?.data === "string") message.data = wholeWords(message.data)
  return postMessage.call(this, message, ...others)
}

// The theme takes the link to the page's Markdown for one to a translation, and fetches a list of pages from beside it,
// where there may be none. It does not know the link by a name with a blank behind it; all others do.
for (const link of every("link[rel=alternate]")) link.rel += " "

// The theme adds these while it runs. Its landmark around each copy button, thirty on a page, is no help to find one's
// way. A box that scrolls must be in reach of the keyboard, and one that does not scroll is no place to stop. Nor is the
// sign behind a heading, to which the table of contents leads. A drawing that is too wide begins where its root is.
let isAsked = false
const begun = new WeakSet()
const centre = (element) => {
  const { left, width } = element.getBoundingClientRect()
  return left + width / 2
}
const reachable = () => {
  isAsked = false
  const boxes = every(".md-typeset__scrollwrap, .drawing-box, .md-typeset pre > code")
  // All is measured before anything changes, or the page would be laid out again for each box.
  const scrolling = new Set(boxes.filter((box) => box.scrollWidth > box.clientWidth))
  const roots = [...scrolling].filter((box) => !begun.has(box)).map((box) => [box, box.querySelector(".root")])
  const moves = roots.filter(([, root]) => root).map(([box, root]) => [box, centre(root) - centre(box)])
  for (const nav of every(".md-code__nav:not([role])")) nav.role = "none"
  for (const box of boxes) {
    if (scrolling.has(box) === box.hasAttribute("tabindex")) continue
    if (scrolling.has(box)) box.tabIndex = 0
    else box.removeAttribute("tabindex")
  }
  for (const [box, move] of moves) {
    begun.add(box)
    box.scrollLeft += move
  }
}
const soon = () => { if (!isAsked) isAsked = Boolean(requestAnimationFrame(reachable)) }
new MutationObserver(soon).observe(content, { childList: true, subtree: true })
addEventListener("resize", soon)
addEventListener("toggle", soon, true) // of a fold
for (const link of every(".headerlink")) link.tabIndex = -1
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

const KEPT = "inside-autograd" // also read by the line of script that tools/parts.py puts on top of a page
const memory = {
  read() {
    try { return JSON.parse(localStorage.getItem(KEPT)) ?? {} } catch { return {} }
  },
  change(edit) {
    const all = this.read()
    edit(all)
    try { localStorage.setItem(KEPT, JSON.stringify(all)) } catch { /* a private window keeps nothing */ }
  },
}
const lessonAt = (address) => new URL(address).pathname.match(/\/(\d\d-[^/]+)\/(index\.html)?$/)?.[1]
const lesson = lessonAt(location.href)
const here = lesson ?? location.pathname
const questions = every("[data-part=question]")
const given = memory.read().answers?.[here] ?? {}
const remember = (part, letter) => memory.change((all) => {
  given[part.id] = letter
  all.answers = { ...all.answers, [here]: given }
  const isDone = lesson && questions.length && questions.every(({ id, dataset }) => given[id] === dataset.key)
  if (isDone) all.done = [...new Set([...(all.done ?? []), lesson])]
})

// The menu ticks the lessons whose questions are all answered right, and marks those that were read to the end.
const tick = () => {
  const { done = [], read = [] } = memory.read()
  for (const link of every(".md-nav--primary a[href], .cards a[href]")) {
    const to = lessonAt(link.href)
    const state = done.includes(to) ? "questions done" : read.includes(to) ? "read" : ""
    link.querySelector(".tick")?.remove()
    if (!state || link.hash) continue
    const sign = make("span", { className: "tick", role: "img", ariaLabel: state, title: state })
    sign.textContent = state === "read" ? "•" : "✓"
    link.append(sign)
  }
}
const end = document.querySelector("[data-part=in-short]")
if (lesson && end) {
  const watcher = new IntersectionObserver(([seen]) => {
    if (!seen.isIntersecting) return
    watcher.disconnect()
    memory.change((all) => { all.read = [...new Set([...(all.read ?? []), lesson])] })
    tick()
  })
  watcher.observe(end)
}
tick()

// ---- a Predict covers what follows its snippet; it and a question are answered by a choice

const reveal = (part, isFocused) => {
  if (part.classList.contains("shown")) return
  part.classList.add("shown")
  soon() // what was covered may scroll
  const button = part.querySelector("[data-reveal]")
  if (button) button.hidden = true
  const player = part.querySelector(".covered figure.player")
  player?.dispatchEvent(new Event("shown"))
  // The button is gone, so the focus goes on to what came in its place.
  const target = player ?? part.querySelector(".covered > *")
  if (!isFocused || !target) return
  target.tabIndex = -1
  target.focus({ preventScroll: !player })
}

// The arrow keys choose an option on the way to another one, so they leave the focus where it is.
let isArrow = false
addEventListener("keydown", ({ key }) => { isArrow = key.startsWith("Arrow") }, true)
addEventListener("pointerdown", () => { isArrow = false }, true)

const answerable = (part) => {
  const isPredict = part.dataset.part === "predict"
  const answer = part.querySelector("details.answer")
  const options = part.querySelector(".options")
  const stem = options.previousElementSibling
  stem.id = `${part.id}-stem`
  options.role = "radiogroup"
  options.setAttribute("aria-labelledby", stem.id)
  for (const item of options.children) item.role = "none"
  const verdict = make("p", { className: "verdict", role: "status" })
  options.after(verdict)
  const say = (letter) => {
    const isRight = letter === part.dataset.key
    const reason = answer?.querySelector(`[data-option="${letter}"]`)?.cloneNode(true)
    if (isRight) reason?.querySelector("strong")?.remove() // the letter
    const sign = make("span", { className: "sign", textContent: isRight ? "✓" : "✗", ariaHidden: "true" })
    const word = make("strong", { textContent: isRight ? "Right." : "Wrong." })
    verdict.replaceChildren(sign, " ", word, " ", ...(reason?.childNodes ?? []))
    if (!isRight && !isPredict) verdict.append(" Try again.")
    verdict.dataset.verdict = isRight ? "right" : "wrong"
    for (const label of every("label", options)) label.className = ""
    const chosen = options.querySelector(`[value="${letter}"]`)
    chosen.checked = true
    chosen.parentElement.className = verdict.dataset.verdict
  }
  options.addEventListener("change", ({ target }) => {
    say(target.value)
    remember(part, target.value)
    tick()
    if (isPredict) reveal(part, part.querySelector(".covered figure.player") && !isArrow)
    else if (answer && target.value === part.dataset.key) answer.open = true
  })
  if (given[part.id]) say(given[part.id])
}

for (const part of every("[data-part=predict], [data-part=question]")) {
  if (part.querySelector("input[type=radio]")) answerable(part)
  part.querySelector("[data-reveal]")?.addEventListener("click", () => {
    reveal(part, true)
    if (!given[part.id]) remember(part, "")
  })
  if (part.dataset.part === "predict" && part.id in given) reveal(part, false)
}

// An address that leads into what is covered shows it. One that leads to a row of the clinic by its code, such as
// `clinic/#freed`, goes on at once to where the row leads.
const follow = () => {
  const [, key] = location.hash.match(/^#play-(\w+)/) ?? []
  const name = decodeURIComponent(location.hash.slice(1))
  const target = document.getElementById(name) ?? (key && document.querySelector(`figure[data-key="${key}"]`))
  if (target?.matches(".finder a[id]")) location.replace(target.nextElementSibling.href)
  const part = target?.closest(".covered")?.closest("[data-part=predict]:not(.shown)")
  if (part) reveal(part, false)
  if (part || page.contains("returning")) target?.scrollIntoView()
}
addEventListener("hashchange", follow)
follow()

// The bar below the title: show everything, and forget everything.
const everything = document.querySelector("[data-everything]")
if (everything) {
  everything.checked = page.contains("everything")
  everything.addEventListener("change", () => {
    memory.change((all) => { all.everything = everything.checked })
    page.toggle("everything", everything.checked)
    for (const player of every(".covered figure.player")) player.dispatchEvent(new Event("shown"))
  })
}
for (const button of every("button[data-forget]")) {
  button.addEventListener("click", () => {
    memory.change((all) => { for (const name of Object.keys(all)) delete all[name] })
    location.reload()
  })
}

// For a room (?handout): the puzzle, what is asked, and nothing that answers it.
if (location.search === "?handout") {
  document.documentElement.classList.add("handout")
  let isPuzzle = false
  for (const element of content.querySelector("article").children) {
    if (element.matches("h2")) isPuzzle = element.id === "a-puzzle"
    element.classList.toggle("handed-out", isPuzzle || element.matches("h1, [data-part=predict], [data-part=question], [data-part=exercise]"))
  }
}

// On paper the answers and hints stand at the end, so that the page asks there too.
let lifted = []
addEventListener("beforeprint", () => {
  const answers = make("section", { className: "printed" }, make("h2", { textContent: "Answers" }))
  for (const fold of every("[data-part=question] > .answer, [data-part=exercise] > .helps")) {
    const place = new Comment()
    lifted.push([fold, place])
    fold.replaceWith(place)
    const [section] = place.parentElement.id.split("-")
    const title = `${section === "earlier" ? "From earlier" : section} ${place.parentElement.querySelector("strong").textContent}`
    answers.append(make("h3", { textContent: title[0].toUpperCase() + title.slice(1) }), fold)
  }
  if (lifted.length) (end?.parentElement ?? content).append(answers)
})
addEventListener("afterprint", () => {
  for (const [fold, place] of lifted) place.replaceWith(fold)
  lifted = []
  document.querySelector(".printed")?.remove()
})

// ---- a word of the glossary tells what it means on hover, on focus and by a tap

const words = every("a[data-tip]")
if (words.length) {
  const tip = make("div", { id: "tip", className: "tip", role: "tooltip", hidden: true })
  content.append(tip)
  let shown = null
  const hide = () => { tip.hidden = true; shown?.removeAttribute("aria-describedby"); shown = null }
  const show = (word) => {
    hide()
    shown = word
    tip.textContent = word.dataset.tip
    tip.hidden = false
    word.setAttribute("aria-describedby", "tip")
    const box = [...word.getClientRects()].at(-1) // of a word that is broken in two, its end
    const { clientWidth, clientHeight } = document.documentElement
    const isRoom = box.bottom + tip.offsetHeight < clientHeight
    tip.style.left = `${Math.max(8, Math.min(box.left, clientWidth - tip.offsetWidth - 8)) + scrollX}px`
    tip.style.top = `${(isRoom ? box.bottom : box.top - tip.offsetHeight) + scrollY}px`
  }
  const leave = ({ pointerType, relatedTarget }) => {
    if (pointerType === "mouse" && relatedTarget !== tip && relatedTarget !== shown) hide()
  }
  for (const word of words) {
    word.addEventListener("pointerenter", ({ pointerType }) => { if (pointerType === "mouse") show(word) })
    word.addEventListener("pointerleave", leave)
    word.addEventListener("focus", () => show(word))
    word.addEventListener("blur", hide)
    // A first tap tells, a second one leads on.
    let isFirst = false
    word.addEventListener("pointerdown", ({ pointerType }) => { isFirst = pointerType !== "mouse" && shown !== word })
    word.addEventListener("click", (event) => { if (isFirst) { event.preventDefault(); show(word) } })
  }
  tip.addEventListener("pointerleave", leave)
  addEventListener("pointerdown", ({ target }) => { if (target !== tip && target !== shown) hide() })
  addEventListener("keydown", ({ key }) => { if (key === "Escape") hide() })
}

// The table of the clinic can be searched. Of a pasted error those rows stay that it quotes, where "…" stands for anything,
// or else the first row of the entry that `explain` would name; the cure that it would give is told above the table.
// Else the rows come in the order of the words that they share with the text, of which a rare one counts for more, and a
// small one for nothing; rows that share less than half of what the best one shares go. An empty box keeps all rows in
// their order.
const finder = document.querySelector(".finder")
if (finder) {
  finder.insertAdjacentHTML("afterbegin", `<label for="find">Paste an error with its whole traceback, or type what you see</label>
    <textarea id="find" rows="3" spellcheck="false"></textarea><p role="status"></p>`)
  const [box, status] = finder.querySelectorAll("textarea, [role=status]")
  const fold = (text) => text.toLowerCase().replace(/\s+/g, " ").trim()
  const stem = (word) => word.replace(/(?<=...)(ions?|ing|ed|es|s|(?<=....)e)$/, "").replace(/(.)\1$/, "$1")
  const SMALL = new Set("a after all always an and any are as at be but by do does dont for from get gets has have how i if is it its me my of on one or still that the there this to was what when where which why with".split(" "))
  const wordsOf = (text) => (text.toLowerCase().match(/[a-z0-9]+/g) ?? []).filter((word) => !SMALL.has(word)).map(stem)
  const aliases = new Map() // a word, and the first of the words that the page lists with it
  for (const line of every(".same-words li")) {
    const [first, ...others] = wordsOf(line.textContent)
    for (const word of others) aliases.set(word, first)
  }
  // The words of a text, and each two neighbours as one word: "in place" and "in-place" are "inplace", too.
  const termsOf = (text) => {
    const words = wordsOf(text).map((word) => aliases.get(word) ?? word)
    return [...words, ...words.slice(1).map((word, i) => words[i] + word)]
  }
  const rows = [...finder.querySelectorAll("tbody tr")].map((row) => ({
    row, code: row.querySelector("a[href]").hash.slice(1), message: fold(row.cells[0].textContent), terms: [...row.cells].flatMap((cell) => termsOf(cell.textContent)),
  }))
  const quotes = (phrase, text) => {
    let from = 0
    return phrase.split("…").every((part) => (from = text.indexOf(part, from) + 1))
  }
  const has = ({ terms }, term) => terms.some((other) => other === term || (term.length > 3 && other.startsWith(term)))
  const quoted = (text) => rows.filter(({ message }) => quotes(message, fold(text)))
  const isMessage = (text) => /(error|exception|warning): /i.test(text)
  // Of each cure the code of its entry and the messages that mean it: what `explain` knows (course/assets/messages.py).
  // It knows some by a few words, such as "loss is nan"; in a sentence of somebody's own these are not all that is said.
  let cures = []
  const explained = (text) => {
    const told = text.replace(/\s+/g, " ")
    const isWhole = isMessage(text) || quoted(text).length
    const means = (message) => {
      const [words] = new RegExp(message, "im").exec(`${told}\n${text}`) ?? []
      return words && (isWhole || words.length > told.length / 2)
    }
    return cures.find(([, , messages]) => messages.some(means))
  }
  // The rows that fit best, in order.
  const best = (text) => {
    if (quoted(text).length || !text.trim()) return text.trim() ? quoted(text) : rows
    const [code] = explained(text) ?? []
    if (code) return rows.filter((row) => row.code === code).slice(0, 1)
    const weights = new Map()
    for (const term of new Set(termsOf(text.replace(/.*(error|warning): /is, "")))) { // of a traceback its last message
      const holders = rows.filter((row) => has(row, term))
      for (const row of holders) weights.set(row, (weights.get(row) ?? 0) + Math.log(rows.length / holders.length))
    }
    const least = Math.max(...weights.values()) / 2
    return rows.filter((row) => weights.get(row) > least).sort((a, b) => weights.get(b) - weights.get(a))
  }
  const find = () => {
    const found = best(box.value)
    for (const each of rows) each.row.hidden = !found.includes(each)
    rows[0].row.parentElement.append(...found.map(({ row }) => row))
    const [, cure] = explained(box.value) ?? []
    const isUnknown = isMessage(box.value) && !cure && !quoted(box.value).length && !/\.grad\b/.test(box.value)
    status.textContent = found.length
      ? `${found.length} of ${rows.length} rows${found.length < rows.length ? ", the nearest first" : ""}${cure ? `. In short: ${cure}.` : ""}${isUnknown ? ". No row has this message, so it may not be about gradients." : ""}`
      : "No row fits. Paste the last line of the error whole, or try other words, such as “grad none”; or run diagnose."
    // On most screens the table begins where the screen ends.
    const isBelow = found[0]?.row.getBoundingClientRect().bottom > innerHeight
    if (box.value.trim() && isBelow) finder.scrollIntoView()
  }
  box.addEventListener("input", find)
  find()
  fetch(new URL("messages.json", assets)).then((file) => file.json()).then((known) => { cures = known; find() }, () => {}) // not from a file
}

window.courseRuns = true // else what is covered is shown
page.remove("returning")
