"""What a forward pass keeps for the backward pass, operation by operation, in a Llama-style model.

An operation keeps the tensors that its derivative asks for, and no others: a product keeps its input (the gradient of
the weights needs it), an addition keeps nothing, a softmax keeps its result. A tensor that two operations ask for is
held once, and counted where the backward pass lets it go.
"""

from dataclasses import dataclass

from ..specs.architectures import Model, NoFormula
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up

FP32_BYTES = 4  # a norm's statistics, attention's log-sum-exp


@dataclass(frozen=True)
class Pass:
    """One pass over a batch, with every choice that changes what is kept.

    Attributes:
        batch_size, seq_len: sequences, and tokens in each.
        activation_dtype: of the residual stream and of every product.
        logits_dtype: that the loss is computed in; ``"fp32"`` where the logits are cast first.
        attention: ``"fused"`` (flash: keeps its operands, its result and one log-sum-exp a row) or ``"naive"`` (keeps
            the probabilities: ``seq_len`` numbers for each query and head).
        norm: ``"fused"`` (keeps its input and one number a row) or ``"composed"`` of elementary operations, in fp32
            within, as PyTorch does on a CPU.
        native_gqa: the attention reads each key/value head for its group; otherwise they are repeated first. The
            naive attention always repeats them.
        recompute: ``"none"``, or ``"full"``: keep each block's input, and run the block again for its backward.
    """

    batch_size: int
    seq_len: int
    activation_dtype: str = "bf16"
    logits_dtype: str = "fp32"
    attention: str = "fused"
    norm: str = "fused"
    native_gqa: bool = True
    recompute: str = "none"

    def __post_init__(self):
        if min(self.batch_size, self.seq_len) < 1:
            raise ValueError(f"a pass needs at least one token: {self.batch_size} x {self.seq_len}")
        for name, kind in (("attention", "attention"), ("norm", "norm"), ("recompute", "recomputation")):
            look_up(getattr(self, name), {choice: choice for choice in CHOICES[name]}, kind)
        for name in (self.activation_dtype, self.logits_dtype):
            if not find_dtype(name).is_float:
                raise ValueError(f"activations in {name} have no gradients: choose a floating-point format")

    @property
    def n_tokens(self) -> int:
        """Tokens in the batch."""
        return self.batch_size * self.seq_len


CHOICES = {"attention": ("fused", "naive"), "norm": ("fused", "composed"), "recompute": ("none", "full")}


@dataclass(frozen=True)
class Operation:
    """An operation as the backward pass meets it, in bytes for the whole batch.

    Attributes:
        name: several may share one; `kept` adds them up.
        kept: held since the forward pass, let go when this operation's backward is done.
        makes: gradients of activations that its backward allocates, while what it reads is still there.
        drops: gradients of activations that nobody needs afterwards.
        n_weights: parameters whose gradients appear here.
    """

    name: str
    kept: int = 0
    makes: int = 0
    drops: int = 0
    n_weights: int = 0


