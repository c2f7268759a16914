"""Sphinx extension: the state of every notebook, and what changed, as a page of the book."""

from pathlib import Path

from executions import Notebook, notebook

import llmhw_helpers

PAGE = "book/status"
HEAD = "| notebook | minutes | code cells | outputs compared | exercises | executed |\n|---|--:|--:|--:|--:|---|"


def row(each: Notebook) -> str:
    """One line of the table; what nobody knows is a dash."""
    link = f"[{each.title}](../notebooks/{each.name}.ipynb)"
    figures = (each.minutes or "–", each.n_cells, each.n_compared, each.n_exercises, each.executed or "–")
    return f"| {link} | {' | '.join(map(str, figures))} |"


def table(folder: Path) -> str:
    """A row for each notebook in `folder`, and their sum."""
    rows = [notebook(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    sums = (
        f"{sum(getattr(each, name) or 0 for each in rows)}"
        for name in ("minutes", "n_cells", "n_compared", "n_exercises")
    )
    return "\n".join([HEAD, *map(row, rows), f"| **all** | {' | '.join(sums)} | |"])


def fill(app, docname: str, source: list[str]) -> None:
    """Put version, table and changes where the page has its marks."""
    if docname != PAGE:
        return
    changes = (Path(app.srcdir) / "CHANGELOG.md").read_text(encoding="utf-8").split("\n", 1)[1]
    marks = {
        "version": llmhw_helpers.__version__,
        "notebooks": table(Path(app.srcdir) / "notebooks"),
        "changes": changes.replace("\n#", "\n##"),
    }
    for mark, filled in marks.items():
        source[0] = source[0].replace(f"<!-- {mark} -->", filled)


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
