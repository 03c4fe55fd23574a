// The drawing of a player: states in its boxes, numbers on its arrows. All is measured in the units of the drawing, from
// what Graphviz wrote, so it can be laid out while nobody sees it. player.js, below this, takes what is returned here.
var playerDrawing = (() => {
  "use strict";

  const { fill } = playerTexts;
  const draw = (tag, attributes, ...inside) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, inside);

  const numbersIn = (text) => (text.match(/-?\d+(\.\d+)?(e-?\d+)?/g) || []).map(Number);
  const pairs = (numbers) => numbers.flatMap((x, i) => (i % 2 ? [] : [[x, numbers[i + 1]]]));
  const widthOf = (text, size) => [...text].reduce((width, letter) => width + (/[\[\]().,:; -]/.test(letter) ? 0.36 : 0.6) * size, 0);
  const around = (points) => {
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  };
  const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const inside = (box, [x, y]) => box[0] < x && x < box[2] && box[1] < y && y < box[3];

  // Points along an arrow, close to each other. Its path consists of Bézier curves.
  function pointsOf(edge) {
    const [first, ...rest] = pairs(numbersIn(edge.querySelector("path").getAttribute("d")));
    const found = [first];
    for (let from = first, i = 0; i + 2 < rest.length; from = rest[i + 2], i += 3) {
      const curve = [from, ...rest.slice(i, i + 3)];
      for (let t = 0.02; t < 1.01; t += 0.02) {
        const weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
        found.push([0, 1].map((axis) => curve.reduce((sum, point, k) => sum + weights[k] * point[axis], 0)));
      }
    }
    return found;
  }

  // A value that has room on an arrow.
  const brief = (value) => (value.length <= 12 || value.startsWith("norm ") ? value : value[0] === "(" ? value.slice(0, value.indexOf(")") + 1) : "[…]");

  // Where a number may stand, best first: how far along its arrow, and how far beside it, in its own widths.
  const CANDIDATES = [0.5, 0.4, 0.6, 0.32, 0.68, 0.24, 0.76]
    .flatMap((along) => [0, 0.25, -0.25, 0.45, -0.45, 0.65, -0.65].map((shift) => [along, shift]))
    .sort(([a, b], [c, d]) => Math.abs(a - 0.5) + Math.abs(b) - Math.abs(c - 0.5) - Math.abs(d));

  class Drawing {
    constructor(svg, nodes) {
      this.svg = svg;
      svg.setAttribute("role", "group"); // what is in an image cannot be reached
      this.nodes = nodes.map((_, node) => {
        const part = svg.querySelector(`.node.n${node}:not(.none)`);
        const shape = part.querySelector("polygon:last-of-type, path");
        const line = [...part.querySelectorAll("text")].pop();
        const [number] = line.textContent.match(/^#\d+/) || [""];
        const block = part.classList.contains("folded");
        return { part, line, number, block, box: around(pairs(numbersIn(shape.getAttribute("points") || shape.getAttribute("d")))) };
      });
      this.edges = [...svg.querySelectorAll(".edge")].map((part) => {
        const text = part.querySelector("text");
        const [x, y] = ["x", "y"].map((name) => Number(text?.getAttribute(name)));
        const half = text ? widthOf(text.textContent, 10) / 2 : 0;
        const tip = part.querySelector("polygon")?.getAttribute("points");
        return { part, key: part.getAttribute("class").match(/e\d+-\d+/)?.[0], points: pointsOf(part), head: tip ? [around(pairs(numbersIn(tip)))] : [], label: text ? [[x - half, y - 9, x + half, y + 3]] : [] };
      });
      this.places = new Map();
      const [, , width] = numbersIn(svg.getAttribute("viewBox"));
      this.sides = [-3, width - 5]; // Graphviz leaves 4 on each side
    }

    // Where the numbers of a mode stand: on their own arrows, and on nothing else; with their slot, where there is room.
    placesOf(mode) {
      if (this.places.has(mode)) return this.places.get(mode);
      const widest = new Map(); // by arrow: with its slot, and without
      for (const { node, passed } of mode.steps) {
        for (const { slot, value } of passed) {
          const key = `e${node}-${slot}`;
          const [slotText, number] = this.pillText(node, slot, value);
          const widths = [slotText + number, number].map((text) => widthOf(text, 10) + 8);
          widest.set(key, widths.map((width, i) => Math.max(width, widest.get(key)?.[i] || 0)));
        }
      }
      const [most, all] = [true, false].map((slots) => this.placed(widest, slots));
      this.places.set(mode, most.size < all.size ? all : most);
      return this.places.get(mode);
    }

    placed(widest, slots) {
      const places = new Map();
      const taken = this.nodes.map(({ box }) => box);
      for (const [key, [wide, narrow]] of widest) {
        const edge = this.edges.find((candidate) => candidate.key === key);
        if (!edge) continue; // of a block to a leaf that many use
        const withSlot = slots && this.freePlace(edge, wide, taken);
        const box = withSlot || this.freePlace(edge, narrow, taken);
        if (!box) continue;
        places.set(key, { box, withSlot });
        taken.push(box);
      }
      return places;
    }

    freePlace(edge, width, taken) {
      const others = this.edges.filter((other) => other !== edge);
      const full = [...taken, ...edge.head, ...others.flatMap(({ label, head }) => [...label, ...head])];
      for (const [along, shift] of CANDIDATES) {
        const [x, y] = edge.points[Math.round(along * (edge.points.length - 1))];
        const left = x - width / 2 + shift * width;
        const place = [left, y - 7, left + width, y + 7];
        const clear = [left - 1, y - 7.5, left + width + 1, y + 7.5];
        if (left < this.sides[0] || left + width > this.sides[1]) continue;
        if (!full.some((box) => overlap(clear, box)) && !others.some(({ points }) => points.some((point) => inside(clear, point)))) return place;
      }
      return null;
    }

    pillText(node, slot, value) {
      const several = !this.nodes[node].block && this.edges.filter(({ key }) => key?.startsWith(`e${node}-`)).length > 1;
      return [several ? `[${slot}] ` : "", brief(value)];
    }

    // A number on each arrow along which something was sent; those of the last step stand out.
    paintNumbers(mode, taken) {
      for (const pill of this.svg.querySelectorAll(".player-pill")) pill.remove();
      for (const { part } of this.edges) part.classList.remove("flow", "sent");
      const places = this.placesOf(mode);
      const last = new Map(mode.steps.slice(0, taken).flatMap((step, index) => step.passed.map((sent) => [`e${step.node}-${sent.slot}`, { ...sent, node: step.node, now: index === taken - 1 }])));
      for (const { key, part } of this.edges) {
        if (!last.has(key)) continue;
        const { node, slot, value, now } = last.get(key);
        if (now) part.classList.add("flow");
        if (!places.has(key)) continue;
        part.classList.add("sent");
        const { box: [left, top, right, bottom], withSlot } = places.get(key);
        const [slotText, number] = this.pillText(node, slot, value);
        const text = draw("text", { x: (left + right) / 2, y: bottom - 3.5 }, draw("tspan", { class: "player-slot" }, withSlot ? slotText : ""), number);
        part.append(draw("g", { class: "player-pill" }, draw("rect", { x: left, y: top, width: right - left, height: bottom - top, rx: 6 }), text));
      }
    }

    // The state of a Node as the last line in its box, where no arrow goes, and what it was given.
    paintState(node, kind, text, number) {
      const { part, line, number: tag, box } = this.nodes[node];
      part.classList.remove("now", "ready", "done");
      if (kind) part.classList.add(kind);
      const room = box[2] - box[0] - 10 - widthOf(`${tag} ${text} · `, 10.5);
      const value = number && widthOf(number, 10.5) <= room ? ` · ${number}` : "";
      const parts = [["tag", tag && `${tag} `], ["badge", text], ["number", value]].filter(([, words]) => words);
      line.replaceChildren(...parts.map(([name, words]) => draw("tspan", { class: `player-${name}` }, words)));
    }
  }

  return { Drawing, brief, numbersIn };
})();
