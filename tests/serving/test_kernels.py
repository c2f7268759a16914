"""PyTorch's private operations give what plain PyTorch gives, and where one is missing, plain PyTorch stands in."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmhw_helpers.llm.quantization import Scheme, quantize_model
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving import kernels
from llmhw_helpers.serving.decoding import decode, new_cache, prefill
from llmhw_helpers.serving.quantized import serve
from llmhw_helpers.serving.weights import Served, pack

PRIVATE = re.findall(r"^(\w+) = _private", Path(kernels.__file__).read_text(), re.MULTILINE)


@pytest.fixture
def fresh():
    """What was found out about this machine is found out again, before and after."""
    caches = kernels.multiplies_integers, kernels.multiplies_bf16
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


@pytest.fixture
def plain(fresh, monkeypatch):
    """A PyTorch without any of the private operations."""
    for name in PRIVATE:
        monkeypatch.setattr(kernels, name, None)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_all_private_operations_are_looked_up_and_a_missing_one_is_none():
    assert len(PRIVATE) == 10
    assert kernels._private("mkldnn", "_no_such_thing") is None
    assert kernels._private("no_such_library", "_no_such_thing") is None


def test_no_other_room_of_serving_calls_a_private_operation():
    for path in Path(kernels.__file__).parent.glob("*.py"):
        if path.stem != "kernels":
            text = path.read_text()
            assert "torch.ops" not in text
            assert "torch._" not in text


def test_without_onednns_order_nothing_is_packed(plain):
    assert pack(draw(8, 16)) is None
    assert pack(draw(8, 16).bfloat16()) is None


@pytest.mark.parametrize("has", [None, lambda: False])
def test_without_products_in_bf16_nothing_is_packed_in_bf16(fresh, monkeypatch, has):
    monkeypatch.setattr(kernels, "HAS_BF16", has)
    assert kernels.reordered(draw(8, 16).bfloat16(), 4) is None


@pytest.mark.parametrize("rows", [1, 17, 200])
@pytest.mark.parametrize("missing", [False, True])
def test_onednns_product_is_the_product(rows, missing, monkeypatch):
    if missing:
        monkeypatch.setattr(kernels, "REORDERED_PRODUCT", None)
    x, weight = draw(2, rows, 40), torch.nn.Parameter(draw(24, 40))
    for bias in (None, draw(24)):
        expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        with torch.inference_mode():
            found = kernels.onednn_product(x, weight, bias)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_where_a_derivative_may_be_asked_for_onednns_product_has_one():
    weight = torch.nn.Parameter(draw(24, 40))
    kernels.onednn_product(draw(20, 40), weight, None).sum().backward()
    torch.testing.assert_close(weight.grad, draw(20, 40).sum(0).expand(24, 40), atol=1e-5, rtol=1e-5)


def off_by(found, expected, x, weight):
    """The largest difference, in roundings to bf16 of what is added up: a sum itself may happen to be near 0."""
    size = x.float().abs() @ weight.float().abs().T
    return ((found.float() - expected).abs() / size).max() / (torch.finfo(torch.bfloat16).eps / 2)


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("missing", [False, True])
def test_int8_products(rows, missing, monkeypatch):
    """At most three roundings: of the sum, and of its product with the step, whose weight bf16 has rounded before."""
    if missing:
        monkeypatch.setattr(kernels, "INT8_PRODUCT", None)
    x, codes = draw(rows, 64).bfloat16(), (40 * draw(48, 64, 1)[..., 0]).to(torch.int8)
    steps = draw(48).abs().bfloat16()
    weight = codes.float() * steps.float()[:, None]
    found = kernels.int8_product(x, codes, steps)
    assert found.dtype == torch.bfloat16
    assert off_by(found, x.float() @ weight.T, x, weight) < 3


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("missing", [(), ("INT4_ORDER_CPU",), ("INT4_PRODUCT_CPU",)])
def test_int4_products(group, missing, monkeypatch):
    """At most three roundings: of each weight, of the sum, and of a kernel's own products with steps."""
    for name in missing:
        monkeypatch.setattr(kernels, name, None)
    x = draw(5, 128).bfloat16()
    codes = torch.randint(0, 16, (32, 128), generator=torch.Generator().manual_seed(0))
    steps_and_middles = draw(128 // group, 32, 2).bfloat16()
    steps, middles = (each.float().T.repeat_interleave(group, 1) for each in steps_and_middles.unbind(-1))
    weight = (codes - 8) * steps + middles
    kernel = kernels.int4_kernel("cpu")
    ordered = kernel.order(codes)
    assert ordered.nbytes == 32 * 128 // 2
    found = kernel.product(x, ordered, group, steps_and_middles)
    size = (codes - 8).abs() * steps.abs() + middles.abs()  # of what a weight is made of
    assert off_by(found, x.float() @ weight.T, x, size) < 3


def test_other_devices_and_gpus_without_the_kernel_multiply_with_plain_pytorch(monkeypatch):
    assert kernels.int4_kernel("cuda").product is kernels.INT4_PRODUCT_GPU
    monkeypatch.setattr(kernels, "INT4_ORDER_GPU", None)
    assert kernels.int4_kernel("cuda").product is kernels._widened_int4_product
    assert kernels.int4_kernel("mps").product is kernels._widened_int4_product


@pytest.mark.parametrize("name", ["INTEGER_ORDER", "INTEGER_PRODUCT"])
def test_without_the_units_operation_nobody_says_that_it_is_used(fresh, monkeypatch, name):
    monkeypatch.setattr(kernels, name, None)
    assert not kernels.multiplies_integers()


@pytest.mark.parametrize("has", [{}, {"avx512_f": True}])
def test_without_the_unit_nobody_uses_it(fresh, monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert not kernels.multiplies_integers()


def test_a_unit_that_cuts_sums_off_is_not_used(fresh, monkeypatch):
    if not kernels.multiplies_integers():
        pytest.skip("no unit for small integers here")
    right = kernels.INTEGER_PRODUCT
    monkeypatch.setattr(kernels, "INTEGER_PRODUCT", lambda *parts: right(*parts).clamp(max=2**15))
    kernels.multiplies_integers.cache_clear()
    assert not kernels.multiplies_integers()


SERVED = {
    "as it is": lambda network: Served(network),
    "packed": lambda network: Served(network, packed=True),
    "int8": lambda network: serve(quantize_model(network, Scheme(8, "row"))),
    "int4": lambda network: serve(quantize_model(network, Scheme(4, 32))),
    "W8A8": lambda network: serve(quantize_model(network, Scheme(8, "row")), activation_bits=8),
    "W8A16": lambda network: serve(quantize_model(network, Scheme(8, "row")), activation_bits=16),
}


@pytest.fixture
def network(tiny_spec):
    """Widths that int4 has kernels for."""
    torch.manual_seed(0)
    network = Transformer(replace(tiny_spec, d_model=64, head_dim=16, d_ff=96, vocab_size=64))
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return network


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore:no unit for small integers")
@pytest.mark.parametrize("name", SERVED)
def test_a_model_says_the_same_without_any_private_operation(network, name, fresh, monkeypatch):
    logits = []
    for missing in ((), PRIVATE):
        for each in missing:
            monkeypatch.setattr(kernels, each, None)
        kernels.multiplies_integers.cache_clear()
        kernels.multiplies_bf16.cache_clear()
        served = SERVED[name](network)
        cache = new_cache(served, 2, 12)
        steps = [prefill(served, [[3, 1, 4, 1, 5], [9, 2, 6]], cache)]
        steps += [decode(served, torch.tensor([7, token]), cache) for token in range(4)]
        logits.append(torch.cat(steps))
    apart = (logits[1] - logits[0]).norm() / logits[0].norm()
    # Int8 and int4 compute in bf16; with small activations a last bit of fp32 may move one over the edge of a rounding.
    assert apart < {"as it is": 1e-5, "packed": 1e-5, "W8A16": 1e-3}.get(name, 0.03)


def test_where_the_unit_is_missing_one_line_says_so(network, plain):
    with pytest.warns(UserWarning, match="^no unit for small integers here that PyTorch uses.*right but slow$") as said:
        serve(quantize_model(network, Scheme(8, "row")), activation_bits=8)
    assert len(said) == 1
