// Starts the parts of the page and tells each what the others learn.

import { loadSamples, showInput, startClassify } from "/web/classify.js";
import { loadExperiments, showServing, startExperiments } from "/web/experiments.js";
import { startFeedback } from "/web/feedback.js";
import { startKeys } from "/web/server.js";
import { startServing } from "/web/serving.js";
import { startSwaps } from "/web/swap.js";

let digest = null;

function learn(version) {
  showServing(version);
  showInput(version.model);
  const found = version.model ? version.model.sha256 : null;
  if (found === digest) return;
  digest = found;
  if (found) loadSamples(); // each model carries its own
}

startKeys();
startSwaps();
startClassify();
startFeedback();
startExperiments();
startServing(learn);
document.addEventListener("keychange", () => {
  loadSamples();
  loadExperiments();
});
