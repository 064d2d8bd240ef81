// Change an ONNX file as the page does: argv has the page's folder, the file, a JSON file of weight, bias, name and
// features, and a folder for the results.

import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [page, model, input, out] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${page}/${name}`));
const [{ readHead, withClasses, withFeatures }, { explain }] = [await load("onnx.js"), await load("explanation.js")];
const data = new Uint8Array(await readFile(model));
const { weight, bias, name, features, pairs } = JSON.parse(await readFile(input, "utf-8"));
const head = readHead(data);
const layer = { weight: new Float32Array(weight), bias: new Float32Array(bias) };
await writeFile(`${out}/classes.onnx`, withClasses(data, head, layer, name));
await writeFile(`${out}/features.onnx`, withFeatures(data, head));
const maps = pairs.map(([index, against]) => {
  const { places, constant, logit } = explain(new Float32Array(features), head, index, against);
  return { places: [...places], constant, logit };
});
process.stdout.write(JSON.stringify(maps));
