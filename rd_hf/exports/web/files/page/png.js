// PNG files of every kind, without the browser's decoder: that one gives eight bits, multiplies by alpha and corrects
// colours. As in rd_hf alpha is dropped, colour profiles are not applied, and 16 bits are stretched to the whole range.

import { CUT_OFF, ReadError, crc32, latin, stretch } from "./bytes.js";
import { orientationOfExif, orientationOfXmp, upright } from "./orientation.js";

const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
// the first column and row, and the steps, of each pass of an interlaced image
const PASSES = [
  [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
];
const LARGEST = 2 ** 31; // bytes of a decoded image
const PROFILE = "Raw profile type exif\0"; // a text of hexadecimal digits, as ImageMagick writes EXIF

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found = { data: [], palette: null, exif: null, profile: null, xmp: null, header: null };
  for (let at = 8; ; ) {
    if (at + 12 > bytes.length) throw new ReadError(CUT_OFF);
    const length = view.getUint32(at);
    if (at + 12 + length > bytes.length) throw new ReadError(CUT_OFF);
    const kind = latin(bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    const isCritical = kind[0] === kind[0].toUpperCase();
    if (isCritical && crc32(bytes.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length)) {
      throw new ReadError(CUT_OFF);
    }
    if (kind === "IEND") return found;
    if (kind === "IHDR") found.header = readHeader(body);
    else if (kind === "PLTE") found.palette = body;
    else if (kind === "IDAT") found.data.push(body);
    else if (kind === "eXIf") found.exif = body;
    else if (kind === "iTXt" && latin(body.subarray(0, 17)) === "XML:com.adobe.xmp") found.xmp = latin(body);
    else if ((kind === "tEXt" || kind === "zTXt") && latin(body.subarray(0, PROFILE.length)) === PROFILE) {
      found.profile = { isCompressed: kind === "zTXt", text: body.subarray(PROFILE.length) };
    } else if (kind === "acTL" && new DataView(body.buffer, body.byteOffset).getUint32(0) > 1) {
      throw new ReadError("it is an animation, whose frames are not one image: save the frame as a PNG file");
    }
    at += 12 + length;
  }
}

function readHeader(body) {
  if (body.length < 13) throw new ReadError(CUT_OFF);
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const header = { width: view.getUint32(0), height: view.getUint32(4), depth: body[8], kind: body[9] };
  header.interlaced = body[12] === 1;
  if (!DEPTHS[header.kind]?.includes(header.depth) || header.width === 0 || header.height === 0) {
    throw new ReadError(CUT_OFF);
  }
  if (header.width * header.height * 4 > LARGEST) {
    throw new ReadError(`it has ${header.width} x ${header.height} pixels, which are more than 2 GiB: make it smaller`);
  }
  return header;
}

async function inflated(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const chunks = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
    }
  } catch {
    // What came before the damage may hold the whole image: the lines are counted below.
  }
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

// Undoes the filter of each line in place; returns where the next pass begins.
function unfilter(bytes, start, rows, lineBytes, pixelBytes) {
  let line = start + 1;
  if (start + rows * (lineBytes + 1) > bytes.length) throw new ReadError(CUT_OFF);
  for (let row = 0; row < rows; row += 1, line += lineBytes + 1) {
    const undo = FILTERS[bytes[line - 1]];
    if (undo === undefined) throw new ReadError(CUT_OFF);
    const above = row === 0 ? new Uint8Array(lineBytes) : bytes.subarray(line - lineBytes - 1, line - 1);
    undo(bytes.subarray(line, line + lineBytes), above, pixelBytes);
  }
  return line - 1;
}

const FILTERS = [
  () => {},
  (line, above, step) => {
    for (let k = step; k < line.length; k += 1) line[k] += line[k - step];
  },
  (line, above) => {
    for (let k = 0; k < line.length; k += 1) line[k] += above[k];
  },
  (line, above, step) => {
    for (let k = 0; k < line.length; k += 1) line[k] += ((k < step ? 0 : line[k - step]) + above[k]) >> 1;
  },
  (line, above, step) => {
    for (let k = 0; k < line.length; k += 1) {
      line[k] += k < step ? above[k] : paeth(line[k - step], above[k], above[k - step]);
    }
  },
];

