"""Where heads look: the weights of one head over a text, and one number for each of a model's heads."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from . import style


def plot_weights(weights: np.ndarray, tokens: Sequence[str], ax: Axes | None = None) -> Axes:
    """A head's weights ``[seq_len, seq_len]``: each row a token, dark where it looks. Few enough tokens to be read.

    Raises:
        ValueError: there are not as many tokens as rows and columns.
    """
    _require(weights, len(tokens), len(tokens))
    size = 2.2 + 0.27 * len(tokens)
    ax = style.axes(ax, width=size + 0.9, height=size)
    image = ax.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    labels = [_visible(token) for token in tokens]
    ax.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=style.SMALL)
    ax.set_yticks(range(len(tokens)), labels, fontsize=style.SMALL)
    ax.set(xlabel="token that is looked at", ylabel="token that looks")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.7, label="weight")
    return ax


def plot_heads(numbers: np.ndarray, label: str, ax: Axes | None = None) -> Axes:
    """A number between 0 and 1 for each head ``[n_layers, n_heads]``: layers from left to right, as the text goes."""
    _require(numbers, *numbers.shape)
    n_layers, n_heads = numbers.shape
    ax = style.axes(ax, height=1.4 + 0.24 * n_heads)
    image = ax.imshow(numbers.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set(xlabel="layer", ylabel="head", yticks=range(n_heads), xticks=range(0, n_layers, 5))
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def _require(array: np.ndarray, rows: int, columns: int) -> None:
    if array.ndim != 2 or array.shape != (rows, columns):
        raise ValueError(f"weights of shape {array.shape} do not fit {rows} x {columns}")


def _visible(token: str) -> str:
    return token.replace("\n", "\\n").replace(" ", "\N{OPEN BOX}").replace("$", r"\$") or "\N{EMPTY SET}"
