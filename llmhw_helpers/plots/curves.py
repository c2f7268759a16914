"""Curves side by side: what most pictures of a notebook are."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from . import style


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    log: str = "",
    marked: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Lines through points, by label; each has a colour and, so that colour is not all, a dash or a mark of its own.

    Args:
        curves: by label, the x and the y of each point.
        xlabel, ylabel: what the axes show, with units.
        log: the logarithmic axes: ``"x"``, ``"y"``, ``"xy"`` or none.
        marked: a mark on each point, in place of dashes.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    for i, (label, (xs, ys)) in enumerate(curves.items()):
        look = {"marker": style.MARKERS[i]} if marked else {"ls": style.LINES[i]}
        ax.plot(xs, ys, color=style.COLOURS[i], label=label, **look)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for axis in log:
        ax.set(**{f"{axis}scale": "log"})
    ax.legend()
    return ax
