// usage: node --import ./prelude.mjs compare.mjs REPOSITORY DTYPE PHOTO PIXELS SIDE
// Prints what transformers.js makes of PHOTO by itself, and of PIXELS: float32 (1, 3, SIDE, SIDE) in native order.
import { readFileSync } from "node:fs";

import { AutoModel, AutoProcessor, RawImage, Tensor } from "@huggingface/transformers";

const [repository, dtype, photo, pixels, side] = process.argv.slice(2);
const processor = await AutoProcessor.from_pretrained(repository);
const model = await AutoModel.from_pretrained(repository, { dtype });
const bytes = readFileSync(pixels);
const given = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
const { logits, embedding } = await model({ pixel_values: new Tensor("float32", given, [1, 3, +side, +side]) });
const own = await processor(await RawImage.read(photo));
console.log(
  JSON.stringify({
    labels: Object.values(model.config.id2label),
    dims: own.pixel_values.dims,
    logits: [...logits.data],
    embedding: [...embedding.data],
    ownPixels: [...own.pixel_values.data],
    ownLogits: [...(await model(own)).logits.data],
  }),
);
