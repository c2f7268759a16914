"""The flavours of a choice as bars, and what a limit on the memory does to the speed of a streamed model."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from ..costs.flavours import Option
from ..specs.figures import si
from . import style

KINDS = {  # what a bar says: colour, hatch
    "multiplied as it is stored": (style.COLOURS[2], ""),
    "fits, and is widened": (style.COLOURS[5], ""),
    "not to be taken": ("#dddddd", "//"),
}


def plot_options(
    options: Sequence[Option], best: Option | None = None, ax: Axes | None = None, longest: float | None = None
) -> Axes:
    """Predicted tokens per second of each option, a bar each, with its bytes or with what speaks against it.

    Args:
        options: one of each flavour, the first on top.
        best: of them, its name in bold.
        ax: where to draw; a new figure without it.
        longest: tokens per second that the axis has room for; those of the fastest option without it.
    """
    ax = style.axes(ax, height=0.36 * len(options) + 1.2)
    longest = longest or max((option.tokens_per_s for option in options), default=0) or 1.0
    for row, option in enumerate(options):
        colour, hatch = KINDS[_kind(option)]
        ax.barh(row, option.tokens_per_s, 0.7, color=colour, hatch=hatch, edgecolor="white")
        said = option.refused if option.refused else f"{si(option.bytes, 'B')}, loses {option.loss:.1%}"
        if option.refused.startswith("may"):
            said = "unknown"
        ax.text(option.tokens_per_s + 0.01 * longest, row, said, va="center", fontsize=style.SMALL)
    ax.set_yticks(range(len(options)), [option.name for option in options])
    for tick, option in zip(ax.get_yticklabels(), options, strict=True):
        tick.set_fontweight("bold" if option is best else "normal")
    ax.set(xlim=(0, 1.35 * longest), ylim=(len(options) - 0.5, -0.5), xlabel="tokens per second, at most")
    ax.grid(False, axis="y")
    patches = [Patch(facecolor=colour, hatch=hatch, label=label) for label, (colour, hatch) in KINDS.items()]
    style.legend_above(ax, ncols=1, handles=patches)
    return ax


def _kind(option: Option) -> str:
    hardware, fits, refused = KINDS
    return refused if option.refused else hardware if option.state == "hardware" else fits


def plot_limits(
    predicted: Mapping[str, Sequence[tuple[float, float]]],
    found: Sequence[tuple[float, float]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Tokens per second over the bytes of weights that may lie in memory.

    Args:
        predicted: lines by label, each of bytes and tokens per second.
        found: measured points.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    for i, (label, points) in enumerate(predicted.items()):
        ax.plot(*zip(*points, strict=True), color=style.COLOURS[i], ls=style.LINES[i], label=label)
    if found:
        ax.plot(*zip(*found, strict=True), "o", ms=8, color=style.COLOURS[len(predicted)], label="measured")
    ax.set(yscale="log", xlabel="limit on the weights in memory", ylabel="tokens per second")
    ax.xaxis.set_major_formatter(lambda size, _: si(size, "B"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend()
    return ax
