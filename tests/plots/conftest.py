"""Every figure that a test of these draws can be read on a phone, and its words stand out from the bars they are on."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from llmhw_helpers.plots import style

WIDE = ("test_graph.py",)  # boxes in as many columns as the program has steps


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    for number in plt.get_fignums():
        figure = plt.figure(number)
        if figure.axes and figure.get_layout_engine() is not None:  # else the test's own axes
            check_legible(figure, wide=item.path.name in WIDE)
    return result


@pytest.fixture
def require_legible():
    return check_legible


def check_legible(figure: Figure, wide: bool = False):
    assert wide or figure.get_figwidth() <= style.WIDTH
    for text in figure.findobj(Text):
        assert text.get_fontsize() >= style.SMALL, text.get_text()
    figure.draw_without_rendering()
    for ax in figure.axes:
        if legend := ax.get_legend():
            box = legend.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, "a legend is cut off"  # noqa: PT018
        for text in ax.texts:
            if text.get_text() and text.get_bbox_patch() is None and text.get_transform() == ax.transData:
                x, y = text.get_position()
                beside = 0.01 * (ax.get_xlim()[1] - ax.get_xlim()[0]) if text.get_ha() == "left" else 0
                ground = under(ax, (x + beside, y))
                assert style.contrast(text.get_color(), ground) >= 4.5, f"{text.get_text()} on {ground}"


def under(ax, place) -> tuple[float, ...]:
    """The colour of the last bar drawn at a place of the data; the paper's where there is none."""
    ground = (1.0, 1.0, 1.0)
    for patch in ax.patches:
        if patch.get_path().contains_point(place, patch.get_patch_transform()) and patch.get_fill():
            ground = patch.get_facecolor()[:3]
    for bars in ax.collections:
        for path in bars.get_paths():
            if path.contains_point(place):
                ground = tuple(bars.get_facecolor()[0][:3])
    return ground
