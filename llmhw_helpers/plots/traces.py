"""A trace as a picture: who worked when, and what took longest."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..measure.trace_files import RANGES, Span
from ..measure.traces import Tally, Trace, parents
from ..specs.figures import si
from . import style

WORKS, LOADS, WAITS, GPU, NAMED = "operation", "waits for data", "waits for the device", "GPU", "named part"
COLOURS = {
    WORKS: style.COLOURS[0],
    LOADS: style.COLOURS[4],
    WAITS: style.COLOURS[1],
    GPU: style.COLOURS[2],
    NAMED: "#dddddd",
}
LETTER = 0.02  # its width, as a share of the picture's


def plot_timeline(trace: Trace, ax: Axes | None = None) -> Axes:
    """A row for each thread, its named parts above its operations, and one for each stream of a GPU.

    What is left white in a row of operations is a gap. A piece of a trace, ``trace.within(step)``, shows more of it.
    """
    rows = _rows(trace)
    ax = style.axes(ax, height=0.4 * len(rows) + 1.3)
    for y, (_, row) in enumerate(rows):
        for kind, spans in row.items():
            bars = [(span.start_s - trace.begin_s, span.seconds) for span in spans]
            edge = {"edgecolor": "white", "linewidth": 0.8 if kind == NAMED else 0.0}  # a thin bar would be all edge
            ax.broken_barh(bars, (y - 0.4, 0.8), facecolor=COLOURS[kind], **edge)
        for span in row.get(NAMED, ()):
            if len(span.name) * LETTER * trace.seconds < span.seconds:
                middle = (span.start_s + span.end_s) / 2 - trace.begin_s
                ax.text(middle, y, span.name, ha="center", va="center", fontsize=style.SMALL)
    drawn = {kind for _, row in rows for kind, spans in row.items() if spans}
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items() if kind in drawn]
    style.legend_above(ax, ncols=3, handles=handles)
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.set(xlim=(0, trace.seconds), ylim=(len(rows) - 0.5, -0.5), xlabel="time")
    ax.xaxis.set_major_formatter(lambda seconds, _: si(seconds, "s") if seconds else "0")
    ax.grid(False)
    return ax


def plot_longest(tallies: Sequence[Tally], ax: Axes | None = None) -> Axes:
    """A bar for each name, the longest on top: the time that it took itself, and how often it ran.

    Raises:
        ValueError: nothing to draw.
    """
    if not tallies:
        raise ValueError("no operations to draw: trace.longest() gives them")
    ax = style.axes(ax, height=0.35 * len(tallies) + 1.0)
    bars = ax.barh(range(len(tallies)), [tally.own_seconds for tally in tallies], color=COLOURS[WORKS])
    ax.bar_label(bars, [f" {tally.count:,} x" for tally in tallies], fontsize=style.SMALL)
    ax.set_yticks(range(len(tallies)), [_short(tally.name) for tally in tallies])
    ax.invert_yaxis()
    ax.set_xlabel("own time")
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.xaxis.set_major_formatter(lambda seconds, _: si(seconds, "s") if seconds else "0")
    ax.grid(axis="y", visible=False)
    return ax


def _short(name: str) -> str:
    """The names of kernels are long, and often differ at their ends."""
    return name if len(name) <= 30 else f"{name[:14]}…{name[-15:]}"


def _rows(trace: Trace) -> list[tuple[str, dict[str, list[Span]]]]:
    """Labels, each with what to draw by kind: a thread has a row for each depth of its named parts, then its work."""
    waits, loads, rows = trace.synchronisations(), trace.loading(), []
    for lane in trace.threads:
        here = [span for span in trace.spans if span.lane == lane]
        rows += [("", {NAMED: level}) for level in _levels([span for span in here if span.kind in RANGES])]
        operations = _levels([span for span in here if span.kind not in RANGES])
        row = {WORKS: operations[0] if operations else []}
        row[LOADS], row[WAITS] = ([span for span in spans if span.lane == lane] for spans in (loads, waits))
        rows.append((lane, row))  # what waits comes last: it is drawn over the operation around it
    return rows + [(lane, {GPU: [span for span in trace.spans if span.lane == lane]}) for lane in trace.streams]


def _levels(spans: Sequence[Span]) -> list[list[Span]]:
    """The spans of a lane by how many others are around them."""
    depths: list[int] = []
    for i in parents(spans):
        depths.append(0 if i is None else depths[i] + 1)
    n_levels = max(depths, default=-1) + 1
    return [[span for span, depth in zip(spans, depths, strict=True) if depth == level] for level in range(n_levels)]
