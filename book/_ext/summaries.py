"""Sphinx extension: what a search engine and a chat show of a page: its title and its first sentences, as tags."""

import html
import re

from docutils import nodes
from edition import addresses

LONGEST = 200  # letters that are shown of a summary


def summary(doctree: nodes.document) -> str:
    """The first sentence of the page's first paragraph, and those after it that fit."""
    first = next((each for each in doctree.findall(nodes.paragraph) if each.parent.tagname == "section"), None)
    text = " ".join(first.astext().split()) if first else ""
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z])", text)
    shown = sentences[0]
    for sentence in sentences[1:]:
        if len(shown) + len(sentence) >= LONGEST:
            break
        shown += f" {sentence}"
    return shown


def tags(title: str, shown: str, book: str, page: str = "", address: str = "") -> str:
    """The tags, in HTML; a preview's address and picture are left out where the book's `address` is not known."""
    found = [("name", "description", shown), ("property", "og:description", shown)]
    found += [("property", "og:title", title), ("property", "og:site_name", book), ("property", "og:type", "article")]
    if address:
        found.append(("property", "og:url", f"{address.rstrip('/')}/{page}.html"))
        found.append(("property", "og:image", f"{address.rstrip('/')}/_static/course_in_use.png"))
    return "\n".join(f'<meta {kind}="{name}" content="{html.escape(value)}">' for kind, name, value in found if value)


def dress(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Put the tags into the page's head."""
    title = html.unescape(re.sub(r"<[^>]*>", "", context.get("title", "")))
    shown = summary(doctree) if doctree else ""
    address = addresses().get("Documentation", "")
    context["metatags"] = context.get("metatags", "") + tags(title, shown, app.config.html_title, pagename, address)


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("html-page-context", dress)
    return {"parallel_read_safe": True}
