"""A Llama in plain torch, and a training step of it under PyTorch's own trackers: the oracle of the memory formulas."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint

from llmhw_helpers.measure.memory import Kept, MemoryMeter
from llmhw_helpers.specs.architectures import Model

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


class Norm(nn.Module):
    def __init__(self, width, run):
        super().__init__()
        self.weight, self.fused = nn.Parameter(torch.ones(width)), run.norm == "fused"

    def forward(self, x):
        return FusedNorm.apply(x, self.weight) if self.fused else F.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Block(nn.Module):
    def __init__(self, model, run):
        super().__init__()
        h, q, kv = model.d_model, model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
        sizes = {"q": (h, q), "k": (h, kv), "v": (h, kv), "o": (q, h)}
        sizes |= {"gate": (h, model.d_ff), "up": (h, model.d_ff), "down": (model.d_ff, h)}
        self.linear = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        self.norms = nn.ModuleList([Norm(h, run), Norm(h, run)])
        self.run, self.group = run, model.n_heads // model.n_kv_heads
        self.head_dim, self.at = model.head_dim, lambda name: None

    def attention(self, x, cos, sin, mask):
        self.at("qkv")
        q, k, v = (self.linear[n](x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for n in "qkv")
        self.at("rotary")
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        self.at("attention")
        native = self.run.attention == "fused" and self.run.native_gqa
        if not native and self.group > 1:
            k, v = k.repeat_interleave(self.group, 1), v.repeat_interleave(self.group, 1)
        if self.run.attention == "fused":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=native)
        else:
            scores = (q @ k.transpose(-1, -2)) * self.head_dim**-0.5
            out = scores.masked_fill_(mask, float("-inf")).softmax(-1) @ v
        out = out.transpose(1, 2).flatten(2)
        return self.linear["o"](out)

    def forward(self, x, cos, sin, mask):
        self.at("attention_norm")
        x = x + self.attention(self.norms[0](x), cos, sin, mask)
        self.at("mlp_norm")
        y = self.norms[1](x)
        self.at("gate_up")
        gate, up = self.linear["gate"](y), self.linear["up"](y)
        self.at("silu")
        gate = F.silu(gate)
        self.at("gate_times_up")
        y = gate * up
        self.at("down")
        return x + self.linear["down"](y)


class Llama(nn.Module):
    def __init__(self, model, run):
        super().__init__()
        self.embedding = nn.Embedding(model.vocab_size, model.d_model)
        self.blocks = nn.ModuleList(Block(model, run) for _ in range(model.n_layers))
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


def kept_by_operation(model, run):
    """Bytes that torch saves: of the whole model by stage, and of one block by operation."""
    with FakeTensorMode():
        step = Step(model, run)
        with Kept(step.there) as whole:
            step.net.at = whole.at
            step.loss()
        with Kept(step.there) as block:
            step.net.blocks[0].at = block.at
            x = torch.zeros(run.batch_size, run.seq_len, model.d_model, dtype=TORCH[run.activation_dtype])
            step.net.blocks[0](x.requires_grad_(), *step.constants)
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
    return SimpleNamespace(kept=kept_by_operation, tracked=tracked, small=small)
