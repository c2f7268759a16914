"""The GPU kernel without a GPU: run by Triton's interpreter against fp64, and compiled for the lecture's cards.

The interpreter is chosen before Triton is imported, so it has a process of its own: this file, run as a program.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is made for Linux alone")

ROOT = Path(__file__).parents[2]
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
CASES = {  # q_len, kv_len, query heads, key/value heads, head_dim, causal, type
    "one token": (1, 1, 2, 2, 16, True, FP32),
    "less than a tile": (20, 20, 4, 2, 16, True, FP32),
    "whole tiles": (128, 128, 2, 1, 32, True, FP32),
    "a tile and a row": (129, 129, 2, 2, 16, True, FP32),
    "odd": (201, 201, 6, 2, 32, True, FP32),
    "all keys": (77, 77, 4, 4, 64, False, FP32),
    "all keys, whole tiles": (64, 128, 2, 2, 16, False, FP32),
    "more queries than keys": (70, 33, 2, 2, 16, False, FP32),
    "decode": (1, 300, 6, 2, 64, True, FP32),
    "some at once": (16, 143, 4, 1, 32, True, FP32),
    "behind a cache": (50, 333, 4, 2, 32, True, FP32),
    "wide heads": (40, 40, 2, 1, 128, True, FP32),
    "fp16": (200, 200, 6, 2, 64, True, FP16),
    "fp16 decode": (1, 200, 6, 2, 128, True, FP16),
    "bf16": (200, 200, 6, 2, 64, True, BF16),
    "bf16, wide heads": (130, 150, 2, 1, 128, True, BF16),
}


def draw(q_len, kv_len, n_heads, n_kv_heads, head_dim, causal, dtype):
    """Laid out as a model's are, token by token; scores of some size."""
    generator = torch.Generator().manual_seed(0)
    sizes = (q_len, n_heads), (kv_len, n_kv_heads), (kv_len, n_kv_heads)
    q, k, v = (torch.randn(2, *size, head_dim, generator=generator).to(dtype).transpose(1, 2) for size in sizes)
    return 2 * q, k, v


def run_interpreted():
    """Errors of every case, and of a whole training step with the kernel inside, as a line of JSON."""
    from llmhw_helpers.llm import flash, flash_triton

    found = {}
    for name, case in CASES.items():
        q, k, v = draw(*case)
        wide = [each.double() for each in (q, k, v)]
        out, lse = flash_triton.forward(q, k, v, case[5])
        mask = torch.ones(case[:2], dtype=torch.bool).tril(case[1] - case[0]) if case[5] else None
        exact = torch.nn.functional.scaled_dot_product_attention(*wide, mask, enable_gqa=True)
        scores = wide[0] @ wide[1].repeat_interleave(case[2] // case[3], 1).mT / case[4] ** 0.5
        exact_lse = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).logsumexp(-1)
        errors = [((a - b).abs() / (1 + b.abs())).max().item() for a, b in ((out, exact), (lse, exact_lse))]
        found[name] = {"errors": errors, "dtypes": [str(out.dtype), str(lse.dtype)]}

    calls, real = [], flash_triton.forward
    flash_triton.forward = lambda *operands: calls.append(1) or real(*operands)
    operands = [each.requires_grad_() for each in draw(33, 40, 4, 2, 16, True, FP32)]
    grads = []
    for on_gpu in (True, False):
        torch.Tensor.is_cuda = on_gpu  # all that the dispatch asks
        grads.append(torch.autograd.grad(flash.flash_attention(*operands).square().sum(), operands))
    found["step"] = {"calls": len(calls), "error": max((a - b).abs().max().item() for a, b in zip(*grads, strict=True))}
    print(json.dumps(found))


@pytest.fixture(scope="module")
def interpreted():
    here = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False, env=os.environ | here)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_right_without_a_gpu(interpreted, name):
    dtype = CASES[name][-1]
    out, lse = interpreted[name]["errors"]
    # 16 bits: the weights are rounded before they meet the values, and the result once more
    assert out < (1e-5 if dtype == FP32 else 1.5 * torch.finfo(dtype).eps)
    assert lse < 1e-5
    assert interpreted[name]["dtypes"] == [str(dtype), "torch.float32"]


def test_on_a_gpu_it_is_the_forward_pass_of_training(interpreted):
    assert interpreted["step"]["calls"] == 1
    assert interpreted["step"]["error"] < 1e-4


def test_what_it_cannot_do_is_refused():
    from llmhw_helpers.llm import flash_triton

    for head_dim, dtype in ((24, FP16), (256, FP16), (64, torch.float64), (64, FP16)):  # the last: on no GPU
        q, k, v = draw(3, 3, 2, 2, head_dim, True, dtype)
        with pytest.raises(
            ValueError, match=r"the kernel takes head_dim .* on a GPU of the Ampere generation or newer, not .* on cpu"
        ):
            flash_triton.forward(q, k, v)


COMPILED = [(80, FP16, 64, 4096), (80, BF16, 128, 4096), (86, BF16, 128, 4096), (90, BF16, 128, 4096)]
COMPILED += [(80, FP32, 64, 4096), (90, BF16, 128, 1)]


@pytest.mark.parametrize(("capability", "dtype", "head_dim", "q_len"), COMPILED)
def test_it_compiles_for_the_lectures_cards(capability, dtype, head_dim, q_len, tmp_path, monkeypatch):
    """To machine code, with no GPU here: it fits a multiprocessor's shared memory and uses the tensor cores."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from llmhw_helpers.llm import flash_triton
    from llmhw_helpers.specs.accelerators import accelerator

    kernel, names = flash_triton._attend, flash_triton._attend.arg_names
    block_q, block_k, warps, stages = flash_triton._tiling(q_len, head_dim, dtype)
    fixed = {"CAUSAL": True, "HEAD_DIM": head_dim, "BLOCK_Q": block_q, "BLOCK_K": block_k, "WIDE": dtype == FP32}
    fixed |= {name: 1 for name in names if name.endswith("_column")}
    pointer = {FP32: "*fp32", FP16: "*fp16", BF16: "*bf16"}[dtype]
    types = {name: pointer if name.endswith("_ptr") else "i32" for name in names}
    types |= {"lse_ptr": "*fp32", "scale": "fp32"} | dict.fromkeys(fixed, "constexpr")
    aligned = [
        i for i, name in enumerate(names) if name.endswith(("_ptr", "_row", "_head", "_batch")) and name not in fixed
    ]
    source = ASTSource(
        kernel,
        types,
        {(names.index(name),): value for name, value in fixed.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": warps, "num_stages": stages}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    card = {80: "A100-40GB", 86: "A40", 90: "H100"}[capability]
    assert built.metadata.shared <= accelerator(card).shared_bytes.known() - 1024  # CUDA keeps 1 KiB of each block's
    assert len(built.asm["cubin"]) > 10_000
    on_tensor_cores = built.asm["ptx"].count("mma.sync") + built.asm["ptx"].count("wgmma.mma_async")
    assert (on_tensor_cores > 0) == (dtype != FP32)


if __name__ == "__main__":
    run_interpreted()