function paeth(left, up, corner) {
  const ofLeft = Math.abs(up - corner);
  const ofUp = Math.abs(left - corner);
  const ofCorner = Math.abs(left + up - 2 * corner);
  if (ofLeft <= ofUp && ofLeft <= ofCorner) return left;
  return ofUp <= ofCorner ? up : corner;
}

// The samples of every pixel, channel after channel.
function samplesOf(header, bytes) {
  const { width, height, depth, interlaced } = header;
  const channels = CHANNELS[header.kind];
  const samples = depth === 16 ? new Uint16Array(width * height * channels) : new Uint8Array(width * height * channels);
  let start = 0;
  for (const [left, top, stepX, stepY] of interlaced ? PASSES : [[0, 0, 1, 1]]) {
    const columns = Math.ceil((width - left) / stepX);
    const rows = Math.ceil((height - top) / stepY);
    if (columns <= 0 || rows <= 0) continue;
    const lineBytes = Math.ceil((columns * channels * depth) / 8);
    const end = unfilter(bytes, start, rows, lineBytes, Math.max(1, (channels * depth) / 8));
    for (let row = 0; row < rows; row += 1) {
      const line = start + row * (lineBytes + 1) + 1;
      if (depth === 8 && !interlaced) {
        samples.set(bytes.subarray(line, line + lineBytes), row * lineBytes);
        continue;
      }
      for (let k = 0; k < columns * channels; k += 1) {
        const pixel = (top + row * stepY) * width + left + Math.floor(k / channels) * stepX;
        samples[pixel * channels + (k % channels)] = sampleAt(bytes, line, k, depth);
      }
    }
    start = end;
  }
  return samples;
}

function sampleAt(bytes, line, k, depth) {
  if (depth === 8) return bytes[line + k];
  if (depth === 16) return (bytes[line + 2 * k] << 8) | bytes[line + 2 * k + 1];
  const bit = k * depth;
  return (bytes[line + (bit >> 3)] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

function withoutAlpha(samples, channels, colours) {
  if (channels === colours) return samples;
  const values = new samples.constructor((samples.length / channels) * colours);
  for (let from = 0, to = 0; from < samples.length; from += channels, to += colours) {
    for (let channel = 0; channel < colours; channel += 1) values[to + channel] = samples[from + channel];
  }
  return values;
}

function toRgb(header, samples, palette) {
  const { kind, depth } = header;
  const channels = CHANNELS[kind];
  const pixels = header.width * header.height;
  const colours = kind === 2 || kind === 6 ? 3 : 1;
  const data = new Uint8ClampedArray(pixels * 3);
  if (kind === 3) {
    for (let pixel = 0; pixel < pixels; pixel += 1) {
      const at = samples[pixel] * 3; // beyond the palette is black
      for (let channel = 0; channel < 3; channel += 1) data[pixel * 3 + channel] = palette?.[at + channel] ?? 0;
    }
    return data;
  }
  let values = withoutAlpha(samples, channels, colours);
  if (depth === 16) values = stretch(values);
  if (colours === 3) return new Uint8ClampedArray(values.buffer);
  const factor = depth < 8 ? 255 / ((1 << depth) - 1) : 1;
  for (let pixel = 0, out = 0; pixel < pixels; pixel += 1, out += 3) {
    data[out] = data[out + 1] = data[out + 2] = values[pixel] * factor;
  }
  return data;
}

// The EXIF block that a text holds from its fourth line on; null where it is damaged.
async function exifOfProfile({ isCompressed, text }) {
  const lines = latin(isCompressed ? await inflated([text.subarray(1)]) : text).split("\n");
  const digits = lines.slice(3).join("");
  if (!/^(?:[0-9a-f]{2})+$/i.test(digits)) return null;
  return Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
}

/**
 * A PNG file as an upright image of red, green and blue.
 * @param {Uint8Array} bytes
 * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>}
 */
export async function readPng(bytes) {
  const { header, data, palette, profile, xmp, ...found } = readChunks(bytes);
  if (header === null) throw new ReadError(CUT_OFF);
  const samples = samplesOf(header, await inflated(data));
  const image = { width: header.width, height: header.height, data: toRgb(header, samples, palette) };
  const exif = found.exif ?? (profile && (await exifOfProfile(profile)));
  return upright(image, (exif && orientationOfExif(exif)) ?? (xmp && orientationOfXmp(xmp)));
}
