// The camera of this browser: one frame after the other to the model, the newest each time.

import { classify } from "./classify.js";
import { byId, notice } from "./page.js";

const PAUSE = 200; // ms between the beginnings of two frames, at least
const QUALITY = 0.9; // of a JPEG
const NAME = "camera.jpg";

let stream = null; // what films now
let fit = "";

export function startCamera() {
  byId("camera").addEventListener("click", () => (stream ? stop() : film()));
}

// Frames are red, green and blue of 8 bits: for models of such images.
export function showCamera(model) {
  const input = model && model.input;
  const fits = Boolean(input) && input.dtype === "uint8" && input.bands.length === 3;
  byId("camera").hidden = !(fits && navigator.mediaDevices);
  if (!fits) return stop();
  fit = input.fit || input.multiple ? "" : "fit=resize";
}

async function film() {
  const video = document.createElement("video");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
    video.srcObject = stream;
    video.muted = true;
    await video.play();
  } catch (error) {
    stop();
    byId("problem").replaceChildren(...notice(`The camera cannot be used: ${error.message}`).childNodes);
    byId("problem").hidden = false;
    return;
  }
  byId("camera").textContent = "Stop the camera";
  const mine = stream;
  while (mine === stream) {
    const next = new Promise((resolve) => setTimeout(resolve, PAUSE));
    await classify(await shot(video), NAME, fit);
    if (!byId("problem").hidden) stop(); // it would be refused again and again
    await next;
  }
}

function shot(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

function stop() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  byId("camera").textContent = "Use the camera";
}
