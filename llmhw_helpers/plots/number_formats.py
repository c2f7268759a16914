"""Number formats: their bits, the numbers that they can hold, how far these lie apart, and what real numbers need."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from . import style

FIELDS = {"sign": "#CC79A7", "exponent": "#E69F00", "mantissa": "#56B4E9", "number": "#56B4E9"}
LETTERED = 32  # bits in a row of which each can still be read


def plot_bits(rows: Mapping[str, Mapping[str, str]], ax: Axes | None = None) -> Axes:
    """Codes bit by bit, a row each, coloured by field, the sign at the left.

    Args:
        rows: by label, the bits of each field in their order, as `Dtype.split` gives them.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax, height=0.9 + 0.42 * len(rows))
    longest = max(sum(map(len, fields.values())) for fields in rows.values())
    for row, fields in enumerate(rows.values()):
        at = 0
        for field, bits in fields.items():
            ax.barh([row] * len(bits), 1, 0.72, range(at, at + len(bits)), color=FIELDS[field], edgecolor="white", lw=1)
            for i, bit in enumerate(bits if longest <= LETTERED else ""):
                ax.text(at + i + 0.5, row, bit, ha="center", va="center", fontsize=style.SMALL)
            at += len(bits)
    shown = {"exponent": "exponent", "mantissa": "mantissa or number", "number": "mantissa or number", "sign": "sign"}
    names = dict.fromkeys(shown[field] for fields in rows.values() for field in fields)
    patches = [Patch(color=FIELDS[name.split()[0]], label=name) for name in names]
    style.legend_above(ax, ncols=3, handles=patches)
    ax.set(xlim=(0, longest), ylim=(len(rows) - 0.5, -0.5), xticks=[])
    ax.set_yticks(range(len(rows)), list(rows))
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(left=False)
    return ax


def plot_numbers(rows: Mapping[str, Sequence[float]], label: str, ax: Axes | None = None) -> Axes:
    """All numbers that a format can hold, a stroke each and a row a format, on one linear axis called `label`."""
    ax = style.axes(ax, height=1.1 + 0.45 * len(rows))
    for row, numbers in enumerate(rows.values()):
        ax.eventplot(numbers, lineoffsets=row, linelengths=0.6, colors=style.COLOURS[row % 7], linewidths=1.2)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    ax.grid(visible=False, axis="y")
    return ax


def plot_steps(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], ax: Axes | None = None) -> Axes:
    """How far the numbers of a format lie apart, relative to their size, against the size.

    Args:
        lines: by format, magnitudes and, for each, the step to the next number divided by it.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    for i, (label, (sizes, steps)) in enumerate(lines.items()):
        colour, line = style.COLOURS[i % 7], style.LINES[i % 7]
        width = 1.5 + 0.5 * i  # of two formats with equal steps, the later one lies wider on the other
        ax.plot(sizes, steps, color=colour, ls=line, lw=width, label=label, drawstyle="steps-post")
    ax.set(xscale="log", yscale="log", xlabel="size of the number", ylabel="step to the next, relative to it")
    ax.legend(fontsize=style.SMALL, ncols=2)
    return ax


def plot_magnitudes(
    exponents: Sequence[int], counts: Sequence[float], limits: Mapping[str, float], ax: Axes | None = None
) -> Axes:
    """How many numbers have which power of two, and what a format can hold of them.

    Args:
        exponents: powers of two.
        counts: numbers from that power of two up to the next, as a share.
        limits: by label, powers of two to mark.
        ax: where to draw; a new figure without it.

    Raises:
        ValueError: not as many counts as exponents.
    """
    if len(exponents) != len(counts):
        raise ValueError(f"{len(counts)} counts for {len(exponents)} exponents")
    ax = style.axes(ax)
    ax.bar(exponents, counts, width=1, align="edge", color=style.COLOURS[5], edgecolor="white", lw=0.4)
    for i, (label, limit) in enumerate(limits.items()):
        ax.axvline(limit, color=style.COLOURS[i % 5], ls=style.LINES[1 + i % 4], lw=1.6, label=label)
    ax.set(xlabel="size, as a power of two", ylabel="share of the numbers")
    ax.legend(fontsize=style.SMALL)
    return ax
