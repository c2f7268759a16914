"""Where bytes spend their time: messages on a wire, files on their way to GPUs, saves between failures."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from ..costs.collectives import Wire
from ..costs.storage import Trip
from ..specs.figures import si
from . import style

TICKS = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)  # of an axis of durations


def plot_messages(points: Sequence[tuple[float, float]], wires: Mapping[str, Wire], ax: Axes | None = None) -> Axes:
    """Seconds of messages over their bytes: measured ones as dots, a line for each wire; both axes logarithmic.

    Args:
        points: bytes and seconds, as measured; the first of `wires` is the one that was fitted to them.
        wires: by label. A dot on a line marks the message that takes as long for its latency as for its bytes.
        ax: where to draw; a new figure without it.

    Raises:
        ValueError: no message with bytes.
    """
    sizes = sorted(size for size, _ in points if size > 0)
    if not sizes:
        raise ValueError("no message with bytes to draw")
    ax = style.axes(ax)
    for i, (label, wire) in enumerate(wires.items()):
        colour, line = style.COLOURS[i % len(style.COLOURS)], style.LINES[i % len(style.LINES)]
        grid = [sizes[0] * (sizes[-1] / sizes[0]) ** (k / 200) for k in range(201)]
        ax.plot(grid, [wire.seconds(size) for size in grid], color=colour, ls=line, label=label)
        if sizes[0] < wire.even_bytes < sizes[-1]:
            ax.plot(wire.even_bytes, wire.seconds(wire.even_bytes), "o", ms=9, mfc="none", color=colour)
    ax.plot(*zip(*points, strict=True), "x", color="black", ms=7, label="measured")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda size, _: si(size, "B"))
    style.seconds_axis(ax)
    ax.set(xlabel="bytes of the message", ylabel="one way")
    ax.legend(fontsize=style.SMALL)
    return ax


def plot_loads(trips: Mapping[int, Trip], ax: Axes | None = None) -> Axes:
    """Seconds that each stretch of the way needs, over the number of nodes that load; the uppermost line decides.

    Args:
        trips: by the number of nodes, each over the same stretches.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    nodes = sorted(trips)
    for i, name in enumerate(trips[nodes[0]].parts):
        look = {"color": style.COLOURS[i], "marker": style.MARKERS[i], "ls": style.LINES[i]}
        ax.plot(nodes, [trips[n].parts[name] for n in nodes], label=name, **look)
    ax.plot(nodes, [trips[n].seconds for n in nodes], color="black", lw=6, alpha=0.15, label="the slowest")
    ax.set_xscale("log", base=2)
    ax.set_xticks(nodes, [str(n) for n in nodes])
    ax.xaxis.set_minor_locator(NullLocator())
    style.seconds_axis(ax)
    ax.set(xlabel="nodes that load at the same time", ylabel="to load")
    ax.legend(fontsize=style.SMALL)
    return ax


def plot_efficiency(
    curve: Sequence[tuple[float, float]],
    simulated: Sequence[tuple[float, float]],
    marks: Mapping[str, float],
    ax: Axes | None = None,
) -> Axes:
    """Share of the time that a run gets on by, over the seconds between its saves.

    Args:
        curve: interval and efficiency by the formula.
        simulated: the same of simulated runs, as dots.
        marks: intervals to mark with a line, by label.
        ax: where to draw; a new figure without it.
    """
    ax = style.axes(ax)
    ax.plot(*zip(*curve, strict=True), color=style.COLOURS[0], label="formula")
    if simulated:
        ax.plot(*zip(*simulated, strict=True), "o", color=style.COLOURS[1], label="simulated runs", ms=5, alpha=0.7)
    for line, (label, interval) in zip(style.LINES[1:], marks.items(), strict=False):
        ax.axvline(interval, color="black", ls=line, lw=1.2, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(_duration))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks([tick for tick in TICKS if curve[0][0] <= tick <= curve[-1][0]])
    ax.set(xlabel="computed between two saves", ylabel="share of the time that counts", ylim=(0, 1.02))
    ax.legend(fontsize=style.SMALL, loc="lower center")
    return ax


def _duration(seconds: float, _: object) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
