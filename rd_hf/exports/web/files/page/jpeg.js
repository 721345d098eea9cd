// JPEG files, decoded by the browser without anything that could change their colours or turn them.

import { CUT_OFF, ReadError, latin } from "./bytes.js";
import { orientationOfExif, orientationOfXmp, upright } from "./orientation.js";

const XMP = "http://ns.adobe.com/xap/1.0/\0";
const KEPT = new Set([0xe0, 0xee]); // JFIF and Adobe, which say what the channels mean
const NOT_FRAMES = new Set([0xc4, 0xc8, 0xcc]);

/**
 * The segments of a file: its orientation, its frame, and the same file without profiles, comments and orientation.
 * @param {Uint8Array} bytes
 */
export function segmentsOf(bytes) {
  const found = { orientation: null, kept: [bytes.subarray(0, 2)], frame: null };
  let at = 2;
  for (;;) {
    while (bytes[at] === 0xff && bytes[at + 1] === 0xff) at += 1;
    if (at + 4 > bytes.length || bytes[at] !== 0xff) throw new ReadError(CUT_OFF);
    const marker = bytes[at + 1];
    const end = at + 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
    if (end > bytes.length) throw new ReadError(CUT_OFF);
    if (marker === 0xda) break;
    const body = bytes.subarray(at + 4, end);
    if (marker === 0xe1) found.orientation ??= orientationOf(body);
    if (marker >= 0xc0 && marker <= 0xcf && !NOT_FRAMES.has(marker)) {
      found.frame = { depth: body[0], channels: body[5], marker };
    }
    if (KEPT.has(marker) || !((marker >= 0xe0 && marker <= 0xef) || marker === 0xfe)) {
      found.kept.push(bytes.subarray(at, end));
    }
    at = end;
  }
  found.kept.push(bytes.subarray(at));
  if (!hasEnd(bytes, at)) throw new ReadError(CUT_OFF);
  return found;
}

function orientationOf(body) {
  if (latin(body.subarray(0, 6)) === "Exif\0\0") return orientationOfExif(body);
  return latin(body.subarray(0, XMP.length)) === XMP ? orientationOfXmp(latin(body)) : null;
}

function hasEnd(bytes, start) {
  for (let at = bytes.length - 2; at >= start; at -= 1) {
    if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  }
  return false;
}

/**
 * A JPEG file as an upright image of red, green and blue.
 * @param {Uint8Array} bytes
 * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>}
 */
export async function readJpeg(bytes) {
  const { orientation, kept, frame } = segmentsOf(bytes);
  if (frame === null) throw new ReadError(CUT_OFF);
  if (frame.channels === 4) throw new ReadError("its colours are those of print (CMYK): save it in RGB");
  if (frame.depth !== 8 || ![0xc0, 0xc1, 0xc2].includes(frame.marker)) {
    throw new ReadError("it is a JPEG of a kind that browsers do not read: save it as PNG");
  }
  return upright(await decoded(new Blob(kept, { type: "image/jpeg" })), orientation);
}

async function decoded(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new ReadError(CUT_OFF);
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true, alpha: false });
  if (context === null) throw new ReadError(`its ${width} x ${height} pixels are too many for this browser`);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  checkCanvas();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { width, height, data };
}

// Some browsers change what a page reads from a canvas, against being recognised: then the answers would be wrong.
function checkCanvas() {
  const context = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  const drawn = context.createImageData(32, 32);
  for (let at = 0; at < drawn.data.length; at += 1) drawn.data[at] = at % 4 === 3 ? 255 : (at * 37) % 256;
  context.putImageData(drawn, 0, 0);
  const seen = context.getImageData(0, 0, 32, 32).data;
  if (seen.some((byte, at) => byte !== drawn.data[at])) {
    throw new ReadError(
      "this browser changes pixels that a page reads, as a protection against tracking: allow this page to read " +
        "canvases, or save the image as PNG",
    );
  }
}
