// ghostzoo's own engine as WebAssembly, which 'make wasm' builds of native/: one instance for each network.

import { readFrom } from "./files.js";

const BAD_FILE = 8; // of WASI: nothing is open but what is printed to
let compiling;

/**
 * Open a network.
 *
 * @param {Uint8Array} graph an ONNX file of ghostzoo's
 * @returns {Promise<(pixelValues: Float32Array, output?: "logits"|"embedding") => Float32Array>} of one image
 */
export async function openNative(graph) {
  compiling ??= compile();
  compiling.catch(() => (compiling = undefined)); // so that a next call tries again
  let printed = "";
  let library;
  const view = () => new DataView(library.memory.buffer); // anew after each call: memory that grows is another buffer
  const system = {
    fd_close: () => BAD_FILE,
    fd_seek: () => BAD_FILE,
    fd_write(file, vectors, count, written) {
      let total = 0;
      for (let i = 0; i < count; i++) {
        const [start, size] = [0, 4].map((at) => view().getUint32(vectors + 8 * i + at, true));
        printed += new TextDecoder().decode(new Uint8Array(library.memory.buffer, start, size));
        total += size;
      }
      view().setUint32(written, total, true);
      return 0;
    },
  };
  ({ exports: library } = await WebAssembly.instantiate(await compiling, { wasi_snapshot_preview1: system }));
  library._initialize();

  // The module prints what goes wrong, and ends.
  const run = (name, ...values) => {
    try {
      return library[name](...values);
    } catch (error) {
      throw new Error(printed.trim() || error.message);
    }
  };
  const allocate = (bytes) => {
    const place = run("malloc", bytes);
    if (place === 0) throw new Error("there is not enough memory");
    return place;
  };
  const file = allocate(graph.byteLength);
  new Uint8Array(library.memory.buffer, file).set(graph);
  const handle = allocate(4);
  if (run("ghostzoo_network_open", file, graph.byteLength, 0, handle) !== 0) throw new Error("it cannot be opened");
  run("free", file);
  const network = view().getUint32(handle, true);
  const pixels = allocate(4 * 3 * run("ghostzoo_network_image_size", network) ** 2);
  const sizes = { logits: run("ghostzoo_network_num_classes", network), embedding: run("ghostzoo_network_embedding_size", network) };
  const places = { logits: allocate(4 * sizes.logits), embedding: allocate(4 * sizes.embedding) };
  return (pixelValues, output = "logits") => {
    if (!(output in places)) throw new Error(`this engine has no output ${output}; use onnxRuntime`);
    new Float32Array(library.memory.buffer, pixels).set(pixelValues);
    const status = run("ghostzoo_network_run", network, pixels, 1, places.logits, output === "embedding" ? places.embedding : 0);
    if (status !== 0) throw new Error("it cannot be run");
    return new Float32Array(library.memory.buffer, places[output], sizes[output]).slice();
  };
}

async function compile() {
  return WebAssembly.compile(await readFrom(new URL("./ghostzoo.wasm", import.meta.url)));
}
