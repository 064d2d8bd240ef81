// Print the page's best classes, and those of a multi-label model: argv has the module and a JSON file of logits, labels
// and numbers of classes.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, file] = process.argv.slice(2);
const { findClasses, softmax, topClasses } = await import(pathToFileURL(module));
const { logits, labels, counts } = JSON.parse(await readFile(file, "utf-8"));
const answers = logits.map((row) => counts.map((count) => topClasses(softmax(new Float32Array(row)), labels, count)));
const several = logits.map((row) => findClasses(new Float32Array(row), labels, true));
process.stdout.write(JSON.stringify({ answers, several }));
