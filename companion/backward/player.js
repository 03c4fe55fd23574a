// Turns each figure.player of a page into a player. The figure brings its data as JSON and a drawing, whose
// Nodes have the classes n0, n1, … and whose arrows e0-0, e0-1, … (Node and slot).
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
  const list = (tag, lines) => make(tag, {}, ...lines.map((line) => make("li", {}, line)));
  const pane = (name, title, ...inside) =>
    make("div", { class: `player-pane player-${name}`, role: "group", "aria-label": title }, make("p", { class: "player-title" }, title), ...inside);
  const scrolls = (name, ...inside) => make("div", { class: "player-scroll", tabindex: 0, role: "group", "aria-label": name }, ...inside);
  const times = (n) => (n === 1 ? "once" : `${n} times`);
  const nth = (n) => `${n}${n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th"}`;

  function start(figure, key) {
    figure.dataset.started = "";
    const story = figure.querySelector(".player-story");
    const { nodes, lines, modes } = JSON.parse(figure.querySelector(".player-data").textContent);
    const name = (i) => nodes[i].name;
    const slot = (i, k) => (nodes[i].slots > 1 ? `, slot ${k}` : "");
    const framed = location.protocol === "about:"; // made from text, as in a notebook: it has no address of its own
    const answers = new Map(); // of the questions that are settled, what was said
    let mode = 0; // which of the modes
    let at = 0; // how many steps were taken
    const seen = modes.map(() => 0); // how many steps were ever taken, in each mode

    // The second mode repeats the steps of the first.
    const steps = modes.map((m) => m.steps || modes[0].steps.slice(0, m.stop).map((s, k) => ({ ...s, made: [], freed: [], grad: m.grads[k] || s.grad })));
    modes.forEach((m, k) => m.last && steps[k].push(m.last));

    // ---- the parts of the page

    const button = (label, go) => make("button", { type: "button", onclick: go }, label);
    const first = button("First", () => move(0));
    const previous = button("Previous", () => move(at - 1));
    const next = button("Next", () => move(at + 1));
    const last = button("Last", () => move(Infinity));
    const jump = make("select", { "aria-label": "Go to step", onchange: () => move(Number(jump.value)) });
    const choose = make("select", { "aria-label": "What to play", onchange: () => { move(0, Number(choose.value)); next.focus(); } });
    choose.append(...modes.map((m, k) => make("option", { value: k }, m.title)));
    const link = make("a", {}, "Link to this step");
    const table = make("button", { type: "button", "aria-expanded": "false", onclick: unfold }, "The engine's steps as a table");
    const about = make("p", { class: "player-about" });
    const told = make("p", { class: "player-told", "aria-live": "polite" });
    const gate = make("div", { class: "player-gate", "aria-live": "polite" });
    const graph = story.querySelector(".player-graph").cloneNode(true);
    const second = story.querySelector(".player-second")?.cloneNode(true);
    const code = list("ol", lines.map((line) => (line === null ? "(not recorded)" : make("code", {}, line))));
    const noCode = make("p", {});
    const rule = make("div", {});
    const engine = make("div", {});
    const live = make(
      "div", { class: "player-live", onkeydown: press },
      make("div", { class: "player-bar", role: "group", "aria-label": "Steps" }, first, previous, next, last, jump),
      make("div", { class: "player-bar" }, ...(modes.length > 1 ? [choose] : []), ...(framed ? [] : [link]), table),
      about, told, gate,
      make(
        "div", { class: "player-panes" },
        pane("picture", "Graph", scrolls("Graph", graph)),
        pane("rule", "What this Node did", rule),
        pane("engine", "What the engine knows", engine),
        pane("code", "Code", ...(lines.some((text) => text !== null) ? [scrolls("Code", code)] : []), noCode),
        ...(second ? [pane("picture", "The graph that the pass makes", scrolls("New graph", second))] : []),
      ),
    );
    figure.insertBefore(live, story);
    figure.classList.add("player-started");
    for (const [i, node] of nodes.entries()) {
      for (const part of graph.querySelectorAll(`.n${i}`)) {
        part.addEventListener("click", () => {
          const step = steps[mode].findIndex((s) => s.node === i);
          if (step < 0) return;
          move(step + 1);
          next.focus();
        });
      }
    }

    // ---- moving

    function move(to, which = mode, keep = true) {
      mode = which;
      at = Math.max(0, Math.min(to, steps[mode].length));
      const focused = document.activeElement;
      show();
      if (!document.contains(focused)) next.focus();
      if (keep && !framed) history.replaceState(history.state, "", `#play-${key}-${mode}-${at}`);
    }

    function follow() {
      const found = location.hash.match(/^#play-([\w.]+)-(\d+)-(\d+)$/);
      if (!found || found[1] !== key || !modes[found[2]]) return;
      move(Number(found[3]), Number(found[2]), false);
      figure.scrollIntoView();
    }

    function press(event) {
      const box = event.target.closest(".player-scroll");
      const busy = event.target.matches("select") || (box && box.scrollWidth > box.clientWidth);
      const keys = { ArrowLeft: () => move(at - 1), ArrowRight: () => move(at + 1), Home: () => move(0), End: () => move(Infinity) };
      if (busy || !keys[event.key] || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      event.preventDefault();
      keys[event.key]();
    }

    function unfold() {
      const open = figure.classList.toggle("player-unfolded");
      table.setAttribute("aria-expanded", String(open));
    }

    // The question that belongs to this moment. Until it is settled, what is ready and what waits is not shown.
    function ask() {
      const question = (modes[mode].questions || []).find((g) => g.before === at);
      const said = make("p", {}, answers.get(question) || "");
      const say = (option) => {
        const text = `${option.right ? "Yes" : "No"}, ${name(option.node)}: ${option.why}`;
        said.textContent = text;
        if (option.right) settle(text);
      };
      const settle = (text) => {
        const focused = document.activeElement;
        answers.set(question, text);
        show();
        if (gate.contains(focused) || !document.contains(focused)) next.focus();
      };
      const right = question?.options.find((option) => option.right);
      gate.replaceChildren(
        ...(question ? [make("p", {}, "Which Node runs next?")] : []),
        ...(question && !answers.has(question)
          ? [make("div", { class: "player-bar" }, ...question.options.map((o) => button(name(o.node), () => say(o))), button("Show me", () => settle(`${name(right.node)}: ${right.why}`)))]
          : []),
        ...(question ? [said] : []),
      );
      return Boolean(question && !answers.has(question));
    }

    // ---- what stands in the parts

    function show() {
      const m = modes[mode];
      const step = at > 0 ? steps[mode][at - 1] : null;
      const error = at === steps[mode].length ? m.error : null;
      const now = known();
      seen[mode] = Math.max(seen[mode], at);
      figure.classList.toggle("player-asks", Boolean(m.questions && m.questions.length));
      about.textContent = m.about;
      choose.value = String(mode);
      jump.replaceChildren(make("option", { value: 0 }, "Before the first step"), ...steps[mode].map((s, k) => make("option", { value: k + 1 }, `Step ${k + 1} of ${steps[mode].length}${k < seen[mode] ? `: ${name(s.node)}` : ""}`)));
      jump.value = String(at);
      // Not disabled, or the focus would be lost on the way.
      for (const back of [first, previous]) back.setAttribute("aria-disabled", String(at === 0));
      for (const on of [next, last]) on.setAttribute("aria-disabled", String(at === steps[mode].length));
      link.setAttribute("href", `#play-${key}-${mode}-${at}`);
      const veiled = ask();
      told.textContent = step ? `Step ${at} of ${steps[mode].length}: ${name(step.node)} ${step.raised ? "raised an error" : "ran"}.` : `Before step 1 of ${steps[mode].length}.`;
      rule.replaceChildren(...(step ? rules(step) : [make("p", {}, "No Node has run yet.")]), ...(error ? [make("p", { class: "player-error" }, error)] : []));
      engine.replaceChildren(...state(step, now, veiled));
      lit(step);
      paint(step, now, veiled);
      grow();
    }

    // What the engine knows after the steps taken: how often each Node ran, what it waits for, what its buffers hold.
    function known() {
      const now = nodes.map((node) => ({ ran: 0, waits: node.waits, buffer: {} }));
      for (const s of steps[mode].slice(0, at)) {
        now[s.node].ran += 1;
        now[s.node].buffer = {};
        for (const [i, n] of Object.entries(s.waiting)) now[i].waits = n;
        for (const p of s.passed) if (p.after !== undefined) now[p.to].buffer[p.input] = p.after;
      }
      return now;
    }

    function rules(step) {
      const parts = [];
      const several = step.given.length > 1;
      const from = (c) => (c.from === null ? "to begin with" : `from ${name(c.from)}${slot(c.from, c.slot)}`);
      const came = step.came.map((c) => `${c.value} ${from(c)}${several ? `, to input ${c.input}` : ""}`);
      const given = step.given.map((value, k) => {
        const summed = step.came.filter((c) => c.input === k).length > 1;
        return `${value}${summed ? ", the sum" : ""}${several ? ` at input ${k}` : ""}`;
      });
      parts.push(make("p", {}, `Came: ${came.join("; ")}.`));
      parts.push(make("p", {}, `${name(step.node)} was given ${given.join(" and ")}.`));
      if (step.held) parts.push(make("p", {}, `Its buffer held ${step.held} already, which was passed on before.`));
      if (step.changed) parts.push(make("p", {}, "A hook changed it on the way."));
      const passed = step.passed.map((p) => {
        const how = [p.rule, p.filled, p.value].filter((text, k, all) => text !== null && text !== all[k - 1]);
        return make("span", {}, `to ${name(p.to)}${slot(step.node, p.slot)}: `, make("code", {}, how.join(" = ")));
      });
      if (passed.length) parts.push(make("p", {}, "It gave on:"), list("ul", passed));
      if (step.passed.some((p) => p.rule === null)) parts.push(make("p", {}, "Where no rule stands, only the numbers were recorded."));
      if (step.grad) parts.push(make("p", {}, `Its .grad was ${step.grad[0]} and is ${step.grad[1]}.`));
      if (step.freed.length) parts.push(make("p", {}, `Then the engine freed what it had saved: ${step.freed.join(", ")}.`));
      if (step.made.length) parts.push(make("p", {}, `It made ${step.made.map((m) => m[1]).join(", ")}.`));
      if (nodes[step.node].value !== null) parts.push(make("p", {}, `Value when the pass began: ${nodes[step.node].value}.`));
      return parts;
    }

    function state(step, now, veiled) {
      if (modes[mode].free) return [make("p", {}, "Nothing: this walk has no queue and counts nothing."), list("ul", now.flatMap((n, i) => (n.ran ? [`${name(i)} ran ${times(n.ran)}`] : [])))];
      const sent = (step ? step.passed : []).filter((p) => p.after !== undefined);
      const parts = [];
      if (sent.length) {
        const head = ["To", "Buffer before", "Came", "Buffer after", ...(veiled ? [] : ["Still waits for"])];
        const row = (cells, tag) => make("tr", {}, ...cells.map((cell) => make(tag, {}, String(cell))));
        const rows = sent.map((p) => row([name(p.to) + (p.input ? `, input ${p.input}` : ""), p.before, p.value, p.after, ...(veiled ? [] : [step.waiting[p.to]])], "td"));
        parts.push(scrolls("Buffers", make("table", { class: "player-sums" }, make("thead", {}, row(head, "th")), make("tbody", {}, ...rows))));
      }
      if (veiled) return [...parts, make("p", {}, "What is ready, and what waits, is shown after the question.")];
      const made = nodes.filter((node) => node.made !== null).length;
      const ready = nodes.flatMap((node, i) => (now[i].waits === 0 && !now[i].ran ? [`${node.name} (${node.leaf ? "a leaf" : `the ${nth(node.made)} of ${made} operations`})`] : []));
      const waiting = nodes.flatMap((node, i) => {
        const held = Object.values(now[i].buffer).join(", ");
        return now[i].waits > 0 ? [`${node.name} waits for ${now[i].waits}${held ? `, holds ${held}` : ""}`] : [];
      });
      parts.push(make("p", {}, ready.length ? "Ready:" : "Ready: none."), ...(ready.length ? [list("ul", ready)] : []));
      parts.push(make("p", {}, waiting.length ? "Waiting:" : "Waiting: none."), ...(waiting.length ? [list("ul", waiting)] : []));
      return parts;
    }

    function lit(step) {
      const line = step ? nodes[step.node].line : null;
      [...code.children].forEach((item, k) => {
        if (k === line) item.setAttribute("aria-current", "true");
        else item.removeAttribute("aria-current");
        if (k === line && code.parentNode) code.parentNode.scrollTop = item.offsetTop - code.parentNode.clientHeight / 2;
      });
      const leaf = step && nodes[step.node].leaf;
      if (lines.every((text) => text === null)) noCode.textContent = "Not recorded. Torch notes lines while the forward pass runs under torch.autograd.set_detect_anomaly(True, check_nan=False).";
      else noCode.textContent = leaf ? `${name(step.node)} is a leaf: no operation made it.` : "";
    }

    function paint(step, now, veiled) {
      graph.querySelectorAll(".player-badge").forEach((badge) => badge.remove());
      graph.querySelectorAll(".node, .edge").forEach((part) => part.classList.remove("now", "ready", "done", "flow"));
      for (const [i, n] of now.entries()) {
        const current = step && step.node === i;
        const [kind, text] = current ? ["now", n.ran > 1 ? `now, ${nth(n.ran)} time` : "now"]
          : n.ran ? ["done", modes[mode].free ? `ran ${times(n.ran)}` : "done"]
          : n.waits === null ? ["", "not needed"]
          : modes[mode].free || veiled ? ["", ""]
          : n.waits === 0 ? ["ready", "ready"] : ["", `waits for ${n.waits}`];
        for (const part of graph.querySelectorAll(`.node.n${i}:not(.none)`)) {
          if (kind) part.classList.add(kind);
          badge(part, text);
        }
      }
      for (const p of step ? step.passed : []) {
        for (const edge of graph.querySelectorAll(`.e${step.node}-${p.slot}`)) {
          edge.classList.add("flow");
          badge(edge, p.value.length > 12 ? "…" : p.value, edge.querySelector("path"));
        }
      }
    }

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

    // Of the graph that the pass makes, what was made so far.
    function grow() {
      if (!second) return;
      modes[0].steps.forEach((s, k) => {
        const hidden = mode !== 0 || k >= at;
        for (const [i] of s.made) {
          for (const part of second.querySelectorAll(`.n${i}, [class*="e${i}-"]`)) part.classList.toggle("player-unmade", hidden);
        }
      });
    }

    window.addEventListener("hashchange", follow);
    show();
    follow();
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
