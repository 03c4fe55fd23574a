// Turns each figure.player of a page into a player. The figure brings its data as JSON, which player_format.py
// describes object by object, and a drawing, whose Nodes have the classes n0, n1, … and whose arrows e0-0, e0-1, …
// (Node and slot).
(() => {
  "use strict";

  const make = (tag, attributes = {}, ...inside) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...inside);
    return element;
  };
  const button = (label, onclick) => make("button", { type: "button", onclick }, label);
  const paragraph = (...inside) => make("p", {}, ...inside);
  const list = (tag, lines) => make(tag, {}, ...lines.map((line) => make("li", {}, line)));
  const tableRow = (tag, cells) => make("tr", {}, ...cells.map((cell) => make(tag, {}, String(cell))));
  const pane = (name, title, ...inside) =>
    make("div", { class: `player-pane player-${name}`, role: "group", "aria-label": title }, make("p", { class: "player-title" }, title), ...inside);
  const scrolls = (name, ...inside) => make("div", { class: "player-scroll", tabindex: 0, role: "group", "aria-label": name }, ...inside);
  const times = (n) => (n === 1 ? "once" : `${n} times`);
  const nth = (n) => `${n}${n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th"}`;

  // The steps of each mode. A second pass repeats those of the engine, with another .grad, up to the one that fails.
  function stepsOf(modes) {
    const engine = modes[0].steps;
    return modes.map((mode) => {
      if (mode.steps) return mode.steps;
      const again = engine.slice(0, mode.stop).map((step, index) => ({ ...step, made: [], freed: [], grad: mode.grads[index] || step.grad }));
      return mode.last ? [...again, mode.last] : again;
    });
  }

  // A label on a Node of a drawing, or beside the path of an arrow.
  function badge(part, text, path) {
    const box = part.getBBox();
    const middle = path?.getPointAtLength(path.getTotalLength() * 0.7);
    const [x, y] = middle ? [middle.x - 5, middle.y] : [box.x, box.y - 3];
    const label = document.createElementNS("http://www.w3.org/2000/svg", "text");
    label.setAttribute("class", "player-badge");
    label.setAttribute("x", x);
    label.setAttribute("y", y);
    label.textContent = text;
    part.append(label);
  }

  function start(figure, key) {
    figure.dataset.started = "";
    const storyboard = figure.querySelector(".player-story");
    const { nodes, lines, modes } = JSON.parse(figure.querySelector(".player-data").textContent);
    const steps = stepsOf(modes);
    const name = (node) => nodes[node].name;
    const slotText = (node, slot) => (nodes[node].slots > 1 ? `, slot ${slot}` : "");
    const framed = location.protocol === "about:"; // made from text, as in a notebook: it has no address of its own
    const answers = new Map(); // of the questions that are settled, what was said
    let mode = 0; // which of the modes is played
    let taken = 0; // how many of its steps were taken
    const furthest = modes.map(() => 0); // how many steps were ever taken, in each mode

    // ---- the parts of the page

    const first = button("First", () => move(0));
    const previous = button("Previous", () => move(taken - 1));
    const next = button("Next", () => move(taken + 1));
    const last = button("Last", () => move(Infinity));
    const stepChoice = make("select", { "aria-label": "Go to step", onchange: () => move(Number(stepChoice.value)) });
    const modeChoice = make("select", { "aria-label": "What to play", onchange: () => { move(0, Number(modeChoice.value)); next.focus(); } });
    modeChoice.append(...modes.map(({ title }, index) => make("option", { value: index }, title)));
    const link = make("a", {}, "Link to this step");
    const unfold = make("button", { type: "button", "aria-expanded": "false", onclick: unfoldTable }, "The engine's steps as a table");
    const about = make("p", { class: "player-about" });
    const status = make("p", { class: "player-told", "aria-live": "polite" });
    const gate = make("div", { class: "player-gate", "aria-live": "polite" });
    const graph = storyboard.querySelector(".player-graph").cloneNode(true);
    const second = storyboard.querySelector(".player-second")?.cloneNode(true);
    const code = list("ol", lines.map((line) => (line === null ? "(not recorded)" : make("code", {}, line))));
    const hasCode = lines.some((line) => line !== null);
    const noCode = paragraph();
    const nodePane = make("div", {});
    const enginePane = make("div", {});
    const live = make(
      "div", { class: "player-live", onkeydown: onKey },
      make("div", { class: "player-bar", role: "group", "aria-label": "Steps" }, first, previous, next, last, stepChoice),
      make("div", { class: "player-bar" }, ...(modes.length > 1 ? [modeChoice] : []), ...(framed ? [] : [link]), unfold),
      about, status, gate,
      make(
        "div", { class: "player-panes" },
        pane("picture", "Graph", scrolls("Graph", graph)),
        pane("rule", "What this Node did", nodePane),
        pane("engine", "What the engine knows", enginePane),
        pane("code", "Code", ...(hasCode ? [scrolls("Code", code)] : []), noCode),
        ...(second ? [pane("picture", "The graph that the pass makes", scrolls("New graph", second))] : []),
      ),
    );
    figure.insertBefore(live, storyboard);
    figure.classList.add("player-started");
    for (const node of nodes.keys()) {
      for (const part of graph.querySelectorAll(`.n${node}`)) part.addEventListener("click", () => moveToNode(node));
    }

    // ---- moving

    function move(to, toMode = mode, keep = true) {
      mode = toMode;
      taken = Math.max(0, Math.min(to, steps[mode].length));
      furthest[mode] = Math.max(furthest[mode], taken);
      const focused = document.activeElement;
      show();
      if (!document.contains(focused)) next.focus();
      if (keep && !framed) history.replaceState(history.state, "", address());
    }

    function moveToNode(node) {
      const index = steps[mode].findIndex((step) => step.node === node);
      if (index < 0) return;
      move(index + 1);
      next.focus();
    }

    function address() {
      return `#play-${key}-${mode}-${taken}`;
    }

    function followAddress() {
      const found = location.hash.match(/^#play-([\w.]+)-(\d+)-(\d+)$/);
      if (!found || found[1] !== key || !modes[found[2]]) return;
      move(Number(found[3]), Number(found[2]), false);
      figure.scrollIntoView();
    }

    function onKey(event) {
      const box = event.target.closest(".player-scroll");
      const busy = event.target.matches("select") || (box && box.scrollWidth > box.clientWidth);
      const keys = { ArrowLeft: () => move(taken - 1), ArrowRight: () => move(taken + 1), Home: () => move(0), End: () => move(Infinity) };
      if (busy || !keys[event.key] || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      event.preventDefault();
      keys[event.key]();
    }

    function unfoldTable() {
      const open = figure.classList.toggle("player-unfolded");
      unfold.setAttribute("aria-expanded", String(open));
    }

    // ---- what stands in the parts

    function show() {
      const { about: text, questions, error } = modes[mode];
      const count = steps[mode].length;
      const step = taken > 0 ? steps[mode][taken - 1] : null;
      figure.classList.toggle("player-asks", Boolean(questions && questions.length));
      about.textContent = text;
      showControls(count);
      // Until a question is settled, what is ready and what waits is not shown.
      const question = (questions || []).find(({ before }) => before === taken);
      const veiled = Boolean(question && !answers.has(question));
      const known = knownAfterwards();
      showQuestion(question, veiled);
      status.textContent = step ? `Step ${taken} of ${count}: ${name(step.node)} ${step.raised ? "raised an error" : "ran"}.` : `Before step 1 of ${count}.`;
      nodePane.replaceChildren(...(step ? whatNodeDid(step) : [paragraph("No Node has run yet.")]), ...(taken === count && error ? [make("p", { class: "player-error" }, error)] : []));
      enginePane.replaceChildren(...whatEngineKnows(step, known, veiled));
      showLine(step);
      paintGraph(step, known, veiled);
      showMade();
    }

    function showControls(count) {
      modeChoice.value = String(mode);
      const options = steps[mode].map((step, index) => {
        const ran = index < furthest[mode] ? `: ${name(step.node)}` : "";
        return make("option", { value: index + 1 }, `Step ${index + 1} of ${count}${ran}`);
      });
      stepChoice.replaceChildren(make("option", { value: 0 }, "Before the first step"), ...options);
      stepChoice.value = String(taken);
      // Not disabled, or the focus would be lost on the way.
      for (const back of [first, previous]) back.setAttribute("aria-disabled", String(taken === 0));
      for (const on of [next, last]) on.setAttribute("aria-disabled", String(taken === count));
      link.setAttribute("href", address());
    }

    function showQuestion(question, open) {
      if (!question) {
        gate.replaceChildren();
        return;
      }
      const said = paragraph(answers.get(question) || "");
      const settle = (text) => {
        const focused = document.activeElement;
        answers.set(question, text);
        show();
        if (gate.contains(focused) || !document.contains(focused)) next.focus();
      };
      const choose = ({ node, right, why }) => {
        const text = `${right ? "Yes" : "No"}, ${name(node)}: ${why}`;
        said.textContent = text;
        if (right) settle(text);
      };
      const showAnswer = () => {
        const { node, why } = question.options.find((option) => option.right);
        settle(`${name(node)}: ${why}`);
      };
      const buttons = question.options.map((option) => button(name(option.node), () => choose(option)));
      const bar = open ? [make("div", { class: "player-bar" }, ...buttons, button("Show me", showAnswer))] : [];
      gate.replaceChildren(paragraph("Which Node runs next?"), ...bar, said);
    }

    // What the engine knows after the steps taken: how often each Node ran, what it waits for, what its buffers hold.
    function knownAfterwards() {
      const known = nodes.map((node) => ({ ran: 0, waits: node.waits, buffer: {} }));
      for (const step of steps[mode].slice(0, taken)) {
        known[step.node].ran += 1;
        known[step.node].buffer = {};
        for (const [node, count] of Object.entries(step.waiting)) known[node].waits = count;
        for (const { to, input, after } of step.passed) if (after !== undefined) known[to].buffer[input] = after;
      }
      return known;
    }

    function whatNodeDid(step) {
      const severalInputs = step.given.length > 1;
      const came = step.came.map(({ from, slot, input, value }) => {
        const source = from === null ? "to begin with" : `from ${name(from)}${slotText(from, slot)}`;
        return `${value} ${source}${severalInputs ? `, to input ${input}` : ""}`;
      });
      const given = step.given.map((value, input) => {
        const summed = step.came.filter((gradient) => gradient.input === input).length > 1;
        return `${value}${summed ? ", the sum" : ""}${severalInputs ? ` at input ${input}` : ""}`;
      });
      const passed = step.passed.map(({ to, slot, rule, filled, value }) => {
        const terms = [rule, filled, value].filter((text, index, all) => text !== null && text !== all[index - 1]);
        return make("span", {}, `to ${name(to)}${slotText(step.node, slot)}: `, make("code", {}, terms.join(" = ")));
      });
      const value = nodes[step.node].value;
      const parts = [paragraph(`Came: ${came.join("; ")}.`), paragraph(`${name(step.node)} was given ${given.join(" and ")}.`)];
      if (step.held) parts.push(paragraph(`Its buffer held ${step.held} already, which was passed on before.`));
      if (step.changed) parts.push(paragraph("A hook changed it on the way."));
      if (passed.length) parts.push(paragraph("It gave on:"), list("ul", passed));
      if (step.passed.some(({ rule }) => rule === null)) parts.push(paragraph("Where no rule stands, only the numbers were recorded."));
      if (step.grad) parts.push(paragraph(`Its .grad was ${step.grad[0]} and is ${step.grad[1]}.`));
      if (step.freed.length) parts.push(paragraph(`Then the engine freed what it had saved: ${step.freed.join(", ")}.`));
      if (step.made.length) parts.push(paragraph(`It made ${step.made.map(([, made]) => made).join(", ")}.`));
      if (value !== null) parts.push(paragraph(`Value when the pass began: ${value}.`));
      return parts;
    }

    function whatEngineKnows(step, known, veiled) {
      if (modes[mode].free) {
        const runs = known.flatMap(({ ran }, node) => (ran ? [`${name(node)} ran ${times(ran)}`] : []));
        return [paragraph("Nothing: this walk has no queue and counts nothing."), list("ul", runs)];
      }
      const sums = step ? sumsOf(step, veiled) : [];
      if (veiled) return [...sums, paragraph("What is ready, and what waits, is shown after the question.")];
      const operations = nodes.filter((node) => node.made !== null).length;
      const ready = nodes.flatMap((node, i) => {
        const kind = node.leaf ? "a leaf" : `the ${nth(node.made)} of ${operations} operations`;
        return known[i].waits === 0 && !known[i].ran ? [`${node.name} (${kind})`] : [];
      });
      const waiting = nodes.flatMap((node, i) => {
        const held = Object.values(known[i].buffer).join(", ");
        return known[i].waits > 0 ? [`${node.name} waits for ${known[i].waits}${held ? `, holds ${held}` : ""}`] : [];
      });
      const titled = (title, items) => (items.length ? [paragraph(`${title}:`), list("ul", items)] : [paragraph(`${title}: none.`)]);
      return [...sums, ...titled("Ready", ready), ...titled("Waiting", waiting)];
    }

    // The buffers to which a step added something.
    function sumsOf(step, veiled) {
      const added = step.passed.filter(({ after }) => after !== undefined);
      if (!added.length) return [];
      const head = tableRow("th", ["To", "Buffer before", "Came", "Buffer after", ...(veiled ? [] : ["Still waits for"])]);
      const rows = added.map(({ to, input, before, value, after }) =>
        tableRow("td", [name(to) + (input ? `, input ${input}` : ""), before, value, after, ...(veiled ? [] : [step.waiting[to]])]));
      return [scrolls("Buffers", make("table", { class: "player-sums" }, make("thead", {}, head), make("tbody", {}, ...rows)))];
    }

    // Marks the line that made the Node.
    function showLine(step) {
      const line = step ? nodes[step.node].line : null;
      const box = code.parentNode;
      [...code.children].forEach((item, index) => {
        if (index === line) item.setAttribute("aria-current", "true");
        else item.removeAttribute("aria-current");
        if (index === line && box) box.scrollTop = item.offsetTop - box.clientHeight / 2;
      });
      const leaf = step && nodes[step.node].leaf;
      if (!hasCode) noCode.textContent = "Not recorded. Torch notes lines while the forward pass runs under torch.autograd.set_detect_anomaly(True, check_nan=False).";
      else noCode.textContent = leaf ? `${name(step.node)} is a leaf: no operation made it.` : "";
    }

    function paintGraph(step, known, veiled) {
      graph.querySelectorAll(".player-badge").forEach((label) => label.remove());
      graph.querySelectorAll(".node, .edge").forEach((part) => part.classList.remove("now", "ready", "done", "flow"));
      for (const [node, { ran, waits }] of known.entries()) {
        const [kind, text] = look(step && step.node === node, ran, waits, veiled);
        for (const part of graph.querySelectorAll(`.node.n${node}:not(.none)`)) {
          if (kind) part.classList.add(kind);
          badge(part, text);
        }
      }
      for (const { slot, value } of step ? step.passed : []) {
        for (const edge of graph.querySelectorAll(`.e${step.node}-${slot}`)) {
          edge.classList.add("flow");
          badge(edge, value.length > 12 ? "…" : value, edge.querySelector("path"));
        }
      }
    }

    // The class of a Node in the graph, and its label.
    function look(current, ran, waits, veiled) {
      const free = modes[mode].free;
      if (current) return ["now", ran > 1 ? `now, ${nth(ran)} time` : "now"];
      if (ran) return ["done", free ? `ran ${times(ran)}` : "done"];
      if (waits === null) return ["", "not needed"];
      if (free || veiled) return ["", ""];
      return waits === 0 ? ["ready", "ready"] : ["", `waits for ${waits}`];
    }

    // Of the graph that the pass makes, shows what was made so far.
    function showMade() {
      if (!second) return;
      modes[0].steps.forEach((step, index) => {
        const hidden = mode !== 0 || index >= taken;
        for (const [node] of step.made) {
          for (const part of second.querySelectorAll(`.n${node}, [class*="e${node}-"]`)) part.classList.toggle("player-unmade", hidden);
        }
      });
    }

    window.addEventListener("hashchange", followAddress);
    show();
    followAddress();
  }

  function startAll() {
    const seen = {};
    for (const figure of document.querySelectorAll("figure.player")) {
      const key = figure.dataset.key;
      seen[key] = (seen[key] || 0) + 1;
      if (!("started" in figure.dataset)) start(figure, seen[key] > 1 ? `${key}.${seen[key]}` : key);
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
