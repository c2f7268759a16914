"""Cards side by side, caches as steps, and predictions as ranges."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..specs.figures import si
from . import style


def plot_working_sets(
    sizes: Sequence[int],
    rates: Sequence[float],
    predicted: Sequence[float],
    caches: Mapping[str, int],
    ax: Axes | None = None,
) -> Axes:
    """Bytes a second against the bytes that are read again and again, with a line at the size of each cache.

    Args:
        sizes: of the array, bytes.
        rates, predicted: measured and expected bytes per second, one a size.
        caches: bytes by name.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    ax.plot(sizes, predicted, color=style.COLOURS[0], drawstyle="steps-mid", label="predicted")
    ax.plot(sizes, rates, color=style.COLOURS[1], ls="", marker="o", ms=7, label="measured")
    ax.set(xscale="log", yscale="log", xlabel="bytes that are read again and again", ylabel="bytes per second")
    for name, n_bytes in caches.items():
        ax.axvline(n_bytes, color="gray", ls=":", lw=1.2)
        ax.text(n_bytes, 1.01, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=style.SMALL)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: _binary(float(n))))
    ax.set_xticks([2**10 * 8**k for k in range(8) if min(sizes) <= 2**10 * 8**k <= max(sizes)])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: si(float(rate), "B/s")))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(fontsize=style.SMALL)
    return ax


def plot_cards(
    cards: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    fits: Mapping[str, Sequence[bool]],
    label: str,
    ax: Axes | None = None,
) -> Axes:
    """A row for each card, from top to bottom, and a mark for each job: filled where it fits, hollow where it does not.

    Args:
        cards: names of the rows.
        series: values by job, one a card; None is left out.
        fits: by the same jobs, whether the card holds it.
        label: of the values, with their unit; the axis is logarithmic.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=0.6 + 0.24 * len(cards))
    for i, (job, values) in enumerate(series.items()):
        colour, marker = style.COLOURS[i], style.MARKERS[i]
        ax.plot([], [], ls="", marker=marker, color=colour, label=job)
        for row, (value, holds) in enumerate(zip(values, fits[job], strict=True)):
            if value is not None:
                fill = colour if holds else "none"
                ax.plot(value, row, ls="", marker=marker, ms=6, mec=colour, mfc=fill, mew=1.2)
    ax.set(xscale="log", xlabel=label, ylim=(len(cards) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(float(value), "").strip()))
    ax.set_yticks(range(len(cards)), cards, fontsize=style.SMALL)
    style.legend_above(ax, ncols=3, handletextpad=0.1)
    return ax


def plot_ranges(
    ranges: Sequence[tuple[float, float]],
    measured: Sequence[float],
    groups: Sequence[str],
    label: str,
    ax: Axes | None = None,
) -> Axes:
    """Predicted ranges as bars from low to high, sorted by their middle, and what was measured, a mark a group.

    Args:
        ranges: low and high.
        measured: one value for each range.
        groups: what each belongs to, such as a card; at most seven different ones.
        label: of the values, with their unit.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    names = list(dict.fromkeys(groups))
    order = sorted(range(len(ranges)), key=lambda i: ranges[i][0] * ranges[i][1])
    for x, i in enumerate(order):
        ax.plot([x, x], ranges[i], color="#bbbbbb", lw=5, solid_capstyle="butt", zorder=1)
    for name, colour, marker in zip(names, style.COLOURS, style.MARKERS, strict=False):
        xs = [x for x, i in enumerate(order) if groups[i] == name]
        ys = [measured[i] for i in order if groups[i] == name]
        ax.plot(xs, ys, ls="", marker=marker, color=colour, mec="white", ms=7, label=name, zorder=2)
    ax.set(yscale="log", ylabel=label, xlabel="measurements, slowest prediction first")
    ax.set_xticks([])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(fontsize=style.SMALL)
    return ax


def _binary(n_bytes: float) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:g} {unit}"
    return f"{n_bytes:g} B"
