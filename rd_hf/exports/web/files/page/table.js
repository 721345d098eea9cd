// All answers as a table, to look at, to copy and to download.

import { probabilities } from "./answer.js";
import { element } from "./elements.js";
import { answerOf } from "./results.js";

/** The columns: probabilities, calibrated ones too where there is a temperature, or the pixels of each class. */
export function header(student) {
  if (student.masks) return ["image", "answer", ...student.labels.map((name) => `pixels of ${name}`), "error"];
  const calibrated = student.calibration_temperature ? student.labels.map((name) => `calibrated ${name}`) : [];
  return ["image", "answer", ...student.labels, ...calibrated, "error"];
}

/** A row per result, as texts. */
export function rows(results, student) {
  const numbers = header(student).length - 3;
  return results.map((result) => {
    if (result.error !== undefined) return [result.name, "", ...new Array(numbers).fill(""), result.error];
    const answer = answerOf(result, student);
    if (student.masks) return [result.name, answer, ...result.pixels.map(String), ""];
    const temperature = student.calibration_temperature;
    const calibrated = temperature ? probabilities(result.logits, student, temperature) : [];
    return [result.name, answer, ...[...result.probabilities, ...calibrated].map((value) => value.toFixed(6)), ""];
  });
}

/** A text that is no formula to a spreadsheet; numbers stay as they are. */
function plain(text) {
  return /^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text)) ? `'${text}` : text;
}

/** As CSV (RFC 4180). */
export function csv(lines) {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return lines.map((line) => `${line.map(plain).map(cell).join(",")}\r\n`).join("");
}

/** As text that spreadsheets take from the clipboard. */
export function tabbed(lines) {
  return lines.map((line) => line.map((text) => plain(text.replace(/[\t\r\n]+/g, " "))).join("\t")).join("\n");
}

/** Draws the table. */
export function drawTable(table, results, student) {
  const failed = results.some((result) => result.error !== undefined);
  const shown = failed ? undefined : -1; // the last column is of errors
  const head = header(student).slice(0, shown);
  const kindOf = (place) => (place === 1 ? "text" : "number");
  const cells = head.map((text, place) => element("th", { scope: "col", class: kindOf(place), text }));
  const lines = rows(results, student).map((line) => {
    const row = line.slice(0, shown).map((text, place) => {
      if (place === 0) return element("th", { scope: "row", text });
      const kind = place === 1 ? "text" : failed && place === line.length - 1 ? "long" : "number";
      return element("td", { class: kind, text: kind === "number" ? short(text) : text });
    });
    return element("tr", {}, ...row);
  });
  table.replaceChildren(element("thead", {}, element("tr", {}, ...cells)), element("tbody", {}, ...lines));
}

function short(text) {
  return text.includes(".") ? Number(text).toFixed(3) : text;
}
