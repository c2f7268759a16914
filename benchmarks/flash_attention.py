"""Attention of SmolLM2's shape, causal: stored scores, tiles in torch, PyTorch's fused one; on a GPU the Triton kernel.

    python benchmarks/flash_attention.py [--threads 2] [--rounds 7] [--backward]

All take turns in one run: what counts are the ratios. First they must agree. On a GPU `flash_attention` is the kernel
of `llm/flash_triton.py`, and PyTorch is held to its own FlashAttention; the naive way is left out there where it would
not fit. The kernel has no backward pass of its own: with --backward that is done by the tiles in torch.
"""

import argparse
import contextlib
import statistics

GPU_SHAPES = {"SmolLM2-135M": (8, 9, 3, 64), "Llama-3.1-8B": (2, 32, 8, 128)}  # sequences, query and KV heads, width
CPU_SHAPES = {"SmolLM2-135M": (1, 9, 3, 64)}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backward", action="store_true", help="forward and backward, not forward alone")
    return parser.parse_args()


def main():
    arguments = parse()
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from llmhw_helpers.llm.attention import repeat_heads
    from llmhw_helpers.llm.flash import flash_attention
    from llmhw_helpers.measure.machine import this_machine
    from llmhw_helpers.measure.timers import time_call

    torch.set_num_threads(arguments.threads)
    machine = this_machine()
    on_gpu = machine.device.type == "cuda"
    print(f"{machine.gpu or machine.cpu}, torch {torch.__version__}, {arguments.rounds} rounds in turns; medians")
    print(f"{'':32}{'naive':>12}{'ours':>12}{'PyTorch':>12}{'naive / ours':>14}{'PyTorch / ours':>16}")

    def naive(q, k, v):
        later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = q @ repeat_heads(k, q.shape[1]).mT / q.shape[-1] ** 0.5
        return scores.masked_fill(later, -torch.inf).softmax(-1) @ repeat_heads(v, q.shape[1])

    def fused(q, k, v):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else contextlib.nullcontext():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def work(attend, operands):
        out = attend(*operands)
        return torch.autograd.grad(out.sum(), operands) if arguments.backward else out

    for name, (batch, n_heads, n_kv_heads, head_dim) in (GPU_SHAPES if on_gpu else CPU_SHAPES).items():
        for dtype in (torch.float16, torch.bfloat16) if on_gpu else (torch.float32, torch.bfloat16):
            for seq_len in (1024, 4096, 16384) if on_gpu else (1024, 4096):
                torch.manual_seed(0)
                sizes = n_heads, n_kv_heads, n_kv_heads
                operands = [torch.randn(batch, n, seq_len, head_dim, device=machine.device).to(dtype) for n in sizes]
                operands = [each.requires_grad_(arguments.backward) for each in operands]
                ways = {"naive": naive, "ours": flash_attention, "PyTorch": fused}
                if on_gpu and seq_len > 4096:
                    del ways["naive"]
                results = {way: attend(*operands).detach().float() for way, attend in ways.items()}
                for way, result in results.items():
                    apart = ((result - results["PyTorch"]).norm() / results["PyTorch"].norm()).item()
                    assert apart < (1e-5 if dtype == torch.float32 else 2e-2), (way, apart)
                del results
                rounds = {way: [] for way in ways}
                for k in range(arguments.rounds):
                    for way in list(ways)[:: 1 if k % 2 else -1]:
                        run = lambda attend=ways[way], given=operands: work(attend, given)  # noqa: E731
                        rounds[way].append(time_call(run, machine.device, rounds=1, warmup=0 if k else 1).best)
                columns = "".join(
                    f"{1e3 * statistics.median(rounds[way]):9.2f} ms" if way in rounds else f"{'-':>12}"
                    for way in ("naive", "ours", "PyTorch")
                )
                ratios = "".join(
                    f"{statistics.median(a / b for a, b in zip(rounds[way], rounds['ours'], strict=True)):>{width}.2f}"
                    if way in rounds
                    else f"{'-':>{width}}"
                    for way, width in (("naive", 14), ("PyTorch", 16))
                )
                print(f"{name:13}{str(dtype)[6:]:>10}{seq_len:>8} {columns}{ratios}", flush=True)


if __name__ == "__main__":
    main()
