// Run the page's preprocessing: argv has the module and a JSON file of cases; each result is written beside its pixels.

import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, list] = process.argv.slice(2);
const { preprocess, preprocessingFrom } = await import(pathToFileURL(module));
for (const { file, width, height, config } of JSON.parse(await readFile(list, "utf-8"))) {
  const values = preprocess(new Uint8Array(await readFile(file)), width, height, preprocessingFrom(config));
  await writeFile(`${file}.out`, values);
}
