"""The explorer: every setting of its controls draws or says why not."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.widgets import roofline as room

SOME = ("T4", "A40", "H100", "GB10", "MI300X", "Apple M3 Max")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_learners_own_machine_comes_first_and_every_gpu_follows():
    explorer = room.explore_roofline(Roof("this machine", {"fp32": 1e11}, 3e10))
    machine, dtype, layer, rows = explorer.children[:4]
    assert machine.options == ("this machine", *ACCELERATORS)
    assert (dtype.value, layer.value, rows.value) == ("fp32", "SmolLM2-135M", 1)


def test_one_setting_says_the_numbers_that_the_formulas_give(capsys):
    room.show_product(Roof.of(accelerator("A100-40GB")), "bf16", "Llama-3.1-8B", rows=1)
    # 2 * 4096 * 14336 operations over 2 * (4096 + 4096 * 14336 + 14336) bytes; / 1555 GB/s
    assert capsys.readouterr().out == "1 x 4096 x 14336: 117 MFLOP, 117 MB, 1 FLOP/B. At least 75.5 µs: memory binds.\n"


def test_every_setting_draws_or_says_why_not(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(room.plt, "show", lambda: drawn.append(plt.close("all")))
    settings = list(itertools.product(map(accelerator, SOME), room.FORMATS, room.LAYERS, (1, room.ROWS[-1])))
    for each, dtype, layer, rows in settings:
        room.show_product(Roof.of(each), dtype, layer, rows)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(settings)
    refused = [line for line in said if "has no" in line or "no source says how fast" in line]
    assert len(refused) + len(drawn) == len(settings)
    assert "T4 has no bf16 arithmetic; it has fp64, fp32, fp16, int8, int4" in refused
    assert "GB10 computes in int8, and no source says how fast" in refused


def test_the_axes_stay_put_and_hold_every_product(capsys, monkeypatch):
    limits, drawn = set(), []

    def look():
        ax = plt.gca()
        limits.add((ax.get_xlim(), ax.get_ylim()))
        ((x, y),) = next(line for line in ax.get_lines() if line.get_linestyle() == "None").get_xydata()
        drawn.append(ax.get_xlim()[0] < x < ax.get_xlim()[1] and ax.get_ylim()[0] < y < ax.get_ylim()[1])
        plt.close("all")

    monkeypatch.setattr(room.plt, "show", look)
    machine, dtype, layer, rows = room.explore_roofline(Roof("this machine", {"fp32": 1e10}, 3e9)).children[:4]
    for machine.value, dtype.value in (("this machine", "fp32"), ("T4", "int4"), ("H100", "fp8_e4m3")):
        for layer.value, rows.value in itertools.product(room.LAYERS, (1, 64, room.ROWS[-1])):
            pass
    assert len(drawn) > 27
    assert all(drawn)
    assert len(limits) == 1
