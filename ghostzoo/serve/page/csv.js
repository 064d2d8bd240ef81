// Results of many pictures as a CSV file, with the columns that `ghostzoo predict --csv` writes, and the errors.

const COLUMNS = ["image", "rank", "index", "label", "score", "wnid", "error"];

/** @param {{name: string, predictions?: object[], error?: string}[]} results */
export function toCsv(results) {
  const rows = results.flatMap(({ name, predictions, error }) =>
    predictions === undefined
      ? [[name, "", "", "", "", "", error]]
      : predictions.map(({ index, label, score, wnid }, rank) => [
          name, rank + 1, index, label, Number(score.toFixed(5)), wnid ?? "", "",
        ]),
  );
  return [COLUMNS, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

function field(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
