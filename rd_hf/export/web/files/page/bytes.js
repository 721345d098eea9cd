// Errors that are told to the user, checksums, and the one rule by which values deeper than eight bits become bytes.

/** What the page says of a file that it cannot read, in a sentence. */
export class ReadError extends Error {}

export const CUT_OFF = "it is damaged or cut off, perhaps by an interrupted download: fetch it again";

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  let value = number;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

/** The checksum of PNG chunks. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Bytes as text, one character per byte; a TextDecoder takes latin1 for Windows' own variant. */
export function latin(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** The nearest integer, the even one of two, as numpy's rint. */
export function rint(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

/**
 * Values of any depth, mapped linearly from their own minimum and maximum to 0 and 255; equal values become black.
 * @param {ArrayLike<number>} values finite
 * @param {{inverted?: boolean, leftOut?: Uint8Array | null, bounds?: number[] | null}} options whether the smallest
 *   value is white; which values do not count and become black; what becomes 0 and 255 in place of minimum and maximum
 */
export function stretch(values, { inverted = false, leftOut = null, bounds = null } = {}) {
  let [low, high] = bounds ?? [Infinity, -Infinity];
  for (let place = 0; bounds === null && place < values.length; place += 1) {
    if (leftOut?.[place]) continue;
    low = Math.min(low, values[place]);
    high = Math.max(high, values[place]);
  }
  const bytes = new Uint8ClampedArray(values.length);
  const range = Math.max(high - low, Number.MIN_VALUE);
  for (let place = 0; place < values.length; place += 1) {
    if (leftOut?.[place]) continue;
    const above = inverted && high > low ? high - values[place] : values[place] - low;
    bytes[place] = rint(Math.min(255, Math.max(0, (above / range) * 255)));
  }
  return bytes;
}
