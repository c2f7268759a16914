import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmhw_helpers.costs.efficiency import (
    FITTED,
    PROGRAMS,
    SPREAD,
    all_reduce_seconds,
    bytes_per_s,
    flops_per_s,
    layer_seconds,
)
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.links import link, node_link

A100 = accelerator("A100-80GB")


def test_a_card_is_held_back_by_its_bandwidth_or_by_its_multiprocessors():
    fast = replace(A100, bytes_per_s=replace(A100.bytes_per_s, value=20e12))
    cycles = 108 * 1.41e9
    assert bytes_per_s(fast, "engine") == pytest.approx(FITTED["cycle bytes"] * cycles)
    assert bytes_per_s(fast, "engine", bits=4.5) == pytest.approx(FITTED["cycle bytes, packed"] * cycles)
    assert bytes_per_s(fast, "compiled") == pytest.approx(FITTED["stream"] * 20e12)
    assert bytes_per_s(accelerator("A40"), "engine") == pytest.approx(FITTED["stream"] * 696e9)


def test_a_card_that_nobody_counted_has_its_bandwidth_alone():
    unknown = replace(A100, n_sms=replace(A100.n_sms, value=None))
    assert bytes_per_s(unknown, "llama.cpp") == pytest.approx(FITTED["stream"] * 2039e9)
    with pytest.raises(UnknownFigure):
        bytes_per_s(replace(A100, bytes_per_s=replace(A100.bytes_per_s, value=None)), "engine")


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_passes_the_data_sheet(program):
    assert bytes_per_s(A100, program) < 2039e9
    assert flops_per_s(A100, program, "fp16") < 312e12
    assert layer_seconds(program) > 0


def test_an_all_reduce_costs_its_latency_and_most_of_its_bytes_twice():
    board = link("NVLink 3")
    assert all_reduce_seconds(1e9, 1, board) == 0
    long = all_reduce_seconds(1e12, 8, board) - all_reduce_seconds(0, 8, board)
    assert long == pytest.approx(2 * 7 / 8 * 1e12 / (FITTED["link, board"] * 300e9))
    assert all_reduce_seconds(1e9, 2, link("PCIe 4.0 x16")) > 5 * all_reduce_seconds(1e9, 2, board)


def test_a_network_counts_with_its_latency_where_a_source_gives_it():
    slow, fast = link("10 Gbit Ethernet"), link("HDR InfiniBand")
    assert all_reduce_seconds(0, 8, slow, nodes=4) == pytest.approx(3 * FITTED["all-reduce, network"])
    assert all_reduce_seconds(0, 8, fast, nodes=2) == pytest.approx(19.5e-6)
    with pytest.raises(UnknownFigure, match="alone in its machine"):
        all_reduce_seconds(1, 2, node_link("Apple M1 Max"))


def test_an_unknown_program_is_refused():
    with pytest.raises(UnknownName, match="unknown class of programs 'ollama'; did you mean llama.cpp"):
        layer_seconds("ollama")


@pytest.fixture(scope="module")
def fit():
    """What the script finds, in a process of its own: without the tests' type checks it is ten times as fast."""
    folder = Path(__file__).parents[2] / "benchmarks"
    code = (
        "import json, fit_efficiency as f; rows = f.usable(f.measured_rows());"
        "misses = [(f.kind(row), f.miss(row, f.FITTED)) for row in rows];"
        "print(json.dumps([f.fit(rows), misses]))"
    )
    path = os.pathsep.join([str(folder), str(folder.parent)])
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_the_fit_finds_the_constants_again(fit):
    assert fit[0] == pytest.approx(dict(FITTED), rel=0.03)


@pytest.mark.slow
def test_nine_in_ten_measured_speeds_lie_in_the_range(fit):
    inside = [abs(miss) <= math.log(SPREAD[kind]) for kind, miss in fit[1]]
    assert len(inside) > 170
    assert sum(inside) / len(inside) > 0.9


def test_no_range_is_wider_than_a_factor_of_two():
    assert max(SPREAD.values()) ** 2 <= 2
