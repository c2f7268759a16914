"""Quantised models: size against quality, and what real activations look like."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from . import style


def plot_pareto(models: Mapping[str, tuple[float, float]], reference: float, ax: Axes | None = None) -> Axes:
    """Perplexity against bits per weight, a marker for each model; a line joins those that no other beats in both.

    Args:
        models: bits per weight and perplexity by name.
        reference: the unquantised model's perplexity, a dotted line.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    ax.axhline(reference, color="gray", ls=":", lw=1.2, label="as in the file")
    best = sorted(point for point in models.values() if not any(_beats(other, point) for other in models.values()))
    ax.plot(*zip(*best, strict=True), color="gray", lw=1, zorder=1)
    for i, (name, (bits, perplexity)) in enumerate(models.items()):
        colour, marker = style.COLOURS[i % len(style.COLOURS)], style.MARKERS[i % len(style.MARKERS)]
        face = colour if i < len(style.COLOURS) else "white"
        ax.plot(bits, perplexity, ls="", marker=marker, ms=9, color=colour, mfc=face, label=name)
    ax.set(xlabel="bits per weight, scales included", ylabel="perplexity (logarithmic)", yscale="log")
    ticks = [
        n
        for n in (10, 15, 20, 30, 50, 100, 200, 500, 1000)
        if 0.8 * reference < n < 1.3 * max(p for _, p in models.values())
    ]
    ax.set_yticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=style.SMALL)
    return ax


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def plot_outliers(ratios: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """The largest magnitude over the middle one, layer by layer, a line for each kind of input; logarithmic."""
    ax = style.axes(ax)
    for i, (name, values) in enumerate(ratios.items()):
        layers = range(len(values))
        ax.plot(layers, values, color=style.COLOURS[i], ls=style.LINES[i], marker=style.MARKERS[i], ms=4, label=name)
    ax.set(yscale="log", xlabel="layer", ylabel="largest / middle magnitude")
    ax.legend(fontsize=style.SMALL)
    return ax
