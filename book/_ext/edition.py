"""Sphinx extension: which edition of the course a page shows, where its source is, and how to open it in JupyterLab.

The version is the package's, the addresses are those of pyproject.toml's `project.urls`. Where an address is not known,
what would need it is left out: the buttons to the repository, and the tags of a preview that have to be absolute.
"""

import html
import tomllib
from pathlib import Path

from executions import executed

import llmhw_helpers

ROOT = Path(llmhw_helpers.__file__).parents[1]
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
    return project.get("urls", {})


def settle(app, config) -> None:
    """The version, and the theme's buttons to the repository where there is one."""
    config.version = config.release = llmhw_helpers.__version__
    config.html_baseurl = addresses().get("Documentation", "")
    if repository := addresses().get("Repository"):
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


def dress(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Put the footer and, on a notebook, the button that opens the instructions."""
    if doctree is None:
        context["theme_extra_footer"] = footer("", ROOT)
        return
    context["theme_extra_footer"] = footer(pagename, Path(app.env.doc2path(pagename)))
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
