"""Sphinx extension: the bibliography is read aloud as it is.

docutils calls it a list whose entries are no list items, which screen readers are told to take for an empty list.
"""

WRONG, RIGHT = '<div role="list" class="citation-list">', '<div class="citation-list">'


def mend(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Leave the list's role out."""
    if "body" in context:
        context["body"] = context["body"].replace(WRONG, RIGHT)


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True}
