// The last layers of an ONNX file, read and changed in its bytes, as ghostzoo's network/head.py does it: pooling, linear,
// ReLU, linear. The server and the site give only files that were checked, so their structure is taken for granted here.

const VARINT = 0, FIXED32 = 5, LENGTH = 2; // wire types
const GRAPH = 7, METADATA = 14; // fields of ModelProto
const NODE = 1, NAME = 2, INITIALIZER = 5, INPUT = 11, OUTPUT = 12; // fields of GraphProto
const FLOAT = 1;
const MODEL_KEY = "ghostzoo.model";

/** Name of the tensor before the pooling as an output of the graph. */
export const FEATURES = "features";

/**
 * @typedef {{weight: Float32Array, bias: Float32Array, inputs: number, outputs: number, names: string[]}} Linear
 *     weight[output * inputs + input]
 * @typedef {{features: string, hidden: Linear, last: Linear, batch: string}} Head
 */

/** @param {Uint8Array} data the file  @returns {Head} */
export function readHead(data) {
  const graph = only(data, whole(data), GRAPH);
  const makers = new Map();
  const tensors = new Map();
  let batch = "batch";
  for (const { number, from, to } of fields(data, graph)) {
    if (number === NODE) {
      const node = readNode(data, { from, to });
      makers.set(node.output, node);
    } else if (number === INITIALIZER) {
      tensors.set(nameIn(data, { from, to }, 8), { from, to });
    } else if (number === INPUT) {
      const type = only(data, only(data, { from, to }, 2), 1);
      batch = nameIn(data, only(data, only(data, type, 2), 1), 2);
    }
  }
  const flat = madeBy(makers, "embedding", "Flatten");
  const hidden = madeBy(makers, madeBy(makers, flat.inputs[0], "Relu").inputs[0], "Conv");
  const pool = madeBy(makers, hidden.inputs[0], "GlobalAveragePool");
  const last = madeBy(makers, madeBy(makers, "logits", "Flatten").inputs[0], "Conv");
  return { features: pool.inputs[0], hidden: linear(data, hidden, tensors), last: linear(data, last, tensors), batch };
}

function madeBy(makers, name, operator) {
  const node = makers.get(name);
  if (node?.operator !== operator) throw new Error("this model does not end in pooling, linear, ReLU and linear");
  return node;
}

function readNode(data, span) {
  const node = { inputs: [], output: "", operator: "" };
  for (const { number, from, to } of fields(data, span)) {
    if (number === 1) node.inputs.push(text(data, { from, to }));
    else if (number === 2) node.output = text(data, { from, to });
    else if (number === 4) node.operator = text(data, { from, to });
  }
  return node;
}

function linear(data, { inputs: [, ...names] }, tensors) {
  const [weight, bias] = names.map((name) => floats(data, only(data, tensors.get(name), 9)));
  return { weight, bias, inputs: weight.length / bias.length, outputs: bias.length, names };
}

/** Copied, because the file's floats may not be aligned. */
function floats(data, { from, to }) {
  return new Float32Array(data.slice(from, to).buffer);
}

/** The graph with the tensor before the pooling, (N, C, H, W), as a third output. */
export function withFeatures(data, head) {
  const rename = ({ number, start, from, to }) => {
    if (number !== NODE) return data.subarray(start, to);
    const parts = [...fields(data, { from, to })];
    const isNamed = (part) => part.number <= 2 && text(data, part) === head.features;
    if (!parts.some(isNamed)) return data.subarray(start, to);
    return field(
      NODE,
      ...parts.map((part) => (isNamed(part) ? field(part.number, utf8(FEATURES)) : data.subarray(part.start, part.to))),
    );
  };
  const shape = [head.batch, head.hidden.inputs, "rows", "columns"];
  return withGraph(data, rename, [field(OUTPUT, ...value(FEATURES, shape))]);
}

