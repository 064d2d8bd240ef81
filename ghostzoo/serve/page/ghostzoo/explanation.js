// Where in a picture a logit comes from, as ghostzoo's explanation.py computes and draws it.

/**
 * What speaks for one class rather than another, or for the one.
 *
 * @param {Float32Array} features channels * places values: the tensor before the pooling
 * @param {import("./onnx.js").Head} head
 * @param {number} index the class
 * @param {number|null} against another one
 * @returns {{places: Float64Array, constant: number, logit: number}} logit is the sum of places, and constant
 */
export function explain(features, { hidden, last }, index, against) {
  const count = features.length / hidden.inputs;
  const means = Float64Array.from({ length: hidden.inputs }, (_, channel) => {
    let sum = 0;
    for (let place = 0; place < count; place++) sum += features[channel * count + place];
    return sum / count;
  });
  const ofChannels = new Float64Array(hidden.inputs);
  let constant = last.bias[index] - (against === null ? 0 : last.bias[against]);
  for (let unit = 0; unit < hidden.outputs; unit++) {
    const row = unit * hidden.inputs;
    let sum = hidden.bias[unit];
    for (let channel = 0; channel < hidden.inputs; channel++) sum += hidden.weight[row + channel] * means[channel];
    if (sum <= 0) continue;
    const own = last.weight[index * last.inputs + unit];
    const weight = own - (against === null ? 0 : last.weight[against * last.inputs + unit]);
    constant += weight * hidden.bias[unit];
    for (let channel = 0; channel < hidden.inputs; channel++) {
      ofChannels[channel] += weight * hidden.weight[row + channel];
    }
  }
  const places = new Float64Array(count);
  for (let channel = 0; channel < hidden.inputs; channel++) {
    for (let place = 0; place < count; place++) {
      places[place] += (ofChannels[channel] * features[channel * count + place]) / count;
    }
  }
  return { places, constant, logit: places.reduce((a, b) => a + b, constant) };
}

const FOR = [255, 40, 20], AGAINST = [20, 90, 255];
const STRONGEST = 0.7, UNSEEN = 0.35;

/**
 * Draw a picture with its map over the square that the network saw: red speaks for the class, blue against it.
 *
 * @param {HTMLCanvasElement} canvas gets the picture's size
 * @param {CanvasImageSource & {width: number, height: number}} picture
 * @param {number[][]} rows the map
 * @param {number} seen side of the square, as a share of the picture's shorter side
 */
export function drawMap(canvas, picture, rows, seen) {
  const { width, height } = picture;
  const side = Math.max(1, Math.round(Math.min(width, height) * seen));
  const [left, top] = [width, height].map((length) => Math.floor((length - side) / 2));
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  context.fillStyle = `rgb(0 0 0 / ${1 - UNSEEN})`;
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, left, top, side, side, left, top, side, side);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.save();
  context.beginPath();
  context.rect(left, top, side, side);
  context.clip();
  // A border that repeats the outermost places, as smoothing else fades towards the edge.
  const cell = [side / rows[0].length, side / rows.length];
  const grid = gridOf(rows);
  context.drawImage(grid, left - cell[0], top - cell[1], side + 2 * cell[0], side + 2 * cell[1]);
  context.restore();
}

function gridOf(rows) {
  const inside = (index, length) => Math.min(Math.max(index - 1, 0), length - 1);
  const [height, width] = [rows.length + 2, rows[0].length + 2];
  const largest = Math.max(...rows.flat().map(Math.abs), 1e-12);
  const pixels = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const strength = rows[inside(y, rows.length)][inside(x, rows[0].length)] / largest;
      const colour = strength > 0 ? FOR : AGAINST;
      pixels.data.set([...colour, 255 * STRONGEST * Math.abs(strength)], 4 * (y * width + x));
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
