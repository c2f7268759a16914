"""Exact attention, tile by tile, that never holds the table of scores: FlashAttention in plain torch.

Online softmax after arXiv:1805.02867, forward and backward after FlashAttention (arXiv:2205.14135), with the order of
loops of FlashAttention-2 (arXiv:2307.08691): blocks of queries outside, keys inside. On a GPU of the Ampere generation
or newer the forward pass is the Triton kernel of `flash_triton`.

Causal here means: the queries are the *last* `q_len` of `kv_len` tokens, so query ``i`` sees the keys up to
``kv_len - q_len + i``. (PyTorch's ``is_causal`` lets them be the first; with as many queries as keys the two agree.)
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK_Q, BLOCK_K = 128, 512  # what two CPU cores are quickest with; a tile of scores should fit into their caches


def flash_attention(
    q: Float[Tensor, "batch n_heads q_len head_dim"],
    k: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    v: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    causal: bool = True,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
) -> Float[Tensor, "batch n_heads q_len head_dim"]:
    """``softmax(q k^T / sqrt(head_dim)) v`` in tiles of `block_q` queries and `block_k` keys; differentiable.

    Sums are in fp32, or in fp64 where `q` is; the result is in the type of `q`. For its backward it keeps q, k, v, the
    result and one number a row, and computes the scores again.

    Raises:
        ValueError: shapes or types that do not go together, a block of no rows, or causal with more queries than keys.

    >>> q, k, v = torch.zeros(1, 6, 8, 4), torch.zeros(1, 2, 8, 4), torch.arange(8.0).expand(1, 2, 4, 8).mT
    >>> flash_attention(q, k, v, block_q=3, block_k=2)[0, 0, :, 0]  # equal scores: the mean of what each may see
    tensor([0.0000, 0.5000, 1.0000, 1.5000, 2.0000, 2.5000, 3.0000, 3.5000])
    """
    return attention_with_lse(q, k, v, causal, block_q, block_k)[0]


def attention_with_lse(
    q: Float[Tensor, "batch n_heads q_len head_dim"],
    k: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    v: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    causal: bool = True,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
) -> tuple[Float[Tensor, "batch n_heads q_len head_dim"], Float[Tensor, "batch n_heads q_len"]]:
    """As `flash_attention`, and each row's logsumexp of its scores: with it `merge` puts partial results together.

    A query without any key has a result of zeros and a logsumexp of minus infinity.
    """
    _require(q, k, v, causal, block_q, block_k)
    return _Flash.apply(q, k, v, causal, block_q, block_k)


def merge(
    out_a: Float[Tensor, "*rows head_dim"],
    lse_a: Float[Tensor, "*rows"],
    out_b: Float[Tensor, "*rows head_dim"],
    lse_b: Float[Tensor, "*rows"],
) -> tuple[Float[Tensor, "*rows head_dim"], Float[Tensor, "*rows"]]:
    """The attention over two sets of keys from the attention over each: means weighted by their sums, ``exp(lse)``.

    It does not matter how the keys were shared out, nor in which order partial results are merged.

    >>> one, two = torch.tensor([[1.0]]), torch.tensor([[4.0]])
    >>> merge(one, torch.tensor([2.0]).log(), two, torch.tensor([1.0]).log())  # weights 2 and 1
    (tensor([[2.]]), tensor([1.0986]))
    """
    share = torch.sigmoid(lse_b - lse_a).masked_fill(lse_b == -torch.inf, 0.0)  # of nothing, nothing
    return torch.lerp(out_a, out_b, share[..., None].to(out_a.dtype)), torch.logaddexp(lse_a, lse_b)


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, causal, block_q, block_k):
        kernel = _kernel() if q.is_cuda else None
        if kernel is not None and kernel.usable(q):
            out, lse = kernel.forward(q, k, v, causal)
        else:
            out, lse = _forward(q, k, v, causal, block_q, block_k)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.tiling = causal, block_q, block_k
        return out, lse

    @staticmethod
    def backward(ctx, d_out, d_lse):
        return *_backward(*ctx.saved_tensors, d_out, d_lse, *ctx.tiling), None, None, None


def _forward(q, k, v, causal, block_q, block_k):
    wide, n_kv_heads = _wide(q), k.shape[1]
    first = k.shape[2] - q.shape[2] if causal else None
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=wide)
    for queries, blocks in _tiles(q.shape[2], k.shape[2], causal, block_q, block_k):
        rows = _fold(q[:, :, queries], n_kv_heads).to(wide) * q.shape[-1] ** -0.5
        top = rows.new_full(rows.shape[:-1], -torch.inf)  # the largest score so far
        total, mean = torch.zeros_like(top), torch.zeros_like(rows)  # sums of exp(score - top), and with the values
        for columns in blocks:
            scores = rows @ k[:, :, columns].to(wide).mT
            _hide(scores, queries, columns, first)
            new_top = torch.maximum(top, scores.amax(-1))
            weights = scores.sub_(new_top[..., None]).exp_()
            shrink = (top - new_top).exp()  # what was summed up below the old top counts less below the new one
            total = total.mul_(shrink).add_(weights.sum(-1))
            mean = mean.mul_(shrink[..., None]).add_(weights @ v[:, :, columns].to(wide))
            top = new_top
        # The largest score adds exp(0) = 1 to its total, so only a row without keys is below.
        out[:, :, queries] = _unfold(mean / total.clamp_min(1.0)[..., None], q.shape[1]).to(q.dtype)
        lse[:, :, queries] = _unfold(top + total.log(), q.shape[1])
    return out, lse


def _backward(q, k, v, out, lse, d_out, d_lse, causal, block_q, block_k):
    wide, n_kv_heads, scale = _wide(q), k.shape[1], q.shape[-1] ** -0.5
    first = k.shape[2] - q.shape[2] if causal else None
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros_like(each, dtype=wide) for each in (k, v))
    # A row of the softmax's derivative is p * (dp - sum(p * dp)), and that sum over all keys is sum(d_out * out).
    delta = (d_out.to(wide) * out.to(wide)).sum(-1) - d_lse
    for queries, blocks in _tiles(q.shape[2], k.shape[2], causal, block_q, block_k):
        rows, d_rows = (_fold(each[:, :, queries], n_kv_heads).to(wide) for each in (q, d_out))
        rows = rows * scale
        row_lse, row_delta = (_fold(each[:, :, queries, None], n_kv_heads) for each in (lse, delta))
        d_query = torch.zeros_like(rows)
        for columns in blocks:
            keys, values = k[:, :, columns].to(wide), v[:, :, columns].to(wide)
            scores = rows @ keys.mT  # once more, instead of having kept them
            _hide(scores, queries, columns, first)
            weights = scores.sub_(row_lse).exp_()
            dv[:, :, columns] += weights.mT @ d_rows
            d_scores = (d_rows @ values.mT).sub_(row_delta).mul_(weights)
            dk[:, :, columns] += d_scores.mT @ rows
            d_query += d_scores @ keys
        dq[:, :, queries] = _unfold(d_query * scale, q.shape[1]).to(q.dtype)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _tiles(q_len, kv_len, causal, block_q, block_k):
    """Blocks of queries, each with the blocks of keys that at least one of them may see: the others are skipped."""
    for start in range(0, q_len, block_q):
        stop = min(start + block_q, q_len)
        seen = kv_len - q_len + stop if causal else kv_len  # by the last query of the block
        yield slice(start, stop), [slice(j, min(j + block_k, seen)) for j in range(0, seen, block_k)]


def _hide(scores, queries, columns, first):
    """Minus infinity where the key comes after the query. `first`: the first query's position; None without a mask."""
    if first is None or columns.stop <= first + queries.start + 1:  # already the block's first query sees them all
        return
    positions = torch.arange(first + queries.start, first + queries.stop, device=scores.device)
    later = torch.arange(columns.start, columns.stop, device=scores.device) > positions[:, None]
    scores.unflatten(2, (-1, len(positions))).masked_fill_(later, -torch.inf)  # a view: the heads of a group alike


