"""Weights laid out for serving: the same numbers, the same memory."""

from dataclasses import replace

import pytest
import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.lora import add_lora, merge, remove_lora
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving import weights
from llmhw_helpers.serving.decoding import ServedModel
from llmhw_helpers.serving.kv_cache import KVCache
from llmhw_helpers.serving.weights import FEW_ROWS, VERY_FEW_ROWS, NotPlain, Served, pack, product, thin_product
from llmhw_helpers.specs.architectures import RopeScaling

ROWS = (1, 2, 5, FEW_ROWS, FEW_ROWS + 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("n_out", [6, 7])  # 7 cannot be shared out
def test_a_thin_product_is_the_product(rows, n_out, threads):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, 1, 5), (n_out, 5), (n_out,)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for b in (None, bias):
            ours = thin_product(x, weight, b)
            assert ours.shape == (rows, 1, n_out)
            expected = torch.nn.functional.linear(x.double(), weight.double(), b if b is None else b.double())
            torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_formats_are_multiplied_as_ever(dtype):
    x, weight = torch.randn(1, 8, dtype=dtype), torch.randn(4, 8, dtype=dtype)
    assert torch.equal(thin_product(x, weight), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("rows", [1, VERY_FEW_ROWS, VERY_FEW_ROWS + 1, FEW_ROWS, 40])
def test_a_product_with_packed_weights_is_the_product(rows, dtype, atol):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, rows, 24), (31, 24), (31,))
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    for b in (None, bias):
        expected = torch.nn.functional.linear(x.double(), weight.double(), b if b is None else b.double())
        ours = product(x, weight, b, pack(weight))
        assert (ours.dtype, ours.shape) == (dtype, (2, rows, 31))
        torch.testing.assert_close(ours.double(), expected, atol=atol, rtol=atol)


def test_what_cannot_be_packed_is_multiplied_as_it_is(monkeypatch):
    assert pack(torch.randn(4, 8, dtype=torch.float64)) is None
    assert pack(torch.randn(4, 8, device="meta")) is None
    x, weight = torch.randn(5, 8), torch.randn(4, 8)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack(weight) is None
    torch.testing.assert_close(product(x, weight, None, None), x @ weight.T)


@torch.inference_mode()
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e4])  # at 1e-3 the norm's floor counts as much as the numbers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_norm_is_that_of_pytorch(dtype, size):
    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.RMSNorm(24, eps=1e-6).to(dtype)
    norm.weight.copy_(torch.randn(24, generator=generator))
    x = (size * torch.randn(3, 2, 24, generator=generator)).to(dtype)
    expected = torch.nn.functional.rms_norm(x.double(), (24,), norm.weight.double(), norm.eps)
    found = weights._Norm(norm)(x)
    assert (found.dtype, found.shape) == (dtype, x.shape)
    torch.testing.assert_close(found.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True, "o_bias": True, "mlp_bias": True},
        {"n_kv_heads": 4},
        {"tied_embeddings": False},
        {"activation": "gelu_tanh"},
        {"activation": "relu"},
        {"rope_scaling": RopeScaling("yarn", 8.0, original_context_length=16, attention_factor=1.2)},
    ],
    ids=["grouped", "biases", "a head each", "untied", "gelu", "relu", "yarn"],
)
@pytest.mark.parametrize("n_new", [3, 40])
@pytest.mark.parametrize("packed", [False, True])
def test_a_served_model_gives_the_models_logits(tiny_spec, changes, n_new, packed):
    torch.manual_seed(0)
    network = Transformer(replace(tiny_spec, **changes))
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    tokens = torch.randint(0, tiny_spec.vocab_size, (2, n_new))
    expected = network(tokens)
    served, cache = Served(network, packed), KVCache(network.spec, 2, 64)
    window = cache.window(n_new)
    stream = served.forward(tokens, window.positions, window.attend)
    for t in range(n_new):
        torch.testing.assert_close(served.head(stream[:, t]), expected[:, t], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_served_model_says_what_it_computes_in_and_how_much_it_holds(tiny_spec, dtype):
    for tied in (True, False):
        network = Transformer(replace(tiny_spec, tied_embeddings=tied, qkv_bias=True)).to(dtype)
        n_bytes = sum(parameter.nbytes for parameter in network.parameters())
        served = Served(network)
        assert isinstance(served, ServedModel)
        assert (served.dtype, served.device, served.nbytes) == (dtype, torch.device("cpu"), n_bytes)
    packed = Served(network.float(), packed=True)
    matrices = sum(p.nbytes for name, p in network.named_parameters() if p.dim() == 2 and "token_embd" not in name)
    assert packed.nbytes == sum(p.nbytes for p in network.parameters()) + matrices


@torch.inference_mode()
def test_the_real_model_stays_the_same_to_the_bit_and_takes_no_more_memory():
    network = load_model()
    tokens = torch.arange(500, 520)[None]
    expected = network(tokens)
    served = Served(network)
    assert torch.equal(network(tokens), expected)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in network.parameters()}
    assert sum(storages.values()) == 4 * network.spec.n_params  # views share one, and nothing else is kept
    layer = served._layers[0]
    for joined, part in ((layer.qkv[0], network.blk[0].attn_q), (layer.gate_up[0], network.blk[0].ffn_gate)):
        assert joined.data_ptr() == part.weight.data_ptr()
    network.blk[0].ffn_up.weight.data.zero_()
    assert layer.gate_up[0][-1].abs().max() == 0


def test_a_layer_with_an_adapter_is_refused_until_it_is_merged(tiny):
    add_lora(tiny, rank=2, alpha=4)
    with pytest.raises(NotPlain, match=r"blk\.0\.attn_q is a LoRALinear: merge\(model\)"):
        Served(tiny)
    merge(tiny)
    remove_lora(tiny)
    Served(tiny)
