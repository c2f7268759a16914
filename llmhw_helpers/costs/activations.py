"""What a forward pass keeps for the backward pass, operation by operation.

An operation keeps the tensors that its derivative asks for, and no others: a product keeps its input (the gradient of
the weights needs it), an addition keeps nothing, a softmax keeps its result. A tensor that two operations ask for is
held once, and counted where the backward pass lets it go.

Known are Llamas and what changes little in them: biases, which keep nothing; norms of queries and keys; windows, since
a fused attention keeps the same operands and a naive one its whole table. And the two that change more, a mixture of
experts and latent attention (both in `sparse`).
"""

from ..specs.architectures import Model
from ..specs.dtypes import dtype as find_dtype
from .operations import FP32_BYTES, Operation, Pass, attention, gathered, meet, mlp, norm
from .sparse import experts, latent_attention
from .transformer import BIASES, EXPERTS, LATENT, LOCAL, QK_NORM, require

KNOWN = (BIASES, EXPERTS, LATENT, LOCAL, QK_NORM)


def block_operations(model: Model, run: Pass, layer: int = 0) -> list[Operation]:
    """The operations of one block in the order of the forward pass; read it backwards for the backward pass.

    Args:
        model: of a kind that is known.
        run: batch and choices of the pass.
        layer: which block; they differ where only the later ones have a mixture of experts.

    Raises:
        NoFormula: the model has a part that is not known.
    """
    require(model, "formula of activations", KNOWN)
    d, stream = model.d_model, run.stream
    h = d * run.number_bytes * stream.n_tokens
    sparse = layer >= model.n_layers - model.n_moe_layers
    heads = latent_attention(model, run) if model.latent else _heads(model, run)
    inner = experts(model, run) if sparse else mlp(run, run.n_tokens, d, model.d_ff, model.mlp_bias)
    return [
        meet(h),
        *norm("attention_norm", stream, d),
        *gathered("qkv", run, d, heads),
        meet(h),
        *norm("mlp_norm", stream, d),
        *gathered("gate_up", run, d, inner),
    ]


