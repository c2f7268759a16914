"""A series against numpy on data drawn by hypothesis, and its file against what may be found in its place."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.files import NotSaved
from llmhw_helpers.measure.series import NoSeries, Series
from llmhw_helpers.specs.figures import UnknownName

NAN = float("nan")


@pytest.fixture
def series():
    columns = {"cpu_percent": [100, 200, 0, 50], "watts": [5, NAN, 7, NAN]}
    marks = [(2.5, "step"), (0.5, "begin"), (3.5, "step")]
    return Series([1, 2, 4, 5], columns, {"cpu_percent": "%", "watts": "W"}, marks)


def test_columns_marks_and_nearest_names(series):
    assert list(series["cpu_percent"]) == [100, 200, 0, 50]
    assert len(series) == 4
    assert "watts" in series
    assert "gpu_watts" not in series
    assert series.marks == ((0.5, "begin"), (2.5, "step"), (3.5, "step"))
    assert list(series.times("step")) == [2.5, 3.5]
    assert len(series.times("checkpoint")) == 0
    with pytest.raises(UnknownName, match="did you mean cpu_percent"):
        series["cpu"]


def test_means_weigh_by_time_and_leave_out_what_was_not_told(series):
    assert series.mean("cpu_percent") == (100 + 200 + 0 * 2 + 50) / 5
    assert series.mean("watts") == pytest.approx((5 + 7 * 2) / 3)
    assert series.total("watts") == 5 + 7 * 2
    with pytest.raises(ValueError, match="no sample of watts"):
        series.between(4, 5).mean("watts")


@given(
    durations=st.lists(st.floats(1e-3, 10), min_size=1, max_size=20),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    data=st.data(),
)
def test_totals_of_parts_add_up_when_cut_at_samples(durations, cuts, data):
    seconds = np.cumsum(durations)
    values = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=len(seconds), max_size=len(seconds)))
    whole = Series(seconds, {"x": values}, {"x": "B/s"})
    cut = seconds[int(cuts[0] * (len(seconds) - 1))]
    parts = [whole.between(0, cut), whole.between(cut, seconds[-1])]
    total = sum(part.total("x") for part in parts if len(part))
    assert total == pytest.approx(whole.total("x"), rel=1e-9, abs=1e-6)
    assert whole.total("x") == pytest.approx(np.dot(durations, values), rel=1e-9, abs=1e-3)


def test_a_part_begins_where_it_was_cut(series):
    part = series.between(1.5, 4)
    assert list(part.seconds) == [2, 4]
    assert part.begin_s == 1.5
    assert list(part.durations) == [0.5, 2]
    assert part.marks == ((2.5, "step"), (3.5, "step"))
    assert len(series.between(6, 7)) == 0
    with pytest.raises(ValueError, match="no time lies between 4 and 1"):
        series.between(4, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], {"x": [1]}, {"x": "B"}), "not as many samples of x"),
        (([1, 0], {"x": [1, 2]}, {"x": "B"}), "must grow"),
        (([1, NAN], {"x": [1, 2]}, {"x": "B"}), "must grow"),
        (([-1, 1], {"x": [1, 2]}, {"x": "B"}), "must grow"),
        (([1, 2], {"x": [1, 2]}, {}), "needs its unit: x"),
        (([1, 2], {"x": [1, float("inf")]}, {"x": "B"}), "x is infinite"),
    ],
)
def test_what_is_no_series_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Series(*arguments)


def test_a_file_gives_back_what_was_saved(series, tmp_path):
    series.save(tmp_path / "run.json")
    again = Series.read(tmp_path / "run.json")
    np.testing.assert_array_equal(again.seconds, series.seconds)
    for name in series.columns:
        np.testing.assert_array_equal(again[name], series[name])
    assert (again.units, again.marks, again.begin_s) == (series.units, series.marks, 0.0)
    assert "NaN" not in (tmp_path / "run.json").read_text()


def spoiled(change):
    def spoil(content):
        change(content)
        return json.dumps(content)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: json.dumps(content)[:100],
        lambda content: "",
        lambda content: "[" * 100_000,
        lambda content: json.dumps([1, 2]),
        lambda content: json.dumps({"steps": 3}),
        spoiled(lambda content: content.update(format="llmhw series 2")),
        spoiled(lambda content: content.pop("seconds")),
        spoiled(lambda content: content["seconds"].pop()),
        spoiled(lambda content: content["seconds"].reverse()),
        spoiled(lambda content: content["columns"].update(watts=["5"] * 4)),
        spoiled(lambda content: content["columns"].update(watts=[True] * 4)),
        spoiled(lambda content: content["columns"].update(watts="5555")),
        spoiled(lambda content: content.update(columns=[])),
        spoiled(lambda content: content.update(begin_s=None)),
        spoiled(lambda content: content["units"].update(watts=1)),
        spoiled(lambda content: content["marks"].append([1])),
        spoiled(lambda content: content["marks"].append(["1", "step"])),
        spoiled(lambda content: content.update(marks=5)),
        spoiled(lambda content: content.update(marks=[[NAN, "step"]])),
        spoiled(lambda content: content.update(marks=[[10**400, "step"]])),
        spoiled(lambda content: content["columns"]["watts"].__setitem__(0, 10**400)),
    ],
)
def test_a_damaged_or_other_file_is_refused_in_one_line(series, tmp_path, spoil):
    path = tmp_path / "run.json"
    series.save(path)
    path.write_text(spoil(json.loads(path.read_text())))
    with pytest.raises(NoSeries, match=r"^run\.json is .{1,150}$"):
        Series.read(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "run.json").write_bytes(b"\x93\xff\x00")
    with pytest.raises(NoSeries, match=r"^run\.json is no series"):
        Series.read(tmp_path / "run.json")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full to write to")
def test_where_nothing_can_be_written_that_is_said(series):
    with pytest.raises(NotSaved, match="series not saved"):
        series.save("/dev/full/run.json")
