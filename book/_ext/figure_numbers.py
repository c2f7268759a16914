"""Sphinx extension: figure 14.3 is the third of notebook 14, so that a notebook can name it in JupyterLab too.

Sphinx counts figures through the whole book: one more in notebook 00 would rename all that come after it.
"""

import re


def count_by_notebook(numbers: dict[str, dict]) -> None:
    """Rename, in place, the figures of every notebook; `numbers` is Sphinx's: page, kind, id, the parts of a number."""
    for page, kinds in numbers.items():
        notebook = re.match(r"notebooks/(\d\d)_", page)
        if notebook and "figure" in kinds:
            kinds["figure"] = {name: (notebook[1], i) for i, name in enumerate(kinds["figure"], start=1)}


def setup(app) -> dict:
    """Called by Sphinx; the numbers are there when it checks that all pages fit together."""
    app.connect("env-check-consistency", lambda app, env: count_by_notebook(env.toc_fignumbers))
    return {"parallel_read_safe": True}