/**
 * The graph with another last layer.
 *
 * @param {Uint8Array} data the file that `head` was read from
 * @param {Head} head
 * @param {{weight: Float32Array, bias: Float32Array}} layer weight[class * 1280 + input]
 * @param {string} model goes into the graph's name and metadata
 */
export function withClasses(data, head, { weight, bias }, model) {
  const [weightName, biasName] = head.last.names;
  const tensors = new Map([
    [weightName, () => field(INITIALIZER, ...tensor(weightName, weight, [bias.length, head.last.inputs, 1, 1]))],
    [biasName, () => field(INITIALIZER, ...tensor(biasName, bias, [bias.length]))],
  ]);
  const replace = ({ number, start, from, to }) => {
    const span = { from, to };
    if (number === NAME) return field(NAME, utf8(model));
    if (number === INITIALIZER && tensors.has(nameIn(data, span, 8))) return tensors.get(nameIn(data, span, 8))();
    if (number === OUTPUT && nameIn(data, span, 1) === "logits") {
      return field(OUTPUT, ...value("logits", [head.batch, bias.length]));
    }
    return data.subarray(start, to);
  };
  return withGraph(data, replace, [], model);
}

function withGraph(data, change, added, model) {
  const parts = [...fields(data, whole(data))].map(({ number, start, from, to }) => {
    if (number === GRAPH) return field(GRAPH, ...[...fields(data, { from, to })].map(change), ...added);
    if (number === METADATA && model !== undefined && nameIn(data, { from, to }, 1) === MODEL_KEY) {
      return field(METADATA, field(1, utf8(MODEL_KEY)), field(2, utf8(model)));
    }
    return data.subarray(start, to);
  });
  return join(parts);
}

function tensor(name, values, shape) {
  const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return [...shape.map((side) => field(1, side)), field(2, FLOAT), field(8, utf8(name)), field(9, raw)];
}

function value(name, shape) {
  const dimensions = shape.map((side) => field(1, typeof side === "string" ? field(2, utf8(side)) : field(1, side)));
  return [field(1, utf8(name)), field(2, field(1, field(1, FLOAT), field(2, ...dimensions)))];
}

/** The fields of a message: number, where each starts, and from where to where its content goes. */
function* fields(data, { from: position, to: end }) {
  while (position < end) {
    const start = position;
    let tag, from, to;
    [tag, position] = varint(data, position);
    const kind = tag & 7;
    if (kind === LENGTH) {
      let length;
      [length, from] = varint(data, position);
      to = from + length;
    } else if (kind === VARINT) {
      from = position;
      to = varint(data, position)[1];
    } else if (kind === FIXED32) {
      from = position;
      to = position + 4;
    }
    if (!(to <= end)) throw new Error("the model's file is damaged; load the page again");
    yield { number: Math.floor(tag / 8), start, from, to };
    position = to;
  }
}

/** Numbers beyond 2 ** 53 are passed over only. */
function varint(data, position) {
  let value = 0;
  for (let scale = 1; ; scale *= 128) {
    const byte = data[position++];
    value += (byte & 127) * scale;
    if (!(byte & 128)) return [value, position];
  }
}

function field(number, ...content) {
  if (typeof content[0] === "number") return join([written(number * 8 + VARINT), written(content[0])]);
  const length = content.reduce((sum, part) => sum + part.length, 0);
  return join([written(number * 8 + LENGTH), written(length), ...content]);
}

function written(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value & 127) | 128);
  return Uint8Array.from([...bytes, value]);
}

function join(parts) {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    joined.set(part, position);
    position += part.length;
  }
  return joined;
}

const whole = (data) => ({ from: 0, to: data.length });
const utf8 = (string) => new TextEncoder().encode(string);
const text = (data, { from, to }) => new TextDecoder().decode(data.subarray(from, to));

function only(data, span, number) {
  for (const each of fields(data, span)) if (each.number === number) return each;
  throw new Error("the model's file lacks a part; load the page again");
}

function nameIn(data, span, number) {
  for (const each of fields(data, span)) if (each.number === number) return text(data, each);
  return "";
}
