"""The forward pass of `flash` as one GPU kernel, in Triton (Tillet, Kung and Cox, MAPL 2019).

One program of the kernel takes one block of queries of one head, and walks over the keys with three numbers a row in
registers. What torch would write to memory between its operations never leaves the chip. With ``TRITON_INTERPRET=1``,
set before Triton is imported, the same code runs on a CPU, slowly: that is how the tests reach it.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

HEAD_DIMS = (16, 32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
INTERPRETED = triton.knobs.runtime.interpret


def usable(q: Tensor) -> bool:
    """Whether the kernel can take queries like these: Triton's tensor cores begin with Ampere (capability 8.0)."""
    fits = q.shape[-1] in HEAD_DIMS and q.dtype in DTYPES and q.numel() > 0
    return fits and (INTERPRETED or (q.is_cuda and torch.cuda.get_device_capability(q.device) >= (8, 0)))


def forward(
    q: Float[Tensor, "batch n_heads q_len head_dim"],
    k: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    v: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    causal: bool = True,
) -> tuple[Float[Tensor, "batch n_heads q_len head_dim"], Float[Tensor, "batch n_heads q_len"]]:
    """Result (in the type of `q`) and logsumexp (fp32) of each query; causal as in `flash`. Any strides, any lengths.

    Raises:
        ValueError: a head_dim or a type that the kernel does not have, or no GPU that it runs on.
    """
    if not usable(q):
        raise ValueError(
            f"the kernel takes head_dim {HEAD_DIMS} in 16 or 32 bits on a GPU of the Ampere generation or newer, "
            f"not {list(q.shape)} {q.dtype} on {q.device}"
        )
    batch, n_heads, q_len, head_dim = q.shape
    out, lse = torch.empty_like(q), q.new_empty((batch, n_heads, q_len), dtype=torch.float32)
    block_q, block_k, n_warps, n_stages = _tiling(q_len, head_dim, q.dtype)
    _attend[(triton.cdiv(q_len, block_q), batch * n_heads)](
        *(q, k, v, out, lse),
        *(*q.stride(), *k.stride(), *v.stride(), *out.stride()),
        *(n_heads, n_heads // k.shape[1], q_len, k.shape[2]),
        head_dim**-0.5 * math.log2(math.e),
        CAUSAL=causal,
        HEAD_DIM=head_dim,
        BLOCK_Q=block_q,
        BLOCK_K=block_k,
        # The interpreter's product of bf16 is silently wrong.
        WIDE=q.dtype == torch.float32 or INTERPRETED,
        num_warps=n_warps,
        num_stages=n_stages,
    )
    return out, lse


def _tiling(q_len: int, head_dim: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Queries and keys in a tile, warps, and stages (tiles on their way at once): wide rows leave room for fewer."""
    if dtype == torch.float32:  # on CUDA cores, out of registers: this is for exactness, not for speed
        return (16, 32, 4, 2) if head_dim > 64 else (32, 32, 4, 2)
    if q_len <= 16:  # decode: a product on tensor cores has no fewer rows
        return 16, 128, 4, 2
    return 128, 64, 4 if head_dim <= 64 else 8, 3


@triton.jit
@no_type_check  # Triton reads the function as it is written
def _walk(
    q, top, total, mean, k_ptr, v_ptr, k_row, k_column, v_row, v_column, start, end, positions, kv_len, scale,
    MASKED: tl.constexpr, CAUSAL: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_K: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from `start` to `end`; `MASKED` where some of them must not be seen, or are not."""
    width = tl.arange(0, HEAD_DIM)
    for first in range(start, end, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k_at, v_at = k_ptr + columns[None, :] * k_row, v_ptr + columns[:, None] * v_row
        if MASKED:
            k = tl.load(k_at + width[:, None] * k_column, mask=columns[None, :] < kv_len, other=0.0)
            v = tl.load(v_at + width[None, :] * v_column, mask=columns[:, None] < kv_len, other=0.0)
        else:
            k, v = tl.load(k_at + width[:, None] * k_column), tl.load(v_at + width[None, :] * v_column)
        if WIDE:
            k, v = k.to(tl.float32), v.to(tl.float32)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if MASKED:
            seen = columns[None, :] < kv_len
            if CAUSAL:
                seen = seen & (columns[None, :] <= positions[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.math.exp2(scores - new_top[:, None])
        shrink = tl.math.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top
    return top, total, mean


@triton.jit
@no_type_check
def _attend(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    q_batch, q_head, q_row, q_column, k_batch, k_head, k_row, k_column,
    v_batch, v_head, v_row, v_column, out_batch, out_head, out_row, out_column,
    n_heads, group, q_len, kv_len, scale,
    CAUSAL: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head. Exponentials are powers of two, as those are quick: `scale` holds log2(e)."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the last queries have most to see, so they start first
    batch, head = (tl.program_id(1) // n_heads).to(tl.int64), (tl.program_id(1) % n_heads).to(tl.int64)
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + head // group * k_head
    v_ptr += batch * v_batch + head // group * v_head
    out_ptr += batch * out_batch + head * out_head
    rows, width = block * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, HEAD_DIM)
    there = rows[:, None] < q_len
    q = tl.load(q_ptr + rows[:, None] * q_row + width[None, :] * q_column, mask=there, other=0.0)
    if WIDE:
        q = q.to(tl.float32)
    positions = rows + kv_len - q_len
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total, mean = tl.zeros([BLOCK_Q], tl.float32), tl.zeros([BLOCK_Q, HEAD_DIM], tl.float32)
    end, plain = kv_len, kv_len // BLOCK_K * BLOCK_K  # up to `plain` every row sees all keys of a tile
    if CAUSAL:
        end = tl.minimum(kv_len, block * BLOCK_Q + BLOCK_Q + kv_len - q_len)
        plain = (block * BLOCK_Q + kv_len - q_len + 1) // BLOCK_K * BLOCK_K
    top, total, mean = _walk(
        q, top, total, mean, k_ptr, v_ptr, k_row, k_column, v_row, v_column, 0, plain, positions, kv_len, scale,
        False, CAUSAL, HEAD_DIM, BLOCK_K, WIDE,
    )  # fmt: skip
    top, total, mean = _walk(
        q, top, total, mean, k_ptr, v_ptr, k_row, k_column, v_row, v_column, plain, end, positions, kv_len, scale,
        True, CAUSAL, HEAD_DIM, BLOCK_K, WIDE,
    )  # fmt: skip
    out = mean / tl.maximum(total, 1.0)[:, None]  # below 1 only without keys
    out_at = out_ptr + rows[:, None] * out_row + width[None, :] * out_column
    tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=there)
    lse = (top + tl.math.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * q_len + rows, lse, mask=rows < q_len)
