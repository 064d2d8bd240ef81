// Results of many pictures as a CSV file, with the columns that `ghostzoo predict --csv` writes, and the errors.

const COLUMNS = ["image", "rank", "index", "label", "score", "wnid", "error"];

/** @param {{name: string, predictions?: object[], error?: string}[]} results */
export function toCsv(results) {
  const rows = results.flatMap(({ name, predictions = [], error = "" }) =>
    predictions.length === 0
      ? [[name, "", "", "", "", "", error]]
      : predictions.map(({ index, label, score, wnid }, rank) => [
          name, rank + 1, index, label, Number(score.toFixed(5)), wnid ?? "", "",
        ]),
  );
  return [COLUMNS, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

// What a spreadsheet would run as a formula, as ghostzoo/spreadsheet.py has it; numbers are none.
const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

function field(value) {
  const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
