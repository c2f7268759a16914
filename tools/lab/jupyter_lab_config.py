"""How `make lab` opens JupyterLab: on the whole course, so that links from notebooks to the book's pages work.

JupyterLab finds this file, and the settings beside it (no question about news, pages of the book as text to read), by
JUPYTER_CONFIG_PATH. Its first layout has the first notebook and the table of contents open; from then on it is the
reader's own, kept in `.lab` in the folder of the course.
"""

import json
import os
from pathlib import Path

from jupyterlab_server.workspaces_handler import WorkspacesManager

ROOT = Path(__file__).resolve().parents[2]
FIRST = "notebooks/00_your_machine.ipynb"
LAYOUT = {
    f"notebook:{FIRST}": {"data": {"path": FIRST, "factory": "Notebook"}},
    "file-browser-filebrowser:cwd": {"path": "notebooks"},
    "layout-restorer:data": {
        "main": {
            "dock": {"type": "tab-area", "currentIndex": 0, "widgets": [f"notebook:{FIRST}"]},
            "current": f"notebook:{FIRST}",
        },
        "left": {
            "collapsed": False,
            "visible": True,
            "current": "@jupyterlab/toc:plugin",
            "widgets": ["filebrowser", "running-sessions", "@jupyterlab/toc:plugin", "extensionmanager.main-view"],
        },
        "right": {"collapsed": True, "visible": True, "widgets": []},
        "relativeSizes": [0.24, 0.76, 0],
    },
}

c = get_config()  # noqa: F821  (JupyterLab's own, in a file of this name)
c.ServerApp.root_dir = str(ROOT)
folder = Path(os.environ.get("JUPYTERLAB_WORKSPACES_DIR") or ROOT / ".lab")
if os.access(folder if folder.exists() else folder.parent, os.W_OK):  # else JupyterLab keeps them where it always does
    c.LabApp.workspaces_dir = str(folder)
    workspaces = WorkspacesManager(str(folder))
    if not any(folder.glob("*.jupyterlab-workspace")):
        workspaces.save("default", f'{{"data": {json.dumps(LAYOUT)}, "metadata": {{"id": "default"}}}}')
