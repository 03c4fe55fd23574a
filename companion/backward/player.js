// Turns each figure.player of a page into a player. The figure brings its data as JSON, which player_format.py
// describes object by object, and a drawing, whose Nodes have the classes n0, n1, … and whose arrows e0-0, e0-1, …
// (Node and slot); the last line in the box of a Node is for its state.
(() => {
  "use strict";

  const { Texts, button, few, labelled, listOf, make, nth, paragraph, scrolls, times } = playerTexts;
  const { Drawing, brief, numbersIn } = playerDrawing;
  const framed = location.protocol === "about:"; // made from text, as in a notebook: it has no address of its own

  // Said of each part at the step at which it first has something to say.
  const HINTS = {
    start: "Next runs one Node. A click on a Node leads to the step in which it runs.",
    rule: "A Node takes the gradient that came and sends one along each of its arrows. In its rule, grad is what it was given; other names are of what the operation got or gave.",
    engine: "The engine runs the Nodes. It counts how many gradients each still waits for; a Node that waits for none is ready.",
    code: "The marked line made the Node that ran.",
  };

  // What can be played. A second pass repeats the steps of the engine, with another .grad, up to the one that fails.
  function playable(modes) {
    const engine = modes[0];
    const all = modes.map((mode) => {
      if (mode.steps) return mode;
      const again = engine.steps.slice(0, mode.stop).map((step, index) => ({ ...step, made: [], freed: [], grad: mode.grads[index] || step.grad }));
      return { ...mode, steps: mode.last ? [...again, mode.last] : again };
    });
    const about = "Click each next Node, or go to it with Tab and press Enter. An arrow with a number has brought its gradient.";
    if (!engine.error && engine.steps.length > 1) all.push({ title: "You are the engine", about, steps: engine.steps, yours: true });
    return all;
  }

  // ---- a player

  class Player {
    constructor(figure, key) {
      figure.dataset.started = "";
      if (framed) figure.style.setProperty("--player-screen", "1000em");
      const story = figure.querySelector(".player-story");
      const data = JSON.parse(figure.querySelector(".player-data").textContent);
      const { nodes, lines, modes } = data;
      Object.assign(this, { figure, key, nodes, lines, modes: playable(modes), mode: 0, taken: 0 });
      this.answers = new Map(); // to the questions of the engine's order, and to each step of one's own
      this.hints = HINTS;
      this.picture = scrolls("Graph");
      this.prepare?.(data, story); // of blocks
      this.second = story.querySelector(".player-second")?.cloneNode(true);
      this.texts = new Texts(lines);
      this.texts.onchoose = () => this.fit(true);
      this.ghost = new Texts(lines);
      this.ghost.element.inert = true;
      this.ghost.element.classList.add("player-ghost");
      const pictures = make("div", { class: "player-pictures" }, this.picture);
      if (this.second) {
        this.made = make("div", { class: "player-made" }, make("p", { class: "player-title" }, "The graph that the pass makes"), scrolls("New graph", this.second));
        pictures.append(this.made);
      }
      this.panes = make("div", { class: "player-panes" }, pictures, this.texts.element);
      figure.insertBefore(make("div", { class: "player-live", onkeydown: (event) => this.onKey(event) }, this.controls(), this.panes, this.quiet()), story);
      figure.classList.add("player-started");
      this.draw(story.querySelector(".player-graph"));
      this.show();
      this.fit();
      this.followAddress();
      window.addEventListener("hashchange", () => this.followAddress());
      figure.addEventListener("shown", () => { this.fit(); this.followAddress(); });
      new ResizeObserver(() => requestAnimationFrame(() => this.fit())).observe(figure);
    }

    draw(svg) {
      this.drawing = new Drawing(svg.cloneNode(true), this.nodes);
      this.picture.replaceChildren(this.drawing.svg);
      for (const [node, { part }] of this.drawing.nodes.entries()) {
        part.addEventListener("click", () => this.press(node));
        part.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          this.press(node);
        });
      }
    }

    name(node) { return this.nodes[node].name; }

    along(node, slot) { return this.nodes[node].slots > 1 ? `${this.name(node)}, slot ${slot}` : this.name(node); }

    controls() {
      const to = (label, sign, onclick) => button(sign, onclick, { "aria-label": label, title: label });
      this.backward = [to("First", "⇤", () => this.move(0)), to("Previous", "←", () => this.move(this.taken - 1))];
      this.next = button("Next", () => this.move(this.taken + 1), { class: "player-next" });
      this.forward = [this.next, to("Last", "⇥", () => this.move(Infinity))];
      this.slider = make("input", { type: "range", min: 0, "aria-label": "Step", oninput: () => this.move(Number(this.slider.value)) });
      this.count = make("span", { class: "player-count", "aria-hidden": "true" });
      return make("div", { class: "player-bar player-controls", role: "group", "aria-label": "Steps" }, ...this.backward, ...this.forward, this.slider, this.count);
    }

    quiet() {
      this.kind = make("select", { "aria-label": "What to play", onchange: () => { this.move(0, Number(this.kind.value)); this.next.focus(); } });
      this.kind.append(...this.modes.map(({ title }, index) => make("option", { value: index }, title)));
      this.link = make("a", {}, "Link to this step");
      this.unfold = button("All steps as a table", () => {
        this.unfold.setAttribute("aria-expanded", String(this.figure.classList.toggle("player-unfolded")));
        this.settle();
      }, { "aria-expanded": "false" });
      return make("div", { class: "player-bar player-quiet" }, ...(this.modes.length > 1 ? [this.kind] : []), ...(framed ? [] : [this.link]), this.unfold);
    }

    // ---- moving

    move(to, mode = this.mode, keep = true) {
      if (mode !== this.mode) this.answers.delete(this.modes[mode]);
      this.mode = mode;
      this.taken = Math.max(0, Math.min(to, this.modes[mode].steps.length));
      const focused = document.activeElement;
      this.show();
      if (!focused?.checkVisibility()) this.next.focus();
      if (keep && !framed) history.replaceState(history.state, "", this.address());
    }

    address() { return `#play-${this.key}-${this.mode}-${this.taken}`; }

    followAddress() {
      const found = location.hash.match(/^#play-([\w.]+)-(\d+)-(\d+)$/);
      if (!found || found[1] !== this.key || !this.modes[found[2]]) return;
      this.move(Number(found[3]), Number(found[2]), false);
      this.figure.scrollIntoView();
    }

    onKey(event) {
      const box = event.target.closest(".player-scroll");
      const busy = event.target.matches("select, input") || (box && box.scrollWidth > box.clientWidth);
      const keys = { ArrowLeft: this.taken - 1, ArrowRight: this.taken + 1, Home: 0, End: Infinity };
      if (busy || !(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      event.preventDefault();
      this.move(keys[event.key]);
    }

    // A Node in the drawing answers what is asked, or leads to its step.
    press(node) {
      const { open, mode } = this.view();
      if (open) return this.answer(node);
      const index = mode.steps.findIndex((step) => step.node === node);
      if (index < 0) return;
      this.move(index + 1);
      this.next.focus();
    }

    answer(node, shown = false) {
      const { mode, taken, known, question } = this.view();
      const answer = { ...this.judge(mode, taken, known, node), shown };
      if (!mode.yours) {
        this.answers.set(question, answer);
        const inGate = this.texts.gate.contains(document.activeElement);
        this.show();
        if (answer.right && (inGate || !document.activeElement.checkVisibility())) this.next.focus();
        return;
      }
      const wrong = (this.answers.get(mode)?.wrong || 0) + !answer.right;
      this.answers.set(mode, { ...answer, wrong, at: taken + answer.right });
      this.move(this.taken + answer.right);
    }

    // Whether a Node runs next, and why.
    judge(mode, taken, known, node) {
      const next = mode.steps[taken].node;
      const { leaf } = this.nodes[node];
      const { ran, waits } = known[node];
      const right = node === next;
      let why = `is ready as well, but was made before ${this.name(next)}.`;
      if (ran) why = "has run already.";
      else if (waits === null) why = "is not needed by this pass.";
      else if (waits > 0) why = `still waits for ${waits}: ${this.senders(mode, taken, node)}. Now it would ${leaf ? "add a part to .grad" : "send on a part"}, and have to run again.`;
      else if (right && known.filter((other) => other.waits === 0 && !other.ran).length === 1) why = "is the only Node that is ready.";
      else if (right) why = leaf ? "is ready, and a leaf goes first." : "is ready, and was made last.";
      else if (this.nodes[next].leaf) why = leaf ? `is ready as well, but PyTorch took the leaf ${this.name(next)} first.` : "is ready as well, but a leaf goes first.";
      return { node, right, why };
    }

    // Who is still to send something to a Node.
    senders(mode, taken, node) {
      const counts = mode.steps.slice(taken).map((step) => [this.name(step.node), step.passed.filter(({ to }) => to === node).length]);
      const sending = counts.filter(([, count]) => count);
      return few(sending.map(([name, count]) => `${sending.length > 1 || count > 1 ? `${count} ` : ""}from ${name}`)).join(" and ");
    }

    // ---- what is shown

    // A moment of a mode. While something is asked, what is ready and what waits is not shown.
    view(mode = this.modes[this.mode], taken = this.taken, answer = null) {
      const question = (mode.questions || []).find(({ before }) => before === taken);
      const step = taken > 0 ? mode.steps[taken - 1] : null;
      const given = answer || this.answers.get(mode.yours ? mode : question);
      const open = mode.yours ? taken < mode.steps.length : Boolean(question && !given?.right);
      return { mode, taken, step, question, answer: mode.yours && !answer && given?.at !== taken ? null : given, open, known: this.knownAfter(mode, taken), wrong: given?.wrong || 0 };
    }

    // What the engine knows after some steps: how often each Node ran, what it waits for, what is held for it.
    knownAfter(mode, taken) {
      const known = this.nodes.map((node) => ({ ran: 0, waits: node.waits, held: {}, given: null }));
      for (const step of mode.steps.slice(0, taken)) {
        Object.assign(known[step.node], { ran: known[step.node].ran + 1, held: {}, given: step.given });
        for (const [node, count] of Object.entries(step.waiting)) known[node].waits = count;
        for (const { to, input, after } of step.passed) if (after !== undefined) known[to].held[input] = after;
      }
      return known;
    }

    show() {
      const view = this.view();
      const { mode, taken, step, known, open } = view;
      const count = mode.steps.length;
      this.kind.value = String(this.mode);
      Object.assign(this.slider, { max: count, value: taken });
      this.slider.setAttribute("aria-valuetext", step ? `Step ${taken} of ${count}: ${this.name(step.node)}` : "Before the first step");
      this.count.textContent = `${taken} / ${count}`;
      // Not disabled, which would lose the focus.
      for (const back of this.backward) back.setAttribute("aria-disabled", String(taken === 0));
      for (const on of this.forward) on.setAttribute("aria-disabled", String(taken === count));
      this.link.setAttribute("href", this.address());
      this.write(this.texts, view);
      this.texts.element.scrollTop = 0;
      for (const [node, { ran, waits, given }] of known.entries()) {
        const [kind, text] = this.state(view, node, ran, waits);
        this.drawing.paintState(node, kind, text, ran ? brief(given[0]) : "");
        const { part } = this.drawing.nodes[node];
        const asked = { tabindex: "0", role: "button", "aria-label": ran ? `${this.name(node)}, ${text}` : this.name(node) };
        for (const [name, value] of Object.entries(asked)) {
          if (open) part.setAttribute(name, value);
          else part.removeAttribute(name);
        }
      }
      this.drawing.paintNumbers(mode, taken);
      this.showMade();
      this.follow(step);
    }

    // Scroll the Node that ran into sight.
    follow(step) {
      const box = this.drawing.svg.parentNode;
      const [inside, part] = [box, step ? this.drawing.nodes[step.node].part : box.firstChild].map((element) => element.getBoundingClientRect());
      if (part.top < inside.top || part.bottom > inside.bottom) box.scrollTop += part.top - inside.top - box.clientHeight / 3;
      if (part.left < inside.left || part.right > inside.right) box.scrollLeft += part.left - inside.left - box.clientWidth / 3;
    }

    // The class of a Node in the graph, and its label.
    state({ mode, step, open }, node, ran, waits) {
      if (step && step.node === node) return ["now", ran > 1 ? `now, ${nth(ran)} time` : "now"];
      if (ran) return ["done", mode.free ? `ran ${times(ran)}` : "done"];
      if (waits === null) return ["", "not needed"];
      if (open) return ["", "?"];
      if (mode.free) return ["", ""];
      return waits === 0 ? ["ready", "ready"] : ["", `waits for ${waits}`];
    }

    // Of the graph that the pass makes, what was made so far.
    showMade() {
      if (!this.second) return;
      const steps = this.modes[0].steps;
      const isMade = (index) => this.modes[this.mode].steps === steps && index < this.taken;
      steps.forEach((step, index) => {
        for (const [node] of step.made) {
          for (const part of this.second.querySelectorAll(`.n${node}, [class*="e${node}-"]`)) part.classList.toggle("player-unmade", !isMade(index));
        }
      });
      this.made.classList.toggle("player-unmade", !steps.some((step, index) => step.made.length && isMade(index)));
    }

    write(texts, view) {
      const { mode, taken, step } = view;
      const count = mode.steps.length;
      texts.told.textContent = step ? `Step ${taken} of ${count}: ${this.name(step.node)} ${step.raised ? "raised an error" : "ran"}.` : `Before step 1 of ${count}.`;
      texts.about.textContent = mode === this.modes[0] ? (taken ? "" : this.hints.start) : mode.about;
      this.writeGate(texts, view);
      const hint = (name, at) => (mode === this.modes[0] && taken === at && this.hints[name] ? [make("p", { class: "player-hint" }, this.hints[name])] : []);
      const error = taken === count && mode.error ? [make("p", { class: "player-error" }, mode.error)] : [];
      texts.show({
        rule: [...(step ? [...hint("rule", 1), ...this.whatNodeDid(step)] : []), ...error],
        engine: error.length ? [] : [...hint("engine", 0), ...this.whatEngineKnows(view)],
        code: texts.hasCode ? [...hint("code", 1), ...this.codeWith(texts, step)] : [],
      });
    }

    writeGate(texts, { mode, taken, question, answer, open, wrong }) {
      texts.gate.hidden = !question && !mode.yours;
      if (texts.gate.hidden) return;
      const options = open && question?.options.length < 9 ? question.options : [];
      texts.ask.textContent = open ? `Which Node runs next? Click it in the drawing${options.length ? ", or here:" : "."}` : mode.yours ? `That was the whole pass, with ${wrong} wrong ${wrong === 1 ? "pick" : "picks"}.` : "Which Node runs next?";
      const shown = open && question ? `asks ${options}` : "";
      if (texts.optionsOf !== shown) { // or the focus would be lost
        texts.optionsOf = shown;
        const showAnswer = button("Show me", () => this.answer(this.view().mode.steps[this.taken].node, true));
        texts.options.replaceChildren(...options.map((node) => button(this.name(node), () => this.answer(node), { "data-node": node })), ...(shown ? [showAnswer] : []));
      }
      for (const choice of texts.options.querySelectorAll("[data-node]")) {
        choice.setAttribute("aria-pressed", String(Number(choice.dataset.node) === answer?.node));
      }
      texts.said.className = `player-said ${answer ? (answer.right ? "player-right" : "player-wrong") : ""}`;
      const sign = answer && make("span", { "aria-hidden": "true" }, answer.right ? "✓ " : "✗ ");
      const verdict = answer && make("strong", {}, answer.shown ? "The answer: " : answer.right ? "Right: " : "Not this one: ");
      texts.said.replaceChildren(...(answer ? [sign, verdict, `${this.name(answer.node)} ${answer.why}`] : []));
    }

    whatNodeDid(step) {
      const severalInputs = step.given.length > 1;
      const came = step.came.map(({ from, slot, input, value }) => {
        const source = from === null ? "to begin with" : `from ${this.along(from, slot)}`;
        return `${value} ${source}${severalInputs ? `, to input ${input}` : ""}`;
      });
      const given = step.given.map((value, input) => {
        const summed = step.came.filter((gradient) => gradient.input === input).length > 1;
        return `${value}${summed ? ", the sum" : ""}${severalInputs ? ` at input ${input}` : ""}`;
      });
      const passed = step.passed.map(({ to, slot, rule, filled, value }) => {
        const terms = [rule, filled, value].filter((text, index, all) => text != null && text !== all[index - 1]);
        const label = this.nodes[step.node].slots > 1 ? `to ${this.name(to)}, slot ${slot}: ` : `to ${this.name(to)}: `;
        return make("span", {}, label, make("code", {}, ...terms.flatMap((term, index) => [make("span", {}, index ? `= ${term}` : term), " "])));
      });
      const value = this.nodes[step.node].value;
      const parts = [labelled("What came:", `${few(came).join("; ")}.`), labelled("What it was given:", `${few(given).join(" and ")}.`)];
      if (step.held) parts.push(paragraph(`It held ${step.held} already, which it had sent on before.`));
      if (step.changed) parts.push(paragraph("A hook changed it on the way."));
      if (passed.length) parts.push(labelled("It sent"), listOf(passed));
      if (step.passed.some(({ rule }) => rule === null)) parts.push(paragraph("Where no rule stands, only the numbers were recorded."));
      if (step.grad) parts.push(paragraph(`Its .grad was ${step.grad[0]} and is ${step.grad[1]}.`));
      if (step.freed.length) parts.push(paragraph(`Then the engine freed what it had saved: ${step.freed.join(", ")}.`));
      if (step.made.length) parts.push(paragraph(`It made ${few(step.made.map(([, made]) => made)).join(", ")}.`));
      if (value !== null) parts.push(paragraph(`Its value when the pass began: ${value}.`));
      return parts;
    }

    whatEngineKnows({ mode, taken, step, known, open }) {
      if (mode.free) {
        const runs = known.flatMap(({ ran }, node) => (ran ? [`${this.name(node)} ran ${times(ran)}`] : []));
        return [paragraph("Nothing: this walk has no queue and counts nothing."), listOf(runs)];
      }
      if (open) return mode.yours ? [] : [paragraph("What is ready, and what waits, is shown after the answer.")];
      const operations = this.nodes.filter((node) => node.made !== null).length;
      const told = (wanted, words) => this.nodes.flatMap((node, i) => (wanted(known[i]) ? [`${node.name}${words(node, known[i])}${this.heldFor(i, known[i], step)}`] : []));
      const ready = told(({ waits, ran }) => waits === 0 && !ran, (node) => (node.leaf ? " (a leaf)" : !node.made ? "" : ` (the ${nth(node.made)} of ${operations} operations)`));
      const waiting = told(({ waits }) => waits > 0, (_, { waits }) => ` waits for ${waits}`);
      const yours = this.modes.findIndex((other) => other.yours);
      const invites = mode === this.modes[0] && taken === mode.steps.length && yours > 0;
      return [
        ...(ready.length ? [labelled("Ready:"), listOf(ready)] : []),
        ...(waiting.length ? [labelled("Waiting:"), listOf(waiting)] : []),
        ...(ready.length || waiting.length ? [] : [paragraph("Nothing is ready and nothing waits: the pass is over.")]),
        ...(invites ? [button("Now you are the engine", () => { this.move(0, yours); this.next.focus(); })] : []),
      ];
    }

    // What is held for a Node until it runs, and how the last step added to it.
    heldFor(node, { held }, step) {
      const texts = Object.entries(held).filter(([, after]) => after !== "empty").map(([input, after]) => {
        const added = step.passed.filter((sent) => sent.to === node && String(sent.input) === input);
        const terms = added.length ? [added[0].before, ...added.map(({ value }) => value)].filter((value) => value !== "empty") : [];
        const sum = terms.length > 1 ? `${terms.join(" + ")} = ${after}` : after;
        const at = Object.keys(held).length > 1 ? ` at input ${input}` : "";
        return (sum.length > 36 ? `${after}, a sum` : sum) + at;
      });
      return texts.length ? `, holds ${texts.join(" and ")}` : "";
    }

    // The lines, with a mark at the one that made the Node.
    codeWith(texts, step) {
      const made = step ? this.nodes[step.node].line : null;
      [...texts.lines.children].forEach((item, index) => {
        if (index === made) item.setAttribute("aria-current", "true");
        else item.removeAttribute("aria-current");
      });
      const leaf = step && made === null ? [paragraph(`${this.name(step.node)} is a leaf: no operation made it.`)] : [];
      return [texts.lines, ...leaf];
    }

    // ---- room. The texts get that of the longest, so that nothing moves from step to step.

    fit(again = false) {
      const width = this.texts.element.clientWidth;
      if (!width || (width === this.fitted && !again)) return;
      this.fitted = width;
      this.ghost.element.style.width = `${width}px`;
      this.ghost.tab = this.texts.tab;
      this.panes.append(this.ghost.element);
      let tallest = 0;
      for (const view of this.views()) {
        this.write(this.ghost, view);
        tallest = Math.max(tallest, this.ghost.element.getBoundingClientRect().height);
      }
      this.ghost.element.remove();
      this.texts.element.style.setProperty("--player-tallest", `${Math.ceil(tallest)}px`);
      this.settle();
    }

    // Every moment, and at each question the longest answers.
    *views() {
      for (const mode of this.modes) {
        for (let taken = 0; taken <= mode.steps.length; taken += 1) {
          const view = this.view(mode, taken, {});
          const asks = taken < mode.steps.length && (view.question || mode.yours);
          const options = asks ? (view.question?.options || this.nodes.keys()) : [];
          const answers = [...options].map((node) => this.judge(mode, taken, view.known, node));
          const longest = [true, false].map((right) => answers.filter((answer) => answer.right === right).sort((a, b) => b.why.length - a.why.length)[0]);
          if (!asks) yield this.view(mode, taken);
          else for (const answer of longest) if (answer) yield this.view(mode, taken, answer);
        }
      }
    }

    // What scrolls must be in reach of the keyboard, which need not stop elsewhere; a frame is as tall as what is in it.
    settle() {
      for (const box of this.figure.querySelectorAll(".player-scroll, .player-story")) {
        if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
        else box.removeAttribute("tabindex");
      }
      if (framed && window.frameElement) window.frameElement.style.height = `${document.documentElement.offsetHeight + 4}px`;
    }
  }

  // In a notebook the player follows the theme of the notebook, and not of the system.
  function followNotebook() {
    let notebook;
    try {
      notebook = window.parent.document.body;
    } catch {
      return; // of another host, which does not show its colours
    }
    const isDark = () => {
      if (notebook.dataset.jpThemeLight) return notebook.dataset.jpThemeLight === "false";
      const [red, green, blue, alpha = 1] = numbersIn(getComputedStyle(notebook).backgroundColor);
      return alpha > 0 ? red + green + blue < 384 : null;
    };
    const follow = () => {
      const dark = isDark();
      document.documentElement.style.colorScheme = dark === null ? "" : dark ? "dark" : "light";
    };
    new MutationObserver(follow).observe(notebook, { attributes: true });
    follow();
  }

  function start() {
    if (framed && window.parent !== window) followNotebook();
    const seen = {};
    for (const figure of document.querySelectorAll("figure.player")) {
      const { key } = figure.dataset;
      seen[key] = (seen[key] || 0) + 1;
      if (!("started" in figure.dataset)) new (figure.querySelector(".player-inner") ? playerBlocks(Player) : Player)(figure, seen[key] > 1 ? `${key}.${seen[key]}` : key);
    }
  }
  start(); // it stands below all players of its page
})();
