"""The pictures of notebook 08 show the numbers that they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.costs.paging import Shares
from llmhw_helpers.plots import style
from llmhw_helpers.plots.paging import FREE, plot_blocks, plot_places, plot_shares
from llmhw_helpers.serving.snapshots import Snapshot

STATE = Snapshot(
    step=3,
    block_size=4,
    ref_count=(2, 1, 0, 1, 0),
    tables={"one": (0, 3), "other": (0, 1), "late": ()},
    lengths={"one": 6, "other": 5, "late": 0},
    states={"one": "running", "other": "running", "late": "waiting"},
    found=frozenset({4}),
)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_shares_are_stacked_in_order_and_named():
    rows = {"all of it": Shares(0.25, 0.15, 0.57, 0.03, 7), "blocks": Shares(0.97, 0.02, 0.0, 0.01, 32)}
    ax = plot_shares(rows)
    bars = [(bar.get_x(), bar.get_width()) for group in ax.containers for bar in group]
    assert [width for _, width in bars] == pytest.approx([0.25, 0.97, 0.15, 0.02, 0.57, 0.0, 0.03, 0.01])
    assert [x for x, _ in bars[::2]] == pytest.approx([0, 0.25, 0.4, 0.97])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["all of it", "blocks"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first one on top"
    assert [text.get_text() for text in ax.texts] == ["25%", "97%", "15%", "57%"], "no number where there is no room"
    assert len(ax.get_legend().get_texts()) == 4


def test_blocks_show_slots_holders_counts_and_what_can_be_found():
    _, given = plt.subplots()
    ax = plot_blocks(STATE, n_columns=4, ax=given)
    assert ax is given
    one, other = style.COLOURS[:2]
    drawn = [(to_hex(p.get_facecolor()).upper(), p.get_xy(), p.get_width(), p.get_height()) for p in ax.patches]
    filled = {(colour, xy): (width, height) for colour, xy, width, height in drawn if colour in (one, other)}
    assert filled[one, (0, 0)] == pytest.approx((0.9, 0.4))  # shared: both colours
    assert filled[other, (0, 0.4)] == pytest.approx((0.9, 0.4))
    assert filled[other, (1, 0)] == pytest.approx((0.9 / 4, 0.8))
    assert filled[one, (3, 0)] == pytest.approx((0.9 / 2, 0.8))
    assert len(filled) == 4
    assert sum(colour == FREE.upper() for colour, *_ in drawn) == 5
    hatched = [p.get_xy() for p in ax.patches if p.get_hatch()]
    assert hatched == [(0, 1)]  # block 4, in the second row
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0", "x2", "1", "x1", "2", "3", "x1", "4"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "one: 6 tokens in [0, 3]",
        "other: 5 tokens in [0, 1]",
        "late: waiting",
        "free, can still be found",
    ]


def test_places_mark_each_step_of_each_request():
    ax = plot_places([[0, 1], [0], [2, 0]])
    marks = [[round(path.vertices[:, 0].min()) for path in bar.get_paths()] for bar in ax.collections]
    assert marks == [[0, 1, 2], [0], [2]]
    assert ax.get_xlim() == (0, 3)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
