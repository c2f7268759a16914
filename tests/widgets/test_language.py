"""The head viewer and the next-token explorer, driven without a browser, on the real model."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.widgets.attention import MAX_TOKENS, show_head, view_heads
from llmhw_helpers.widgets.next_token import NextTokenExplorer, likeliest, show_next


@pytest.fixture(scope="module")
def real():
    return load_model(), load_tokenizer()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_likeliest_are_the_models_own(real):
    model, tokenizer = real
    found = likeliest(model, tokenizer, "The capital of France is", n=5)
    logits = model(torch.tensor([tokenizer.encode("The capital of France is")]))[0, -1]
    assert [token for token, _, _ in found] == logits.topk(5).indices.tolist()
    assert [p for _, _, p in found] == pytest.approx(logits.softmax(-1).topk(5).values.tolist(), rel=1e-4)
    assert found[0][1] == " Paris"


def test_a_click_goes_on_and_can_be_taken_back(real):
    explorer = NextTokenExplorer(*real, "The capital of France is")
    assert explorer.choices.children[0].description.startswith("' Paris'")
    explorer.choices.children[0].click()
    assert explorer.text.value == "The capital of France is Paris"
    after = [button.description for button in explorer.choices.children]
    assert len(after) == 8
    assert not after[0].startswith("' Paris'")
    explorer.undo.click()
    explorer.undo.click()
    assert explorer.text.value == "The capital of France is"


def test_a_lower_temperature_sharpens(real):
    explorer = NextTokenExplorer(*real, "Once upon a")

    def best():
        return int(explorer.choices.children[0].description.split()[-1][:-1])

    before = best()
    explorer.temperature.value = 0.5
    assert best() > before


def test_the_pictures_axis_stays_put_while_the_temperature_changes(real, monkeypatch):
    limits = []
    monkeypatch.setattr(plt, "show", lambda: limits.append((plt.gca().get_xlim(), plt.close())[0]))
    explorer = NextTokenExplorer(*real, "The capital of France is")
    for temperature in (0.1, 2.0):
        explorer.temperature.value = temperature
    assert limits == [(0, 1.08)] * 3


def test_what_cannot_be_gone_on_from_is_said(real):
    explorer = NextTokenExplorer(*real, "Hi")
    explorer.text.value = ""
    assert "at least one token" in explorer.said.value
    assert explorer.choices.children == ()
    explorer.text.value = "caf\udce9"
    assert "no valid UTF-8" in explorer.said.value
    explorer.text.value = "word " * 9000
    assert "holds 8192" in explorer.said.value
    explorer.text.value = "Hi"
    assert explorer.said.value == ""


def test_every_head_can_be_viewed(real, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gcf()))
    viewer = view_heads(*real, "The cat sat", layer=3, head=2)
    assert [control.value for control in viewer.children[:3]] == ["The cat sat", 3, 2]
    assert (viewer.children[1].max, viewer.children[2].max) == (29, 8)
    drawn.clear()
    show_head(*real, "The cat sat", 29, 8)
    assert len(drawn) == 1
    show_head(*real, "word " * 100, 0, 0)
    assert drawn[-1].axes[0].images[0].get_array().shape == (MAX_TOKENS, MAX_TOKENS)
    show_head(*real, "", 0, 0)
    show_head(*real, "\udce9", 0, 0)
    said = capsys.readouterr().out
    assert "Write some words first." in said
    assert "no valid UTF-8" in said
    assert len(drawn) == 2
    show_next(*real, "Hi")
    assert len(drawn) == 3
