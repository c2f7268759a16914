"""What a user starts: JupyterLab by `make lab`, kernels that never reach for the network, workflows that call make."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url: str, server: subprocess.Popen, seconds: float = 60):
    """The JSON at `url`, as soon as the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            return json.load(urllib.request.urlopen(url, timeout=5))
        except OSError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < end, "no answer"
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(not (Path(sys.prefix) / ".ready").exists(), reason="this environment was not made by make setup")
def test_make_lab_opens_jupyterlab_on_the_first_notebook_where_links_lead_to_the_books_pages(tmp_path):
    port = free_port()
    options = f"--allow-root --no-browser --ServerApp.port={port} --ServerApp.port_retries=0 --IdentityProvider.token=t"
    command = ["make", "lab", f"VENV={sys.prefix}", f"LAB={options}"]
    env = os.environ | {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path)}
    server = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        content = get(f"http://127.0.0.1:{port}/api/contents?token=t", server)
        assert {"notebooks", "book"} <= {entry["name"] for entry in content["content"]}
        assert_first_minute(f"http://127.0.0.1:{port}", server)
        kernels = get(f"http://127.0.0.1:{port}/api/kernelspecs?token=t", server)
        assert "python3" in kernels["kernelspecs"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def assert_first_minute(address: str, server: subprocess.Popen) -> None:
    """What a reader meets: no question about news, pages of the book as text to read, 00 and its contents open."""
    plugins = f"{address}/lab/api/settings/@jupyterlab"
    news = get(f"{plugins}/apputils-extension:notification?token=t", server)["schema"]["properties"]
    assert news["fetchNews"]["default"] == "false"
    assert news["checkForUpdates"]["default"] is False
    viewers = get(f"{plugins}/docmanager-extension:plugin?token=t", server)["schema"]["properties"]["defaultViewers"]
    assert viewers["default"] == {"markdown": "Markdown Preview"}
    layout = get(f"{address}/lab/api/workspaces/default?token=t", server)["data"]["layout-restorer:data"]
    assert layout["left"]["current"] == "@jupyterlab/toc:plugin"
    assert not layout["left"]["collapsed"]
    kind, path = layout["main"]["current"].split(":")
    assert kind == "notebook"
    assert get(f"{address}/api/contents/{path}?content=0&token=t", server)["type"] == "notebook"


def run_cell(source: str) -> str:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return "".join(output.get("text", "") for output in notebook.cells[0].outputs)


def test_a_cell_that_reaches_for_the_network_fails_in_the_tests_on_every_machine():
    with pytest.raises(CellExecutionError, match="the course works offline, and this cell asked for example.org"):
        run_cell("import sys; sys.audit('socket.getaddrinfo', 'example.org', 443, 0, 0, 0)")
    with pytest.raises(CellExecutionError, match="asked for 192.0.2.1"):
        run_cell("import sys; sys.audit('socket.connect', None, ('192.0.2.1', 443))")


def test_a_kernel_keeps_its_results_where_the_tests_say_and_never_where_the_user_does():
    assert os.environ["LLMHW_HOME"] == os.environ["LLMHW_TEST_HOME"]
    assert os.environ["LLMHW_TEST_HOME"] in run_cell("from llmhw_helpers.measure.machine import home; print(home())")


def test_the_workflows_call_targets_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert all(command.startswith("make ") for command in commands), path.name
            called |= {command.removeprefix("make ") for command in commands}
    assert called == {"test", "book"}
    assert called <= targets


def test_ci_runs_what_make_test_runs():
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
