// The experiments: a table to sort and filter, two of them to compare, one of them to serve.

import { isLessBetter, showComparison } from "./compare.js";
import {
  broken, byId, day, digitsOf, el, label, moment, notice, number, replaceIfChanged, short,
} from "./page.js";
import { read, unloaded } from "./server.js";
import { openReplace } from "./swap.js";

const PAUSE = 30_000; // ms between looks
const MOST = 500; // rows
const COLUMNS = 4; // metrics
const FIRST = ["accuracy", "macro_f1", "log_loss", "calibration_error"];

let listing = { experiments: [], fresh: true, detail: null };
let metrics = [];
let sorting = { key: "date", ascending: false };
let chosen = []; // tags, at most two
const opened = new Set(); // tags whose details are shown
let version = null;

export function startExperiments() {
  byId("filter").addEventListener("input", showRows);
  document.addEventListener("swapped", loadExperiments);
  document.addEventListener("visibilitychange", () => !document.hidden && loadExperiments());
  setInterval(() => !document.hidden && loadExperiments(), PAUSE);
  loadExperiments();
}

export function showServing(found) {
  const changed = JSON.stringify(found.model) !== JSON.stringify(version && version.model);
  version = found;
  if (changed) showRows();
}

export async function loadExperiments() {
  try {
    listing = await read(`/get_experiments_metas?limit=${MOST}`);
  } catch (error) {
    const box = byId("experiments-notice");
    replaceIfChanged(box, error.message, () => unloaded("The experiments", error));
    return;
  }
  showListing();
}

function showListing() {
  const { experiments, fresh, detail } = listing;
  const tags = new Set(experiments.map((item) => item.tag));
  chosen = chosen.filter((tag) => tags.has(tag));
  metrics = columns(experiments);
  if (!(sorting.key in KEYS) && !metrics.includes(sorting.key)) {
    sorting = { key: "date", ascending: false };
  }
  const empty = experiments.length === 0;
  byId("experiments").hidden = byId("filter-box").hidden = empty;
  if (!fresh) showNotice(detail || "Git could not be looked at just now.");
  else if (empty) replaceIfChanged(byId("experiments-notice"), "empty", howTo);
  else showNotice("");
  replaceIfChanged(byId("head"), metrics, heads);
  showRows();
}

function showNotice(text) {
  const build = () => (text ? notice(text, null, "calm") : []);
  replaceIfChanged(byId("experiments-notice"), text, build);
}

function howTo() {
  const name = version && version.model ? version.model.name : "landcover";
  return el(
    "div", { class: "empty" },
    el("p", {}, "There are no experiments yet. One is a tag on a commit with a trained model:"),
    el("pre", { tabindex: "0" }, el("code", {}, `git tag experiment/1-1\ngit tag ${name}@v1.0.0`)),
    el("p", {}, "It appears here as soon as the repository of this service has the tag."),
  );
}

// Metrics that some experiment has, the best known first.
function columns(experiments) {
  const found = new Set(experiments.flatMap((item) => Object.keys(item.metrics)));
  const known = FIRST.filter((name) => found.has(name));
  const others = [...found].filter((name) => !FIRST.includes(name));
  return [...known, ...others].slice(0, COLUMNS);
}

const KEYS = {
  tag: (item) => item.tag,
  date: (item) => Date.parse(item.date),
  stages: (item) => item.stages.join(" ") || null,
  summary: (item) => item.summary.toLowerCase(),
};

function heads() {
  const plain = (text) =>
    el("th", { role: "columnheader", scope: "col", class: "plain" }, el("span", { class: "hidden" }, text));
  const named = Object.keys(KEYS).map((key) => head(key, ""));
  return [plain("Compare"), ...named, ...metrics.map((key) => head(key, "number")), plain("Actions")];
}

function head(key, kind) {
  const button = el("button", { type: "button", onclick: () => sortBy(key) }, label(key));
  const attributes = { role: "columnheader", scope: "col", class: kind, "data-key": key };
  return el("th", { ...attributes, "aria-sort": "none" }, button);
}

function sortBy(key) {
  const best = key in KEYS ? key !== "date" : isLessBetter(key); // what one wants to see on top
  sorting = { key, ascending: sorting.key === key ? !sorting.ascending : best };
  showRows();
}

