"""Computational graphs: results as boxes, operands to the left of what was made from them."""

from collections.abc import Hashable, Mapping, Sequence

from matplotlib.axes import Axes

from . import style


def plot_graph(
    boxes: Mapping[Hashable, str],
    arrows: Sequence[tuple[Hashable, Hashable]],
    marked: Sequence[Hashable] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a graph without cycles.

    Args:
        boxes: the text of each box, by its key.
        arrows: (from, to), keys of an operand and of what was made from it.
        marked: keys of the boxes to set off, such as the parameters.
        ax: where to draw; a new figure, large enough for the graph, without it.

    Raises:
        ValueError: the arrows go round in a circle.
    """
    at = _places(boxes, arrows)
    n_columns, n_rows = 1 + max(x for x, _ in at.values()), 1 + max(y for _, y in at.values())
    ax = style.axes(ax, width=min(2.1 * n_columns, 11), height=max(1.05 * n_rows, 2))
    for key, text in boxes.items():
        colour = style.COLOURS[1] if key in marked else style.COLOURS[0]
        look = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": colour, "lw": 2.4 if key in marked else 1.3}
        ax.text(*at[key], text, ha="center", va="center", bbox=look, fontsize=style.SMALL, linespacing=1.35, zorder=3)
    for start, end in arrows:
        line = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 34, "shrinkB": 34, "lw": 1.3}
        ax.annotate("", at[end], at[start], arrowprops=line)
    ax.set(xlim=(-0.6, n_columns - 0.4), ylim=(n_rows - 0.4, -0.6))
    ax.axis("off")
    return ax


def _places(boxes: Mapping, arrows: Sequence[tuple]) -> dict[Hashable, tuple[float, float]]:
    """Column: one right of the rightmost operand, and leaves just left of their first use. Rows: centred columns."""
    column = dict.fromkeys(boxes, 0)
    for _ in range(len(boxes) + 1):
        later = dict(column)
        for start, end in arrows:
            later[end] = max(later[end], later[start] + 1)
        if later == column:
            break
        column = later
    else:
        raise ValueError("a graph that goes round in a circle has no order to draw it in")
    made = {end for _, end in arrows}
    for key in boxes:
        uses = [column[end] for start, end in arrows if start == key]
        if key not in made and uses:
            column[key] = min(uses) - 1
    members: dict[int, list] = {}
    for key in boxes:
        members.setdefault(column[key], []).append(key)
    tallest = max(map(len, members.values()))
    return {key: (x, i + (tallest - len(keys)) / 2) for x, keys in members.items() for i, key in enumerate(keys)}
