"""The model against Hugging Face transformers: the real weights, and small Llamas of every kind."""

import json
import math
import pydoc_data.topics
from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmhw_helpers.llm.checkpoints import find_model, load_model
from llmhw_helpers.llm.transformer import NotThisFamily, TokenError, Transformer, rope_frequencies, rotate, rotation
from llmhw_helpers.specs.architectures import Model, RopeScaling
from llmhw_helpers.specs.models import MODELS, model

SMOL = model("SmolLM2-135M")
TINY = replace(SMOL, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, vocab_size=50)
STRETCHED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
KINDS = {
    "grouped queries": {},
    "a head for each query": {"num_key_value_heads": 4},
    "one head for all": {"num_key_value_heads": 1},
    "head size of its own": {"head_dim": 16},
    "more rows than are read at a time": {"vocab_size": 1100},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "another base and epsilon": {"rope_theta": 5e5, "rms_norm_eps": 0.1},
    "stretched as Llama 3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **STRETCHED}},
    "stretched evenly": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
}
ORIGINAL = {"original_max_position_embeddings": 16}
# transformers' words for a stretching, and ours; attention factors as arXiv:2309.00071 and by hand
STRETCHINGS = {
    "none": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 4.0}, RopeScaling("linear", 4.0)),
    "llama3": ({"rope_type": "llama3", **STRETCHED}, RopeScaling("llama3", 8.0, 1.0, 4.0, 16)),
    "yarn": (
        {"rope_type": "yarn", "factor": 8.0, **ORIGINAL},
        RopeScaling("yarn", 8.0, original_context_length=16, attention_factor=0.1 * math.log(8.0) + 1),
    ),
    "yarn between other bounds": (
        {"rope_type": "yarn", "factor": 8.0, "beta_fast": 1.0, "beta_slow": 0.02, "attention_factor": 1.3, **ORIGINAL},
        RopeScaling(*("yarn", 8.0), original_context_length=16, attention_factor=1.3, beta_fast=1.0, beta_slow=0.02),
    ),
    "yarn between fractions of pairs": (
        {"rope_type": "yarn", "factor": 8.0, "truncate": False, "beta_fast": 2.0, "beta_slow": 0.1, **ORIGINAL},
        RopeScaling(
            *("yarn", 8.0),
            original_context_length=16,
            attention_factor=0.1 * math.log(8.0) + 1,
            beta_fast=2.0,
            beta_slow=0.1,
            truncate=False,
        ),
    ),
    "yarn in one step": (
        {"rope_type": "yarn", "factor": 8.0, "beta_fast": 1e6, "beta_slow": 1e6, **ORIGINAL},
        RopeScaling(
            *("yarn", 8.0),
            original_context_length=16,
            attention_factor=0.1 * math.log(8.0) + 1,
            beta_fast=1e6,
            beta_slow=1e6,
        ),
    ),
}
# transformers' names of the functions between an MLP's matrices, and ours
FUNCTIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


def as_ours(llama, **changes):
    """The `Model` of a small Llama of transformers."""
    config = llama.config
    return Model(
        name="small",
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        d_ff=config.intermediate_size,
        vocab_size=config.vocab_size,
        tied_embeddings=False,
        context_length=config.max_position_embeddings,
        rope_theta=1e4,
        source="made up",
        **changes,
    )


def with_weights_of(llama, folder, spec):
    """Our model of `spec`, with the weights of a Llama of transformers."""
    llama.save_pretrained(folder)
    description = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "hidden_act"):  # not the reader's part here
        description.pop(key)
    (folder / "config.json").write_text(json.dumps(description))
    ours = Transformer(spec)
    ours.load_state_dict(load_model(folder).state_dict())
    return ours


@pytest.fixture(scope="module")
def real():
    return load_model()


@pytest.fixture(scope="module")
def theirs():
    """transformers reads the same file by itself, with its own way of undoing llama.cpp's order of rows."""
    path = find_model()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def text():
    """512 tokens of Python's own documentation."""
    path = find_model()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    words = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    return torch.tensor([tokenizer(words[:4000]).input_ids[:512]])


@torch.inference_mode()
def test_logits_of_the_real_model_equal_transformers(real, theirs, text):
    ours, oracle = real(text), theirs(text).logits
    assert ours.shape == (1, 512, SMOL.vocab_size)
    assert (ours - oracle).abs().max() < 1e-3
    assert torch.equal(ours.argmax(-1), oracle.argmax(-1))


@torch.inference_mode()
def test_gradients_and_a_batch_of_the_real_model_equal_transformers(real, theirs, text):
    batch = text[:, :48].view(4, 12)
    with torch.inference_mode(False), torch.enable_grad():
        for network in (real, theirs):
            network.zero_grad()
            logits = network(batch.clone())
            logits = logits if isinstance(logits, torch.Tensor) else logits.logits
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten().clone()).backward()
    for ours, oracle in (
        (real.token_embd, theirs.model.embed_tokens),
        (real.blk[0].ffn_up, theirs.model.layers[0].mlp.up_proj),
        (real.blk[0].attn_k, theirs.model.layers[0].self_attn.k_proj),
        (real.blk[29].attn_norm, theirs.model.layers[29].input_layernorm),
    ):
        torch.testing.assert_close(ours.weight.grad, oracle.weight.grad, atol=1e-4, rtol=1e-3)
    real.zero_grad()
    theirs.zero_grad()


@torch.inference_mode()
def test_the_head_may_be_asked_for_the_last_position_alone(real, text):
    stream = real.hidden(text[:, :64])
    torch.testing.assert_close(real.head(stream[:, -1]), real(text[:, :64])[:, -1], atol=1e-3, rtol=1e-4)


