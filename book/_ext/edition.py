"""Sphinx extension: which edition of the course a page shows, where its source is, and how to open it in JupyterLab.

The version is the package's, the addresses are those of pyproject.toml's `project.urls`. Where an address is not known,
what would need it is left out: the buttons to the repository, and the tags of a preview that have to be absolute.
"""

import html
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from executions import executed

import llmhw_helpers

ROOT = Path(llmhw_helpers.__file__).parents[1]
FORGES = ("github", "gitlab")  # hosts whose pages for an edit and an issue the theme knows, by a part of their name
MODULES = "book/api/"  # pages that are written when the book is built: nobody can edit them
LAB = "http://localhost:8888/lab/tree"  # where JupyterLab answers unless another one is there already
HOW_TO_OPEN = """<dialog id="open-in-lab" aria-labelledby="open-in-lab-title">
<h2 id="open-in-lab-title">This notebook in JupyterLab</h2>
<p>It needs the folder of the course on your computer{source}. In a terminal, in that folder:</p>
<pre>make lab</pre>
<p>Then open <code>{file}</code> in the list of files. While JupyterLab runs at its usual address, this link does it:
<a href="{lab}/{file}">{lab}/{file}</a></p>
<form method="dialog"><button>Close</button></form>
</dialog>"""


def addresses() -> dict[str, str]:
    """The course's addresses, by what they are of: `Repository` and `Documentation`, each if it is known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: url.rstrip("/").removesuffix(".git") for name, url in project.get("urls", {}).items()}


def on_a_forge(repository: str) -> bool:
    """Whether the theme knows how the repository's host names its pages: github.com, a GitLab of one's own."""
    return any(forge in urlsplit(repository).netloc for forge in FORGES)


def settle(app, config) -> None:
    """The version, and the theme's buttons to the repository where there is one."""
    config.version = config.release = llmhw_helpers.__version__
    config.html_baseurl = addresses().get("Documentation", "")
    if on_a_forge(repository := addresses().get("Repository", "")):
        config.html_theme_options |= {
            "repository_url": repository,
            "repository_branch": "main",
            "use_repository_button": True,
            "use_edit_page_button": True,
            "use_issues_button": True,
        }


def footer(pagename: str, source: Path) -> str:
    """What stands below a page: the version, of a notebook also the day of its outputs and how to open it."""
    shown = f"<p>Version {llmhw_helpers.__version__}."
    if not pagename.startswith("notebooks/"):
        return f"{shown}</p>"
    if day := executed(source):
        shown += f' The outputs of this page are of <time datetime="{day}">{day}</time>.'
    repository = html.escape(addresses().get("Repository", ""))
    cloned = f" (<code>git clone {repository}</code> brings it)" if repository else ""
    return f"{shown}</p>\n" + HOW_TO_OPEN.format(source=cloned, file=f"{pagename}.ipynb", lab=LAB)


def settled(button: dict, pagename: str) -> dict:
    """A button of the theme, or a group of them without the one that would edit a page that is in no repository."""
    if not pagename.startswith(MODULES) or "buttons" not in button:
        return button
    return button | {"buttons": [each for each in button["buttons"] if each["label"] != "source-edit-button"]}


def dress(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Put the footer and, on a notebook, the button that opens the instructions."""
    if doctree is None:
        context["theme_extra_footer"] = footer("", ROOT)
        return
    context["theme_extra_footer"] = footer(pagename, Path(app.env.doc2path(pagename)))
    context["header_buttons"] = [settled(each, pagename) for each in context["header_buttons"]]
    repository = addresses().get("Repository", "")
    if repository and not on_a_forge(repository):
        context["header_buttons"].append(
            {
                "type": "link",
                "url": repository,
                "tooltip": "Source repository",
                "icon": "fas fa-code-branch",
                "label": "source-repository-button",
            }
        )
    if pagename.startswith("notebooks/"):
        context["header_buttons"].insert(
            0,
            {
                "type": "javascript",
                "javascript": "document.getElementById('open-in-lab').showModal()",
                "tooltip": "Open in JupyterLab: what it needs",
                "icon": "fas fa-rocket",
                "label": "open-in-lab",
                "classes": "pst-navbar-icon",
            },
        )


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("config-inited", settle)
    app.connect("html-page-context", dress, priority=600)  # after the theme has made its own buttons
    return {"parallel_read_safe": True}
