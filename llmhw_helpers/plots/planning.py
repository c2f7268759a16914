"""What fills the memory of GPUs, against its limit; and predictions against what others measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ..specs.figures import si
from . import style

PARTS = {
    "weights": style.COLOURS[0],
    "optimizer": style.COLOURS[5],
    "gradients": style.COLOURS[1],
    "cache": style.COLOURS[2],
    "activations": style.COLOURS[4],
    "gathered": style.COLOURS[3],
    "working": "#999999",
}
OTHER = "#dddddd"
LINES = ("--", ":", "-.")


@dataclass(frozen=True)
class Held:
    """A prediction, as a range, beside what was measured, in the same unit.

    Attributes:
        label: what it is about.
        low, high: predicted; equal where arithmetic leaves no choice.
        measured: by others.
    """

    label: str
    low: float
    high: float
    measured: float


def plot_parts(
    columns: Mapping[str, Mapping[str, float]], limits: Mapping[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """A column for each case, stacked of its parts, in GB; what has no colour of its own in `PARTS` is light grey.

    Args:
        columns: bytes by part, by the label under the column.
        limits: lines from left to right, such as the memory of a card, in bytes by label.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=4.6)
    names = [name for name in PARTS if any(name in parts for parts in columns.values())]
    names += sorted({name for parts in columns.values() for name in parts} - set(PARTS))
    bottom = np.zeros(len(columns))
    for name in names:
        heights = np.array([parts.get(name, 0) / 1e9 for parts in columns.values()])
        ax.bar(list(columns), heights, 0.6, bottom, color=PARTS.get(name, OTHER), label=name, edgecolor="white")
        bottom += heights
    for line, (label, limit) in zip(LINES, (limits or {}).items(), strict=False):
        ax.axhline(limit / 1e9, color="black", ls=line, lw=1.2, label=f"{label}: {si(limit, 'B')}")
    handles, labels = ax.get_legend_handles_labels()
    style.legend_above(ax, ncols=2, handles=handles, labels=labels)
    ax.set(ylabel="GB on the fullest GPU")
    ax.set_ylim(0, 1.07 * max([*bottom, *(limit / 1e9 for limit in (limits or {}).values())]))
    ax.grid(axis="x", visible=False)
    style.slant_labels(ax, columns)
    return ax


def plot_held(rows: Sequence[Held], band: float, ax: Axes | None = None) -> Axes:
    """Predicted over measured, a line for each row, the first on top: at 1 they agree.

    Args:
        rows: predictions with what was measured.
        band: share to both sides of 1 that is shaded.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=0.3 * len(rows) + 1.2)
    ax.axvspan(1 - band, 1 + band, color="#eeeeee", zorder=0)
    ax.axvline(1, color="black", lw=1)
    for y, row in enumerate(rows):
        low, high = row.low / row.measured, row.high / row.measured
        inside = low <= 1 + band and high >= 1 - band
        colour = style.COLOURS[0 if inside else 1]
        ax.plot([low, high], [y, y], color=colour, lw=3, solid_capstyle="round")
        ax.plot((low + high) / 2, y, "o" if inside else "s", color=colour, ms=6)
    ax.set_yticks(range(len(rows)), [row.label for row in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"predicted / measured (shaded: within {band:.0%})")
    ax.grid(False, axis="y")
    return ax
