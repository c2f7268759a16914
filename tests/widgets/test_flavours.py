"""The chooser's controls: every setting draws, and says what `choose` says."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.devices import TASKS, Device
from llmhw_helpers.costs.flavours import choose
from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.flavours import IMPLEMENTATIONS
from llmhw_helpers.specs.models import model
from llmhw_helpers.widgets import flavours as room

MINE = Device.cpu(Roof("this machine", {"fp32": 3e11, "bf16": 1e12}, 25e9))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_learners_own_machine_comes_first_and_every_gpu_follows():
    machine, what, task, memory, loss, program = room.explore_flavours(MINE).children[:6]
    assert machine.options == ("this machine", *ACCELERATORS)
    assert (what.value, task.value, program.value) == ("Llama-3.1-8B", "chat", "any")
    assert (memory.value, loss.value) == (15, 3)


def test_a_setting_says_and_draws_what_the_chooser_says(capsys):
    room.show_choice(Device.of(accelerator("T4")), "Llama-3.1-8B", "chat", 15, 3)
    choice = choose(Device.of(accelerator("T4")), model("Llama-3.1-8B"), "chat", 15e9, 0.03)
    assert capsys.readouterr().out.splitlines() == list(choice.reasons)


def test_a_program_narrows_the_choice(capsys):
    room.show_choice(Device.of(accelerator("A40")), "Llama-3.1-8B", "chat", 40, 3, "vLLM")
    assert "Take AWQ int4 in vLLM" in capsys.readouterr().out


def test_a_card_whose_rates_no_source_gives_gets_one_line(capsys):
    room.show_choice(Device.of(accelerator("GB10")), "Llama-3.1-8B", "chat", 100, 3)
    assert capsys.readouterr().out == "GB10 computes in bf16, and no source says how fast\n"


def test_every_setting_draws(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(room.plt, "show", lambda: drawn.append(plt.close("all")))
    devices = [MINE, *(Device.of(accelerator(name)) for name in ("T4", "H100"))]
    settings = list(itertools.product(devices, room.MODELS[::2], TASKS, (1, 80)))
    for device, what, task, memory in settings:
        room.show_choice(device, what, task, memory, 3, IMPLEMENTATIONS[1] if memory == 1 else room.ANY)
    assert len(drawn) == len(settings)
    assert capsys.readouterr().out.count("Nothing that is known") > 0


@pytest.mark.parametrize("task", ["chat", "batch serving"])
def test_the_axis_stays_put_while_memory_and_loss_change(task, monkeypatch):
    limits = set()

    def look():
        limits.add((plt.gca().get_xlim(), plt.gca().get_ylim()))
        assert max(bar.get_width() for bar in plt.gca().patches) < plt.gca().get_xlim()[1]
        plt.close("all")

    monkeypatch.setattr(room.plt, "show", look)
    for memory, loss in itertools.product((1, 15, 140), (0, 3, 30)):
        room.show_choice(Device.of(accelerator("T4")), "Llama-3.1-8B", task, memory, loss)
    assert len(limits) == 1
