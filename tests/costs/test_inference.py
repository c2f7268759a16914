"""The costs of answering against transformers' cache, PyTorch's counter, published figures and sums by hand."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave

from llmhw_helpers.costs.flops import Work
from llmhw_helpers.costs.inference import (
    compute_bound_batch,
    decode_work,
    kv_bytes,
    largest_batch,
    prefill_work,
    time_per_output_token,
    time_to_first_token,
    token_computations,
    weights_read,
)
from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.costs.transformer import forward_flops, pair_flops
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.kv_cache import KVCache
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.accelerators import UnsupportedDtype, accelerator
from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.models import model

SMOL, LLAMA, LLAMA70 = model("SmolLM2-135M"), model("Llama-3.1-8B"), model("Llama-3.1-70B")
SMALL = replace(SMOL, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, vocab_size=50)
MIXTRAL = model("Mixtral-8x7B")
CARD = Roof("a card", {"fp32": 100.0, "bf16": 200.0}, 10.0)


def test_llama_2_13b_has_the_published_cache():
    """ "Paged attention from first principles" and the paper on LMCache's field: 0.78125 MiB a token."""
    assert kv_bytes(model("Llama-2-13B"), dtype="fp16") == 0.78125 * 2**20
    assert kv_bytes(model("Llama-2-13B"), 4096, "fp16") == 3.125 * 2**30


def test_the_cache_by_hand():
    assert kv_bytes(SMOL, dtype="fp32") == 2 * 30 * 3 * 64 * 4 == 46_080
    assert kv_bytes(LLAMA, dtype="bf16") == 2 * 32 * 8 * 128 * 2 == 128 * 1024
    assert kv_bytes(LLAMA70, dtype="int8") == 2 * 80 * 8 * 128
    assert kv_bytes(LLAMA70, 3, "int4") == 3 * 80 * 8 * 128
    assert kv_bytes(SMOL, 0) == 0


@pytest.mark.parametrize("n_kv_heads", [1, 3, 9])
def test_the_cache_is_transformers_to_the_byte(n_kv_heads):
    config = LlamaConfig(
        num_hidden_layers=4, hidden_size=576, num_attention_heads=9, num_key_value_heads=n_kv_heads, head_dim=64
    )
    cache = StaticCache(config=config, max_cache_len=77)
    cache.early_initialization(
        batch_size=2, num_heads=n_kv_heads, head_dim=64, dtype=torch.bfloat16, device=torch.device("cpu")
    )
    theirs = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 2 * kv_bytes(replace(SMOL, n_layers=4, n_kv_heads=n_kv_heads), 77, "bf16") == theirs


def test_latent_attention_keeps_what_its_authors_say():
    """DeepSeek-V3: 70.272 kB a token in bf16 (Insights into DeepSeek-V3, arXiv:2505.09343, table 1)."""
    assert kv_bytes(model("DeepSeek-V3"), dtype="bf16") == 70_272


def test_experts_change_no_cache_and_local_layers_stop_at_their_window():
    assert kv_bytes(model("Mixtral-8x7B")) == 2 * 32 * 8 * 128 * 2
    gemma = model("gemma-2-2b")
    one = 2 * 4 * 256 * 2
    assert kv_bytes(gemma, 4096) == 26 * 4096 * one
    assert kv_bytes(gemma, 8192) == (13 * 8192 + 13 * 4096) * one


def test_token_computations_are_those_of_the_lectures_source():
    assert token_computations(1000, 100, cached=False) == 104_950
    assert token_computations(1000, 100, cached=True) + 1 == 1_100  # which counts the last new token, too
    assert token_computations(5, 1, cached=False) == token_computations(5, 1, cached=True) == 5
    assert token_computations(2, 3, cached=False) == 2 + 3 + 4


def test_weights_are_read_once_and_the_input_embedding_not():
    assert weights_read(SMOL, "fp32") == 4 * SMOL.n_params
    assert weights_read(LLAMA, "bf16") == 2 * (LLAMA.n_params - 128256 * 4096)
    assert weights_read(model("gpt2"), "fp16") == 2 * (124_439_808 - 1024 * 768)  # learned positions are rows, too


