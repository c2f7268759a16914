"""What pages say of themselves: version, day of execution, summary, source; and the page of the course's state."""

import importlib
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from docutils.core import publish_doctree

import llmhw_helpers

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/html"
PAGES = [*sorted(HTML.glob("book/*.html")), *sorted(HTML.glob("notebooks/*.html"))]
built = pytest.mark.skipif(not PAGES, reason="the book is not built: make book")


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    return importlib.import_module


def save(path, words, printed):
    cells = [nbformat.v4.new_markdown_cell(words), nbformat.v4.new_code_cell("print(1)")]
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def commit(folder, day, *options):
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    dates = {"GIT_COMMITTER_DATE": f"{day}T12:00:00Z", "GIT_AUTHOR_DATE": f"{day}T12:00:00Z"}
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", day]):
        subprocess.run(["git", "-C", folder, *arguments], check=True, env=os.environ | who | dates)


def test_a_notebook_was_executed_when_its_outputs_came_and_not_when_its_words_changed(extension, tmp_path):
    module, path = extension("executions"), tmp_path / "00_a.ipynb"
    found = module.executed.__wrapped__
    save(path, "# 00\nan honest count is 7 minutes", "1")
    assert found(path) is None, "no git here"
    commit(tmp_path, "2026-01-01")
    save(path, "# 00\nother words", "1")
    commit(tmp_path, "2026-01-02")
    assert found(path) == "2026-01-01"
    path.write_text("<<<<<<< a conflict that somebody committed")
    commit(tmp_path, "2026-01-03")
    save(path, "# 00\nother words", "2")
    commit(tmp_path, "2026-01-04")
    assert found(path) == "2026-01-04"
    os.utime(path, (0, 0))
    save(path, "# 00\nother words", "3")
    os.utime(path, (86400 * 365, 86400 * 365))
    assert found(path).startswith(("1970-12-31", "1971-01-01")), "executed, not committed: the file's own day"


def test_a_clone_that_holds_one_commit_knows_no_day(extension, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    save(old / "00_a.ipynb", "# 00", "1")
    commit(old, "2026-01-01")
    (old / "more").write_text("a second commit, so that the clone is cut short")
    commit(old, "2026-01-02")
    subprocess.run(["git", "clone", "-q", "--depth", "1", old.as_uri(), new], check=True)
    assert extension("executions").executed.__wrapped__(new / "00_a.ipynb") is None


def test_the_table_of_notebooks_has_a_row_for_each_and_the_sums(extension, monkeypatch, tmp_path):
    monkeypatch.setattr(extension("executions"), "executed", lambda path: None)
    save(tmp_path / "00_a.ipynb", "# 00 · A\nan honest count is 7 minutes: 3 and 4 minutes", "1")
    save(tmp_path / "01_b.ipynb", "# 01 · B\n", "1")
    assert extension("status_page").table(tmp_path).splitlines()[2:] == [
        "| [00 · A](../notebooks/00_a.ipynb) | 7 | 1 | 1 | 0 | – |",
        "| [01 · B](../notebooks/01_b.ipynb) | – | 1 | 1 | 0 | – |",
        "| **all** | 7 | 2 | 2 | 0 | |",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Short. Also short.", "Short. Also short."),
        (f"First one. {'Word ' * 60}end.", "First one."),
        (f"{'Word ' * 60}end. More.", f"{'Word ' * 60}end."),
        ("It is 3.5 GB. i.e. more.", "It is 3.5 GB. i.e. more."),
    ],
)
def test_a_summary_is_the_first_sentence_and_those_that_fit(extension, text, shown):
    source = f"Title\n=====\n\nUnder\n-----\n\n{text}\n\nAnother paragraph.\n"
    page = publish_doctree(source, settings_overrides={"doctitle_xform": False})
    assert extension("summaries").summary(page) == shown


def test_tags_are_escaped_and_name_no_address_that_is_not_known(extension):
    tags = extension("summaries").tags
    assert 'content="&lt;b&gt; &quot;x&quot;"' in tags("t", '<b> "x"', "b", "book/a")
    assert "og:url" not in tags("t", "s", "b", "book/a")
    known = tags("t", "s", "b", "book/a", "https://example.org/course/")
    assert 'property="og:url" content="https://example.org/course/book/a.html"' in known
    (picture,) = re.findall(r'og:image" content="https://example.org/course/(.*?)"', known)
    assert (ROOT / "book" / picture).is_file()


@pytest.mark.parametrize("address", [None, "https://github.com/a/course", "https://gitlab.a.org/group/a/course"])
def test_buttons_to_the_repository_are_there_where_its_address_is_known(extension, monkeypatch, address):
    edition = extension("edition")
    monkeypatch.setattr(edition, "addresses", lambda: {"Repository": address} if address else {})
    config = SimpleNamespace(html_theme_options={})
    edition.settle(None, config)
    assert config.version == llmhw_helpers.__version__
    assert config.html_theme_options.get("repository_url") == address
    assert bool(config.html_theme_options.get("use_edit_page_button")) == bool(address)
    shown = edition.footer("notebooks/00_your_machine", ROOT / "notebooks/00_your_machine.ipynb")
    assert (f"git clone {address}" in shown) == bool(address)
    assert "/lab/tree/notebooks/00_your_machine.ipynb" in shown


