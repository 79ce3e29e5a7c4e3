// One scene in, its map out: over the true colour, with legend and the class under the cursor.

import { byId, el, notice, percent, words } from "./page.js";
import { asked, currentKey, read, request } from "./server.js";

const PAUSE = 300; // ms between looks at a job
const CLOSEST = 5; // zoom: a pixel is 32 on the screen
const NODATA = 255;
const KM2 = new Intl.NumberFormat("en-GB", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

let leaflet = null; // loaded when the first model that maps serves
let view = null; // the map on the page, and what it shows
let current = null; // the scene that is being mapped

export function startMap() {
  byId("scene").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // the same file may be chosen again
    if (file) mapScene(file);
  });
  byId("map-cancel").addEventListener("click", () => cancel());
  byId("opacity").addEventListener("input", setOpacity);
  startDropping();
}

// Only this card takes a scene; the rest of the window takes images to classify.
function startDropping() {
  const card = byId("map-card");
  const mine = (event) => {
    event.preventDefault();
    event.stopPropagation();
    byId("scene-frame").classList.toggle("over", event.type === "dragover");
  };
  card.addEventListener("dragover", mine);
  card.addEventListener("dragleave", mine);
  card.addEventListener("drop", (event) => {
    mine(event);
    const [file] = event.dataTransfer.files;
    if (file) mapScene(file);
  });
}

export function showMapping(model) {
  const maps = Boolean(model) && model.task === "segmentation";
  byId("map-card").hidden = !maps;
  if (!maps) return;
  const { bands, resolution, dtype } = model.input;
  const size = resolution ? `, pixels of ${resolution}\u00a0m` : "";
  byId("scene-takes").textContent =
    `A GeoTIFF of any size with the bands ${bands.join(", ")} by name, ${dtype}${size}, projected in metres.`;
}

export async function mapScene(file) {
  await cancel();
  const mine = (current = { job: "", stop: new AbortController() });
  begin(file.name);
  try {
    await load();
    const job = await asked(() => send(file, mine.stop.signal));
    mine.job = `/jobs/${job.jobID}`;
    await follow(mine, job);
  } catch (error) {
    if (mine !== current || error.name === "AbortError") return;
    refuse(error);
  }
  if (mine === current) finish();
}

async function send(file, signal) {
  const headers = { "Content-Type": "image/tiff", Prefer: "respond-async" };
  const options = new URLSearchParams();
  const bands = byId("scene-bands").value.replaceAll(" ", "");
  if (bands) options.set("bands", bands);
  const offset = byId("scene-offset").value;
  if (offset) options.set("offset", offset);
  const answer = await request(`/maps?${options}`, { method: "POST", body: file, headers, signal });
  return answer.json();
}

async function follow(mine, first) {
  let job = first;
  while (mine === current && ["accepted", "running"].includes(job.status)) {
    showProgress(job);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    if (mine === current) job = await read(mine.job);
  }
  if (mine !== current) return;
  if (job.status === "successful") await show(mine, job);
  else refuse({ message: job.message || `The job is ${job.status}.` });
}

// Stops what runs, here and on the server.
async function cancel() {
  const stopped = current;
  current = null;
  if (!stopped) return;
  stopped.stop.abort();
  finish();
  say("Cancelled.");
  if (stopped.job) await request(stopped.job, { method: "DELETE" }).catch(() => null);
}

function begin(name) {
  byId("scene-name").hidden = false;
  byId("scene-name").textContent = name;
  byId("map-problem").hidden = true;
  byId("map-result").hidden = true;
  byId("map-warnings").replaceChildren();
  byId("map-progress").removeAttribute("value"); // how long an upload takes is not known
  byId("map-progress").hidden = false;
  byId("map-cancel").hidden = false;
  say("Sending the scene …");
}

function finish() {
  current = null;
  byId("map-progress").hidden = true;
  byId("map-cancel").hidden = true;
}

const say = (text) => (byId("map-status").textContent = text);

function showProgress(job) {
  if (job.status === "accepted") return say("Waiting for other maps …");
  if (!job.tiles) return say("Reading the scene …");
  byId("map-progress").value = job.progress;
  say(`Mapping: ${job.tiles_done} of ${job.tiles} tiles …`);
}

function refuse(error) {
  say("No map");
  const text = inFields(error.message);
  if (text !== error.message) byId("scene-options").open = true;
  byId("map-problem").replaceChildren(...notice(text).childNodes);
  byId("map-problem").hidden = false;
}

async function load() {
  if (leaflet) return;
  const style = el("link", { rel: "stylesheet", href: "web/leaflet.css" });
  const loaded = new Promise((resolve, reject) => {
    style.onload = resolve;
    style.onerror = () => reject(new Error("The map did not load. Reload the page."));
  });
  document.head.prepend(style); // the page's own style comes after it
  await Promise.all([loaded, import("./leaflet.js")]);
  leaflet = window.L;
}