@pytest.mark.parametrize(("n_experts", "chosen", "n_tokens"), [(4, 1, 3), (4, 2, 3), (5, 3, 2), (3, 3, 2), (6, 2, 1)])
def test_experts_touched_are_the_mean_over_all_ways_to_choose(n_experts, chosen, n_tokens):
    """Each token takes one of the sets of `chosen` experts, all sets alike often: count them out."""
    ways = list(itertools.product(itertools.combinations(range(n_experts), chosen), repeat=n_tokens))
    touched = sum(len(set().union(*way)) for way in ways) / len(ways)
    experts = replace(MIXTRAL.experts, n_experts=n_experts, n_experts_per_token=chosen, n_shared_experts=1)
    spec = replace(MIXTRAL, experts=experts)
    expert = 3 * 4096 * 14336
    rest = spec.n_params - 32000 * 4096 - 32 * (n_experts + 1) * expert
    assert weights_read(spec, "bf16", n_tokens) == pytest.approx(2 * (rest + 32 * (touched + 1) * expert), abs=1.01)


def test_one_token_reads_the_active_parameters_and_many_read_all():
    for spec in (MIXTRAL, model("Qwen3-30B-A3B"), model("DeepSeek-V3")):
        table = spec.vocab_size * spec.d_model
        assert weights_read(spec) == pytest.approx(2 * (spec.n_active_params - table), rel=1e-12)
        assert weights_read(spec, "bf16", 10**6) == 2 * (spec.n_params - table)
        step = decode_work(spec, 8, 100)
        assert step.bytes == weights_read(spec, "bf16", 8) + 8 * (2 * spec.d_model + kv_bytes(spec, 100))
        assert prefill_work(spec, 2, 50).bytes == weights_read(spec, "bf16", 100) + 100 * 2 * spec.d_model + (
            2 * kv_bytes(spec, 50)
        )


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(("batch_size", "context"), [(1, 1), (1, 33), (3, 40)])
def test_a_decode_step_is_pytorchs_count(batch_size, context):
    with torch.device("meta"):
        network = Transformer(SMALL)
        served, cache = Served(network), KVCache(SMALL, batch_size, 64, device="meta")
        cache.lengths = [context - 1] * batch_size
        window = cache.window(1)
        tokens = torch.zeros(batch_size, 1, dtype=torch.long)
        step = counted(lambda: served.head(served.forward(tokens, window.positions, window.attend)[:, -1]))
    assert decode_work(SMALL, batch_size, context).flops == step


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma2", "mixtral", "qwen3_moe"])
@pytest.mark.parametrize("context", [1, 4, 5, 6, 12])
def test_a_decode_step_of_other_families_is_pytorchs_count_with_transformers_cache(twins, family, context):
    """A local layer's cache holds a window of 5 tokens and no more."""
    network, spec = twins(family)
    tokens, cache = torch.randint(50, (3, context)), DynamicCache(config=network.config)
    with torch.inference_mode():
        if context > 1:
            network(tokens[:, :-1], past_key_values=cache)
        step = counted(lambda: network(tokens[:, -1:], past_key_values=cache))
    assert decode_work(spec, 3, context).flops == step


