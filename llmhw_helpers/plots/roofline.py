"""Rooflines, and times against their floor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from ..costs.roofline import Roof
from . import style


@dataclass(frozen=True)
class Point:
    """A computation as it ran: FLOP per byte, and operations per second."""

    intensity: float
    flops_per_s: float


def plot_roofline(
    roofs: Sequence[tuple[Roof, str]],
    points: Mapping[str, Sequence[Point]] | None = None,
    ax: Axes | None = None,
    intensities: tuple[float, float] = (0.1, 2000),
    rates: tuple[float, float] | None = None,
) -> Axes:
    """Rooflines, each a machine and a number format, with measured computations under them.

    Above the picture stands where memory binds under every roof, and where arithmetic does.

    Args:
        roofs: what to draw, in the order of the legend; the ridge of each is marked.
        points: measured computations by label.
        ax: where to draw; a new figure without it.
        intensities: the range of the x axis, FLOP/B.
        rates: the range of the y axis, FLOP/s; all that is drawn without it.
    """
    ax = style.axes(ax)
    x = np.geomspace(*intensities, 200)
    for i, (roof, dtype) in enumerate(roofs):
        colour, line = style.COLOURS[i % len(style.COLOURS)], style.LINES[i % len(style.LINES)]
        ax.plot(x, [roof.attainable(dtype, each) for each in x], color=colour, ls=line, label=f"{roof.name}, {dtype}")
        ax.plot(roof.ridge(dtype), roof.peak(dtype), marker="|", color=colour, ms=14, mew=2)
    for i, (label, group) in enumerate((points or {}).items()):
        xs, ys = [p.intensity for p in group], [p.flops_per_s for p in group]
        ax.plot(xs, ys, ls="", marker=style.MARKERS[i], color=style.COLOURS[i], mec="white", ms=8, label=label)
    ax.set(xscale="log", yscale="log", xlim=intensities, ylim=rates)
    ax.set(xlabel="arithmetic intensity (FLOP per byte of memory traffic)", ylabel="FLOP/s")
    ridges = sorted(roof.ridge(dtype) for roof, dtype in roofs)
    for said, (low, high) in {
        "memory binds": (intensities[0], min([intensities[1], *ridges])),
        "arithmetic binds": (max([intensities[0], *ridges]), intensities[1]),
    }.items():
        if ridges and low < high:
            where = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
            ax.text(math.sqrt(low * high), 1.01, said, fontsize=style.SMALL, **where)
            ax.axvline(high if low == intensities[0] else low, color="gray", ls=":", lw=1.2, zorder=0)
    ax.legend(loc="lower right", fontsize=style.SMALL)
    return ax


def plot_times(
    rows: Sequence[int],
    floors: Mapping[str, Sequence[float]],
    times: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
) -> Axes:
    """Measured times (markers) over their floors (lines of the same colour), in seconds, against rows."""
    ax = style.axes(ax)
    for i, label in enumerate(times):
        ax.plot(rows, floors[label], color=style.COLOURS[i], ls=style.LINES[i], label=f"{label}: floor")
        ax.plot(rows, times[label], color=style.COLOURS[i], ls="", marker=style.MARKERS[i], label=f"{label}: measured")
    ax.set(xscale="log", yscale="log", xlabel="rows multiplied at once", ylabel="seconds per product")
    ax.set_xticks(rows, [str(r) for r in rows])
    ax.minorticks_off()
    ax.legend(fontsize=style.SMALL)
    return ax
