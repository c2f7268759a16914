// The planner's page: the reader changes the form, Python answers beside the page, the answer is shown.

import { Planner } from "./python.mjs";
import { BadInput, Form } from "./request.mjs";
import { joinSliders } from "./sliders.mjs";
import { detailsOf } from "./view.mjs";

const PAUSE_MS = 150; // a slider on its way asks for nothing

let wanted = false;
let busy = false;
const status = document.getElementById("planner-status");
const results = document.getElementById("planner-results");
export const form = new Form(document.getElementById("planner-form"));
const placeSliders = joinSliders(form.element);
export const planner = new Planner((step) => busy && say(`The planner starts: it ${step} ...`, "busy"));

// The one line that screen readers hear: how the start goes, the answer, or what was wrong.
function say(text, kind) {
  status.textContent = text;
  status.className = kind;
}

// One question at a time; whatever changes meanwhile is asked afterwards, once.
async function update() {
  wanted = true;
  if (busy) return;
  busy = true;
  results.setAttribute("aria-busy", true);
  while (wanted) {
    wanted = false;
    show(await reply());
  }
  results.setAttribute("aria-busy", false);
  busy = false;
}

async function reply() {
  try {
    return await planner.ask(form.request());
  } catch (error) {
    return { ok: false, error: error instanceof BadInput ? error.message : `The planner failed: ${error.message}` };
  }
}

function show(reply) {
  say(reply.ok ? reply.headline : reply.error, reply.ok ? "answer" : "error");
  results.replaceChildren(...detailsOf(reply, reply.ok && form.command()));
}

form.read(location.href);
placeSliders();

let pause;
function changed() {
  form.forget();
  form.fold();
  placeSliders();
  clearTimeout(pause);
  pause = setTimeout(() => {
    history.replaceState(null, "", form.link());
    update();
  }, PAUSE_MS);
}
form.element.addEventListener("input", changed);
form.element.addEventListener("reset", () => setTimeout(changed)); // after the fields have gone back
form.element.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("planner-file").addEventListener("change", async ({ target }) => {
  if (!target.files.length) return;
  form.element.elements.config.value = await target.files[0].text();
  changed();
});
document.getElementById("planner-copy").addEventListener("click", async ({ target }) => {
  await navigator.clipboard.writeText(form.link());
  target.textContent = "Copied";
  setTimeout(() => (target.textContent = "Copy the link to this"), 2000);
});
// What the untouched form asks was answered when the book was made; Python is needed for all else.
if (form.untouched) show(JSON.parse(document.getElementById("planner-first").textContent));
else update();
