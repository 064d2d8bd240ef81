// ONNX Runtime as the engine: onnxruntime-web, onnxruntime-node, or any other build with the same interface.

/**
 * @param {object} ort the library, as its user imported it
 * @param {object} options of its sessions
 * @returns {(graph: Uint8Array) => Promise<(pixelValues: Float32Array, output?: string) => Promise<Float32Array>>}
 */
export function onnxRuntime(ort, options = {}) {
  return async (graph) => {
    const session = await ort.InferenceSession.create(graph, options);
    return async (pixelValues, output = "logits") => {
      const side = Math.sqrt(pixelValues.length / 3);
      const image = new ort.Tensor("float32", pixelValues, [1, 3, side, side]);
      return (await session.run({ pixel_values: image }, [output]))[output].data;
    };
  };
}
