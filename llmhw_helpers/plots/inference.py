"""Answering: what each new token takes with and without a cache, and what a step's time is made of."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from . import style


def plot_per_token(lengths: Sequence[int], seconds: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Seconds that one more token takes, against the tokens before it, a line each; both axes logarithmic."""
    ax = style.axes(ax)
    for i, (label, times) in enumerate(seconds.items()):
        ax.plot(lengths, times, color=style.COLOURS[i], ls=style.LINES[i], marker=style.MARKERS[i], label=label)
    ax.set(xscale="log", xlabel="tokens in the text so far", ylabel="time for one more token")
    ax.set_xticks(lengths, [str(n) for n in lengths])
    ax.minorticks_off()
    style.seconds_axis(ax)
    ax.legend(fontsize=style.SMALL)
    return ax


def plot_split(
    lengths: Sequence[int], parts: Mapping[str, Sequence[float]], label: str, ax: Axes | None = None
) -> Axes:
    """What a quantity is made of, against the tokens of each text: parts stacked from the ground, in order.

    Args:
        lengths: tokens, drawn on a logarithmic axis.
        parts: values by name, as many as there are lengths.
        label: of the quantity, with its unit.
        ax: where to draw; a new figure without it.

    Raises:
        ValueError: a part has another number of values.
    """
    for name, values in parts.items():
        if len(values) != len(lengths):
            raise ValueError(f"{name!r} has {len(values)} values for {len(lengths)} lengths")
    ax = style.axes(ax)
    colours = style.COLOURS[: len(parts)]
    ax.stackplot(lengths, *parts.values(), labels=list(parts), colors=colours, edgecolor="white", lw=0.8)
    ax.set(xscale="log", xlim=(min(lengths), max(lengths)), xlabel="tokens in each text", ylabel=label)
    ax.set_ylim(bottom=0)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="upper left", fontsize=style.SMALL)
    return ax
