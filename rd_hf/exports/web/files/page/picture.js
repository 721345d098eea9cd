// The image, and a mask over it, on canvases no larger than they are shown.

import { element } from "./elements.js";
import { resize } from "./resize.js";

const LONGEST = 768; // pixels of a drawn image
const SMALL = 256; // pixels below which an image is enlarged without smoothing
const BILINEAR = 2;

function shown(image) {
  const share = LONGEST / Math.max(image.width, image.height);
  if (share >= 1) return image;
  const side = (length) => Math.max(1, Math.round(length * share));
  return resize(image, side(image.width), side(image.height), BILINEAR, false);
}

function canvasOf(width, height, attributes, fill) {
  const canvas = element("canvas", { width, height, ...attributes });
  const context = canvas.getContext("2d");
  const drawn = context.createImageData(width, height);
  fill(drawn.data);
  context.putImageData(drawn, 0, 0);
  return canvas;
}

// The class of each drawn pixel: that of the nearest pixel of the mask.
function sampled(mask, image, width, height) {
  const classes = new Uint8Array(width * height);
  for (let y = 0, out = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * image.height) / height) * image.width;
    for (let x = 0; x < width; x += 1, out += 1) {
      classes[out] = mask[row + Math.floor(((x + 0.5) * image.width) / width)];
    }
  }
  return classes;
}

function isEdge(classes, width, at) {
  const x = at % width;
  const own = classes[at];
  return (
    (x > 0 && classes[at - 1] !== own) ||
    (x < width - 1 && classes[at + 1] !== own) ||
    (at >= width && classes[at - width] !== own) ||
    (at + width < classes.length && classes[at + width] !== own)
  );
}

function paint(data, classes, colors, isPainted) {
  for (let at = 0; at < classes.length; at += 1) {
    if (classes[at] === 0 || !isPainted(at)) continue;
    const [red, green, blue] = colors[classes[at]];
    data.set([red, green, blue, 255], at * 4);
  }
}

/**
 * The picture of a result.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image
 * @param {string} name of the file
 * @param {{mask: Uint8Array, colors: number[][]} | null} over
 */
export function picture(image, name, over = null) {
  const { width, height, data } = shown(image);
  const layers = element("div", { class: Math.max(width, height) < SMALL ? "layers small" : "layers" });
  const words = over === null ? `The image ${name}` : `The image ${name} with its mask`;
  layers.append(
    canvasOf(width, height, { role: "img", "aria-label": words }, (rgba) => {
      for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
        rgba.set([data[from], data[from + 1], data[from + 2], 255], to);
      }
    }),
  );
  if (over !== null) {
    const classes = sampled(over.mask, image, width, height);
    const hidden = { "aria-hidden": "true" };
    layers.append(
      canvasOf(width, height, { class: "tint", ...hidden }, (rgba) => paint(rgba, classes, over.colors, () => true)),
      canvasOf(width, height, { class: "outline", ...hidden }, (rgba) => {
        paint(rgba, classes, over.colors, (at) => isEdge(classes, width, at));
      }),
    );
  }
  return element("div", { class: "picture" }, layers);
}
