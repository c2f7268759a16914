"""Computational graphs: results as boxes, operands above what was made from them."""

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
    ax = style.axes(ax, width=min(1.9 * n_columns, style.WIDTH), height=1.02 * n_rows)
    drawn = {}
    for key, text in boxes.items():
        colour = style.COLOURS[1] if key in marked else style.COLOURS[0]
        look = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": colour, "lw": 2.4 if key in marked else 1.3}
        middle = {"ha": "center", "va": "center", "fontsize": style.SMALL, "linespacing": 1.35}
        drawn[key] = ax.text(*at[key], text, bbox=look, **middle)
    for start, end in arrows:  # from the frame of one box to that of the other
        frames = {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}
        line = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 0, "shrinkB": 1, "lw": 1.3}
        ax.annotate("", at[end], at[start], arrowprops=line | frames)
    ax.set(xlim=(-0.5, n_columns - 0.5), ylim=(n_rows - 0.5, -0.5))
    ax.axis("off")
    return ax


def _places(boxes: Mapping, arrows: Sequence[tuple]) -> dict[Hashable, tuple[float, float]]:
    """Row: one below the lowest operand, and leaves just above their first use. In a row: centred."""
    row = dict.fromkeys(boxes, 0)
    for _ in range(len(boxes) + 1):
        later = dict(row)
        for start, end in arrows:
            later[end] = max(later[end], later[start] + 1)
        if later == row:
            break
        row = later
    else:
        raise ValueError("a graph that goes round in a circle has no order to draw it in")
    made = {end for _, end in arrows}
    for key in boxes:
        uses = [row[end] for start, end in arrows if start == key]
        if key not in made and uses:
            row[key] = min(uses) - 1
    members: dict[int, list] = {}
    for key in boxes:
        members.setdefault(row[key], []).append(key)
    widest = max(map(len, members.values()))
    return {key: (i + (widest - len(keys)) / 2, y) for y, keys in members.items() for i, key in enumerate(keys)}
