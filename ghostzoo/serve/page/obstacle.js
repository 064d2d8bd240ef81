// Why this browser cannot run models, in words.

// A WebAssembly module with one SIMD instruction, such as the engines are made of.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);
const UPDATE = "Update it, or use a current Chrome, Edge, Firefox or Safari.";

/** @returns {string} one or two sentences, or "" where nothing is in the way */
export function findObstacle() {
  if (document.documentElement.dataset.runtimes === "") {
    return (
      "Neither ghostzoo-native nor onnxruntime-web, which would run the model here, was installed with this server. In " +
      "a checkout of ghostzoo, “make web” brings both; then install ghostzoo from there and start the server again."
    );
  }
  if (typeof WebAssembly !== "object") {
    return "WebAssembly is missing or switched off in this browser, as strict security settings do.";
  }
  if (!WebAssembly.validate(SIMD)) return `This browser's WebAssembly has no SIMD instructions. ${UPDATE}`;
  if (typeof OffscreenCanvas !== "function" || typeof createImageBitmap !== "function") {
    return `This browser cannot decode pictures off the page (OffscreenCanvas). ${UPDATE}`;
  }
  if (!hasModuleWorkers()) return `This browser starts no module workers. ${UPDATE}`;
  return "";
}

function hasModuleWorkers() {
  let isAsked = false;
  const options = {
    get type() {
      isAsked = true;
      return "module";
    },
  };
  const empty = URL.createObjectURL(new Blob([], { type: "text/javascript" }));
  new Worker(empty, options).terminate();
  URL.revokeObjectURL(empty);
  return isAsked;
}
