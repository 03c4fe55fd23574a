// A player of blocks: what player.js, below this, makes of one scene, and the ways into blocks and out of them.
var playerBlocks = (Player) => {
  "use strict";

  const { button, fill, make, paragraph } = playerTexts;
  const HINTS = {
    start: "Next runs one block. A click on a block leads to the step in which it runs, a double click opens it. A bar for each step shows the norm of the gradient that came, on a logarithmic scale.",
  };
  const isNumber = (norm) => norm > 0 && typeof norm === "number";

  // How long the bar of each step is, as a share: by the logarithm of the norm, over a decade or more. Whole where the norm
  // is not finite, which is text; 0 where it is zero or not known.
  function sharesOf(norms) {
    const logs = norms.filter(isNumber).map(Math.log10);
    const high = Math.max(...logs);
    const low = Math.min(high - 1, ...logs);
    return norms.map((norm) => (typeof norm === "string" ? 1 : isNumber(norm) ? 0.1 + (0.9 * (Math.log10(norm) - low)) / (high - low) : 0));
  }

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  return class extends Player {
    // Called before anything is drawn. The scenes inside of blocks are there a moment later.
    prepare({ nodes, modes, scenes }, story) {
      this.scenes = [{ ...modes[0], title: "The whole pass", outer: null, drawing: 0, nodes }];
      this.unpacked = unpacked(scenes).then((inner) => this.scenes.push(...inner));
      this.drawings = story.querySelectorAll(".player-graph");
      this.hints = HINTS;
      this.path = make("div", { class: "player-bar player-path", role: "group", "aria-label": "Blocks around this" });
      // The texts and the table tell the norms as well, and the slider moves: no keyboard needs to reach these.
      this.bars = make("div", { class: "player-bars", "aria-hidden": "true" });
      this.take(0);
    }

    // A scene, and nothing of it run.
    take(number) {
      const { title, nodes, steps, error } = this.scenes[number];
      Object.assign(this, { scene: number, nodes, taken: 0, modes: [{ title, about: "", steps, error, questions: [] }] });
      const norms = steps.map(({ norm }) => norm);
      const known = norms.filter(isNumber);
      const range = [Math.min(...known), Math.max(...known)].map((norm) => norm.toPrecision(2)).join(" to ");
      this.shares = sharesOf(norms);
      this.bars.replaceChildren(
        ...norms.map((norm, index) => make("span", {
          class: typeof norm === "string" ? "player-nonfinite" : "",
          style: `--share: ${this.shares[index]}`,
          title: `step ${index + 1}: norm ${isNumber(norm) ? norm.toPrecision(3) : norm ?? "unknown"}`,
          onclick: () => this.move(index + 1),
        })),
        make("small", {}, known.length ? `norms from ${range}` : "no norm is known"),
      );
      const around = [];
      for (let at = this.scenes[number].outer; at !== null; at = this.scenes[at].outer) around.unshift(at);
      this.path.replaceChildren(...around.flatMap((at) => [button(this.scenes[at].title, () => this.leave(at)), " › "]), make("strong", {}, title));
    }

    async enter(number, taken = 0) {
      await this.unpacked;
      if (!this.scenes[number]) return; // the address is that of another player
      this.take(number);
      this.draw(this.drawings[this.scenes[number].drawing]);
      this.show();
      this.fit(true);
      this.move(taken);
      this.next.focus();
    }

    // Go out of a block, to the step in which it ran.
    leave(number) {
      let inner = this.scene;
      while (this.scenes[inner].outer !== number) inner = this.scenes[inner].outer;
      const { nodes, steps } = this.scenes[number];
      this.enter(number, steps.findLastIndex(({ node }) => nodes[node].opens === inner) + 1);
    }

    // ---- what player.js asks for

    controls() {
      for (const { element } of [this.texts, this.ghost]) {
        element.querySelector(".player-rule .player-title").textContent = "What this step did";
        element.querySelector(".player-tabs button").textContent = "Step";
      }
      return make("div", { class: "player-head" }, this.path, super.controls(), this.bars);
    }

    draw(svg) {
      super.draw(svg);
      for (const [node, { part }] of this.drawing.nodes.entries()) {
        const { opens } = this.nodes[node];
        if (opens !== null) part.addEventListener("dblclick", () => this.enter(opens));
      }
    }

    address() { return `#play-${this.key}-${this.scene}-${this.taken}`; }

    async followAddress() {
      const found = location.hash.match(/^#play-([\w.]+)-(\d+)-(\d+)$/);
      if (!found || found[1] !== this.key) return;
      await this.enter(Number(found[2]), Number(found[3]));
      this.figure.scrollIntoView();
    }

    show() {
      super.show();
      const { steps } = this.modes[0];
      for (const [index, bar] of [...this.bars.querySelectorAll("span")].entries()) {
        bar.classList.toggle("player-taken", index < this.taken);
        bar.classList.toggle("player-now", index === this.taken - 1);
      }
      const shares = new Map(steps.slice(0, this.taken).map(({ node }, index) => [node, this.shares[index]]));
      for (const [node, { part, box: [left, , right, bottom] }] of this.drawing.nodes.entries()) {
        part.querySelector(".player-norm")?.remove();
        if (!shares.get(node)) continue;
        const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        part.append(fill(bar, { class: "player-norm", x: left, y: bottom - 4, width: shares.get(node) * (right - left), height: 4 }, []));
      }
    }

    state(view, node, ran, waits) {
      if (this.nodes[node].outside) return ["", ""]; // as is written in it
      const found = super.state(view, node, ran, waits);
      const runsAgain = view.mode.steps.slice(view.taken).some((step) => step.node === node);
      return found[1] === "done" && runsAgain ? ["", "part done"] : found;
    }

    whatNodeDid(step) {
      const { opens } = this.nodes[step.node];
      const way = opens === null ? [] : [button("Open this block", () => this.enter(opens))];
      return [...step.sentences.map((sentence) => paragraph(sentence)), ...way, ...super.whatNodeDid(step)];
    }
  };
};
