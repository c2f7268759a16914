"""Scripts that a page has no use for are left out, and no others."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = {
    name: f'    <script defer="defer" src="../{name}?v=1"></script>\n'
    for name in ("_static/scripts/fontawesome.js", "searchindex.js", "_static/mathjax/tex-chtml.js", "_static/print.js")
}
INLINE = "<script>let fontawesome = 1;</script>"


@pytest.fixture
def lean(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "book/_ext")
    return importlib.import_module("lean_pages").lean


@pytest.mark.parametrize(
    ("page", "body", "kept"),
    [
        ("book/intro", "<p>words</p>", {"_static/print.js"}),
        ("book/notation", '<span class="math notranslate">', {"_static/print.js", "_static/mathjax/tex-chtml.js"}),
        ("search", "<form>", {"_static/print.js", "searchindex.js"}),
    ],
)
def test_a_page_keeps_the_scripts_that_it_uses(lean, page, body, kept):
    found = lean(page, "".join(SCRIPTS.values()) + INLINE + body)
    assert {name for name, script in SCRIPTS.items() if script in found} == kept
    assert found.endswith(INLINE + body)
    assert found.count("<script") == len(kept) + 1
