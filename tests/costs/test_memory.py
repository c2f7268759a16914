"""Copies and peaks: equal to what torch.optim holds and to what PyTorch's own memory tracker sees."""

import dataclasses
import itertools
import re

import pytest
import torch

from llmhw_helpers.costs.memory import FP32, Recipe, copies, peak, phases
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.parameters import n_tensors, parameter_sizes
from llmhw_helpers.specs.architectures import Experts, LatentAttention, NoFormula
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import model

BF16 = {"parameter_dtype": "bf16", "gradient_dtype": "bf16", "master_dtype": None, "state_dtype": "bf16"}
TORCH_OPTIMIZERS = {
    "SGD": lambda p, **how: torch.optim.SGD(p, lr=1e-3, **how),
    "momentum": lambda p, **how: torch.optim.SGD(p, lr=1e-3, momentum=0.9, **how),
    "Adam": lambda p, **how: torch.optim.Adam(p, lr=1e-3, **how),
    "AdamW": lambda p, **how: torch.optim.AdamW(p, lr=1e-3, **how),
}
HOW = {"foreach": {"foreach": True}, "loop": {"foreach": False}, "fused": {"fused": True}}
SHAPES = {
    "GQA": {},
    "one KV head, tied": {"n_kv_heads": 1, "tied_embeddings": True, "vocab_size": 3000},
    "all heads": {"n_kv_heads": 4},
    "all heads, tied": {"n_kv_heads": 4, "tied_embeddings": True},
    "deep": {"n_layers": 6, "vocab_size": 100},
    "wide heads": {"head_dim": 32},
}
PASSES = {
    "bf16": Pass(4, 64),
    "bf16 logits": Pass(4, 64, logits_dtype="bf16"),
    "recomputed": Pass(4, 64, recompute="full"),
    "composed norm": Pass(4, 64, norm="composed"),
    "composed norm, recomputed": Pass(4, 64, norm="composed", recompute="full"),
    "naive attention": Pass(2, 128, attention="naive"),
    "naive attention, recomputed": Pass(2, 128, attention="naive", recompute="full"),
    "fp32": Pass(4, 64, "fp32"),
    "fp32, composed norm": Pass(4, 64, "fp32", norm="composed"),
    "repeated heads": Pass(4, 64, native_gqa=False),
    "few tokens": Pass(1, 4),
    "attention recomputed": Pass(4, 64, recompute="selective"),
    "naive attention recomputed": Pass(2, 128, attention="naive", recompute="selective"),
    "fp32, naive attention of one sequence recomputed": Pass(1, 192, "fp32", attention="naive", recompute="selective"),
    "repeated heads, attention recomputed": Pass(4, 64, native_gqa=False, recompute="selective"),
}
EXPERTS = Experts(n_experts=4, n_experts_per_token=2, d_ff_expert=24)
LATENT = LatentAttention(24, 20, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10)
DEEP = {"latent": LATENT, "experts": dataclasses.replace(EXPERTS, n_dense_layers=1, n_shared_experts=1)}
# parts, and how near the peak is: indices and fractions of experts are left out, and what latent attention puts
# together and takes apart is counted as a whole
FAMILIES = {
    "biases": ({"qkv_bias": True, "o_bias": True, "mlp_bias": True}, 1e-3),
    "norms of queries and keys": ({"qk_norm": True}, 1e-3),
    "local layers": ({"sliding_window": 8, "n_local_layers": 1}, 1e-3),
    "experts": ({"experts": EXPERTS}, 2e-3),
    "latent": ({"latent": LATENT}, 0.03),
    "latent, queries without": ({"latent": dataclasses.replace(LATENT, q_lora_rank=None)}, 0.03),
    "DeepSeek-V3": (DEEP, 0.03),
}


def optimizer_of(name="AdamW", implementation="foreach"):
    return lambda parameters: TORCH_OPTIMIZERS[name](parameters, **HOW[implementation])


def recipe_of(dtype, name="AdamW", implementation="foreach"):
    return Recipe(name, dtype, dtype, None, dtype, implementation=implementation)


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_what_torch_holds_to_the_byte(name, dtype):
    net = torch.nn.Sequential(torch.nn.Linear(37, 11), torch.nn.LayerNorm(11), torch.nn.Linear(11, 3)).to(dtype)
    optimizer = optimizer_of(name)(net.parameters())
    net(torch.ones(5, 37, dtype=dtype)).sum().backward()
    optimizer.step()
    parameters = list(net.parameters())
    held = {"parameters": parameters, "gradients": [p.grad for p in parameters]}
    for state in optimizer.state.values():
        for key, value in state.items():
            if torch.is_tensor(value):
                held.setdefault(key, []).append(value)
    course_name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    predicted = copies(sum(p.numel() for p in parameters), recipe_of(course_name, name), len(parameters))
    assert predicted == {key: sum(t.nbytes for t in tensors) for key, tensors in held.items()}


