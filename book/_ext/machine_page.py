"""Sphinx extension: the report of the machine that made the notebooks' stored outputs, as a page of the book."""

from pathlib import Path

from llmhw_helpers.course.report_page import section
from llmhw_helpers.course.stored_ledgers import stored_report

PAGE = "book/machine"


def fill(app, docname: str, source: list[str]) -> None:
    """Put the report where the page has the mark."""
    if docname == PAGE:
        shown = section(stored_report(Path(app.srcdir) / "notebooks"))
        source[0] = source[0].replace("<!-- report -->", f"```{{raw}} html\n{shown}\n```")


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
