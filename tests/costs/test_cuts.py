"""What ranks send: sums over single collectives, written out. `tests/distributed` counts what they really send."""

import pytest

from llmhw_helpers.costs.cuts import ring_attention_bytes, tensor_parallel_bytes
from llmhw_helpers.specs.models import model

LLAMA = model("Llama-3.1-8B")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("tp_size", [1, 2, 8])
def test_every_sum_of_a_pass_is_counted(training, tp_size):
    stream = 2 * (tp_size - 1) / tp_size * 300 * 4096 * 2
    sent = tensor_parallel_bytes(LLAMA, 300, tp_size, training, "bf16")
    assert sent["embedding"] == pytest.approx(stream)
    assert sent["layers"] == pytest.approx(32 * 2 * (2 if training else 1) * stream)
    logits = (tp_size - 1) / tp_size * 300 * 128256 * 2
    loss = 3 * 2 * (tp_size - 1) / tp_size * 300 * 4
    assert sent["head"] == pytest.approx(stream + loss if training else logits)


def test_a_vocabulary_that_does_not_divide_is_gathered_filled_up():
    assert tensor_parallel_bytes(model("GPT-2"), 1, 3)["head"] == 2 / 3 * 50259 * 4


@pytest.mark.parametrize("cp_size", [2, 4, 8])
def test_keys_and_values_pass_over_all_ranks_but_one(cp_size):
    cache = LLAMA.kv_numbers(1024)
    forward = ring_attention_bytes(LLAMA, 1024, cp_size, dtype="bf16")
    assert forward == (cp_size - 1) / cp_size * cache * 2
    assert ring_attention_bytes(LLAMA, 1024, cp_size, training=True, dtype="bf16") == 2 * forward + cache * 4


def test_alone_a_rank_sends_nothing():
    assert ring_attention_bytes(LLAMA, 1024, 1, training=True) == 0
    assert sum(tensor_parallel_bytes(LLAMA, 1024, 1, training=True).values()) == 0


def test_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match="-1 tokens"):
        tensor_parallel_bytes(LLAMA, -1, 2)
    with pytest.raises(ValueError, match="5 tokens on 0 ranks"):
        ring_attention_bytes(LLAMA, 5, 0)
    with pytest.raises(ValueError, match="among 0 ranks"):
        tensor_parallel_bytes(LLAMA, 5, 0)
