// A linear classifier on features by ridge regression, as ghostzoo's fitting/ridge.py defines it: classes as 0 or 1, each
// with the same weight; the strength of the regularisation and the factor of the logits by cross-validation. Pictures are
// few here, so that all is computed from their products with each other.

const STRENGTHS = Array.from({ length: 11 }, (_, step) => 10 ** ((step - 9) / 2));
const FOLDS = 5;
const NEWTON_STEPS = 30, MAX_FACTOR = 1e4;

/**
 * @param {Float32Array[]} features of each picture
 * @param {number[]} labels class of each picture; every class from 0 on has two or more
 * @returns {{weight: Float32Array, bias: Float32Array, right: number, strength: number, factor: number}}
 *     weight[class * features + feature]; right: pictures that heads recognised which were fitted without them
 */
export function fitHead(features, labels) {
  const count = Math.max(...labels) + 1;
  const products = features.map((one) => Float64Array.from(features, (other) => dot(one, other)));
  const sizes = Array.from({ length: count }, (_, label) => labels.filter((each) => each === label).length);
  const weights = labels.map((label) => 1 / sizes[label] / count);
  const seen = new Array(count).fill(0);
  const folds = labels.map((label) => seen[label]++ % FOLDS);
  const everything = labels.map((_, index) => index);

  const leftOut = STRENGTHS.map(() => labels.map(() => null));
  for (let fold = 0; fold < FOLDS; fold++) {
    const training = everything.filter((index) => folds[index] !== fold);
    const problem = new Problem(products, labels, weights, training, count);
    STRENGTHS.forEach((strength, place) => {
      const solution = problem.solve(strength);
      for (const index of everything) if (folds[index] === fold) leftOut[place][index] = problem.scores(solution, index);
    });
  }
  const choices = leftOut.map((scores, place) => {
    const factor = bestFactor(scores, labels, weights);
    return { strength: STRENGTHS[place], factor, scores, loss: lossOf(scores, factor, labels, weights) };
  });
  const { strength, factor, scores } = choices.reduce((best, each) => (each.loss < best.loss ? each : best));
  const problem = new Problem(products, labels, weights, everything, count);
  const head = problem.head(problem.solve(strength), features, factor);
  const right = scores.filter((row, index) => row.indexOf(Math.max(...row)) === labels[index]).length;
  return { ...head, right, strength, factor };
}

/** Ridge regression on some of the pictures, in terms of products of centred and weighted features. */
class Problem {
  constructor(products, labels, weights, training, count) {
    const total = training.reduce((sum, index) => sum + weights[index], 0);
    Object.assign(this, { products, training, count });
    this.weights = training.map((index) => weights[index] / total);
    this.roots = this.weights.map(Math.sqrt);
    this.targets = new Float64Array(count); // their means
    training.forEach((index, place) => (this.targets[labels[index]] += this.weights[place]));
    this.means = products.map((row) => this.#mean(row)); // of each picture's product with the mean of the features
    this.square = training.reduce((sum, index, place) => sum + this.weights[place] * this.means[index], 0);
    this.matrix = training.map((one, row) =>
      Float64Array.from(training, (other, column) => this.roots[row] * this.roots[column] * this.#centred(one, other)),
    );
    this.trace = this.matrix.reduce((sum, row, place) => sum + row[place], 0);
    this.wanted = training.map((index, place) =>
      Float64Array.from(
        { length: count },
        (_, label) => this.roots[place] * ((labels[index] === label ? 1 : 0) - this.targets[label]),
      ),
    );
  }

  #mean(row) {
    return this.training.reduce((sum, index, place) => sum + this.weights[place] * row[index], 0);
  }

  #centred(one, other) {
    return this.products[one][other] - this.means[one] - this.means[other] + this.square;
  }

