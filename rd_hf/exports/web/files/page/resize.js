// Pillow's resampling of images of eight bits (libImaging/Resample.c): a filter that grows with the reduction, weights
// as integers of 22 bits after the point, columns and rows one after the other, rounded to bytes in between.

const PRECISION = 22;

function sinc(x) {
  if (x === 0) return 1;
  const angle = x * Math.PI;
  return Math.sin(angle) / angle;
}

function bicubic(value) {
  const a = -0.5;
  const x = Math.abs(value);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(value) {
  const x = Math.abs(value);
  if (x === 0) return 1;
  if (x >= 1) return 0;
  const angle = x * Math.PI;
  return (Math.sin(angle) / angle) * (0.54 + 0.46 * Math.cos(angle));
}

// By Pillow's numbers of filters, without 0, which takes the nearest pixel.
const FILTERS = {
  1: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
  2: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  3: { support: 2, weight: bicubic },
  4: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  5: { support: 1, weight: hamming },
};

// For each place of the output: the first place of the input that counts, and the integer weights from there on.
function coefficients(from, to, filter) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const size = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to);
  const counts = new Int32Array(to);
  const weights = new Int32Array(to * size);
  const own = new Float64Array(size);
  for (let place = 0; place < to; place += 1) {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(from, Math.trunc(center + support + 0.5)) - start;
    let sum = 0;
    for (let k = 0; k < count; k += 1) {
      own[k] = filter.weight((k + start - center + 0.5) / stretch);
      sum += own[k];
    }
    for (let k = 0; k < count; k += 1) {
      const weight = (sum === 0 ? own[k] : own[k] / sum) * 2 ** PRECISION;
      weights[place * size + k] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    starts[place] = start;
    counts[place] = count;
  }
  return { starts, counts, weights, size };
}

// One direction. `outer` lines lie `lineStep` apart, the places of a line `placeStep`; the same for the output.
function pass(source, target, channels, lines, to, table, steps) {
  const { starts, counts, weights, size } = table;
  for (let line = 0; line < lines; line += 1) {
    for (let place = 0; place < to; place += 1) {
      const first = line * steps.line + starts[place] * steps.place;
      const out = line * steps.lineOut + place * steps.placeOut;
      for (let channel = 0; channel < channels; channel += 1) {
        let sum = 1 << (PRECISION - 1);
        for (let k = 0, at = first + channel; k < counts[place]; k += 1, at += steps.place) {
          sum += source[at] * weights[place * size + k];
        }
        target[out + channel] = sum >> PRECISION; // a Uint8ClampedArray
      }
    }
  }
}

// As ImagingScaleAffine does it, which adds the step up again and again.
function nearest(image, width, height) {
  const places = (from, to) => {
    const step = from / to;
    const found = new Int32Array(to);
    for (let place = 0, x = step * 0.5; place < to; place += 1, x += step) found[place] = Math.floor(x);
    return found;
  };
  const columns = places(image.width, width);
  const rows = places(image.height, height);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let row = 0, out = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const at = (rows[row] * image.width + columns[column]) * 3;
      for (let channel = 0; channel < 3; channel += 1, out += 1) data[out] = image.data[at + channel];
    }
  }
  return { width, height, data };
}

function columnsResized(image, width, filter) {
  if (image.width === width) return image;
  const data = new Uint8ClampedArray(width * image.height * 3);
  const steps = { line: image.width * 3, place: 3, lineOut: width * 3, placeOut: 3 };
  pass(image.data, data, 3, image.height, width, coefficients(image.width, width, filter), steps);
  return { width, height: image.height, data };
}

function rowsResized(image, height, filter) {
  if (image.height === height) return image;
  const { width } = image;
  const data = new Uint8ClampedArray(width * height * 3);
  const steps = { line: 3, place: width * 3, lineOut: 3, placeOut: width * 3 };
  pass(image.data, data, 3, width, height, coefficients(image.height, height, filter), steps);
  return { width, height, data };
}

/**
 * An image at another size, byte for byte as `PIL.Image.resize`.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image red, green and blue of each pixel
 * @param {number} width
 * @param {number} height
 * @param {number} resample Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming
 * @param {boolean} mayTurn whether, as in Pillow 13, the rows come first where the height shrinks by more than twice as
 *   many pixels as the width; the order decides what is rounded in between
 */
export function resize(image, width, height, resample, mayTurn) {
  if (image.width === width && image.height === height) return image;
  if (resample === 0) return nearest(image, width, height);
  const filter = FILTERS[resample];
  const shrinks = image.height - height;
  if (mayTurn && shrinks > 0 && shrinks > 2 * (image.width - width)) {
    return columnsResized(rowsResized(image, height, filter), width, filter);
  }
  return rowsResized(columnsResized(image, width, filter), height, filter);
}
