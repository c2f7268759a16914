"""How the rooms of models write one down: the sizes that all have, and where they are found."""

from .architectures import Model

Sizes = tuple[int, int, int, int, int]  # layers, width, query heads, key/value heads, inner width of the MLP


def source(repository: str, report: str) -> str:
    """The source of a model: its config.json, and the report that describes it."""
    return f"config.json of {repository} on the Hugging Face hub; {report}"


def sized(
    name: str, sizes: Sizes, vocab_size: int, context_length: int, rope_theta: float, source: str, **more
) -> Model:
    """A model whose head is untied and whose heads share its width, unless `more` says otherwise."""
    n_layers, d_model, n_heads, n_kv_heads, d_ff = sizes
    usual = {"tied_embeddings": False, "head_dim": d_model // n_heads}
    return Model(
        name=name,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ff=d_ff,
        vocab_size=vocab_size,
        context_length=context_length,
        rope_theta=rope_theta,
        source=source,
        **usual | more,
    )
