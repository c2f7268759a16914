"""Tensor parallelism: each rank holds a part of every matrix, and the ranks add up what they computed with it.

After Megatron-LM (arXiv:1909.08053, section 3). A product ``x @ A`` can be cut in three ways: by the columns of ``A``
each rank makes some of the outputs, by its rows each reads some of the inputs and all make a part of a sum, and by the
batch each has some of the tokens and all of ``A``. Columns first and rows second need nothing in between: so a layer of
a Transformer sums twice, once after its attention and once after its MLP, and twice more on the way back.

PyTorch stores the transpose of ``A``, ``[n_out, n_in]``: its columns are the rows of a weight.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..costs.parallelism import Indivisible, padded, part
from ..llm.checkpoints import open_checkpoint
from ..llm.transformer import Block, TokenError, Transformer, causal_attention
from ..specs.architectures import Model

Group = dist.ProcessGroup | None  # the ranks that share a model; None: all

# Along which dimension a tensor is cut; what is not named here (norms, biases of rows) is whole on every rank.
COLUMNS = ("token_embd", "output", "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")  # heads, widths, tokens
ROWS = ("attn_output", "ffn_down")
SHARED = ("attn_k", "attn_v")  # where there are fewer heads of keys and values than ranks, several have the same


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return _summed(slope, ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        return _summed(x, group)

    @staticmethod
    def backward(ctx, slope):
        return slope, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
        dist.all_gather(pieces, x.contiguous(), group=group)
        return torch.cat(pieces, -1)

    @staticmethod
    def backward(ctx, slope):
        return own_part(slope, -1, ctx.group), None


def _summed(x: Tensor, group: Group) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def copy_to_ranks(x: Tensor, group: Group = None) -> Tensor:
    """`x`, the same on every rank, where each goes on with its own part: forward nothing, backward a sum.

    Each rank learns how the loss depends on `x` by way of its own part only, and the slopes add up.
    """
    return _Copy.apply(x, group)


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """The sum of every rank's `x`: forward an all-reduce; backward nothing, as all ranks go on alike."""
    return _Sum.apply(x, group)


