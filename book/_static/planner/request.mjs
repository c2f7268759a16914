// The form, the request that it makes, and the link that brings it back.

const CONFIG = "config.json";

// What cannot be asked, in one line for the reader.
export class BadInput extends Error {}

export class Form {
  // What a link says that no field can show: the planner refuses it, in a line with the nearest names.
  #strange = {};

  constructor(element) {
    this.element = element;
    this.first = this.#values(); // before a task folds fields away
  }

  // Hides the fields that a setting does not ask for, and leaves them out of request and link.
  fold() {
    const { task, model, where, n_gpus } = this.element.elements;
    for (const part of this.element.querySelectorAll("[data-task], [data-model]")) {
      const asked = part.dataset.task?.split(" ").includes(task.value) ?? part.dataset.model === model.value;
      part.hidden = !asked;
      part.disabled = !asked;
    }
    for (const input of this.element.querySelectorAll("[data-usual]")) {
      input.placeholder = JSON.parse(input.dataset.usual)[task.value] ?? "";
    }
    n_gpus.placeholder = "own" in where.selectedOptions[0].parentElement.dataset ? "1" : "all";
  }

  // The planner's request as JSON. A field that is left empty is left out: the planner takes what is usual.
  request() {
    const request = {};
    for (const input of this.element.elements) {
      if (!input.name || input.name === "config" || input.matches(":disabled")) continue;
      if (input.type === "checkbox") {
        if (input.checked) (request[input.name] ??= []).push(input.value);
      } else if (input.type === "number") {
        if (input.validity.badInput) throw new BadInput(`${input.labels[0].textContent}: this is no number.`);
        if (input.value) request[input.name] = "percent" in input.dataset ? input.value / 100 : Number(input.value);
      } else if (input.type !== "radio" || input.checked) {
        request[input.name] = input.value;
      }
    }
    Object.assign(request, this.#strange);
    if (request.model !== CONFIG) return JSON.stringify(request);
    // letter by letter as in the file: JavaScript would make 1 of 1.0, another type for Python
    const { model, ...rest } = request;
    return `{"model":${this.#config()},${JSON.stringify(rest).slice(1)}`;
  }

  #config() {
    const text = this.element.elements.config.value.trim();
    if (!text) throw new BadInput("Paste the model's config.json, or choose its file.");
    let config;
    try {
      config = JSON.parse(text);
    } catch (error) {
      throw new BadInput(`This config.json is no JSON: ${error.message}`);
    }
    if (config === null || typeof config !== "object" || Array.isArray(config)) {
      throw new BadInput('A config.json is an object, as in {"model_type": "llama", ...}; this is something else.');
    }
    return text;
  }

  // This page's address with all that differs from the first values.
  link() {
    const link = new URL(location.href);
    link.search = "";
    for (const [name, values] of Object.entries(this.#values())) {
      if (String(values) === String(this.first[name] ?? "")) continue;
      // no JSON string goes over the end of a line, so what is taken away is never part of one
      for (const value of values) link.searchParams.append(name, value.replace(/\s*\n\s*/g, ""));
    }
    return link;
  }

  // What gives the same reply on the command line.
  command() {
    const { model, task, where, ...wishes } = JSON.parse(this.request());
    const changed = this.link().searchParams;
    const options = Object.entries(wishes).filter(([name]) => changed.has(name));
    const words = ["llmhw-plan", typeof model === "string" ? model : CONFIG, task, where];
    for (const [name, value] of options) words.push(`--${name.replaceAll("_", "-")}`, ...[value].flat());
    return words.map((word) => (/[^\w.-]/.test(word) ? `'${word}'` : word)).join(" ");
  }

  // The form as an address says.
  read(address) {
    this.element.reset();
    this.#strange = {};
    const wishes = new URL(address).searchParams;
    wishes.delete("highlight"); // the book's own search adds it
    for (const [name, value] of wishes) {
      if (!set(this.element.elements.namedItem(name), value)) this.#strange[name] = value;
    }
    this.fold();
  }

  // Whether it asks what it asked before anybody chose.
  get untouched() {
    return this.link().search === "" && Object.keys(this.#strange).length === 0;
  }

  // From now on the reader's wishes count, not the link's.
  forget() {
    this.#strange = {};
  }

  #values() {
    const data = new FormData(this.element);
    return Object.fromEntries([...new Set(data.keys())].map((name) => [name, data.getAll(name)]));
  }
}

// Whether the control, a field or several of one name, could take the value.
function set(control, value) {
  if (control instanceof RadioNodeList) {
    const each = [...control].find((each) => each.value === value);
    if (each) each.checked = true;
    return Boolean(each);
  }
  if (!control || (control.type === "number" && Number.isNaN(Number(value)))) return false;
  control.value = value;
  if (control.options && control.value !== value) {
    control.add(new Option(value, value)); // known or not, the form shows what is asked
    control.value = value;
  }
  return control.value === value || control.type === "textarea";
}
