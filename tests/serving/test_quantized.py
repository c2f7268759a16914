"""Products from small numbers against those of the weights that they stand for; served models; what is refused."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.quantization import Scheme, hold, quantize, quantize_model
from llmhw_helpers.llm.transformer import Linear, Transformer
from llmhw_helpers.serving import quantized
from llmhw_helpers.serving.decoding import decode, new_cache, prefill
from llmhw_helpers.serving.integers import multiplies_integers
from llmhw_helpers.serving.kernels import multiplies_bf16
from llmhw_helpers.serving.quantized import MANY_ROWS, NoKernel, held, serve, weights_read
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.models import model

unit = pytest.mark.skipif(not multiplies_integers(), reason="no unit for small integers here")
SCHEMES = [Scheme(8, "row"), Scheme(4, 32), Scheme(4, 64), Scheme(4, 32, "affine")]


def layers_of(scheme, bias):
    generator = torch.Generator().manual_seed(0)
    result = []
    for n_out in (32, 16):
        layer = torch.nn.Linear(128, n_out, bias=bias).bfloat16()
        layer.weight.data.copy_(torch.randn(n_out, 128, generator=generator) * torch.logspace(-1, 1, n_out)[:, None])
        hold(layer, quantize(layer.weight, scheme))
        result.append(layer)
    return result


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 3, 8, 40, MANY_ROWS])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_a_product_is_that_of_the_weights(scheme, bias, rows):
    layers = layers_of(scheme, bias)
    x = torch.randn(2, rows, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    weight = torch.cat([layer.quantized.dequantize() for layer in layers])
    expected = x.float() @ weight.T + (torch.cat([layer.bias for layer in layers]).float() if bias else 0)
    found = held(layers).multiply(x)
    assert (found.dtype, found.shape) == (torch.bfloat16, (2, rows, 48))
    size = x.float().abs() @ weight.abs().T + 1  # of what is added up: the sum itself may happen to be near 0
    assert ((found.float() - expected).abs() / size).max() < 0.005  # steps and results are bf16


@torch.inference_mode()
@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": False, "qkv_bias": True}])
@pytest.mark.parametrize("scheme", SCHEMES[:2], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_served_model_gives_the_logits_of_its_weights(dtype, scheme, changes):
    spec = replace(
        model("SmolLM2-135M"),
        **{"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 96, "vocab_size": 64},
    )
    torch.manual_seed(0)
    network = Transformer(replace(spec, **changes))
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    network = quantize_model(network, scheme)
    tokens = torch.randint(0, 64, (2, 9))
    expected = network(tokens)
    served = serve(network.to(dtype))
    cache = new_cache(served, 2, 16)
    found = [prefill(served, tokens[:, :6].tolist(), cache)]
    found += [decode(served, tokens[:, t], cache) for t in (6, 7, 8)]
    apart = (torch.stack(found, 1).float() - expected[:, 5:]).norm() / expected[:, 5:].norm()
    assert apart < 0.03


@torch.inference_mode()
def test_the_real_model_is_served_from_a_quarter_of_the_bytes_and_says_the_same():
    network = quantize_model(load_model(), Scheme(4, 64)).bfloat16()
    served, tokens = serve(network), torch.arange(500, 516)[None]
    expected = prefill(Served(network), tokens.tolist(), new_cache(Served(network), 1, 20)).float()
    found = prefill(served, tokens.tolist(), new_cache(served, 1, 20)).float()
    assert (found - expected).norm() / expected.norm() < 0.05
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    assert weights_read(served) == weights // 2 + weights // 64 * 4  # a step and a middle, 2 bytes each


@unit  # without, it takes long
@torch.inference_mode()
@pytest.mark.parametrize(("bits", "limit"), [(8, 0.1), (16, 0.001)])
def test_the_real_model_with_small_activations_says_nearly_the_same(bits, limit):
    network, tokens = quantize_model(load_model(), Scheme(8, "row")), torch.arange(500, 540)[None]
    expected = prefill(Served(network), tokens.tolist(), new_cache(Served(network), 1, 48))
    served = serve(network, activation_bits=bits)
    found = prefill(served, tokens.tolist(), new_cache(served, 1, 48))
    assert (found - expected).norm() / expected.norm() < limit
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    n_rows = sum(
        sum(layer.out_features for layer in block.modules() if hasattr(layer, "quantized")) for block in network.blk
    )
    assert weights_read(served) == weights + 4 * (n_rows + network.spec.vocab_size)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_off_the_cpu_int8_is_widened_to_the_models_format(dtype, monkeypatch):
    layers = layers_of(Scheme(8, "row"), True)
    x = torch.randn(2, 128, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = x.float() @ torch.cat([layer.quantized.dequantize() for layer in layers]).T
    matrix = held(layers)
    matrix = matrix._replace(steps=matrix.steps.to(dtype), bias=None)
    monkeypatch.setattr(quantized, "FEW_ROWS", 0)  # as on a GPU
    found = matrix.multiply(x)
    assert found.dtype == dtype
    assert ((found.float() - expected).norm() / expected.norm()) < 0.005


def test_int4_takes_memory_for_its_kernel_when_it_is_first_needed_and_says_before_how_much():
    matrix = held(layers_of(Scheme(4, 32, "affine"), True))
    before = matrix.nbytes
    if multiplies_bf16():
        matrix.multiply(torch.ones(MANY_ROWS + 1, 128))
        assert not {"packed", "steps_and_middles"} & matrix.__dict__.keys()
    matrix.multiply(torch.ones(2, 128))
    assert (
        before == matrix.nbytes == sum(each.nbytes for each in (matrix.packed, matrix.steps_and_middles, matrix.bias))
    )


def fake_layer(made):
    """One on a GPU that is not there: shapes and formats, no numbers."""
    n_out, n_in = made.codes.shape
    layer = Linear(n_in, n_out, bias=False, device="cuda")
    on_gpu = {
        name: torch.empty(part.shape, dtype=part.dtype, device="cuda")
        for name, part in (("codes", made.codes), ("scales", made.scales))
    }
    layer.quantized = replace(made, **on_gpu)
    return layer


def test_on_a_gpu_int4_takes_half_a_byte_a_weight_and_rows_of_64():
    made, narrow = quantize(torch.ones(192, 576), Scheme(4, 64)), quantize(torch.ones(192, 96), Scheme(4, 32))
    with FakeTensorMode(allow_non_fake_inputs=True):
        matrix = held([fake_layer(made)])
        assert matrix.packed.nbytes == 192 * 576 // 2
        x = torch.empty(2, 3, 576, dtype=torch.float16, device="cuda")
        assert (matrix.multiply(x).shape, matrix.multiply(x).dtype) == ((2, 3, 192), torch.float16)
        with pytest.raises(NoKernel, match="for rows of 96 weights: a multiple of 64 has"):
            held([fake_layer(narrow)])


def test_a_device_without_a_kernel_is_refused():
    layer = layers_of(Scheme(4, 64), False)[0]
    made = layer.quantized
    layer.quantized = replace(made, codes=made.codes.to("meta"), scales=made.scales.to("meta"))
    with pytest.raises(NoKernel, match="no int4 kernel on meta: it takes a CPU, or a GPU with bf16"):
        held([layer])


@torch.inference_mode()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scheme", [Scheme(8, "row"), Scheme(4, 64)], ids=lambda scheme: scheme.name)
def test_the_real_model_on_a_gpu_says_what_its_weights_say(scheme):
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    network = quantize_model(load_model(device="cuda"), scheme).to(dtype)
    tokens = torch.arange(500, 516)[None].tolist()
    expected = prefill(Served(network), tokens, new_cache(Served(network), 1, 20)).float()
    try:
        served = serve(network)
    except NoKernel as refused:  # int4 on a card without bf16
        pytest.skip(str(refused))
    found = prefill(served, tokens, new_cache(served, 1, 20)).float()
    assert (found - expected).norm() / expected.norm() < 0.05


def test_small_activations_are_refused_where_nothing_multiplies_them():
    with pytest.raises(NoKernel, match="only int8 with a scale a row"):
        held(layers_of(Scheme(4, 32), False), 8)
    elsewhere = layers_of(Scheme(8, "row"), False)[0].to("meta")
    with pytest.raises(NoKernel, match="small activations are multiplied on a CPU, not on meta"):
        held([elsewhere], 8)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (Scheme(3, 32), "no kernel for int3, groups of 32"),
        (Scheme(4, 32, "nf4"), "no kernel for NF4"),
        (Scheme(4, 16), "no kernel for int4, groups of 16"),
        (Scheme(8, 32), "no kernel for int8, groups of 32"),
    ],
)
def test_what_has_no_kernel_is_refused(scheme, said):
    with pytest.raises(NoKernel, match=said):
        held(layers_of(scheme, False))


def test_models_that_are_not_quantised_or_in_another_format_are_refused(tiny):
    with pytest.raises(NoKernel, match=r"is not quantised: quantize_model"):
        serve(tiny)
    with pytest.raises(NoKernel, match=r"torch\.float64 on cpu: in fp32 or bf16"):
        serve(tiny.double())
    with pytest.raises(NoKernel, match="activations of 4 bits: None, 8 and 16"):
        serve(tiny, activation_bits=4)
    odd = torch.nn.Linear(64, 24, bias=False)
    hold(odd, quantize(odd.weight, Scheme(4, 32)))
    with pytest.raises(NoKernel, match=r"int4, groups of 32, 24 rows"):
        held([odd])