def _fold(x, n_kv_heads):
    """Query heads of a group one below the other, as they share keys: ``[batch, n_kv_heads, group * rows, ...]``."""
    return x.unflatten(1, (n_kv_heads, -1)).flatten(2, 3)


def _unfold(x, n_heads):
    """Back to ``[batch, n_heads, rows, ...]``."""
    return x.unflatten(2, (n_heads // x.shape[1], -1)).flatten(1, 2)


def _wide(q):
    return torch.promote_types(q.dtype, torch.float32)


@cache
def _kernel():
    """The Triton kernel's room, or None where Triton is not: on anything but Linux."""
    try:
        from . import flash_triton
    except ImportError:
        return None
    return flash_triton


def _require(q, k, v, causal, block_q, block_k):
    if (
        k.shape != v.shape
        or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3])
        or len({q.dtype, k.dtype, v.dtype}) > 1
    ):
        shapes = ", ".join(
            f"{name} {list(each.shape)} {each.dtype}" for name, each in zip("qkv", (q, k, v), strict=True)
        )
        raise ValueError(f"{shapes} do not go together: same batch, head_dim and type, and k shaped as v")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads cannot share {k.shape[1]} key/value heads evenly")
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(f"causal, the queries are the last of the {k.shape[2]} tokens: there cannot be {q.shape[2]}")
    if min(block_q, block_k) < 1:
        raise ValueError(f"a tile needs at least one query and one key, not {block_q} x {block_k}")
