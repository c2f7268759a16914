"""Training: losses with the floors under them, power laws, and predicted lines with measured marks."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ..costs.training import PowerLaw
from . import style


def plot_losses(
    curves: Mapping[str, Sequence[float]], floors: Mapping[str, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Loss against steps, which are counted from 1 on a logarithmic axis, and floors as lines with their names.

    Args:
        curves: losses of each step, in nats a token, by label.
        floors: what nobody of a kind can go below, by the name of the kind.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    for i, (label, losses) in enumerate(curves.items()):
        ax.plot(np.arange(1, len(losses) + 1), losses, color=style.COLOURS[i], lw=1.6, label=label)
    for i, (label, floor) in enumerate((floors or {}).items()):
        ax.axhline(floor, color="black", ls=style.LINES[(i + 1) % len(style.LINES)], lw=1.1)
        where = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center"}
        said = f"{label}: {floor:.2f}"  # beside the axes: no curve is there
        ax.annotate(said, (1.01, floor), fontsize=style.SMALL, **where)
    longest = max(len(losses) for losses in curves.values())
    ax.set(xscale="log", xlim=(1, longest), xlabel="step", ylabel="loss (nats a token)")
    ax.xaxis.set_major_formatter(lambda step, _: f"{step:g}")
    if len(curves) > 1:
        ax.legend(fontsize=style.SMALL)
    return ax


def plot_law(
    law: PowerLaw,
    fitted: Sequence[tuple[float, float]],
    beyond: Sequence[tuple[float, float]],
    label: str = "",
    place: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """A power law as a line through the points it was fitted to, dashed where it predicts, and what came out there.

    Args:
        law: the line.
        fitted, beyond: (x, y) of the points fitted, full marks, and of those predicted, hollow ones.
        label: of the law, for the legend.
        place: which of the course's colours and markers; give each law of a picture its own. Later ones have smaller
            marks, so that a point of two laws shows both.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    colour, marker, size = style.COLOURS[place], style.MARKERS[place], max(5, 11 - 4 * place)
    last, end = max(x for x, _ in fitted), max(x for x, _ in [*fitted, *beyond])
    said = f"{label}: predicted" if beyond else None
    for xs, line, name in (((min(x for x, _ in fitted), last), "-", None), ((last, end), "--", said)):
        grid = np.geomspace(*xs, 50)
        ax.plot(grid, [law(x) for x in grid], color=colour, ls=line, lw=1.4, label=name)
    ax.plot(*zip(*fitted, strict=True), ls="", marker=marker, color=colour, ms=size, label=f"{label}: fitted")
    hollow = {"ls": "", "marker": marker, "mec": colour, "mfc": "white", "mew": 2, "ms": size + 1}
    ax.plot(*zip(*beyond, strict=True), label=f"{label}: the next, measured", **hollow)
    ax.set(xscale="log", yscale="log")
    ax.legend(fontsize=style.SMALL)
    return ax


def plot_predicted(
    xs: Sequence[float],
    predicted: Mapping[str, Callable[[float], float]],
    measured: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
) -> Axes:
    """Predicted lines and, in the same colour, measured marks, by label.

    Args:
        xs: where it was measured.
        predicted: what is said of each x, drawn from the least to the greatest of `xs`.
        measured: what came out at each of `xs`.
        ax: where to draw; a new figure without it.
    """
    ax, grid = style.axes(ax), np.linspace(min(xs), max(xs), 500)
    for i, label in enumerate(predicted):
        look = {"color": style.COLOURS[i]}
        ax.plot(grid, [predicted[label](x) for x in grid], ls=style.LINES[i], label=f"{label}: predicted", **look)
        ax.plot(xs, measured[label], ls="", marker=style.MARKERS[i], label=f"{label}: measured", **look)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=style.SMALL)
    return ax
