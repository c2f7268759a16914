import pytest

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.costs.parallelism import Indivisible, divides, kv_heads, layers_by_stage, part
from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.models import MODELS, model


def whole_and_kept(each):
    """Numbers of a model that tensor parallelism does not divide: norms, routers, latents, biases of outputs."""
    parts = each.parameters()
    kept = parts["norms"] + parts.get("router", 0) + parts.get("positions", 0)
    if each.latent:
        kept += (
            each.n_layers
            * each.d_model
            * ((each.latent.q_lora_rank or 0) + each.latent.kv_lora_rank + each.latent.qk_rope_head_dim)
        )
    return each.n_params, kept


@pytest.mark.parametrize("name", ["Llama-2-7B", "Llama-3.1-405B", "Mixtral-8x7B", "DeepSeek-V3", "Qwen3-30B-A3B"])
@pytest.mark.parametrize("tp_size", [2, 4])
def test_the_parts_of_tensor_parallelism_add_up_to_the_model(name, tp_size):
    whole, kept = whole_and_kept(model(name))
    assert tp_size * (part(model(name), tp_size).n_params - kept) == whole - kept


@pytest.mark.parametrize("name", ["Llama-2-7B", "Llama-3.1-405B", "Mixtral-8x7B", "DeepSeek-V3", "gpt-oss-120b"])
@pytest.mark.parametrize("pp_size", [2, 3])
def test_stages_add_up_but_for_one_last_norm_each(name, pp_size):
    each = model(name)
    stages = [part(each, pp_size=pp_size, stage=i) for i in range(pp_size)]
    assert sum(stage.n_layers for stage in stages) == each.n_layers
    assert sum(stage.n_params for stage in stages) == each.n_params + (pp_size - 1) * each.d_model
    assert sum(stage.kv_numbers(100) for stage in stages) == each.kv_numbers(100)


def test_a_tied_embedding_is_held_twice():
    each = model("SmolLM2-135M")
    extra = each.vocab_size * each.d_model + each.d_model
    assert sum(part(each, pp_size=2, stage=i).n_params for i in range(2)) == each.n_params + extra


def test_only_the_first_stage_has_the_dense_layers():
    stages = [part(model("DeepSeek-V3"), pp_size=2, stage=i) for i in range(2)]
    assert [stage.experts.n_dense_layers for stage in stages] == [3, 0]


@pytest.mark.parametrize(
    ("name", "tp_size", "kib"), [("Llama-3.1-70B", 1, 320), ("Llama-3.1-70B", 4, 80), ("Llama-3.1-70B", 16, 40)]
)
def test_caches_divide_down_to_one_head(name, tp_size, kib):
    assert kv_bytes(part(model(name), tp_size)) == kib * 1024


def test_a_latent_cache_does_not_divide():
    assert kv_bytes(part(model("DeepSeek-V3"), 8)) == kv_bytes(model("DeepSeek-V3")) == 70272  # as vLLM's logs have it


def test_what_does_not_divide_is_refused_in_a_line():
    with pytest.raises(Indivisible, match="9 query heads of SmolLM2-135M do not divide among 2 ranks"):
        part(model("SmolLM2-135M"), 2)
    with pytest.raises(Indivisible, match="30 layers do not make 31 stages"):
        part(model("SmolLM2-135M"), 1, 31)
    with pytest.raises(NoFormula, match="18 of 36 layers of gpt-oss-120b differ"):
        part(model("gpt-oss-120b"), 1, 4)
    with pytest.raises(ValueError, match="no part 2 of 2 stages"):
        part(model("Llama-2-7B"), 1, 2, 2)
    with pytest.raises(Indivisible, match="heads of keys and values"):
        kv_heads(model("Qwen2.5-7B"), 3)


@pytest.mark.parametrize("each", MODELS.values(), ids=MODELS)
def test_one_rank_and_one_stage_hold_the_model_itself(each):
    assert part(each) == each
    assert divides(each, 1)


def test_a_vocabulary_is_padded_before_it_is_divided():
    assert part(model("gpt2"), vocab_multiple=64).vocab_size == 50304
    assert part(model("gpt2"), 2, vocab_multiple=64).vocab_size == 25152


@pytest.mark.parametrize(("n_layers", "pp_size"), [(126, 4), (61, 8), (7, 7), (80, 3)])
def test_stages_differ_by_one_layer_and_the_last_has_no_more(n_layers, pp_size):
    layers = layers_by_stage(n_layers, pp_size)
    assert sum(layers) == n_layers
    assert max(layers) - min(layers) <= 1
    assert layers[-1] == min(layers)
