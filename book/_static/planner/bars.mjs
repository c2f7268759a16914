// Memory of one GPU as a bar: its parts, what the program may keep for itself, and the limit.

import { bytes, range } from "./numbers.mjs";
import { element } from "./elements.mjs";

// The colours of the notebooks' pictures: a part has its own wherever it stands.
const COLOURS = {
  parameters: "#0072B2",
  gradients: "#D55E00",
  master: "#56B4E9",
  exp_avg: "#009E73",
  exp_avg_sq: "#7FCBB5",
  momentum_buffer: "#009E73",
  "accumulated gradients": "#000000",
  activations: "#E69F00",
  working: "#999999",
  weights: "#0072B2",
  cache: "#009E73",
  optimizer: "#56B4E9",
  gathered: "#CC79A7",
};
const OTHERS = "#bbbbbb";

export function memoryBar({ parts, reserve, limit }) {
  const [least, most] = reserve;
  const width = 1.06 * Math.max(limit, sum(parts) + most);
  const share = (size) => `${(100 * size) / width}%`;
  const said = [...Object.entries(parts).map(partText), reserveText(reserve), `limit ${bytes(limit)}`];
  return element(
    "div",
    { class: "planner-bar", role: "img", "aria-label": said.join(", ") },
    Object.entries(parts).map(([name, size]) => element("i", { style: { width: share(size), background: colour(name) } })),
    element("i", { class: "reserve", style: { width: share(least) } }),
    element("i", { class: "reserve perhaps", style: { width: share(most - least) } }),
    element("b", { style: { left: share(limit) } }),
  );
}

export function legend({ parts, reserve, limit }) {
  const entry = (text, kind, style = {}) => element("li", {}, element("i", { class: kind, style }), text);
  return element(
    "ul",
    { class: "planner-legend" },
    Object.entries(parts).map((part) => entry(partText(part), "part", { background: colour(part[0]) })),
    entry(reserveText(reserve), "reserve"),
    entry(`limit ${bytes(limit)}`, "limit"),
  );
}

export function sum(parts) {
  return Object.values(parts).reduce((all, size) => all + size, 0);
}

function partText([name, size]) {
  return `${name.replaceAll("_", " ")} ${bytes(size)}`;
}

function reserveText(reserve) {
  return `reserve ${range(reserve, "", bytes)}`;
}

function colour(name) {
  return COLOURS[name] ?? OTHERS;
}
