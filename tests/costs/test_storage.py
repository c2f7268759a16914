"""The way of bytes from storage to a GPU, held against what others measured."""

import math

import pytest

from llmhw_helpers.costs.storage import (
    WAYS,
    Stretch,
    break_even_bytes,
    crossing,
    files_seconds,
    host_bytes,
    load,
    processor_copies,
)
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.measured import measured_rows
from llmhw_helpers.specs.storage import STORAGE, storage

WAY = [Stretch("storage", 34e9, shared=True), Stretch("network", 12.5e9), Stretch("PCIe", 25e9)]


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("n_nodes", [1, 2, 3, 4, 16])
def test_a_load_takes_as_long_as_its_slowest_stretch(n_nodes, divided):
    """Counted byte by byte: what each stretch carries in all, over how much of it there is."""
    carried = 141e9 * (1 if divided else n_nodes)
    there = {"storage": 34e9, "network": 12.5e9 * n_nodes, "PCIe": 25e9 * n_nodes}
    trip = load(141e9, WAY, n_nodes, divided)
    assert trip.parts == pytest.approx({name: carried / rate for name, rate in there.items()})
    assert trip.seconds == pytest.approx(max(carried / rate for rate in there.values()))


def test_the_storage_is_the_slowest_from_the_crossing_on():
    assert crossing(WAY) == pytest.approx(2.72)
    assert [load(1e9, WAY, n).bottleneck for n in (2, 3)] == ["network", "storage"]


@pytest.mark.parametrize("bad", [(0, WAY, 1), (1e9, [], 1), (1e9, WAY, 0), (1e9, [Stretch("wire", 0.0)], 1)])
def test_no_way_is_refused(bad):
    with pytest.raises(ValueError, match="needed"):
        load(*bad)


def test_small_files():
    assert files_seconds(1000, 4096, 5000, 1e9) == pytest.approx(0.2 + 4.096e-3)
    size = break_even_bytes(5000, 1e9)
    assert files_seconds(1, size, 5000, 1e9) == pytest.approx(2 * size / 1e9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: load(math.nan, WAY),
        lambda: crossing([Stretch("storage", 0.0, shared=True), Stretch("network", 1e9)]),
        lambda: crossing([Stretch("network", 1e9)]),
        lambda: files_seconds(-1, 4096, 5000, 1e9),
        lambda: files_seconds(1, 4096, 0, 1e9),
        lambda: break_even_bytes(0, 1e9),
        lambda: host_bytes(-10, "page cache"),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match="needed|above 0|no file has"):
        call()


def test_bytes_through_the_host():
    assert {way: (host_bytes(10, way), processor_copies(way)) for way in WAYS} == {
        "page cache": (40, 1),
        "direct read": (20, 0),
        "GPU direct": (0, 0),
    }
    with pytest.raises(UnknownName, match="GPU direct"):
        host_bytes(10, "gpu-directly")


def test_published_rates_are_those_of_the_table():
    """Each rate that stands in `specs.measured`, by its row."""
    rows = {row.id: row for row in measured_rows()}
    for name, row, unit in [
        ("WEKA, one client", "D072", 1e6),
        ("Lustre (HPE E1000), one client", "D075", 1e6),
        ("Lustre (HPE E1000), 5 clients", "D077", 1e6),
        ("DDN, 18 clients", "D081", 1e6),
        ("one NVMe disk", "D079", 1e6),
        ("disks of an A100 node", "D107", 1e9),
        ("disks of an H100 node", "D108", 1e9),
    ]:
        assert storage(name).bytes_per_s.known() == pytest.approx(rows[row].value * unit)
    for name, row in [("a model's cold start", "D095"), ("a model in the page cache", "D096")]:
        assert 14.2 * 2**30 / storage(name).bytes_per_s.known() == pytest.approx(rows[row].value, rel=1e-3)
    assert len(STORAGE) == 9


def test_a_published_load_of_70b_is_within_the_way():
    """fastsafetensors: 26.4 GB/s into 4 GPUs with GPU direct, from four disks' worth of NVMe: above one disk's rate."""
    row = next(row for row in measured_rows() if row.id == "D086")
    assert storage("one NVMe disk").bytes_per_s.known() < row.value * 1e9 < 4 * 31.5e9