def block_operations(model: Model, run: Pass) -> list[Operation]:
    """The operations of one block in the order of the forward pass; read it backwards for the backward pass.

    Raises:
        NoFormula: the model is not Llama-style.
    """
    _require_llama(model)
    c, tokens = _bytes(run.activation_dtype), run.n_tokens
    h, f, q, kv = (n * c * tokens for n in (model.d_model, model.d_ff, *_widths(model)))
    n_q, n_kv = _widths(model)
    meet = Operation("residual", makes=h, drops=2 * h)  # two gradients of one tensor become a sum; never the peak
    linear = {
        "query": Operation("qkv", kept=h, makes=h, drops=q, n_weights=model.d_model * n_q),  # one input, kept once
        "key": Operation("qkv", makes=h, drops=kv, n_weights=model.d_model * n_kv),
        "gate": Operation("gate_up", kept=h, makes=h, drops=f, n_weights=model.d_model * model.d_ff),
        "up": Operation("gate_up", makes=h, drops=f, n_weights=model.d_model * model.d_ff),
    }
    return [
        meet,
        *_norm("attention_norm", model, run),
        meet,
        linear["query"],
        meet,
        linear["key"],
        linear["key"],  # and the values, of the same size
        Operation("rotary", makes=5 * q // 2, drops=5 * q // 2),  # its tables are constants, shared by all blocks
        *_attention(model, run),
        Operation("out", makes=q, n_weights=n_q * model.d_model),  # its input is attention's result, counted there
        meet,
        *_norm("mlp_norm", model, run),
        meet,
        linear["gate"],
        Operation("silu", kept=f, makes=f, drops=f),
        linear["up"],
        Operation("gate_times_up", kept=2 * f, makes=2 * f, drops=f),  # a product of two keeps both
        Operation("down", kept=f, makes=f, n_weights=model.d_ff * model.d_model),
    ]


def first_operations(model: Model, run: Pass) -> list[Operation]:
    """Before the blocks: the embedding. It keeps the tokens' numbers only, and those belong to the batch."""
    _require_llama(model)
    h, matrix = model.d_model * _bytes(run.activation_dtype) * run.n_tokens, model.vocab_size * model.d_model
    if not model.tied_embeddings:
        return [Operation("embedding", drops=h, n_weights=matrix)]
    waiting = matrix * _bytes(run.activation_dtype)  # the head's gradient waits for this one; their sum is a third
    return [Operation("embedding", drops=2 * waiting, n_weights=matrix), Operation("embedding", makes=waiting, drops=h)]


def last_operations(model: Model, run: Pass) -> list[Operation]:
    """After the blocks: the last norm, the output head and the loss, which keeps a probability for every word."""
    _require_llama(model)
    c, wide, tokens = _bytes(run.activation_dtype), _bytes(run.logits_dtype), run.n_tokens
    h, v, matrix = model.d_model * c * tokens, model.vocab_size * tokens, model.vocab_size * model.d_model
    logits, tied = v * wide, model.tied_embeddings
    cast = [Operation("loss", makes=v * c, drops=logits)] if wide != c else []
    head = Operation("head", kept=h, makes=h + tied * matrix * c, drops=v * c, n_weights=0 if tied else matrix)
    return [
        *_norm("final_norm", model, run),
        head,
        *cast,
        Operation("loss", kept=logits, makes=logits, drops=logits),  # log-softmax keeps its result
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


def block_activations(model: Model, run: Pass) -> dict[str, int]:
    """Bytes that one block keeps, by operation, when it keeps them: without recomputation, or while it is recomputed.

    Fused attention and norm, native GQA, c bytes a number: ``tokens * (c (4h + 2ad + 2kd + 4f) + 4a + 8)`` with h, f
    the widths of the residual stream and of the MLP, a and k the query and key/value heads, d their size.
    """
    return kept(block_operations(model, run))


def activations(model: Model, run: Pass) -> dict[str, int]:
    """Bytes kept when the forward pass is done, of all blocks together under ``"blocks"``; they sum to the total."""
    first, last = first_operations(model, run), last_operations(model, run)
    return kept(first) | {"blocks": model.n_layers * block_kept(model, run)} | kept(last)


def block_kept(model: Model, run: Pass) -> int:
    """Bytes that a block keeps from its forward to its backward: everything, or only its input."""
    if run.recompute == "full":
        return model.d_model * _bytes(run.activation_dtype) * run.n_tokens
    return sum(block_activations(model, run).values())


def keeps_its_input(run: Pass) -> bool:
    """Whether a block's first norm keeps the block's input itself, and not a widened copy of it."""
    return run.norm == "fused" or _bytes(run.activation_dtype) >= FP32_BYTES


def _norm(name: str, model: Model, run: Pass) -> list[Operation]:
    numbers, row = model.d_model * run.n_tokens, FP32_BYTES * run.n_tokens
    c, wide = _bytes(run.activation_dtype), max(_bytes(run.activation_dtype), FP32_BYTES)
    if run.norm == "fused":
        return [Operation(name, numbers * c + row, makes=numbers * c, drops=numbers * c, n_weights=model.d_model)]
    cast = 0 if c == wide else wide  # a 16-bit input is widened first: that copy is kept instead of the input
    scale, divide = 2 * wide + (cast - c if cast else 0), 4 * wide
    return [
        Operation(
            name, numbers * wide + row * wide // FP32_BYTES, makes=numbers * divide, drops=numbers * (divide + wide - c)
        ),
        Operation(
            name, numbers * wide, makes=numbers * scale, drops=numbers * (scale + c - wide), n_weights=model.d_model
        ),
    ]


def _attention(model: Model, run: Pass) -> list[Operation]:
    c, tokens = _bytes(run.activation_dtype), run.n_tokens
    q, kv = (n * c * tokens for n in _widths(model))
    repeated = run.attention == "naive" or not run.native_gqa
    operand = q if repeated else kv  # keys, or values, as the attention sees them
    grow = [Operation("attention", makes=2 * kv, drops=2 * q)] if repeated and q != kv else []
    if run.attention == "fused":
        sums = FP32_BYTES * model.n_heads * tokens
        return [*grow, Operation("attention", 2 * q + 2 * operand + sums, makes=q + 2 * operand, drops=q)]
    scores = model.n_heads * run.seq_len * c * tokens
    return [
        *grow,
        Operation("attention", kept=2 * q, makes=2 * q, drops=scores),  # queries times keys
        Operation("attention", kept=scores, makes=scores, drops=scores),  # softmax keeps its result
        Operation("attention", kept=2 * q, makes=q + scores, drops=q),  # probabilities times values; the result
    ]


def _widths(model: Model) -> tuple[int, int]:
    """Numbers a token has in all query heads, and in all key (or value) heads."""
    return model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim


def _bytes(name: str) -> int:
    return int(find_dtype(name).bytes)


def _require_llama(model: Model) -> None:
    others = {
        "a mixture of experts": model.experts,
        "latent attention (MLA)": model.latent,
        "norms after attention and MLP": model.norms_per_block != 2,
        "normalised queries and keys": model.qk_norm,
        "a sliding window": model.n_local_layers,
        "biases": model.qkv_bias or model.o_bias or model.mlp_bias,
    }
    found = [what for what, there in others.items() if there]
    if found:
        raise NoFormula(
            f"no activation formula for {model.name}, which has {' and '.join(found)}: dense Llama-style only"
        )
