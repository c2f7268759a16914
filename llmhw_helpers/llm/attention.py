"""Attention, written to be read: every step a tensor of a named shape. The model itself runs PyTorch's fused version.

"Attention Is All You Need" (arXiv:1706.03762), section 3.2; grouped queries after arXiv:2305.13245.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .transformer import Transformer


def causal_mask(seq_len: int, device: torch.device | str | None = None) -> Bool[Tensor, "seq_len seq_len"]:
    """True where the query (row) may see the key (column): itself and all before it.

    >>> causal_mask(3).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return torch.ones(seq_len, seq_len, dtype=torch.bool, device=device).tril()


def repeat_heads(
    x: Float[Tensor, "batch n_kv_heads kv_len head_dim"], n_heads: int
) -> Float[Tensor, "batch {n_heads} kv_len head_dim"]:
    """Each key or value head as often as there are query heads in its group: grouped-query attention (GQA).

    Raises:
        ValueError: the query heads cannot be shared out evenly.
    """
    if n_heads % x.shape[1]:
        raise ValueError(f"{n_heads} query heads cannot share {x.shape[1]} key/value heads evenly")
    return x.repeat_interleave(n_heads // x.shape[1], dim=1)


def attention_weights(
    q: Float[Tensor, "batch n_heads q_len head_dim"],
    k: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    mask: Bool[Tensor, "#batch #n_heads q_len kv_len"] | Bool[Tensor, "q_len kv_len"] | None = None,
) -> Float[Tensor, "batch n_heads q_len kv_len"]:
    """How much each query looks at each key: ``softmax(q k^T / sqrt(head_dim))``, rows that sum to 1.

    In fp32, or in fp64 where `q` is. Where `mask` is False the weight is exactly 0; a query that may see no key at
    all has no weights but zeros.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ repeat_heads(k, q.shape[1]).to(wide).mT / q.shape[-1] ** 0.5
    if mask is None:
        return scores.softmax(-1)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)  # softmax of nothing is NaN


def attention(
    q: Float[Tensor, "batch n_heads q_len head_dim"],
    k: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    v: Float[Tensor, "batch n_kv_heads kv_len head_dim"],
    mask: Bool[Tensor, "#batch #n_heads q_len kv_len"] | Bool[Tensor, "q_len kv_len"] | None = None,
) -> Float[Tensor, "batch n_heads q_len head_dim"]:
    """Each query's mean of the values, weighted by where it looks; sums in fp32 or fp64, result in the type of `q`.

    Raises:
        ValueError: the query heads cannot be shared out evenly among the key/value heads.
    """
    weights = attention_weights(q, k, mask)
    return (weights @ repeat_heads(v, q.shape[1]).to(weights.dtype)).to(q.dtype)


@torch.inference_mode()
def attention_maps(
    model: Transformer, tokens: Int[Tensor, "1 seq_len"]
) -> Float[Tensor, "n_layers n_heads seq_len seq_len"]:
    """Where every head of every layer looks in a real text: the weights that the model's fused attention never stores.

    Raises:
        TokenError: as `Transformer.hidden` does.
    """
    x = model.embed(tokens)
    rotation, mask, maps = model.rotation(x), causal_mask(tokens.shape[1], x.device), []
    for block in model.blk:
        q, k, _ = block.qkv(block.attn_norm(x), rotation)
        maps.append(attention_weights(q, k, mask)[0])
        x = block(x, rotation)
    return torch.stack(maps)
