"""GPTQ against the paper's update written out, against rounding to nearest, and on inputs that are hard to invert."""

from dataclasses import replace

import pytest
import torch

from llmhw_helpers.llm.gptq import DAMPING, gptq_model
from llmhw_helpers.llm.gptq import gptq as gptq_of_several
from llmhw_helpers.llm.quality import assess, log_probabilities
from llmhw_helpers.llm.quantization import CannotQuantize, Scheme, quantize, quantize_model
from llmhw_helpers.llm.transformer import TokenError, Transformer
from llmhw_helpers.specs.models import model


@pytest.fixture
def problem():
    """A matrix, and inputs whose numbers depend on one another, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 64, generator=generator)
    inputs = torch.randn(400, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    inputs = inputs + 0.1 * torch.randn(400, 64, generator=generator)
    return weight, inputs, inputs.T @ inputs


def gptq(weight, scheme, gram):
    """Of a single matrix."""
    return gptq_of_several(weight[None], scheme, gram[None])[0]


def written_out(weight, scheme, gram):
    """Optimal brain quantisation (section 3.1, equations 2 and 3), with an inverse made anew for every column."""
    rest, done = weight.double().clone(), torch.zeros_like(weight).double()
    damped = gram.double() + DAMPING * gram.double().diagonal().mean() * torch.eye(len(gram))
    for j in range(weight.shape[1]):
        if j % scheme.group == 0:
            scales = rest[:, j : j + scheme.group].abs().amax(1).half().double()
        inverse = torch.linalg.inv(damped[j:, j:])
        code = (rest[:, j] / scales * scheme.top).round().clamp(-scheme.top, scheme.top)
        done[:, j] = code / scheme.top * scales
        rest[:, j:] -= torch.outer((rest[:, j] - done[:, j]) / inverse[0, 0], inverse[0])
    return done


@pytest.mark.parametrize("chunk", [1, 16, 48, 64, 100])
@pytest.mark.parametrize("group", [16, 32, 64])
def test_it_is_the_papers_update(problem, group, chunk, monkeypatch):
    weight, _, gram = problem
    scheme = Scheme(4, group)
    monkeypatch.setattr("llmhw_helpers.llm.gptq.CHUNK", chunk)
    found = gptq(weight, scheme, gram).dequantize()
    expected = written_out(weight, scheme, gram)
    # a number half way between two levels may fall either way, and others follow it
    alike = (found.double() - expected).abs() < 1e-3
    assert alike.float().mean() > 0.97


def test_matrices_that_go_together_have_nothing_to_do_with_one_another(problem):
    weight, inputs, gram = problem
    scheme, other = Scheme(4, 16, "affine"), inputs[:30].T @ inputs[:30]
    together = gptq_of_several(torch.stack((weight, 2 - weight)), scheme, torch.stack((gram, other)))
    for found, alone in zip(together, (gptq(weight, scheme, gram), gptq(2 - weight, scheme, other)), strict=True):
        torch.testing.assert_close(found.scales, alone.scales, atol=1e-3, rtol=1e-3)
        assert (found.codes == alone.codes).float().mean() > 0.97


@pytest.mark.parametrize("scheme", [Scheme(4, 16), Scheme(3, "row"), Scheme(4, 32, "affine"), Scheme(4, 16, "nf4")])
def test_products_come_out_nearer_than_by_rounding_to_nearest(problem, scheme):
    weight, inputs, gram = problem
    exact = inputs @ weight.T
    off = [((inputs @ q.dequantize().T) - exact).norm() for q in (gptq(weight, scheme, gram), quantize(weight, scheme))]
    assert off[0] < 0.7 * off[1]


def test_inputs_that_have_nothing_to_do_with_one_another_leave_rounding_to_nearest(problem):
    weight = problem[0]
    scheme = Scheme(4, 16)
    found, nearest = gptq(weight, scheme, 3 * torch.eye(64)), quantize(weight, scheme)
    assert torch.equal(found.codes, nearest.codes)
    assert torch.equal(found.scales, nearest.scales)


def test_inputs_that_are_always_zero_or_few_do_no_harm(problem):
    weight, inputs, _ = problem
    few = inputs[:3].clone()
    few[:, ::2] = 0
    found = gptq(weight, Scheme(4, 16), few.T @ few).dequantize()
    assert torch.isfinite(found).all()
    assert torch.isfinite(gptq(weight, Scheme(4, 16), torch.zeros(64, 64)).dequantize()).all()


@pytest.mark.parametrize(
    ("scheme", "gram", "said"),
    [
        (Scheme(4, "tensor"), torch.eye(64), "by row or by group, not by tensor"),
        (Scheme(4, 16), torch.eye(32), r"are \(1, 32, 32\) and must be 1 times 64 x 64"),
        (Scheme(4, 16), torch.full((64, 64), torch.nan), "finite numbers"),
        (Scheme(4, 24), torch.eye(64), "groups of 24 do not divide a row of 64"),
    ],
)
def test_what_cannot_be_is_refused(problem, scheme, gram, said):
    with pytest.raises(CannotQuantize, match=said):
        gptq(problem[0], scheme, gram)


@pytest.mark.parametrize("changes", [{}, {"tied_embeddings": False, "qkv_bias": True, "mlp_bias": True}])
def test_a_model_is_nearer_to_itself_than_when_rounded_to_nearest(changes):
    spec = replace(
        model("SmolLM2-135M"),
        **{"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 96, "vocab_size": 50},
    )
    torch.manual_seed(0)
    network = Transformer(replace(spec, **changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    tokens = torch.randint(0, 50, (8, 64))
    scheme, head = Scheme(3, 32), Scheme(8, "row")
    reference = log_probabilities(network, tokens[4:])
    found, nearest = gptq_model(network, scheme, tokens[:4], head), quantize_model(network, scheme, head)
    ours, theirs = (assess(each, tokens[4:], reference).divergence for each in (found, nearest))
    assert ours < 0.8 * theirs
    for layer in found.blk[1].children():
        if isinstance(layer, torch.nn.Linear):
            assert torch.equal(layer.weight, layer.quantized.dequantize())
    assert torch.equal(found.token_embd.weight, nearest.token_embd.weight)
    with pytest.raises(TokenError):
        gptq_model(network, scheme, torch.tensor([[50]]))
