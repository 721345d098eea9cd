// The orientation that EXIF or XMP states, and the image turned as it says.

// width, height and place of the source's pixel for one of the turned image, for the orientations of EXIF
const TURNS = {
  2: (x, y, w) => [w - 1 - x, y],
  3: (x, y, w, h) => [w - 1 - x, h - 1 - y],
  4: (x, y, w, h) => [x, h - 1 - y],
  5: (x, y) => [y, x],
  6: (x, y, w, h) => [y, h - 1 - x],
  7: (x, y, w, h) => [w - 1 - y, h - 1 - x],
  8: (x, y, w) => [w - 1 - y, x],
};
const ORIENTATION = 0x0112;
const LONG = 4; // the type of a value of four bytes; others have two

/**
 * The orientation in an EXIF block, 1 to 8; null where it has none or is damaged.
 * @param {Uint8Array} block from the byte order on, perhaps after "Exif\0\0"
 */
export function orientationOfExif(block) {
  const start = block[0] === 0x45 && block[1] === 0x78 ? 6 : 0;
  if (block.length < start + 8) return null;
  const view = new DataView(block.buffer, block.byteOffset + start, block.length - start);
  const little = view.getUint16(0) === 0x4949;
  if (!little && view.getUint16(0) !== 0x4d4d) return null;
  const directory = view.getUint32(4, little);
  if (directory + 2 > view.byteLength) return null;
  const entries = view.getUint16(directory, little);
  for (let entry = 0; entry < entries; entry += 1) {
    const at = directory + 2 + 12 * entry;
    if (at + 12 > view.byteLength) return null;
    if (view.getUint16(at, little) !== ORIENTATION) continue;
    return view.getUint16(at + 2, little) === LONG ? view.getUint32(at + 8, little) : view.getUint16(at + 8, little);
  }
  return null;
}

/** The orientation that an XMP packet states, or null. */
export function orientationOfXmp(text) {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(text);
  return found === null ? null : Number(found[1]);
}

/**
 * The image as its orientation says.
 * @param {{width: number, height: number, data: Uint8ClampedArray}} image
 * @param {number | null} orientation
 */
export function upright(image, orientation) {
  const turn = TURNS[orientation];
  if (turn === undefined) return image;
  const [width, height] = orientation > 4 ? [image.height, image.width] : [image.width, image.height];
  const data = new Uint8ClampedArray(image.data.length);
  for (let y = 0, out = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, out += 3) {
      const [column, row] = turn(x, y, image.width, image.height);
      const at = (row * image.width + column) * 3;
      data[out] = image.data[at];
      data[out + 1] = image.data[at + 1];
      data[out + 2] = image.data[at + 2];
    }
  }
  return { width, height, data };
}
