"""One look for every figure: colours that colour-blind readers tell apart, a white ground on dark pages too."""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import LogLocator, NullLocator

from ..specs.figures import si

# Okabe and Ito, "Color Universal Design" (2008), the yellow left out: it vanishes on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
# A phone leaves 342 pixels for a picture. Letters of SMALL points in one of WIDTH inches are 8.5 pixels high there.
WIDTH, SMALL = 5.6, 10
LETTERS = 45  # that stand side by side below a picture
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


def axes(ax: Axes | None, width: float = WIDTH, height: float = 3.9) -> Axes:
    """`ax` itself, or a new one of `width` x `height` inches in the course's style."""
    if ax is not None:
        return ax
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]


def legend_above(ax: Axes, ncols: int, **more: Any) -> None:
    """The legend over the axes, where no data are and no letters are lost at the sides."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    look = {"fontsize": SMALL, "frameon": False, "columnspacing": 1.2, "handlelength": 1.6}
    ax.legend(ncols=ncols, **(place | look | more))


def slant_labels(ax: Axes, labels: Iterable[str]) -> None:
    """Slant the names below columns where the longest line of one would touch its neighbours."""
    labels = list(labels)
    longest = max(len(line) for label in labels for line in label.split("\n"))
    if longest * len(labels) > LETTERS:
        for tick in ax.get_xticklabels():
            tick.set(rotation=35, ha="right", rotation_mode="anchor")


def ink(ground: str | tuple[float, ...]) -> str:
    """Black or white: the one that stands out more from `ground`, by 4.5 at least.

    >>> [ink(colour) for colour in COLOURS[:4]]
    ['white', 'black', 'black', 'black']
    """
    return "black" if contrast("black", ground) >= contrast("white", ground) else "white"


def contrast(one: str | tuple[float, ...], other: str | tuple[float, ...]) -> float:
    """Of two colours: 1 for the same, 21 for black and white. "Web Content Accessibility Guidelines" (WCAG) 2.2.

    >>> round(contrast("white", "#777777"), 2)
    4.48
    """
    low, high = sorted(_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str | tuple[float, ...]) -> float:
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def seconds_axis(ax: Axes) -> None:
    """A logarithmic axis of seconds whose ticks can be read: at 1, 2 and 5 of each power of ten, ``20 ms``, ``1 s``."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda seconds, _: si(seconds, "s"))
    ax.yaxis.set_minor_locator(NullLocator())
