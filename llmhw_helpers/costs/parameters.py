"""The tensors that the parameters of a model lie in: an optimizer goes through them one by one, or all at once."""

from collections.abc import Iterator

from ..specs.architectures import Model
from .activations import KNOWN
from .transformer import require


def parameter_sizes(model: Model) -> Iterator[int]:
    """Numbers in each parameter tensor, in the order of transformers' models; a layer's experts lie in three tensors.

    Raises:
        NoFormula: another kind of model.
    """
    require(model, "list of parameters", KNOWN)
    d, e = model.d_model, model.experts
    heads, mlp = _heads(model), _mlp(model, model.d_ff)
    yield model.vocab_size * d
    for layer in range(model.n_layers):
        yield from heads
        if layer < model.n_layers - model.n_moe_layers:
            yield from mlp
        else:
            yield d * e.n_experts  # the router
            yield from 3 * [e.n_experts * d * e.d_ff_expert]
            yield from 3 * [d * e.n_shared_experts * e.d_ff_expert] if e.n_shared_experts else []
        yield from (d, d)  # norms
    yield d
    if not model.tied_embeddings:
        yield model.vocab_size * d


def _heads(model: Model) -> list[int]:
    d, latent = model.d_model, model.latent
    if latent:
        q, rank = model.n_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim), latent.q_lora_rank
        up = latent.kv_lora_rank * model.n_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        into = [d * (latent.kv_lora_rank + latent.qk_rope_head_dim), latent.kv_lora_rank, up]
        queries = [d * q] if rank is None else [d * rank, rank, rank * q]
        return [*queries, *into, model.n_heads * latent.v_head_dim * d]
    sizes = []
    for width in (model.q_width, model.kv_width, model.kv_width):
        sizes += [d * width, width] if model.qkv_bias else [d * width]
    sizes += [model.q_width * d, d] if model.o_bias else [model.q_width * d]
    return sizes + (2 * [model.head_dim] if model.qk_norm else [])


def _mlp(model: Model, d_ff: int) -> list[int]:
    sizes = ([model.d_model * d_ff, width] for width in (d_ff, d_ff, model.d_model))
    return [size for pair in sizes for size in (pair if model.mlp_bias else pair[:1])]


def n_tensors(model: Model) -> int:
    """Parameter tensors, as in `parameter_sizes`: 9 a block in a Llama, the embedding, the last norm and the head."""
    return sum(1 for _ in parameter_sizes(model))
