// From an RGB image to what the model reads, by the steps that the export has written into student.json.

import { resize } from "./resize.js";

function resized(image, step) {
  if (step.shortest_edge === undefined) return resize(image, step.width, step.height, step.resample, step.may_turn);
  const short = Math.min(image.width, image.height);
  const long = Math.trunc((step.shortest_edge * Math.max(image.width, image.height)) / short);
  const [width, height] = image.width <= image.height ? [step.shortest_edge, long] : [long, step.shortest_edge];
  return resize(image, width, height, step.resample, step.may_turn);
}

// A window of the image whose corner may lie outside; what is outside is black.
function windowOf(image, left, top, width, height) {
  const data = new Uint8ClampedArray(width * height * 3);
  const first = Math.max(0, -left);
  const last = Math.min(width, image.width - left);
  for (let row = Math.max(0, -top); row < Math.min(height, image.height - top); row += 1) {
    if (last <= first) break;
    const from = ((row + top) * image.width + left + first) * 3;
    data.set(image.data.subarray(from, from + (last - first) * 3), (row * width + first) * 3);
  }
  return { width, height, data };
}

// As transformers' center_crop: of a smaller image the odd row or column of padding is at the top or left.
function centerCropped(image, step) {
  const left = Math.floor((image.width - step.width) / 2);
  const top = Math.floor((image.height - step.height) / 2);
  return windowOf(image, left, top, step.width, step.height);
}

/**
 * The bytes that a model's image processor makes of an image: resized, cropped, padded.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image
 * @param {object[]} steps of student.json
 */
export function geometry(image, steps) {
  let made = image;
  for (const step of steps) {
    if (step.kind === "resize") made = resized(made, step);
    else if (step.kind === "center_crop") made = centerCropped(made, step);
    else if (step.kind === "pad") made = windowOf(made, 0, 0, step.width, step.height);
    else throw new Error(`student.json has the step ${step.kind}, which this page does not know: export again.`);
  }
  return made;
}

/**
 * Normalised values, channel by channel: byte * scale + bias; one channel is the mean of the three.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image
 * @param {{scale: number[], bias: number[], channels: number, reversed: boolean}} preprocessing of student.json
 * @returns {Float32Array} (channels, height, width)
 */
export function normalized(image, { scale, bias, channels, reversed }) {
  const pixels = image.width * image.height;
  const values = new Float32Array(3 * pixels);
  for (let channel = 0; channel < 3; channel += 1) {
    const from = reversed ? 2 - channel : channel;
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      values[channel * pixels + pixel] = image.data[pixel * 3 + from] * scale[channel] + bias[channel];
    }
  }
  if (channels === 3) return values;
  const grey = new Float32Array(pixels);
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    grey[pixel] = (values[pixel] + values[pixels + pixel] + values[2 * pixels + pixel]) / 3;
  }
  return grey;
}
