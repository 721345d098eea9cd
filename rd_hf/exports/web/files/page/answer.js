// From logits to what is said of an image: probabilities and the decision, or a mask and the area of each class.

import { ReadError } from "./bytes.js";

/**
 * The logits themselves; NaN and infinity are refused, of which a decision would make a class without a finding.
 * @param {Float32Array} logits
 * @throws {ReadError}
 */
export function checked(logits) {
  if (logits.every((logit) => Number.isFinite(logit))) return logits;
  throw new ReadError("the model's output for it is not finite (NaN or infinite)");
}

function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/**
 * The probability of each class.
 * @param {ArrayLike<number>} logits
 * @param {{several_labels: boolean}} student what student.json says
 * @param {number} temperature that the logits are divided by; 1 leaves them as they are
 */
export function probabilities(logits, student, temperature = 1) {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  return student.several_labels ? scaled.map((logit) => 1 / (1 + Math.exp(-logit))) : softmax(scaled);
}

/** The threshold of each class that has one, by its name. */
export function thresholds(student) {
  const stated = student.operating_point?.thresholds ?? {};
  if (!student.several_labels) return stated;
  return Object.fromEntries(student.labels.map((name) => [name, stated[name] ?? 0.5]));
}

/**
 * The classes that are answered; where they exclude each other exactly one.
 * @param {number[]} values uncalibrated probabilities
 * @param {object} student what student.json says
 * @returns {string[]}
 */
export function decision(values, student) {
  const limits = thresholds(student);
  if (student.several_labels) return student.labels.filter((name, place) => values[place] >= limits[name]);
  const [watched] = Object.keys(limits);
  const place = student.labels.indexOf(watched);
  if (place >= 0 && values[place] >= limits[watched]) return [watched];
  const others = values.map((value, other) => (other === place ? -1 : value));
  return [student.labels[others.indexOf(Math.max(...others))]];
}

// For each place of the output the two places of the input, and the share of the second (torch, align_corners=False).
function neighbours(from, to) {
  const first = new Int32Array(to);
  const second = new Int32Array(to);
  const share = new Float32Array(to);
  const scale = Math.fround(from / to);
  for (let place = 0; place < to; place += 1) {
    const at = Math.max(0, Math.fround(Math.fround(scale * (place + 0.5)) - 0.5));
    first[place] = Math.min(from - 1, Math.floor(at));
    second[place] = Math.min(from - 1, first[place] + 1);
    share[place] = at - first[place];
  }
  return { first, second, share };
}

/**
 * The likeliest class of each pixel: logits are resized bilinearly, one class at a time, to save memory.
 * @param {Float32Array} logits (classes, rows, columns)
 * @param {number[]} shape classes, rows and columns
 * @param {number} width of the mask
 * @param {number} height of the mask
 * @returns {Uint8Array} (height, width)
 */
export function classMap(logits, [classes, rows, columns], width, height) {
  const best = new Float32Array(width * height).fill(-Infinity);
  const found = new Uint8Array(width * height);
  const down = neighbours(rows, height);
  const right = neighbours(columns, width);
  for (let number = 0; number < classes; number += 1) {
    const own = logits.subarray(number * rows * columns, (number + 1) * rows * columns);
    for (let y = 0, out = 0; y < height; y += 1) {
      const upper = down.first[y] * columns;
      const lower = down.second[y] * columns;
      const below = down.share[y];
      for (let x = 0; x < width; x += 1, out += 1) {
        const left = right.first[x];
        const next = right.second[x];
        const beside = right.share[x];
        const above = own[upper + left] * (1 - beside) + own[upper + next] * beside;
        const under = own[lower + left] * (1 - beside) + own[lower + next] * beside;
        const value = above * (1 - below) + under * below;
        if (value > best[out]) {
          best[out] = value;
          found[out] = number;
        }
      }
    }
  }
  return found;
}

/** The number of pixels of each class. */
export function areas(mask, classes) {
  const counts = new Array(classes).fill(0);
  for (const number of mask) counts[number] += 1;
  return counts;
}
