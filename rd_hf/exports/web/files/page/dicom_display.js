// From the stored values of a DICOM image to what is shown, as in rd_hf/data/decoding/dicom.py.

import { rint, stretch } from "./bytes.js";

// An item of an enhanced file, from the frame's own groups or else from those of all frames.
function functionalGroup(data, tag) {
  for (const groups of ["x52009230", "x52009229"]) {
    const found = data.elements[groups]?.items?.[0]?.dataSet?.elements[tag]?.items?.[0]?.dataSet;
    if (found !== undefined) return found;
  }
  return null;
}

function numberOf(item, tag) {
  const text = item.string(tag, 0);
  const value = text === undefined || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}

// Values through a lookup table; those outside take its first or last entry.
function throughTable(values, item, layout) {
  const descriptor = (place) => item.uint16("x00283002", place);
  const count = descriptor(0) || 65536;
  let first = layout.isSigned ? item.int16("x00283002", 1) : descriptor(1);
  if (first > 32767 && values.some((value) => value < 0)) first -= 65536;
  const element = item.elements.x00283006;
  const inBytes = element.length < 2 * count;
  const last = Math.min(count, inBytes ? element.length : element.length / 2) - 1;
  return values.map((value) => {
    const place = Math.min(last, Math.max(0, rint(value) - first));
    return inBytes ? item.byteArray[element.dataOffset + place] : item.uint16("x00283006", place);
  });
}

/** What stored values mean, such as Hounsfield units: through the modality LUT, or slope and intercept. */
function modalityValues(data, stored, layout) {
  const item = functionalGroup(data, "x00289145") ?? data;
  const table = item.elements.x00283000?.items?.[0]?.dataSet;
  if (table !== undefined) return throughTable(stored, table, layout);
  const [slope, intercept] = [numberOf(item, "x00281053"), numberOf(item, "x00281052")];
  if (slope === null && intercept === null) return stored;
  return stored.map((value) => value * (slope ?? 1) + (intercept ?? 0));
}

function throughWindow(values, center, width, kind = "LINEAR") {
  if (kind === "SIGMOID") {
    const power = (value) => Math.min(700, Math.max(-700, (-4 * (value - center)) / width));
    return values.map((value) => 255 / (1 + Math.exp(power(value))));
  }
  const [middle, range] = kind === "LINEAR" ? [center - 0.5, width - 1] : [center, width];
  if (range === 0) return values.map((value) => (value > middle ? 255 : 0));
  return values.map((value) => Math.min(1, Math.max(0, (value - middle) / range + 0.5)) * 255);
}

function wholeRange(data, values, layout) {
  const { stored, isSigned } = layout;
  const ends = isSigned ? [-(2 ** (stored - 1)), 2 ** (stored - 1) - 1] : [0, 2 ** stored - 1];
  const meant = modalityValues(data, Float64Array.from(ends), layout);
  const [low, high] = [Math.min(...meant), Math.max(...meant)];
  const range = Math.max(high - low, Number.MIN_VALUE);
  return values.map((value) => Math.min(1, Math.max(0, (value - low) / range)) * 255);
}

// Values in 0..255 through the window that the student or the file chooses; null where there is none.
function windowed(data, values, layout, reading) {
  const chosen = reading.dicom_window;
  if (chosen === "minmax") return null;
  if (chosen === "none") return wholeRange(data, values, layout);
  if (chosen !== undefined) return throughWindow(values, ...chosen.split(",").map(Number));
  const item = functionalGroup(data, "x00289132") ?? data;
  const table = item.elements.x00283010?.items?.[0]?.dataSet;
  if (table !== undefined) {
    const highest = 2 ** table.uint16("x00283002", 2) - 1;
    return throughTable(values, table, layout).map((value) => Math.min(255, (value / highest) * 255));
  }
  const [center, width] = [numberOf(item, "x00281050"), numberOf(item, "x00281051")];
  const kind = (item.string("x00281056")?.trim() || "LINEAR").toUpperCase();
  if (center === null || width === null || width <= (kind === "LINEAR" ? 1 : 0)) return null;
  return throughWindow(values, center, width, kind);
}

// Which values lie outside the image; null where none does.
function paddingOf(data, stored, layout) {
  if (data.elements.x00280120 === undefined) return null;
  const read = (tag) => (layout.isSigned ? data.int16(tag) : data.uint16(tag));
  const value = read("x00280120");
  const limit = data.elements.x00280121 === undefined ? value : read("x00280121");
  const [low, high] = [Math.min(value, limit), Math.max(value, limit)];
  const found = Uint8Array.from(stored, (one) => (one >= low && one <= high ? 1 : 0));
  return found.includes(1) ? found : null;
}

function shownGrey(data, stored, layout, reading) {
  const values = modalityValues(data, stored, layout);
  const padding = paddingOf(data, stored, layout);
  const inverted = layout.colours === "MONOCHROME1";
  const scaled = windowed(data, values, layout, reading);
  if (scaled === null) {
    return stretch(values, { inverted, leftOut: padding?.includes(0) ? padding : null });
  }
  return Uint8ClampedArray.from(scaled, (value, place) => {
    if (padding?.[place]) return 0;
    return rint(inverted ? 255 - value : value);
  });
}

/**
 * Red, green and blue of each pixel.
 * @param {object} data elements, as dicom-parser gives them
 * @param {Float64Array} stored
 * @param {object} layout how they are stored
 * @param {{dicom_window?: string}} reading
 */
export function shown(data, stored, layout, reading) {
  if (layout.samples === 3) return layout.stored <= 8 ? Uint8ClampedArray.from(stored) : stretch(stored);
  const grey = shownGrey(data, stored, layout, reading);
  return Uint8ClampedArray.from({ length: 3 * grey.length }, (_, place) => grey[Math.floor(place / 3)]);
}
