// A file as an image, or a sentence that says why it is none.

import { ReadError, latin } from "./bytes.js";
import { isDicom, readDicom } from "./dicom.js";
import { readJpeg } from "./jpeg.js";
import { readPng } from "./png.js";

const SAVE = "save it as PNG or JPEG";
// what other files begin with, from this byte on
const OTHERS = [
  [0, "GIF8", `it is a GIF, which this page does not read: ${SAVE}`],
  [0, "II*\0", `it is a TIFF, which this page does not read: ${SAVE}`],
  [0, "MM\0*", `it is a TIFF, which this page does not read: ${SAVE}`],
  [0, "BM", `it is a BMP, which this page does not read: ${SAVE}`],
  [8, "WEBP", `it is a WebP picture, which this page does not read: ${SAVE}`],
  [4, "ftypavif", `it is an AVIF picture, which this page does not read: ${SAVE}`],
  [4, "ftyp", `it is a film or a picture of a phone, which this page does not read: ${SAVE}`],
  [4, "jP  ", `it is a JPEG 2000 file, which this page does not read: ${SAVE}`],
  [0, "%PDF", "it is a PDF document: save its pictures as PNG files"],
  [0, "PK\x03\x04", "it is a zip archive: unpack it"],
  [0, "\x1f\x8b", "it is compressed by gzip: unpack it, and save volumes slice by slice as PNG files"],
  [344, "n+1\0", "it is a NIfTI volume: save its slices as PNG files"],
  [0, "\x93NUMPY", "it is a NumPy array: save it as a PNG file"],
];

function whyUnknown(bytes) {
  const start = latin(bytes.subarray(0, 512));
  const known = OTHERS.find(([at, beginning]) => start.startsWith(beginning, at));
  if (known !== undefined) return known[2];
  if (/^\s*(<svg|<\?xml|<!doctype)/i.test(start)) return `it is a drawing or a web page, and has no pixels: ${SAVE}`;
  if (/^[\t\r\n\x20-\x7e]+$/.test(start)) return "it is text, not an image";
  return "it is not an image that this page knows: give PNG, JPEG or DICOM files";
}

/**
 * The upright image in a file.
 * @param {Uint8Array} bytes
 * @param {{dicom_window?: string}} reading how the student was trained to read files
 * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>}
 * @throws {ReadError} with a sentence
 */
export async function readImage(bytes, reading) {
  if (bytes.length === 0) throw new ReadError("it is empty");
  const start = latin(bytes.subarray(0, 8));
  if (start === "\x89PNG\r\n\x1a\n") return readPng(bytes);
  if (start.startsWith("\xff\xd8\xff")) return readJpeg(bytes);
  if (isDicom(bytes)) return readDicom(bytes, reading);
  throw new ReadError(whyUnknown(bytes));
}
