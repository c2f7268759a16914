"""The pictures of notebook 09 show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmhw_helpers.plots.flash import plot_growth, plot_tiles


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_each_tile_has_the_colour_of_its_kind():
    kinds = np.array([[1, 0, 0], [2, 1, 0]])
    ax = plot_tiles(kinds)
    (image,) = ax.images
    assert np.array_equal(image.get_array(), kinds)
    assert tuple(image.get_extent()) == (0, 3, 2, 0)  # the first queries on top
    shown = [tuple(float(part) for part in image.cmap(image.norm(kind))) for kind in (0, 1, 2)]
    patches = ax.figure.legends[0].get_patches()
    assert [patch.get_facecolor() for patch in patches] == shown
    assert [text.get_text().split(",")[0].split(":")[0] for text in ax.figure.legends[0].get_texts()] == [
        "skipped",
        "computed",
        "computed",
    ]


def test_other_kinds_are_refused():
    for wrong in (np.array([[3]]), np.array([1, 2])):
        with pytest.raises(ValueError, match="tiles are 0, 1 or 2 in a table"):
            plot_tiles(wrong)


def test_lines_and_points_are_what_they_were():
    _, given = plt.subplots()
    lines = {"naive": [1e6, 1e8], "tiled": [1e5, 1e6]}
    ax = plot_growth([512, 4096], lines, "memory", lambda n: f"{n / 1e6:g} MB", {"tiled": [(4096, 2e6)]}, ax=given)
    assert ax is given
    assert [list(line.get_ydata()) for line in ax.lines] == [[1e6, 1e8], [1e5, 1e6], [2e6]]
    assert [line.get_label() for line in ax.lines] == ["naive", "tiled", "tiled: measured"]
    assert ax.lines[2].get_color() == ax.lines[1].get_color() != ax.lines[0].get_color()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["512", "4k"]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylabel()) == ("log", "log", "memory")
    assert ax.yaxis.get_major_formatter()(1e6, 0) == "1 MB"
    with pytest.raises(KeyError, match="other"):
        plot_growth([512], {"naive": [1.0]}, "x", str, {"other": [(1, 1)]})
