// ghostzoo's models in JavaScript: a bundle -> pixels, preprocessed bit for bit as in Python -> classes, features, a map.

import { explain } from "./explanation.js";
import { folderUrl, readFrom } from "./files.js";
import { openNative } from "./native.js";
import { FEATURES, readHead, withFeatures } from "./onnx.js";
import { decodePixels } from "./pixels.js";
import { preprocess, preprocessingFrom } from "./preprocess.js";
import { findClasses, sigmoid, softmax, topClasses } from "./scores.js";

export { drawMap } from "./explanation.js";
export { onnxRuntime } from "./onnxruntime.js";
export { openNative as native, preprocess, preprocessingFrom, sigmoid, softmax, topClasses };

const FILES = ["ghostzoo.json", "config.json", "preprocessor_config.json", "onnx/model.onnx"];

/**
 * Open a bundle.
 *
 * @param {string|URL} source its folder
 * @param {{engine?: import("./index.js").Engine, headers?: Record<string, string>}} options
 */
export async function load(source, { engine = openNative, headers = {} } = {}) {
  const folder = folderUrl(source);
  const read = (path) => readFrom(new URL(path, folder), headers);
  const [manifest, config, processor, graph] = await Promise.all(FILES.map(read));
  const { calibration } = parse(manifest);
  return new Model(parse(config), preprocessingFrom(parse(processor)), graph, await engine(graph), calibration);
}

class Model {
  #graph;
  #network;
  #explainer;

  constructor(config, preprocessing, graph, network, calibration) {
    const count = Object.keys(config.id2label).length;
    const label = (_, index) => ({ label: config.id2label[index], wnid: config.id2wnid?.[index] ?? null });
    this.labels = Array.from({ length: count }, label);
    this.isMultiLabel = config.problem_type === "multi_label_classification";
    this.preprocessing = preprocessing;
    this.temperature = calibration?.temperature ?? 1;
    this.#graph = graph;
    this.#network = network;
  }

  /** The network's input; every other method takes it in the image's place. */
  async preprocess(image) {
    if (image instanceof Float32Array) return image;
    const { data, width, height } = await pixelsOf(image);
    return preprocess(data, width, height, this.preprocessing);
  }

  async logits(image) {
    return this.#network(await this.preprocess(image), "logits");
  }

  /** The features before the last layer. */
  async embed(image) {
    return this.#network(await this.preprocess(image), "embedding");
  }

  /** The classes, best first: five, or of a multi-label model all from one half on. */
  async classify(image, options) {
    return findClasses(await this.logits(image), this.labels, this.isMultiLabel, { temperature: this.temperature, ...options });
  }

  /**
   * Where in the image a class comes from, or what speaks for it rather than for another.
   *
   * @param {import("./index.js").Engine} engine one that computes any output: onnxRuntime(...)
   */
  async explain(image, index, { engine, against = null }) {
    this.#explainer ??= this.#openExplainer(engine);
    this.#explainer.catch(() => (this.#explainer = undefined)); // so that a next call tries again
    const { network, head } = await this.#explainer;
    const features = await network(await this.preprocess(image), FEATURES);
    const { places, constant, logit } = explain(features, head, index, against);
    const side = Math.sqrt(places.length); // the network's input is a square, and so is what it makes of it
    const map = Array.from({ length: side }, (_, row) => [...places.subarray(row * side, (row + 1) * side)]);
    return { map, constant, logit, seen: this.preprocessing.cropSize / this.preprocessing.resizeShort };
  }

  async #openExplainer(engine) {
    const head = readHead(this.#graph);
    return { network: await engine(withFeatures(this.#graph, head)), head };
  }
}

/** RGBA pixels: ImageData or the like, or what the browser makes of a file. */
async function pixelsOf(image) {
  if (image instanceof Blob) return decodePixels(image);
  if (image?.data?.length !== 4 * image?.width * image?.height) {
    throw new Error("the picture is no Blob and no RGBA: data, width and height, with 4 * width * height values");
  }
  return image;
}

const parse = (data) => JSON.parse(new TextDecoder().decode(data));