def dressed(edition, pagename, buttons):
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda name: ROOT / f"{name}.ipynb"))
    context = {"header_buttons": buttons}
    edition.dress(app, pagename, "page.html", context, doctree=object())
    return context["header_buttons"]


def test_a_host_whose_pages_nobody_knows_gets_one_button_and_the_book_is_built(extension, monkeypatch):
    edition = extension("edition")
    monkeypatch.setattr(edition, "addresses", lambda: {"Repository": "https://code.a.org/a/course"})
    config = SimpleNamespace(html_theme_options={})
    edition.settle(None, config)
    assert config.html_theme_options == {}
    assert [each["url"] for each in dressed(edition, "book/intro", [])] == ["https://code.a.org/a/course"]
    assert [each["type"] for each in dressed(edition, "notebooks/00_your_machine", [])] == ["javascript", "link"]


def test_only_a_page_that_is_in_the_repository_can_be_edited(extension):
    edition = extension("edition")
    labels = ("source-repository-button", "source-edit-button", "source-issues-button")
    group = {"label": "source-buttons", "buttons": [{"label": label} for label in labels]}
    (module,), (page,) = (dressed(edition, name, [group]) for name in ("book/api/costs-flops", "book/intro"))
    assert [each["label"] for each in module["buttons"]] == [labels[0], labels[2]]
    assert page == group


def test_an_address_may_be_written_as_git_writes_it(extension, monkeypatch, tmp_path):
    edition = extension("edition")
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/a/course.git/"\n')
    monkeypatch.setattr(edition, "ROOT", tmp_path)
    assert edition.addresses() == {"Repository": "https://github.com/a/course"}


@pytest.mark.browser
@built
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_page_says_its_version_and_what_it_is_about(path):
    text = path.read_text(encoding="utf-8")
    assert f"Version {llmhw_helpers.__version__}." in text
    (summary,) = re.findall(r'<meta name="description" content="([^"]*)">', text)
    assert 20 <= len(summary) <= 400, summary
    assert summary[-1] in ".?!:", summary
    assert f'<meta property="og:description" content="{summary}">' in text
    assert text.count('<dialog id="open-in-lab"') == (path.parent.name == "notebooks")


@pytest.mark.browser
@built
def test_summaries_tell_pages_apart():
    found = [re.findall(r'name="description" content="([^"]*)"', path.read_text(encoding="utf-8")) for path in PAGES]
    assert len({str(each) for each in found}) == len(PAGES)


@pytest.mark.browser
@built
@pytest.mark.parametrize("path", sorted(HTML.glob("notebooks/*.html")), ids=lambda path: path.stem)
def test_a_notebook_can_be_downloaded_from_the_book_itself(path):
    (link,) = re.findall(r'<a href="([^"]*\.ipynb)"[^>]*\n?\s*class="[^"]*download-source-button', path.read_text())
    assert (path.parent / link).resolve().read_bytes() == (ROOT / f"notebooks/{path.stem}.ipynb").read_bytes()


@pytest.mark.browser
@built
def test_a_link_to_a_term_tells_what_it_means():
    links = [
        link
        for path in sorted(HTML.glob("notebooks/*.html"))
        for link in re.findall(r"<a [^>]*glossary\.html#term-[^>]*>", path.read_text(encoding="utf-8"))
    ]
    assert len(links) >= 100
    told = {match[1] for link in links if (match := re.search(r'title="([^"]{20,})"', link))}
    assert all(re.search(r'title="[^"]{20,}"', link) for link in links)
    assert not [text for text in told if re.search(r"[a-z]{3,}(19|20)\d\d", text)], "a paper's key"
    (lora,) = {text for text in told if text.startswith("Low-rank adaptation")}
    assert lora.endswith("and a product of two thin matrices, added to them, is trained."), "its paper's key is gone"


def test_a_figure_is_counted_in_its_own_notebook_and_other_kinds_are_left(extension):
    numbers = {
        "notebooks/00_your_machine": {"figure": {"a": (1,), "b": (2,)}, "table": {"t": (1,)}},
        "notebooks/14_parallelism": {"figure": {"c": (3,)}},
        "book/intro": {"figure": {"d": (4,)}},
    }
    extension("figure_numbers").count_by_notebook(numbers)
    assert numbers["notebooks/00_your_machine"] == {"figure": {"a": ("00", 1), "b": ("00", 2)}, "table": {"t": (1,)}}
    assert numbers["notebooks/14_parallelism"] == {"figure": {"c": ("14", 1)}}
    assert numbers["book/intro"] == {"figure": {"d": (4,)}}


@pytest.mark.browser
@built
@pytest.mark.parametrize("path", sorted(HTML.glob("notebooks/*.html")), ids=lambda path: path.stem)
def test_the_figures_of_a_notebook_are_counted_from_one(path):
    numbers = re.findall(r'caption-number">Figure (\S+) <', path.read_text(encoding="utf-8"))
    assert numbers == [f"{path.stem[:2]}.{i}" for i in range(1, len(numbers) + 1)] != []