def test_a_decode_step_of_latent_attention_is_an_absorbed_ones(twins):
    """The two matrices that make keys and values from latents, multiplied with the query and the result instead."""
    network, spec = twins("deepseek_v3")
    layer, latent, context = network.model.layers[0].self_attn, spec.latent, 9
    x = torch.randn(1, context, 32)
    cos, sin = network.model.rotary_emb(x, torch.arange(context)[None])
    mask = torch.full((context, context), -torch.inf).triu(1)
    into_key, into_value = layer.kv_b_proj.weight.view(4, 8 + 6, 10).split(
        (latent.qk_nope_head_dim, latent.v_head_dim), 1
    )

    def cached(x, cos, sin):
        made, rotary = layer.kv_a_proj_with_mqa(x).split((latent.kv_lora_rank, latent.qk_rope_head_dim), -1)
        rotary, _ = apply_rotary_pos_emb_interleave(rotary[:, None], rotary[:, None], cos, sin)
        return layer.kv_a_layernorm(made)[0], rotary[0, 0]

    def step():
        new = cached(x[:, -1:], cos[:, -1:], sin[:, -1:])
        latents, rotaries = (torch.cat(each) for each in zip(before, new, strict=True))
        q = layer.q_b_proj(layer.q_a_layernorm(layer.q_a_proj(x[0, -1:]))).view(1, 1, 4, -1).transpose(1, 2)
        q, q_rotary = q.split((latent.qk_nope_head_dim, latent.qk_rope_head_dim), -1)
        q_rotary, _ = apply_rotary_pos_emb_interleave(q_rotary, q_rotary, cos[:, -1:], sin[:, -1:])
        scores = (q[0] @ into_key) @ latents.mT + q_rotary[0] @ rotaries.mT
        mean = (scores * layer.scaling).softmax(-1) @ latents
        return layer.o_proj((mean @ into_value.mT).flatten())

    with torch.inference_mode():
        before = cached(x[:, :-1], cos[:, :-1], sin[:, :-1])
        assert kv_bytes(spec, context - 1, "fp32") == spec.n_layers * sum(each.nbytes for each in before)
        expected = layer(x, (cos, sin), mask[None, None])[0][0, -1]
        torch.testing.assert_close(step(), expected)
        flops = counted(step)
    parts = forward_flops(spec, 1, 1)
    assert flops == (parts["qkv"] + parts["output"]) // 3 + context * pair_flops(spec, absorbed=True)
    more = decode_work(spec, 1, context).flops - decode_work(spec, 1, 1).flops
    assert more == 3 * (context - 1) * pair_flops(spec, absorbed=True)


