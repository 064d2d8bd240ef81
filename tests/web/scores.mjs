// Print the page's best classes: argv has the module and a JSON file of logits, labels and numbers of classes.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, file] = process.argv.slice(2);
const { softmax, topClasses } = await import(pathToFileURL(module));
const { logits, labels, counts } = JSON.parse(await readFile(file, "utf-8"));
const answers = logits.map((row) => counts.map((count) => topClasses(softmax(new Float32Array(row)), labels, count)));
process.stdout.write(JSON.stringify(answers));
