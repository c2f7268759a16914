"""Models in pieces: one matrix cut three ways, who holds what under ZeRO, what each way sends, what a step goes to."""

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from ..specs.figures import si
from . import style

WHOLE = "#dddddd"  # on every rank
TERMS = "////"  # a sum of which every rank has one term
ROWS, COLUMNS, DEPTH = 4, 6, 5  # of what is drawn: rows of X, columns of W, and what a product sums over


@dataclass(frozen=True)
class Cut:
    """One way to share the product ``Y = X W`` among ranks.

    Attributes:
        x, w, y: how each lies on the ranks: ``"rows"``, ``"columns"``, ``"whole"`` (a copy on each), ``"terms"`` (each
            has a term of the sum).
        sent: what has to be sent, and when.
    """

    x: str
    w: str
    y: str
    sent: str


FREE_FORWARD = "forward: nothing, while Y\nmay stay in pieces\nbackward: X's gradient is a sum"
CUTS: Mapping[str, Cut] = {
    "by batch": Cut("rows", "whole", "rows", "forward: nothing\nbackward: W's gradient\nis a sum over all ranks"),
    "by columns of W": Cut("whole", "columns", "columns", FREE_FORWARD),
    "by rows of W": Cut("columns", "rows", "terms", "forward: Y is a sum\nover all ranks\nbackward: nothing"),
}
HELD = ("weights", "gradients", "optimizer")


def plot_cuts(n_ranks: int = 2, ax: Axes | None = None) -> Axes:
    """The product ``Y = X W`` cut by batch, by columns and by rows: a colour a rank, grey what each has whole."""
    ax = style.axes(ax, height=5.6)
    for row, (name, cut) in enumerate(CUTS.items()):
        top = -row * (DEPTH + 3)
        _matrix(ax, 0, top, DEPTH, ROWS, cut.x, n_ranks)
        _matrix(ax, DEPTH + 1.5, top, COLUMNS, DEPTH, cut.w, n_ranks)
        _matrix(ax, DEPTH + COLUMNS + 3, top, COLUMNS, ROWS, cut.y, n_ranks)
        middle = top - ROWS / 2
        for x, sign in ((DEPTH + 0.75, "·"), (DEPTH + COLUMNS + 2.25, "=")):
            ax.text(x, middle, sign, ha="center", va="center", fontsize=16)
        ax.text(0, top + 0.4, name, ha="left", va="bottom", fontsize=11, weight="bold")
        ax.text(DEPTH + 2 * COLUMNS + 3.8, middle, cut.sent, ha="left", va="center", fontsize=style.SMALL)
    for x, width, name in ((0, DEPTH, "X"), (DEPTH + 1.5, COLUMNS, "W"), (DEPTH + COLUMNS + 3, COLUMNS, "Y")):
        ax.text(x + width / 2, 2.4, name, ha="center", va="bottom", fontsize=12)
    handles = [Patch(facecolor=_colour(rank), label=f"rank {rank}") for rank in range(n_ranks)]
    handles.append(Patch(facecolor=WHOLE, label="whole, on every rank"))
    handles.append(Patch(facecolor="white", edgecolor="#555555", hatch=TERMS, label="each rank has a term of the sum"))
    ax.figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=style.SMALL, frameon=False)
    ax.set(xlim=(-0.3, DEPTH + 2 * COLUMNS + 16), ylim=(-3 * (DEPTH + 3) + 2.4, 4.0), aspect="equal")
    ax.set_axis_off()
    return ax


def plot_zero(n_ranks: int = 4, ax: Axes | None = None) -> Axes:
    """Who holds what at each stage of ZeRO: a column a rank, filled the part that it has."""
    ax = style.axes(ax, height=2.6)
    for stage in range(4):
        left = stage * (n_ranks + 1.2)
        for rank in range(n_ranks):
            for row in range(len(HELD)):
                cut = stage >= len(HELD) - row  # stage 1 cuts the last of them, 2 the last two, 3 all
                _box(ax, left + rank, -row, 0.86, 0.8, "white")
                if cut:
                    _box(ax, left + rank, -row - rank * 0.8 / n_ranks, 0.86, 0.8 / n_ranks, _colour(rank))
                else:
                    _box(ax, left + rank, -row, 0.86, 0.8, _colour(rank))
        title = "data parallel" if stage == 0 else f"ZeRO-{stage}"
        ax.text(left + n_ranks / 2 - 0.07, 0.25, title, ha="center", va="bottom", fontsize=11)
    for row, name in enumerate(HELD):
        ax.text(-0.3, -row - 0.4, name, ha="right", va="center", fontsize=11)
    ax.set(xlim=(-3.2, 4 * (n_ranks + 1.2) - 1.2), ylim=(-len(HELD) + 0.1, 0.7))
    ax.set_axis_off()
    return ax


