"""LoRA's predictions against PyTorch's counters, saved tensors and papers' tables."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs import lora as costs
from llmhw_helpers.costs.activations import Pass, activations
from llmhw_helpers.costs.lora import ALL_LINEAR, BadLoRA, LoRA
from llmhw_helpers.costs.memory import Recipe
from llmhw_helpers.llm.lora import adapters, add_lora
from llmhw_helpers.llm.loss import head_loss
from llmhw_helpers.llm.training import UNLABELLED, answer_loss
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.memory import Kept, MemoryMeter
from llmhw_helpers.specs.architectures import Model
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import model

SHAPES = {
    "tied, grouped": Model("tied", 3, 32, 4, 2, 8, 48, 50, True, 64, 1e4, "made up"),
    "untied, odd heads": Model("untied", 2, 24, 3, 3, 10, 40, 30, False, 64, 1e4, "made up"),
}
SETS = [("attn_q", "attn_v"), ("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate",), ("ffn_up",)]
SETS += [("ffn_down",), ("attn_k", "ffn_down"), ALL_LINEAR]
shapes = pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
sets = pytest.mark.parametrize("targets", SETS, ids="+".join)


def adapted(spec, targets, dtype=torch.float32):
    torch.manual_seed(0)
    net = Transformer(spec).to(dtype)
    add_lora(net, 3, 6.0, targets)
    return net


def labelled_batch(spec, n_labelled=10):
    tokens = torch.randint(spec.vocab_size, (2, 16))
    targets = torch.full_like(tokens, UNLABELLED).flatten()
    targets[:n_labelled] = 1
    return torch.stack((tokens, targets.view(2, 16)))


def counted(net, spec):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        answer_loss(net, labelled_batch(spec)).backward()
    return counter.get_total_flops()


@shapes
@sets
def test_operations_are_the_counters(spec, targets):
    expected = sum(costs.finetuning_flops(spec, 2, 16, 10, LoRA(3, targets)).values())
    # A fused attention gives all three gradients at once; of single products, those that nobody wants are left out.
    product, own = 2 * 2 * 16 * 16 * spec.n_heads * spec.head_dim, {"attn_q", "attn_k", "attn_v"} & set(targets)
    needed = len(own) + bool(own & {"attn_q", "attn_k"})  # and the gradient of the probabilities, for queries or keys
    spared = (4 - needed) * product if own else 0
    assert counted(adapted(spec, targets), spec) == expected - spared


@shapes
def test_operations_of_a_full_step_are_the_counters_exactly(spec):
    torch.manual_seed(0)
    assert counted(Transformer(spec), spec) == sum(costs.finetuning_flops(spec, 2, 16, 10).values())


@shapes
@sets
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_activations_are_what_autograd_saves_to_the_byte(spec, targets, dtype):
    net, lora = adapted(spec, targets, dtype), LoRA(3, targets)
    run = Pass(2, 16, "fp32" if dtype == torch.float32 else "bf16", norm="composed")
    batch = labelled_batch(spec)
    rotation, x = net.rotation(net.embed(batch[0])), net.embed(batch[0])
    there = [*net.parameters(), *rotation]
    for i, block in enumerate(net.blk):
        with Kept(excluded=there) as kept:
            x = block(x, rotation)
        assert kept.bytes == sum(costs.lora_block_activations(spec, run, lora, first=i == 0).values())
    parts = costs.lora_activations(spec, run, lora, n_labelled=10)
    with Kept(excluded=there) as kept:
        x = net.output_norm(x)
    if dtype == torch.float32:
        assert kept.bytes == parts["final_norm"]
    asked = batch[1] != UNLABELLED
    weight = net.token_embd.weight if net.output is None else net.output.weight
    with Kept(excluded=there) as kept:
        head_loss(x[asked], weight, batch[1][asked])
    assert kept.bytes == parts["loss"]


@shapes
def test_a_model_is_its_first_block_and_the_others(spec):
    lora, run = LoRA(3), Pass(2, 16, "fp32", norm="composed")
    first, other = (sum(costs.lora_block_activations(spec, run, lora, each).values()) for each in (True, False))
    assert costs.lora_activations(spec, run, lora, 10)["blocks"] == first + (spec.n_layers - 1) * other
    again = Pass(2, 16, "fp32", norm="composed", recompute="full")
    assert costs.lora_activations(spec, again, lora, 10)["blocks"] == spec.n_layers * 32 * spec.d_model * 4 + other


@pytest.mark.parametrize("targets", [("attn_q", "attn_v"), ALL_LINEAR], ids="+".join)
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("n_labelled", [128, 2048])  # the fullest moment is in a block, or at the loss
def test_the_peak_of_a_billion_parameters_is_what_a_meter_sees(targets, recompute, n_labelled):
    """In fake tensors: PyTorch's bookkeeping without its arithmetic."""
    spec = model("Llama-3.2-1B")
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        net = Transformer(spec)
        torch.set_default_dtype(torch.float32)
        net.frequencies = torch.empty(net.frequencies.shape)
        made = add_lora(net, 16, 32.0, targets)
        for layer in made.values():
            layer.A.grad, layer.B.grad = torch.empty_like(layer.A), torch.empty_like(layer.B)
        states = [torch.empty_like(p) for layer in made.values() for p in (layer.A, layer.B) for _ in range(2)]
        grads = [p.grad for layer in made.values() for p in (layer.A, layer.B)]
        tokens, asked = torch.zeros(1, 2048, dtype=torch.long), torch.zeros(n_labelled, dtype=torch.long)
        with MemoryMeter([*net.parameters(), *states, *grads, tokens, asked]) as meter:
            x = net.hidden(tokens, recompute == "full").flatten(0, 1)[:n_labelled]
            head_loss(x, net.token_embd.weight, asked).backward()
    run = Pass(1, 2048, norm="composed", recompute=recompute)
    predicted = sum(costs.finetuning_bytes(spec, run, LoRA(16, targets), n_labelled).values())
    assert predicted / max(meter.peaks.values()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize(
    ("name", "lora", "published"),
    [
        ("Llama-2-7B", LoRA(8), 4_194_304),  # what peft prints for its own default, queries and values
        ("Llama-2-7B", LoRA(64, ALL_LINEAR), 159_907_840),
        ("SmolLM2-135M", LoRA(8), 460_800),
    ],
)
def test_trainable_parameters_are_the_known_counts(name, lora, published):
    assert costs.n_trainable(model(name), lora) == published


def test_gpt3s_adapters_are_those_of_lora_s_paper():
    """Its table 4: 4.7M parameters at r_q = r_v = 1 and 37.7M at 8."""
    gpt3 = Model("GPT-3", 96, 12288, 96, 96, 128, 4 * 12288, 50257, True, 2048, 1e4, "arXiv:2005.14165, table 2.1")
    assert costs.n_trainable(gpt3, LoRA(1)) / 1e6 == pytest.approx(4.7, abs=0.05)
    assert costs.n_trainable(gpt3, LoRA(8)) / 1e6 == pytest.approx(37.7, abs=0.05)


@shapes
@sets
def test_the_counts_are_those_of_real_adapters(spec, targets):
    made = adapters(adapted(spec, targets))
    assert costs.n_trainable(spec, LoRA(3, targets)) == sum(a.A.numel() + a.B.numel() for a in made.values())


def test_qlora_fits_65_billion_on_48_gb_and_lora_does_not():
    """The claim of its abstract (arXiv:2305.14314); 0.127 bits for the scales are its section 3's."""
    assert pytest.approx(4.127, abs=1e-3) == costs.NF4_BITS
    llama = Model("LLaMA-65B", 80, 8192, 64, 64, 128, 22016, 32000, False, 2048, 1e4, "arXiv:2302.13971, table 2")
    assert llama.n_params / 1e9 == pytest.approx(65.2, abs=0.1)
    run, adapter = Pass(1, 512, recompute="full"), LoRA(64, ALL_LINEAR)
    recipe = Recipe(master_dtype=None)  # adapters in bf16, AdamW's states in fp32
    bytes_of = {base: costs.finetuning_bytes(llama, run, adapter, 512, base, recipe) for base in ("bf16", "nf4")}
    assert sum(bytes_of["nf4"].values()) < 48e9
    assert sum(bytes_of["bf16"].values()) > 2.5 * 48e9
    assert bytes_of["nf4"]["weights"] == pytest.approx(4.127 / 8 * llama.n_params, rel=0.03)


def test_qlora_shrinks_the_blocks_matrices_and_widens_one_of_them_at_a_time():
    spec, run = model("Llama-2-7B"), Pass(1, 512)
    low, high = (costs.finetuning_bytes(spec, run, LoRA(8), 64, base) for base in ("nf4", "bf16"))
    in_blocks = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert low["weights"] == int(in_blocks * costs.NF4_BITS / 8) + 2 * (spec.n_params - in_blocks)
    assert high["weights"] == 2 * spec.n_params
    assert low["working"] == high["working"] + 2 * 4096 * 11008
    assert [low[part] for part in ("adapters", "activations")] == [high[part] for part in ("adapters", "activations")]


def test_why_activations_barely_fall():
    spec, run = model("Llama-2-7B"), Pass(1, 2048)
    full = activations(spec, run)["blocks"]
    shares = [costs.lora_activations(spec, run, LoRA(8, each), 64)["blocks"] / full for each in (SETS[0], ALL_LINEAR)]
    assert 0.75 < shares[0] < 0.85
    assert 1 < shares[1] < 1.01


@pytest.mark.parametrize("rank", [0, -1, 577])
def test_a_rank_that_cannot_be_is_refused(rank):
    with pytest.raises(BadLoRA, match=f"a rank of {rank} does not fit attn_q, 576 x 576: 1 to 576"):
        costs.n_trainable(model("SmolLM2-135M"), LoRA(rank))


def test_an_unknown_target_is_refused():
    for call in (
        lambda lora: costs.n_trainable(model("SmolLM2-135M"), lora),
        lambda lora: costs.finetuning_flops(model("SmolLM2-135M"), 1, 8, 4, lora),
        lambda lora: costs.lora_activations(model("SmolLM2-135M"), Pass(1, 8), lora, 4),
    ):
        with pytest.raises(UnknownName, match="unknown linear layer 'attn_w'; did you mean"):
            call(LoRA(4, ("attn_w",)))


def test_every_pair_of_targets_adds_up():
    spec = SHAPES["tied, grouped"]
    for pair in itertools.combinations(ALL_LINEAR, 2):
        assert costs.n_trainable(spec, LoRA(3, pair)) == sum(costs.n_trainable(spec, LoRA(3, (one,))) for one in pair)
