"""Sphinx extension: a notebook's figures are numbered as its equations are, 02.1, 02.2 and so on.

Sphinx would count through the whole book, and a notebook's prose could not name a number that another notebook changes.
JupyterLab shows no captions, so the prose above a figure names its number.
"""

NOTEBOOKS = "notebooks/"


def number(app, env) -> None:
    """Give the figures of each notebook its own two digits and a count from 1."""
    for page, kinds in env.toc_fignumbers.items():
        if page.startswith(NOTEBOOKS):
            digits = page.removeprefix(NOTEBOOKS)[:2]
            figures = kinds.get("figure", {})
            kinds["figure"] = {name: (digits, k) for k, name in enumerate(figures, 1)}


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("env-check-consistency", number)  # the last event before pages are written
    return {"parallel_read_safe": True}
