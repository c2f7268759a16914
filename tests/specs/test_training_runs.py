"""Published training runs: named things exist, and operations over hours give a utilization that can be."""

import pytest

from llmhw_helpers.costs.training import flops_per_token, mfu, six_n
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.models import model
from llmhw_helpers.specs.training_runs import TRAINING_RUNS, training_run


@pytest.mark.parametrize("run", TRAINING_RUNS.values(), ids=TRAINING_RUNS)
def test_model_and_gpu_are_known_and_the_sequences_fit_the_context(run):
    assert run.seq_len <= model(run.model).context_length
    assert accelerator(run.gpu).name == run.gpu


def test_llama_2s_hours_are_a_utilization_that_good_runs_have():
    run, llama = training_run("Llama-2-7B"), model("Llama-2-7B")
    tokens_per_s = run.n_tokens.known() / (run.gpu_hours.known() * 3600)
    peak = accelerator(run.gpu).peak("bf16").known()
    assert mfu(six_n(llama), tokens_per_s, peak) == pytest.approx(0.39, abs=0.005)
    assert mfu(flops_per_token(llama, run.seq_len), tokens_per_s, peak) == pytest.approx(0.445, abs=0.005)


def test_what_nobody_published_is_unknown():
    with pytest.raises(UnknownFigure, match="SmolLM2-135M"):
        training_run("SmolLM2-135M").gpu_hours.known()
    with pytest.raises(UnknownName, match="training run"):
        training_run("GPT-5")