def test_the_conventions_of_16_18_and_20_bytes_a_parameter():
    each = {
        "mixed precision": Recipe(),
        "all in fp32": FP32,
        "fp32 gradients": Recipe(gradient_dtype="fp32"),
        "bf16 gradients and an fp32 sum of them": Recipe(accumulation_dtype="fp32"),
        "SGD without a master copy": Recipe("SGD", master_dtype=None),
    }
    assert [sum(copies(1000, recipe).values()) for recipe in each.values()] == [16000, 16000, 18000, 20000, 4000]
    # ZeRO (arXiv:1910.02054), section 3.1: 2 + 2 + 12 bytes, 120 GB for 7.5e9 parameters
    assert sum(copies(7_500_000_000, Recipe()).values()) == 120e9


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parameters_gradients_and_states_are_the_trackers_to_the_byte(oracle, shape):
    small = oracle.small(**shape)
    seen = oracle.tracked(small, Pass(1, 8), optimizer_of())
    held = copies(small.n_params, recipe_of("bf16"), n_tensors(small))
    assert seen.kinds["Parameter"] == held["parameters"]
    assert seen.kinds["Gradient"] == held["gradients"]
    assert seen.kinds["Optstate"] == held["exp_avg"] + held["exp_avg_sq"] + held["step"]


# every pass with two shapes, every shape with two passes
PAIRS = [
    (shape, run) for shape in SHAPES for run in PASSES if shape in list(SHAPES)[:2] or run in ("bf16", "recomputed")
]


@pytest.mark.parametrize(("shape", "run"), PAIRS)
def test_the_peak_is_the_trackers_and_so_is_every_phase(oracle, shape, run):
    small, run = oracle.small(**SHAPES[shape]), PASSES[run]
    recipe = recipe_of(run.activation_dtype)
    seen, predicted = oracle.tracked(small, run, optimizer_of()), phases(small, run, recipe)
    assert peak(small, run, recipe).bytes == pytest.approx(seen.peak, rel=1e-4)
    by_name = {phase.name: phase for phase in predicted}
    assert by_name["backward"].bytes == pytest.approx(seen.phases["backward"], rel=1e-4)
    assert by_name["step"].bytes == pytest.approx(seen.phases["step"], rel=1e-4)
    assert max(seen.phases.values()) == seen.peak  # our meter and torch's tracker agree


FEW = ["bf16", "recomputed", "fp32, composed norm", "naive attention recomputed"]
SOME = [(family, run) for family in FAMILIES for run in (FEW if family in ("experts", "DeepSeek-V3") else FEW[:2])]


