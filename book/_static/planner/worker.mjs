// Runs the course's own Python beside the page, so that the page stays responsive.
// In: {id, request}, a JSON text. Out: {step} while it starts; for each request {id, reply}, JSON too, or {id, failed}.
import { loadPyodide } from "../pyodide/pyodide.mjs";

const REPLY = `
import json
from llmhw_helpers.costs.planner import answer

def reply(text):
    return json.dumps(answer(json.loads(text)), allow_nan=False)

reply
`;

async function start() {
  const archive = fetch(new URL("../llmhw_planner.zip", import.meta.url), { cache: "no-cache" });
  postMessage({ step: "fetches Python" });
  const python = await loadPyodide();
  postMessage({ step: "unpacks the course's package" });
  const answered = await archive;
  if (!answered.ok) throw new Error(`the course's package is not there (${answered.status})`);
  python.unpackArchive(await answered.arrayBuffer(), "zip", { extractDir: "/course" });
  python.runPython('import sys; sys.path.insert(0, "/course")');
  postMessage({ step: "reads the facts" });
  return python.runPython(REPLY);
}

// A module that waits here would lose the messages of the meantime: they wait for this promise instead.
const started = start();
started.catch(() => {}); // whoever asks is told

addEventListener("message", async ({ data: { id, request } }) => {
  try {
    const reply = await started;
    postMessage({ id, reply: reply(request) });
  } catch (error) {
    postMessage({ id, failed: lastLine(error) });
  }
});

// Of Python's traceback, what went wrong.
function lastLine(error) {
  return error.message.trim().split("\n").at(-1);
}