  /** For each picture and class, how much of the picture's centred features the class's weights have. */
  solve(strength) {
    const solution = solveCholesky(this.matrix, strength * this.trace + Number.MIN_VALUE, this.wanted);
    return solution.map((row, place) => row.map((value) => value * this.roots[place]));
  }

  scores(solution, index) {
    const scores = Float64Array.from(this.targets);
    this.training.forEach((other, place) => {
      const product = this.#centred(other, index);
      for (let label = 0; label < this.count; label++) scores[label] += solution[place][label] * product;
    });
    return scores;
  }

  head(solution, features, factor) {
    const width = features[0].length;
    const mean = new Float64Array(width);
    this.training.forEach((index, place) => {
      for (let i = 0; i < width; i++) mean[i] += this.weights[place] * features[index][i];
    });
    const weight = new Float32Array(this.count * width);
    const bias = new Float32Array(this.count);
    for (let label = 0; label < this.count; label++) {
      const row = new Float64Array(width);
      this.training.forEach((index, place) => {
        const share = solution[place][label];
        for (let i = 0; i < width; i++) row[i] += share * (features[index][i] - mean[i]);
      });
      weight.set(row.map((value) => factor * value), label * width);
      bias[label] = factor * (this.targets[label] - dot(row, mean));
    }
    return { weight, bias };
  }
}

/** Solve (matrix + ridge * identity) x = right for a symmetric, positive matrix and several right sides. */
function solveCholesky(matrix, ridge, right) {
  const size = matrix.length;
  const lower = matrix.map((row) => Float64Array.from(row));
  for (let i = 0; i < size; i++) {
    lower[i][i] += ridge;
    for (let j = 0; j <= i; j++) {
      let sum = lower[i][j];
      for (let k = 0; k < j; k++) sum -= lower[i][k] * lower[j][k];
      lower[i][j] = i === j ? Math.sqrt(Math.max(sum, 1e-300)) : sum / lower[j][j];
    }
  }
  const x = right.map((row) => Float64Array.from(row));
  const columns = right[0].length;
  for (let c = 0; c < columns; c++) {
    for (let i = 0; i < size; i++) {
      for (let k = 0; k < i; k++) x[i][c] -= lower[i][k] * x[k][c];
      x[i][c] /= lower[i][i];
    }
    for (let i = size - 1; i >= 0; i--) {
      for (let k = i + 1; k < size; k++) x[i][c] -= lower[k][i] * x[k][c];
      x[i][c] /= lower[i][i];
    }
  }
  return x;
}

/** The factor with the smallest loss, which is convex in it, by Newton's method. */
function bestFactor(scores, labels, weights) {
  let factor = 1;
  for (let step = 0; step < NEWTON_STEPS; step++) {
    let slope = 0, curve = 0;
    scores.forEach((row, index) => {
      const shares = sharesOf(row, factor);
      const expected = dot(shares, row);
      slope += weights[index] * (expected - row[labels[index]]);
      curve += weights[index] * (shares.reduce((sum, share, i) => sum + share * row[i] ** 2, 0) - expected ** 2);
    });
    const change = factor - slope / Math.max(curve, 1e-9);
    const next = Math.min(Math.max(change, factor / 2), 2 * factor, MAX_FACTOR);
    if (Math.abs(next - factor) < 1e-4 * factor) break;
    factor = next;
  }
  return factor;
}

function lossOf(scores, factor, labels, weights) {
  return scores.reduce(
    (sum, row, index) => sum - weights[index] * Math.log(Math.max(sharesOf(row, factor)[labels[index]], 1e-300)),
    0,
  );
}

function sharesOf(row, factor) {
  const largest = Math.max(...row);
  const powers = row.map((value) => Math.exp(factor * (value - largest)));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

function dot(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += one[i] * other[i];
  return sum;
}

/** The logits of a picture's features. */
export function logitsOf({ weight, bias }, features) {
  const width = features.length;
  return bias.map((start, label) => start + dot(weight.subarray(label * width, (label + 1) * width), features));
}
