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
