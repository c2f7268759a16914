"""LoRA against the formula, merged weights and peft's own layer; what cannot be is refused before anything changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llmhw_helpers.llm.lora import BadAdapter, LoRALinear, adapters, add_lora, merge, remove_lora, unmerge
from llmhw_helpers.llm.training import UNLABELLED, Plan, Trainer, answer_loss
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.architectures import Model
from llmhw_helpers.specs.figures import UnknownName

SPEC = Model("tiny", 2, 32, 4, 2, 8, 48, 40, True, 64, 1e4, "made up")
EVERY = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
TOKENS = torch.arange(24).reshape(2, 12)


def make(dtype=torch.float32):
    """A model whose every weight shows in the logits."""
    torch.manual_seed(0)
    model = Transformer(SPEC)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


def spread(model):
    """Adapters away from their start."""
    torch.manual_seed(1)
    for layer in adapters(model).values():
        layer.B.data.normal_(std=0.1)


@torch.inference_mode()
def logits(model):
    return model(TOKENS)


@given(
    n_in=st.integers(1, 9),
    n_out=st.integers(1, 9),
    rank=st.integers(1, 9),
    alpha=st.floats(0.1, 64),
    bias=st.booleans(),
)
def test_a_layer_is_the_formula(n_in, n_out, rank, alpha, bias):
    base = nn.Linear(n_in, n_out, bias)
    if rank > min(n_in, n_out):
        with pytest.raises(BadAdapter, match=f"a rank of {rank} does not fit"):
            LoRALinear(base, rank, alpha)
        return
    layer, x = LoRALinear(base, rank, alpha), torch.randn(3, n_in)
    assert torch.equal(layer(x), base(x))
    layer.B.data.normal_()
    expected = base(x) + alpha / rank * x @ layer.A.T @ layer.B.T
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_it_is_pefts_layer_with_the_same_gradients():
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    theirs = nn.ModuleDict({"layer": nn.Linear(12, 7)})
    ours = LoRALinear(nn.Linear(12, 7), 3, 5.0)
    ours.base.load_state_dict(theirs["layer"].state_dict())
    theirs = inject_adapter_in_model(LoraConfig(r=3, lora_alpha=5, target_modules=["layer"]), theirs)["layer"]
    ours.B.data.normal_()
    theirs.lora_A["default"].weight.data.copy_(ours.A)
    theirs.lora_B["default"].weight.data.copy_(ours.B)
    x = torch.randn(2, 4, 12)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x).square().sum().backward(), theirs(x).square().sum().backward()
    torch.testing.assert_close(ours.A.grad, theirs.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.B.grad, theirs.lora_B["default"].weight.grad)
    assert ours.base.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_first_nothing_is_changed_to_the_bit(dtype):
    model = make(dtype)
    before = logits(model)
    made = add_lora(model, 4, 8, ("attn_q", "ffn_down"))
    assert list(made) == [f"blk.{i}.{part}" for i in range(2) for part in ("attn_q", "ffn_down")]
    assert torch.equal(logits(model), before)
    spread(model)
    assert not torch.allclose(logits(model), before, atol=0.1)


def test_merging_keeps_the_logits_and_unmerging_the_weights():
    model = make()
    add_lora(model, 4, 8, ("attn_v", "ffn_up"))
    spread(model)
    with_adapters, weight = logits(model), model.blk[1].ffn_up.base.weight.clone()
    merge(model), merge(model)  # the second time there is nothing left to do
    torch.testing.assert_close(logits(model), with_adapters, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.blk[1].ffn_up.base.weight, weight, atol=1e-3)
    unmerge(model), unmerge(model)
    torch.testing.assert_close(model.blk[1].ffn_up.base.weight, weight, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(model), with_adapters, atol=1e-4, rtol=1e-4)


def test_taken_off_the_old_layers_are_there_to_the_bit_and_merged_ones_stay_changed():
    model = make()
    before, kinds = logits(model), [type(each) for each in model.modules()]
    add_lora(model, 4, 8)
    spread(model)
    changed = logits(model)
    remove_lora(model)
    assert torch.equal(logits(model), before)
    assert [type(each) for each in model.modules()] == kinds
    add_lora(model, 4, 8)
    spread(model)
    torch.manual_seed(1)
    merge(model)
    remove_lora(model)
    assert not torch.allclose(logits(model), before, atol=1e-2)
    assert changed.shape == before.shape


def test_scale_is_alpha_over_rank():
    model = make()
    for rank, alpha in ((2, 8.0), (8, 8.0)):
        layer = add_lora(model, rank, alpha)["blk.0.attn_q"]
        layer.B.data.normal_()
        torch.testing.assert_close(layer.change(), alpha / rank * layer.B @ layer.A)
        remove_lora(model)


def test_any_model_of_linear_layers_will_do():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert list(add_lora(net, 2, 2, ("0", "2"))) == ["0", "2"]


@pytest.mark.parametrize(
    ("rank", "targets", "error", "said"),
    [
        (0, ("attn_q",), BadAdapter, "a rank of 0 does not fit blk.0.attn_q, 32 x 32: choose 1 to 32"),
        (17, ("attn_q", "attn_k"), BadAdapter, "a rank of 17 does not fit blk.0.attn_k, 16 x 32: choose 1 to 16"),
        (4, ("attn_w",), UnknownName, "unknown linear layer 'attn_w'; did you mean .*attn_"),
        (4, ("attn_q", "router"), UnknownName, "unknown linear layer 'router'"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(rank, targets, error, said):
    model = make()
    before = logits(model)
    with pytest.raises(error, match=said) as caught:
        add_lora(model, rank, 8, targets)
    assert "\n" not in str(caught.value)
    assert not adapters(model)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(logits(model), before)


def test_adapters_upon_adapters_are_refused():
    model = make()
    add_lora(model, 4, 8)
    with pytest.raises(BadAdapter, match=r"take them off first, with remove_lora\(model\)"):
        add_lora(model, 4, 8)


def batch(i):
    x = torch.stack([TOKENS.roll(i, 1), TOKENS.roll(i - 1, 1)])
    x[1, :, :6] = UNLABELLED
    return x


def test_training_moves_the_adapters_and_nothing_else(tmp_path):
    model = make()
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    add_lora(model, 4, 8, EVERY)
    trainer = Trainer(model, batch, Plan(n_steps=30, lr=5e-2, weight_decay=0.0), answer_loss)
    losses = trainer.run(20)
    assert losses[-1] < 0.9 * losses[0]
    trainer.save(tmp_path / "run")
    assert (tmp_path / "run").stat().st_size < 12 * sum(p.numel() for p in trainer.parameters.values()) + 20_000
    rest = trainer.run()
    twin = make()
    add_lora(twin, 4, 8, EVERY)
    again = Trainer(twin, batch, Plan(n_steps=30, lr=5e-2, weight_decay=0.0), answer_loss)
    assert again.resume(tmp_path / "run")
    assert again.run() == rest
    remove_lora(model)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters())


def test_a_model_all_frozen_cannot_be_trained():
    with pytest.raises(ValueError, match="every parameter is frozen"):
        Trainer(make().requires_grad_(False), batch, Plan(n_steps=2), answer_loss)
