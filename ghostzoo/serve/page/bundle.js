// A model that was taught on the page, as a ZIP of a bundle that ghostzoo opens like any other.

import { readHead, withClasses } from "./ghostzoo/onnx.js";
import { logitsOf } from "./ridge.js";
import { readZip, writeZip } from "./zip.js";

const MODEL = "onnx/model.onnx", GOLDEN = "golden.npz", CONFIG = "config.json", PROCESSOR = "preprocessor_config.json";
export const NEEDED = [MODEL, GOLDEN, CONFIG, PROCESSOR];
/** Files of the model that was taught, by their paths, which `makeBundle` takes. */

/**
 * @param {Map<string, Uint8Array>} base the files that are NEEDED
 * @param {string} model name of the model that was taught
 * @param {string} name of the bundle and its folder
 * @param {string[]} labels
 * @param {{weight: Float32Array, bias: Float32Array}} layer the new last layer
 * @param {{right: number, total: number}} accuracy in cross-validation
 * @returns {Promise<Uint8Array>} the ZIP
 */
export async function makeBundle(base, model, name, labels, layer, accuracy) {
  const data = base.get(MODEL);
  const origin = { model, graph_sha256: await sha256(data) };
  const validation = {
    golden_source: `the golden embeddings of ${model}, and the layer that was fitted in the browser`,
    fit: { pictures: accuracy.total, recognised_in_cross_validation: accuracy.right },
  };
  const files = new Map([
    [MODEL, withClasses(data, readHead(data), layer, name)],
    [GOLDEN, withLogits(base.get(GOLDEN), layer)],
    [CONFIG, withLabels(base.get(CONFIG), labels)],
    [PROCESSOR, base.get(PROCESSOR)],
    ["README.md", utf8(cardOf(name, model, labels, accuracy))],
  ]);
  const records = {};
  for (const path of [...files.keys()].sort()) {
    records[path] = { sha256: await sha256(files.get(path)), size: files.get(path).length };
  }
  const manifest = {
    format_version: 1,
    name,
    weights: { file_name: MODEL, sha256: origin.graph_sha256, size: data.length, fitted_on: origin },
    files: records,
    created_by: { browser: globalThis.navigator?.userAgent ?? "unknown" },
    validation,
  };
  files.set("ghostzoo.json", json(manifest));
  return writeZip(new Map([...files].map(([path, content]) => [`${name}/${path}`, content])));
}

/** Whether `name` can be a bundle's, as ghostzoo's manifest.py has it. */
export function isBundleName(name) {
  return /^(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))[a-z0-9][a-z0-9._-]{0,95}$/i.test(name) && !name.endsWith(".");
}

function withLabels(config, labels) {
  const content = JSON.parse(new TextDecoder().decode(config));
  delete content.id2wnid;
  delete content.problem_type;
  content.id2label = Object.fromEntries(labels.map((label, index) => [index, label]));
  content.label2id = Object.fromEntries(labels.map((label, index) => [label, index]));
  return json(content);
}

function withLogits(golden, layer) {
  const arrays = readZip(golden);
  const npy = arrays.get("embedding.npy");
  const start = 10 + npy[8] + 256 * npy[9]; // magic, version, length of the header, header
  const embeddings = new Float32Array(npy.slice(start).buffer);
  const width = layer.weight.length / layer.bias.length;
  const rows = Array.from({ length: embeddings.length / width }, (_, row) =>
    logitsOf(layer, embeddings.subarray(row * width, (row + 1) * width)),
  );
  arrays.set("logits.npy", npyOf(rows));
  return writeZip(arrays);
}

/** A matrix of float32 in NumPy's format 1.0. */
function npyOf(rows) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${rows[0].length}), }`;
  const padded = `${header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11)}\n`;
  const values = new Float32Array(rows.flatMap((row) => [...row]));
  const length = padded.length;
  return Uint8Array.from([
    ...[0x93, ...utf8("NUMPY"), 1, 0, length & 255, length >> 8, ...utf8(padded)],
    ...new Uint8Array(values.buffer),
  ]);
}

function cardOf(name, model, labels, { right, total }) {
  return `---
library_name: ghostzoo
pipeline_tag: image-classification
tags: [ghostnet, onnx]
---

# ${name}

An image classifier for ${labels.length} classes: ${labels.join(", ")}. Its last layer was fitted in a browser to ${total}
pictures, on the features of ${model}, whose other layers are unchanged. In cross-validation ${right} of the ${total} were
recognised. It takes every picture for one of its classes, whatever the picture shows.

## Use

\`\`\`python
import ghostzoo

clf = ghostzoo.load("path/to/this/folder")
print(clf("photo.jpg"))
\`\`\`
`;
}

async function sha256(data) {
  if (!crypto.subtle) throw new Error("browsers compute SHA-256 on https and localhost only; open the page there");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const utf8 = (text) => new TextEncoder().encode(text);
const json = (content) => utf8(`${JSON.stringify(content, null, 2)}\n`);
