"""Sphinx extension: puts the planner into the book, so that a browser runs it, with its choices and first answer."""

import html
import io
import json
import zipfile
from pathlib import Path

import llmhw_helpers
from llmhw_helpers.costs.planner import answer
from llmhw_helpers.costs.requests import USUAL
from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.clusters import CLUSTERS
from llmhw_helpers.specs.models import MODELS

PAGE = "book/planner"
PACKAGE = Path(llmhw_helpers.__file__).parent
ROOMS = ("specs", "costs")
FIRST = {"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis"}  # what the form asks before anybody chose


def planner_files() -> list[Path]:
    """The package's own files that the planner runs on: both rooms that need the standard library alone, with data."""
    inside = (path for room in ROOMS for path in (PACKAGE / room).rglob("*") if path.suffix in (".py", ".csv"))
    return [PACKAGE / "__init__.py", *sorted(inside)]


def planner_zip() -> bytes:
    """All of `planner_files`; the same files give the same bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in planner_files():
            name = path.relative_to(PACKAGE.parent).as_posix()
            file.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def options(names, chosen: str = "") -> str:
    """HTML's list of choices; a name, or a value and what to show for it."""
    pairs = [name if isinstance(name, tuple) else (name, name) for name in names]
    mark = {chosen: " selected"}
    return "".join(
        f'<option value="{html.escape(value)}"{mark.get(value, "")}>{html.escape(shown)}</option>'
        for value, shown in pairs
    )


def places() -> str:
    """Every cluster, whole or one kind of its cards, and cards of one's own."""
    groups = []
    for name, cluster in CLUSTERS.items():
        inside = [(name, f"{name}, every card" if len(cluster.nodes) > 1 else name)]
        inside += [(f"{name} {card}", f"{name}, {card}") for card in cluster.nodes if len(cluster.nodes) > 1]
        groups.append(f'<optgroup label="{html.escape(name)}">{options(inside, FIRST["where"])}</optgroup>')
    return "".join(groups) + f'<optgroup label="Cards of your own" data-own>{options(ACCELERATORS)}</optgroup>'


def form(template: str) -> str:
    """The page's HTML: the template with all choices that the package knows, and the first answer."""
    marks = {
        "models": options(MODELS, FIRST["model"]),
        "places": places(),
        "formats": "".join(
            f'<label><input type="checkbox" name="formats" value="{name}"> {name}</label>' for name in USUAL
        ),
        "first": json.dumps(answer(FIRST), allow_nan=False).replace("<", "\\u003c"),
    }
    for mark, filled in marks.items():
        template = template.replace(f"<!-- {mark} -->", filled)
    return template


def fill(app, docname: str, source: list[str]) -> None:
    """Put the form where the page has the mark."""
    if docname == PAGE:
        template = (Path(app.srcdir) / "book/_static/planner/form.html").read_text(encoding="utf-8")
        source[0] = source[0].replace("<!-- planner -->", f"```{{raw}} html\n{form(template)}\n```")


def dress(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The planner's style and script, on its page alone."""
    if pagename == PAGE:
        app.add_css_file("planner/planner.css")
        app.add_js_file("planner/start.js", loading_method="defer")


def pack(app, error) -> None:
    """Write the package beside the page."""
    if error is None:
        (Path(app.outdir) / "_static/llmhw_planner.zip").write_bytes(planner_zip())


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    app.connect("html-page-context", dress)
    app.connect("build-finished", pack)
    return {"parallel_read_safe": True}
