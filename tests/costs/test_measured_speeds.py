"""The benchmark that holds predictions against measured rows: it takes any row, and says in a line what it cannot."""

import csv
import importlib
import random
import re
import sys
from pathlib import Path

import pytest

from llmhw_helpers.specs.measured import COLUMNS, FILE, measured_rows

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def planner():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("planner")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def cells():
    with open(FILE, newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def outcome(planner, tmp_path, row, **changes):
    return planner.outcomes(write(tmp_path / "a.csv", [row | changes]))[0]


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("B001", 2039e9 / (2 * (6_738_415_616 - 32_000 * 4096) + 105 * 2 * 32 * 2 * 4096)),  # weights and cache
        ("B049", 4 * 2039e9 / (2 * (72_706_203_648 - 152_064 * 8192))),  # of four GPUs
    ],
)
def test_a_row_is_below_what_its_weights_alone_allow(planner, cells, tmp_path, name, floor):
    found = outcome(planner, tmp_path, cells[name])
    assert found.inside
    assert 0.3 * floor < found.low < found.high < floor


def test_times_and_shares_are_in_the_unit_of_the_row(planner, cells, tmp_path):
    for name in ("B111", "C077", "C091", "C110", "C177"):  # ms, tokens, % MFU, TFLOP/s, seconds of a step
        assert outcome(planner, tmp_path, cells[name]).inside, name


def test_a_total_that_one_gpu_could_not_reach_is_of_all(planner, cells, tmp_path):
    assert outcome(planner, tmp_path, cells["C167"]).inside
    assert "unclear" in cells["C167"]["other_inputs"]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("B001", {"model": "Llama-9-1T"}, "unknown model 'Llama-9-1T'"),
        ("B001", {"gpu": "TPU v9"}, "unknown accelerator 'TPU v9'"),
        ("B001", {"dtype_quant": "int3"}, "unknown format 'int3'"),
        ("B001", {"software": "a program"}, "no class of programs for 'a program'"),
        ("B001", {"software": ""}, "software is not said"),
        ("B001", {"seq_len": "long"}, "unknown lengths 'long'"),
        ("B001", {"TP": "3"}, "32 query heads of Llama-2-7B do not divide among 3 ranks"),
        ("B001", {"TP": "x"}, "not read: B001: TP is 'x', and a whole number is asked for"),
        ("B001", {"value": "fast"}, "'fast' is no number"),
        ("B001", {"quantity": "smell"}, "no prediction of smell"),
        ("C077", {"unit": "tok/day"}, "unknown unit 'tok/day'"),
        ("C077", {"seq_len": "2k"}, "unknown length '2k'"),
        ("A004", {"model": ""}, ""),
        ("D071", {}, "no prediction of dlio_read"),
        ("D012", {"gpu": "a card"}, "what connects the ranks is not said"),
        ("D026", {"gpu": "A100"}, "what connects the nodes is not said"),
        ("D012", {"util_or_batch": "much"}, "unknown size 'much'"),
        ("D012", {"unit": "Gbit/s"}, "unknown unit 'Gbit/s'"),
        ("D057", {}, "TCP fallback: what a setting spoils, no formula says"),
        ("E001", {}, "a fact about a cluster"),
    ],
)
def test_what_is_not_predicted_says_why_in_a_line(planner, cells, tmp_path, name, changes, said):
    found = outcome(planner, tmp_path, cells[name], **changes)
    assert not found.predicted
    assert re.search(re.escape(said), found.note)
    assert "\n" not in found.note


def test_four_in_five_measured_collectives_lie_in_the_range(planner):
    """Bus bandwidths over NVLink, PCIe, InfiniBand, RoCE and Slingshot, and times of 8 bytes; both ends as stated."""
    found = [each for each in planner.outcomes() if each.group == "D" and each.predicted]
    assert len(found) >= 30
    assert sum(each.inside for each in found) / len(found) >= 0.8
    assert max(each.width for each in found) < 6  # of 1 MiB, where NCCL has several protocols; 3.4 at most of long ones


def test_four_in_five_published_runs_over_nodes_lie_in_the_range(planner):
    """Steps, tokens a second or MFU of training on 2 to 128 nodes: 1.4 times less or more than is likely."""
    nodes = {row.id for row in measured_rows() if row.group == "C" and (row.nodes or 1) > 1}
    found = [each for each in planner.outcomes() if each.id in nodes and each.predicted and not each.answers]
    speeds = [each for each in found if each.quantity.startswith(("train_speed", "train_mfu", "train_tflops"))]
    assert len(speeds) >= 30
    assert sum(each.inside for each in speeds) / len(speeds) >= 0.8
    assert max(each.width for each in speeds) <= 2


def test_no_row_stops_it(planner, cells, tmp_path):
    """Cells of any row under any column."""
    draw = random.Random(0)
    rows = list(cells.values())
    mixed = [{column: draw.choice([draw.choice(rows)[column], ""]) for column in COLUMNS} for _ in range(300)]
    found = planner.outcomes(write(tmp_path / "a.csv", mixed))
    assert len(found) == 300
    assert all(each.predicted or each.note for each in found)
    planner.show(found)


def test_the_table_counts_what_lies_inside(planner):
    good = planner.Outcome("1", "B", "prefill", "", 8.0, 12.5, 9.0, "")
    bad = planner.Outcome("2", "B", "prefill", "", 8.0, 12.5, 20.0, "")
    none = planner.Outcome("3", "B", "prefill", "", None, None, 20.0, "not predicted: why")
    (line,) = planner.table([good, bad, none])
    assert (line["rows"], line["predicted"], line["inside"]) == (3, 2, 0.5)
    assert line["median error"] == pytest.approx((10 / 9 - 1 + 0.5) / 2)
    assert line["within 10%"] == 0
    assert line["widest"] == pytest.approx(12.5 / 8)


def test_it_prints_the_table_and_refuses_other_files(planner, cells, tmp_path, capsys):
    assert planner.main([str(write(tmp_path / "a.csv", [cells["B001"], cells["C057"]]))]) == 0
    assert re.search(r"B decode_single_stream +1 +1 +100%", capsys.readouterr().out)
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    assert planner.main([str(tmp_path / "b.csv")]) == 1
    assert "b.csv lacks the columns id, group" in capsys.readouterr().err
