// Runs functions of the web page in node: a JSON list of [module, function, arguments] on stdin, their values on stdout.
// {"bytes": base64} stands for bytes, {"floats": [...]} for a Float32Array.

import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

function taken(value) {
  if (Array.isArray(value)) return value.map(taken);
  if (value === null || typeof value !== "object") return value;
  if ("bytes" in value) return new Uint8ClampedArray(Buffer.from(value.bytes, "base64"));
  if ("file" in value) return new Uint8Array(Buffer.from(value.file, "base64"));
  if ("floats" in value) return Float32Array.from(value.floats);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, taken(item)]));
}

function given(value) {
  if (value instanceof Uint8ClampedArray || value instanceof Uint8Array) {
    return { bytes: Buffer.from(value).toString("base64") };
  }
  if (value instanceof Float32Array) return { floats: Array.from(value) };
  if (Array.isArray(value) || value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, given(item)]));
}

globalThis.dicomParser = createRequire(import.meta.url)(`${process.argv[2]}/../vendor/dicomParser.min.js`);
const answers = [];
for (const [module, name, values] of JSON.parse(readFileSync(0, "utf-8"))) {
  const found = await import(pathToFileURL(`${process.argv[2]}/${module}`).href);
  try {
    answers.push(given(await found[name](...values.map(taken))));
  } catch (error) {
    answers.push({ error: error.message });
  }
}
process.stdout.write(JSON.stringify(answers));
