/** A picture: a file that the browser decodes, or RGBA pixels, row by row. */
export type Picture = Blob | { data: Uint8ClampedArray | Uint8Array; width: number; height: number };

/** What `model.preprocess` returned, or a picture. */
export type Input = Picture | Float32Array;

/** Runs a network: (3, side, side) values of one picture -> one of its outputs. */
export type Network = (pixelValues: Float32Array, output?: string) => Float32Array | Promise<Float32Array>;

/** Opens the bytes of an ONNX file. */
export type Engine = (graph: Uint8Array) => Promise<Network>;

export interface Label {
  label: string;
  /** WordNet's ID, for ImageNet's classes. */
  wnid: string | null;
}

export interface Prediction extends Label {
  index: number;
  /** Probability, from 0 to 1. */
  score: number;
}

export interface ClassifyOptions {
  /** How many classes at most: 5, or all of a multi-label model. */
  topK?: number;
  /** None below this: 0, or 0.5 of a multi-label model. */
  minScore?: number;
  /** What logits are divided by before the softmax: the model's, or 1 for the scores of the network as it is. */
  temperature?: number;
}

export interface Explanation {
  /** What each place adds to the logit: rows from top to bottom, of the square that the network saw. */
  map: number[][];
  /** What does not come from any place; `logit` is the sum of `map` and this. */
  constant: number;
  logit: number;
  /** Side of that square, in the middle of the picture, as a share of the shorter side. */
  seen: number;
}

export interface Preprocessing {
  resizeShort: number;
  cropSize: number;
  rescaleFactor: number;
  mean: number[];
  std: number[];
  /** Pillow's antialiased resize, as timm's models have it, or OpenCV's bilinear one. */
  isBicubic: boolean;
}

export interface Model {
  readonly labels: Label[];
  readonly isMultiLabel: boolean;
  readonly preprocessing: Preprocessing;
  /** Of a model that was calibrated; else 1. */
  readonly temperature: number;
  /** Return the network's input, equal to Python's to the bit for the same pixels: (3, side, side). */
  preprocess(picture: Input): Promise<Float32Array>;
  logits(picture: Input): Promise<Float32Array>;
  /** Return the features before the last layer. */
  embed(picture: Input): Promise<Float32Array>;
  /** Return the best classes, best first. */
  classify(picture: Input, options?: ClassifyOptions): Promise<Prediction[]>;
  /**
   * Return where in the picture a class comes from, or with `against` what speaks for it rather than for another.
   * `engine` is one of `onnxRuntime`; `native` computes no such output.
   */
  explain(picture: Input, index: number, options: { engine: Engine; against?: number | null }): Promise<Explanation>;
}

export interface LoadOptions {
  /** What runs the network: `native`, or `onnxRuntime(ort)`. */
  engine?: Engine;
  /** Headers of the requests for the bundle's files. */
  headers?: Record<string, string>;
}

/**
 * Open a bundle of ghostzoo: an address, or on Node.js also a folder.
 *
 * @throws {Error} a file is missing, or the engine cannot open the graph
 */
export function load(folder: string | URL, options?: LoadOptions): Promise<Model>;

/** ghostzoo's own engine, as WebAssembly: it comes with the package, and runs on one thread. */
export const native: Engine;

/** ONNX Runtime as the engine: give it the module `onnxruntime-web` or `onnxruntime-node`. */
export function onnxRuntime(ort: object, sessionOptions?: object): Engine;

/** Preprocess RGBA pixels: (3, cropSize, cropSize). */
export function preprocess(
  rgba: Uint8ClampedArray | Uint8Array,
  width: number,
  height: number,
  preprocessing: Preprocessing,
): Float32Array;

/** Read a bundle's `preprocessor_config.json`, parsed. */
export function preprocessingFrom(json: object): Preprocessing;

export function softmax(logits: Float32Array): Float32Array;
export function sigmoid(logits: Float32Array): Float32Array;
export function topClasses(
  probabilities: Float32Array,
  labels: Label[],
  topK: number,
  minScore?: number,
): Prediction[];

/** Draw a picture with its map in red and blue, in a browser. */
export function drawMap(
  canvas: { width: number; height: number; getContext(kind: "2d"): unknown },
  picture: object & { width: number; height: number },
  map: number[][],
  seen: number,
): void;
