// Where answers come from: the server that this page came from, or, in the static page, this browser alone.

import { runInBrowser } from "./browser.js";

const isStatic = document.documentElement.dataset.mode === "static";
const UNREADABLE = 422; // the answer says of each image why
const classes = new Map(); // model -> what readClasses has found
let apiKey = "";

export const hasServer = !isStatic;

export function setApiKey(key) {
  apiKey = key;
}

/**
 * @typedef {{name: string, classes: number, multiLabel: boolean, engines: string[], folder: string}} Model
 * @returns {Promise<Model[]>} the models, the default one first
 */
export async function listModels() {
  const answer = await request(isStatic ? "models/index.json" : "v1/models");
  const { models } = await answer.json();
  const loaded = models.filter(({ ready = true }) => ready);
  return loaded.map(({ name, classes, multi_label: multiLabel = false, engines = [] }) => ({
    name,
    classes,
    multiLabel,
    engines,
    folder: isStatic ? `models/${encodeURIComponent(name)}/` : `v1/models/${encodeURIComponent(name)}/files/`,
  }));
}

/** @returns {Promise<{labels: string[], wnids: (string|null)[]}>} the model's classes, as it calls them itself */
export async function readClasses(model) {
  if (classes.has(model)) return classes.get(model);
  const { id2label, id2wnid = {} } = await (await request(`${model.folder}config.json`)).json();
  const labels = Object.keys(id2label).map((_, index) => id2label[index]);
  classes.set(model, { labels, wnids: labels.map((_, index) => id2wnid[index] ?? null) });
  return classes.get(model);
}

/** Ask the server. @returns {Promise<{predictions: object[], timings: Record<string, number>}>} times in milliseconds */
export async function askServer(model, engine, file, signal) {
  const form = new FormData();
  form.append("files", file, file.name || "picture");
  form.append("model", model.name);
  form.append("engine", engine);
  const start = performance.now();
  const answer = await request("v1/classify", { method: "POST", body: form, signal });
  const [{ predictions, timing, error }] = (await answer.json()).images;
  if (error) throw new Error(error);
  const timings = {
    queue: timing.queue_ms + timing.batch_ms,
    "decode and preprocess": timing.decode_ms,
    inference: timing.inference_ms,
    "in all": performance.now() - start,
  };
  return { predictions, timings };
}

export async function askBrowser(model, file) {
  const start = performance.now();
  const { runtime, predictions, timings } = await runInBrowser("classify", model.folder, file, credentials());
  return { title: `${runtime} in this browser`, predictions, timings: { ...timings, "in all": performance.now() - start } };
}

/**
 * Ask where in a picture a class comes from.
 *
 * @param {number} index the class
 * @param {number|null} against another one, to explain the difference
 * @returns {Promise<{map: number[][], constant: number, logit: number, seen: number}>} as the server has them
 */
export async function askWhere(model, engine, file, index, against) {
  if (isStatic) return runInBrowser("explain", model.folder, file, credentials(), { index, against });
  const form = new FormData();
  form.append("files", file, file.name || "picture");
  const fields = { model: model.name, engine, index, ...(against === null ? {} : { against }) };
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  const answer = await (await request("v1/explain", { method: "POST", body: form })).json();
  if (answer.error) throw new Error(answer.error);
  return answer;
}

/** @returns {Promise<Float32Array>} the features of a picture, computed in this browser */
export function embedInBrowser(model, file) {
  return runInBrowser("embed", model.folder, file, credentials());
}

/** @returns {Promise<Uint8Array>} a file of the model's bundle */
export async function readFile(model, path) {
  return new Uint8Array(await (await request(model.folder + path)).arrayBuffer());
}

function credentials() {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
}

async function request(url, options = {}) {
  let answer;
  try {
    // Labels as the model has them, whatever the browser's language: the page names them itself.
    answer = await fetch(url, { ...options, headers: { "Accept-Language": "*", ...credentials() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached; is it still running?");
  }
  if (answer.ok || answer.status === UNREADABLE) return answer;
  const failure = new Error(await reasonOf(answer));
  failure.status = answer.status;
  throw failure;
}

async function reasonOf(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return `the server answered with status ${answer.status}`;
  }
}
