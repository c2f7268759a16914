// The page's side of the worker that runs Python.

export class Planner {
  #worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
  #waiting = new Map();
  #asked = 0;
  #broken = null;

  // onStep is told what the planner does while it starts.
  constructor(onStep) {
    this.#worker.addEventListener("message", ({ data: { step, id, reply, failed } }) => {
      if (step) onStep(step);
      else this.#settle(id, (each) => (failed ? each.reject(new Error(failed)) : each.resolve(JSON.parse(reply))));
    });
    this.#worker.addEventListener("error", (event) => {
      this.#broken = new Error(event.message || "its files could not be loaded");
      for (const id of this.#waiting.keys()) this.#settle(id, (each) => each.reject(this.#broken));
    });
  }

  // What Python's `answer` replies to a request, given as JSON.
  ask(request) {
    if (this.#broken) return Promise.reject(this.#broken);
    const id = this.#asked++;
    this.#worker.postMessage({ id, request });
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #settle(id, how) {
    how(this.#waiting.get(id));
    this.#waiting.delete(id);
  }
}
