// DICOM files of one uncompressed frame, shown as rd_hf shows them: the elements by dicom-parser, then modality, values
// of interest and presentation in the standard's order. No element that describes a patient is read or shown.

import { CUT_OFF, ReadError, latin } from "./bytes.js";
import { shown } from "./dicom_display.js";

const IMPLICIT = "1.2.840.10008.1.2";
const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const DEFLATED = "1.2.840.10008.1.2.1.99";
const READ = new Set([IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN]);
const SAVE = "save it uncompressed, or as PNG";
const COMPRESSED = `the DICOM file is compressed, which this page does not read: ${SAVE}`;
const DAMAGED = `the DICOM file is damaged, or stored in a way that this page does not read: ${SAVE}`;
const NOT_IMAGES = {
  SEG: "a segmentation", RTDOSE: "a radiotherapy dose", RTSTRUCT: "a set of radiotherapy structures",
  RTPLAN: "a radiotherapy plan", SR: "a structured report", PR: "a presentation state",
  KO: "a selection of key objects", REG: "a registration", DOC: "a document", ECG: "a waveform",
};

/** Whether a file begins like DICOM, with or without the preamble of 128 bytes. */
export function isDicom(bytes) {
  if (latin(bytes.subarray(128, 132)) === "DICM") return true;
  const group = bytes[0] | (bytes[1] << 8);
  if ((group !== 2 && group !== 8) || bytes.length < 8 || bytes[3] !== 0) return false;
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true);
  return /^[A-Z]{2}$/.test(latin(bytes.subarray(4, 6))) || length <= 256;
}

function parsed(bytes) {
  let whole = bytes;
  if (latin(bytes.subarray(128, 132)) !== "DICM") {
    if (bytes[0] !== 2) {
      throw new ReadError(`the DICOM file does not say how its pixels are encoded: ${SAVE}`);
    }
    whole = new Uint8Array(bytes.length + 132);
    whole.set([0x44, 0x49, 0x43, 0x4d], 128);
    whole.set(bytes, 132);
  }
  try {
    return globalThis.dicomParser.parseDicom(whole);
  } catch {
    throw new ReadError(latin(whole.subarray(0, 1024)).includes(DEFLATED) ? COMPRESSED : DAMAGED);
  }
}

function checkKind(data) {
  const kind = NOT_IMAGES[data.string("x00080060")?.trim()];
  if (kind !== undefined) throw new ReadError(`the DICOM file holds ${kind}, not an image`);
  if (!READ.has(data.string("x00020010")?.trim())) {
    throw new ReadError(COMPRESSED);
  }
  const frames = Number(data.string("x00280008") ?? 1);
  if (frames > 1) {
    throw new ReadError(`the DICOM file has ${frames} frames, which are not one image: save each as a file of its own`);
  }
  if (data.elements.x7fe00010 === undefined) throw new ReadError("the DICOM file holds no pixels that this page reads");
}

/** What says how the pixels are stored. */
function layoutOf(data) {
  const layout = {
    rows: data.uint16("x00280010"),
    columns: data.uint16("x00280011"),
    samples: data.uint16("x00280002") ?? 1,
    allocated: data.uint16("x00280100"),
    stored: data.uint16("x00280101"),
    isSigned: data.uint16("x00280103") === 1,
    byPlane: data.uint16("x00280006") === 1,
    colours: data.string("x00280004")?.trim(),
    isBig: data.string("x00020010").trim() === BIG_ENDIAN,
  };
  const { rows, columns, stored, allocated } = layout;
  if (!rows || !columns || !stored || stored > allocated) throw new ReadError(DAMAGED);
  const isKnown = layout.samples === 1 ? layout.colours?.startsWith("MONOCHROME") : layout.colours === "RGB";
  if (!isKnown || ![8, 16, 32].includes(allocated)) {
    throw new ReadError("the DICOM file has colours or bits of a kind that this page does not read: save it as PNG");
  }
  return layout;
}

// The values as they are stored, row by row; the bits above the value are left out.
function storedValues(data, layout) {
  const { allocated, stored, isSigned, isBig } = layout;
  const count = layout.rows * layout.columns * layout.samples;
  const element = data.elements.x7fe00010;
  const size = allocated / 8;
  const there = Math.min(element.length, data.byteArray.length - element.dataOffset);
  if (there < count * size) throw new ReadError(`the DICOM file ends early: ${CUT_OFF.split(": ")[1]}`);
  const view = new DataView(data.byteArray.buffer, data.byteArray.byteOffset + element.dataOffset, there);
  const isSwapped = isBig && allocated === 8 && element.vr === "OW"; // bytes lie in words
  const values = new Float64Array(count);
  for (let place = 0; place < count; place += 1) {
    let value = 0;
    if (size === 1) value = view.getUint8(isSwapped ? place ^ 1 : place);
    else value = size === 2 ? view.getUint16(2 * place, !isBig) : view.getUint32(4 * place, !isBig);
    const above = 32 - stored;
    values[place] = isSigned ? (value << above) >> above : (value << above) >>> above;
  }
  return layout.samples === 3 && layout.byPlane ? byPixel(values) : values;
}

function byPixel(values) {
  const pixels = values.length / 3;
  return values.map((_, place) => values[(place % 3) * pixels + Math.floor(place / 3)]);
}

/**
 * A DICOM file as an image of red, green and blue.
 * @param {Uint8Array} bytes
 * @param {{dicom_window?: string}} reading the window that the student was trained with
 */
export function readDicom(bytes, reading) {
  const data = parsed(bytes);
  checkKind(data);
  const layout = layoutOf(data);
  const made = shown(data, storedValues(data, layout), layout, reading);
  return { width: layout.columns, height: layout.rows, data: made };
}
