"""The operations of training against PyTorch's counter; utilization; the power law against least squares."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import eager_attention_forward as deepseek_attention
from transformers.models.llama.modeling_llama import eager_attention_forward as llama_attention
from transformers.models.mixtral.modeling_mixtral import eager_attention_forward as mixtral_attention

from llmhw_helpers.costs import training
from llmhw_helpers.costs.training import ImpossibleUtilization, compute_optimal, fit_power_law, hfu, mfu
from llmhw_helpers.llm.training import next_token_loss
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.architectures import Model, NoFormula
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import model

EAGER = {"llama": llama_attention, "mixtral": mixtral_attention, "deepseek_v3": deepseek_attention}
SHAPES = {
    "tied": Model("tied", 2, 32, 4, 4, 8, 48, 50, True, 64, 1e4, "made up"),
    "untied, grouped, odd heads": Model("untied", 3, 24, 4, 2, 10, 40, 30, False, 64, 1e4, "made up"),
}


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_operations_are_the_counters_exactly(spec, recompute):
    """Attention as plain products: PyTorch's counter does not know the fused one of the CPU."""
    torch.manual_seed(0)
    net, batch = Transformer(spec), torch.randint(spec.vocab_size, (3, 17))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        next_token_loss(net, batch, recompute == "full").backward()
    assert counter.get_total_flops() == sum(training.training_flops(spec, 3, 16, recompute).values())


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2", "mixtral", "qwen3_moe", "deepseek_v3"])
def test_other_families_are_the_counters_exactly(twins, family, recompute):
    """Up to five tokens no window hides anything; of more, a table is computed whole (see test_transformer)."""
    network, spec = twins(family)
    network.train()
    if recompute == "full":
        network.activation_checkpointing_enable({"use_reentrant": False})
    with FlopCounterMode(display=False) as counter:
        network(torch.randint(50, (2, 5)), use_cache=False).logits.logsumexp(-1).sum().backward()
    assert counter.get_total_flops() == sum(training.training_flops(spec, 2, 5, recompute).values())


@pytest.mark.parametrize("family", ["llama", "mixtral", "deepseek_v3"])
def test_selective_recomputation_is_a_checkpoint_around_attention(twins, family):
    network, spec = twins(family)
    ALL_ATTENTION_FUNCTIONS["checkpointed"] = partial(checkpoint, EAGER[family], use_reentrant=False)
    network.config._attn_implementation = "checkpointed"
    ALL_MASK_ATTENTION_FUNCTIONS["checkpointed"] = ALL_MASK_ATTENTION_FUNCTIONS["eager"]
    with FlopCounterMode(display=False) as counter:
        network(torch.randint(50, (2, 5)), use_cache=False).logits.logsumexp(-1).sum().backward()
    assert counter.get_total_flops() == sum(training.training_flops(spec, 2, 5, "selective").values())


def test_hardware_utilization_counts_what_is_computed_again():
    llama = model("Llama-2-7B")
    useful = mfu(training.flops_per_token(llama, 4096), 3000, 312e12)
    assert hfu(llama, 4096, "none", 3000, 312e12) == useful
    some, all_again = (hfu(llama, 4096, how, 3000, 312e12) for how in ("selective", "full"))
    assert useful < some < all_again
    assert all_again / useful == pytest.approx(4 / 3, abs=0.08)  # a forward pass more, but for head and last products
    # the scores again, 2 of attention's 12 products a pair
    attention = training.training_flops(llama, 1, 4096)["attention"]
    assert some / useful - 1 == pytest.approx(attention / 6 / (4096 * training.flops_per_token(llama, 4096)))
    with pytest.raises(ImpossibleUtilization):
        hfu(llama, 4096, "full", 6000, 312e12)
    with pytest.raises(UnknownName, match="recomputation"):
        hfu(llama, 4096, "half", 3000, 312e12)


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_what_six_n_leaves_out_is_all_that_it_is_off(spec):
    parts, scales = training.training_flops(spec, 1, 16), spec.parameters()["norms"]
    lookups = 0 if spec.tied_embeddings else spec.vocab_size * spec.d_model
    assert 16 * (training.six_n(spec) - 6 * scales - 6 * lookups) + parts["attention"] == sum(parts.values())
    assert training.flops_per_token(spec, 16) * 16 == sum(parts.values())


def test_a_long_context_makes_six_n_wrong():
    smol = model("SmolLM2-135M")
    assert training.flops_per_token(smol, 128) == pytest.approx(training.six_n(smol), rel=0.04)
    assert training.flops_per_token(smol, 8192) > 3 * training.six_n(smol)


def test_models_and_choices_without_a_formula_are_refused():
    unknown = Model("unknown", 2, 32, 4, 4, 8, 48, 50, True, 64, 1e4, "made up")
    object.__setattr__(unknown, "unlike_llama", lambda but=(): ["a third kind of layer"])
    with pytest.raises(NoFormula, match="unknown, which has a third kind of layer"):
        training.training_flops(unknown, 1, 16)
    with pytest.raises(UnknownName, match="recomputation"):
        training.training_flops(SHAPES["tied"], 1, 16, "half")


@pytest.mark.parametrize("numbers", [(6e9, 1e6, 312e12), (6e9, 1e3, 0.0), (-1.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_an_impossible_utilization_is_an_error(numbers):
    with pytest.raises(ImpossibleUtilization) as caught:
        mfu(*numbers)
    assert "\n" not in str(caught.value)


def test_utilization_of_palm():
    """Its paper, table 3: 46.2% with 238.3e3 tokens/s on 6144 chips of 275e12 FLOP/s, 540e9 parameters."""
    attention = 12 * 118 * 48 * 256 * 2048
    assert mfu(6 * 540.35e9 + attention, 238.3e3, 6144 * 275e12) == pytest.approx(0.462, abs=0.003)


def test_the_fit_is_least_squares_in_logarithms():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 1e6, 20)
    y = 3 * x**-0.4 * rng.uniform(0.8, 1.2, 20)
    law = fit_power_law(list(x), list(y))
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    assert law.exponent == pytest.approx(slope, rel=1e-9)
    assert law.coefficient == pytest.approx(np.exp(intercept))
    assert law(100.0) == pytest.approx(np.exp(intercept) * 100**slope)


@pytest.mark.parametrize(("xs", "ys"), [([1], [1]), ([1, 1], [1, 2]), ([1, 2], [0, 1]), ([1, 2], [1]), ([], [])])
def test_what_has_no_power_law_is_refused(xs, ys):
    with pytest.raises(ValueError, match="a power law needs"):
        fit_power_law(xs, ys)


def test_the_best_split_of_a_budget_spends_it():
    n, d = compute_optimal(1e21, tokens_per_parameter=25)
    assert 6 * n * d == pytest.approx(1e21)
    assert d / n == pytest.approx(25)
    with pytest.raises(ValueError, match="positive"):
        compute_optimal(0)
