// Objects that were found: as boxes over the picture, and as a list.

import { byId, el, percent, words } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const SHOWN = 20; // objects in the list; all are drawn
// As service/inference/drawing.py has them.
const COLOURS = ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2"];

let classes = []; // of the answer that is shown

export function listObjects({ objects, counts, threshold }) {
  classes = Object.keys(counts);
  byId("headline").textContent = counted(counts);
  byId("bars").replaceChildren(...objects.slice(0, SHOWN).map(line));
  byId("fitted").textContent =
    `Objects with a score of ${threshold} or more` +
    (objects.length > SHOWN ? `; the surest ${SHOWN} of ${objects.length} are listed.` : ".");
}

export function counted(counts) {
  const found = Object.entries(counts).filter(([, count]) => count > 0);
  return found.map(([name, count]) => `${words(name)}: ${count}`).join(", ") || "No object";
}

function line({ class: name, score }) {
  const fill = el("span", { class: "fill" });
  fill.style.setProperty("--share", score);
  return el(
    "li", {},
    el("span", { class: "class", title: name }, words(name)),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
    el("span", { class: "share" }, percent(score)),
  );
}

export function drawObjects(shown, objects) {
  const drawing = byId("objects");
  drawing.replaceChildren();
  if (!shown || !objects.length) return;
  drawing.setAttribute("viewBox", `0 0 ${shown.width} ${shown.height}`); // fits as the picture does
  drawing.append(...objects.map(rectangle));
}

function rectangle({ class: name, score, box: [left, top, right, bottom] }) {
  const found = document.createElementNS(SVG, "rect");
  const stroke = COLOURS[classes.indexOf(name) % COLOURS.length];
  const values = { x: left, y: top, width: right - left, height: bottom - top, stroke };
  for (const [attribute, value] of Object.entries(values)) found.setAttribute(attribute, value);
  const title = document.createElementNS(SVG, "title");
  title.textContent = `${words(name)} ${percent(score)}`;
  found.append(title);
  return found;
}
