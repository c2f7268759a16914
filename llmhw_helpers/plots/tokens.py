"""The next token: bars over what may come; and shares of parts, stacked."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from . import style
from .attention import _visible


def plot_next(choices: Sequence[tuple[str, float]], ax: Axes | None = None) -> Axes:
    """Bars of the likeliest next tokens, (text, probability), the best on top."""
    ax = style.axes(ax, width=6.5, height=0.9 + 0.28 * len(choices))
    places = np.arange(len(choices))
    ax.barh(places, [p for _, p in choices], color=style.COLOURS[0])
    ax.set_yticks(places, [_visible(text) for text, _ in choices])
    for place, (_, p) in zip(places, choices, strict=True):
        ax.text(p, place, f" {p:.1%}", va="center", fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel="probability", xlim=(0, 1.08))
    ax.grid(axis="y", visible=False)
    return ax


def plot_shares(columns: Mapping[str, Mapping[str, float]], ylabel: str, ax: Axes | None = None) -> Axes:
    """Columns of parts, stacked to 100%; a part that a column lacks counts as zero."""
    ax = style.axes(ax, width=1.8 + 1.6 * len(columns), height=4.2)
    parts = list(dict.fromkeys(part for column in columns.values() for part in column))
    bottom = np.zeros(len(columns))
    for i, part in enumerate(parts):
        shares = np.array([column.get(part, 0) / sum(column.values()) for column in columns.values()])
        ax.bar(list(columns), shares, bottom=bottom, color=style.COLOURS[i % len(style.COLOURS)], label=part, width=0.7)
        for place, (share, below) in enumerate(zip(shares, bottom, strict=True)):
            if share > 0.06:
                ax.text(place, below + share / 2, f"{share:.0%}", ha="center", va="center", color="white", fontsize=9)
        bottom += shares
    ax.set(ylabel=ylabel, ylim=(0, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    ax.grid(axis="x", visible=False)
    return ax
