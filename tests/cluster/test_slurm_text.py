"""Pieces of what Slurm's commands print, as printed by Slurm 22.05 and as its manual describes them."""

from datetime import datetime

import pytest

from llmhw_helpers.cluster.slurm_text import exit_of, gpus_in, least_of, moment_of, rows_of


def test_a_name_of_several_lines_belongs_to_its_row():
    text = "17|RUNNING|a|b\nc\n\nd\n18_2|PENDING|e\n19+1|PENDING|f\n17.batch|COMPLETED|g\n"
    assert rows_of(text) == ["17|RUNNING|a|b\nc\n\nd", "18_2|PENDING|e", "19+1|PENDING|f", "17.batch|COMPLETED|g"]
    assert rows_of("\n") == []
    assert rows_of("no row") == ["no row"]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gres:gpu:A40:2", 2),
        ("gres:gpu:4", 4),
        ("cpu=4,gres/gpu=3,gres/gpu:a40=2,gres/gpu:t4=1", 3),
        ("cpu=4,mem=1G", 0),
        ("N/A", 0),
    ],
)
def test_gpus(text, gpus):
    assert gpus_in(text) == gpus


def test_times_exits_and_counts():
    assert moment_of("2026-11-01T10:05:00") == datetime(2026, 11, 1, 10, 5)
    assert moment_of("Unknown") is None
    assert exit_of("15:9") == (15, 9)
    assert (least_of("2"), least_of("2-4")) == (2, 2)
