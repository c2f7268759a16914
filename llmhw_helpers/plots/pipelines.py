"""A pipeline's schedule, as it was simulated or as it really ran: who worked on which micro-batch when."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from ..costs.pipelines import Event
from ..costs.schedules import BACKWARD, FORWARD
from ..specs.figures import si
from . import style

COLOURS = {FORWARD: style.COLOURS[0], BACKWARD: style.COLOURS[1]}
LIGHTEST = 0.6  # how much white the last chunk's colour has
NARROW = 0.017  # the share of the picture's width that a digit needs


def plot_schedule(events: Sequence[Event], ax: Axes | None = None, room: tuple[int, float] = (1, 0)) -> Axes:
    """A row for each rank, the first on top; each pass a bar with its micro-batch's number, waiting left white.

    A rank's later chunks, where it has several, are lighter. The time begins with the first pass.

    Args:
        events: of all ranks.
        ax: where to draw; a new figure without it.
        room: ranks and seconds that the axes have room for, at least; more where the events need more.

    Raises:
        ValueError: nothing to draw.
    """
    if not events:
        raise ValueError("no events to draw: simulate(schedule), or those of every rank's step")
    n_ranks, n_chunks = (1 + max(event[field] for event in events) for field in (0, 3))
    begin = min(event.start_s for event in events)
    length = max(room[1], max(event.end_s for event in events) - begin)
    n_rows = max(room[0], n_ranks)
    ax = style.axes(ax, height=0.5 * n_rows + 1.2)
    for event in events:
        seconds, start = event.end_s - event.start_s, event.start_s - begin
        colour = _lighter(COLOURS[event.kind], event.chunk, n_chunks)
        ax.barh(event.rank, seconds, 0.8, start, color=colour, edgecolor="white", linewidth=0.5)
        number = str(event.micro_batch)
        if seconds > NARROW * len(number) * length:
            look = {"ha": "center", "va": "center", "fontsize": style.SMALL, "color": style.ink(colour)}
            ax.text(start + seconds / 2, event.rank, number, **look)
    handles = [
        Patch(color=_lighter(COLOURS[kind], chunk, n_chunks), label=f"{kind}, chunk {chunk}" if n_chunks > 1 else kind)
        for kind in (FORWARD, BACKWARD)
        for chunk in range(n_chunks)
    ]
    # At the right: a title has its place at the left.
    style.legend_above(ax, ncols=2, handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    ax.set_yticks(range(n_ranks), [f"rank {rank}" for rank in range(n_ranks)])
    ax.set(xlim=(0, length), ylim=(n_rows - 0.5, -0.5), xlabel="time")
    ax.xaxis.set_major_formatter(lambda seconds, _: si(seconds, "s") if seconds else "0")
    ax.grid(False)
    return ax


def _lighter(colour: str, chunk: int, n_chunks: int) -> tuple[float, ...]:
    white = LIGHTEST * chunk / max(n_chunks - 1, 1)
    return tuple(part + (1 - part) * white for part in to_rgb(colour))