def plot_sent(sent: Mapping[str, float], speeds: Mapping[str, float] | None = None, ax: Axes | None = None) -> Axes:
    """What one rank sends in a step, a bar for each way of cutting, and how far a link gets in a second.

    Args:
        sent: bytes by way of cutting, none of them 0.
        speeds: bytes a second by link; a line each.
        ax: where to draw; a new figure without it.

    Raises:
        ValueError: a way that sends nothing has no place on a logarithmic axis.
    """
    if sent and min(sent.values()) <= 0:
        raise ValueError(f"{min(sent, key=sent.get)} sends nothing, which a logarithmic axis cannot show")
    ax = style.axes(ax, height=0.55 * len(sent) + 1.9)
    ax.barh(range(len(sent)), list(sent.values()), 0.6, color=style.COLOURS[0])
    for row, value in enumerate(sent.values()):
        ax.text(
            value * 1.15,
            row,
            si(value, "B"),
            va="center",
            fontsize=style.SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    for i, (name, speed) in enumerate((speeds or {}).items()):
        label = f"{name}, one second: {si(speed, 'B')}"
        ax.axvline(speed, color=style.COLOURS[1 + i], ls=style.LINES[1 + i], lw=1.6, label=label)
    ax.set_yticks(range(len(sent)), list(sent))
    ax.set(xscale="log", ylim=(len(sent) - 0.4, -0.6), xlabel="bytes that one rank sends in a step")
    shown = [*sent.values(), *(speeds or {}).values()]
    ax.set_xlim(min(shown, default=1) / 4, 12 * max(shown, default=10))
    ax.xaxis.set_major_formatter(lambda value, _: si(value, "B"))
    ax.grid(False, axis="y")
    if speeds:
        style.legend_above(ax, ncols=1)
    return ax


def plot_steps(steps: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """What the seconds of a step go to, a bar for each layout, the first one on top; what takes no time is left out.

    Args:
        steps: seconds by part, by layout.
        ax: where to draw; a new figure without it.

    Raises:
        ValueError: more parts than there are colours.
    """
    ax = style.axes(ax, height=0.5 * len(steps) + 1.6)
    names = dict.fromkeys(name for parts in steps.values() for name, seconds in parts.items() if seconds)
    if len(names) > len(style.COLOURS):
        raise ValueError(f"{len(names)} parts, and {len(style.COLOURS)} colours: add some of the parts up")
    left = [0.0] * len(steps)
    for name, colour in zip(names, style.COLOURS, strict=False):
        seconds = [parts.get(name, 0.0) for parts in steps.values()]
        ax.barh(range(len(steps)), seconds, 0.7, left, color=colour, edgecolor="white", linewidth=0.5, label=name)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    ax.set_yticks(range(len(steps)), list(steps))
    ax.set(ylim=(len(steps) - 0.4, -0.6), xlabel="seconds of a step")
    ax.grid(False, axis="y")
    style.legend_above(ax, ncols=3)
    return ax


def _colour(rank: int) -> str:
    return style.COLOURS[rank % len(style.COLOURS)]


def _matrix(ax, x, top, width, height, lies, n_ranks):
    """A matrix with its upper left corner at (x, top), coloured by who holds what."""
    if lies == "whole":
        _box(ax, x, top, width, height, WHOLE)
    for rank in range(n_ranks if lies in ("rows", "columns") else 0):
        if lies == "rows":
            _box(ax, x, top - rank * height / n_ranks, width, height / n_ranks, _colour(rank))
        else:
            _box(ax, x + rank * width / n_ranks, top, width / n_ranks, height, _colour(rank))
    if lies == "terms":
        for rank in reversed(range(n_ranks)):  # one sheet behind the other
            shift = 0.45 * rank
            _box(ax, x + shift, top + shift, width, height, "white", edgecolor=_colour(rank), hatch=TERMS)


def _box(ax, x, top, width, height, facecolor, edgecolor="#555555", hatch=None):
    ax.add_patch(Rectangle((x, top - height), width, height, facecolor=facecolor, edgecolor=edgecolor, hatch=hatch))
