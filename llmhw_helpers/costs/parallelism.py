"""A rank's part of a model is another model: heads, widths and layers divided, norms kept.

Tensor parallelism (arXiv:1909.08053) cuts every matrix of a block by heads or by inner width; what a token is between
blocks, ``d_model`` numbers, stays whole on every rank, and so do the norms that read it. Pipeline parallelism gives
whole layers to each stage. So all that `specs` and `costs` say about models they say about a rank's part as well.
"""

from dataclasses import replace

from ..specs.architectures import Model, NoFormula


class Indivisible(ValueError):
    """Heads, widths or layers that do not divide among so many ranks."""


def part(model: Model, tp_size: int = 1, pp_size: int = 1, stage: int = 0, vocab_multiple: int = 1) -> Model:
    """What one rank of `tp_size`, in stage `stage` of `pp_size`, holds of `model`.

    Query heads divide evenly. So do heads of keys and values, or, where there are fewer of them than ranks, each is
    held by several. Latent attention divides its heads, while the latents, and with them the cache, stay whole.
    Experts are divided by their width; divided by their number they would be as many parameters. The first of several
    stages holds the embedding and the last one the head (or, where the two are tied, a copy), and those between have no
    vocabulary; each counts the last norm. Layers of two kinds go to the stages in equal shares, but dense ones beside a
    mixture of experts, which are the first.

    Args:
        model: any.
        tp_size, pp_size: ranks that divide every layer; stages that divide the layers.
        stage: counted from 0.
        vocab_multiple: to which a program rounds the vocabulary up before it divides it (vLLM: 64).

    Raises:
        Indivisible: heads or widths do not divide, or more stages than layers.
        NoFormula: layers of two kinds that do not divide evenly among the stages.

    >>> from llmhw_helpers.specs.models import model
    >>> half = part(model("Llama-3.1-8B"), tp_size=2)
    >>> half.n_heads, half.n_kv_heads, half.d_ff, half.d_model, half.kv_numbers(1)
    (16, 4, 7168, 4096, 32768)
    >>> part(model("SmolLM2-135M"), tp_size=2)
    Traceback (most recent call last):
        ...
    llmhw_helpers.costs.parallelism.Indivisible: 9 query heads of SmolLM2-135M do not divide among 2 ranks
    """
    if min(tp_size, pp_size, vocab_multiple) < 1 or not 0 <= stage < pp_size:
        raise ValueError(f"no part {stage} of {pp_size} stages, divided among {tp_size} ranks")
    first, n_layers = _span(model, pp_size, stage)
    vocab_size = -(-model.vocab_size // vocab_multiple) * vocab_multiple
    has_vocab = stage in (0, pp_size - 1)
    experts = model.experts
    if experts:
        width = _share(model, experts.d_ff_expert, tp_size, "numbers in an expert")
        dense = min(max(experts.n_dense_layers - first, 0), n_layers)
        experts = replace(experts, d_ff_expert=width, n_dense_layers=dense) if dense < n_layers else None
    has_dense = not experts or experts.n_dense_layers
    return replace(
        model,
        n_layers=n_layers,
        n_heads=_share(model, model.n_heads, tp_size, "query heads"),
        n_kv_heads=kv_heads(model, tp_size),
        d_ff=_share(model, model.d_ff, tp_size, "numbers in an MLP") if has_dense else model.d_ff,
        vocab_size=-(-vocab_size // tp_size) if has_vocab else 0,
        tied_embeddings=model.tied_embeddings or pp_size > 1,
        n_local_layers=_proportion(model, model.n_local_layers, n_layers, pp_size),
        n_nope_layers=_proportion(model, model.n_nope_layers, n_layers, pp_size),
        experts=experts,
    )


def kv_heads(model: Model, tp_size: int) -> int:
    """Heads of keys and values that a rank holds: its share, or one that others hold, too; latent attention has none.

    >>> from llmhw_helpers.specs.models import model
    >>> [kv_heads(model("Llama-3.1-8B"), n) for n in (1, 2, 8, 16)]
    [8, 4, 1, 1]
    """
    n = model.n_kv_heads
    if n < tp_size and tp_size % n == 0:
        return 1
    return _share(model, n, tp_size, "heads of keys and values")


def padded(model: Model, tp_size: int) -> Model:
    """`model` filled up with zeros until it divides among `tp_size` ranks: whole groups of heads, and widths.

    A head of zeros gives zeros, and learns nothing: where its values and its columns of the output matrix are zero, so
    are all its gradients. The result is the same; the filled model's counts say what it costs in weights, cache and
    operations.

    >>> from llmhw_helpers.specs.models import model
    >>> filled = padded(model("SmolLM2-135M"), 2)
    >>> filled.n_heads, filled.n_kv_heads, filled.d_ff, round(filled.n_params / model("SmolLM2-135M").n_params, 3)
    (12, 4, 1536, 1.066)
    """
    if model.n_heads % tp_size == 0 and tp_size % model.n_kv_heads == 0:  # a head of keys and values on several ranks
        n_kv_heads = model.n_kv_heads
    else:
        n_kv_heads = -(-model.n_kv_heads // tp_size) * tp_size
    n_heads = model.n_heads // model.n_kv_heads * n_kv_heads
    d_ff, experts = -(-model.d_ff // tp_size) * tp_size, model.experts
    if experts:
        experts = replace(experts, d_ff_expert=-(-experts.d_ff_expert // tp_size) * tp_size)
    return replace(model, n_heads=n_heads, n_kv_heads=n_kv_heads, d_ff=d_ff, experts=experts)


def divides(model: Model, tp_size: int, pp_size: int = 1) -> bool:
    """Whether `part` has an answer for these sizes.

    >>> from llmhw_helpers.specs.models import model
    >>> [n for n in range(1, 17) if divides(model("SmolLM2-135M"), n)]
    [1, 3]
    """
    try:
        part(model, tp_size, pp_size)
    except (Indivisible, NoFormula):
        return False
    return True


def layers_by_stage(n_layers: int, pp_size: int) -> list[int]:
    """Layers of each stage.

    What is left over goes to the last stages but one, as in vLLM (``get_pp_indices``, v0.8 and newer): first and last
    have embedding and head to hold.

    >>> layers_by_stage(80, 4), layers_by_stage(126, 4)
    ([20, 20, 20, 20], [31, 32, 32, 31])
    """
    if not 1 <= pp_size <= n_layers:
        raise Indivisible(f"{n_layers} layers do not make {pp_size} stages")
    each, left = divmod(n_layers, pp_size)
    return [each + (pp_size - 1 - left <= stage < pp_size - 1) for stage in range(pp_size)]


def _span(model: Model, pp_size: int, stage: int) -> tuple[int, int]:
    """The first layer of a stage, and how many it has."""
    layers = layers_by_stage(model.n_layers, pp_size)
    return sum(layers[:stage]), layers[stage]


def _share(model: Model, n: int, tp_size: int, what: str) -> int:
    if n % tp_size:
        raise Indivisible(f"{n} {what} of {model.name} do not divide among {tp_size} ranks")
    return n // tp_size


def _proportion(model: Model, n: int, n_layers: int, pp_size: int) -> int:
    """The share of `n` layers of some kind that a stage of `n_layers` has."""
    if n * n_layers % model.n_layers:
        raise NoFormula(f"{n} of {model.n_layers} layers of {model.name} differ: no share of them in {pp_size} stages")
    return n * n_layers // model.n_layers
