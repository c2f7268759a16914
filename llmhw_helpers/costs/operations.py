"""The parts that any block is made of, as the backward pass meets them: what each keeps, makes and lets go."""

from dataclasses import dataclass, replace

from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import look_up

FP32_BYTES = 4  # a norm's statistics, attention's log-sum-exp
CHOICES = {"attention": ("fused", "naive"), "norm": ("fused", "composed"), "recompute": ("none", "selective", "full")}


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
        recompute: ``"none"``; ``"selective"`` (arXiv:2205.05198): keep the queries, keys, values and the result of
            attention, and run what lies between again for its backward, in a naive attention the table of scores;
            ``"full"``: keep each block's input, and run the block again.
        stream_ranks: tensor-parallel ranks that share, by tokens, what lies between the products (sequence
            parallelism, arXiv:2205.05198); before a product its input is gathered, and kept as a whole.
        vocab_ranks: ranks that divide the output head by words.
        loss_parallel: they divide the loss, too; else they gather, and each has all logits.
    """

    batch_size: int
    seq_len: int
    activation_dtype: str = "bf16"
    logits_dtype: str = "fp32"
    attention: str = "fused"
    norm: str = "fused"
    native_gqa: bool = True
    recompute: str = "none"
    stream_ranks: int = 1
    vocab_ranks: int = 1
    loss_parallel: bool = True

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

    @property
    def stream(self) -> "Pass":
        """The same pass between the products: the tokens of which a rank has the residual stream."""
        if self.stream_ranks == 1:
            return self
        return replace(self, batch_size=1, seq_len=-(-self.n_tokens // self.stream_ranks), stream_ranks=1)

    @property
    def number_bytes(self) -> int:
        """Of an activation."""
        return int(find_dtype(self.activation_dtype).bytes)


@dataclass(frozen=True)
class Operation:
    """An operation as the backward pass meets it, in bytes for the whole batch.

    Attributes:
        name: several may share one; what they keep is added up.
        kept: held since the forward pass, let go when this operation's backward is done. Negative: recomputed, and
            back in memory from here on.
        makes: gradients of activations that its backward allocates, while what it reads is still there.
        drops: gradients of activations that nobody needs afterwards.
        n_weights: parameters whose gradients appear here.
    """

    name: str
    kept: int = 0
    makes: int = 0
    drops: int = 0
    n_weights: int = 0


def meet(numbers_bytes: int) -> Operation:
    """Where two ways go out from one tensor of so many bytes, their gradients become a sum."""
    return Operation("residual", makes=numbers_bytes, drops=2 * numbers_bytes)


def gathered(name: str, run: Pass, width: int, products: list[Operation]) -> list[Operation]:
    """Products in the midst of a stream whose tokens are shared: their input is gathered, their result shared out.

    Backwards it is the other way round: the gradient of the result is gathered, that of the input shared out.
    """
    if run.stream_ranks == 1:
        return products
    whole, share = (each.n_tokens * each.number_bytes * width for each in (run, run.stream))
    *others, last = products
    last = replace(last, drops=last.drops + whole)
    return [Operation(name, makes=share, drops=whole), *others, last, Operation(name, makes=whole)]


def norm(name: str, run: Pass, width: int, rows_per_token: int = 1, input_bytes: int | None = None) -> list[Operation]:
    """RMSNorm over `width` numbers, so many rows a token.

    Args:
        name: of its operations.
        run: the pass.
        width, rows_per_token: of what is normalised.
        input_bytes: of the tensor that it is a part of, if it is a part: that is held as a whole.
    """
    rows = run.n_tokens * rows_per_token
    numbers, row, c = rows * width, FP32_BYTES * rows, run.number_bytes
    wide = max(c, FP32_BYTES)
    held = numbers * c if input_bytes is None else input_bytes
    if run.norm == "fused":
        return [Operation(name, held + row, makes=numbers * c, drops=numbers * c, n_weights=width)]
    cast = 0 if c == wide else wide  # a 16-bit input is widened first: that copy is kept instead of the input
    scale, divide = 2 * wide + (cast - c if cast else 0), 4 * wide
    first = numbers * wide if cast else held
    return [
        Operation(name, first + row * wide // FP32_BYTES, makes=numbers * divide, drops=numbers * (divide + wide - c)),
        Operation(name, numbers * wide, makes=numbers * scale, drops=numbers * (scale + c - wide), n_weights=width),
    ]


def attention(
    run: Pass, n_heads: int, q: int, k: int, v: int, out: int, v_gradient: int | None = None, shared: int | None = None
) -> list[Operation]:
    """Scores, softmax and the mean of the values.

    Args:
        run: the pass.
        n_heads: query heads.
        q, k, v, out: bytes of queries, keys, values and the result.
        v_gradient: bytes of the values' gradient, where `v` is held as part of a larger tensor.
        shared: bytes of the keys, and of the values, before they are repeated for their groups; `None` if they are not.
    """
    v_gradient, between = v if v_gradient is None else v_gradient, FP32_BYTES * n_heads * run.n_tokens
    parts = [Operation("attention", q + k + v + out + between, makes=q + k + v_gradient, drops=out)]
    if run.attention == "naive":
        between = n_heads * run.seq_len * run.number_bytes * run.n_tokens
        parts = [
            Operation("attention", kept=q + k, makes=q + k, drops=between),  # queries times keys
            Operation("attention", kept=between, makes=between, drops=between),  # softmax keeps its result
            Operation("attention", kept=v + out, makes=v_gradient + between, drops=out),  # probabilities times values
        ]
    if shared is not None:
        parts = [Operation("attention", makes=2 * shared, drops=k + v), *parts]
    if run.recompute != "selective":
        return parts
    if run.attention == "naive" and run.batch_size > 1:  # what was kept lies otherwise than a product in a batch asks
        copied = q if shared is not None else q + k + v
        between, parts = between + copied, [Operation("attention", kept=copied), *parts]
    if shared is not None:  # repeated again, from those that were kept
        between, parts = between + k + v, [Operation("attention", kept=2 * shared), *parts]
    return [*parts, Operation("attention", kept=-between)]


def mlp(run: Pass, rows: int, d_model: int, d_ff: int, bias: bool = False, name: str = "") -> list[Operation]:
    """A gated MLP of so many rows: its input is kept once for two matrices, and a product of two keeps both.

    The gradient of its result is that of the residual stream, which stays.

    Args:
        run: the pass.
        rows: tokens.
        d_model, d_ff: widths.
        bias: of all three matrices.
        name: of all its operations; each has its own without.
    """
    h, f = (run.number_bytes * rows * width for width in (d_model, d_ff))
    into, back = (d_model * d_ff + (width if bias else 0) for width in (d_ff, d_model))
    return [
        meet(h),
        Operation(name or "gate_up", kept=h, makes=h, drops=f, n_weights=into),
        Operation(name or "silu", kept=f, makes=f, drops=f),
        Operation(name or "gate_up", makes=h, drops=f, n_weights=into),
        Operation(name or "gate_times_up", kept=2 * f, makes=2 * f, drops=f),
        Operation(name or "down", kept=f, makes=f, n_weights=back),
    ]
