// One image in, one answer out.

import { askAboutBoxes, showBoxes } from "./boxes.js";
import { askAbout } from "./feedback.js";
import { beside, chosen, queryOf } from "./models.js";
import { drawObjects, listObjects } from "./objects.js";
import { byId, digest, el, notice, percent, words } from "./page.js";
import { asked, read, request, unloaded } from "./server.js";

const PATIENCE = 200; // ms before the progress is shown: most answers are faster
const SHOWN = 20; // classes; the rest is said to be there
// What the service does with an image of another size, by the name of the way.
const FITS = {
  crop: "scaled until it fills this size, and what sticks out is cut off",
  pad: "scaled until all of it is inside this size, and the rest is left empty",
  stretch: "stretched to this size, without its proportions",
};

let running = null; // AbortController of the image that is being classified
let wanted = null; // what the model takes
let loading = 0; // counts the lists of samples, so that only the newest is shown

export function startClassify() {
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // the same file may be chosen again
    if (file) classify(file, file.name);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) classify(file, file.name);
  });
  startDropping();
}

// The whole window takes an image: beside the frame, the browser would leave the page for it.
function startDropping() {
  const frame = byId("frame");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    frame.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) frame.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    frame.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) classify(file, file.name);
  });
}

// Of the card and of the bars, by the model's task.
const TITLES = {
  classification: ["Classify an image", "Probability of every class"],
  segmentation: ["Classes in an image", "Share of every class"],
  detection: ["Find objects in an image", "Score of each object"],
  instances: ["Find objects in an image", "Score of each object"],
};

export function showInput(model) {
  if (!model) return;
  wanted = model.input;
  const { bands, width, height, dtype, fit, multiple } = wanted;
  const names = bands.length > 8 ? "" : ` (${bands.join(", ")})`;
  const [title, bars] = TITLES[model.task] ?? TITLES.classification;
  byId("classify-title").textContent = title;
  byId("bars").setAttribute("aria-label", bars);
  if (multiple) {
    byId("takes").textContent =
      `GeoTIFF, TIFF, PNG, JPEG or NPY: ${bands.length} bands${names}, ${dtype}, of any size.`;
    return;
  }
  byId("takes").textContent =
    `GeoTIFF, TIFF, PNG, JPEG or NPY: ${bands.length} bands${names}, ` +
    `${size(width, height)}, ${dtype}. An image of another size is ` +
    (fit ? `${FITS[fit]}, as in training.` : "refused, or resized if you ask for it.");
}

const size = (width, height) => `${width}\u00a0×\u00a0${height} pixels`;

export async function loadSamples() {
  const mine = ++loading;
  const box = byId("samples-box");
  try {
    const samples = await read("/samples");
    const pictures = await Promise.all(samples.map(sampleSource));
    if (mine !== loading) return;
    byId("samples").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    byId("samples").replaceChildren(...samples.map((item, at) => sample(item, pictures[at])));
    box.hidden = samples.length === 0;
  } catch (error) {
    if (mine !== loading) return;
    byId("samples").replaceChildren(el("li", {}, unloaded("The samples", error)));
    box.hidden = false;
  }
}

function sample(item, source) {
  const name = words(item.answer);
  const image = el("img", { src: source, alt: "", width: 64, height: 64 });
  const file = `sample-${item.index}.npy`;
  const choose = async () => {
    try {
      const found = await asked(() => request(`/samples/${item.index}`));
      await classify(await found.blob(), file);
    } catch (error) {
      refuse(error, file);
    }
  };
  return el("li", {}, el("button", { type: "button", onclick: choose }, image, el("span", {}, name)));
}

const sampleSource = (item) => picture(() => request(`/samples/${item.index}.png`));

// With fetch, not as the address of an image: an image could not carry the key.
const picture = async (ask) => URL.createObjectURL(await (await ask()).blob());

// The picture of an upload and the size of the upload itself; the picture may be smaller.
async function preview(ask) {
  const found = await ask();
  const [width, height] = found.headers.get("x-image-size").split("x").map(Number);
  return { source: URL.createObjectURL(await found.blob()), width, height };
}

export async function classify(blob, name, fit = "") {
  if (running) running.abort();
  const mine = (running = new AbortController());
  const send = (path) => upload(path, blob, name, mine.signal);
  const timer = setTimeout(() => showWorking(), PATIENCE);
  byId("answer").setAttribute("aria-busy", "true");
  let hasPicture = true;
  let objects = [];
  try {
    const ask = (model) => timed(() => send(`/predict?${queryOf(fit, model)}`));
    byId("second").hidden = byId("first-title").hidden = true;
    const { answer, took } = await asked(() => ask(chosen()));
    objects = answer.objects ?? [];
    showAnswer(answer, took, name);
    if (beside()) await showSecond(answer.model.tag, beside(), ask, mine);
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    refuse(error, name, () => classify(blob, name, "fit=resize"));
    hasPicture = error.status === 422; // it could be read, and only its size or bands are wrong
  } finally {
    clearTimeout(timer);
    if (mine === running) showIdle();
  }
  const shown = hasPicture ? await preview(() => send("/preview")).catch(() => null) : null;
  if (mine !== running) return;
  showPicture(shown && shown.source, name);
  drawObjects(shown, objects);
  showBoxes(shown);
  if (shown && byId("problem").hidden) showFit(shown, fit ? "stretch" : wanted && wanted.fit);
}

