"""Runs that fall sick: what was sampled of each, against itself before the change."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..measure.series import Series
from . import style

COLUMNS = {"tokens_per_s": "tokens a second", "cpu_percent": "processor", "rss_bytes": "memory"}
WIDTH, HEIGHT, IN_A_ROW = 2.8, 1.9, 2  # of a panel in inches, and how many


def plot_sick_runs(runs: Mapping[str, Series]) -> list[Axes]:
    """A panel for each run: tokens a second, processor and memory over time, 1 being their mean before the change.

    Args:
        runs: by name, each with a mark "change" and the columns of `course.sick_runs`.

    Raises:
        ValueError: nothing to draw, or a run without a change.
    """
    if missing := [name for name, series in runs.items() if not len(series.times("change"))]:
        raise ValueError(f"{missing[0]} has no mark 'change' to compare it at")
    if not runs:
        raise ValueError("no runs to draw: dict(recorded_runs()) has one of each kind")
    rows = -(-len(runs) // IN_A_ROW)
    with plt.rc_context(style.STYLE | {"font.size": style.SMALL}):
        size = (WIDTH * IN_A_ROW, HEIGHT * rows + 0.4)
        figure, grid = plt.subplots(rows, IN_A_ROW, figsize=size, layout="constrained", sharey=True, squeeze=False)
    panels = [*grid.flat]
    for ax, (name, series) in zip(panels, runs.items(), strict=False):
        change = series.times("change")[0]
        before = series.between(series.begin_s, change)
        for (column, label), colour, line in zip(COLUMNS.items(), style.COLOURS, style.LINES, strict=False):
            ax.step(series.seconds - change, series[column] / before.mean(column), line, color=colour, label=label)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(name, fontsize=style.SMALL)
        ax.set_ylim(0, 2)
    for ax in panels[len(runs) :]:
        ax.remove()
    for ax in panels[max(0, len(runs) - IN_A_ROW) : len(runs)]:
        ax.set_xlabel("seconds after the change")
    figure.supylabel("against before the change", fontsize=style.SMALL)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return panels[: len(runs)]
