"""Pictures of notebook 15: what is handed over is what is drawn."""

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.collectives import Wire
from llmhw_helpers.costs.storage import Stretch, load
from llmhw_helpers.plots.storage import plot_efficiency, plot_loads, plot_messages

WAY = [Stretch("storage", 34e9, shared=True), Stretch("network", 12.5e9)]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_messages():
    wire = Wire(1e-4, 1e9)
    points = [(1e3, wire.seconds(1e3)), (1e7, wire.seconds(1e7))]
    ax = plot_messages(points, {"fitted": wire, "faster": Wire(1e-6, 1e11)})
    drawn = lines(ax)
    assert list(drawn["measured"].get_xdata()) == [1e3, 1e7]
    assert drawn["fitted"].get_ydata() == pytest.approx([wire.seconds(x) for x in drawn["fitted"].get_xdata()])
    rings = [line for line in ax.lines if line.get_marker() == "o"]
    assert [float(ring.get_xdata()[0]) for ring in rings] == pytest.approx([1e5, 1e5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    with pytest.raises(ValueError, match="no message with bytes"):
        plot_messages([(0, 1e-3)], {"fitted": wire})


def test_loads():
    trips = {n: load(141e9, WAY, n) for n in (16, 1, 4)}
    drawn = lines(plot_loads(trips))
    assert list(drawn["storage"].get_xdata()) == [1, 4, 16]
    assert drawn["storage"].get_ydata() == pytest.approx([141 / 34, 4 * 141 / 34, 16 * 141 / 34])
    assert drawn["the slowest"].get_ydata() == pytest.approx([trips[n].seconds for n in (1, 4, 16)])


def test_efficiency():
    curve = [(60.0, 0.5), (600.0, 0.9), (7200.0, 0.6)]
    ax = plot_efficiency(curve, [(600.0, 0.88)], {"Young": 500.0, "Daly": 480.0})
    drawn = lines(ax)
    assert list(drawn["formula"].get_ydata()) == [0.5, 0.9, 0.6]
    assert list(drawn["simulated runs"].get_xdata()) == [600.0]
    assert drawn["Young"].get_xdata()[0] == 500.0
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1 min", "5 min", "10 min", "30 min", "1 h", "2 h"]
    assert "simulated runs" not in lines(plot_efficiency(curve, [], {}))
