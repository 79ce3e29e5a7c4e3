// Rules of the traffic: shares, rewards, what was cut off, and the verdict on the shadow.

import { broken, byId, el, notice, percent, replaceIfChanged } from "./page.js";
import { read, unloaded } from "./server.js";

let looks = 0; // an answer that was overtaken by a later one is dropped

export async function showTraffic({ routing }) {
  byId("traffic-card").hidden = !routing;
  if (!routing) return;
  const mine = ++looks;
  try {
    const found = await read("/routing");
    if (mine !== looks) return;
    show(found);
  } catch (error) {
    if (mine === looks) byId("traffic-notice").replaceChildren(unloaded("The rules", error));
  }
}

function show(found) {
  const { rule, enabled, off, problem, sticky, arms, learn, shadow, proposal } = found;
  byId("traffic-rule").textContent =
    [rule, learn && "learns from labels", sticky && `a caller by ${sticky} keeps its arm`]
      .filter(Boolean).join(", ");
  replaceIfChanged(byId("traffic-notice"), [problem, enabled, off, proposal], () => [
    problem && notice(`The file does not hold: ${problem}`),
    rule && !enabled && notice(`Off${off ? ` by ${off}` : ""}: what serves answers everything.`, null, "calm"),
    proposal && notice([proposal.text, proposal.command].filter(Boolean).join(": "), null, "calm"),
  ].filter(Boolean));
  byId("traffic").hidden = arms.length === 0;
  replaceIfChanged(byId("arms"), arms, () => arms.map(row));
  replaceIfChanged(byId("shadow"), shadow, () => (shadow ? verdict(shadow) : []));
}

function row({ arm, tag, problem, cut, share, answers, right, wrong, best }) {
  const name = tag && tag !== arm ? [...broken(arm), el("span", { class: "hint" }, ` ${tag}`)] : broken(arm);
  const why = cut || problem;
  const cells = [percent(share), answers, `${right} of ${right + wrong}`, percent(best)];
  return el(
    "tr", {},
    el("th", { scope: "row" }, name, why && el("p", { class: "hint" }, why)),
    cells.map((value) => el("td", { class: "number" }, String(value))),
  );
}

function verdict({ model, tag, problem, copies, equal, confidence, milliseconds, answer_milliseconds }) {
  const name = tag && tag !== model ? `${model} (${tag})` : model;
  if (problem) return `Shadow ${name}: ${problem}.`;
  const compared = copies.equal + copies.different;
  const left = `${copies.dropped} dropped, ${copies.failed} failed`;
  if (!compared) return `Shadow ${name}: no copy was compared yet; ${left}.`;
  const surer = `${Math.abs(100 * confidence).toFixed(1)} points ${confidence < 0 ? "less" : "more"} sure`;
  return `Shadow ${name}: the same class in ${percent(equal)} of ${compared} copies, ${surer}, ` +
    `${milliseconds.toFixed(2)} ms beside ${answer_milliseconds.toFixed(2)} ms; ${left}.`;
}
