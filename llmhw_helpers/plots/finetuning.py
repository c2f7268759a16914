"""Fine-tuning: what a step's time is made of, and what a change costs the rest of the model."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from . import style


def plot_stacks(columns: Mapping[str, Mapping[str, float]], ylabel: str, ax: Axes | None = None) -> Axes:
    """Columns of parts on top of one another, in the unit of `ylabel`, their sums above them.

    A part that a column lacks counts as zero.
    """
    ax = style.axes(ax, width=min(3.2 + 0.8 * len(columns), style.WIDTH), height=4.2)
    parts = list(dict.fromkeys(part for column in columns.values() for part in column))
    bottom = np.zeros(len(columns))
    for i, part in enumerate(parts):
        heights = np.array([column.get(part, 0.0) for column in columns.values()])
        colour = style.COLOURS[i % len(style.COLOURS)]
        ax.bar(list(columns), heights, 0.6, bottom, color=colour, label=part, edgecolor="white")
        bottom += heights
    for place, total in enumerate(bottom):
        look = {"textcoords": "offset points", "ha": "center", "fontsize": style.SMALL}
        ax.annotate(f"{total:.3g}", (place, total), (0, 3), **look)
    ax.set_ylim(0, 1.08 * bottom.max())
    handles, labels = ax.get_legend_handles_labels()
    style.legend_above(ax, ncols=3, handles=handles, labels=labels)
    ax.set(ylabel=ylabel)
    ax.grid(axis="x", visible=False)
    style.slant_labels(ax, columns)
    return ax


def plot_tradeoff(runs: Mapping[str, tuple[float, float]], ax: Axes | None = None) -> Axes:
    """Each run a named point: how much worse it is at everything else, and how good at the new task.

    Args:
        runs: (perplexity on general text divided by what it was, loss on held-out answers) by the run's name.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=4.8)
    for i, (name, (worse, loss)) in enumerate(runs.items()):
        colour, marker = style.COLOURS[i % len(style.COLOURS)], style.MARKERS[i % len(style.MARKERS)]
        ax.plot(worse, loss, marker=marker, ms=9, ls="", color=colour, label=name)
    ax.axvline(1, color="black", ls=":", lw=1)
    ax.set(xscale="log", ylabel="loss on held-out answers (low: learnt)")
    ax.set_xlabel("times the perplexity on other text (left: nothing forgotten)")
    ax.set_ylim(0, 1.1 * max(loss for _, loss in runs.values()))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
    ax.xaxis.set_major_formatter(lambda times, _: f"{times:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    style.legend_above(ax, ncols=2)
    return ax
