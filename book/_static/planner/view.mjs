// The planner's reply on the page: the reasons, one plan in full, all plans, and why others fail.

import { bytes, count, digits, energy, range, seconds } from "./numbers.mjs";
import { element, fold, list } from "./elements.mjs";
import { legend, memoryBar, sum } from "./bars.mjs";

const AT_FIRST = 8; // rows of plans
const BEST = "no other plan is at least as good in everything and better in something";

// command: what gives the same reply on the command line.
export function detailsOf(reply, command) {
  return (reply.ok ? answer(reply, command) : [nearest(reply)]).filter((each) => each !== null);
}

function nearest(reply) {
  return reply.nearest ? element("p", {}, "Nearest: ", reply.nearest) : null;
}

function answer(reply, command) {
  const one = element("section", { class: "planner-one", "aria-label": "The plan" });
  const failed = reply.refused.map(({ what, why, source }) => `${what}: ${why}${source ? ` (${source})` : ""}`);
  const show = (plan, i) => one.replaceChildren(...inFull(plan, reply.reasons, `${command}${i ? ` --plan ${i + 1}` : ""} --script`));
  show(reply.plans[0], 0);
  const choose = (plan, i) => {
    show(plan, i);
    one.scrollIntoView({ block: "nearest" });
  };
  return [
    reply.reasons.length ? list(reply.reasons) : null,
    one,
    table(reply.plans, choose),
    fold(`Why others fail (${failed.length})`, failed),
    fold("Notes", reply.notes),
  ];
}

function inFull({ name, memory, speed, why, sources }, said, script) {
  const most = `Speed: ${speed.basis}; the hardware allows ${digits(speed.floor)} ${speed.unit} at most.`;
  return [
    element("h2", {}, name),
    element("p", { class: "planner-caption" }, `Memory of its fullest GPU${memory.at ? ` (${memory.at})` : ""}`),
    memoryBar(memory),
    legend(memory),
    why && !said.includes(why) ? element("p", {}, why) : null,
    element("p", {}, "Its job script: ", element("code", {}, script)),
    fold("Where its figures come from", [most, ...sources]),
  ].filter((each) => each !== null);
}

// Heading and text of each column; those that no plan can fill are left out.
function columns(plans) {
  const amount = `of ${count(plans[0].n_tokens)} tokens`;
  const [speed, price] = [unitOf(plans, "speed"), unitOf(plans, "price")];
  return [
    [`Speed${speed.shared}`, (plan) => speed.text(plan)],
    ["First token", (plan) => plan.first_token && seconds(plan.first_token)],
    [plans[0].first_token ? "Whole answer" : "Time", (plan) => seconds(plan.seconds)],
    [`Price ${amount}${price.shared}`, (plan) => price.text(plan)],
    [`Energy ${amount}`, (plan) => plan.joules && energy(plan.joules)],
    ["Quality lost", ({ first_token, loss }) => first_token && (loss === 0 ? "nothing" : loss && `${digits(100 * loss)} %`)],
  ].filter(([, text]) => plans.some(text));
}

// A unit that all plans share stands in the heading, else beside each number.
function unitOf(plans, name) {
  const units = new Set(plans.map((plan) => plan[name]?.unit).filter(Boolean));
  const shared = units.size === 1 ? `, ${[...units][0]}` : "";
  return { shared, text: (plan) => plan[name] && range([plan[name].low, plan[name].high], shared ? "" : plan[name].unit) };
}

function table(plans, choose) {
  const shown = columns(plans);
  const rows = plans.map((plan, i) => row(plan, shown, () => pick(i)));
  const buttons = rows.map((each) => each.querySelector("button"));
  const press = (chosen) => buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
  const pick = (i) => {
    press(i);
    choose(plans[i], i);
  };
  press(0);
  const head = ["Plan", "Memory of a GPU", ...shown.map(([heading]) => heading)];
  return element(
    "div",
    { class: "planner-plans" },
    element(
      "table",
      { role: "table", "aria-label": "Plans" },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, head.map((text) => element("th", { role: "columnheader", scope: "col" }, text)))),
      element("tbody", { role: "rowgroup" }, rows),
    ),
    element("p", { class: "planner-caption" }, `★ ${BEST}.`),
    rows.length > AT_FIRST ? more(rows, buttons) : null,
  );
}

// The first rows, and a button for the others.
function more(rows, buttons) {
  const hidden = rows.slice(AT_FIRST);
  for (const each of hidden) each.hidden = true;
  const show = () => {
    for (const each of hidden) each.hidden = false;
    buttons[AT_FIRST].focus();
    button.remove();
  };
  const button = element("button", { type: "button", onclick: show }, `Show all ${rows.length} plans`);
  return button;
}

// Roles are named again: on a phone the rows are shown as cards, and browsers then forget that they are a table's.
function row(plan, shown, pick) {
  const cell = (heading, ...children) => element("td", { role: "cell", "data-label": heading }, ...children);
  const { parts, reserve, limit, fits } = plan.memory;
  return element(
    "tr",
    { role: "row" },
    element(
      "th",
      { role: "rowheader", scope: "row" },
      plan.pareto ? element("abbr", { title: BEST }, "★") : null,
      element("button", { type: "button", onclick: pick }, plan.name),
      element("small", {}, remarks(plan)),
    ),
    cell("Memory of a GPU", memoryBar(plan.memory), element("small", {}, `${bytes(sum(parts) + reserve[1])} of ${bytes(limit)}${fits === "perhaps" ? ": perhaps" : ""}`)),
    shown.map(([heading, text]) => cell(heading, text(plan) || "unknown")),
  );
}

function remarks({ n_nodes, sure }) {
  return [n_nodes > 1 ? `${n_nodes} nodes` : "", sure === "perhaps" ? "perhaps: at the good end of a range" : ""].filter(Boolean).join("; ");
}
