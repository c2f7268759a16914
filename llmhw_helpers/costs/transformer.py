"""What a forward pass of a language model computes, part by part: products of matrices, and pairs of tokens."""

from collections.abc import Collection

from ..specs.architectures import Model, NoFormula

# parts by the names of `Model.unlike_llama`, for those who know them
EXPERTS, LATENT, LOCAL = "a mixture of experts", "latent attention", "local layers"
UNGATED = "MLPs without a gate"
QK_NORM, OUTER_NORMS, BIASES = "norms of queries and keys", "norms after each part", "biases"


def require(model: Model, formula: str, but: Collection[str] = ()) -> None:
    """Refuse what `formula` would be wrong for: whatever sets `model` apart from a Llama, except for `but`.

    Raises:
        NoFormula: naming those parts.

    >>> from llmhw_helpers.specs.models import model
    >>> require(model("Mixtral-8x7B"), "sum", but=[LOCAL])
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.architectures.NoFormula: no sum for Mixtral-8x7B, which has a mixture of experts
    """
    if others := model.unlike_llama(but):
        raise NoFormula(f"no {formula} for {model.name}, which has {' and '.join(others)}")


def elementwise(model: Model) -> set[str]:
    """Parts whose operations grow with a token's width alone: counts of products leave them out."""
    names = ("norms", "one norm", "layer norms", "biases", "the activation", "heads that are turned in part")
    names += ("layers that are not turned", "a rotary base for local layers", "attention sinks", "parallel blocks")
    names += ("scaled embeddings", "scores scaled otherwise", "capped scores", "capped logits", "clamped SwiGLU")
    return {part for part in model.unlike_llama() if part.startswith(names) or part.endswith(" positions")}


def multiplied(model: Model) -> dict[str, int]:
    """Weights that one token is multiplied with, in all layers, by part; two operations for each.

    Parts: ``qkv``, ``output``, ``mlp`` (dense layers) and, with a mixture of experts, ``router`` and ``experts``: the
    chosen ones, and those that every token visits. Latent attention makes its heads' keys and values from the latent,
    in ``qkv``; where they are absorbed, the same two matrices work on the query and on the result: as much.

    Raises:
        NoFormula: a part of the model that this does not know.

    >>> from llmhw_helpers.specs.models import model
    >>> multiplied(model("Mixtral-8x7B"))["experts"] == 2 * model("Mixtral-8x7B").parameters()["experts"] // 8
    True
    """
    require(model, "count of operations", elementwise(model) | {EXPERTS, LATENT, LOCAL, UNGATED})
    d, latent, e = model.d_model, model.latent, model.experts
    into, out = d * (model.q_width + 2 * model.kv_width), model.q_width * d
    if latent:
        rank, q = latent.q_lora_rank, model.n_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
        into = d * q if rank is None else rank * (d + q)
        into += d * (latent.kv_lora_rank + latent.qk_rope_head_dim)
        into += latent.kv_lora_rank * model.n_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        out = model.n_heads * latent.v_head_dim * d
    mlp = (model.n_layers - model.n_moe_layers) * (3 if model.gated_mlp else 2) * d * model.d_ff
    parts = {"qkv": model.n_layers * into, "output": model.n_layers * out, "mlp": mlp}
    if e:
        visited = e.n_experts_per_token + e.n_shared_experts
        parts["router"] = model.n_moe_layers * d * e.n_experts
        parts["experts"] = model.n_moe_layers * visited * 3 * d * e.d_ff_expert
    return parts


def visible_pairs(model: Model, n_before: int, n_new: int) -> int:
    """Pairs of a query and a key that it sees, over all layers, for `n_new` tokens that come after `n_before` others.

    A token sees itself and those before it: the t-th one t keys, in a local layer the nearest ``sliding_window`` of
    them, itself included.

    >>> from llmhw_helpers.specs.models import model
    >>> visible_pairs(model("Llama-3.1-8B"), 0, 4) == 32 * (1 + 2 + 3 + 4)
    True
    """
    window, n_all = model.sliding_window or 0, n_before + n_new
    everywhere = _triangle(n_all, n_all) - _triangle(n_before, n_all)
    local = _triangle(n_all, window) - _triangle(n_before, window)
    return (model.n_layers - model.n_local_layers) * everywhere + model.n_local_layers * local


