// The student in onnxruntime: everything is fetched once, so that the page works without a network from then on.

import { geometry, normalized } from "./prepare.js";

/** What the page says when a part of it is missing or damaged. */
export class StartError extends Error {}

const AGAIN = "export the student again, and serve the whole folder";

async function fetched(address, name, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new StartError(`${name} cannot be fetched: look at the connection, and load the page again.`);
  }
  if (!answer.ok) throw new StartError(`${name} is missing (the server says ${answer.status}): ${AGAIN}.`);
  return answer;
}

/** What student.json says. */
export async function readStudent() {
  const answer = await fetched("student.json", "student.json");
  try {
    return await answer.json();
  } catch {
    throw new StartError(`student.json is damaged: ${AGAIN}.`);
  }
}

async function startRuntime({ script, wasm, integrity }) {
  let runtime;
  try {
    runtime = await import(new URL(script, document.baseURI).href);
  } catch {
    throw new StartError(`onnxruntime-web (${script}) cannot be loaded: ${AGAIN}.`);
  }
  const options = integrity === undefined ? {} : { integrity };
  const answer = await fetched(wasm, `onnxruntime-web (${wasm})`, options);
  runtime.env.wasm.wasmBinary = await answer.arrayBuffer();
  runtime.env.wasm.numThreads = 1; // more would need headers that plain servers do not send
  return runtime;
}

/** A student that is ready to run. */
export class Model {
  #runtime;
  #session;

  constructor(student, runtime, session) {
    this.student = student;
    this.#runtime = runtime;
    this.#session = session;
  }

  /**
   * Fetches the runtime and the weights.
   * @param {object} student what student.json says
   * @throws {StartError}
   */
  static async load(student) {
    const [runtime, weights] = await Promise.all([
      startRuntime(student.runtime),
      fetched("model.onnx", "model.onnx").then((answer) => answer.arrayBuffer()),
    ]);
    try {
      return new Model(student, runtime, await runtime.InferenceSession.create(weights));
    } catch (error) {
      const reason = String(error.message ?? error).split("\n")[0];
      throw new StartError(`model.onnx is damaged, or this browser cannot run it (${reason}): ${AGAIN}.`);
    }
  }

  /**
   * The student's logits of an image.
   * @param {{width: number, height: number, data: Uint8ClampedArray}} image
   * @returns {Promise<{logits: Float32Array, shape: number[], milliseconds: number}>} shape without the batch
   */
  async run(image) {
    const { preprocessing } = this.student;
    const made = geometry(image, preprocessing.steps);
    const values = normalized(made, preprocessing);
    const shape = [1, preprocessing.channels, made.height, made.width];
    const started = performance.now();
    const { logits } = await this.#session.run({ pixel_values: new this.#runtime.Tensor("float32", values, shape) });
    return { logits: logits.data, shape: logits.dims.slice(1), milliseconds: performance.now() - started };
  }
}
