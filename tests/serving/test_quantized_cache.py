"""The cache of small numbers: codes as `quantize` makes them, bytes to the byte, attention over what they stand for.

In fp64 where logits are compared: there the order of a sum moves no number over the edge of its rounding, so that one
way and another agree as closely as without rounding.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.quantization import CannotQuantize, Scheme, quantize
from llmhw_helpers.llm.transformer import causal_attention
from llmhw_helpers.serving.decoding import decode, new_cache, prefill
from llmhw_helpers.serving.kv_cache import CacheFull
from llmhw_helpers.serving.quantized_cache import QuantizedCache, from_cache, to_cache
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.models import model

TOKENS = torch.randint(0, 50, (3, 64), generator=torch.Generator().manual_seed(1)).tolist()
BITS = pytest.mark.parametrize("bits", [8, 4])
CLOSE = {"atol": 1e-5, "rtol": 0}  # of logits up to some 30


@pytest.fixture
def exact(tiny):
    return tiny.double()


def some_rows(*shape):
    """Rows of very different sizes, one of zeros, and one whose numbers lie halfway between two codes."""
    torch.manual_seed(2)
    rows = torch.randn(*shape) * torch.logspace(-4, 3, shape[-2])[:, None]
    rows[..., 0, :] = 0
    rows[..., 1, :] = torch.arange(shape[-1]) + 0.5
    rows[..., 1, 0] = 127
    return rows


def oracle(x, bits):
    """What is left of keys or values, by the tested quantizer of weights."""
    return quantize(x.flatten(0, -2), Scheme(bits, "row")).dequantize().view_as(x).to(x.dtype)


@torch.inference_mode()
def rounded(network, tokens, bits):
    """Logits of the model without a cache, whose attention looks at rounded keys and values."""
    x = network.embed(tokens)
    rotation = network.rotation(x)
    for block in network.blk:
        x = block(x, rotation, lambda q, k, v: causal_attention(q, oracle(k, bits), oracle(v, bits)))
    return network.head(network.output_norm(x))


def read(served, tokens, cache):
    """Logits at all positions of one pass."""
    with torch.inference_mode():
        window = cache.window(tokens.shape[1])
        stream = served.forward(tokens, window.positions, window.attend)
        return served.head(stream.flatten(0, 1)).unflatten(0, tokens.shape)


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_codes_scales_and_rows_are_the_quantizers_to_the_bit(bits, dtype):
    rows = some_rows(2, 3, 5, 9, 8).to(dtype)
    expected = quantize(rows.flatten(0, -2), Scheme(bits, "row"))
    codes, scales = to_cache(rows, bits)
    assert scales.dtype == torch.float16
    assert torch.equal(scales.float().flatten(), expected.scales.flatten())
    plain = codes if bits == 8 else torch.cat((codes & 15, codes >> 4), -1).to(torch.int8) - 8
    assert torch.equal(plain.view(-1, 8), expected.codes)
    assert torch.equal(from_cache(codes, scales, bits).view(-1, 8), expected.dequantize())


def test_the_bytes_are_those_worked_out_by_hand():
    rows = torch.tensor([[7.0, -7.0, 3.4, -3.6], [0, 0, 0, 0], [0.5, 1.0, -0.25, 0.1]])
    codes, scales = to_cache(rows, 4)  # 7 -7 3 -4; zeros; 3.5 is halfway, to the even 4, 7, -1.75 to -2, 0.7 to 1
    assert [[f"{byte:02x}" for byte in row] for row in codes.tolist()] == [["bf", "41"], ["88", "88"], ["6c", "9f"]]
    assert scales.tolist() == [[7.0], [0.0], [1.0]]
    codes, _ = to_cache(rows, 8)
    assert codes[2].tolist() == [64, 127, -32, 13]


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_the_formulas_to_the_byte(bits, dtype):
    spec = model("SmolLM2-135M")
    cache = QuantizedCache(spec, 2, 100, dtype, bits=bits)
    row = 64 * bits // 8 + 2
    assert cache.nbytes == 2 * spec.n_layers * 2 * spec.n_kv_heads * 100 * row
    assert cache.nbytes == 2 * kv_bytes(spec, 100, "bf16") * row // 128
    assert cache.nbytes == sum(each.untyped_storage().nbytes() for each in (cache.codes, cache.scales))
    assert not [name for name, each in vars(cache).items() if isinstance(each, torch.Tensor) and name not in KEPT]
    assert cache.used_bytes == 0
    cache.advance([3, 10])
    assert cache.used_bytes == 2 * spec.n_layers * spec.n_kv_heads * 13 * row


KEPT = {"codes", "scales"}


@BITS
def test_what_lies_in_the_cache_is_what_the_quantizer_makes_of_the_keys_and_values(tiny_spec, bits):
    cache = QuantizedCache(tiny_spec, 2, 12, bits=bits)
    torch.manual_seed(3)
    k, v = some_rows(2, 2, 5, 8), some_rows(2, 2, 5, 8) + 1
    cache.advance(4)
    cache.window(5).attend(1, torch.randn(2, 4, 5, 8), k, v)
    held = from_cache(cache.codes[1], cache.scales[1], bits)
    assert torch.equal(held[0, :, :, 4:9], oracle(k, bits))
    assert torch.equal(held[1, :, :, 4:9], oracle(v, bits))
    cache.scales[1, :, :, :, 4:9] = 0
    assert not cache.scales.any()  # nothing was written anywhere else


@BITS
def test_logits_are_those_of_attention_to_rounded_keys_and_values(exact, bits):
    tokens = torch.tensor(TOKENS)
    found = read(Served(exact), tokens, QuantizedCache(exact.spec, 3, 64, torch.float64, bits=bits))
    torch.testing.assert_close(found, rounded(exact, tokens, bits), **CLOSE)
    with torch.inference_mode():
        assert (found - exact(tokens)).abs().max() > 0.01  # the rounding shows


@BITS
@pytest.mark.parametrize("n_prompt", [1, 2, 17])
def test_prefill_and_decode_give_what_one_pass_gives_to_the_last_slot(exact, bits, n_prompt):
    text = TOKENS[0]
    served = Served(exact)
    cache = QuantizedCache(exact.spec, 1, 64, torch.float64, bits=bits)
    found = [prefill(served, [text[:n_prompt]], cache)]
    found += [decode(served, torch.tensor([token]), cache) for token in text[n_prompt:]]
    assert cache.lengths == [64]
    expected = rounded(exact, torch.tensor([text]), bits)[0, n_prompt - 1 :]
    torch.testing.assert_close(torch.cat(found), expected, **CLOSE)


@BITS
@pytest.mark.parametrize("lengths", [(6, 6, 6), (6, 1, 9)], ids=["level", "mixed"])
def test_a_text_read_in_pieces_gives_what_it_gives_at_once(exact, bits, lengths):
    """A token sees its own pass rounded, as all later ones see it: else this could not be."""
    expected = rounded(exact, torch.tensor(TOKENS), bits)
    served = Served(exact)
    cache = QuantizedCache(exact.spec, 3, 40, torch.float64, bits=bits)
    first = prefill(served, [text[:n] for text, n in zip(TOKENS, lengths, strict=True)], cache)
    found = prefill(served, [text[n : n + 7] for text, n in zip(TOKENS, lengths, strict=True)], cache)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(first[i], expected[i, n - 1], **CLOSE)
        torch.testing.assert_close(found[i], expected[i, n + 6], **CLOSE)


@BITS
def test_texts_of_different_lengths_in_one_batch_equal_each_alone(exact, bits):
    lengths, n_new = (5, 1, 30), 20
    expected = rounded(exact, torch.tensor(TOKENS), bits)
    served = Served(exact)
    cache = QuantizedCache(exact.spec, 3, 50, torch.float64, bits=bits)
    found = [prefill(served, [text[:n] for text, n in zip(TOKENS, lengths, strict=True)], cache)]
    for step in range(n_new):
        new = [text[n + step] for text, n in zip(TOKENS, lengths, strict=True)]
        found.append(decode(served, torch.tensor(new), cache))
    assert cache.lengths == [25, 21, 50]
    for i, n in enumerate(lengths):
        ours = torch.stack([logits[i] for logits in found])
        torch.testing.assert_close(ours, expected[i, n - 1 : n + n_new], **CLOSE)


@BITS
@torch.inference_mode()
def test_what_a_cache_held_before_does_not_show(tiny, bits):
    served = Served(tiny)
    fresh, used = (QuantizedCache(tiny.spec, 3, 40, bits=bits) for _ in range(2))
    used.codes.fill_(85)
    used.scales.fill_(6e4)
    for cache in (fresh, used):
        prefill(served, [text[:n] for text, n in zip(TOKENS, (4, 9, 2), strict=True)], cache)
    logits = [decode(served, torch.tensor([1, 2, 3]), cache) for cache in (fresh, used)]
    assert torch.equal(*logits)


@BITS
@torch.inference_mode()
def test_a_token_writes_its_slot_and_no_other(tiny, bits):
    served = Served(tiny)
    cache = QuantizedCache(tiny.spec, 1, 64, bits=bits)
    before = cache.codes.data_ptr(), cache.scales.data_ptr()
    prefill(served, [TOKENS[0][:5]], cache)
    for step in range(10):
        kept = cache.codes.clone(), cache.scales.clone()
        decode(served, torch.tensor([step]), cache)
        for pool, old in zip((cache.codes, cache.scales), kept, strict=True):
            changed = (pool != old).flatten(0, 3).any(-1).any(0).nonzero().flatten()
            assert changed.tolist() == [5 + step]
    assert (cache.codes.data_ptr(), cache.scales.data_ptr()) == before


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [0, 5])
def test_attention_in_the_formats_of_real_models(tiny_spec, bits, dtype, start):
    """Against fp64. Each query's result is a mean of values, off by what its weights and the result are rounded by.

    A weight ``exp(score)`` is off by as much of itself as its score is off, and rounded once or twice more: kernels for
    one processor and another keep scores and weights in `dtype` or wider.
    """
    torch.manual_seed(4)
    q, k, v = (torch.randn(2, n_heads, 9, 8).to(dtype) for n_heads in (4, 2, 2))
    keys, values = oracle(k, bits).double(), oracle(v, bits).double()
    expected = causal_attention(q.double(), keys, values)
    largest_score = (q.double() @ keys.repeat_interleave(2, 1).mT).abs().max().item() / 8**0.5
    size = causal_attention(q.double(), keys, values.abs())  # of what a mean is made of
    limit = (2 * largest_score + 4) * torch.finfo(dtype).eps / 2 * size
    cache = QuantizedCache(tiny_spec, 2, 9, dtype, bits=bits)
    for piece in (slice(0, start), slice(start, 8), slice(8, 9)):  # the last one decodes
        if piece.stop > piece.start:
            found = cache.window(piece.stop - piece.start).attend(2, q[:, :, piece], k[:, :, piece], v[:, :, piece])
            cache.advance(piece.stop - piece.start)
            assert found.dtype == dtype
            assert ((found.double() - expected[:, :, piece]).abs() <= limit[:, :, piece]).all()


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_served_models_in_the_formats_of_real_ones(tiny, bits, dtype):
    """Only near: in few bits a sum in another order may move a number over the edge of its rounding."""
    network = tiny.to(dtype)
    served, cache = Served(network), QuantizedCache(tiny.spec, 1, 64, dtype, bits=bits)
    found = torch.cat([prefill(served, [TOKENS[0][:20]], cache), decode(served, torch.tensor(TOKENS[0][20:21]), cache)])
    expected = rounded(network, torch.tensor(TOKENS[:1]), bits)[0, 19:21]
    assert found.dtype == dtype
    far, without = ((each - expected).float().norm() for each in (found, network(torch.tensor(TOKENS[:1]))[0, 19:21]))
    assert far < (0.15 * expected.float().norm() if dtype == torch.bfloat16 else without / 4)


@BITS
def test_the_real_models_logits(bits):
    network = load_model().double()
    tokens = torch.randint(0, 49152, (1, 40), generator=torch.Generator().manual_seed(0))
    served = Served(network)
    cache = QuantizedCache(network.spec, 1, 40, torch.float64, bits=bits)
    found = [prefill(served, [tokens[0, :32].tolist()], cache)]
    found += [decode(served, token, cache) for token in tokens[0, 32:].split(1)]
    torch.testing.assert_close(torch.cat(found), rounded(network, tokens, bits)[0, 31:], **CLOSE)


class Sizes(TorchDispatchMode):
    """The most wide numbers that one operation gives."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor) and each.is_floating_point() and each.element_size() > 2:
                self.largest = max(self.largest, each.numel())
        return result


