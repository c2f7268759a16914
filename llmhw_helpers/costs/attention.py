"""What one attention layer does to one sequence: the scores stored, or computed tile by tile and forgotten.

FlashAttention (arXiv:2205.14135) does not compute less; it moves less. Counted are the products, and every number that
goes to memory or comes from it. Several sequences, or layers, are so many times the work.

A layer with a window lets each query see no more than so many keys, the nearest ones, its own included. `window` says
how many; left out it is the model's, and a model whose layers differ has to be told which one is meant.
"""

from ..specs.architectures import Model, NoFormula
from ..specs.dtypes import dtype as find_dtype
from .flops import Work
from .operations import FP32_BYTES
from .transformer import EXPERTS, LOCAL, elementwise, pair_flops, require


def scores_bytes(model: Model, q_len: int, kv_len: int, dtype: str = "bf16") -> int:
    """Bytes of one layer's table of scores: one for each query head, query and key.

    Raises:
        ValueError: negative lengths.

    >>> from llmhw_helpers.specs.models import model
    >>> scores_bytes(model("Llama-3.1-8B"), 131072, 131072) / 1e12
    1.099511627776
    """
    if min(q_len, kv_len) < 0:
        raise ValueError(f"there is no table of {q_len} x {kv_len} scores")
    return int(model.n_heads * q_len * kv_len * find_dtype(dtype).bytes)


def naive(model: Model, seq_len: int, dtype: str = "bf16") -> Work:
    """Attention as three steps that hand tables on: all pairs are computed, and those that nobody sees masked.

    A window changes nothing here: the table is as large. Read q and k, write the scores; read the scores, write the
    weights; read the weights and v, write the result. So four times a table of ``n_heads * seq_len ** 2``.

    Raises:
        NoFormula: latent attention.
        ValueError: no tokens.

    >>> from llmhw_helpers.specs.models import model
    >>> round(naive(model("Llama-3.1-8B"), 4096).intensity)
    63
    """
    operands, results = _rows(model, seq_len)
    tables = 4 * scores_bytes(model, seq_len, seq_len, dtype)
    return Work(pair_flops(model) * seq_len**2, tables + (operands + 2 * results) * find_dtype(dtype).bytes)


def tiled(
    model: Model, seq_len: int, block_q: int, dtype: str = "bf16", causal: bool = True, window: int | None = None
) -> Work:
    """Attention in tiles: each block of `block_q` queries is read once and meets the keys and values that it may see.

    These are read anew for every block, once for all heads that share them; the result and the logsumexp (fp32) are
    written once. Keys behind the last query of a block are skipped, and those out of its first one's window. How many
    keys are taken at a time changes nothing.

    Raises:
        NoFormula: latent attention, or layers with and without a window.
        ValueError: no tokens, or a block without queries.

    >>> from llmhw_helpers.specs.models import model
    >>> round(tiled(model("Llama-3.1-8B"), 4096, block_q=128).intensity)
    411
    """
    _, results = _rows(model, seq_len)
    reach = _reach(model, seq_len, window)
    if not causal and reach < seq_len:
        raise NoFormula(f"no count of a window of {reach} tokens without a causal mask")
    blocks = [(start, min(start + block_q, seq_len)) for start in range(0, seq_len, _positive(block_q))]
    seen = [stop - max(0, start + 1 - reach) if causal else seq_len for start, stop in blocks]
    pairs = sum((stop - start) * keys for (start, stop), keys in zip(blocks, seen, strict=True))
    fetched = 2 * model.kv_width * sum(seen)
    moved = (fetched + 2 * results) * find_dtype(dtype).bytes + FP32_BYTES * model.n_heads * seq_len
    return Work(pair_flops(model) * pairs, moved)


def tiles(seq_len: int, block_q: int, block_k: int) -> tuple[int, int]:
    """Tiles of one head's table of scores, and how many of them lie wholly in the future, and are skipped.

    >>> tiles(4, 1, 1), tiles(4096, 128, 128)
    ((16, 6), (1024, 496))
    """
    columns = -(-seq_len // _positive(block_k))
    stops = [min(start + block_q, seq_len) for start in range(0, seq_len, _positive(block_q))]
    visited = sum(-(-stop // block_k) for stop in stops)
    return len(stops) * columns, len(stops) * columns - visited


def largest_block(head_dim: int, fast_bytes: float, dtype: str = "bf16") -> int:
    """Rows of a block, if four blocks ``[rows, head_dim]`` (q, k, v and the result) share a fast memory: ``M / (4 d)``.

    The paper's choice (algorithm 1, line 1); 0 if not one row fits.

    >>> largest_block(64, 164 * 1024, "fp16")
    328
    """
    return int(fast_bytes // (4 * head_dim * find_dtype(dtype).bytes))


def paper_traffic(seq_len: int, head_dim: int, fast_bytes: float, dtype: str = "bf16") -> float:
    """Bytes that tiled attention moves for one head, up to a constant factor: ``T^2 d^2 / M`` numbers (theorem 2).

    `fast_bytes` is the fast memory, M numbers large; stored scores move in proportion to ``T d + T^2``.
    """
    size = find_dtype(dtype).bytes
    return (seq_len * head_dim) ** 2 / (fast_bytes / size) * size


def forward_backward_flops(model: Model, seq_len: int, recompute: bool, window: int | None = None) -> int:
    """Operations of all products, forward and backward: six products, or seven with the scores recomputed.

    Forward ``q k^T`` and ``p v``; backward the gradients of v, p, q and k; `recompute` adds ``q k^T`` once more. All
    pairs: each token is compared with as many as the last one sees.

    Raises:
        NoFormula: latent attention, or layers with and without a window.
        ValueError: no tokens.
    """
    _require(model, seq_len)
    n_products = 7 if recompute else 6
    return n_products * pair_flops(model) // 2 * seq_len * _reach(model, seq_len, window)


def workspace_bytes(model: Model, seq_len: int, dtype: str = "bf16", stored_scores: bool = False) -> int:
    """Most bytes alive beside q, k and v during a forward pass, but for scratch that does not grow with `seq_len`.

    With stored scores two tables, ``O(T^2)``: the softmax reads one and writes another. Without, the result and a
    logsumexp (fp32) for each row, ``O(T)``.
    """
    _, results = _rows(model, seq_len)
    if stored_scores:
        return 2 * scores_bytes(model, seq_len, seq_len, dtype)
    return int(results * find_dtype(dtype).bytes) + FP32_BYTES * model.n_heads * seq_len


def _rows(model: Model, seq_len: int) -> tuple[int, int]:
    """Numbers in keys and values together, and in the queries or the result."""
    _require(model, seq_len)
    return 2 * model.kv_width * seq_len, model.q_width * seq_len


def _require(model: Model, seq_len: int) -> None:
    require(model, "count of attention", elementwise(model) | {EXPERTS, LOCAL})
    if seq_len < 1:
        raise ValueError(f"attention needs at least one token, not {seq_len}")


def _reach(model: Model, seq_len: int, window: int | None) -> int:
    """Keys that the last query sees."""
    if window is None and 0 < model.n_local_layers < model.n_layers:
        raise NoFormula(f"{model.name} has layers with and without a window: say which by window=, {seq_len} for none")
    if window is None and model.n_local_layers:
        window = model.sliding_window
    return seq_len if window is None else min(_positive(window), seq_len)


def _positive(block: int) -> int:
    if block < 1:
        raise ValueError(f"a block has at least one row, not {block}")
    return block
