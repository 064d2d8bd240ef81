// Runs models in the browser, off the page's own thread: file -> pixels -> network -> best classes.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { decodePixels } from "./pixels.js";
import { preprocess, preprocessingFrom } from "./preprocess.js";
import { findClasses } from "./scores.js";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const models = new Map(); // folder -> promise of {session, labels, isMultiLabel, preprocessing}
let turn = Promise.resolve(); // a session runs one call at a time

self.onmessage = ({ data: { id, folder, file, headers } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ id, answer: await classify(folder, file, headers) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};

async function classify(folder, file, headers) {
  const model = await load(folder, headers);
  const start = performance.now();
  const { rgba, width, height } = await decodePixels(file);
  const decoded = performance.now();
  const pixelValues = preprocess(rgba, width, height, model.preprocessing);
  const preprocessed = performance.now();
  const size = model.preprocessing.cropSize;
  const { logits } = await model.session.run(
    { pixel_values: new ort.Tensor("float32", pixelValues, [1, 3, size, size]) },
    ["logits"],
  );
  const ran = performance.now();
  return {
    predictions: findClasses(logits.data, model.labels, model.isMultiLabel),
    timings: { decode: decoded - start, preprocess: preprocessed - decoded, inference: ran - preprocessed },
  };
}

function load(folder, headers) {
  if (!models.has(folder)) {
    const loading = open(folder, headers);
    models.set(folder, loading);
    loading.catch(() => models.delete(folder)); // so that a next call tries again
  }
  return models.get(folder);
}

async function open(folder, headers) {
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
  return { session: await startSession(graph), labels, isMultiLabel, preprocessing: preprocessingFrom(processor) };
}

async function startSession(graph) {
  try {
    return await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`onnxruntime-web cannot run the model in this browser (${error.message})`);
  }
}

async function get(url, headers, read) {
  const answer = await fetch(url, { headers });
  if (!answer.ok) throw new Error(`${url} cannot be loaded (status ${answer.status})`);
  return read(answer);
}
