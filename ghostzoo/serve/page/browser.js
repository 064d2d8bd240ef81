// The page's side of worker.js: one worker, and a promise for each call.

// What is there to run models with, the first choice first; "?runtime=NAME" in the page's address leaves one.
const wanted = new URLSearchParams(location.search).get("runtime");
const found = document.documentElement.dataset.runtimes.split(" ").filter(Boolean);
const runtimes = wanted === null ? found : found.filter((name) => name === wanted);

let worker;
let lastId = 0;
const waiting = new Map();

/**
 * Have a file classified, explained or embedded in this browser.
 *
 * @param {"classify"|"explain"|"embed"} task
 * @param {string} folder URL of the model's files, with a slash at its end
 * @param {Blob} file
 * @param {Record<string, string>} headers for the requests of the model's files
 * @param {object} options of the task
 */
export function runInBrowser(task, folder, file, headers, options = {}) {
  if (runtimes.length === 0) return Promise.reject(new Error(`there is no ${wanted} here, only ${found.join(" and ")}`));
  worker ??= startWorker();
  const id = ++lastId;
  const place = new URL(folder, location.href).href;
  worker.postMessage({ id, task, folder: place, file, headers, runtimes, options });
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
      reject(new Error(`the engine cannot be started in this browser${reason}; load the page again`));
    }
    waiting.clear();
    worker = undefined;
  };
  return started;
}
