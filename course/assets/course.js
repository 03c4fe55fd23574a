// What a page needs and the theme does not do. Without JavaScript nothing is lost but typeset formulas.

const assets = document.currentScript.src

document.querySelector(".md-search")?.setAttribute("aria-label", "Search")

// The theme adds these while it runs. Its landmark around each copy button, thirty on a page, is no help to find one's
// way; a wide table scrolls in a box that the keyboard cannot reach.
new MutationObserver(() => {
  for (const nav of document.querySelectorAll(".md-code__nav")) nav.role = "none"
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) box.tabIndex = 0
}).observe(document.querySelector(".md-content"), { childList: true, subtree: true })

// KaTeX is fetched only by pages with formulas.
const formulas = document.querySelectorAll(".arithmatex")
if (formulas.length) {
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("katex/katex.min.css", assets) })
  const script = Object.assign(document.createElement("script"), { src: new URL("katex/katex.min.js", assets) })
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