def _triangle(n: int, window: int) -> int:
    """``1 + 2 + ... `` for `n` tokens, none of them more than `window`."""
    rising = min(n, window)
    return rising * (rising + 1) // 2 + (n - rising) * rising


def score_flops(model: Model, absorbed: bool = False) -> int:
    """Operations of the scores of a query and a key in one layer, all heads: ``2 n_heads head_dim``.

    With latent attention every head has its key, made from the latent, as in a prefill. Where it is `absorbed`
    (DeepSeek-V2, arXiv:2405.04434, section 2.1.2) a head compares with the latent itself, as a decode step does,
    whose cache holds nothing else: ``2 n_heads (kv_lora_rank + qk_rope_head_dim)``.
    """
    latent = model.latent
    if latent is None:
        return 2 * model.q_width
    size = latent.kv_lora_rank if absorbed else latent.qk_nope_head_dim
    return 2 * model.n_heads * (size + latent.qk_rope_head_dim)


def pair_flops(model: Model, absorbed: bool = False) -> int:
    """Operations of a query and a key in one layer: the scores, and their share of the mean of the values.

    ``4 n_heads head_dim``; with latent attention a value has ``v_head_dim`` numbers or, `absorbed`, the latent's.

    >>> from llmhw_helpers.specs.models import model
    >>> [pair_flops(model("DeepSeek-V3"), absorbed) for absorbed in (False, True)]
    [81920, 278528]
    """
    latent = model.latent
    if latent is None:
        return 4 * model.q_width
    size = latent.kv_lora_rank if absorbed else latent.v_head_dim
    return score_flops(model, absorbed) + 2 * model.n_heads * size


def forward_flops(model: Model, batch_size: int, seq_len: int, n_logits: int | None = None) -> dict[str, int]:
    """Operations of all layers' products by part, for `batch_size` sequences of `seq_len` tokens.

    Parts: those of `multiplied`, ``attention`` and ``head``. Attention (scores and the mean of the values) counts *all
    pairs*: every token is compared with as many as the last one sees, all tokens, or those in the window of a local
    layer. A mask hides up to half of them, which a kernel may skip: `visible_pairs` counts the rest. The embedding is
    a look-up and computes nothing; biases, norms, rotations and activation functions grow with a token's width alone
    and are left out. Every head of latent attention has keys and values of its own here.

    Args:
        model: any that `multiplied` knows.
        batch_size, seq_len: sequences, and tokens in each.
        n_logits: positions of each sequence that the head computes; all without it.

    Raises:
        NoFormula: another family of models.
        ValueError: no tokens.

    >>> from llmhw_helpers.specs.models import model
    >>> forward_flops(model("SmolLM2-135M"), 1, 1)["mlp"] == 2 * model("SmolLM2-135M").parameters()["mlp"]
    True
    """
    weights = multiplied(model)
    if min(batch_size, seq_len) < 1 or (n_logits is not None and not 0 <= n_logits <= seq_len):
        raise ValueError(f"a forward pass needs at least one token: {batch_size} x {seq_len}, {n_logits} logits")
    tokens, n_logits = batch_size * seq_len, seq_len if n_logits is None else n_logits
    parts = {part: 2 * tokens * n for part, n in weights.items()}
    attention = tokens * visible_pairs(model, seq_len - 1, 1) * pair_flops(model)
    head = 2 * batch_size * n_logits * model.d_model * model.vocab_size
    return {"qkv": parts.pop("qkv"), "attention": attention} | parts | {"head": head}


def even_length(model: Model) -> float:
    """The length from which on attention between tokens computes more than all matrices of a block do.

    A token's scores and mean cost ``4 n_heads head_dim`` operations for each token that it is compared with, and its
    matrices two for each of their parameters. Infinite where windows are too short for that.

    >>> from llmhw_helpers.specs.models import model
    >>> even_length(model("SmolLM2-135M")), even_length(model("Llama-3.1-8B"))
    (3072, 26624)
    """
    pairs = 2 * sum(multiplied(model).values()) / pair_flops(model)  # of a token, in all layers
    length = pairs / model.n_layers
    window, n_full = model.sliding_window or 0, model.n_layers - model.n_local_layers
    if model.n_local_layers and length > window:
        length = (pairs - model.n_local_layers * window) / n_full if n_full else float("inf")
    return round(length) if length < float("inf") else length
