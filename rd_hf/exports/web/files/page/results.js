// What the page shows of one file: the picture, and bars of probabilities, areas of classes, or why there is no answer.

import { decision, probabilities, thresholds } from "./answer.js";
import { element, percent } from "./elements.js";
import { picture } from "./picture.js";

const MOST_BARS = 12; // classes that are drawn; of more those answered, and the likeliest

/** The answer in words. */
export function answerOf(result, student) {
  if (result.error !== undefined) return "no answer";
  if (student.masks) {
    const found = student.labels.filter((_, number) => number > 0 && result.pixels[number] > 0);
    return found.join(", ") || `only ${student.labels[0]}`;
  }
  return decision(result.probabilities, student).join(", ") || "none of the classes";
}

function bar(name, value, isAnswered, threshold) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * value}%`;
  const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
  if (threshold !== undefined) {
    const mark = element("span", { class: "mark" });
    mark.style.left = `${100 * threshold}%`;
    track.append(mark);
  }
  return element(
    "li",
    { class: isAnswered ? "bar answered" : "bar" },
    element("span", { class: "label", text: name }),
    element("span", { class: "value", text: percent(value) }),
    track,
  );
}

/** By which rule a class is answered, in a sentence. */
export function ruleOf(student, isCalibrated) {
  const point = student.operating_point;
  if (point === null || point === undefined) {
    if (!student.several_labels) return "The likeliest class is the answer.";
    return `A class is answered from 50 %${isCalibrated ? " before calibration" : ""}.`;
  }
  const named = Object.entries(point.thresholds).map(([name, value]) => `${name} from ${Number((100 * value).toPrecision(3))} %`);
  const rule = point.rule === "youden" ? "Youden's index" : point.rule;
  const hasOthers = student.several_labels && named.length < student.labels.length;
  if (hasOthers) named.push("the others from 50 %");
  const words = `Operating point (${rule} on the validation images): ${named.join(", ")}`;
  return isCalibrated ? `${words} before calibration.` : `${words}; a line marks it.`;
}

function bars(result, student, isCalibrated) {
  const temperature = isCalibrated ? student.calibration_temperature : 1;
  const values = probabilities(result.logits, student, temperature);
  const answered = new Set(decision(result.probabilities, student));
  const limits = isCalibrated ? {} : thresholds(student);
  let numbers = student.labels.map((_, number) => number);
  if (numbers.length > MOST_BARS) {
    const first = (number) => (answered.has(student.labels[number]) ? 1 : 0);
    numbers = numbers.sort((one, other) => first(other) - first(one) || values[other] - values[one]).slice(0, MOST_BARS);
  }
  const items = numbers.map((number) => {
    const name = student.labels[number];
    return bar(name, values[number], answered.has(name), limits[name]);
  });
  return element("ul", { class: "bars" }, ...items);
}

function classes(result, student) {
  const total = result.width * result.height;
  const items = student.labels.map((name, number) => {
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    if (number > 0) swatch.style.backgroundColor = `rgb(${student.colors[number].join(" ")})`;
    const pixels = result.pixels[number];
    const words = `${pixels.toLocaleString("en")} pixels, ${percent(pixels / total)}`;
    return element("li", {}, swatch, element("span", { text: name }), element("span", { class: "value", text: words }));
  });
  return element("ul", { class: "classes" }, ...items);
}

/**
 * The item of a result in the list; `show(isCalibrated)` draws its numbers again.
 * @returns {{node: HTMLElement, show: (isCalibrated: boolean) => void}}
 */
export function resultItem(result, student) {
  const file = element("h3", { class: "file", text: result.name });
  if (result.error !== undefined) {
    const why = element("p", { class: "answer", text: `This file has no answer: ${result.error}.` });
    return { node: element("li", { class: "result failed" }, element("div", {}, file, why)), show: () => {} };
  }
  const over = student.masks ? { mask: result.mask, colors: student.colors } : null;
  const numbers = element("div");
  const answer = element("p", { class: "answer", text: answerOf(result, student) });
  const words = element("div", {}, file, answer, numbers);
  const show = (isCalibrated) => {
    const text = `${result.width} x ${result.height} pixels, answered in ${Math.round(result.milliseconds)} ms`;
    const shown = student.masks ? classes(result, student) : bars(result, student, isCalibrated);
    numbers.replaceChildren(shown, element("p", { class: "remark", text }));
  };
  return { node: element("li", { class: "result" }, picture(result.image, result.name, over), words), show };
}
