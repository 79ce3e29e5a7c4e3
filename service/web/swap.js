// Replacing and rolling back: asks first, follows the steps, says how it ended.

import { byId, el, label, notice, short } from "./page.js";
import { currentKey, request, useKey } from "./server.js";

const STEPS = ["fetch", "verify", "load", "warm-up", "self-test", "switch"];

let plan = null; // what the open dialog will do
let before = null; // start of the swap before this one: /version tells of it until ours begins
let seen = []; // steps that are listed

export function startSwaps() {
  byId("swap-close").addEventListener("click", () => byId("swap-dialog").close());
  byId("swap-form").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  document.addEventListener("version", (event) => follow(event.detail));
}

export function openReplace(tag, version) {
  const current = version && version.model;
  const instead = current
    ? `It replaces ${current.tag} (${short(current.sha256)}), which stays ready for a roll back. `
    : "";
  open({
    tag,
    title: `Serve ${tag}?`,
    text: `${instead}Requests are answered all the while.`,
    action: `Serve ${tag}`,
    path: "/replace_ml_model",
    body: { tag },
    steps: STEPS,
    version,
  });
}

export function openRollback(version) {
  const { model, previous } = version;
  open({
    tag: previous.tag,
    title: `Roll back to ${previous.tag}?`,
    text:
      `${previous.tag} (${short(previous.sha256)}) replaces ${model.tag} ` +
      `(${short(model.sha256)}). Requests are answered all the while.`,
    action: "Roll back",
    path: "/rollback_ml_model",
    steps: ["switch"], // the others only when it is no longer loaded
    version,
  });
}

function open(wanted) {
  const dialog = byId("swap-dialog");
  if (dialog.dataset.state === "running") return dialog.showModal();
  plan = wanted;
  byId("swap-title").textContent = plan.title;
  byId("swap-text").textContent = plan.text;
  byId("swap-go").textContent = plan.action;
  byId("swap-key").value = currentKey();
  say("problem");
  say("done");
  become("asking");
  dialog.showModal();
  byId(currentKey() ? "swap-go" : "swap-key").focus();
}

function become(state) {
  byId("swap-dialog").dataset.state = state;
  const asking = state === "asking";
  byId("swap-text").hidden = byId("swap-key-field").hidden = byId("swap-go").hidden = !asking;
  byId("steps").hidden = asking;
  byId("swap-close").textContent = asking ? "Cancel" : "Close";
  if (!asking && !byId("swap-dialog").contains(document.activeElement)) byId("swap-close").focus();
}

function say(where, ...content) {
  byId(`swap-${where}`).replaceChildren(...content);
}

async function run() {
  const key = byId("swap-key").value.trim();
  before = plan.version && plan.version.swap ? plan.version.swap.started : null;
  seen = plan.steps;
  say("problem");
  byId("swap-title").textContent = `Switching to ${plan.tag}`;
  mark(seen[0], "running");
  become("running");
  byId("swap-close").focus();
  document.dispatchEvent(new Event("swapping"));
  try {
    const answer = await (await request(plan.path, options(), key)).json();
    useKey(key);
    mark(STEPS.at(-1), "done");
    succeed(answer);
  } catch (error) {
    fail(error, key);
  }
  document.dispatchEvent(new Event("swapping")); // the page shows at once what serves now
  document.dispatchEvent(new Event("swapped"));
}

function options() {
  if (!plan.body) return { method: "POST" };
  const headers = { "content-type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(plan.body) };
}

function succeed(answer) {
  become("done");
  const { tag, sha256 } = answer.model;
  const text = `${tag} (${short(sha256)}) serves now. It took ${answer.seconds.toFixed(1)} seconds.`;
  byId("swap-title").textContent = `${tag} serves`;
  say("done", notice(text, null, "good"));
}

function fail(error, key) {
  if (error.wantsKey) {
    become("asking");
    byId("swap-title").textContent = plan.title;
    say("problem", notice(error.message));
    byId("swap-key").focus();
    byId("swap-key").select();
    return;
  }
  if (error.status) useKey(key); // it was let in
  become("failed");
  const model = plan.version && plan.version.model;
  const kept = model && error.status ? ` Still serving: ${model.tag}.` : "";
  byId("swap-title").textContent = "Nothing was changed";
  if (!error.status) byId("swap-title").textContent = "No answer came";
  if (error.step) mark(error.step, "failed");
  else byId("steps").hidden = true;
  const where = error.step ? `${label(error.step)}: ` : "";
  say("problem", notice(`${where}${error.message}${ends(error.message)}${kept}`));
}

const ends = (sentence) => (/[.!?]$/.test(sentence) ? "" : ".");

function follow(version) {
  if (byId("swap-dialog").dataset.state !== "running" || !version.swap) return;
  if (version.swap.started !== before) mark(version.swap.step, version.swap.state);
}

// The step that runs or failed; those before it are done.
function mark(step, state) {
  const at = STEPS.indexOf(step);
  if (at >= 0 && !seen.includes(step)) seen = STEPS.slice(at);
  const now = seen.indexOf(step);
  const stateOf = (index) => (index < now ? "done" : index > now ? "waiting" : state);
  byId("steps").replaceChildren(
    ...seen.map((name, index) => {
      const found = stateOf(index);
      const current = index === now && state === "running" ? "step" : null;
      return el("li", { class: found, "aria-current": current }, label(name), spoken(found));
    }),
  );
  const text = state === "running" ? `${label(step)} …` : "";
  if (byId("swap-step").textContent !== text) byId("swap-step").textContent = text;
}

const spoken = (state) => el("span", { class: "hidden" }, `: ${state}`);