@pytest.mark.parametrize(("family", "run"), SOME)
def test_so_are_those_of_other_families(oracle, family, run):
    """Three layers and few words, so that the fullest moment is within a block as often as at the loss."""
    (parts, near), run = FAMILIES[family], PASSES[run]
    spec = dataclasses.replace(oracle.small(n_layers=3, vocab_size=20), **parts)
    recipe = recipe_of(run.activation_dtype)
    seen = oracle.tracked(spec, run, optimizer_of())
    by_name = {phase.name: phase for phase in phases(spec, run, recipe)}
    assert by_name["backward"].bytes == pytest.approx(seen.phases["backward"], rel=near)
    assert by_name["step"].bytes == pytest.approx(seen.phases["step"], abs=16)  # and the loss, a number
    held = copies(sum(parameter_sizes(spec)), recipe, n_tensors(spec))
    assert [seen.kinds[kind] for kind in ("Parameter", "Gradient")] == [held["parameters"], held["gradients"]]
    assert seen.kinds["Optstate"] == held["exp_avg"] + held["exp_avg_sq"] + held["step"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_by_tensor_a_step_needs_the_largest(oracle, family):
    spec, run = dataclasses.replace(oracle.small(vocab_size=20), **FAMILIES[family][0]), Pass(1, 4, "fp32")
    step = phases(spec, run, recipe_of("fp32", "AdamW", "loop"))[2]
    assert step.bytes == pytest.approx(
        oracle.tracked(spec, run, optimizer_of("AdamW", "loop")).phases["step"], rel=0.01
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v3"])
def test_parameters_lie_in_the_tensors_of_transformers(twins, family):
    """Which has gate and up of all experts in one tensor, where two are counted."""
    network, spec = twins(family)
    split = []
    for name, parameter in network.named_parameters():
        n = parameter.numel()
        split += 2 * [n // 2] if name.endswith("gate_up_proj") else [n]
    assert sorted(parameter_sizes(spec)) == sorted(split)
    assert n_tensors(spec) == len(split)


@pytest.mark.parametrize(("name", "accumulate"), [*((name, False) for name in TORCH_OPTIMIZERS), ("AdamW", True)])
@pytest.mark.parametrize("implementation", HOW)
def test_the_optimizers_part(oracle, name, implementation, accumulate):
    vocab_size = 50 if name == "Adam" else 500  # the largest matrix stands alone, or is one of three in a row
    small = oracle.small(n_layers=1, tied_embeddings=accumulate, vocab_size=vocab_size)
    run = Pass(1, 16, "fp32")
    seen = oracle.tracked(small, run, optimizer_of(name, implementation), accumulate)
    predicted = phases(small, run, recipe_of("fp32", name, implementation), accumulate)
    for phase in predicted[1:]:
        assert phase.bytes == pytest.approx(seen.phases[phase.name], rel=1e-3), phase


class WithMaster(torch.optim.Optimizer):
    """bf16 parameters, an fp32 copy that AdamW updates; gradients are widened for it, all at once."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.masters = [p.detach().float() for p in self.param_groups[0]["params"]]
        self.rule = torch.optim.AdamW(self.masters, foreach=True)

    @torch.no_grad()
    def step(self):
        parameters = self.param_groups[0]["params"]
        for parameter, master in zip(parameters, self.masters, strict=True):
            master.grad = parameter.grad.float()
        self.rule.step()
        self.rule.zero_grad()
        for parameter, master in zip(parameters, self.masters, strict=True):
            parameter.copy_(master)
            self.state[parameter] = {"master": master} | self.rule.state[master]


def test_mixed_precision_with_a_master_copy(oracle):
    small, run = oracle.small(), Pass(4, 64)
    seen = oracle.tracked(small, run, WithMaster)
    held = copies(small.n_params, Recipe(), n_tensors(small))
    assert seen.kinds["Optstate"] == held["master"] + held["exp_avg"] + held["exp_avg_sq"] + held["step"]
    for phase in phases(small, run, Recipe())[1:]:
        assert phase.bytes == pytest.approx(seen.phases[phase.name], rel=1e-4), phase


@pytest.mark.parametrize(("n_layers", "recompute"), [(8, "none"), (4, "full")])
def test_an_8b_model_that_no_machine_here_could_hold(oracle, n_layers, recompute):
    """Fake tensors: every operation's bookkeeping and no arithmetic. Not all of its 32 layers, for time."""
    llama, run = dataclasses.replace(model("Llama-3.1-8B"), n_layers=n_layers), Pass(1, 4096, recompute=recompute)
    recipe = recipe_of("bf16")
    seen = oracle.tracked(llama, run, optimizer_of())
    assert seen.kinds["Parameter"] == copies(llama.n_params, recipe)["parameters"]
    assert peak(llama, run, recipe).bytes == pytest.approx(seen.peak, rel=1e-4)
    for phase in phases(llama, run, recipe)[1:]:
        assert phase.bytes == pytest.approx(seen.phases[phase.name], rel=1e-4)


def test_the_peak_is_a_maximum_and_never_the_sum():
    llama, run = model("Llama-3.2-1B"), Pass(8, 2048)
    parts = phases(llama, run, Recipe())
    assert peak(llama, run, Recipe()).bytes == max(phase.bytes for phase in parts)
    assert peak(llama, run, Recipe()).bytes < sum(max(p.parts[k] for p in parts) for k in parts[0].parts)
    assert peak(llama, Pass(8, 2048), Recipe()).name == "backward"
    assert peak(llama, Pass(1, 1), Recipe()).name == "step"


def test_more_of_anything_never_needs_less():
    llama = model("SmolLM2-135M")
    for b, s in itertools.product((1, 2), (128, 256)):
        here = peak(llama, Pass(b, s), Recipe()).bytes
        assert here <= peak(llama, Pass(b + 1, s), Recipe()).bytes
        assert here <= peak(llama, Pass(b, s + 1), Recipe()).bytes
        assert here <= peak(llama, Pass(b, s, attention="naive"), Recipe()).bytes
        assert here >= peak(llama, Pass(b, s, recompute="selective"), Recipe()).bytes
        assert here >= peak(llama, Pass(b, s, recompute="full"), Recipe()).bytes
        assert here <= peak(llama, Pass(b, s), Recipe(accumulation_dtype="fp32")).bytes


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"optimizer": "AdamWW"}, "unknown optimizer 'AdamWW'; did you mean AdamW"),
        ({"optimizer": "Lion"}, "unknown optimizer 'Lion'; known are SGD, momentum, Adam, AdamW"),
        ({"gradient_dtype": "bf61"}, "unknown number format 'bf61'; did you mean bf16"),
        ({"implementation": "for each one"}, "unknown optimizer implementation"),
    ],
)
def test_unknown_names_get_the_nearest(wrong, line):
    with pytest.raises(UnknownName, match=re.escape(line)):
        Recipe(**wrong)


def test_what_has_no_formula_is_refused_in_one_line():
    for part in (lambda m: peak(m, Pass(1, 1), Recipe()), n_tensors):
        with pytest.raises(NoFormula, match=r"^no .* for gemma-2-2b, which has norms after each part"):
            part(model("gemma-2-2b"))
    with pytest.raises(ValueError, match=r"^fp32 parameters and bf16 activations: no formula for autocast$"):
        peak(model("Llama-2-7B"), Pass(1, 1), FP32)
    with pytest.raises(ValueError, match="int8 cannot be trained in"):
        Recipe(parameter_dtype="int8")
    with pytest.raises(ValueError, match="at least one parameter, not 0"):
        copies(0, Recipe())
