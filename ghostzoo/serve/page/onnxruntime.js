// onnxruntime-web, which 'make web' fetches; it is loaded when a model is opened with it.

import { onnxRuntime } from "./ghostzoo/index.js";

let loading;

/** Open a network: an engine for the package's load. */
export async function openOnnxRuntime(graph) {
  loading ??= load();
  loading.catch(() => (loading = undefined)); // so that a next call tries again
  return onnxRuntime(await loading, { executionProviders: ["wasm"] })(graph);
}

async function load() {
  const ort = await import("./vendor/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  return ort;
}
