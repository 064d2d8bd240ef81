// Runs models in the browser, off the page's own thread: file -> pixels -> network -> best classes, a map or features.

import { explain } from "./explanation.js";
import { openNative } from "./native.js";
import { FEATURES, readHead, withFeatures } from "./onnx.js";
import { openOnnxRuntime } from "./onnxruntime.js";
import { decodePixels } from "./pixels.js";
import { preprocess, preprocessingFrom } from "./preprocess.js";
import { findClasses } from "./scores.js";

const RUNTIMES = { "ghostzoo-native": openNative, "onnxruntime-web": openOnnxRuntime };
const EXPLAINS = "onnxruntime-web"; // the other has no such output
const models = new Map(); // folder -> promise of {network, runtime, labels, isMultiLabel, preprocessing}
const explainers = new Map(); // folder -> promise of {network, runtime, head}
const tasks = { classify, explain: explainFile, embed };
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

async function classify(place, file, { temperature = 1 } = {}) {
  const model = await load(models, place, open);
  const { pixelValues, timings } = await read(file, model);
  const start = performance.now();
  const logits = await run(model, pixelValues, "logits", () => models.delete(place.folder));
  return {
    runtime: model.runtime,
    predictions: findClasses(logits, model.labels, model.isMultiLabel, temperature),
    timings: { ...timings, inference: performance.now() - start },
  };
}

/** The features of a file, by which other classes can be told. */
async function embed(place, file) {
  const model = await load(models, place, open);
  const { pixelValues } = await read(file, model);
  return run(model, pixelValues, "embedding", () => models.delete(place.folder));
}

async function explainFile(place, file, { index, against }) {
  const model = await load(models, place, open);
  const explainer = await load(explainers, place, openExplainer);
  const { pixelValues } = await read(file, model);
  const features = await run(explainer, pixelValues, FEATURES, () => explainers.delete(place.folder));
  const { places, constant, logit } = explain(features, explainer.head, index, against);
  const side = Math.sqrt(places.length); // the network's input is a square, and so is what it makes of it
  const map = Array.from({ length: side }, (_, row) => [...places.subarray(row * side, (row + 1) * side)]);
  return { map, constant, logit, seen: model.preprocessing.cropSize / model.preprocessing.resizeShort };
}

/** A file as the network's input, and how long it took. */
async function read(file, { preprocessing }) {
  const start = performance.now();
  const { rgba, width, height } = await decodePixels(file);
  const decoded = performance.now();
  const pixelValues = preprocess(rgba, width, height, preprocessing);
  return { pixelValues, timings: { decode: decoded - start, preprocess: performance.now() - decoded } };
}

async function run({ network, runtime }, pixelValues, output, forget) {
  try {
    return await network(pixelValues, output);
  } catch (error) {
    forget(); // it may be in any state
    throw new Error(`${runtime} fails on this picture (${error.message})`);
  }
}

function load(loaded, place, start) {
  if (!loaded.has(place.folder)) {
    const loading = start(place);
    loaded.set(place.folder, loading);
    loading.catch(() => loaded.delete(place.folder)); // so that a next call tries again
  }
  return loaded.get(place.folder);
}

async function openExplainer({ folder, headers, runtimes }) {
  if (!runtimes.includes(EXPLAINS)) throw new Error(`an explanation needs ${EXPLAINS}, which is not here`);
  const data = new Uint8Array(await get(`${folder}onnx/model.onnx`, headers, (answer) => answer.arrayBuffer()));
  const head = readHead(data);
  return { ...(await openNetwork(withFeatures(data, head), [EXPLAINS])), head };
}

async function open({ folder, headers, runtimes }) {
  const [config, processor, graph] = await Promise.all([
    get(`${folder}config.json`, headers, (answer) => answer.json()),
    get(`${folder}preprocessor_config.json`, headers, (answer) => answer.json()),
    get(`${folder}onnx/model.onnx`, headers, (answer) => answer.arrayBuffer()),
  ]);
  const count = Object.keys(config.id2label).length;
  const labels = Array.from({ length: count }, (_, index) => ({
    label: config.id2label[index],
    wnid: config.id2wnid?.[index] ?? null,
  }));
  const isMultiLabel = config.problem_type === "multi_label_classification";
  return { ...(await openNetwork(graph, runtimes)), labels, isMultiLabel, preprocessing: preprocessingFrom(processor) };
}

/** Open the graph with the first of the runtimes that can; the answer tells which it is. */
async function openNetwork(graph, runtimes) {
  const reasons = [];
  for (const runtime of runtimes) {
    try {
      return { network: await RUNTIMES[runtime](graph), runtime };
    } catch (error) {
      reasons.push(`${runtime} cannot run the model in this browser (${error.message})`);
    }
  }
  throw new Error(reasons.join("; "));
}

async function get(url, headers, read) {
  const answer = await fetch(url, { headers });
  if (!answer.ok) throw new Error(`${url} cannot be loaded (status ${answer.status})`);
  return read(answer);
}
