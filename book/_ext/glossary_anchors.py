"""Sphinx extension: a Markdown link to a term of the glossary, as notebooks have them, finds the term and tells it.

`[LoRA](../book/glossary.md#term-LoRA)` opens the page in a file browser and in JupyterLab, and the term in the book.
MyST knows only headings as places within a page, and would warn; so each term is put down as one. A term that is not
there still ends the build, as warnings are errors. In the book, a pointer that rests on the link shows what the term
means.
"""

from docutils import nodes
from sphinx.addnodes import pending_xref

PAGE = "book/glossary"


def note_terms(app, doctree: nodes.document) -> None:
    """Add each term's id, such as `term-KV-cache`, to the places that MyST knows on the page, and keep its meaning."""
    if app.env.docname == PAGE:
        places = app.env.metadata[PAGE].setdefault("myst_slugs", {})
        meanings = app.env.metadata[PAGE].setdefault("meanings", {})
        for item in doctree.findall(nodes.definition_list_item):
            (meaning,) = item.findall(nodes.definition)
            for term in item.findall(nodes.term):
                places |= {name: (None, name, term.astext()) for name in term["ids"]}
                meanings |= dict.fromkeys(term["ids"], plain(meaning))


def plain(meaning: nodes.definition) -> str:
    """Its words, without the papers that it cites."""
    words = meaning.deepcopy()
    for cited in list(words.findall(lambda node: isinstance(node, pending_xref) and node["refdomain"] == "cite")):
        cited.parent.remove(cited)
    return " ".join(words.astext().split()).replace(" .", ".").replace(" ,", ",")


def show_meanings(app, doctree: nodes.document, docname: str) -> None:
    """Give every link to a term its meaning as a title, which browsers show beside the pointer."""
    meanings = app.env.metadata[PAGE].get("meanings", {})
    for link in doctree.findall(nodes.reference):
        page, _, name = link.get("refuri", "").partition("#")
        if page.endswith("glossary.html") and name in meanings:
            link["reftitle"] = meanings[name]


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("doctree-read", note_terms)
    app.connect("doctree-resolved", show_meanings)
    return {"parallel_read_safe": True}
