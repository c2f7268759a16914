"""The portal's runtime script: it starts a real JupyterLab, sets the environment, and says what is missing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

TOKEN = "a-token-of-the-portal"
SOURCED = 'ml() { printf "%s\\x1f" "$@" >> "$CALLS/ml"; echo >> "$CALLS/ml"; }; source "$0"'


@pytest.fixture(params=["container", "modules"])
def variant(request, cluster):
    """The two ways to install; a portal may run the script or source it, with ml as executable or function."""
    if request.param == "container":
        result = cluster.install("--project", cluster.project, "--image", cluster.image)
        start = ["bash", cluster.installed]
    else:
        result = cluster.install("--project", cluster.project, "--modules", "Python/3.12.3 CUDA")
        start = ["bash", "-c", SOURCED, cluster.installed]
    assert result.returncode == 0, result.stderr
    return request.param, [str(word) for word in start]


@pytest.fixture
def portal_config(cluster):
    """What the portal writes for a session: address, port, token, folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = cluster.home / "config.py"
    config.write_text(
        f"c.ServerApp.ip = '127.0.0.1'\nc.ServerApp.port = {port}\nc.ServerApp.port_retries = 0\n"
        f"c.IdentityProvider.token = '{TOKEN}'\nc.ServerApp.open_browser = False\nc.ServerApp.allow_root = True\n"
        f"c.ServerApp.root_dir = {str(cluster.home)!r}\n"
    )
    return config, f"http://127.0.0.1:{port}"


def ask(url, token=TOKEN, method="GET"):
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


def wait_for(url, process, log, seconds=25):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return json.loads(ask(url))
        time.sleep(0.1)
    pytest.fail(f"no answer from {url}:\n{log.read_text()}")


def test_jupyterlab_starts_and_stops(variant, cluster, portal_config, tmp_path):
    name, start = variant
    config, url = portal_config
    log = tmp_path / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            start,
            env=cluster.env | {"CONFIG_FILE": str(config)},
            cwd=cluster.home,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert "started" in wait_for(f"{url}/api/status", process, log)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(f"{url}/api/status", token="wrong")
        assert b"jupyterlab" in ask(f"{url}/lab").lower()
        ask(f"{url}/api/shutdown", method="POST")
        assert process.wait(timeout=15) == 0, log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if name == "container":
        assert cluster.called("ml") == [["purge"]]
        folders = ["--bind", str(cluster.project), "--bind", str(cluster.course)]
        lab = ["jupyter", "lab", f"--config={config}"]
        assert cluster.called("apptainer") == [["exec", "--nv", *folders, str(cluster.image), *lab]]
    else:
        assert cluster.called("ml") == [["purge"], ["Python/3.12.3", "CUDA"]]
        assert cluster.called("apptainer") == []


SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), sys.prefix, sys.argv[1:]]))"


def test_environment(variant, cluster):
    """Every cache is in project storage, no thread is lost, the clone's helpers are the ones imported."""
    name, _ = variant
    (cluster.course / "llmhw_helpers.py").touch()
    code = SHOW + "; import llmhw_helpers; assert llmhw_helpers.__file__.startswith(os.environ['PYTHONPATH'])"
    run = ["bash", cluster.installed, "run", "python", "-c", code, "two words"]
    result = cluster.run(*run, SLURM_CPUS_PER_TASK="3", SLURM_CPUS_ON_NODE="7")
    assert result.returncode == 0, result.stderr
    env, prefix, arguments = json.loads(result.stdout)
    cache = cluster.project / "student/llmhw-cache"
    assert cache.is_dir()
    caches = ["LLMHW_HOME", "HF_HOME", "PIP_CACHE_DIR", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"]
    assert all(env[cache_name].startswith(f"{cache}/") for cache_name in caches)
    assert len({env[cache_name] for cache_name in caches}) == len(caches)
    assert env["OMP_NUM_THREADS"] == "3"
    assert env["PYTHONPATH"] == str(cluster.course)
    assert env["PYTHONNOUSERSITE"] == env["JUPYTER_PREFER_ENV_PATH"] == "1"
    assert arguments == ["two words"]
    assert prefix.startswith(str(cluster.course)) == (name == "modules")
    assert list(cluster.home.rglob("*.sh")) == [cluster.installed]


@pytest.mark.parametrize(("slurm", "threads"), [({"SLURM_CPUS_ON_NODE": "7"}, "7"), ({}, None)])
def test_threads_without_a_request_for_cores(cluster, slurm, threads):
    cluster.install("--project", cluster.project)
    result = cluster.run("bash", cluster.installed, "run", "printenv", "OMP_NUM_THREADS", **slurm)
    assert result.stdout.strip() == (threads or cluster.run("nproc").stdout.strip())


def test_exit_status_is_the_commands(variant, cluster):
    assert cluster.run("bash", cluster.installed, "run", "bash", "-c", "exit 7").returncode == 7


def broken(cluster, what):
    """Take one thing away; return the arguments and the environment to start with."""
    image = what in ("image", "apptainer")
    cluster.install("--project", cluster.project, *(["--image", cluster.image] if image else ["--modules", "Python/9"]))
    (cluster.home / "config.py").touch()
    env = {"CONFIG_FILE": str(cluster.home / "config.py")}
    bin = cluster.calls.parent / "bin"
    match what:
        case "template":
            cluster.installed.write_bytes((cluster.course / "ondemand/llmhw.sh").read_bytes())
        case "project":
            cluster.installed.write_text(cluster.installed.read_text().replace("LLMHW_PROJECT=", "LLMHW_PROJECT=/no"))
        case "course":
            cluster.course.rename(cluster.project / "moved")
            cluster.course = cluster.project / "moved"
        case "image":
            cluster.image.unlink()
        case "venv":
            (cluster.course / ".venv").unlink()
        case "no config":
            env = {}
        case "config gone":
            (cluster.home / "config.py").unlink()
        case "module":
            (bin / "ml").write_text('#!/bin/bash\n[ "$1" = purge ]\n')
        case "apptainer":
            (bin / "apptainer").unlink()
        case "cache":
            (cluster.project / "student").write_text("a file is in the way")
    return env


@pytest.mark.parametrize(
    ("what", "message", "command"),
    [
        ("template", "no project folder", "ondemand/install.sh --project"),
        ("project", "no project folder /no", "ondemand/install.sh --project"),
        ("course", "no course in", "ondemand/install.sh --project"),
        ("image", "no image", "apptainer build"),
        ("venv", "no JupyterLab in", "make setup"),
        ("no config", "no CONFIG_FILE ''", "run jupyter lab"),
        ("config gone", "no CONFIG_FILE '/", "run jupyter lab"),
        ("module", "cannot load Python/9", "ml spider Python"),
        ("apptainer", "no apptainer", "ondemand/install.sh --project"),
        ("cache", "cannot write to", "ondemand/install.sh --project"),
    ],
)
def test_one_line_says_what_is_missing(cluster, what, message, command):
    env = broken(cluster, what)
    result = cluster.run("/bin/bash", cluster.installed, **env)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("llmhw: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"llmhw: {message}")
    assert command in lines[0]
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == (2 if what == "cache" else 1), "one line (and mkdir's own)"


def test_run_needs_a_command(cluster):
    cluster.install("--project", cluster.project)
    result = cluster.run("bash", cluster.installed, "run")
    assert (result.returncode, result.stderr) == (1, "llmhw: run what? Usage: llmhw.sh run COMMAND ...\n")
