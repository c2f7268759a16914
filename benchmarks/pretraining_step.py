"""A pretraining step of a model from nothing: this course's Trainer, and a GPT-style step in plain PyTorch.

    python benchmarks/pretraining_step.py [--threads 2] [--dtype float32] [--rounds 7] [--shape bytes]

The plain one is what one would write by hand: ``F.cross_entropy`` over the logits, ``torch.optim.AdamW`` as it comes,
gradient clipping, a batch indexed out of the memory map in front of each step. Same weights, batches, shapes, threads
and format; they take turns in one run, and what counts are the ratios. They must first agree on the loss and on a
gradient. Last, the share of this machine's fastest product (MFU) that each of them reaches.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

# layers, d_model, heads, head_dim, d_ff, vocabulary; sequences, tokens in each
SHAPES = {
    "notebook": ((2, 192, 4, 48, 576, 16), (16, 64)),
    "bytes": ((6, 256, 4, 64, 768, 256), (8, 128)),
    "wide vocabulary": ((4, 256, 4, 64, 768, 8192), (8, 128)),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the products")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="several times for several; all without it")
    return parser.parse_args()


def main():
    arguments = parse()
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn

    from llmhw_helpers.costs.training import flops_per_token, mfu
    from llmhw_helpers.llm.corpora import Batches, write_corpus
    from llmhw_helpers.llm.training import Plan, Trainer
    from llmhw_helpers.llm.transformer import Transformer, rope_frequencies
    from llmhw_helpers.measure.calibration import calibrate
    from llmhw_helpers.specs.architectures import Model

    torch.set_num_threads(arguments.threads)
    half = arguments.dtype == "bfloat16"

    class PlainBlock(nn.Module):
        def __init__(self, spec):
            super().__init__()
            d, inner, self.heads = spec.d_model, spec.n_heads * spec.head_dim, spec.n_heads
            self.norm_1, self.norm_2 = nn.RMSNorm(d, spec.norm_eps), nn.RMSNorm(d, spec.norm_eps)
            self.qkv, self.proj = nn.Linear(d, 3 * inner, bias=False), nn.Linear(inner, d, bias=False)
            self.gate, self.up = nn.Linear(d, spec.d_ff, bias=False), nn.Linear(d, spec.d_ff, bias=False)
            self.down = nn.Linear(spec.d_ff, d, bias=False)

        def forward(self, x, cos, sin):
            b, t, _ = x.shape
            q, k, v = self.qkv(self.norm_1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

            def turn(y):
                first, second = y.chunk(2, dim=-1)
                return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

            y = F.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, -1))
            y = self.norm_2(x)
            return x + self.down(F.silu(self.gate(y)) * self.up(y))

    class PlainGPT(nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.embed = nn.Embedding(spec.vocab_size, spec.d_model)
            self.blocks = nn.ModuleList(PlainBlock(spec) for _ in range(spec.n_layers))
            self.norm = nn.RMSNorm(spec.d_model, spec.norm_eps)
            self.frequencies = rope_frequencies(spec)

        def forward(self, tokens, targets):
            x = self.embed(tokens)
            angles = torch.arange(tokens.shape[1])[:, None] * self.frequencies
            cos, sin = angles.cos(), angles.sin()
            for block in self.blocks:
                x = block(x, cos, sin)
            logits = F.linear(self.norm(x), self.embed.weight)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))

    def copy_weights(plain, ours):
        pairs = [(plain.embed.weight, ours.token_embd.weight), (plain.norm.weight, ours.output_norm.weight)]
        for a, b in zip(plain.blocks, ours.blk, strict=True):
            pairs += [(a.norm_1.weight, b.attn_norm.weight), (a.norm_2.weight, b.ffn_norm.weight)]
            pairs += [(a.qkv.weight, torch.cat([b.attn_q.weight, b.attn_k.weight, b.attn_v.weight]))]
            pairs += [(a.proj.weight, b.attn_output.weight), (a.gate.weight, b.ffn_gate.weight)]
            pairs += [(a.up.weight, b.ffn_up.weight), (a.down.weight, b.ffn_down.weight)]
        with torch.no_grad():
            for target, source in pairs:
                target.copy_(source)

    folder = Path(tempfile.mkdtemp())
    peak = calibrate(save=False, progress=False).roof().peak("bf16" if half else "fp32")

    def compare(name):
        (n_layers, d_model, heads, head_dim, d_ff, vocabulary), (batch_size, seq_len) = SHAPES[name]
        sizes = n_layers, d_model, heads, heads, head_dim, d_ff, vocabulary
        spec = Model(name, *sizes, True, seq_len, 1e4, "made up")
        text = np.random.default_rng(0).integers(0, vocabulary, 100_000)
        batches = Batches(write_corpus(folder / "text", [text], vocabulary), batch_size, seq_len)
        torch.manual_seed(0)
        ours = Transformer(spec)
        plain = PlainGPT(spec)
        copy_weights(plain, ours)
        plan = Plan(n_steps=10_000, lr=1e-4, dtype="bf16" if half else "fp32")
        trainer = Trainer(ours, batches, plan)
        optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4, betas=plan.betas, weight_decay=plan.weight_decay)
        tokens = np.memmap(folder / "text", "<u2", mode="r")
        done = 0

        def plain_step():
            nonlocal done
            batch = batch_of(done)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = plain(batch[:, :-1], batch[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), plan.max_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            return loss.item()

        def batch_of(i):  # as the course's batches draw, so that both see the same
            starts = np.random.default_rng((0, i)).integers(0, len(tokens) - seq_len, batch_size)
            return torch.from_numpy(np.stack([tokens[s : s + seq_len + 1] for s in starts]).astype(np.int64))

        agree = [trainer.run(3), [plain_step() for _ in range(3)]]
        assert np.allclose(*agree, atol=0.02 if half else 1e-3), agree
        rounds, n_steps = [[], []], 8
        for k in range(arguments.rounds + 1):
            for who in (0, 1) if k % 2 else (1, 0):
                begin = time.perf_counter()
                trainer.run(n_steps) if who == 0 else [plain_step() for _ in range(n_steps)]
                if k:
                    rounds[who].append((time.perf_counter() - begin) / n_steps)
        ratio = statistics.median(a / b for a, b in zip(*rounds, strict=True))
        medians = [statistics.median(each) for each in rounds]
        work = flops_per_token(spec, seq_len), batch_size * seq_len
        shares = [mfu(work[0], work[1] / min(each), peak) for each in rounds]
        print(f"{name:18}{spec.n_params:>12,}{1e3 * medians[0]:7.1f} ms{1e3 * medians[1]:7.1f} ms{ratio:14.3f}", end="")
        print(f"{shares[0]:12.0%}{shares[1]:8.0%}")

    print(f"{arguments.dtype}, {arguments.threads} thread(s), {arguments.rounds} rounds in turns, ", end="")
    print(f"torch {torch.__version__}")
    print(f"{'':18}{'parameters':>12}{'ours':>10}{'plain':>10}{'ours / plain':>14}{'MFU, ours':>12}{'plain':>8}")
    for name in arguments.shape or SHAPES:
        compare(name)


if __name__ == "__main__":
    main()
