// Objects that were found: as boxes or masks over the picture, and as a list.

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
  drawing.append(...objects.map(drawn));
}

function drawn({ class: name, score, box: [left, top, right, bottom], mask }) {
  const colour = COLOURS[classes.indexOf(name) % COLOURS.length];
  const shape = { x: left, y: top, width: right - left, height: bottom - top };
  const found = mask ? outlined(mask, colour) : svg("rect", { ...shape, stroke: colour });
  const title = document.createElementNS(SVG, "title");
  title.textContent = `${words(name)} ${percent(score)}`;
  found.append(title);
  return found;
}

function svg(kind, values) {
  const made = document.createElementNS(SVG, kind);
  for (const [attribute, value] of Object.entries(values)) made.setAttribute(attribute, value);
  return made;
}

// A mask in COCO's words: its columns filled, and a line around them.
function outlined({ size: [height, width], counts }, colour) {
  const columns = Array.from({ length: width + 1 }, () => []); // where each is entered and left
  let at = 0;
  counts.forEach((count, number) => {
    for (let from = at; number % 2 && from < at + count; ) {
      const x = Math.floor(from / height);
      const to = Math.min(at + count, (x + 1) * height);
      columns[x].push(from - x * height, to - x * height);
      from = to;
    }
    at += count;
  });
  let fill = "", line = "";
  columns.forEach((ends, x) => {
    pairs(ends).forEach(([top, bottom]) => (fill += `M${x} ${top}H${x + 1}V${bottom}H${x}z`));
    ends.forEach((y) => (line += `M${x} ${y}h1`));
    const both = [...ends, ...(columns[x - 1] ?? [])].sort((one, other) => one - other);
    // What one of two neighbours covers and the other does not.
    pairs(both).forEach(([top, bottom]) => top < bottom && (line += `M${x} ${top}V${bottom}`));
  });
  const found = svg("g", {});
  found.append(svg("path", { d: fill, fill: colour }), svg("path", { d: line, stroke: colour }));
  return found;
}

const pairs = (ends) => ends.flatMap((end, at) => (at % 2 ? [[ends[at - 1], end]] : []));
