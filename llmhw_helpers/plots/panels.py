"""A dashboard in a notebook: the panels that Grafana shows, drawn from series."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..measure.panels import Panel
from ..measure.series import Series
from ..specs.figures import si
from . import style

MOST_LINES = 8  # that a legend can name


def plot_panel(panel: Panel, series: Series, ax: Axes | None = None) -> Axes:
    """The lines of one panel over time.

    Args:
        panel: gives title and unit.
        series: what it showed, from `Panel.series` or a Prometheus; gaps stay gaps.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=2.6)
    for i, (name, values) in enumerate(series.columns.items()):
        look = {"color": style.COLOURS[i % len(style.COLOURS)], "ls": style.LINES[i // len(style.COLOURS) % 7]}
        alone = len(values) > 0 and np.isfinite(values).sum() == 1
        ax.plot(series.seconds, values, label=name, lw=1.6, marker="o" if alone else None, **look)
    ax.set_title(panel.title, fontsize=style.SMALL, loc="left")
    ax.set_xlabel("seconds", fontsize=style.SMALL)
    ax.set_ylim(bottom=0)
    if panel.unit in ("s", "B", "B/s", "W"):
        ax.yaxis.set_major_formatter(lambda value, _: si(value, panel.unit) if value else "0")
    elif panel.unit == "1":
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        ax.set_ylim(top=max(1.0, ax.get_ylim()[1]))
    if not series.columns:
        ax.text(0.5, 0.5, "nothing to show yet", transform=ax.transAxes, ha="center", color="#595959")
    elif [*series.columns] != [""] and len(series.columns) <= MOST_LINES:
        ax.legend(fontsize=style.SMALL, loc="best")
    return ax


def plot_panels(panels: Sequence[tuple[Panel, Series]], n_columns: int = 1) -> Figure:
    """All of them in one figure, row by row, as on the dashboard.

    Raises:
        ValueError: no panel.
    """
    if not panels:
        raise ValueError("no panel to draw")
    n_rows = -(-len(panels) // n_columns)
    with plt.rc_context(style.STYLE):
        size = (style.WIDTH, 2.4 * n_rows)
        figure, places = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    for (panel, series), ax in zip(panels, places.flat, strict=False):
        plot_panel(panel, series, ax)
    for ax in places.flat[len(panels) :]:
        ax.set_axis_off()
    return figure
