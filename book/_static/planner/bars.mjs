// Memory of one GPU as a bar: its parts, what the program may keep for itself, and the limit.

import { bytes, range } from "./numbers.mjs";
import { element } from "./elements.mjs";

// The colours of the notebooks' plots (Okabe and Ito): a part has its own wherever it stands, the others in turn.
const COLOURS = {
  weights: "#0072B2",
  parameters: "#0072B2",
  cache: "#009E73",
  gradients: "#D55E00",
  activations: "#E69F00",
};
const OTHERS = ["#56B4E9", "#CC79A7", "#7FCBB5", "#999999"];

export function memoryBar({ parts, reserve, limit }) {
  const [least, most] = reserve;
  const width = 1.06 * Math.max(limit, sum(parts) + most);
  const share = (size) => `${(100 * size) / width}%`;
  const said = [...Object.entries(parts).map(partText), reserveText(reserve), `limit ${bytes(limit)}`];
  return element(
    "div",
    { class: "planner-bar", role: "img", "aria-label": said.join(", ") },
    Object.entries(parts).map(([name, size], i) => element("i", { style: { width: share(size), background: colour(name, i) } })),
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
    Object.entries(parts).map((part, i) => entry(partText(part), "part", { background: colour(part[0], i) })),
    entry(reserveText(reserve), "reserve"),
    entry(`limit ${bytes(limit)}`, "limit"),
  );
}

export function sum(parts) {
  return Object.values(parts).reduce((all, size) => all + size, 0);
}

function partText([name, size]) {
  return `${name} ${bytes(size)}`;
}

function reserveText(reserve) {
  return `reserve ${range(reserve, "", bytes)}`;
}

function colour(name, i) {
  return COLOURS[name] ?? OTHERS[i % OTHERS.length];
}
