// Runs models in the browser, off the page's own thread: file -> pixels -> network -> best classes, a map or features.

import * as ort from "./vendor/ort.wasm.min.mjs";
import { explain } from "./explanation.js";
import { FEATURES, readHead, withFeatures } from "./onnx.js";
import { decodePixels } from "./pixels.js";
import { preprocess, preprocessingFrom } from "./preprocess.js";
import { findClasses } from "./scores.js";

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const models = new Map(); // folder -> promise of {session, labels, isMultiLabel, preprocessing}
const explainers = new Map(); // folder -> promise of {session, head}
let turn = Promise.resolve(); // a session runs one call at a time

const tasks = { classify, explain: explainFile, embed };

self.onmessage = ({ data: { id, task, folder, file, headers, options } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ id, answer: await tasks[task](folder, file, headers, options) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
};

async function classify(folder, file, headers) {
  const model = await load(models, folder, headers, open);
  const { tensor, timings } = await read(file, model);
  const start = performance.now();
  const { logits } = await model.session.run({ pixel_values: tensor }, ["logits"]);
  return {
    predictions: findClasses(logits.data, model.labels, model.isMultiLabel),
    timings: { ...timings, inference: performance.now() - start },
  };
}

/** The features of a file, by which other classes can be told. */
async function embed(folder, file, headers) {
  const model = await load(models, folder, headers, open);
  const { tensor } = await read(file, model);
  return (await model.session.run({ pixel_values: tensor }, ["embedding"])).embedding.data;
}

async function explainFile(folder, file, headers, { index, against }) {
  const model = await load(models, folder, headers, open);
  const { session, head } = await load(explainers, folder, headers, openExplainer);
  const { tensor } = await read(file, model);
  const features = (await session.run({ pixel_values: tensor }, [FEATURES]))[FEATURES];
  const { places, constant, logit } = explain(features.data, head, index, against);
  const [, , height, width] = features.dims;
  const map = Array.from({ length: height }, (_, row) => [...places.subarray(row * width, (row + 1) * width)]);
  return { map, constant, logit, seen: model.preprocessing.cropSize / model.preprocessing.resizeShort };
}

/** A file as the network's input, and how long it took. */
async function read(file, { preprocessing }) {
  const start = performance.now();
  const { rgba, width, height } = await decodePixels(file);
  const decoded = performance.now();
  const size = preprocessing.cropSize;
  const tensor = new ort.Tensor("float32", preprocess(rgba, width, height, preprocessing), [1, 3, size, size]);
  return { tensor, timings: { decode: decoded - start, preprocess: performance.now() - decoded } };
}

function load(loaded, folder, headers, start) {
  if (!loaded.has(folder)) {
    const loading = start(folder, headers);
    loaded.set(folder, loading);
    loading.catch(() => loaded.delete(folder)); // so that a next call tries again
  }
  return loaded.get(folder);
}

async function openExplainer(folder, headers) {
  const data = new Uint8Array(await get(`${folder}onnx/model.onnx`, headers, (answer) => answer.arrayBuffer()));
  const head = readHead(data);
  return { session: await startSession(withFeatures(data, head)), head };
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
