"""Sphinx extension: fills the API page with every module of the package, so that a new one cannot be forgotten."""

import pkgutil
from collections import defaultdict

import llmhw_helpers

MARK = "<!-- every module -->"


def modules() -> list[str]:
    """Dotted names of all modules and rooms under `llmhw_helpers`, sorted."""
    return sorted(info.name for info in pkgutil.walk_packages(llmhw_helpers.__path__, "llmhw_helpers."))


def as_markdown(names: list[str]) -> str:
    """A section for each room, a subsection for each module in it, its contents by autodoc."""
    rooms = defaultdict(list)
    for name in names:
        rooms[name.split(".")[1]].append(name)
    blocks = []
    for room, members in rooms.items():
        blocks.append(f"## {room}")
        for name in members:
            if name.count(".") > 1:
                blocks.append(f"### {name.split('.', 1)[1]}")
            blocks.append(f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```")
    return "\n\n".join(blocks)


def fill(app, docname: str, source: list[str]) -> None:
    """Put the modules where the page has the mark."""
    if docname == "book/api":
        source[0] = source[0].replace(MARK, as_markdown(modules()))


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
