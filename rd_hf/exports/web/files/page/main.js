// The page: it starts the student, takes files one after another, and keeps what is shown up to date.

import { areas, checked, classMap, probabilities } from "./answer.js";
import { ReadError } from "./bytes.js";
import { element } from "./elements.js";
import { Model, StartError, readStudent } from "./model.js";
import { readImage } from "./reading.js";
import { resultItem, ruleOf } from "./results.js";
import { csv, drawTable, header, rows, tabbed } from "./table.js";

const $ = (id) => document.getElementById(id);
const results = [];
const items = [];
let waiting = Promise.resolve(); // files are read in their order, one at a time
let round = 0; // of "Remove all": what is still waiting is left out

function say(text, isFailure = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", isFailure);
}

// Lets the page be drawn before a computation holds it up.
function drawn() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
  });
}

async function bytesOf(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new ReadError("it cannot be opened; if it is a folder, choose the files in it");
  }
}

async function answered(model, file) {
  const { student } = model;
  try {
    const image = await readImage(await bytesOf(file), student.reading);
    const { logits, shape, milliseconds } = await model.run(image);
    checked(logits);
    const { width, height } = image;
    const common = { name: file.name, image, width, height, milliseconds };
    if (!student.masks) return { ...common, logits, probabilities: probabilities(logits, student) };
    const mask = classMap(logits, shape, width, height);
    return { ...common, mask, pixels: areas(mask, student.labels.length) };
  } catch (error) {
    const known = error instanceof ReadError;
    if (!known) console.warn(error);
    return { name: file.name, error: known ? error.message : `the page failed on it (${error.message ?? error})` };
  }
}

function add(result, student) {
  const item = resultItem(result, student);
  item.show($("calibrated").checked);
  delete result.image; // it is drawn
  delete result.mask;
  results.push(result);
  items.push(item);
  $("results").append(item.node);
  drawTable($("table"), results, student);
  for (const id of ["answers", "table-section", "controls"]) $(id).hidden = false;
}

async function take(model, files, own) {
  for (const [number, file] of files.entries()) {
    if (own !== round) return;
    say(`Reading ${number + 1} of ${files.length}: ${file.name}`);
    await drawn();
    const result = await answered(model, file);
    if (own === round) add(result, model.student);
  }
  const bad = results.filter((result) => result.error !== undefined).length;
  const count = results.length === 1 ? "1 file" : `${results.length} files`;
  say(`${count} done${bad === 0 ? "." : `; ${bad} ${bad === 1 ? "has no answer, and says" : "have no answer, and say"} why.`}`);
}

function removeAll() {
  round += 1;
  results.length = 0;
  items.length = 0;
  $("results").replaceChildren();
  for (const id of ["answers", "table-section", "controls"]) $(id).hidden = true;
  say("Everything is removed.");
  $("files").focus();
}

async function copyTable(student) {
  const text = tabbed([header(student), ...rows(results, student)]);
  try {
    await navigator.clipboard.writeText(text);
    say("The table is copied.");
  } catch {
    getSelection().selectAllChildren($("table"));
    say("The browser does not let the page copy. The table is selected: press Ctrl+C.");
  }
}

function downloadTable(student) {
  const blob = new Blob([csv([header(student), ...rows(results, student)])], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "answers.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function listen(model) {
  const { student } = model;
  const accept = (list) => {
    const files = [...list];
    const own = round; // what waits while everything is removed is not read
    if (files.length > 0) waiting = waiting.then(() => take(model, files, own));
  };
  $("files").addEventListener("change", () => {
    accept($("files").files);
    $("files").value = "";
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    accept(event.dataTransfer.files);
  });
  $("calibrated").addEventListener("change", () => {
    items.forEach((item) => item.show($("calibrated").checked));
    tellRule(student);
  });
  $("opacity").addEventListener("input", () => {
    document.documentElement.style.setProperty("--mask-opacity", $("opacity").value / 100);
  });
  $("clear").addEventListener("click", removeAll);
  $("copy").addEventListener("click", () => copyTable(student));
  $("download").addEventListener("click", () => downloadTable(student));
  $("files").disabled = false;
}

function tellRule(student) {
  $("rule").hidden = student.masks;
  if (!student.masks) $("rule").textContent = ruleOf(student, $("calibrated").checked);
}

function describe(student) {
  const named = (name) => (name === null || name === "local" ? null : name);
  const [height, width] = student.preprocessing.size;
  const facts = {
    Classes: student.labels.join(", "),
    Model: student.model,
    "Distilled from": named(student.teacher),
    "Trained on": named(student.dataset),
    "Sees images as": `${width} x ${height} pixels`,
    "Made by": student.made_by,
  };
  for (const [name, text] of Object.entries(facts)) {
    if (text !== null) $("facts").append(element("dt", { text: name }), element("dd", { text }));
  }
  tellRule(student);
  $("opacity-control").hidden = !student.masks;
  if (student.calibration_temperature && !student.masks) {
    $("calibrated-control").hidden = false;
    $("temperature").textContent = `(temperature ${student.calibration_temperature.toFixed(2)})`;
  }
}

async function start() {
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) $("drop").classList.remove("over");
  });
  addEventListener("drop", (event) => event.preventDefault()); // never leave the page for a file
  try {
    say("Loading the model …");
    const student = await readStudent();
    describe(student);
    listen(await Model.load(student));
    say("Ready. You may go offline now.");
  } catch (error) {
    if (!(error instanceof StartError)) console.warn(error);
    say(error instanceof StartError ? error.message : `The page cannot start: ${error.message ?? error}`, true);
  }
}

start();
