"""The next token: bars over what may come; and shares of parts, stacked."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from . import style
from .attention import _visible

# A part of a model has one colour in every picture; other parts take what is left.
PARTS = {"embedding": 0, "table of tokens": 0, "attention": 1, "qkv": 1, "mlp": 2, "comparing tokens": 3, "output": 4}
PARTS |= {"head": 5, "norms": 6}


def plot_next(choices: Sequence[tuple[str, float]], ax: Axes | None = None, end: float | None = None) -> Axes:
    """Bars of the likeliest next tokens, (text, probability), the best on top.

    Args:
        choices: at least one.
        ax: where to draw; a new figure without it.
        end: the probability at the axis' right end; without it the longest bar has the picture's width.
    """
    ax = style.axes(ax, height=0.9 + 0.28 * len(choices))
    places = np.arange(len(choices))
    ax.barh(places, [p for _, p in choices], color=style.COLOURS[0])
    ax.set_yticks(places, [_visible(text) for text, _ in choices])
    for place, (_, p) in zip(places, choices, strict=True):
        ax.text(p, place, f" {p:.1%}", va="center", fontsize=style.SMALL)
    ax.invert_yaxis()
    ax.set(xlabel="probability", xlim=(0, end or 1.15 * max(p for _, p in choices)))
    ax.grid(axis="y", visible=False)
    return ax


def plot_shares(columns: Mapping[str, Mapping[str, float]], ylabel: str, ax: Axes | None = None) -> Axes:
    """Columns of parts, stacked to 100%; a part that a column lacks counts as zero."""
    ax = style.axes(ax, width=min(3.2 + 0.8 * len(columns), style.WIDTH), height=4.2)
    parts = list(dict.fromkeys(part for column in columns.values() for part in column))
    bottom = np.zeros(len(columns))
    left = cycle(i for i in range(len(style.COLOURS)) if i not in {PARTS.get(part) for part in parts})
    for part in parts:
        colour = style.COLOURS[PARTS[part] if part in PARTS else next(left)]
        shares = np.array([column.get(part, 0) / sum(column.values()) for column in columns.values()])
        ax.bar(list(columns), shares, bottom=bottom, color=colour, label=part, width=0.7)
        for place, (share, below) in enumerate(zip(shares, bottom, strict=True)):
            if share > 0.06:
                look = {"ha": "center", "va": "center", "color": style.ink(colour), "fontsize": style.SMALL}
                ax.text(place, below + share / 2, f"{share:.0%}", **look)
        bottom += shares
    ax.set(ylabel=ylabel, ylim=(0, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    style.legend_above(ax, ncols=2)
    ax.grid(axis="x", visible=False)
    style.slant_labels(ax, columns)
    return ax