def gather_from_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Every rank's `x`, side by side along the last dimension: forward an all-gather, backward the rank's own part.

    As in `sum_over_ranks`, what follows must be the same on every rank.
    """
    return _Gather.apply(x, group)


def own_part(x: Tensor, dim: int, group: Group = None) -> Tensor:
    """This rank's part of the whole `x`, cut evenly along `dim`.

    Raises:
        Indivisible: it cannot be.
    """
    n_ranks = dist.get_world_size(group)
    if x.shape[dim] % n_ranks:
        raise Indivisible(f"{x.shape[dim]} rows or columns do not divide among {n_ranks} ranks")
    return x.chunk(n_ranks, dim)[dist.get_rank(group)]


def by_columns(
    x: Float[Tensor, "*batch n_in"], own: Float[Tensor, "own_out n_in"], group: Group = None
) -> Float[Tensor, "*batch own_out"]:
    """The rank's part of the outputs, from all of `x` and its own columns; `gather_from_ranks` would make it whole.

    Forward nothing is sent, backward the gradient of `x` is summed.
    """
    return F.linear(copy_to_ranks(x, group), own)


def by_rows(
    own_x: Float[Tensor, "*batch own_in"], own: Float[Tensor, "n_out own_in"], group: Group = None
) -> Float[Tensor, "*batch n_out"]:
    """All outputs, from the rank's part of the inputs (what `by_columns` leaves it with) and its own rows.

    Forward the outputs are summed, backward nothing is sent.
    """
    return sum_over_ranks(F.linear(own_x, own), group)


def by_batch(
    own_x: Float[Tensor, "*own_batch n_in"], weight: Float[Tensor, "n_out n_in"], group: Group = None
) -> Float[Tensor, "*own_batch n_out"]:
    """The outputs of the rank's own tokens, from all of the matrix: data parallelism.

    Forward nothing is sent, backward the gradient of the weight is summed.
    """
    return F.linear(own_x, copy_to_ranks(weight, group))


class RankBlock(Block):
    """A rank's part of a layer: some of the heads, some of the MLP's inner width. It sums twice."""

    def __init__(self, spec: Model, group: Group = None):
        super().__init__(spec)
        self.group = group

    def forward(
        self, x: Float[Tensor, "batch seq_len d_model"], rotation, attend: Callable = causal_attention
    ) -> Float[Tensor, "batch seq_len d_model"]:
        """The whole residual stream after this layer, the same on every rank; arguments as in `Block`."""
        q, k, v = self.qkv(copy_to_ranks(self.attn_norm(x), self.group), rotation)
        x = x + self._by_rows(attend(q, k, v).transpose(1, 2).flatten(2), self.attn_output)
        y = copy_to_ranks(self.ffn_norm(x), self.group)
        return x + self._by_rows(self.activation(self.ffn_gate(y)) * self.ffn_up(y), self.ffn_down)

    def _by_rows(self, own_x: Tensor, linear: nn.Linear) -> Tensor:
        y = by_rows(own_x, linear.weight, self.group)
        return (
            y if linear.bias is None else y + linear.bias
        )  # after the sum: each rank has the bias, and it counts once


class TensorParallel(nn.Module):
    """A rank's part of a model: another `Transformer`, with heads, widths and vocabulary divided.

    All ranks must be given the same tokens; all get the same logits, loss and gradients of what is not cut (norms,
    biases after a sum). The gradients of what is cut are the parts of the whole model's.

    Args:
        spec: the whole model.
        tensor: gives a whole tensor of the model by its name: ``model.state_dict().__getitem__``, or
            ``open_checkpoint().tensor``. Asked for one at a time, and no more than the rank's part is kept.
        group: the ranks that share the model.
        pad: where heads or widths do not divide, fill up with zeros (`padded`) instead of refusing.
        dtype, device: of the weights.

    Attributes:
        part: the rank's.
        whole: what `spec` was.

    Raises:
        Indivisible: heads or widths do not divide; the message says what does.
        NotThisFamily: an architecture that `Transformer` is not.
    """

    def __init__(
        self,
        spec: Model,
        tensor: Callable[[str], Tensor],
        group: Group = None,
        pad: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.whole, self.group = spec, group
        self.rank, self.n_ranks = dist.get_rank(group), dist.get_world_size(group)
        with torch.device("meta"):  # no memory yet, and no random numbers
            own = _part(spec, self.n_ranks, pad)
            self.part = Transformer(own)
            self.part.blk = nn.ModuleList(RankBlock(own, group) for _ in range(own.n_layers))
        self.part.to(dtype).to_empty(device=device)
        self._first = self.rank * own.vocab_size  # of its tokens
        self._sharing = max(1, self.n_ranks // spec.n_kv_heads)  # ranks that have the same head of keys and values
        for name, parameter in self.part.named_parameters():
            self.fill(name, parameter.detach(), tensor(name))
            if self._sharing > 1 and name.split(".")[-2] in SHARED:
                parameter.register_hook(self._sum_of_sharing)

    def fill(self, name: str, own: Tensor, whole: Tensor) -> Tensor:
        """Copy this rank's part of a tensor, or of its gradient, into `own`; the padding of a whole that ends is 0."""
        kind, what = name.split(".")[-2:]
        dim = 0 if kind in COLUMNS else 1 if kind in ROWS and what == "weight" else None
        if dim is None:
            return own.copy_(whole)
        size, n = own.shape[dim], whole.shape[dim]
        start = min(n, size * (self.rank // (self._sharing if kind in SHARED else 1)))
        kept = min(size, n - start)
        own.zero_().narrow(dim, 0, kept).copy_(whole.narrow(dim, start, kept))
        return own

    def _sum_of_sharing(self, gradient: Tensor) -> Tensor:
        """Of a head that several ranks hold, each with queries of its own: the sum of what these learned."""
        heads = gradient.new_zeros(self.n_ranks // self._sharing, *gradient.shape)
        own = self.rank // self._sharing
        heads[own] = gradient
        dist.all_reduce(heads, group=self.group)
        return heads[own]

    def forward(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len vocab_size"]:
        """All logits, on every rank."""
        return gather_from_ranks(self._own_logits(self.hidden(tokens)), self.group)[..., : self.whole.vocab_size]

    def hidden(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len d_model"]:
        """The residual stream after the last norm; raises as `Transformer.hidden` does."""
        x = self.embed(tokens)
        rotation = self.part.rotation(x)
        for block in self.part.blk:
            x = block(x, rotation)
        return self.part.output_norm(x)

    def embed(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len d_model"]:
        """A row of the embedding for each token: from the rank that has it, zeros from the others, summed."""
        if tokens.shape[1] > self.whole.context_length:
            limit = f"the context of {self.whole.name} holds {self.whole.context_length}: shorten it"
            raise TokenError(f"{tokens.shape[1]} tokens, and {limit}")
        wrong = tokens[(tokens < 0) | (tokens >= self.whole.vocab_size)]
        if len(wrong):
            last = self.whole.vocab_size - 1
            raise TokenError(f"token {wrong[0]} is none of {self.whole.name}'s, which go from 0 to {last}")
        here, own = self._here(tokens)
        return sum_over_ranks(self.part.token_embd(own) * here[..., None], self.group)

    def loss(self, tokens: Int[Tensor, "batch seq_len"], targets: Int[Tensor, "batch seq_len"]) -> Float[Tensor, ""]:
        """Mean of ``-log p(target)``, in nats: three numbers a token are sent, and not a whole row of logits.

        ``-log p`` is the logarithm of the sum of ``exp(logit)``, of which each rank has its part, less the target's
        logit, which one rank has; the largest logit is taken off first, so that no ``exp`` overflows.
        """
        logits = self._own_logits(self.hidden(tokens))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        n_real = min(max(self.whole.vocab_size - self._first, 0), logits.shape[-1])
        logits[..., n_real:] = -torch.inf  # padding
        top = logits.detach().amax(-1)
        dist.all_reduce(top, dist.ReduceOp.MAX, group=self.group)
        total = sum_over_ranks((logits - top[..., None]).exp().sum(-1), self.group)
        here, own = self._here(targets)
        of_target = logits.gather(-1, own[..., None])[..., 0].where(here, 0.0)
        return (total.log() + top - sum_over_ranks(of_target, self.group)).mean()

    def _own_logits(self, x: Tensor) -> Tensor:
        head = self.part.token_embd if self.part.output is None else self.part.output
        return by_columns(x, head.weight, self.group)

    def _here(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens this rank has, and their row in its part (of the others: some row)."""
        own = tokens - self._first
        here = (own >= 0) & (own < self.part.spec.vocab_size)
        return here, own.where(here, 0)


def load_part(
    path=None, group: Group = None, pad: bool = False, dtype: torch.dtype = torch.float32, device="cpu"
) -> TensorParallel:
    """The rank's part of the model at `path`, or of the one that ``find_model`` finds."""
    checkpoint = open_checkpoint(path)
    return TensorParallel(checkpoint.spec, lambda name: checkpoint.tensor(name, dtype), group, pad, dtype, device)


def _part(spec: Model, n_ranks: int, pad: bool) -> Model:
    filled = padded(spec, n_ranks)
    if pad:
        return part(filled, n_ranks)
    try:
        return part(spec, n_ranks)
    except Indivisible as error:
        raise Indivisible(
            f"{error}: take a number of ranks that divides them, or pad=True, which fills up with zeros to "
            f"{filled.n_heads} query heads, {filled.n_kv_heads} of keys and values, and {filled.d_ff} numbers in an MLP"
        ) from None
