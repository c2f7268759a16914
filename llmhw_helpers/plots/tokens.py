"""The next token: bars over what may come; and shares of parts, stacked."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from . import style
from .attention import _visible

DARK = ("#0072B2", "#000000")  # on these a label is white
# A part of a model has one colour in every picture; other parts take what is left.
PARTS = {"embedding": 0, "table of tokens": 0, "attention": 1, "qkv": 1, "mlp": 2, "comparing tokens": 3, "output": 4}
PARTS |= {"head": 5, "norms": 6}


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
    left = cycle(i for i in range(len(style.COLOURS)) if i not in {PARTS.get(part) for part in parts})
    for part in parts:
        colour = style.COLOURS[PARTS[part] if part in PARTS else next(left)]
        ink = "white" if colour in DARK else "black"
        shares = np.array([column.get(part, 0) / sum(column.values()) for column in columns.values()])
        ax.bar(list(columns), shares, bottom=bottom, color=colour, label=part, width=0.7)
        for place, (share, below) in enumerate(zip(shares, bottom, strict=True)):
            if share > 0.06:
                ax.text(place, below + share / 2, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=9)
        bottom += shares
    ax.set(ylabel=ylabel, ylim=(0, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    ax.grid(axis="x", visible=False)
    return ax
