// Pillow's antialiased bicubic resize, bit for bit as ghostzoo's bicubic.py: across first, weights of 22 fractional bits.

const FRACTION_BITS = 22;
const HALF = 1 << (FRACTION_BITS - 1);
const RADIUS = 2;

/**
 * Resize, and return a window of the result.
 *
 * @param {{rgba: Uint8ClampedArray|Uint8Array, width: number, height: number}} source
 * @param {number} resizedWidth
 * @param {number} resizedHeight
 * @param {number} left place of the window in the result
 * @param {number} top
 * @param {number} crop the window's side
 * @returns {Uint8ClampedArray} crop * crop * 3 values: RGB, row by row
 */
export function resizeBicubic({ rgba, width, height }, resizedWidth, resizedHeight, left, top, crop) {
  const across = taps(width, resizedWidth, left, crop);
  const down = taps(height, resizedHeight, top, crop);
  const firstRow = down.first[0];
  const rowCount = down.last[crop - 1] - firstRow;
  const length = crop * 3;
  const narrow = new Uint8ClampedArray(rowCount * length);
  for (let y = 0; y < rowCount; y++) {
    const row = (firstRow + y) * width * 4;
    for (let x = 0; x < crop; x++) {
      let weight = x * across.most;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      const end = row + across.last[x] * 4;
      for (let pixel = row + across.first[x] * 4; pixel < end; pixel += 4) {
        const w = across.weights[weight++];
        red += rgba[pixel] * w;
        green += rgba[pixel + 1] * w;
        blue += rgba[pixel + 2] * w;
      }
      const target = y * length + x * 3;
      narrow[target] = red >> FRACTION_BITS;
      narrow[target + 1] = green >> FRACTION_BITS;
      narrow[target + 2] = blue >> FRACTION_BITS;
    }
  }
  const out = new Uint8ClampedArray(crop * length);
  const sums = new Int32Array(length);
  for (let y = 0; y < crop; y++) {
    sums.fill(HALF);
    let weight = y * down.most;
    for (let row = down.first[y]; row < down.last[y]; row++) {
      const w = down.weights[weight++];
      const start = (row - firstRow) * length;
      for (let x = 0; x < length; x++) sums[x] += narrow[start + x] * w;
    }
    for (let x = 0; x < length; x++) out[y * length + x] = sums[x] >> FRACTION_BITS;
  }
  return out;
}

/** For each place of the window along one axis: the source's pixels from `first` to before `last`, and their weights. */
function taps(sourceSize, resizedSize, start, count) {
  const scale = sourceSize / resizedSize;
  const widening = Math.max(scale, 1);
  const support = RADIUS * widening;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(count);
  const last = new Int32Array(count);
  const weights = new Int32Array(count * most);
  const values = new Float64Array(most);
  for (let i = 0; i < count; i++) {
    const centre = (start + i + 0.5) * scale;
    first[i] = Math.max(Math.trunc(centre - support + 0.5), 0);
    last[i] = Math.min(Math.trunc(centre + support + 0.5), sourceSize);
    let total = 0;
    for (let tap = 0; tap < last[i] - first[i]; tap++) {
      values[tap] = cubic((first[i] + tap - centre + 0.5) * (1 / widening));
      total += values[tap];
    }
    for (let tap = 0; tap < last[i] - first[i]; tap++) {
      weights[i * most + tap] = Math.trunc((values[tap] / total) * 2 ** FRACTION_BITS + (values[tap] < 0 ? -0.5 : 0.5));
    }
  }
  return { first, last, most, weights };
}

/** Keys's kernel with a = -1/2, operation by operation as in Pillow. */
function cubic(distance) {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
