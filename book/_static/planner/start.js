// The page's first script: a page that was opened as a file may start no Python, and says so instead of failing.
(() => {
  const say = (text) => {
    document.getElementById("planner-status").textContent = text;
  };
  if (location.protocol === "file:") {
    say("This page was opened as a file, where a browser runs no Python. Start `make serve` and open it at http://localhost:8000/book/planner.html.");
    document.getElementById("planner-form").inert = true;
    return;
  }
  import(new URL("page.mjs", document.currentScript.src)).catch((error) => say(`The planner could not start: ${error.message}`));
})();
