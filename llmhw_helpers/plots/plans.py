"""The planner's plans as bars of memory: what fills a GPU, what the program may keep for itself, and the limit."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from . import memory, planning, style

PARTS = {**memory.PARTS, **planning.PARTS}  # a part has one colour in all pictures
OTHERS = "#bbbbbb"
RESERVE = {  # what a program keeps at least, and at most
    "reserve": {"facecolor": "#dddddd", "edgecolor": "#888888", "hatch": "////", "lw": 0},
    "reserve, perhaps": {"facecolor": "white", "edgecolor": "#888888", "hatch": "///", "lw": 0},
}
GB = 1e9


def plot_memory(plans: Sequence[Mapping[str, Any]], ax: Axes | None = None, end: float | None = None) -> Axes:
    """A bar for each plan: the bytes of its fullest GPU by part, then the reserve, and a line at the limit.

    Args:
        plans: as in the reply of `costs.planner.answer`; the first on top, those that no other plan beats in bold.
        ax: where to draw; a new figure without it.
        end: bytes at the axis' right end; those of the longest bar without it.
    """
    ax = style.axes(ax, height=0.42 * len(plans) + 1.4)
    ends = [0.0] * len(plans)
    for part in dict.fromkeys(part for plan in plans for part in plan["memory"]["parts"]):
        sizes = [plan["memory"]["parts"].get(part, 0) / GB for plan in plans]
        _add(ax, sizes, ends, part.replace("_", " "), facecolor=PARTS.get(part, OTHERS), edgecolor="white")
    least = [plan["memory"]["reserve"][0] / GB for plan in plans]
    more = [(plan["memory"]["reserve"][1] - plan["memory"]["reserve"][0]) / GB for plan in plans]
    for (label, look), sizes in zip(RESERVE.items(), (least, more), strict=True):
        _add(ax, sizes, ends, label, **look)
    for row, plan in enumerate(plans):
        limit = plan["memory"]["limit"] / GB
        ax.plot([limit, limit], [row - 0.45, row + 0.45], color="black", lw=2, label="" if row else "limit")
    ax.set_yticks(range(len(plans)), [plan["name"] for plan in plans])
    for tick, plan in zip(ax.get_yticklabels(), plans, strict=True):
        tick.set_fontweight("bold" if plan["pareto"] else "normal")
    ax.set(ylim=(len(plans) - 0.4, -0.6), xlabel="GB in the fullest GPU")
    ax.set_xlim(0, end / GB if end else None)
    ax.grid(False, axis="y")
    # From the right end: the names of plans leave the axes less room than the legend needs.
    style.legend_above(ax, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return ax


def _add(ax: Axes, sizes: list[float], ends: list[float], label: str, **look: Any) -> None:
    """One more part at the end of every bar."""
    ax.barh(range(len(sizes)), sizes, 0.7, list(ends), label=label, **look)
    for row, size in enumerate(sizes):
        ends[row] += size
