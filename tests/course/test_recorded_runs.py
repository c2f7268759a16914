"""The recorded runs: small, of every kind, and what the course's own diagnosis says of them."""

import json

import numpy as np
import pytest

from llmhw_helpers.course.diagnoses import diagnosis
from llmhw_helpers.course.recorded_runs import COLUMNS, FOLDER, PARTS, PER_SECOND, recorded_runs, write_runs
from llmhw_helpers.course.sick_runs import KINDS
from llmhw_helpers.measure.series import Series
from llmhw_helpers.specs.figures import UnknownName


def test_both_parts_have_every_kind_and_no_run_in_common():
    seen, unseen = recorded_runs("seen"), recorded_runs("unseen")
    for runs in (seen, unseen):
        counts = {kind: sum(kind == each for each, _ in runs) for kind in KINDS}
        assert len(set(counts.values())) == 1
        assert len(runs) == sum(counts.values())
    assert len(unseen) >= 3 * len(KINDS)
    firsts = [series.times("step")[:5].tolist() for _, series in (*seen, *unseen)]
    assert len({str(each) for each in firsts}) == len(firsts)


def test_they_are_small():
    assert sum((FOLDER / name).stat().st_size for name in PARTS.values()) < 300_000


@pytest.mark.parametrize("part", ["seen", "unseen"])
def test_the_courses_own_diagnosis_is_right(part):
    assert [(kind, diagnosis(series)) for kind, series in recorded_runs(part)] == [
        (kind, kind) for kind, _ in recorded_runs(part)
    ]


def test_it_goes_by_ratios():
    """A machine twice as fast with four times the cores would give other figures and the same diagnoses."""
    for kind, series in recorded_runs("unseen"):
        columns = {
            name: values * {"cpu_percent": 4, "tokens_per_s": 8}.get(name, 3) for name, values in series.columns.items()
        }
        marks = [(when / 2, name) for when, name in series.marks]
        faster = Series(series.seconds / 2, columns, series.units, marks, begin_s=series.begin_s / 2)
        assert diagnosis(faster) == kind


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    seconds = np.cumsum(rng.uniform(0.09, 0.11, 20)) + 1
    columns = {name: rng.uniform(0, 1e9, 20) for name in COLUMNS[:3]} | {"watts": np.ones(20)}
    marks = [(1.01, "step"), (1.5, "change"), (1.02, "rank 0 ready"), (1.7, "step")]
    series = Series(seconds, columns, dict.fromkeys(columns, "B"), marks, begin_s=1.0)
    write_runs(tmp_path / PARTS["seen"], [("healthy", series), ("straggler", series)])
    monkeypatch.setattr("llmhw_helpers.course.recorded_runs.FOLDER", tmp_path)
    (kind, again), (other, _) = recorded_runs.__wrapped__("seen")
    assert (kind, other) == ("healthy", "straggler")
    assert again.marks == tuple(sorted(marks))
    assert np.allclose(again.seconds, seconds, rtol=0, atol=0.5001 / PER_SECOND)
    assert set(again.columns) == set(COLUMNS[:3])  # what a diagnosis has no use for is left out
    assert all(np.allclose(again[name], series[name], rtol=1e-3) for name in again.columns)
    assert len(json.loads((tmp_path / PARTS["seen"]).read_text())) == 2


def test_an_unknown_part_is_refused():
    with pytest.raises(UnknownName, match="seen, unseen|unseen"):
        recorded_runs("unsen")
