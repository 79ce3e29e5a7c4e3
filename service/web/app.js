// Starts the parts of the page and tells each what the others learn.

import { loadSamples, showInput, startClassify } from "./classify.js";
import { loadExperiments, showServing, startExperiments } from "./experiments.js";
import { startFeedback } from "./feedback.js";
import { showMapping, startMap } from "./map.js";
import { startKeys } from "./server.js";
import { startServing } from "./serving.js";
import { startSwaps } from "./swap.js";

let digest = null;

function learn(version) {
  showServing(version);
  showInput(version.model);
  showMapping(version.model);
  const found = version.model ? version.model.sha256 : null;
  if (found === digest) return;
  digest = found;
  if (found) loadSamples(); // each model carries its own
}

startKeys();
startSwaps();
startClassify();
startFeedback();
startMap();
startExperiments();
startServing(learn);
document.addEventListener("keychange", () => {
  loadSamples();
  loadExperiments();
});
