"""A Llama in plain torch, and a training step of it under PyTorch's own trackers: the oracle of the memory formulas."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from llmhw_helpers.measure.memory import Kept, MemoryMeter
from llmhw_helpers.specs.architectures import Model
from llmhw_helpers.specs.models import from_config

TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class FusedNorm(torch.autograd.Function):
    """As torch's CUDA kernel: keeps input, weight and one fp32 number a row. The CPU build has no such kernel."""

    @staticmethod
    def forward(ctx, x, weight):
        scale = (x.float().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)  # sizes are all that is asked for


class FusedAttention(torch.autograd.Function):
    """As a flash kernel whose values may be of another width than queries and keys; torch's CPU kernel knows none."""

    @staticmethod
    def forward(ctx, q, k, v):
        batch_size, n_heads, seq_len, _ = q.shape
        out = torch.empty(batch_size, seq_len, n_heads, v.shape[-1], dtype=q.dtype).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:3]))
        return out

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty(each.shape, dtype=each.dtype) for each in ctx.saved_tensors[:3])


class Norm(nn.Module):
    def __init__(self, width, run):
        super().__init__()
        self.weight, self.fused = nn.Parameter(torch.ones(width)), run.norm == "fused"

    def forward(self, x):
        return FusedNorm.apply(x, self.weight) if self.fused else F.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Heads(nn.Module):
    """Attention with heads that may share keys and values; biases and norms where the model has them."""

    def __init__(self, model, run):
        super().__init__()
        h, q, kv = model.d_model, model.q_width, model.kv_width
        sizes = {"q": (h, q, model.qkv_bias), "k": (h, kv, model.qkv_bias), "v": (h, kv, model.qkv_bias)}
        sizes["o"] = (q, h, model.o_bias)
        self.linear = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
        self.norms = nn.ModuleDict({name: Norm(model.head_dim, run) for name in "qk" if model.qk_norm})
        self.run, self.group, self.head_dim = run, model.n_heads // model.n_kv_heads, model.head_dim

    def core(self, q, k, v, mask):
        native = self.run.attention == "fused" and self.run.native_gqa
        if not native and self.group > 1:
            k, v = k.repeat_interleave(self.group, 1), v.repeat_interleave(self.group, 1)
        if self.run.attention == "fused":
            if q.shape[-1] != v.shape[-1]:
                return FusedAttention.apply(q, k, v)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=native)
        scores = (q @ k.transpose(-1, -2)) * self.head_dim**-0.5
        return scores.masked_fill_(mask, float("-inf")).softmax(-1) @ v

    def attend(self, *operands, mask):
        if self.run.recompute == "selective":
            return checkpoint(self.core, *operands, mask, use_reentrant=False, preserve_rng_state=False)
        return self.core(*operands, mask)

    def head(self, name, x):
        x = self.linear[name](x).unflatten(-1, (-1, self.head_dim))
        if name in self.norms:
            self.at("qk_norm")
            x = self.norms[name](x)
            self.at("qkv")
        return x.transpose(1, 2)

    def forward(self, x, cos, sin, mask):
        self.at("qkv")
        q, k, v = (self.head(name, x) for name in "qkv")
        self.at("rotary")
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        self.at("attention")
        out = self.attend(q, k, v, mask=mask)
        return self.linear["o"](out.transpose(1, 2).flatten(2))


