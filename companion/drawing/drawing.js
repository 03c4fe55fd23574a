// A page with one drawing: zoom it, move it, search in it, and ask a box what is in it.
// Without this script the page is the drawing, whose boxes say the same where the pointer rests.
"use strict";
(() => {
  const svg = document.querySelector("svg.drawing");
  const view = svg.parentElement;
  const [width, height] = svg.getAttribute("viewBox").split(" ").slice(2).map(Number);
  const boxes = [...svg.querySelectorAll(".node")].filter((box) => box.querySelector("title"));
  let scale = 4 / 3; // pixels a point
  let current = 0;

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
  const count = element("output", { "aria-live": "polite" }, bar);
  const details = element("p", { class: "details", "aria-live": "polite" }, bar, "Choose a box.");

  // ---- zoom, and move

  function zoom(to) {
    const x = (view.scrollLeft + view.clientWidth / 2) / scale;
    const y = (view.scrollTop + view.clientHeight / 2) / scale;
    scale = Math.min(8, Math.max(0.05, to));
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    view.scrollTo(x * scale - view.clientWidth / 2, y * scale - view.clientHeight / 2);
  }

  const fitting = () => Math.min(view.clientWidth / width, view.clientHeight / height);
  const zooms = {
    "+": ["Larger", () => zoom(scale * 1.25)],
    "-": ["Smaller", () => zoom(scale / 1.25)],
    0: ["Whole drawing", () => zoom(fitting())],
    1: ["Original size", () => zoom(4 / 3)],
  };
  for (const [key, [words, act]] of Object.entries(zooms)) {
    element("button", { type: "button", "aria-keyshortcuts": key }, bar, words).onclick = act;
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
  view.addEventListener("pointermove", (event) => {
    if (event.buttons !== 1 || event.pointerType !== "mouse") return; // a finger scrolls anyway
    view.scrollBy(-event.movementX, -event.movementY);
  });

  // ---- boxes

  const words = (box) => box.querySelector("title").textContent;

  function choose(number, andFocus = true) {
    boxes[current].setAttribute("tabindex", "-1");
    boxes[current].removeAttribute("aria-current");
    current = (number + boxes.length) % boxes.length;
    boxes[current].setAttribute("tabindex", "0");
    boxes[current].setAttribute("aria-current", "true");
    details.textContent = words(boxes[current]);
    boxes[current].scrollIntoView({ block: "nearest", inline: "nearest" });
    if (andFocus) boxes[current].focus({ preventScroll: true });
  }

  svg.setAttribute("role", "group"); // what is inside an image cannot be reached
  boxes.forEach((box, number) => {
    box.setAttribute("role", "button");
    box.setAttribute("aria-label", words(box));
    box.setAttribute("tabindex", number === 0 ? "0" : "-1");
    box.addEventListener("click", () => choose(number));
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Enter: 0, " ": 0 };
    if (!(event.key in step)) return;
    event.preventDefault();
    choose(current + step[event.key]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") search.focus();
    else if (event.key in zooms) zooms[event.key][1]();
    else return;
    event.preventDefault();
  });

  // ---- search

  let found = [];
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    found = [];
    boxes.forEach((box, number) => {
      const isFound = wanted !== "" && box.textContent.toLowerCase().includes(wanted);
      box.classList.toggle("found", isFound);
      if (isFound) found.push(number);
    });
    count.textContent = wanted === "" ? "" : `${found.length} of ${boxes.length} boxes`;
    if (found.length > 0) choose(found[0], false);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || found.length === 0) return;
    const next = found.find((number) => number > current);
    choose(next === undefined ? found[0] : next, false);
  });
})();
