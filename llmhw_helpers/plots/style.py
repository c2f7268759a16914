"""One look for every figure: colours that colour-blind readers tell apart, a white ground on dark pages too."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from ..specs.figures import si

# Okabe and Ito, "Color Universal Design" (2008), the yellow left out: it vanishes on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110,
    "font.size": 11,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def axes(ax: Axes | None, width: float = 7.5, height: float = 4.4) -> Axes:
    """`ax` itself, or a new one of `width` x `height` inches in the course's style."""
    if ax is not None:
        return ax
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]


def seconds_axis(ax: Axes) -> None:
    """A logarithmic axis of seconds whose ticks can be read: at 1, 2 and 5 of each power of ten, ``20 ms``, ``1 s``."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda seconds, _: si(seconds, "s"))
    ax.yaxis.set_minor_locator(NullLocator())
