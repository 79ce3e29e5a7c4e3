// "Is this right?" below found objects: boxes that are false are clicked, missing ones drawn.

import { byId, el, percent, words } from "./page.js";
import { asked, request } from "./server.js";

const SVG = "http://www.w3.org/2000/svg";
const LEAST = 2; // pixels of the screen that a drawn box has; less is a click

let answer = null; // the one that is shown
let items = []; // { class, box, score, there }: those of the answer, then those that were drawn
let size = null; // width and height of the image, once its picture is shown
let from = null; // where drawing began: [x, y] in the image
let drawn = null; // the rectangle that is being drawn
let dragged = false; // what the pointer did last: a click follows it

export function startBoxes() {
  const drawing = byId("boxes");
  drawing.addEventListener("pointerdown", begin);
  document.addEventListener("pointermove", (event) => from && sketch(boxTo(event)));
  document.addEventListener("pointerup", end); // also beside the picture
  document.addEventListener("pointercancel", () => sketch((from = null)));
  byId("boxes-right").addEventListener("click", () => give(answer.objects));
  byId("boxes-add").addEventListener("click", addNumbers);
  byId("boxes-form").addEventListener("submit", (event) => {
    event.preventDefault();
    give(items.filter((item) => item.there));
  });
}

export function askAboutBoxes(found) {
  answer = found;
  size = null;
  items = found ? found.objects.map((item) => ({ ...item, there: true })) : [];
  byId("boxes-form").hidden = !found;
  byId("boxes-said").textContent = "";
  byId("boxes-at").value = "";
  const names = Object.keys(found?.counts ?? {});
  byId("boxes-class").replaceChildren(...names.map((name) => el("option", { value: name }, words(name))));
  show();
}

// The picture is there: its boxes can be clicked, and others drawn.
export function showBoxes(shown) {
  size = answer && shown;
  if (size) byId("boxes").setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  show();
}

function show() {
  byId("boxes").classList.toggle("off", !size);
  byId("boxes").replaceChildren(...(size ? items.map(rectangle) : []));
}

function rectangle(item) {
  const found = outline(item.box);
  const { class: name, score, there, box } = item;
  const what = score == null ? "drawn" : percent(score);
  found.classList.add(there ? (score == null ? "drawn" : "found") : "false");
  found.setAttribute("role", "checkbox");
  found.setAttribute("tabindex", "0");
  found.setAttribute("aria-checked", there);
  found.setAttribute("aria-label", `${words(name)}, ${what}, at ${box.join(", ")}`);
  const toggle = () => {
    item.there = !item.there;
    show();
    byId("boxes").children[items.indexOf(item)].focus();
  };
  found.addEventListener("click", () => dragged || toggle());
  found.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    toggle();
  });
  return found;
}

function outline([left, top, right, bottom]) {
  const found = document.createElementNS(SVG, "rect");
  const values = { x: left, y: top, width: right - left, height: bottom - top };
  for (const [attribute, value] of Object.entries(values)) found.setAttribute(attribute, value);
  return found;
}

function begin(event) {
  dragged = false;
  if (size && event.button === 0) from = place(event);
}

function end(event) {
  if (!from) return;
  const box = boxTo(event);
  const scale = byId("boxes").getScreenCTM().a;
  sketch((from = null));
  dragged = (box[2] - box[0]) * scale > LEAST && (box[3] - box[1]) * scale > LEAST;
  if (dragged) add(box);
}

function sketch(box) {
  drawn?.remove();
  drawn = box && outline(box);
  if (!drawn) return;
  drawn.classList.add("drawn", "sketch");
  byId("boxes").append(drawn);
}

// Where a pointer is in the image, in its pixels, to a tenth.
function place(event) {
  const at = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(byId("boxes").getScreenCTM().inverse());
  const within = (value, most) => Math.round(10 * Math.min(most, Math.max(0, value))) / 10;
  return [within(at.x, size.width), within(at.y, size.height)];
}

function boxTo(event) {
  const to = place(event);
  const sorted = [0, 1].map((axis) => [from[axis], to[axis]].sort((one, other) => one - other));
  return [sorted[0][0], sorted[1][0], sorted[0][1], sorted[1][1]];
}

function addNumbers() {
  const box = byId("boxes-at").value.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (box.length !== 4 || !box.every(Number.isFinite)) {
    byId("boxes-said").textContent = "Give four numbers: left, top, right, bottom in pixels.";
    return byId("boxes-at").focus();
  }
  byId("boxes-at").value = "";
  add(box);
}

function add(box) {
  const name = byId("boxes-class").value;
  items.push({ class: name, box, there: true });
  byId("boxes-said").textContent = `Added: ${words(name)} at ${box.join(", ")}. Not sent yet.`;
  show();
}

async function give(there) {
  const about = answer;
  const objects = there.map(({ class: name, box }) => ({ class: name, box }));
  const body = JSON.stringify({ request_id: about.request_id, objects });
  const headers = { "Content-Type": "application/json" };
  let said = "";
  try {
    const found = await asked(() => request("/feedback", { method: "POST", body, headers }));
    const { found: right, missed, false: wrong } = await found.json();
    said = `Thank you: ${right} found, ${missed} missed, ${wrong} false.`;
  } catch (error) {
    said = error.message;
  }
  if (about === answer) byId("boxes-said").textContent = said; // else it is another answer's
}
