// A page with one drawing: zoom it, move it, search in it, open its blocks, and ask a box what it is.
// Without this script the page is the drawing, whose boxes say much of it where the pointer rests.
//
// The data of the page is packed. It has a list of pictures: the drawing, and the insides of blocks. Each has its svg, but
// for the drawing, and for each .node in it what is told of that, or null; saved_page.py says what is told. And it has what
// a search finds: a way, which is the names of the boxes to open and of the one to choose, with the texts that lead there.
"use strict";
(() => {
  const view = document.querySelector(".view");
  const { pictures, found: packedTexts } = JSON.parse(document.querySelector(".data").textContent);
  const path = [pictureOf(view.querySelector("svg"), "Whole graph")]; // and the insides that are open, outer first
  let scale = 4 / 3; // pixels a point
  let now = path[0]; // the last of them

  function element(name, attributes, parent, text = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  const bar = element("header", { class: "bar" }, document.body);
  document.body.insertBefore(bar, view);
  element("h1", {}, bar, "Backward graph");
  const label = element("label", {}, bar, "Search ");
  const search = element("input", { type: "search" }, label);
  const actions = {
    "+": ["Larger", () => zoom(scale * 1.25)],
    "-": ["Smaller", () => zoom(scale / 1.25)],
    0: ["Whole drawing", () => zoom(Math.min(view.clientWidth / now.width, view.clientHeight / now.height))],
    1: ["Original size", () => zoom(4 / 3)],
  };
  if (pictures.length > 1) actions.Escape = ["Out of the block", () => path.length > 1 && goTo(path.length - 2)];
  for (const [key, [words, act]] of Object.entries(actions)) {
    element("button", { type: "button", "aria-keyshortcuts": key }, bar, words).onclick = act;
  }
  const status = element("output", { "aria-live": "polite" }, bar);
  const trail = element("nav", { class: "trail", "aria-label": "Open blocks", hidden: "" }, bar);
  const details = element("div", { class: "details", "aria-live": "polite" }, bar, "Choose a box.");

  // ---- zoom, and move

  function zoom(to) {
    const x = (view.scrollLeft + view.clientWidth / 2) / scale;
    const y = (view.scrollTop + view.clientHeight / 2) / scale;
    scale = Math.min(8, Math.max(0.05, to));
    now.svg.setAttribute("width", now.width * scale);
    now.svg.setAttribute("height", now.height * scale);
    view.scrollTo(x * scale - view.clientWidth / 2, y * scale - view.clientHeight / 2);
  }

  // The first box of a wide drawing may be far to the right.
  function toTheRoot() {
    const root = now.boxes[0]?.part.getBoundingClientRect();
    const seen = view.getBoundingClientRect();
    if (root) view.scrollTo(view.scrollLeft + (root.left + root.right - seen.left - seen.right) / 2, 0);
  }

  view.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return; // else the wheel scrolls
      event.preventDefault();
      zoom(scale * Math.exp(-event.deltaY / 300));
    },
    { passive: false },
  );
  let moved = 0; // pixels since the button went down
  view.addEventListener("pointerdown", () => { moved = 0; });
  view.addEventListener("pointermove", (event) => {
    if (event.buttons !== 1 || event.pointerType !== "mouse") return; // a finger scrolls anyway
    moved += Math.abs(event.movementX) + Math.abs(event.movementY);
    view.scrollBy(-event.movementX, -event.movementY);
  });

  // ---- boxes

  // A picture whose boxes can be chosen.
  function pictureOf(svg, name) {
    const [width, height] = svg.getAttribute("viewBox").split(" ").slice(2).map(Number);
    const boxes = [];
    [...svg.querySelectorAll(".node")].forEach((part, place) => {
      const title = part.querySelector("title")?.textContent;
      if (title === undefined) return; // the dot at the end of a stub
      const number = boxes.push({ part, place, name: title, rows: [], opens: null }) - 1;
      part.setAttribute("role", "button");
      part.setAttribute("aria-label", title);
      part.setAttribute("tabindex", number === 0 ? "0" : "-1");
      part.addEventListener("click", () => {
        if (moved > 4) return;
        choose(number);
        open(boxes[number]);
      });
    });
    svg.setAttribute("role", "group"); // what is inside an image cannot be reached
    svg.addEventListener("keydown", onKey);
    return { svg, width, height, boxes, name, current: 0 };
  }

  // Adds what is told of its boxes.
  function inform(picture, told) {
    for (const box of picture.boxes) {
      Object.assign(box, told[box.place]); // of scissors and frames nothing more is told
      if (box.opens === null) continue;
      box.part.classList.add("opens");
      box.part.setAttribute("aria-label", `${box.name}, opens: ${box.part.getAttribute("aria-label")}`);
    }
  }

  function choose(number, andFocus = true) {
    const { boxes } = now;
    if (boxes.length === 0) return;
    boxes[now.current].part.setAttribute("tabindex", "-1");
    boxes[now.current].part.removeAttribute("aria-current");
    now.current = (number + boxes.length) % boxes.length;
    const box = boxes[now.current];
    box.part.setAttribute("tabindex", "0");
    box.part.setAttribute("aria-current", "true");
    tell(box);
    box.part.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (andFocus) box.part.focus({ preventScroll: true });
  }

  function tell(box) {
    details.replaceChildren();
    element("strong", {}, details, box.name);
    const list = element("dl", {}, details);
    for (const [word, text] of box.rows) {
      const row = element("div", {}, list);
      element("dt", {}, row, word);
      element("dd", {}, row, text);
    }
    if (box.rows.length === 0) list.remove();
  }

  function onKey(event) {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Enter: 0, " ": 0 };
    if (!(event.key in step)) return;
    event.preventDefault();
    choose(now.current + step[event.key]);
    if (event.key === "Enter") open(now.boxes[now.current]);
  }

  document.addEventListener("keydown", (event) => {
    if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") search.focus();
    else if (event.key in actions) actions[event.key][1]();
    else return;
    event.preventDefault();
  });

  // ---- blocks that open

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  const informed = unpacked(pictures[0]).then(({ boxes }) => {
    inform(path[0], boxes);
    if (now.boxes.some((box) => box.part.hasAttribute("aria-current"))) tell(now.boxes[now.current]);
  });

  // The inside of a block.
  async function insideOf(box) {
    const { svg, boxes } = await unpacked(pictures[box.opens]);
    const holder = document.createElement("template");
    holder.innerHTML = svg;
    const picture = pictureOf(holder.content.firstElementChild, box.name);
    inform(picture, boxes);
    picture.svg.setAttribute("aria-label", `Inside of ${box.name}`);
    picture.drawn = box.drawn;
    return picture;
  }

  async function open(box) {
    if (box.opens === null) return;
    const from = now;
    const picture = await insideOf(box);
    if (now !== from) return; // another block was opened meanwhile
    path.push(picture);
    goTo(path.length - 1);
  }

  // Goes to the whole graph, 0, or to one of the open blocks, and closes those in it.
  function goTo(depth) {
    asked += 1; // a search that is still under way leads nowhere
    show(depth);
    choose(now.current);
    status.replaceChildren();
    element("span", { class: "heard" }, status, `${path.map((picture) => picture.name).join(" › ")}: `);
    status.append(now.boxes.length === 1 ? "1 box" : `${now.boxes.length} boxes`);
    if (now.drawn) status.append(`. Drawn is ${now.drawn}, which is equal but for names and numbers.`);
  }

  function show(depth) {
    path.length = depth + 1;
    now.svg.replaceWith(path[depth].svg);
    now = path[depth];
    scale = 4 / 3;
    zoom(scale);
    toTheRoot();
    showTrail();
    mark();
  }

  function showTrail() {
    trail.replaceChildren();
    trail.hidden = path.length === 1;
    if (trail.hidden) return;
    const list = element("ol", {}, trail);
    path.forEach((picture, depth) => {
      const item = element("li", {}, list);
      const step = element("button", { type: "button" }, item, picture.name);
      if (depth === path.length - 1) step.setAttribute("aria-current", "location");
      step.onclick = () => depth < path.length - 1 && goTo(depth);
    });
  }

  // ---- search

  let texts = null; // all that can be found, once somebody searches
  let found = []; // what is wanted
  let place = -1; // the one of those that was gone to
  let asked = 0; // how often something was asked for, so that an answer that comes late is dropped

  async function allTexts() {
    await informed;
    if (texts) return texts;
    const read = (await unpacked(packedTexts)).flatMap(([way, its]) => its.map((text) => ({ way, text })));
    for (const { name, part } of path[0].boxes) {
      if (part.classList.contains("cut")) read.push({ way: [name], text: name });
    }
    return (texts = read);
  }

  // Marks the boxes that are found, or have it in them.
  function mark() {
    const open = path.slice(1).map(({ name }) => name);
    const ways = found.map(({ way }) => way).filter((way) => open.every((name, depth) => way[depth] === name));
    const names = new Set(ways.map((way) => way[open.length]));
    for (const { part, name } of now.boxes) part.classList.toggle("found", names.has(name));
  }

  async function find() {
    const mine = (asked += 1);
    const all = await allTexts();
    if (mine !== asked) return;
    const wanted = search.value.trim().toLowerCase();
    found = wanted === "" ? [] : all.filter(({ text }) => text.toLowerCase().includes(wanted));
    place = -1;
    mark();
    status.textContent = wanted === "" ? "" : found.length ? `${found.length} found. Enter leads to the next.` : "Nothing found.";
  }

  // Opens what is around the next of those that are found, or the one before, and chooses it.
  async function goOn(by) {
    await finding;
    if (found.length === 0) return;
    const mine = (asked += 1);
    place = place < 0 && by < 0 ? found.length - 1 : (place + by + found.length) % found.length;
    const { way, text } = found[place];
    const blocks = way.slice(0, -1);
    const isOpen = blocks.map((name, depth) => path[depth + 1]?.name === name);
    const steps = path.slice(0, 1 + [...isOpen, false].indexOf(false));
    for (const name of blocks.slice(steps.length - 1)) {
      steps.push(await insideOf(steps.at(-1).boxes.find((box) => box.name === name)));
      if (mine !== asked) return; // somebody wants something else by now
    }
    if (steps.at(-1) !== now) {
      path.splice(0, path.length, ...steps);
      show(path.length - 1);
    }
    choose(now.boxes.findIndex(({ name }) => name === way.at(-1)), false);
    now.boxes[now.current].part.scrollIntoView({ block: "center", inline: "center" });
    status.textContent = `${place + 1} of ${found.length}: ${text}`;
  }

  let finding = null; // of what was typed last
  search.addEventListener("input", () => { finding = find(); });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") goOn(event.shiftKey ? -1 : 1);
  });

  toTheRoot();
})();
