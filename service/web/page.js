// Building the page, and how values read. Text of the server only ever becomes a text node.

export const byId = (id) => document.getElementById(id);

// Handlers by `onclick` and the like, everything else is an attribute; false and null leave it out.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export function notice(text, action = null, kind = "bad") {
  const button = action && el("button", { type: "button", onclick: action.run }, action.label);
  return el("div", { class: `notice ${kind}` }, el("p", {}, text), button);
}

// Refreshing what did not change would take the focus and the selection away.
export function replaceIfChanged(element, state, build) {
  const found = JSON.stringify(state);
  if (element.shown === found) return;
  element.shown = found;
  element.replaceChildren(...[build()].flat());
}

// Rounded, a model would be as sure as no model is.
export function percent(probability) {
  if (probability >= 0.9995 && probability < 1) return ">\u00a099.9\u00a0%";
  if (probability < 0.0005 && probability > 0) return "<\u00a00.1\u00a0%";
  return `${(100 * probability).toFixed(1)}\u00a0%`;
}

// Digits after the point at which the values of one metric can be told apart.
export function digitsOf(values) {
  const largest = Math.max(...values.map(Math.abs));
  if (values.every(Number.isInteger) && largest > 1) return 0;
  return largest < 10 ? 3 : largest < 1000 ? 1 : 0;
}

export const number = (value, digits) => value.toFixed(digits);

export const signed = (value, digits) =>
  `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

// macro_f1 -> Macro F1, model_size_mib -> Model size (MiB)
export function label(name) {
  const unit = { ms: "ms", mib: "MiB", s: "s" }[name.split("_").at(-1)];
  const plain = unit && name.includes("_") ? name.replace(/_[^_]*$/, "") : name;
  const words = plain.replaceAll("_", " ").replace(/\bf1\b/, "F1") + (unit ? ` (${unit})` : "");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// HerbaceousVegetation -> Herbaceous Vegetation
export const words = (name) => name.replace(/(\p{Ll})(\p{Lu})/gu, "$1 $2").replaceAll("_", " ");

// A long tag breaks where its parts end.
export const broken = (tag) =>
  tag.split(/(?<=[@/#])/).flatMap((part, at) => (at ? [el("wbr"), part] : [part]));

export const short = (digest) => digest.slice(0, 10);

export const digest = (value) => el("code", { title: value }, short(value));

const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const MINUTE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

// Takes what is no date as text: it comes from files that people write.
export function moment(iso, format = MINUTE) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return el("span", {}, String(iso));
  return el("time", { datetime: iso, title: MINUTE.format(date) }, format.format(date));
}

export const day = (iso) => moment(iso, DAY);