def test_the_real_models_parameters_are_the_formulas_and_the_files(real):
    assert sum(parameter.numel() for parameter in real.parameters()) == SMOL.n_params == 134_515_008
    read = real.spec
    differing = {field for field in vars(SMOL) if getattr(read, field) != getattr(SMOL, field)}
    assert differing == {"name", "source", "norm_eps"}
    assert read.norm_eps == pytest.approx(SMOL.norm_eps, rel=1e-6)  # the file has it in fp32


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_small_llamas_of_every_kind_equal_transformers(tmp_path, small_llama, kind):
    llama = small_llama(**KINDS[kind])
    llama.save_pretrained(tmp_path, max_shard_size="15KB")  # several files and their index
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = torch.randint(0, 96, (2, 100), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_model(tmp_path)(tokens), llama(tokens).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("how", STRETCHINGS)
def test_stretched_positions_equal_transformers_far_beyond_the_original_context(tmp_path, small_llama, how):
    said, scaling = STRETCHINGS[how]
    llama = small_llama(head_dim=16, rope_parameters={"rope_theta": 1e4, **said})
    ours = with_weights_of(llama, tmp_path, as_ours(llama, norm_eps=1e-5, rope_scaling=scaling))
    torch.testing.assert_close(ours.frequencies, llama.model.rotary_emb.inv_freq, atol=1e-8, rtol=1e-5)
    tokens = torch.randint(0, 96, (2, 128), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), llama(tokens).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_functions_in_the_mlp_equal_transformers(tmp_path, small_llama, function):
    llama = small_llama(hidden_act=function)
    spec = as_ours(llama, norm_eps=1e-5, activation=FUNCTIONS[function])
    ours = with_weights_of(llama, tmp_path, spec)
    tokens = torch.randint(0, 96, (2, 100), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), llama(tokens).logits, atol=1e-4, rtol=1e-4)
    if function.startswith("gelu_"):  # and not the exact one, which differs by thousandths
        exact = with_weights_of(llama, tmp_path, replace(spec, activation="gelu"))
        assert not torch.allclose(exact(tokens), llama(tokens).logits, atol=3e-4, rtol=1e-4)


def test_another_function_is_refused():
    with pytest.raises(NotThisFamily, match="SmolLM2-135M has the activation relu2; this model is Llama's"):
        Transformer(replace(TINY, activation="relu2"))


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("SmolLM2", "Llama", "Qwen2.5"))])
def test_every_model_of_the_family_has_as_many_parameters_as_its_formula_says(name):
    with torch.device("meta"):
        built = Transformer(model(name))
    assert sum(parameter.numel() for parameter in built.parameters()) == model(name).n_params


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Mixtral-8x7B", "a mixture of experts"),
        ("Qwen3-30B-A3B", "a mixture of experts and norms of queries and keys"),
        ("gemma-2-2b", "local layers and norms after each part"),
        ("DeepSeek-V3", "a mixture of experts and latent attention"),
    ],
)
def test_another_family_is_refused_by_the_part_that_is_missing_here(name, part):
    with pytest.raises(NotThisFamily, match=f"{name} has {part}.*; this model is Llama's"):
        Transformer(model(name))


def test_an_unknown_stretching_is_refused():
    with pytest.raises(NotThisFamily, match="rotary scaling 'longrope'; known are linear, llama3 and yarn"):
        Transformer(replace(TINY, rope_scaling=RopeScaling("longrope", 4.0)))


@pytest.mark.parametrize("wrong", [-1, 50, 10**9])
def test_a_number_that_is_no_token_is_named(wrong):
    network = Transformer(TINY)
    with pytest.raises(TokenError, match=f"token {wrong} is none of SmolLM2-135M's, which go from 0 to 49"):
        network(torch.tensor([[3, wrong, 4]]))


def test_more_tokens_than_the_context_holds_are_refused_with_both_numbers():
    network = Transformer(replace(TINY, context_length=16))
    assert network(torch.zeros(1, 16, dtype=torch.long)).shape == (1, 16, 50)
    with pytest.raises(TokenError, match="17 tokens, and the context of SmolLM2-135M holds 16: shorten it"):
        network(torch.zeros(1, 17, dtype=torch.long))


def test_new_weights_follow_the_seed_and_leave_the_stream_at_its_size():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(Transformer(replace(TINY, d_model=256, vocab_size=500, n_layers=8)))
    first, second, other = (network.blk[3].ffn_down.weight for network in drawn)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert drawn[0].token_embd.weight.std().item() == pytest.approx(0.02, rel=0.05)
    biased = Transformer(replace(TINY, qkv_bias=True))
    assert not biased.blk[0].attn_q.bias.any()


def test_positions_stay_exact_in_bf16():
    network = Transformer(TINY).to(torch.bfloat16)
    assert network(torch.zeros(1, 4, dtype=torch.long)).dtype == torch.bfloat16
    assert network.frequencies.dtype == torch.float32
    assert torch.equal(network.frequencies, rope_frequencies(TINY))


def test_a_score_depends_on_the_distance_alone():
    frequencies = rope_frequencies(SMOL)
    q, k = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        turn = rotation(torch.tensor([i, j]), frequencies)
        return torch.dot(*rotate(torch.stack((q, k)), *turn))

    for i, j in ((5, 2), (100, 90), (7000, 6000)):
        torch.testing.assert_close(score(i, j), score(i - j, 0), atol=5e-3, rtol=0)
    assert abs(score(5, 2) - score(5, 3)) > 0.1


def test_the_model_runs_on_fake_tensors():
    with FakeTensorMode():
        assert Transformer(TINY)(torch.zeros(2, 8, dtype=torch.long)).shape == (2, 8, 50)