async function timed(action) {
  const started = performance.now();
  const answer = await (await action()).json();
  return { answer, took: performance.now() - started };
}

function upload(path, blob, name, signal) {
  const body = new FormData();
  body.append("file", blob, name);
  return request(path, { method: "POST", body, signal });
}

function showWorking() {
  byId("working").hidden = false;
}

function showIdle() {
  byId("working").hidden = true;
  byId("answer").removeAttribute("aria-busy");
}

function showName(name) {
  byId("file-name").hidden = false;
  byId("file-name").textContent = name;
}

function showAnswer(answer, took, name) {
  showName(name);
  byId("problem").hidden = true;
  byId("fitted").textContent = "";
  const { tag, sha256 } = answer.model;
  const by = [`Answered by `, el("b", {}, tag), " ", digest(sha256), ` in ${Math.round(took)} ms.`];
  if (answer.objects) {
    listObjects(answer);
    byId("answered").replaceChildren(...by);
    askAbout(null); // no class says whether boxes are right
    return askAboutBoxes(answer);
  }
  askAboutBoxes(null);
  const shares = answer.probabilities ?? answer.shares; // of a map: of its area
  byId("headline").textContent = `${words(answer.class)}, ${percent(shares[answer.class]).replace(">", "over")}`;
  const sorted = Object.entries(shares).sort((one, other) => other[1] - one[1]);
  byId("bars").replaceChildren(...sorted.slice(0, SHOWN).map(bar));
  const which = answer.shares ? "largest" : "likeliest";
  const more = sorted.length > SHOWN ? `The ${which} ${SHOWN} of ${sorted.length} classes. ` : "";
  byId("answered").replaceChildren(more, ...by);
  askAbout(answer);
}

// The answer of another model to the same image, beside the first one.
async function showSecond(first, model, ask, mine) {
  byId("first-title").textContent = first;
  byId("first-title").hidden = false;
  byId("second-title").textContent = model;
  byId("second-bars").replaceChildren();
  byId("second").hidden = false;
  try {
    const { answer, took } = await ask(model);
    if (mine !== running) return;
    const shares = answer.probabilities ?? answer.shares ?? {};
    const sorted = Object.entries(shares).sort((one, other) => other[1] - one[1]);
    byId("second-bars").replaceChildren(...sorted.slice(0, SHOWN).map(bar));
    byId("second-said").textContent = answer.objects
      ? `${answer.objects.length} objects in ${Math.round(took)} ms.` : `In ${Math.round(took)} ms.`;
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    byId("second-said").textContent = error.message;
  }
}

function bar([name, probability]) {
  const fill = el("span", { class: "fill" });
  fill.style.setProperty("--share", probability); // not an attribute: the policy forbids those
  return el(
    "li", {},
    el("span", { class: "class", title: name }, words(name)),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
    el("span", { class: "share" }, percent(probability)),
  );
}

function refuse(error, name, resize) {
  showName(name);
  byId("headline").textContent = "No answer";
  byId("bars").replaceChildren();
  byId("answered").replaceChildren();
  byId("fitted").textContent = "";
  askAbout(null);
  askAboutBoxes(null);
  const fits = error.status === 422 && error.message.includes("fit=resize");
  const cure = fits ? { label: "Resize it to fit", run: resize } : null;
  byId("problem").replaceChildren(...notice(error.message, cure).childNodes);
  byId("problem").hidden = false;
}

function showPicture(source, name) {
  const image = byId("picture");
  URL.revokeObjectURL(image.src);
  image.hidden = !source;
  byId("invitation").hidden = Boolean(source);
  if (!source) return image.removeAttribute("src");
  // Chips are small: their pixels are shown as they are. Large pictures are shrunk smoothly.
  image.onload = () => image.classList.toggle("large", image.naturalWidth > image.width);
  image.src = source;
  image.alt = `${name} in true colour`;
}

// Without this, a wrong answer to a picture whose edges were cut off would look like the model's.
function showFit({ width, height }, fit) {
  if (!wanted || !fit || (width === wanted.width && height === wanted.height)) return;
  const now = size(wanted.width, wanted.height);
  const how = FITS[fit].replace("this size", now);
  byId("fitted").textContent = `The image has ${size(width, height)}. It was ${how}.`;
}
