"""What a rank sends in one pass through a model that is cut: by heads and widths, or by the tokens of a long text.

Payload: the headers of packets come on top. Stages of a pipeline send in `pipelines`, experts in `experts`.
"""

from ..specs.architectures import Model
from ..specs.dtypes import dtype as find_dtype
from .collectives import sent_bytes

WIDE = 4  # bytes of a number in fp32: losses and gradients of keys are summed up in it


def tensor_parallel_bytes(
    model: Model, n_tokens: int, tp_size: int, training: bool = False, dtype: str = "fp32"
) -> dict[str, float]:
    """Bytes that each of `tp_size` ranks sends for `n_tokens` tokens that all of them read, by part of the model.

    ``layers``: two all-reduces of ``n_tokens d_model`` numbers each, after attention and after MLP (arXiv:1909.08053,
    section 3); in training as many again in the backward pass. ``embedding``: one more, as each rank has a part of the
    vocabulary. ``head``: the logits are gathered; in training not, but three numbers a token are summed up, and
    backward the gradient of the stream.

    Sequence parallelism (arXiv:2205.05198, section 4.2.2) sends as many: each all-reduce becomes a reduce-scatter,
    after which a rank keeps its own tokens only, and an all-gather.

    >>> from llmhw_helpers.specs.models import model
    >>> sent = tensor_parallel_bytes(model("SmolLM2-135M"), 1000, tp_size=3)
    >>> {part: round(n / 1e6, 1) for part, n in sent.items()}
    {'layers': 184.3, 'embedding': 3.1, 'head': 131.1}
    >>> trained = tensor_parallel_bytes(model("SmolLM2-135M"), 1000, tp_size=3, training=True)
    >>> trained["layers"] / sent["layers"], round(trained["head"] / 1e6, 1)
    (2.0, 3.1)
    """
    if n_tokens < 0:
        raise ValueError(f"{n_tokens} tokens")
    numbers = find_dtype(dtype).bytes
    stream = sent_bytes("all-reduce", n_tokens * model.d_model * numbers, tp_size)
    if training:
        head = stream + 3 * sent_bytes("all-reduce", n_tokens * WIDE, tp_size)
    else:
        rows = -(-model.vocab_size // tp_size) * tp_size
        head = sent_bytes("all-gather", n_tokens * rows * numbers, tp_size)
    return {"layers": (4 if training else 2) * model.n_layers * stream, "embedding": stream, "head": head}


def ring_attention_bytes(
    model: Model, seq_len: int, cp_size: int, training: bool = False, dtype: str = "fp32"
) -> float:
    """Bytes that each of `cp_size` ranks sends so that the queries of all meet the keys and values of all.

    In every layer each rank's keys and values pass over ``cp_size - 1`` ranks (arXiv:2310.01889). In the backward pass
    they do so again, and their gradients, in fp32, go all the way round, home to their owner.

    Args:
        model: whose heads of keys and values count, not those of the queries.
        seq_len: tokens of the whole text, or of all texts in a batch together.
        cp_size: ranks that share each text ("context parallelism").
        training: with the backward pass.
        dtype: of keys and values.

    >>> from llmhw_helpers.specs.models import model
    >>> llama, text = model("Llama-3.1-8B"), 131072
    >>> ring_attention_bytes(llama, text, 8, dtype="bf16") / 1e9  # its whole cache is 17.2 GB
    15.032385536
    """
    if seq_len < 0 or cp_size < 1:
        raise ValueError(f"{seq_len} tokens on {cp_size} ranks")
    if cp_size == 1:
        return 0.0
    own = model.n_layers * 2 * seq_len / cp_size * model.kv_width
    once = (cp_size - 1) * own * find_dtype(dtype).bytes
    return 2 * once + cp_size * own * WIDE if training else once
