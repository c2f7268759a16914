"""What an administrator imports: rules by promtool, and a dashboard whose queries a Prometheus answers."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from llmhw_helpers.measure.exporters import Exporter
from llmhw_helpers.measure.panels import ROWS
from llmhw_helpers.measure.prometheus import Prometheus
from llmhw_helpers.server.server import served_at

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "ondemand/monitoring"
WAIT = 60  # seconds: far longer than anything here takes
GPU_PAGE = "".join(  # as NVIDIA's dcgm-exporter writes it
    f'{name}{{gpu="{gpu}",UUID="GPU-{gpu}",modelName="A40"}} {value}\n'
    for gpu in "01"
    for name, value in (
        ("DCGM_FI_DEV_GPU_UTIL", 98),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.03),
        ("DCGM_FI_PROF_DRAM_ACTIVE", 0.71),
        ("DCGM_FI_DEV_POWER_USAGE", 180),
    )
)


def promtool(*arguments):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    run = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def test_the_rules_say_what_their_tests_say():
    for what in (["check", "rules", "rules.yml"], ["check", "config", "prometheus.yml"]):
        status, said = promtool(*what)
        assert status == 0, said
    status, said = promtool("test", "rules", "rules_test.yml")
    assert status == 0, said
    alerts = set(re.findall(r"alert: (\w+)", (FOLDER / "rules.yml").read_text()))
    assert alerts == set(re.findall(r"alertname: (\w+)", (FOLDER / "rules_test.yml").read_text()))


def test_the_dashboard_is_the_courses_panels():
    check = [sys.executable, REPOSITORY / "tools/dashboard.py", "--check"]
    run = subprocess.run(check, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (run.returncode, run.stdout) == (0, "dashboard.json is up to date\n"), run.stderr


def test_the_dashboard_can_be_imported():
    """As Grafana's form has it: places that do not overlap, numbers of their own, and a Prometheus that is chosen."""
    board = json.loads((FOLDER / "dashboard.json").read_text())
    assert (board["id"], board["schemaVersion"]) == (None, 39)
    (choice,) = board["templating"]["list"]
    assert (choice["type"], choice["query"], choice["name"]) == ("datasource", "prometheus", "datasource")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] == "timeseries":
            for target in panel["targets"]:
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= set(
                    re.findall(r"by \(([\w, ]+)\)", target["expr"])[0].split(", ") if "by (" in target["expr"] else []
                )


@pytest.fixture(scope="module")
def gpu_url():
    """A page in the form of NVIDIA's exporter."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(GPU_PAGE.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def node_url():
    """Prometheus' own exporter of a node."""
    if shutil.which("prometheus-node-exporter") is None:
        pytest.skip("no prometheus-node-exporter here (Debian: apt-get install prometheus-node-exporter)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"127.0.0.1:{free.getsockname()[1]}"
    only = [
        "--collector.disable-defaults",
        *(f"--collector.{name}" for name in ("cpu", "meminfo", "pressure", "netdev")),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["prometheus-node-exporter", f"--web.listen-address={url}", *only], **quiet)
    yield f"http://{url}"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def prometheus(run_prometheus, new_engine, gpu_url, node_url):
    """A Prometheus with the course's rules asks a server, two ranks, a node and GPUs, all of which do something."""
    done = threading.Event()
    with served_at(new_engine(n_blocks=64), name="tiny") as url, Exporter(rank=0) as one, Exporter(rank=1) as other:

        def work():
            how = {"prompt": "hello", "max_tokens": 20, "ignore_eos": True}
            while not done.wait(0.02):
                httpx.post(f"{url}/completions", json=how, timeout=WAIT)
                one.observe_step(0.5, 100, 2.5, waited_for_data=0.125, waited_for_ranks=0.25)
                other.observe_step(0.5, 100, 2.75)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        jobs = {"serve": [url], "train": [one.url, other.url], "node": [node_url], "gpu": [gpu_url]}
        with run_prometheus(jobs, rules=FOLDER / "rules.yml") as address:
            yield Prometheus(address)
        done.set()
        worker.join()


def queries():
    board = json.loads((FOLDER / "dashboard.json").read_text())
    return [
        pytest.param(target["expr"], id=f"{panel['title']}: {target['legendFormat']}")
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


def settled(prometheus, query, is_it):
    """What the query finds, as soon as `is_it` says yes: between the first scrapes there may not have been a step."""
    end = time.monotonic() + WAIT
    while not is_it(found := prometheus.query(query)):
        assert time.monotonic() < end, f"{query} finds {found}: {prometheus.targets()}"
        time.sleep(0.1)
    return found


def by(label, expected):
    """Whether an answer is `expected`."""
    return lambda found: {each.labels.get(label): each.value for each in found} == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("expr", queries())
def test_every_query_of_the_dashboard_finds_something(prometheus, expr):
    if "pressure" in expr and not Path("/proc/pressure/cpu").exists():
        pytest.skip("this kernel does not tell about pressure")
    query = expr.replace("$__rate_interval", "5s")
    assert "$" not in query
    settled(prometheus, f"({query}) >= 0", bool)  # which NaN is not


def test_what_the_queries_find_is_so(prometheus):
    """Of the panels whose answers are known."""
    known = {
        "Loss": {"0": 2.5, "1": 2.75},
        "A step": {"0": 0.5, "1": 0.5},
        "Of a step, busy: who is high holds up the others": {"0": 0.125, "1": 0.5},
        "A kernel runs (no more than that)": {"0": 98, "1": 98},
    }
    panels = {panel.title: panel for row in ROWS.values() for panel in row}
    for title, expected in known.items():
        (quantity,) = panels[title].lines.values()
        settled(prometheus, quantity.promql("5s"), by(quantity.labels[-1], expected))


def test_the_rules_run(prometheus):
    settled(prometheus, "rank:train_busy_seconds:mean", by("rank", {"0": 0.125, "1": 0.5}))
    settled(prometheus, "instance:vllm_time_to_first_token_seconds:p95 > 0", bool)
    settled(prometheus, 'ALERTS{alertstate="pending"}', by("alertname", {"Straggler": 1}))
