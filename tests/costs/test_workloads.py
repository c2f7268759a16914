"""The course's jobs on cards, against figures worked out by hand from the models' published sizes."""

import pytest

from llmhw_helpers.costs.workloads import jobs, run_on
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.figures import UnknownFigure
from llmhw_helpers.specs.models import model

LLAMA = jobs(model("Llama-3.1-8B"))
N = 8_030_261_248  # parameters, as published
READ = 2 * (N - 128256 * 4096)  # bytes; the input embedding is looked up
CACHE = 2048 * 32 * 2 * 8 * 128 * 2  # bytes of one text


def test_decode_reads_weights_once_and_every_cache():
    for batch_size in (1, 16, 128):
        job = LLAMA[f"decode {batch_size}"]
        assert job.work.bytes == pytest.approx(READ + batch_size * CACHE, rel=1e-4)
        assert job.work.flops == pytest.approx(batch_size * (READ + 4 * 32 * 4096 * 2048), rel=1e-3)
        assert job.memory_bytes == 2 * N + batch_size * CACHE


def test_adapters_cost_three_quarters_of_training_where_blocks_run_twice():
    """Forward, forward again, gradients through: 6 operations a weight; training has 2 more, for its gradient."""
    ratio = LLAMA["LoRA"].work.flops / LLAMA["training"].work.flops
    assert ratio == pytest.approx(6 / 8, abs=0.03)


def test_an_a100_by_hand():
    card = accelerator("A100-80GB")
    one = run_on(card, LLAMA["decode 1"])
    assert one.tokens_per_s == pytest.approx(2039e9 / (READ + CACHE), rel=1e-3)
    prompt = run_on(card, LLAMA["prefill"])
    assert prompt.floor.bound == "compute"
    assert prompt.tokens_per_s == pytest.approx(312e12 / (READ + 4 * 32 * 4096 * 1024), rel=0.08)  # one row of logits


def test_what_fits():
    fits = {
        name: {job for job in LLAMA if run_on(accelerator(name), LLAMA[job]).fits}
        for name in ("T4", "L4", "A100-80GB", "H200")
    }
    assert fits["T4"] == set()
    assert fits["L4"] == {"prefill", "decode 1", "decode 16", "LoRA"}
    assert fits["A100-80GB"] == {*LLAMA} - {"training"}
    assert fits["H200"] == {*LLAMA}


def test_every_card_answers_or_says_that_its_rate_is_unknown():
    unknown = set()
    for name, card in ACCELERATORS.items():
        try:
            rates = [run_on(card, job).tokens_per_s for job in LLAMA.values()]
            assert min(rates) > 0
        except UnknownFigure:
            unknown.add(name)
    assert unknown == {"GB10", *(f"Apple {m}" for m in ("M3 Max", "M3 Ultra", "M4 Max"))}