@BITS
def test_no_more_than_one_layer_is_widened_at_a_time(tiny_spec, bits):
    spec = replace(tiny_spec, n_layers=50)
    cache = QuantizedCache(spec, 1, 64, bits=bits)
    cache.advance(63)
    with torch.inference_mode(), Sizes() as sizes:
        window = cache.window(1)
        for layer in range(50):
            window.attend(layer, torch.ones(1, 4, 1, 8), torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8))
    assert sizes.largest == 2 * 2 * 64 * 8  # keys and values of a layer


@BITS
def test_zeros_stay_zeros(tiny_spec, bits):
    cache = QuantizedCache(tiny_spec, 1, 4, bits=bits)
    zeros = torch.zeros(1, 2, 3, 8)
    mixed = cache.window(3).attend(0, torch.ones(1, 4, 3, 8), zeros, zeros)
    assert torch.equal(mixed, torch.zeros(1, 4, 3, 8))
    assert not from_cache(cache.codes, cache.scales, bits).any()  # free slots as well


def test_a_full_cache_says_so_with_the_numbers(tiny):
    served = Served(tiny)
    cache = QuantizedCache(tiny.spec, 2, 10)
    with pytest.raises(CacheFull, match="^0 tokens and 11 more do not fit into a cache of 10 slots a sequence$"):
        prefill(served, [TOKENS[0][:11], [1]], cache)
    prefill(served, [TOKENS[0][:10], [1]], cache)
    with pytest.raises(CacheFull, match="10 tokens and 1 more"):
        decode(served, torch.tensor([1, 1]), cache)
    assert cache.lengths == [10, 1]  # as it was


