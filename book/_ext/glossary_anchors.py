"""Sphinx extension: a Markdown link to a term of the glossary, as notebooks have them, finds the term.

`[LoRA](../book/glossary.md#term-LoRA)` opens the page in a file browser and in JupyterLab, and the term in the book.
MyST knows only headings as places within a page, and would warn; so each term is put down as one. A term that is not
there still ends the build, as warnings are errors.
"""

from docutils import nodes

PAGE = "book/glossary"


def note_terms(app, doctree: nodes.document) -> None:
    """Add each term's id, such as `term-KV-cache`, to the places that MyST knows on the page."""
    if app.env.docname == PAGE:
        places = app.env.metadata[PAGE].setdefault("myst_slugs", {})
        for term in doctree.findall(nodes.term):
            places |= {name: (None, name, term.astext()) for name in term["ids"]}


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("doctree-read", note_terms)
    return {"parallel_read_safe": True}
