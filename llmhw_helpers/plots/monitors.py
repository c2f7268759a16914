"""What a monitor sampled: a dashboard of panels over time, after a run, or live in the notebook while it goes on."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..measure.monitors import Monitor
from ..measure.series import Series
from ..specs.figures import si
from . import style

PANELS = {  # columns of a monitor that share an axis
    "processors": ("cpu_percent", "machine_cpu_percent"),
    "memory taken": ("rss_bytes", "gpu_memory_bytes"),
    "memory left": ("available_bytes",),
    "some task waits": ("cpu_pressure", "memory_pressure", "io_pressure"),
    "disk": ("read_bytes_per_s", "write_bytes_per_s"),
    "network": ("sent_bytes_per_s", "received_bytes_per_s"),
    "GPU": ("gpu_busy_percent", *(f"gpu{i}_busy_percent" for i in range(4))),
    "power": ("package_watts", "gpu_watts"),
}
MOST_LINES = 12  # that marks of one name are drawn as; more of them are ticks at the foot of the first panel
LEGEND = {"fontsize": style.SMALL, "frameon": False, "handlelength": 1.6, "columnspacing": 1.2}
DRAWING = 0.05  # of the time: a picture takes a tenth of a second, which the run would miss


def dashboard(series: Series, columns: int = 1) -> list[Axes]:
    """A panel for each thing that was sampled, over the seconds of the run, with its marks.

    Panels with no column in `series` are left out, and columns that no panel knows get one each. A sample is a step as
    wide as the time that it stands for.

    Args:
        series: of a `Monitor`, or with other columns.
        columns: of panels, side by side.

    Raises:
        ValueError: there is nothing to draw.
    """
    with plt.rc_context(style.STYLE):
        panels = _panels(plt.figure(layout="constrained"), series, columns)
        _update(panels, series)
        _draw_marks([ax for ax, _ in panels], series)
    return [ax for ax, _ in panels]


@contextmanager
def live(monitor: Monitor, every_s: float = 1.0) -> Iterator[None]:
    """Draw the dashboard of a monitor in the notebook, and again while the block goes on, at the same place.

    A thread draws, at most every `every_s` seconds and less often where drawing would take more than a twentieth of a
    core. That is more than sampling costs: do not watch live what you want to time. Outside a notebook nothing is
    drawn.

    Raises:
        RuntimeError: the monitor has not begun: write ``with Monitor() as monitor, live(monitor):``.
    """
    series = monitor.series()
    if get_ipython() is None:
        print("live draws in a notebook only; dashboard(monitor.series()) draws here, too, when the run has ended.")
        yield
        return
    with plt.rc_context(style.STYLE):  # in this thread alone: it changes settings of all
        figure = Figure(layout="constrained", dpi=80)
        panels = _panels(figure, series, 1)
    place = display(Image(_png(figure)), display_id=True)
    done = threading.Event()

    def draw():
        began = time.thread_time()
        _update(panels, monitor.series())
        place.update(Image(_png(figure)))
        return time.thread_time() - began

    def keep_drawing():
        took = 0.0
        while not done.wait(max(every_s, took / DRAWING)):
            took = draw()

    thread = threading.Thread(target=keep_drawing, name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _draw_marks([ax for ax, _ in panels], monitor.series())
        draw()


def _panels(figure: Figure, series: Series, columns: int) -> list[tuple[Axes, dict[str, Line2D]]]:
    """Axes, each with a line by the name of its column, without data yet."""
    known = {name for names in PANELS.values() for name in names}
    wanted = [[title, [name for name in names if name in series]] for title, names in PANELS.items()]
    wanted += [[name, [name]] for name in series.columns if name not in known]
    wanted = [[title, names] for title, names in wanted if names]
    if not wanted:
        raise ValueError("a series without columns: nothing to draw")
    columns = max(1, min(columns, len(wanted)))
    rows = -(-len(wanted) // columns)
    figure.set_size_inches(style.WIDTH, 1.75 * rows + 0.3)
    every = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for ax in every[len(wanted) :]:
        ax.remove()
    panels = []
    for ax, (title, names) in zip(every, wanted, strict=False):
        lines = {}
        for i, name in enumerate(names):
            look = {"color": style.COLOURS[i % len(style.COLOURS)], "ls": style.LINES[i % len(style.LINES)]}
            (lines[name],) = ax.plot([], [], drawstyle="steps-pre", lw=1.6, label=name, **look)
        ax.set_ylabel(title, fontsize=style.SMALL)
        ax.tick_params(labelsize=style.SMALL)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 0.97), ncols=3, **LEGEND)
        ax.yaxis.set_major_formatter(lambda value, _, unit=series.units[names[0]]: _tick(value, unit))
        panels.append((ax, lines))
    for ax, _ in panels[-columns:]:
        ax.xaxis.set_tick_params(labelbottom=True)
        ax.set_xlabel("seconds", fontsize=style.SMALL)
    return panels


def _tick(value: float, unit: str) -> str:
    return f"{value:g}%" if unit == "%" else si(value, unit)


def _update(panels: list[tuple[Axes, dict[str, Line2D]]], series: Series) -> None:
    for ax, lines in panels:
        top = 0.0
        for name, line in lines.items():
            if name in series and len(series):
                values = series[name]
                line.set_data([series.begin_s, *series.seconds], [values[0], *values])  # a step begins before it ends
                top = max(top, np.nanmax(values, initial=0.0))
        ax.set_ylim(0, 1.08 * top or 1)
        if len(series):
            ax.set_xlim(series.begin_s, max(series.seconds[-1], series.begin_s + 1e-3))


def _draw_marks(every: list[Axes], series: Series) -> None:
    """A line through all panels, with its name below them; ticks at the foot of each where there are many."""
    handles = []
    for i, name in enumerate(dict.fromkeys(name for _, name in series.marks)):
        times = series.times(name)
        look = {"color": style.COLOURS[-1 - i % len(style.COLOURS)], "label": name, "lw": 1.2}
        many = len(times) > MOST_LINES
        look |= {"ls": "", "marker": "|", "ms": 8} if many else {"ls": style.LINES[1 + i % (len(style.LINES) - 1)]}
        for ax in every:
            if many:
                ax.plot(times, np.zeros(len(times)), clip_on=False, **look)
            else:
                for when in times:
                    ax.axvline(when, **look)
        handles.append(Line2D([], [], **look))
    if handles:
        every[0].figure.legend(handles=handles, loc="outside lower center", ncols=4, **LEGEND)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()
