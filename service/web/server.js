// Requests to the service, and the key that goes with them.

import { byId, notice } from "./page.js";

let key = ""; // in memory only: a reload forgets it

// An error as the service says it: status, sentence, and the step of a swap that failed.
export class Problem extends Error {
  constructor(status, detail, step = null) {
    super(detail);
    this.status = status;
    this.step = step;
  }

  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

export const currentKey = () => key;

export function useKey(value) {
  if (key === value) return;
  key = value;
  byId("key-button").textContent = key ? "Forget the key" : "Use a key";
  document.dispatchEvent(new Event("keychange"));
}

export async function request(path, options = {}, credential = key) {
  const headers = { ...options.headers };
  if (credential) headers.Authorization = `Bearer ${credential}`;
  let response;
  try {
    response = await fetch(`.${path}`, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service does not answer. Check that it runs, then try again.");
  }
  if (response.status === 401 && !credential) throw new Problem(401, "This needs a key.");
  if (!response.ok) throw await problemOf(response);
  return response;
}

export const read = async (path) => (await request(path)).json();

// What a person started: asks for a key when one is needed, and goes on with it.
export async function asked(action) {
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (!error.wantsKey || !(await askForKey(error.message))) throw error;
    }
  }
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({})); // a proxy may answer something else
  const detail = body.detail || `The service answered ${response.status} ${response.statusText}.`;
  return new Problem(response.status, String(detail), body.step || null);
}

// What did not load, in place; where a key is the cure, with a way to enter one.
export function unloaded(what, error) {
  if (!error.wantsKey) return notice(error.message);
  const text = error.status === 401 && !key ? `${what} need a key.` : error.message;
  return notice(text, { label: "Enter a key", run: () => askForKey(text) }, "calm");
}

// True when there is a new key to try.
export function askForKey(why = "Some routes of this service may need one.") {
  const dialog = byId("key-dialog");
  byId("key-text").textContent = why;
  byId("key").value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => resolve(dialog.returnValue === "key");
    dialog.addEventListener("close", closed, { once: true });
  });
}

export function startKeys() {
  byId("key-close").addEventListener("click", () => byId("key-dialog").close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key").value.trim());
    byId("key").value = "";
    byId("key-dialog").close("key");
  });
  byId("key-button").addEventListener("click", () => (key ? useKey("") : askForKey()));
}
