// The page's side of the worker: one question at a time, and of those that came meanwhile the last.

export class Planner {
  #worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
  #waiting = new Map();
  #next = 0;

  // onStep is told what the planner does while it starts; onFatal why it cannot.
  constructor({ onStep, onFatal }) {
    this.#worker.addEventListener("message", ({ data }) => {
      if (data.step) onStep(data.step);
      else if (data.fatal) onFatal(data.fatal);
      else if ("id" in data) {
        const { resolve, reject } = this.#waiting.get(data.id);
        this.#waiting.delete(data.id);
        if ("reply" in data) resolve(JSON.parse(data.reply));
        else reject(new Error(data.failed));
      }
    });
    this.#worker.addEventListener("error", (event) => onFatal(event.message || "its files could not be loaded"));
  }

  // What Python's `answer` replies to a request, given as JSON.
  ask(request) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, request });
    });
  }
}
