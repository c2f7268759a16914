"""The planner's controls: every setting says what `answer` says, and draws it where there is a plan."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.clusters import CLUSTERS
from llmhw_helpers.specs.models import MODELS
from llmhw_helpers.widgets import planner as room

FIRST = {"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis"}
WISHES = {"n_gpus": 0, "prompt": 1024, "answer": 256, "users": 8}


@pytest.fixture
def drawn(monkeypatch):
    """What each picture shows: the names of its plans."""
    names = []

    def keep():
        names.append([tick.get_text() for tick in plt.gca().get_yticklabels()])
        plt.close("all")

    monkeypatch.setattr(room.plt, "show", keep)
    return names


def test_controls_offer_every_model_cluster_and_card():
    model, task, where, n_gpus, prompt, answered, users = room.explore_plans().children[:7]
    assert model.options == tuple(MODELS)
    assert where.options == (*CLUSTERS, *ACCELERATORS)
    assert (model.value, task.value, where.value, n_gpus.value) == ("Llama-3.1-70B", "serve", "Alvis", 0)
    assert (prompt.value, answered.value, users.value) == (1024, 256, 8)


def test_a_setting_says_and_draws_what_the_planner_says(capsys, drawn):
    room.show_plans(FIRST | WISHES)
    reply = answer(FIRST | {"prompt": 1024, "answer": 256, "users": 8})
    assert capsys.readouterr().out.splitlines() == [reply["headline"], *reply["reasons"]]
    assert drawn == [[plan["name"] for plan in reply["plans"][: room.SHOWN]]]


def test_what_cannot_be_is_said_with_the_nearest_possible(capsys, drawn):
    asked = {"model": "Llama-3.1-405B", "task": "serve", "where": "T4"}
    room.show_plans(asked | WISHES)
    reply = answer(asked | {"prompt": 1024, "answer": 256, "users": 8})
    assert not reply["ok"]
    assert capsys.readouterr().out.splitlines() == [reply["error"], f"Nearest: {reply['nearest']}"]
    assert not drawn


def test_every_task_draws_and_asks_only_what_belongs_to_it(capsys, drawn):
    for task, model in itertools.product(("serve", "fine-tune", "train"), ("SmolLM2-135M", "Llama-3.1-8B")):
        room.show_plans({"model": model, "task": task, "where": "Alvis"} | WISHES)
    assert len(drawn) == 6
    assert "means nothing" not in capsys.readouterr().out


def test_the_axis_ends_after_the_largest_card_whatever_is_asked_for(monkeypatch):
    limits, held = set(), []

    def look():
        limits.add(plt.gca().get_xlim())
        held.append(max(bar.get_x() + bar.get_width() for bar in plt.gca().patches))
        plt.close("all")

    monkeypatch.setattr(room.plt, "show", look)
    for users, prompt in itertools.product((1, 64), (16, 8192)):
        room.show_plans(FIRST | WISHES | {"users": users, "prompt": prompt})
    assert [end for _, end in limits] == [pytest.approx(88)]  # Alvis has cards of 80 GB
    assert len(held) == 4
    assert max(held) < 88
