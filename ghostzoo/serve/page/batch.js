// Many pictures: a few on their way at a time, a row each in the order of the files, and a CSV of all.

import { toCsv } from "./csv.js";
import { nameElement, nameOf, showName } from "./names.js";
import { byId, download, NOTHING, percent } from "./view.js";

const AT_ONCE = 4;

/**
 * Classify `files` with `ask`, and fill the table.
 *
 * @param {File[]} files
 * @param {(file: File) => Promise<{predictions: object[]}>} ask
 * @param {AbortController} running ends the batch early; what is there by then stays
 */
export async function runBatch(files, ask, running) {
  const results = [];
  const rows = files.map(newRow);
  byId("rows").querySelectorAll("img").forEach(({ src }) => URL.revokeObjectURL(src));
  byId("rows").replaceChildren(...rows);
  byId("save").disabled = true;
  byId("stop").disabled = false;
  byId("stop").onclick = () => running.abort();
  const report = () => showProgress(results, files.length);
  report();
  let next = 0;
  const work = async () => {
    while (next < files.length && !running.signal.aborted) {
      const index = next++;
      results[index] = await resultOf(files[index], ask);
      if (running.signal.aborted) return;
      fillRow(rows[index], results[index]);
      report();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  byId("stop").disabled = true;
  byId("save").disabled = false;
  byId("save").onclick = () => download(toCsv(results.filter(Boolean).map(named)), "text/csv", "predictions.csv");
}

async function resultOf(file, ask) {
  try {
    return { name: file.name, predictions: (await ask(file)).predictions };
  } catch (error) {
    return { name: file.name, error: error.name === "AbortError" ? "stopped" : error.message };
  }
}

function named(result) {
  return { ...result, predictions: result.predictions?.map((each) => ({ ...each, label: nameOf(each) })) };
}

function newRow(file) {
  const row = byId("row").content.cloneNode(true).firstElementChild;
  const thumbnail = row.querySelector("img");
  thumbnail.onerror = () => thumbnail.remove(); // the browser cannot show it; a server may still read it
  thumbnail.src = URL.createObjectURL(file);
  row.querySelector(".name").textContent = file.name;
  return row;
}

function fillRow(row, { predictions, error }) {
  const [label, score, others] = ["label", "number", "others"].map((name) => row.querySelector(`.${name}`));
  if (error !== undefined) {
    label.textContent = error;
    label.classList.add("error");
    label.colSpan = 3;
    score.remove();
    others.remove();
    return;
  }
  if (predictions.length === 0) {
    label.textContent = NOTHING;
    return;
  }
  showName(label, predictions[0]);
  score.textContent = percent(predictions[0].score);
  others.append(
    ...predictions.slice(1, 3).flatMap((each, rank) => [rank ? ", " : "", nameElement("", each), ` ${percent(each.score)}`]),
  );
}

function showProgress(results, total) {
  const done = results.filter(Boolean);
  const failed = done.filter(({ error }) => error !== undefined).length;
  byId("progress").max = total;
  byId("progress").value = done.length;
  byId("progress-text").textContent = `${done.length} of ${total}${failed ? `, ${failed} without an answer` : ""}`;
}
