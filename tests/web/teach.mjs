// Teach and write a bundle as the page does: argv has the page's folder, a bundle's folder, a JSON file of features,
// labels and names, and the ZIP to write.

import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [page, folder, input, out] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${page}/${name}`));
const [{ fitHead }, { makeBundle, NEEDED }] = [await load("ridge.js"), await load("bundle.js")];
const { features, labels, names } = JSON.parse(await readFile(input, "utf-8"));
const head = fitHead(features.map((row) => new Float32Array(row)), labels);
const files = new Map();
for (const path of NEEDED) files.set(path, new Uint8Array(await readFile(`${folder}/${path}`)));
const accuracy = { right: head.right, total: labels.length };
await writeFile(out, await makeBundle(files, "tiny", "taught", names, head, accuracy));
const { right, strength, factor } = head;
process.stdout.write(JSON.stringify({ right, strength, factor, weight: [...head.weight], bias: [...head.bias] }));
