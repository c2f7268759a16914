"""Stored runs: of just the functions that notebook 15 asks for, and of a kind that its cells can print."""

import json
from pathlib import Path

import pytest

from llmhw_helpers.course.stored_runs import RUNS, stored_run

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "15_network_storage.ipynb"


def test_the_notebook_has_the_functions_that_were_stored():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for _, _, name in RUNS:
        assert f"def {name}(" in source


def test_a_slower_wire_took_longer_and_fewer_bytes_less():
    slow, fast = (stored_run(rate, 0.0, "train_steps") for rate in (250e6, 1e9))
    for run in (slow, fast):
        assert 0 < run["alone"] < run["fp16"] < run["fp32"] < 1
    assert slow["fp32"] > fast["fp32"]
    one, many = stored_run(1e9, 0.005, "small_messages")
    assert 0.004 < one < many < 0.1


def test_what_is_not_stored_is_one_line():
    with pytest.raises(LookupError, match=r"^no stored run of pings at 1e\+06 bit/s, 0 s; there are train_steps at"):
        stored_run(1e6, 0.0, "pings")
