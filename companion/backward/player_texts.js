// The texts beside the drawing of a player, and what makes elements. A player has two of these: one to read, and one that
// nobody sees, to measure all steps in. player_drawing.js and player.js, below this, take what is returned here.
var playerTexts = (() => {
  "use strict";

  const fill = (element, attributes, inside) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...inside);
    return element;
  };
  const make = (tag, attributes = {}, ...inside) => fill(document.createElement(tag), attributes, inside);
  const button = (label, onclick, attributes = {}) => make("button", { type: "button", onclick, ...attributes }, label);
  const paragraph = (...inside) => make("p", {}, ...inside);
  const labelled = (label, ...inside) => paragraph(make("strong", {}, label), " ", ...inside);
  const few = (items) => (items.length > 9 ? [...items.slice(0, 8), `${items.length - 8} more`] : items); // so many can be read
  const listOf = (items) => make("ul", {}, ...few(items).map((item) => make("li", {}, item)));
  const scrolls = (name, ...inside) => make("div", { class: "player-scroll", role: "group", "aria-label": name }, ...inside);
  const times = (n) => (n === 1 ? "once" : `${n} times`);
  const nth = (n) => `${n}${n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th"}`;

  class Texts {
    constructor(lines) {
      this.told = make("p", { class: "player-told", "aria-live": "polite" });
      this.about = make("p", { class: "player-hint" });
      this.ask = paragraph();
      this.options = make("div", { class: "player-bar" });
      this.said = make("p", { class: "player-said", "aria-live": "polite" });
      this.gate = make("div", { class: "player-gate" }, this.ask, this.options, this.said);
      this.panes = { rule: ["Node", "What this Node did"], engine: ["Engine", "What the engine knows"], code: ["Code", "Code"] };
      this.tabs = make("div", { class: "player-bar player-tabs", role: "group", "aria-label": "What to show" });
      for (const [name, [short, title]] of Object.entries(this.panes)) {
        const body = make("div", {});
        const element = make("div", { class: `player-pane player-${name}`, role: "group", "aria-label": title }, make("p", { class: "player-title" }, title), body);
        const tab = button(short, () => this.choose(name, true));
        this.tabs.append(tab);
        this.panes[name] = { body, element, tab };
      }
      this.lines = make("ol", {}, ...lines.map((line) => make("li", {}, line === null ? "(not recorded)" : make("code", {}, line))));
      this.hasCode = lines.some((line) => line !== null);
      this.element = make("div", { class: "player-side" }, this.told, this.about, this.gate, this.tabs, ...Object.values(this.panes).map(({ element }) => element));
      this.tab = "rule";
    }

    // On a narrow screen one pane is shown at a time.
    choose(name, chosen = false) {
      if (chosen) this.tab = name;
      for (const [other, { element, tab }] of Object.entries(this.panes)) {
        tab.setAttribute("aria-pressed", String(other === name));
        element.classList.toggle("chosen", other === name);
      }
      if (chosen) this.onchoose?.();
    }

    // A pane that has nothing to say is not shown.
    show(panes) {
      for (const [name, { body, element, tab }] of Object.entries(this.panes)) {
        body.replaceChildren(...panes[name]);
        element.hidden = tab.hidden = !panes[name].length;
      }
      const shown = Object.keys(panes).filter((name) => panes[name].length);
      this.choose(shown.includes(this.tab) ? this.tab : shown[0]);
    }
  }

  return { Texts, button, few, fill, labelled, listOf, make, nth, paragraph, scrolls, times };
})();
