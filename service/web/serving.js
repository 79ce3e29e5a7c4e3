// What this replica serves, looked at every few seconds while somebody can see it.

import { byId, digest, el, label, moment, notice, replaceIfChanged, words } from "./page.js";
import { read } from "./server.js";
import { openRollback } from "./swap.js";

const PAUSE = 4000; // ms between looks
const SWAPPING = 300; // ms between looks while a swap runs

let timer = 0;
let tell = () => {};
let latest = null;
let looks = 0; // an answer that was overtaken by a later one is dropped

export function startServing(listener) {
  tell = listener;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });
  byId("rollback").addEventListener("click", () => openRollback(latest));
  document.addEventListener("swapping", look);
  look();
}

export async function look() {
  clearTimeout(timer);
  const mine = ++looks;
  let pause = PAUSE;
  try {
    const version = await read("/version");
    if (mine !== looks) return;
    latest = version;
    show(version);
    tell(version);
    document.dispatchEvent(new CustomEvent("version", { detail: version }));
    if (version.swap && version.swap.state === "running") pause = SWAPPING;
  } catch (error) {
    if (mine !== looks) return;
    const kept = latest ? " Below is what served when it last answered." : "";
    showNotice(error.message + kept);
  }
  if (byId("swap-dialog").dataset.state === "running") pause = SWAPPING;
  if (!document.hidden) timer = setTimeout(look, pause);
}

function showNotice(text) {
  const box = byId("serving-notice");
  replaceIfChanged(box, text, () => (text ? notice(text) : []));
}

function show(version) {
  const { model, previous } = version;
  showNotice(model ? "" : "No model is loaded yet. The service's log says why.");
  replaceIfChanged(byId("serving"), version, () => facts(version));
  const button = byId("rollback");
  button.hidden = !previous || !model;
  button.textContent = previous ? `Roll back to ${previous.tag}` : "";
}

function facts(version) {
  const { model, wanted } = version;
  const rows = model ? about(model) : [];
  if (wanted && !(model && same(wanted, model))) {
    rows.push(fact("Wanted", reference(wanted), " is not reached yet"));
  }
  rows.push(fact("Workers", workers(version)));
  if (version.swap) rows.push(fact("Last swap", lastSwap(version.swap)));
  return rows;
}

function about(model) {
  const { bands, width, height, dtype, multiple } = model.input;
  const size = multiple ? "any size" : `${width}\u00a0×\u00a0${height}`;
  const classes = model.classes.map(words).join(", ");
  return [
    fact("Model", el("b", {}, model.name)),
    fact("Tag", el("b", {}, model.tag)),
    fact("Digest", digest(model.sha256)),
    fact("Trained", moment(model.trained)),
    fact("Commit", digest(model.git_revision)),
    fact("Data", digest(model.data_version)),
    fact("Takes", `${bands.join(" ")}, ${size}, ${dtype}`),
    fact(
      "Classes",
      el("details", {}, el("summary", {}, String(model.classes.length)), el("p", {}, classes)),
    ),
  ];
}

const fact = (name, ...values) => el("div", {}, el("dt", {}, name), el("dd", {}, ...values));

const same = (one, other) => one.tag === other.tag && one.sha256 === other.sha256;

const reference = (model) => [el("b", {}, model.tag), " ", digest(model.sha256)];

function workers({ workers: all, model }) {
  const behind = all.filter((worker) => !model || !same(worker, model));
  const count = `${all.length}`;
  if (behind.length === 0) return all.length > 1 ? `${count}, all serve it` : count;
  const lines = behind.map((worker) => el("li", {}, `${worker.pid}: `, reference(worker)));
  return [`${count}, of which ${behind.length} serve another model`, el("ul", {}, lines)];
}

function lastSwap(swap) {
  if (swap.state === "running") return ["To ", el("b", {}, swap.tag), `: ${label(swap.step)} …`];
  const when = moment(swap.started);
  if (swap.state === "done") return ["To ", el("b", {}, swap.tag), ", ", when];
  const text = `: failed at ${swap.step}, ${swap.detail}`;
  return ["To ", el("b", {}, swap.tag), ", ", when, el("span", { class: "bad" }, text)];
}
