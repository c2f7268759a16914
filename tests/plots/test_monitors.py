"""The dashboard draws what was sampled and nothing else; live, it is drawn again and again at one place."""

import time

import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmhw_helpers.measure.monitors import COLUMNS, Monitor
from llmhw_helpers.measure.series import Series
from llmhw_helpers.plots import monitors
from llmhw_helpers.plots.monitors import PANELS, dashboard, live

MARKS = [(0.5, "checkpoint begins"), *((i / 10, "step") for i in range(30))]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def series_of(names):
    values = np.arange(3.0)
    columns = {name: 10 * i + values for i, name in enumerate(names)}
    units = {name: COLUMNS[name].unit if name in COLUMNS else "tokens/s" for name in names}
    return Series([1, 2, 4], columns, units, MARKS)


def lines_of(axes):
    return {line.get_label(): line for ax in axes for line in ax.lines}


def test_every_column_of_a_monitor_has_its_panel():
    assert set(COLUMNS) <= {name for names in PANELS.values() for name in names}
    axes = dashboard(series_of(COLUMNS))
    assert len(axes) == len(PANELS)
    drawn = lines_of(axes)
    for i, name in enumerate(COLUMNS):  # a step begins at the begin
        assert list(drawn[name].get_xdata()) == [0, 1, 2, 4]
        assert list(drawn[name].get_ydata()) == [10 * i, 10 * i, 10 * i + 1, 10 * i + 2]


def test_panels_without_a_column_are_left_out_and_other_columns_get_one():
    axes = dashboard(series_of(["cpu_percent", "tokens_per_s"]), columns=1)
    assert [ax.get_ylabel() for ax in axes] == ["processors", "tokens_per_s"]
    assert "gpu_watts" not in lines_of(axes)
    with pytest.raises(ValueError, match="nothing to draw"):
        dashboard(series_of([]))


def test_a_few_marks_are_lines_and_many_are_ticks_and_both_are_named():
    axes = dashboard(series_of(["cpu_percent", "rss_bytes"]))
    for ax in axes:
        (line,) = [line for line in ax.lines if line.get_label() == "checkpoint begins"]
        assert list(line.get_xdata()) == [0.5, 0.5]
        (ticks,) = [line for line in ax.lines if line.get_label() == "step"]
        assert (len(ticks.get_xdata()), ticks.get_marker()) == (30, "|")
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["step", "checkpoint begins"]


def test_what_was_not_told_is_a_gap_and_an_empty_run_is_drawn():
    axes = dashboard(Series([1, 2], {"gpu_watts": [np.nan, 7]}, {"gpu_watts": "W"}))
    assert axes[0].get_ylim()[1] > 7
    assert len(dashboard(series_of(["cpu_percent"]).between(4, 5))) == 1


def test_live_draws_at_one_place_until_the_end(monkeypatch):
    shown = []

    class Place:
        def update(self, image):
            shown.append(image.data)

    monkeypatch.setattr(monitors, "get_ipython", object)
    monkeypatch.setattr(monitors, "DRAWING", 1)
    monkeypatch.setattr(monitors, "display", lambda image, display_id: Place().update(image) or Place())
    with Monitor(interval_s=0.01, gpus=False) as monitor, live(monitor, every_s=0.01):
        while len(shown) < 2:
            time.sleep(0.01)
        monitor.mark("the end")
    assert len(shown) >= 3
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    assert shown[-1] != shown[0]
    assert plt.get_fignums() == []  # none that a notebook would show once more


def test_live_needs_a_monitor_that_has_begun_and_a_notebook(capsys):
    with Monitor(interval_s=0.01, gpus=False) as monitor, live(monitor):
        pass
    assert "draws in a notebook only" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="nothing was sampled"), live(Monitor(gpus=False)):
        pass