async function show(mine, job) {
  const names = ["scene.png", "map.png", "values.png"];
  const get = async (name) => (await request(`${mine.job}/${name}`)).blob();
  const [scene, map, values, item] = await Promise.all([
    ...names.map(get),
    read(`${mine.job}/item.json`),
  ]);
  const pixels = await readPixels(values);
  if (mine !== current) return;
  byId("map-result").hidden = false;
  draw(job, URL.createObjectURL(scene), URL.createObjectURL(map));
  view.job = job;
  view.pixels = pixels;
  view.classes = item.assets.map["classification:classes"];
  showLegend(job, view.classes);
  const warnings = job.made.warnings.map((text) => notice(sentence(inFields(text)), null, "calm"));
  byId("map-warnings").replaceChildren(...warnings);
  say(`${job.width}\u00a0×\u00a0${job.height} pixels, mean confidence ${percent(job.made.confidence)}.`);
  offer(mine.job);
}

// What a request says in its address is said in fields here.
const inFields = (text) =>
  text
    .replaceAll("?offset= ", "the offset ")
    .replaceAll("?offset=", "Offset: ")
    .replaceAll("?bands=", "Bands: ");

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replaceAll("`", "")}.`;

// Decoded as they are stored: the values are classes, not colours.
async function readPixels(blob) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const picture = await createImageBitmap(blob, options);
  const canvas = el("canvas", { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return { context, width: picture.width, height: picture.height };
}

function draw({ height, width }, scene, map) {
  const bounds = [[0, 0], [height, width]];
  if (!view) view = makeView();
  view.layers.forEach((layer) => {
    URL.revokeObjectURL(layer._url);
    layer.remove();
  });
  view.layers = [scene, map].map((source, at) =>
    leaflet.imageOverlay(source, bounds, { className: at ? "classes" : "colours" }).addTo(view.map),
  );
  view.map.invalidateSize();
  view.map.setMinZoom(-20);
  view.map.fitBounds(bounds, { animate: false });
  view.map.setMinZoom(view.map.getZoom() - 1);
  view.map.setMaxBounds(leaflet.latLngBounds(bounds).pad(0.5));
  setOpacity();
}

function makeView() {
  const map = leaflet.map("map", {
    crs: leaflet.CRS.Simple,
    attributionControl: false,
    zoomSnap: 0.25,
    maxZoom: CLOSEST,
    zoomAnimation: !matchMedia("(prefers-reduced-motion: reduce)").matches,
  });
  map.on("mousemove", (event) => showUnder(event.latlng, "the cursor"));
  map.on("mouseout", () => (byId("under").textContent = ""));
  // With the keyboard the middle is what one looks at.
  const middle = () => {
    if (byId("map").matches(":focus-visible")) showUnder(map.getCenter(), "the middle");
  };
  map.on("moveend", middle);
  byId("map").addEventListener("focus", middle);
  return { map, layers: [] };
}

function setOpacity() {
  const share = byId("opacity").value / 100;
  if (view && view.layers.length) view.layers[1].setOpacity(share);
}

function showUnder(place, where) {
  const { job, pixels, classes } = view;
  const column = Math.floor((place.lng * pixels.width) / job.width);
  const row = Math.floor(((job.height - place.lat) * pixels.height) / job.height);
  const inside = column >= 0 && row >= 0 && column < pixels.width && row < pixels.height;
  if (!inside) return (byId("under").textContent = "");
  const [label, confidence] = pixels.context.getImageData(column, row, 1, 1).data;
  const found = classes.find(({ value }) => value === label);
  byId("under").textContent =
    label === NODATA || !found
      ? `Under ${where}: no data`
      : `Under ${where}: ${words(found.name)}, confidence ${confidence}\u00a0%`;
}

function showLegend(job, classes) {
  const areas = job.made.square_kilometres;
  const all = Object.values(areas).reduce((sum, area) => sum + area, 0) || 1;
  const found = classes.filter(({ name }) => name in areas);
  found.sort((one, other) => areas[other.name] - areas[one.name]);
  byId("legend").replaceChildren(
    ...found.map(({ name, color_hint: colour }) => {
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.setProperty("--colour", `#${colour}`);
      return el(
        "tr", {},
        el("th", { scope: "row" }, swatch, words(name)),
        el("td", { class: "number" }, `${KM2.format(areas[name])}\u00a0km²`),
        el("td", { class: "number" }, percent(areas[name] / all)),
      );
    }),
  );
}

function offer(job) {
  byId("downloads").replaceChildren(
    download(`${job}/map.tif`, "Download the map", "main"),
    download(`${job}/item.json`, "STAC item", ""),
  );
}

// A link cannot carry a key: with one the file is fetched first.
function download(path, text, kind) {
  const link = el("a", { class: `button ${kind}`, href: `.${path}`, download: true }, text);
  link.addEventListener("click", async (event) => {
    if (!currentKey() || link.href.startsWith("blob:")) return;
    event.preventDefault();
    try {
      link.href = URL.createObjectURL(await (await request(path)).blob());
      link.download = path.split("/").at(-1);
      link.click();
    } catch (error) {
      refuse(error);
    }
  });
  return link;
}