def _heads(model: Model, run: Pass) -> list[Operation]:
    """Between a block's first norm and its residual."""
    n_q, n_kv, d_model = model.q_width, model.kv_width, model.d_model
    h, q, kv = (n * run.number_bytes * run.n_tokens for n in (d_model, n_q, n_kv))
    bias_q, bias_kv = (n_q, n_kv) if model.qkv_bias else (0, 0)
    bias_out = d_model if model.o_bias else 0
    norms = [
        norm("qk_norm", run, model.head_dim, n) if model.qk_norm else [] for n in (model.n_heads, model.n_kv_heads)
    ]
    repeated = q != kv and (run.attention == "naive" or not run.native_gqa)
    operand = q if repeated else kv  # keys, or values, as the attention sees them
    return [
        meet(h),
        Operation("qkv", kept=h, makes=h, drops=q, n_weights=d_model * n_q + bias_q),  # one input, kept once
        *norms[0],
        meet(h),
        Operation("qkv", makes=h, drops=kv, n_weights=d_model * n_kv + bias_kv),
        *norms[1],
        Operation("qkv", makes=h, drops=kv, n_weights=d_model * n_kv + bias_kv),  # the values, of the same size
        Operation("rotary", makes=5 * q // 2, drops=5 * q // 2),  # its tables are constants, shared by all blocks
        *attention(run, model.n_heads, q, operand, operand, q, shared=kv if repeated else None),
        Operation("out", makes=q, n_weights=n_q * d_model + bias_out),  # its input is attention's result, counted there
    ]


def first_operations(model: Model, run: Pass) -> list[Operation]:
    """Before the blocks: the embedding. It keeps the tokens' numbers only, and those belong to the batch."""
    require(model, "formula of activations", KNOWN)
    h, matrix = model.d_model * run.number_bytes * run.stream.n_tokens, model.vocab_size * model.d_model
    whole = model.d_model * run.number_bytes * run.n_tokens if run.stream_ranks > 1 else 0  # gathered for its backward
    rows = matrix * run.number_bytes
    # each rank makes a gradient of all words, then copies its own (torch.distributed.tensor; Megatron makes those only)
    others = (run.vocab_ranks - 1) * rows
    own = [Operation("embedding", makes=rows, drops=rows + others)] if others else []
    if not model.tied_embeddings:
        return [*own, Operation("embedding", makes=whole + others, drops=h + whole, n_weights=matrix)]
    # the head's gradient waits for this one; their sum is a third
    return [
        *own,
        Operation("embedding", drops=2 * rows, n_weights=matrix),
        Operation("embedding", makes=rows + whole + others, drops=h + whole),
    ]


def last_operations(model: Model, run: Pass) -> list[Operation]:
    """After the blocks: the last norm, the output head and the loss, which keeps a probability for every word."""
    require(model, "formula of activations", KNOWN)
    c, wide, tokens = run.number_bytes, int(find_dtype(run.logits_dtype).bytes), run.n_tokens
    h, matrix = model.d_model * c * tokens, model.vocab_size * model.d_model
    v = model.vocab_size * tokens * (1 if run.loss_parallel else run.vocab_ranks)
    logits, tied = v * wide, model.tied_embeddings
    cast = [Operation("loss", makes=v * c, drops=logits)] if wide != c else []
    made = h + matrix * c if tied else h  # the gradient of a tied matrix waits for the embedding's
    # a divided loss is composed: the gradient and the probabilities are two tensors (torch.distributed.tensor)
    made_of = 2 * logits if run.loss_parallel and run.vocab_ranks > 1 else logits
    share = model.d_model * c * run.stream.n_tokens
    gather = [Operation("head", makes=share, drops=h)] if run.stream_ranks > 1 else []
    return [
        *norm("final_norm", run.stream, model.d_model),
        *gather,
        Operation("head", kept=h, makes=made, drops=v * c, n_weights=0 if tied else matrix),
        *cast,
        Operation("loss", kept=logits, makes=made_of, drops=made_of),  # log-softmax keeps its result
        Operation("loss", kept=wide, makes=logits),  # the mean keeps the weight that it divided by
    ]


def kept(operations: list[Operation]) -> dict[str, int]:
    """Bytes held for the backward pass, by the operations' names.

    >>> from llmhw_helpers.specs.models import model
    >>> kept(block_operations(model("SmolLM2-135M"), Pass(1, 1)))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'attention_norm': 1156, 'qkv': 1152, 'attention': 3108, 'mlp_norm': 1156, 'gate_up': 1152, 'silu': 3072,
     'gate_times_up': 6144, 'down': 3072}
    """
    total: dict[str, int] = {}
    for operation in operations:
        if operation.kept:
            total[operation.name] = total.get(operation.name, 0) + operation.kept
    return total


def block_activations(model: Model, run: Pass, layer: int = 0) -> dict[str, int]:
    """Bytes that one block keeps, by operation, when it keeps them: without recomputation, or while it is recomputed.

    Fused attention and norm, native GQA, c bytes a number: ``tokens * (c (4h + 2ad + 2kd + 4f) + 4a + 8)`` with h, f
    the widths of the residual stream and of the MLP, a and k the query and key/value heads, d their size.
    """
    return kept(block_operations(model, run, layer))


def activations(model: Model, run: Pass) -> dict[str, int]:
    """Bytes kept when the forward pass is done, of all blocks together under ``"blocks"``; they sum to the total."""
    first, last = first_operations(model, run), last_operations(model, run)
    return kept(first) | {"blocks": blocks_kept(model, run)} | kept(last)


def block_kept(model: Model, run: Pass, layer: int = 0) -> int:
    """Bytes that a block keeps from its forward to its backward: everything, or only its input."""
    if run.recompute == "full":
        return model.d_model * run.number_bytes * run.stream.n_tokens
    return sum(block_activations(model, run, layer).values())


def blocks_kept(model: Model, run: Pass) -> int:
    """Bytes that all blocks keep together: dense ones, and those with experts."""
    n_sparse = model.n_moe_layers
    dense = (model.n_layers - n_sparse) * block_kept(model, run) if n_sparse < model.n_layers else 0
    return dense + (n_sparse * block_kept(model, run, model.n_layers - 1) if n_sparse else 0)


def keeps_its_input(run: Pass) -> bool:
    """Whether a block's first norm keeps the block's input itself, and not a widened copy of it."""
    return run.norm == "fused" or run.number_bytes >= FP32_BYTES
