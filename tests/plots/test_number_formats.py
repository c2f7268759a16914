"""The pictures of notebook 10 show the bits and numbers that they are given."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.plots.number_formats import FIELDS, plot_bits, plot_magnitudes, plot_numbers, plot_steps
from llmhw_helpers.specs.dtypes import dtype


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_each_bit_has_its_digit_and_its_fields_colour():
    ax = plot_bits({"e5m2": dtype("fp8_e5m2").split(0b0_10110_01), "int4": dtype("int4").split(0b1010)})
    assert "".join(text.get_text() for text in ax.texts) == "010110011010"
    colours = [to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colours[:8] == [FIELDS["sign"], *[FIELDS["exponent"]] * 5, *[FIELDS["mantissa"]] * 2]
    assert colours[8:] == [FIELDS["sign"], *[FIELDS["number"]] * 3]
    assert [bar.get_x() for bar in ax.patches] == [*range(8), *range(4)]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["e5m2", "int4"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sign", "exponent", "mantissa or number"]


def test_64_bits_are_too_many_for_digits():
    _, given = plt.subplots()
    ax = plot_bits({"fp64": dtype("fp64").split(0)}, ax=given)
    assert ax is given
    assert (len(ax.patches), len(ax.texts)) == (64, 0)


def test_every_number_is_a_stroke():
    ax = plot_numbers({"a": [-1, 0, 1], "b": [0.5]}, "value")
    assert [list(row.get_positions()) for row in ax.collections] == [[-1, 0, 1], [0.5]]
    assert ax.get_xlabel() == "value"


def test_steps_are_drawn_over_sizes():
    ax = plot_steps({"fp16": ([1, 2, 4], [1e-3, 1e-3, 5e-4])})
    assert list(ax.lines[0].get_xdata()) == [1, 2, 4]
    assert list(ax.lines[0].get_ydata()) == [1e-3, 1e-3, 5e-4]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_of_two_formats_with_equal_steps_both_are_seen():
    ax = plot_steps({"tf32": ([1, 2, 4, 8], [1e-3] * 4), "fp16": ([1, 2, 4], [1e-3] * 3)})
    below, above = ax.lines
    assert above.get_linewidth() > below.get_linewidth()
    assert above.get_zorder() >= below.get_zorder()
    assert above.get_linestyle() != below.get_linestyle() != "None"
    assert above.get_color() != below.get_color()


def test_magnitudes_and_limits():
    ax = plot_magnitudes([-3, -2, -1], [0.2, 0.5, 0.3], {"smallest": -2})
    assert [(bar.get_x(), bar.get_height()) for bar in ax.patches] == [(-3, 0.2), (-2, 0.5), (-1, 0.3)]
    assert list(ax.lines[0].get_xdata()) == [-2, -2]
    with pytest.raises(ValueError, match="2 counts for 1 exponents"):
        plot_magnitudes([1], [1, 2], {})
