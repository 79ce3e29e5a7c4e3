// Starts the parts of the page and tells each what the others learn.

import { startBoxes } from "./boxes.js";
import { showCamera, startCamera } from "./camera.js";
import { loadSamples, showInput, startClassify } from "./classify.js";
import { loadExperiments, showServing, startExperiments } from "./experiments.js";
import { startFeedback } from "./feedback.js";
import { startLive } from "./live.js";
import { showMapping, startMap } from "./map.js";
import { loadModels } from "./models.js";
import { startKeys } from "./server.js";
import { startServing } from "./serving.js";
import { startSwaps } from "./swap.js";
import { showTraffic } from "./traffic.js";

let digest = null;

function learn(version) {
  showServing(version);
  showInput(version.model);
  showCamera(version.model);
  showMapping(version.model);
  showTraffic(version);
  const found = version.model ? version.model.sha256 : null;
  if (found === digest) return;
  digest = found;
  if (found) loadSamples(); // each model carries its own
}

startKeys();
startSwaps();
startClassify();
startCamera();
startFeedback();
startBoxes();
startMap();
startExperiments();
startLive();
startServing(learn);
loadModels();
document.addEventListener("keychange", () => {
  loadSamples();
  loadExperiments();
  loadModels();
});
