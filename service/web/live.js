// Frames of the stream as they are answered: the newest with its class, and how far behind it is.

import { counted } from "./objects.js";
import { byId, percent, words } from "./page.js";
import { request, unloaded } from "./server.js";

const PAUSE = 2000; // ms before it connects again
const PICTURES = ["data:image/png;base64,", "data:image/jpeg;base64,"];

let stop = new AbortController();

export function startLive() {
  follow();
  document.addEventListener("keychange", () => {
    stop.abort();
    stop = new AbortController();
    follow();
  });
}

// Not an EventSource: that cannot send a key.
async function follow() {
  const { signal } = stop;
  while (!signal.aborted) {
    try {
      const answer = await request("/live", { signal });
      byId("live-card").hidden = answer.status === 204;
      if (answer.status === 204) return;
      byId("live-notice").replaceChildren();
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (error) {
      if (signal.aborted || error.status === 404) return; // a service without this room
      if (error.wantsKey) {
        byId("live-card").hidden = false;
        byId("live-notice").replaceChildren(unloaded("Live frames", error));
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

async function read(reader) {
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    const last = events.filter((event) => event.startsWith("data: ")).at(-1);
    if (last) show(JSON.parse(last.slice("data: ".length)));
  }
}

function headline({ counts, class: name, probability, confidence }) {
  return counts ? counted(counts) : `${words(name)}, ${percent(probability ?? confidence)}`;
}

function show(event) {
  const { answer } = event;
  const age = Math.max(0, Date.now() - Date.parse(event.captured_at)) / 1000;
  byId("live-source").hidden = false;
  byId("live-source").textContent = `${event.source}, frame ${event.sequence}`;
  byId("live-answer").textContent = headline(answer);
  byId("live-model").textContent = `${answer.model.tag}, ${age.toFixed(1)} s after it was taken`;
  byId("live-rate").textContent = `${event.rate.toFixed(1)} frames a second, ${event.lag} waiting`;
  const picture = byId("live-picture");
  picture.hidden = !PICTURES.some((start) => event.picture.startsWith(start));
  if (!picture.hidden) picture.src = event.picture;
}
