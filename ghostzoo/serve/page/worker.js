// Runs models in the browser, off the page's own thread: file -> pixels -> network -> best classes.

import { openNative } from "./native.js";
import { openOnnxRuntime } from "./onnxruntime.js";
import { decodePixels } from "./pixels.js";
import { preprocess, preprocessingFrom } from "./preprocess.js";
import { findClasses } from "./scores.js";

const RUNTIMES = { "ghostzoo-native": openNative, "onnxruntime-web": openOnnxRuntime };
const models = new Map(); // folder -> promise of {network, runtime, labels, isMultiLabel, preprocessing}
let turn = Promise.resolve(); // a network runs one call at a time

self.onmessage = ({ data: { id, folder, file, headers, runtimes } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ id, answer: await classify(folder, file, headers, runtimes) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};

async function classify(folder, file, headers, runtimes) {
  const model = await load(folder, headers, runtimes);
  const start = performance.now();
  const { rgba, width, height } = await decodePixels(file);
  const decoded = performance.now();
  const pixelValues = preprocess(rgba, width, height, model.preprocessing);
  const preprocessed = performance.now();
  const logits = await run(model, pixelValues, () => models.delete(folder));
  const ran = performance.now();
  return {
    runtime: model.runtime,
    predictions: findClasses(logits, model.labels, model.isMultiLabel),
    timings: { decode: decoded - start, preprocess: preprocessed - decoded, inference: ran - preprocessed },
  };
}

async function run({ network, runtime }, pixelValues, forget) {
  try {
    return await network(pixelValues);
  } catch (error) {
    forget(); // it may be in any state
    throw new Error(`${runtime} fails on this picture (${error.message})`);
  }
}

function load(folder, headers, runtimes) {
  if (!models.has(folder)) {
    const loading = open(folder, headers, runtimes);
    models.set(folder, loading);
    loading.catch(() => models.delete(folder)); // so that a next call tries again
  }
  return models.get(folder);
}

async function open(folder, headers, runtimes) {
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
