// Which model answers an image, and which one beside it: no key to deploy is needed for that.

import { byId, el } from "./page.js";
import { read } from "./server.js";

const LISTED = 50; // versions, the newest ones
const WAIT = 30; // seconds that a model may take to arrive

// The query of a prediction by a model; without one what serves answers, or the rules choose.
export const queryOf = (fit, model) =>
  [fit, model && `model=${encodeURIComponent(model)}&wait=${WAIT}`].filter(Boolean).join("&");

export const chosen = () => byId("by").value;
export const beside = () => byId("beside").value;

export async function loadModels() {
  const found = await read(`/get_experiments_metas?kind=version&limit=${LISTED}`).catch(() => null);
  const tags = found ? found.experiments.map((item) => item.tag) : [];
  byId("by-box").hidden = tags.length === 0;
  fill(byId("by"), "what serves", tags);
  fill(byId("beside"), "nothing", tags);
}

function fill(select, nothing, tags) {
  const before = select.value;
  const options = tags.map((tag) => el("option", { value: tag }, tag));
  select.replaceChildren(el("option", { value: "" }, nothing), ...options);
  select.value = tags.includes(before) ? before : "";
}
