"""The compiled step against PyTorch's model: same logits, in every format, for any share of the work."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.decoding import decode, decoder_of, generate, new_cache, prefill
from llmhw_helpers.serving.paged_cache import PagedCache
from llmhw_helpers.serving.weights import Served

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import held, numbers, step

N_TOKENS = 9
# Of the largest logit. In 16 bits PyTorch rounds after every operation, the compiled step in the cache only.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.05}


@pytest.fixture(scope="module")
def odd(tiny_spec):
    """No width that two, four or eight divide, biases, and a head of its own."""
    sizes = {"d_model": 33, "head_dim": 10, "d_ff": 47, "vocab_size": 51}
    return replace(tiny_spec, **sizes, qkv_bias=True, o_bias=True, mlp_bias=True, tied_embeddings=False)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_logits_are_pytorchs_and_the_same_for_any_number_of_workers(odd, random_model, decoded, dtype, batch_size):
    model = random_model(odd).to(dtype)
    texts = torch.randint(51, (batch_size, N_TOKENS))
    found = decoded(model, texts.tolist())
    expected = model(texts).detach().float()
    largest = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype] * largest)
    for n in (2, 3, 7):
        assert torch.equal(decoded(model, texts.tolist(), n), found)


@pytest.mark.parametrize(
    "sizes", [{"n_heads": 1, "n_kv_heads": 1, "head_dim": 80}, {"n_heads": 6, "n_kv_heads": 1, "head_dim": 2}]
)
def test_one_head_and_one_that_all_share(tiny_spec, random_model, decoded, sizes):
    model = random_model(replace(tiny_spec, **sizes))
    texts = torch.randint(50, (2, N_TOKENS))
    torch.testing.assert_close(decoded(model, texts.tolist(), 2), model(texts).detach(), rtol=1e-4, atol=1e-4)


def test_rows_of_one_text_see_those_before_them(odd, random_model, as_bytes):
    model, text = random_model(odd), [3, 14, 15, 9]
    weights, cache = held.hold(model), PagedCache(odd, 1, 4)
    logits, gate = np.zeros((4, 51), np.float32), step.new_gates(weights.norms.shape[0])
    scratch, where = step.Scratch(weights, 4, 1, 4), (np.arange(4), np.zeros((4, 1), np.int32), 4)
    step.decode_share(0, 1, gate, weights, scratch, np.array(text), *where, as_bytes(cache), logits)
    expected = model(torch.tensor([text]))[0].detach()
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_texts_of_several_chunks_are_seen_whole_whoever_looks_at_them(tiny_spec, random_model):
    """A chunk is 32 tokens: here texts have one, two and four, and each layer combines them anew."""
    model, found, before = random_model(replace(tiny_spec, context_length=128)), [], torch.get_num_threads()
    prompts = [torch.arange(n).mul(7).remainder(50).tolist() for n in (30, 63, 100)]
    for compiled, n_threads in ((False, 1), (True, 1), (True, 2), (True, 5)):
        torch.set_num_threads(n_threads)
        served = Served(model, compiled=compiled)
        cache = new_cache(served, len(prompts), 110)
        prefill(served, prompts, cache)
        found.append(torch.stack([decode(served, torch.tensor([i, 9, 4]), cache) for i in range(4)]))
    torch.set_num_threads(before)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5 * found[0].abs().max().item())
    assert torch.equal(found[2], found[1])
    assert torch.equal(found[3], found[1])


def test_one_program_serves_every_format_and_shape(decoded, random_model, tiny_spec):
    """Whatever is compiled twice lets the first user wait twice as long."""
    for n, dtype in enumerate(TOLERANCE, 1):
        decoded(random_model(tiny_spec).to(dtype), [[1, 2]] * n)
    assert len(step.decode_share.signatures) == 1


def test_nan_stays_nan(tiny, decoded):
    with torch.no_grad():
        tiny.blk[1].ffn_down.weight[5, 7] = torch.nan
    assert decoded(tiny, [[1], [2]], 2).isnan().all()


def test_weights_are_used_where_they_lie(tiny):
    weights = held.hold(tiny)
    matrix = weights.matrices[step.PER_LAYER + held.UP]
    found = numbers.floats(matrix[4], matrix[1], matrix[2])
    with torch.no_grad():
        tiny.blk[1].ffn_up.weight[3, 2] = 42
    assert found[3, 2] == 42
    assert found.shape == (48, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.double(), "float64: the compiled step takes fp32, bf16 and fp16"),
        (lambda model: model.to("meta"), "on meta"),
        (lambda model: setattr(model.blk[0], "attn_q", torch.nn.Identity()), "attn_q is a Identity"),
    ],
)
def test_a_model_of_another_kind_is_refused(tiny, change, words):
    change(tiny)
    with pytest.raises(held.NotCompiled, match=words):
        held.hold(tiny)


def test_another_activation_is_refused(tiny_spec):
    with pytest.raises(held.NotCompiled, match="the activation gelu"):
        held.hold(Transformer(replace(tiny_spec, activation="gelu")))


@pytest.mark.parametrize(
    ("dtype", "to", "back"),
    [
        (torch.float16, numbers.to_fp16, numbers.from_fp16),
        (torch.bfloat16, numbers.to_bf16, numbers.from_bf16),
    ],
)
def test_numbers_of_16_bits_are_pytorchs(dtype, to, back):
    codes = torch.arange(0, 65536, 7, dtype=torch.int32).to(torch.int16)
    wide = codes.view(dtype).float()
    found = np.array([back(code) for code in codes.numpy().view(np.uint16)], np.float32)
    np.testing.assert_array_equal(found, wide.numpy())
    torch.manual_seed(0)
    values = torch.cat(
        (wide, torch.randn(4000) * 10.0 ** torch.randint(-9, 6, (4000,)), torch.tensor([65519.0, 65520]))
    )
    narrow = np.array([to(value) for value in values.numpy()], np.uint16)
    number = ~values.isnan()
    expected = values.to(dtype).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(narrow[number], expected[number])
    assert torch.from_numpy(narrow.view(np.int16)).view(dtype)[~number].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_changed_in_its_place_shows_in_the_next_step(tiny_spec, random_model, dtype):
    model = random_model(replace(tiny_spec, qkv_bias=True, o_bias=True, mlp_bias=True)).to(dtype)
    served, found = Served(model), []
    for _ in range(2):
        for served.compiled in (True, False):
            cache = new_cache(served, 1, 8)
            prefill(served, [[3, 1, 4]], cache)
            found.append(decode(served, torch.tensor([1]), cache).float())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 1:  # norms and biases; matrices are used where they lie
                    weight += 0.3 if "norm" in name else torch.randn_like(weight)
    atol = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(found[0], found[1], atol=atol, rtol=atol)
    torch.testing.assert_close(found[2], found[3], atol=atol, rtol=atol)
    assert (found[0] - found[2]).abs().max() > 1


def test_the_real_model_writes_the_same_text():
    model, prompt = load_model(), list(range(500, 540))
    ways = [Served(model, compiled=False), Served(model)]  # the compiled one, as nobody says otherwise
    plain, compiled = (list(generate(served, prompt, 12)) for served in ways)
    assert [decoder_of(served) is not None for served in ways] == [False, True]
    assert compiled == plain
