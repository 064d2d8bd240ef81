// onnxruntime-web, which 'make web' fetches; it is loaded when a model is opened with it.

let loading;

/** Open a network: as openNative. */
export async function openOnnxRuntime(graph) {
  loading ??= load();
  loading.catch(() => (loading = undefined));
  const ort = await loading;
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return async (pixelValues, output = "logits") => {
    const side = Math.sqrt(pixelValues.length / 3);
    const image = new ort.Tensor("float32", pixelValues, [1, 3, side, side]);
    return (await session.run({ pixel_values: image }, [output]))[output].data;
  };
}

async function load() {
  const ort = await import("./vendor/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  return ort;
}