def test_what_cannot_be_is_refused_in_one_line(tiny, tiny_spec):
    for bits in (2, 16, 0):
        with pytest.raises(CannotQuantize, match=f"^a cache of {bits} bits: there are 8, and 4 with two codes a byte$"):
            QuantizedCache(tiny_spec, 1, 5, bits=bits)
    odd = replace(tiny_spec, head_dim=7)
    with pytest.raises(CannotQuantize, match="^heads of 7 numbers do not fill bytes with two codes each: take 8 bits$"):
        QuantizedCache(odd, 1, 5, bits=4)
    assert QuantizedCache(odd, 1, 5, bits=8).nbytes == 2 * 3 * 2 * 5 * 9
    with pytest.raises(ValueError, match="0 x 5 tokens: at least 1 each"):
        QuantizedCache(tiny_spec, 0, 5)
    with pytest.raises(ValueError, match="at least one token, not 0"):
        QuantizedCache(tiny_spec, 1, 5).window(0)
    with pytest.raises(ValueError, match=r"the cache is torch.bfloat16: make it with new_cache, or with dtype=torch.f"):
        prefill(Served(tiny), [[1]], QuantizedCache(tiny_spec, 1, 8, torch.bfloat16))
    large = torch.full((1, 2, 1, 8), 7e4)
    with pytest.raises(CannotQuantize, match=r"^keys or values up to 7e\+04 in layer 2: their scales do not fit fp16"):
        QuantizedCache(tiny_spec, 1, 5).window(1).attend(2, torch.ones(1, 4, 1, 8), large / 1e6, large)


@torch.inference_mode()
def test_a_value_that_is_no_number_shows_as_in_a_plain_cache(tiny):
    broken = torch.full((1, 2, 1, 8), torch.nan)
    for cache in (new_cache(Served(tiny), 1, 5), QuantizedCache(tiny.spec, 1, 5)):
        assert cache.window(1).attend(0, torch.ones(1, 4, 1, 8), broken, broken).isnan().all()


def test_a_cache_on_the_meta_device_plans_without_memory():
    spec = model("Llama-3.1-70B")
    cache = QuantizedCache(spec, 16, 131072, torch.bfloat16, "meta", bits=4)
    assert cache.nbytes == 16 * kv_bytes(spec, 131072) * 66 // 256
