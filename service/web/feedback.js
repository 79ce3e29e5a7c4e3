// "Is this right?" below an answer: what people say is what the model is measured by.

import { byId, el, words } from "./page.js";
import { asked, request } from "./server.js";

let answer = null; // the one that is shown

export function startFeedback() {
  byId("right").addEventListener("click", () => give(answer.class));
  byId("feedback").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("label").value) give(byId("label").value);
    else byId("label").focus();
  });
}

export function askAbout(found) {
  answer = found;
  byId("feedback").hidden = !found;
  byId("feedback-said").textContent = "";
  if (!found) return;
  const others = Object.keys(found.probabilities ?? found.shares).filter((name) => name !== found.class);
  byId("label").replaceChildren(
    el("option", { value: "" }, "Choose a class"),
    ...others.map((name) => el("option", { value: name }, words(name))),
  );
}

async function give(label) {
  const about = answer;
  const say = (text) => {
    if (about === answer) byId("feedback-said").textContent = text; // else it is another answer's
  };
  const body = JSON.stringify({ request_id: about.request_id, label });
  const headers = { "Content-Type": "application/json" };
  try {
    await asked(() => request("/feedback", { method: "POST", body, headers }));
    say(`Thank you: it is ${words(label)}.`);
  } catch (error) {
    say(error.message);
  }
}
