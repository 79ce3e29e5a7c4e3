// Two experiments side by side: metrics with their difference, parameters that differ.

import { 
  broken, byId, digitsOf, el, label, number, replaceIfChanged, short, signed,
 } from "./page.js";

const LESS_IS_BETTER = /loss|error|latency|size|seconds|time/;
// Metrics whose better direction is known; more test chips are not a better model.
const JUDGED = /accuracy|f1|precision|recall|auc|iou|kappa|loss|error|latency/;

export const isLessBetter = (metric) => LESS_IS_BETTER.test(metric);

let all = false; // whether equal parameters are shown too

export function showComparison(pair, close) {
  const box = byId("compare");
  box.hidden = pair.length !== 2;
  // The older one first: then the difference is what changed since.
  const [one, other] = [...pair].sort((a, b) => Date.parse(a.date) - Date.parse(b.date));
  replaceIfChanged(box, [pair, all], () => (other ? build(one, other, close) : []));
}

function build(one, other, close) {
  const again = () => {
    showComparison([one, other], close);
    byId("all-parameters").focus();
  };
  return [
    el(
      "div", { class: "title-row" },
      el("h3", { id: "compare-title" }, "Compare"),
      el("button", { type: "button", class: "quiet", "aria-label": "Close the comparison", onclick: close }, "Close"),
    ),
    table("Metrics", null, [one.tag, other.tag, "Change"], metricRows(one, other)),
    parameters(one, other, again),
  ];
}

function table(name, kind, columns, rows) {
  const head = [name, ...columns].map((text) => el("th", { scope: "col" }, broken(text)));
  return el(
    "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name },
    el("table", { class: kind }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
  );
}

const row = (name, cells) => el("tr", {}, el("th", { scope: "row" }, name), cells);

const union = (one, other) => [...new Set([...Object.keys(one), ...Object.keys(other)])];

function metricRows(one, other) {
  return union(one.metrics, other.metrics).map((name) => {
    const values = [one.metrics[name], other.metrics[name]];
    const known = values.filter((value) => value !== undefined);
    const digits = digitsOf(known);
    const cells = values.map((value) =>
      el("td", { class: "number" }, value === undefined ? "–" : number(value, digits)),
    );
    const both = known.length === 2;
    return row(label(name), [...cells, both ? difference(name, values, digits) : missing()]);
  });
}

const missing = () => el("td", { class: "number" }, "–");

function difference(name, [before, after], digits) {
  const change = after - before;
  if (Number(change.toFixed(digits)) === 0) return el("td", { class: "number same" }, "same");
  const text = signed(change, digits);
  const better = change < 0 === isLessBetter(name);
  const judged = JUDGED.test(name);
  const word = judged && el("span", { class: "word" }, better ? " better" : " worse");
  return el("td", { class: `number ${judged ? (better ? "good" : "bad") : ""}` }, text, word);
}

// section.key -> text; the data version belongs to what a result depends on.
function flat(item) {
  const found = { data: item.data_version ? short(item.data_version) : undefined };
  for (const [section, values] of Object.entries(item.params)) {
    for (const [key, value] of Object.entries(values)) found[`${section}.${key}`] = plain(value);
  }
  return found;
}

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function parameters(one, other, again) {
  const [a, b] = [flat(one), flat(other)];
  const names = union(a, b);
  const differing = names.filter((name) => a[name] !== b[name]);
  const shown = all ? names : differing;
  const cells = (name) => [a[name], b[name]].map((value) => el("td", {}, value ?? "–"));
  const rows = shown.map((name) => {
    const line = row(el("code", {}, name), cells(name));
    if (all && differing.includes(name)) line.className = "differs";
    return line;
  });
  const change = (event) => {
    all = event.target.checked;
    again();
  };
  const box = el("input", { type: "checkbox", id: "all-parameters", checked: all, onchange: change });
  const same = names.length - differing.length;
  const text = `Show all parameters (${same} are the same)`;
  const none = el("p", { class: "hint" }, "Parameters and data are the same.");
  return el(
    "div", {},
    shown.length ? table("Parameters", "narrow", [one.tag, other.tag], rows) : none,
    el("label", { class: "check" }, box, text),
  );
}
