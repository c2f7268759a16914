"""Sphinx extension: pages ask for less: what the theme loads everywhere and a page has no use for is left out.

Without it every page brings two megabytes that do nothing: all icons of Font Awesome as a script (those that are shown
come from its font), and the index of the search (asked on the search's own page only). The first page, which has no
formula, brings MathJax besides, since pages below it have some.
"""

import re
from pathlib import Path

SEARCH = ("searchtools.js", "language_data.js", "searchindex.js")
SCRIPT = r"[ \t]*<script\b[^>]*\bsrc=\"[^\"]*\b(?:%s)(?:\?[^\"]*)?\"[^>]*></script>\n?"


def lean(page: str, text: str) -> str:
    """The HTML of a page, such as `book/intro`, without the scripts that it has no use for."""
    unused = ["fontawesome.js"]
    if page != "search":
        unused += SEARCH
    if 'class="math' not in text:
        unused.append("tex-chtml.js")
    return re.sub(SCRIPT % "|".join(map(re.escape, unused)), "", text)


def rewrite(app, error) -> None:
    """Make every page that was built lean."""
    if error is None:
        for path in Path(app.outdir).rglob("*.html"):
            page = path.relative_to(app.outdir).with_suffix("").as_posix()
            if not page.startswith("_static/"):
                path.write_text(lean(page, path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("build-finished", rewrite)
    return {"parallel_read_safe": True}
