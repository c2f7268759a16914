"""A paged cache: what its memory is used for, its blocks between two steps, and who has a place in the batch when."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from ..costs.paging import Shares
from ..serving.snapshots import Snapshot
from . import style

PARTS = {
    "tokens": ("tokens", style.COLOURS[0], ""),
    "to_come": ("reserved, used later", style.COLOURS[5], ""),
    "never": ("reserved, never used", style.COLOURS[1], "//"),
    "free": ("free, but the next one does not fit", "#dddddd", ".."),
}
FREE = "#eeeeee"
NARROW = 0.045  # the least share that has room for its number


def plot_shares(rows: Mapping[str, Shares], ax: Axes | None = None) -> Axes:
    """What the memory is used for, a bar for each way to share it out, the first one on top."""
    ax = style.axes(ax, height=0.75 * len(rows) + 1.3)
    left = [0.0] * len(rows)
    for part, (label, colour, hatch) in PARTS.items():
        values = [getattr(shares, part) for shares in rows.values()]
        ax.barh(range(len(rows)), values, left=left, color=colour, hatch=hatch, edgecolor="white", label=label)
        for i, value in enumerate(values):
            if value > NARROW:
                text = ax.text(left[i] + value / 2, i, f"{value:.0%}", ha="center", va="center", fontsize=style.SMALL)
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5})
        left = [a + b for a, b in zip(left, values, strict=True)]
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="share of the memory, on average")
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.grid(False, axis="y")
    style.legend_above(ax, ncols=2)
    return ax


def plot_blocks(state: Snapshot, n_columns: int = 8, ax: Axes | None = None) -> Axes:
    """All blocks of a cache in rows, numbered; the slots of each from its left, coloured by who holds it.

    A block of two holders shows both colours, one above the other. Hatched: nobody holds it, but its content can still
    be found. The small figure is the reference count.
    """
    names = list(state.tables)
    colours = dict(zip(names, style.COLOURS * (1 + len(names) // len(style.COLOURS)), strict=False))
    n_rows = -(-len(state.ref_count) // n_columns)
    ax = style.axes(ax, height=0.85 * n_rows + 1.1)
    for block, count in enumerate(state.ref_count):
        x, y = block % n_columns, block // n_columns
        ax.add_patch(Rectangle((x, y), 0.9, 0.8, facecolor=FREE, edgecolor="#888888"))
        width, holders = 0.9 * state.filled(block) / state.block_size, state.holders(block)
        for i, name in enumerate(holders):
            height = 0.8 / len(holders)
            ax.add_patch(Rectangle((x, y + i * height), width, height, facecolor=colours[name]))
        if block in state.found:
            ax.add_patch(Rectangle((x, y), width, 0.8, facecolor="none", edgecolor="#888888", hatch="///", lw=0))
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
        ax.text(x + 0.45, y + 0.4, str(block), ha="center", va="center", fontsize=11, bbox=box)
        if count:
            ax.text(x + 0.87, y + 0.78, f"x{count}", ha="right", va="bottom", fontsize=style.SMALL, bbox=box)
    handles = [Patch(facecolor=colours[name], label=f"{name}: {_says(state, name)}") for name in names]
    handles.append(Patch(facecolor=FREE, edgecolor="#888888", hatch="///", label="free, can still be found"))
    style.legend_above(ax, ncols=1, handles=handles)
    ax.set(xlim=(-0.05, n_columns), ylim=(n_rows, -0.05), aspect="auto")
    ax.set_axis_off()
    return ax


def plot_places(steps: Sequence[Sequence[int]], ax: Axes | None = None) -> Axes:
    """Who took part in which step: a row for each request, a mark for each step.

    Args:
        steps: numbers of the requests that took part in each.
        ax: where to draw; a new figure without it.
    """
    n = 1 + max((number for step in steps for number in step), default=0)
    ax = style.axes(ax, height=max(2.2, 0.14 * n + 1.0))
    for number in range(n):
        taken = [(at + 0.05, 0.9) for at, step in enumerate(steps) if number in step]
        ax.broken_barh(taken, (number - 0.4, 0.8), color=style.COLOURS[number % 6])
    ax.set(xlim=(0, len(steps)), ylim=(n - 0.3, -0.7), xlabel="step", ylabel="request")
    return ax


def _says(state: Snapshot, name: str) -> str:
    table = state.tables[name]
    return f"{state.lengths[name]} tokens in {list(table)}" if table else state.states[name]
