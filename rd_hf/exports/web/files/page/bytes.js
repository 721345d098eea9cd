// Errors that are told to the user, checksums, and the one rule by which values deeper than eight bits become bytes.

/** What the page says of a file that it cannot read or answer, in a sentence. */
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
  for (let at = 0; at < bytes.length; at += 1) crc = CRC_TABLE[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
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
 * @param {{inverted?: boolean, leftOut?: Uint8Array | null}} options whether the smallest
 *   value is white; which values do not count and become black
 */
export function stretch(values, { inverted = false, leftOut = null } = {}) {
  let [low, high] = [Infinity, -Infinity];
  for (let place = 0; place < values.length; place += 1) {
    if (leftOut?.[place]) continue;
    if (values[place] < low) low = values[place];
    if (values[place] > high) high = values[place];
  }
  const range = Math.max(high - low, Number.MIN_VALUE);
  const scaled = (value) => {
    const above = inverted && high > low ? high - value : value - low;
    return rint(Math.min(255, Math.max(0, (above / range) * 255)));
  };
  const bytes = new Uint8ClampedArray(values.length);
  // of 16 bits each value is computed once
  const isDeep = values instanceof Uint16Array;
  const known = isDeep ? Uint8ClampedArray.from({ length: 65536 }, (_, value) => scaled(value)) : null;
  for (let place = 0; place < values.length; place += 1) {
    if (!leftOut?.[place]) bytes[place] = known === null ? scaled(values[place]) : known[values[place]];
  }
  return bytes;
}
