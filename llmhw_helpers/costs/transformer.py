"""What a forward pass of a Llama-style model computes, part by part."""

from ..specs.architectures import Model
from .activations import NoFormula


def forward_flops(model: Model, batch_size: int, seq_len: int, n_logits: int | None = None) -> dict[str, int]:
    """Operations of all layers' products by part, for `batch_size` sequences of `seq_len` tokens.

    Parts: ``qkv``, ``attention`` (scores and the mean of the values, all pairs: a causal kernel may skip up to half),
    ``output``, ``mlp``, ``head``. The embedding is a look-up and computes nothing; norms, rotations and activation
    functions grow with a token's width alone and are left out.

    Args:
        model: Llama-style, without experts or latent attention.
        batch_size, seq_len: sequences, and tokens in each.
        n_logits: positions of each sequence that the head computes; all without it.

    Raises:
        NoFormula: another family of models.
        ValueError: no tokens.

    >>> from llmhw_helpers.specs.models import model
    >>> forward_flops(model("SmolLM2-135M"), 1, 1)["mlp"] == 2 * model("SmolLM2-135M").parameters()["mlp"]
    True
    """
    if model.experts or model.latent:
        raise NoFormula(f"{model.name} has experts or latent attention, and this counts neither")
    if min(batch_size, seq_len) < 1 or (n_logits is not None and not 0 <= n_logits <= seq_len):
        raise ValueError(f"a forward pass needs at least one token: {batch_size} x {seq_len}, {n_logits} logits")
    tokens, n_layers, d_model = batch_size * seq_len, model.n_layers, model.d_model
    n_q, n_kv = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    return {
        "qkv": 2 * tokens * n_layers * d_model * (n_q + 2 * n_kv),
        "attention": 4 * tokens * seq_len * n_layers * n_q,
        "output": 2 * tokens * n_layers * n_q * d_model,
        "mlp": 2 * tokens * n_layers * 3 * d_model * model.d_ff,
        "head": 2 * batch_size * (seq_len if n_logits is None else n_logits) * d_model * model.vocab_size,
    }


def even_length(model: Model) -> int:
    """The length from which on attention between tokens computes more than all matrices of a block do.

    A token's scores and mean cost ``4 n_heads head_dim`` operations for each token that it is compared with, and its
    matrices two for each of their parameters.

    >>> from llmhw_helpers.specs.models import model
    >>> even_length(model("SmolLM2-135M")), even_length(model("Llama-3.1-8B"))
    (3072, 26624)
    """
    parts = forward_flops(model, 1, 1)
    return round((parts["qkv"] + parts["output"] + parts["mlp"]) / parts["attention"])
