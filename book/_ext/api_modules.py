"""A page for each module of the package, and the list of them, so that a new one cannot be forgotten.

`tools/build_book.py` writes the pages before Sphinx begins; as an extension of Sphinx this fills the list. The
pages are in no table of contents, because three hundred entries would slow down every page of the book.
"""

import importlib
import pkgutil
from collections import defaultdict
from pathlib import Path

import llmhw_helpers

MARK = "<!-- every module -->"
PAGE = "book/api"
LEFT_OUT = "llmhw_helpers.course.exercises"  # cases and answers of the exercises: nothing that a reader would call


def modules() -> list[str]:
    """Dotted names of all modules and rooms under `llmhw_helpers` that have a page, sorted."""
    found = sorted(info.name for info in pkgutil.walk_packages(llmhw_helpers.__path__, "llmhw_helpers."))
    return [name for name in found if not name.startswith(LEFT_OUT)]


def page(name: str) -> str:
    """File name, without its ending, of a module's page: `costs-flops` for `llmhw_helpers.costs.flops`."""
    return name.split(".", 1)[1].replace(".", "-")


def as_page(name: str) -> str:
    """The page of one module: its contents by autodoc."""
    head = f"---\norphan: true\n---\n\n# {name.split('.', 1)[1]}\n\n[All modules](../api.md)\n\n"
    return f"{head}```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"


def as_list(names: list[str]) -> str:
    """A section for each room, in it a link to each module and the first line of what the module says of itself."""
    rooms = defaultdict(list)
    for name in names:
        first = importlib.import_module(name).__doc__.strip().splitlines()[0]
        rooms[name.split(".")[1]].append(f"- [`{name.split('.', 1)[1]}`](api/{page(name)}.md): {first}")
    return "\n\n".join(f"## {room}\n\n" + "\n".join(links) for room, links in rooms.items())


def write_pages(folder: Path) -> None:
    """A page for each module into `folder`; those that are right are left as they are, so that Sphinx is quick."""
    folder.mkdir(exist_ok=True)
    wanted = {f"{page(name)}.md": as_page(name) for name in modules()}
    for old in folder.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def fill(app, docname: str, source: list[str]) -> None:
    """Put the list where the page has the mark."""
    if docname == PAGE:
        source[0] = source[0].replace(MARK, as_list(modules()))


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
