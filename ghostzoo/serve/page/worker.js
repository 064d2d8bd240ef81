// Runs models in the browser, off the page's own thread, with the package that is in the folder ghostzoo.

import { load, native } from "./ghostzoo/index.js";
import { decodePixels } from "./ghostzoo/pixels.js";
import { openOnnxRuntime } from "./onnxruntime.js";

const ENGINES = { "ghostzoo-native": native, "onnxruntime-web": openOnnxRuntime };
const EXPLAINS = "onnxruntime-web"; // the other has no such output
const models = new Map(); // folder -> promise of {model, runtime}
const tasks = { classify, explain, embed };
let turn = Promise.resolve(); // a network runs one call at a time

self.onmessage = ({ data: { id, task, folder, file, headers, runtimes, options } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ id, answer: await tasks[task]({ folder, headers, runtimes }, file, options) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};

async function classify(place, file) {
  const { model, runtime } = await opened(place);
  const { pixelValues, timings } = await read(file, model);
  const start = performance.now();
  const predictions = await attempt(place, runtime, () => model.classify(pixelValues));
  return { runtime, predictions, timings: { ...timings, inference: performance.now() - start } };
}

/** The features of a file, by which other classes can be told. */
async function embed(place, file) {
  const { model, runtime } = await opened(place);
  const { pixelValues } = await read(file, model);
  return attempt(place, runtime, () => model.embed(pixelValues));
}

async function explain(place, file, { index, against }) {
  if (!place.runtimes.includes(EXPLAINS)) throw new Error(`an explanation needs ${EXPLAINS}, which is not here`);
  const { model } = await opened(place);
  const { pixelValues } = await read(file, model);
  return attempt(place, EXPLAINS, () => model.explain(pixelValues, index, { engine: openOnnxRuntime, against }));
}

/** A file as the network's input, and how long it took. */
async function read(file, model) {
  const start = performance.now();
  const pixels = await decodePixels(file);
  const decoded = performance.now();
  const pixelValues = await model.preprocess(pixels);
  return { pixelValues, timings: { decode: decoded - start, preprocess: performance.now() - decoded } };
}

async function attempt({ folder }, runtime, run) {
  try {
    return await run();
  } catch (error) {
    models.delete(folder); // it may be in any state
    throw new Error(`${runtime} fails on this picture (${error.message})`);
  }
}

function opened(place) {
  if (!models.has(place.folder)) {
    const opening = open(place);
    models.set(place.folder, opening);
    opening.catch(() => models.delete(place.folder)); // so that a next call tries again
  }
  return models.get(place.folder);
}

/** Open the model with the first of the runtimes that can; the answer tells which it is. */
async function open({ folder, headers, runtimes }) {
  let runtime;
  const model = await load(folder, { headers, engine });
  return { model, runtime };

  async function engine(graph) {
    const reasons = [];
    for (runtime of runtimes) {
      try {
        return await ENGINES[runtime](graph);
      } catch (error) {
        reasons.push(`${runtime} cannot run the model in this browser (${error.message})`);
      }
    }
    throw new Error(reasons.join("; "));
  }
}
