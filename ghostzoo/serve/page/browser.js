// The page's side of worker.js: one worker, and a promise for each call.

let worker;
let lastId = 0;
const waiting = new Map();

/**
 * Classify a file in this browser.
 *
 * @param {string} folder URL of the model's files, with a slash at its end
 * @param {Blob} file
 * @param {Record<string, string>} headers for the requests of the model's files
 */
export function classifyInBrowser(folder, file, headers) {
  worker ??= startWorker();
  const id = ++lastId;
  worker.postMessage({ id, folder: new URL(folder, location.href).href, file, headers });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function startWorker() {
  const started = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  started.onmessage = ({ data: { id, answer, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(answer);
    else reject(new Error(error));
  };
  started.onerror = (event) => {
    event.preventDefault();
    const reason = event.message ? ` (${event.message})` : "";
    for (const { reject } of waiting.values()) {
      reject(new Error(`onnxruntime-web cannot be started in this browser${reason}; load the page again`));
    }
    waiting.clear();
    worker = undefined;
  };
  return started;
}