def test_mistral_reads_a_long_prompt_with_two_thirds_of_the_work_of_full_attention():
    """By hand: of 32,768 tokens the first 4,096 see 1 to 4,096 keys, all others 4,096."""
    full = replace(LLAMA, name="Mistral-7B-v0.1", vocab_size=32000, context_length=32768)
    mistral = replace(full, sliding_window=4096, n_local_layers=32)
    assert mistral.n_params == 7_241_732_096
    pairs = 32 * (4096 * 4097 // 2 + 28672 * 4096)
    products = 32768 * 2 * (mistral.n_params - 2 * 32000 * 4096 - 65 * 4096) + 2 * 32000 * 4096
    assert prefill_work(mistral, 1, 32768).flops == products + pairs * 4 * 4096
    assert prefill_work(full, 1, 32768).flops / prefill_work(mistral, 1, 32768).flops == pytest.approx(1.41, abs=0.005)
    assert decode_work(mistral, 1, 32768) == decode_work(mistral, 1, 4096)
    assert decode_work(mistral, 1, 4095).flops < decode_work(mistral, 1, 4096).flops


def test_a_prefill_is_pytorchs_count_less_the_pairs_that_the_mask_throws_away():
    with torch.device("meta"):
        network = Transformer(SMALL)
        tokens = torch.zeros(2, 37, dtype=torch.long)
        all_pairs = counted(lambda: network.head(network.hidden(tokens)[:, -1]))
    hidden_pairs = 2 * (37 * 36 // 2) * 4 * 2 * 4 * 8  # sequences, pairs, operations, layers, heads, head_dim
    assert prefill_work(SMALL, 2, 37).flops == all_pairs - hidden_pairs


def test_reading_a_prompt_is_as_much_arithmetic_as_decoding_it():
    steps = sum(decode_work(SMOL, 1, n).flops for n in range(1, 101))
    assert prefill_work(SMOL, 1, 100).flops == steps - 99 * forward_flops(SMOL, 1, 1)["head"]


def test_bytes_by_hand():
    one = decode_work(SMOL, 1, 100, "fp32")
    assert one.bytes == 4 * 134_515_008 + 4 * 576 + 100 * 46_080
    eight = decode_work(SMOL, 8, 100, "fp32")
    assert eight.bytes - one.bytes == 7 * (4 * 576 + 100 * 46_080)
    assert eight.flops == 8 * one.flops
    prompts = prefill_work(SMOL, 2, 512, "fp32")
    assert prompts.bytes == 4 * 134_515_008 + 2 * 512 * (4 * 576 + 46_080)


def test_times_are_the_roofs():
    work = prefill_work(SMOL, 2, 64, "fp32")
    assert time_to_first_token(CARD, SMOL, 2, 64, "fp32") == CARD.floor(work, "fp32")
    assert time_per_output_token(CARD, SMOL, 2, 64, "bf16") == CARD.floor(decode_work(SMOL, 2, 64), "bf16")
    with pytest.raises(UnsupportedDtype):
        time_to_first_token(Roof.of(accelerator("T4")), SMOL, 1, 64, "bf16")


def test_prefill_waits_for_arithmetic_and_decode_for_memory_on_each_of_the_lectures_cards():
    for name in ("T4", "V100", "A40", "A100-40GB"):
        card = Roof.of(accelerator(name))
        for each in (SMOL, LLAMA, LLAMA70):
            assert time_to_first_token(card, each, 1, 1024, "fp16").bound == "compute"
            assert time_per_output_token(card, each, 1, 1024, "fp16").bound == "memory"


@pytest.mark.parametrize("context", [1, 100, 400])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_where_batching_stops_being_free(context, dtype):
    batch = compute_bound_batch(CARD, SMOL, context, dtype)
    assert batch > 1
    below, above = (CARD.floor(decode_work(SMOL, n, context, dtype), dtype) for n in (int(batch), int(batch) + 1))
    assert below.bound == "memory"
    assert above.bound == "compute"


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen3-30B-A3B"])
def test_experts_that_wake_with_the_batch_put_the_end_of_free_batching_off(name):
    spec, a100 = model(name), Roof.of(accelerator("A100-40GB"))
    batch = compute_bound_batch(a100, spec, 1)
    below, above = (a100.floor(decode_work(spec, n, 1), "bf16") for n in (int(batch), int(batch) + 1))
    assert (below.bound, above.bound) == ("memory", "compute")
    assert batch > 1.5 * compute_bound_batch(a100, LLAMA, 1)


def test_a_cache_may_keep_decode_bound_by_memory_for_ever():
    a100 = Roof.of(accelerator("A100-40GB"))
    assert compute_bound_batch(a100, model("Llama-2-7B"), 4096) == float("inf")
    assert time_per_output_token(a100, model("Llama-2-7B"), 10**6, 4096).bound == "memory"


def test_an_a100_holds_seven_texts_of_2048_tokens_with_llama_2_13b():
    """ "Paged attention from first principles": 40 GB, 26 GB of weights, some 15,000 tokens, seven sequences."""
    llama = model("Llama-2-13B")
    assert largest_batch(llama, 40e9, 2048, "fp16", reserved_bytes=2e9) == 7
    assert 14_000 < largest_batch(llama, 40e9, 1, "fp16", reserved_bytes=2e9) < 15_000
    full = 2 * llama.n_params + 3 * 2048 * 819_200
    assert largest_batch(llama, full, 2048, "fp16") == 3
    assert largest_batch(llama, full - 1, 2048, "fp16") == 2
    assert largest_batch(llama, 20e9, 1, "fp16") == 0


def test_what_has_no_cost_is_refused():
    unknown = replace(SMOL)
    object.__setattr__(unknown, "unlike_llama", lambda but=(): ["a third kind of layer"])
    for work in (decode_work, prefill_work):
        with pytest.raises(NoFormula, match="SmolLM2-135M, which has a third kind of layer"):
            work(unknown, 1, 10)
    with pytest.raises(ValueError, match="not number 0"):
        decode_work(SMOL, 1, 0)
    with pytest.raises(ValueError, match="at least one token"):
        prefill_work(SMOL, 1, 0)
    with pytest.raises(ValueError, match="not 0 and 5"):
        token_computations(0, 5, cached=True)
    with pytest.raises(ValueError, match="no -1 tokens"):
        kv_bytes(SMOL, -1)
    with pytest.raises(ValueError, match="not 0"):
        largest_batch(SMOL, 1e9, 0)


def test_work_adds_up_over_an_answer():
    steps = [decode_work(SMOL, 1, n, "fp32") for n in (11, 12)]
    assert isinstance(steps[0] + steps[1], Work)