class Latent(Heads):
    """Multi-head latent attention in the steps of transformers' DeepseekV3Attention."""

    def __init__(self, model, run):
        nn.Module.__init__(self)
        self.run, self.group, self.latent, h = run, 1, model.latent, model.d_model
        latent, n = model.latent, model.n_heads
        self.head_dim, rank = latent.qk_nope_head_dim + latent.qk_rope_head_dim, latent.q_lora_rank
        sizes = {"q": (h, n * self.head_dim)}
        if rank:
            sizes = {"q_down": (h, rank), "q": (rank, n * self.head_dim)}
        sizes["down"] = (h, latent.kv_lora_rank + latent.qk_rope_head_dim)
        sizes["up"] = (latent.kv_lora_rank, n * (latent.qk_nope_head_dim + latent.v_head_dim))
        sizes["o"] = (n * latent.v_head_dim, h)
        self.linear = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        self.norms = nn.ModuleList([Norm(rank, run)] if rank else []).append(Norm(latent.kv_lora_rank, run))

    def forward(self, x, cos, sin, mask):
        latent = self.latent
        self.at("qkv")
        q, cos, sin = x, cos[:, : latent.qk_rope_head_dim], sin[:, : latent.qk_rope_head_dim]
        if latent.q_lora_rank:
            q = self.linear["q_down"](q)
            self.at("latent_norm")
            q = self.norms[0](q)
            self.at("qkv")
        q = self.linear["q"](q).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q, q_rotary = q.split((latent.qk_nope_head_dim, latent.qk_rope_head_dim), -1)
        made, rotary = self.linear["down"](x).split((latent.kv_lora_rank, latent.qk_rope_head_dim), -1)
        self.at("latent_norm")
        made = self.norms[-1](made)
        self.at("qkv")
        both = self.linear["up"](made).unflatten(-1, (-1, latent.qk_nope_head_dim + latent.v_head_dim)).transpose(1, 2)
        k, v = both.split((latent.qk_nope_head_dim, latent.v_head_dim), -1)
        self.at("rotary")
        q = torch.cat((q, rotate(q_rotary, cos, sin)), -1)
        k = torch.cat((k, rotate(rotary[:, None], cos, sin).expand(-1, k.shape[1], -1, -1)), -1)
        self.at("attention")
        return self.linear["o"](self.attend(q, k, v, mask=mask).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, d_model, d_ff, bias=False, name=""):
        super().__init__()
        sizes = {"gate": (d_model, d_ff), "up": (d_model, d_ff), "down": (d_ff, d_model)}
        self.linear = nn.ModuleDict({name: nn.Linear(*size, bias=bias) for name, size in sizes.items()})
        self.name = name

    def forward(self, y):
        self.at(self.name or "gate_up")
        gate, up = self.linear["gate"](y), self.linear["up"](y)
        self.at(self.name or "silu")
        gate = F.silu(gate)
        self.at(self.name or "gate_times_up")
        y = gate * up
        self.at(self.name or "down")
        return self.linear["down"](y)


class Experts(nn.Module):
    """Rows sorted by expert, equally many for each: what is kept is the same however they are spread."""

    def __init__(self, model):
        super().__init__()
        e, h = model.experts, model.d_model
        self.e, self.router = e, nn.Linear(h, e.n_experts, bias=False)
        into, back = (e.n_experts, h, e.d_ff_expert), (e.n_experts, e.d_ff_expert, h)
        self.gate, self.up, self.down = (nn.Parameter(torch.zeros(size)) for size in (into, into, back))
        wide = e.n_shared_experts * e.d_ff_expert
        self.shared = MLP(h, wide, name="shared_experts") if wide else None

    def forward(self, y):
        x = y.flatten(0, 1)
        self.at("router")
        chosen, which = self.router(x).float().softmax(-1).topk(self.e.n_experts_per_token)
        weights = (chosen / chosen.sum(-1, keepdim=True)).to(x.dtype)
        self.at("experts")
        with torch.no_grad():
            order = which.flatten().argsort()
            token = order // self.e.n_experts_per_token
        weights = weights.flatten()[order]
        rows = x[token].unflatten(0, (self.e.n_experts, -1))
        rows = (F.silu(rows @ self.gate) * (rows @ self.up)) @ self.down
        rows = rows.flatten(0, 1) * weights[:, None]
        out = torch.zeros_like(x).index_add(0, token, rows).view_as(y)
        return out + self.shared(y) if self.shared else out


class Block(nn.Module):
    def __init__(self, model, run, layer):
        super().__init__()
        self.attention = (Latent if model.latent else Heads)(model, run)
        dense = layer < model.n_layers - model.n_moe_layers
        self.mlp = MLP(model.d_model, model.d_ff, model.mlp_bias) if dense else Experts(model)
        self.norms = nn.ModuleList([Norm(model.d_model, run), Norm(model.d_model, run)])
        self.tell(lambda name: None)

    def tell(self, at):
        for module in self.modules():
            module.at = at

    def forward(self, x, cos, sin, mask):
        self.at("attention_norm")
        x = x + self.attention(self.norms[0](x), cos, sin, mask)
        self.at("mlp_norm")
        return x + self.mlp(self.norms[1](x))


class Llama(nn.Module):
    def __init__(self, model, run):
        super().__init__()
        self.embedding = nn.Embedding(model.vocab_size, model.d_model)
        self.blocks = nn.ModuleList(Block(model, run, layer) for layer in range(model.n_layers))
        self.norm, self.head = Norm(model.d_model, run), nn.Linear(model.d_model, model.vocab_size, bias=False)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.run, self.at = run, lambda name: None

    def forward(self, tokens, *constants):
        self.at("embedding")
        x = self.embedding(tokens)
        for block in self.blocks:
            self.at("blocks")
            if self.run.recompute == "full":
                x = checkpoint(block, x, *constants, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, *constants)
        self.at("final_norm")
        x = self.norm(x)
        self.at("head")
        return self.head(x)


