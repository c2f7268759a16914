"""Memory over a training step: what fills it in each phase, and how it rises and falls."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ..costs.memory import Phase
from ..specs.figures import si
from . import style

# What each part is drawn in; the others, small ones, are drawn together.
PARTS = {
    "parameters": style.COLOURS[0],
    "gradients": style.COLOURS[1],
    "master": style.COLOURS[5],
    "exp_avg": style.COLOURS[2],
    "exp_avg_sq": "#7FCBB5",  # a lighter sister: the two always come together
    "momentum_buffer": style.COLOURS[2],
    "accumulated gradients": style.COLOURS[6],
    "activations": style.COLOURS[4],
    "working": "#999999",
}
OTHER = "other"
VISIBLE = 0.004  # the least share of the highest column that a part must have to be drawn


def plot_phases(
    columns: Mapping[str, Phase],
    measured: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A column for each phase, stacked of its parts.

    Args:
        columns: phases by the label under the column.
        measured: bytes measured, by the same labels, drawn as a mark across the column.
        limits: lines from left to right, such as the memory of a card, in bytes by label.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=4.6)
    most = max(phase.bytes for phase in columns.values())
    unit, name = _unit(most)
    bottom = np.zeros(len(columns))
    for part, colour in {**PARTS, OTHER: "#dddddd"}.items():
        heights = np.array([_part(phase, part) / unit for phase in columns.values()])
        if heights.max() * unit > VISIBLE * most:
            ax.bar(list(columns), heights, 0.6, bottom, color=colour, label=part.replace("_", " "), edgecolor="white")
        bottom += heights
    for x, label in enumerate(columns):
        if label in (measured or {}):
            ax.plot([x - 0.36, x + 0.36], 2 * [measured[label] / unit], color="black", lw=2.2, zorder=3)
    if measured:
        ax.plot([], [], color="black", lw=2.2, label="measured")
    for label, limit in (limits or {}).items():
        ax.axhline(limit / unit, color="black", ls="--", lw=1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        where = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center", "bbox": box}
        ax.annotate(label, (0.005, limit / unit), fontsize=style.SMALL, **where)
    handles, labels = ax.get_legend_handles_labels()
    style.legend_above(ax, ncols=3, handles=handles, labels=labels)
    ax.set(ylabel=name, ylim=(0, 1.05 * max([most, *(limits or {}).values()]) / unit))
    ax.margins(x=0.1 if limits else 0.03)
    ax.grid(axis="x", visible=False)
    style.slant_labels(ax, columns)
    return ax


def plot_timeline(
    timelines: Mapping[str, Sequence[tuple[str, str, int]]], floor: float = 0.0, ax: Axes | None = None
) -> Axes:
    """Bytes alive after each operation of a step, a line each; phases are named, and as wide as the first's.

    Args:
        timelines: (phase, operation, bytes alive) in order, by label.
        floor: bytes that are there all the time, drawn as a filled ground.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    unit, name = _unit(max(alive for timeline in timelines.values() for *_, alive in timeline))
    if floor:
        ax.axhspan(0, floor / unit, color=PARTS["parameters"], alpha=0.25, lw=0)
        ax.annotate("there all the time", (0.5, floor / unit / 2), xycoords=("axes fraction", "data"), ha="center")
    first = next(iter(timelines.values()))
    ends = _ends(first)
    for i, (label, timeline) in enumerate(timelines.items()):
        own = _ends(timeline)  # each phase is stretched to the width that it has in the first
        xs = np.interp(np.arange(len(timeline)), [0, *own.values()], [0, *(ends[phase] for phase in own)])
        ys = [alive / unit for *_, alive in timeline]
        ax.plot(xs / len(first), ys, color=style.COLOURS[i], ls=style.LINES[i], lw=1.4, label=label)
    for start, (phase, end) in zip([0, *ends.values()], ends.items(), strict=False):
        if start:
            ax.axvline(start / len(first), color="gray", ls=":", lw=1.2)
        middle = (start + end) / 2 / len(first)
        ax.annotate(phase, (middle, 1.01), xycoords="axes fraction", ha="center", fontsize=style.SMALL)
    ax.set(xlim=(0, 1), xlabel="operations of one step, first to last", ylabel=f"alive, {name}", xticks=[])
    ax.set_ylim(bottom=0)
    if len(timelines) > 1:
        ax.legend(fontsize=style.SMALL)
    return ax


def _part(phase: Phase, part: str) -> float:
    if part == OTHER:
        return sum(n for name, n in phase.parts.items() if name not in PARTS)
    return phase.parts.get(part, 0)


def _ends(timeline: Sequence[tuple[str, str, int]]) -> dict[str, int]:
    """Where each phase ends, in operations."""
    return {phase: i + 1 for i, (phase, *_) in enumerate(timeline)}


def _unit(most: float) -> tuple[float, str]:
    prefix = si(most, "B").split()[1]
    return {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}.get(prefix, 1), prefix
