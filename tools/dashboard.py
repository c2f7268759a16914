"""Write ondemand/monitoring/dashboard.json, which Grafana imports, from the course's panels.

    python tools/dashboard.py            write it
    python tools/dashboard.py --check    say whether it is what would be written

In Grafana: Dashboards, New, Import, this file; then choose the Prometheus. The form is Grafana's classic one
(https://grafana.com/docs/grafana/latest/visualizations/dashboards/build-dashboards/view-dashboard-json-model/).
"""

import json
import sys
from pathlib import Path

from llmhw_helpers.measure.panels import ROWS, Panel

PATH = Path(__file__).parents[1] / "ondemand" / "monitoring" / "dashboard.json"
UNITS = {"s": "s", "1": "percentunit", "1/s": "short", "B": "decbytes", "B/s": "Bps", "%": "percent", "W": "watt"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WINDOW = "$__rate_interval"  # Grafana's own: at least four scrapes
WIDTH, HEIGHT = 12, 7  # of a panel, where a page is 24 wide


def dashboard() -> dict:
    panels, y = [], 0
    for row, of_row in ROWS.items():
        panels.append({"type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": _at(0, y, 24, 1)})
        y += 1
        for i, panel in enumerate(of_row):
            panels.append(_panel(panel) | {"gridPos": _at(i % 2 * WIDTH, y + i // 2 * HEIGHT, WIDTH, HEIGHT)})
        y += -(-len(of_row) // 2) * HEIGHT
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    choice = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}
    return {
        "id": None,
        "uid": "llmhw",
        "title": "LLM and hardware",
        "description": "llmhw-serve or vLLM, a training run, its nodes and their GPUs",
        "tags": ["llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [choice]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict:
    targets = []
    for ref, (line, quantity) in zip("ABCDEFGH", panel.lines.items(), strict=False):
        legend = " ".join([line, *("{{" + label + "}}" for label in quantity.labels)]).strip()
        targets.append({"refId": ref, "expr": quantity.promql(WINDOW), "legendFormat": legend, "datasource": SOURCE})
    defaults = {"unit": UNITS.get(panel.unit, "short"), "min": 0, "custom": {"drawStyle": "line", "lineWidth": 2}}
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def _at(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def main(arguments: list[str]) -> int:
    text = json.dumps(dashboard(), indent=1) + "\n"
    if arguments == ["--check"]:
        same = PATH.exists() and PATH.read_text() == text
        print("dashboard.json is up to date" if same else "dashboard.json is old: run python tools/dashboard.py")
        return 0 if same else 1
    if arguments:
        print(__doc__)
        return 2
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