class Step:
    """A model, its batch and the constants of its attention, all on the CPU."""

    def __init__(self, model, run):
        dtype, shape = TORCH[run.activation_dtype], (run.batch_size, run.seq_len)
        torch.set_default_dtype(dtype)
        self.net = Llama(model, run)
        torch.set_default_dtype(torch.float32)
        self.batch = [torch.zeros(shape, dtype=torch.long) for _ in range(2)]
        tables = [torch.zeros(run.seq_len, model.head_dim, dtype=dtype) for _ in range(2)]
        mask = torch.ones(run.seq_len, run.seq_len, dtype=torch.bool).triu(1)
        self.constants, self.run = [*tables, mask], run
        self.there = [*self.net.parameters(), *self.batch, *self.constants]

    def loss(self):
        tokens, targets = self.batch
        logits = [self.net(tokens, *self.constants)]  # a list, so that nobody holds them once they are used
        self.net.at("loss")
        if self.run.logits_dtype != self.run.activation_dtype:
            logits = [logits.pop().to(TORCH[self.run.logits_dtype])]
        return F.cross_entropy(logits.pop().flatten(0, 1), targets.flatten())


def kept_by_operation(model, run, layer=0):
    """Bytes that torch saves: of the whole model by stage, and of one block by operation."""
    with FakeTensorMode():
        step = Step(model, run)
        with Kept(step.there) as whole:
            step.net.at = whole.at
            step.loss()
        with Kept(step.there) as block:
            step.net.blocks[layer].tell(block.at)
            x = torch.zeros(run.batch_size, run.seq_len, model.d_model, dtype=TORCH[run.activation_dtype])
            step.net.blocks[layer](x.requires_grad_(), *step.constants)
    return whole.by_operation, block.by_operation


def tracked(model, run, make_optimizer, accumulate=False):
    """Peak by phase and in all, and the bytes of each kind at the end of a step, by torch's tracker and by ours."""
    with FakeTensorMode():
        step = Step(model, run)
        optimizer = make_optimizer(step.net.parameters())
        constants = sum(tensor.nbytes for tensor in step.constants)
        for parameter in step.net.parameters():  # a first step, which makes the states
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if not accumulate:
            optimizer.zero_grad()
        states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        gradients = [p.grad for p in step.net.parameters() if p.grad is not None]
        tracker, meter = MemTracker(), MemoryMeter([*step.there, *states, *gradients])
        tracker.track_external(step.net, optimizer, *step.batch, *step.constants)
        with tracker, meter:
            meter.phase = "forward"
            loss = step.loss()
            meter.phase = "backward"
            loss.backward()
            meter.phase = "step"
            optimizer.step()
            cpu = torch.device("cpu")
            now, peak = (tracker.get_tracker_snapshot(when)[cpu] for when in ("current", "peak"))
    kinds = {str(getattr(kind, "value", kind)): n for kind, n in now.items()}
    phases = {phase: n - constants for phase, n in meter.peaks.items()}
    return SimpleNamespace(kinds=kinds, peak=peak["Total"] - constants, phases=phases)


SMALL = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 160, "vocab_size": 500}


def small(tied_embeddings=False, **sizes):
    return Model("small", *(SMALL | sizes).values(), tied_embeddings, 256, 1e4, "made up for this test")


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(kept=kept_by_operation, tracked=tracked, small=small, llama=Llama, dtypes=TORCH)


TINY = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LATENT = {"kv_lora_rank": 10, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES = {
    "llama": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 5},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 8, "sliding_window": 5},
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": EXPERTS | {"num_experts": 6, "head_dim": 16, "mlp_only_layers": [1], "norm_topk_prob": True},
    "deepseek_v3": LATENT
    | EXPERTS
    | {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "n_shared_experts": 2, "first_k_dense_replace": 1}
    | {"q_lora_rank": 12},
}


def twin(family, **changes):
    """A small model of transformers in its plainest form, whose every product PyTorch's counter sees, and its spec."""
    config = AutoConfig.for_model(family, **(TINY | FAMILIES[family] | changes))
    torch.manual_seed(0)
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_config(config, **plain), from_config(config.to_dict(), family)


@pytest.fixture(scope="session")
def twins():
    return twin
