"""Attention in tiles: which of them are needed, and what grows with the text how fast."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from . import style

KINDS = ("skipped: all of it in the future", "computed, and partly hidden", "computed, all of it visible")


def plot_tiles(kinds: np.ndarray, ax: Axes | None = None) -> Axes:
    """The tiles of a table of scores ``[query blocks, key blocks]``: 0 skipped, 1 partly visible, 2 wholly visible.

    Raises:
        ValueError: something else than 0, 1 and 2, or no table.
    """
    if kinds.ndim != 2 or not np.isin(kinds, (0, 1, 2)).all():
        raise ValueError(f"tiles are 0, 1 or 2 in a table, not {kinds.tolist()!r:.60}")
    n_rows, n_columns = kinds.shape
    ax = style.axes(ax, width=5.0, height=4.6)
    colours = ["#eeeeee", style.COLOURS[5], style.COLOURS[0]]
    ax.imshow(kinds, cmap=ListedColormap(colours), vmin=0, vmax=2, extent=(0, n_columns, n_rows, 0))
    ax.set_xticks(range(n_columns + 1), [""] * (n_columns + 1))
    ax.set_yticks(range(n_rows + 1), [""] * (n_rows + 1))
    ax.tick_params(length=0)
    ax.grid(True, color="white", lw=1.5)
    ax.set_axisbelow(False)
    ax.set(xlabel="blocks of keys, the first on the left", ylabel="blocks of queries, the first on top")
    patches = [Patch(facecolor=c, edgecolor="gray", label=kind) for c, kind in zip(colours, KINDS, strict=True)]
    ax.figure.legend(handles=patches, loc="outside lower center", fontsize=style.SMALL)
    return ax


def plot_growth(
    lengths: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    label: str,
    shown: Callable[[float], str],
    points: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What grows with the tokens in a text, both axes logarithmic: predicted lines, and measured points on them.

    Args:
        lengths: tokens.
        lines: a value for each length, by name.
        label: of the quantity.
        shown: writes a value with its unit, for the ticks.
        points: measured (length, value) pairs, by the name of the line that they belong to.
        ax: where to draw; a new figure without it.

    Raises:
        KeyError: points that belong to no line.
    """
    ax = style.axes(ax)
    colours = {name: style.COLOURS[i] for i, name in enumerate(lines)}
    for i, (name, values) in enumerate(lines.items()):
        ax.plot(lengths, values, color=colours[name], ls=style.LINES[i], label=name)
    for i, (name, pairs) in enumerate((points or {}).items()):
        x, y = zip(*pairs, strict=True)
        ax.plot(x, y, ls="", marker=style.MARKERS[i], color=colours[name], ms=8, mec="white", label=f"{name}: measured")
    ax.set(xscale="log", yscale="log", xlabel="tokens in the text", ylabel=label)
    ax.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(lambda value, _: shown(value))
    ax.legend(fontsize=style.SMALL)
    return ax
