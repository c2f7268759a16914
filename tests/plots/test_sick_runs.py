"""Panels of runs that fall sick."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmhw_helpers.measure.series import Series
from llmhw_helpers.plots.sick_runs import COLUMNS, plot_sick_runs


def run(after, change=2.0):
    seconds = np.arange(1.0, 6)
    columns = {name: np.where(seconds > change, after, 1.0) * scale for scale, name in enumerate(COLUMNS, 5)}
    return Series(seconds, columns, dict.fromkeys(COLUMNS, "x"), [(change, "change")])


def test_each_run_is_drawn_against_itself_before_its_change():
    panels = plot_sick_runs({"a": run(0.5), "b": run(1.5), "c": run(1.0), "d": run(0.25)})
    assert [ax.get_title() for ax in panels] == ["a", "b", "c", "d"]
    for ax, after in zip(panels, (0.5, 1.5, 1.0, 0.25), strict=True):
        *lines, change = ax.get_lines()
        assert len(lines) == len(COLUMNS)
        assert set(change.get_xdata()) == {0}
        for line in lines:
            assert line.get_xdata().tolist() == [-1, 0, 1, 2, 3]
            assert line.get_ydata() == pytest.approx([1, 1, after, after, after])
    assert [ax.get_xlabel() != "" for ax in panels] == [False, False, True, True]
    plt.close("all")


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no runs"):
        plot_sick_runs({})
    series = run(1.0)
    with pytest.raises(ValueError, match="b has no mark 'change'"):
        plot_sick_runs({"a": series, "b": Series(series.seconds, series.columns, series.units)})