// What has no value comes last, whichever way.
function sorted(experiments) {
  const { key, ascending } = sorting;
  const valueOf = KEYS[key] || ((item) => item.metrics[key] ?? null);
  const order = (one, other) => {
    const [a, b] = [valueOf(one), valueOf(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    const found = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return ascending ? found : -found;
  };
  return [...experiments].sort(order);
}

function matching() {
  const wanted = byId("filter").value.trim().toLowerCase();
  return sorted(
    listing.experiments.filter((item) => `${item.tag} ${item.summary}`.toLowerCase().includes(wanted)),
  );
}

function showRows() {
  for (const cell of byId("head").querySelectorAll("[data-key]")) {
    const direction = sorting.ascending ? "ascending" : "descending";
    cell.setAttribute("aria-sort", cell.dataset.key === sorting.key ? direction : "none");
  }
  const found = matching();
  const digits = Object.fromEntries(metrics.map((name) => [name, digitsOf(valuesOf(name))]));
  const focused = document.activeElement && document.activeElement.dataset.focus;
  const state = [found, metrics, chosen, [...opened], version && version.model];
  replaceIfChanged(byId("rows"), state, () => found.flatMap((item) => rowsOf(item, digits)));
  if (focused) byId("rows").querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
  showCount(found.length);
  const pair = chosen.map((tag) => listing.experiments.find((item) => item.tag === tag));
  showComparison(pair, () => choose(null));
}

const valuesOf = (name) =>
  listing.experiments.map((item) => item.metrics[name]).filter((value) => value !== undefined);

function showCount(count) {
  const all = listing.experiments.length;
  const some = count === all ? `${all}` : `${count} of ${all}`;
  const text = all === MOST ? `${some}, the newest` : some;
  const hint = chosen.length === 1 ? ". Choose one more to compare." : "";
  byId("count").textContent = all ? text + hint : "";
}

function choose(tag) {
  const others = chosen.filter((other) => other !== tag);
  if (tag === null) chosen = [];
  else chosen = others.length < chosen.length ? others : [...chosen.slice(-1), tag];
  showRows();
}

function toggle(tag) {
  if (!opened.delete(tag)) opened.add(tag);
  showRows();
}

const cell = (name, kind, ...content) =>
  el("td", { role: "cell", class: kind, "data-label": name }, ...content);

function rowsOf(item, digits) {
  const serves = Boolean(version && version.model && version.model.tag === item.tag);
  const open = opened.has(item.tag);
  const row = el(
    "tr", { role: "row", class: serves ? "serves" : null },
    cell("Compare", "choose", chooser(item.tag)),
    cell("Tag", "tag", el("b", {}, broken(item.tag)), serves && el("span", { class: "badge on" }, "serves")),
    cell("Date", "date", day(item.date)),
    cell("Stages", "stages", item.stages.map((name) => el("span", { class: "badge" }, name))),
    cell("Summary", "summary", item.summary),
    metrics.map((name) => cell(label(name), "number", valueText(item.metrics[name], digits[name]))),
    cell("Actions", "do", actions(item, serves, open)),
  );
  return open ? [row, details(item)] : [row];
}

const valueText = (value, digits) => (value === undefined ? "–" : number(value, digits));

function chooser(tag) {
  const attributes = { type: "checkbox", checked: chosen.includes(tag), "data-focus": `c ${tag}` };
  const name = `Compare ${tag}`;
  return el("input", { ...attributes, "aria-label": name, onchange: () => choose(tag) });
}

function actions({ tag, bundle_digest: model }, serves, open) {
  const serve = {
    type: "button", disabled: serves, "data-focus": `s ${tag}`, "aria-label": `Serve ${tag}`,
    onclick: () => openReplace(tag, version),
  };
  const more = {
    type: "button", class: "quiet", "aria-expanded": String(open), "data-focus": `d ${tag}`,
    "aria-label": `Details of ${tag}`, onclick: () => toggle(tag),
  };
  const button = model ? el("button", serve, "Serve this") : el("span", { class: "hint" }, "No model");
  return [el("button", more, "Details"), button];
}

function details(item) {
  const pair = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const facts = [
    pair("Commit", el("code", { title: item.commit }, short(item.commit))),
    pair("Authored", moment(item.date)),
    pair("Data", item.data_version ? el("code", { title: item.data_version }, short(item.data_version)) : "–"),
    pair("Model", item.bundle_digest ? el("code", { title: item.bundle_digest }, short(item.bundle_digest)) : "none"),
  ];
  const numbers = Object.entries(item.metrics).map(([name, value]) => pair(label(name), String(Number(value.toPrecision(4)))));
  const ended = Object.entries(item.tests).map(([state, count]) => `${count} ${state}`).join(", ");
  if (ended) facts.push(pair("Tests", ended));
  const trouble = item.problem && notice(item.problem, null, "calm");
  const content = [trouble, el("dl", { class: "grid" }, facts, numbers)];
  const span = 6 + metrics.length;
  return el("tr", { role: "row", class: "details" }, el("td", { role: "cell", colspan: span }, ...content));
}
