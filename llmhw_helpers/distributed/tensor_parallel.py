"""Tensor parallelism: each rank holds a part of every matrix, and the ranks add up what they computed with it.

After Megatron-LM (arXiv:1909.08053, section 3): heads, the MLP's inner width and the vocabulary are divided. The first
matrices of attention and MLP are cut by columns and the last ones by rows, so nothing has to be sent in between. A
layer sums twice, once after its attention and once after its MLP, and twice more on the way back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..costs.parallelism import Indivisible, padded, part
from ..llm.checkpoints import Checkpoint, open_model
from ..llm.transformer import Block, TokenError, Transformer, causal_attention
from ..specs.architectures import Model
from .cuts import Group, copy_to_ranks, gather_from_ranks, gather_tokens, sum_over_ranks, sum_tokens

# How each matrix is cut; norms, and biases that are added to a sum, are whole on every rank.
COLUMNS = ("token_embd", "output", "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")  # heads, widths, tokens
ROWS = ("attn_output", "ffn_down")
SHARED = ("attn_k", "attn_v")  # where there are fewer heads of keys and values than ranks, several have the same


class RankBlock(Block):
    """A rank's part of a layer: some of the heads, some of the MLP's inner width. It sums twice.

    `to_part` and `to_stream` lead from the residual stream to a rank's own products and back: the stream is the same on
    every rank (`copy_to_ranks`, `sum_over_ranks`), or each has some of its tokens (`gather_tokens`, `sum_tokens`).
    """

    def __init__(self, spec: Model, to_part: Callable[[Tensor], Tensor], to_stream: Callable[[Tensor], Tensor]):
        super().__init__(spec)
        self.to_part, self.to_stream = to_part, to_stream

    def forward(
        self, x: Float[Tensor, "batch seq_len d_model"], rotation, attend: Callable = causal_attention
    ) -> Float[Tensor, "batch seq_len d_model"]:
        """The residual stream after this layer; arguments as in `Block`."""
        q, k, v = self.qkv(self.to_part(self.attn_norm(x)), rotation)
        x = x + self._by_rows(attend(q, k, v).transpose(1, 2).flatten(2), self.attn_output)
        y = self.to_part(self.ffn_norm(x))
        return x + self._by_rows(self.activation(self.ffn_gate(y)) * self.ffn_up(y), self.ffn_down)

    def _by_rows(self, own_x: Tensor, linear: nn.Linear) -> Tensor:
        y = self.to_stream(F.linear(own_x, linear.weight))
        return y if linear.bias is None else y + linear.bias  # every rank has the bias: after the sum it counts once


class TensorParallel(nn.Module):
    """A rank's part of a model: another `Transformer`, with heads, widths and vocabulary divided.

    All ranks must be given the same tokens; all get the same logits, the same loss, and the same gradients of what is
    whole on each (norms, biases after a sum). The gradients of the others are the parts of the whole model's.

    Args:
        whole: the model; it may be one without memory for its weights (`open_model`) if `stored` gives them.
        group: the ranks that share the model.
        pad: where heads or widths do not divide, fill up with zeros (`costs.parallelism.padded`) instead of refusing.
        by_tokens: between its products a rank keeps only its own tokens (sequence parallelism), which must divide.
        device: of the part; without, that of `whole`.
        stored: given a tensor's name, something with a ``shape``, from which rows can be taken: without, those of
            `whole`. Asked for one after the other.

    Attributes:
        part: the rank's.
        whole: the architecture of the whole.

    Raises:
        Indivisible: heads or widths do not divide; the message says what to do.
    """

    def __init__(
        self,
        whole: Transformer,
        group: Group = None,
        pad: bool = False,
        by_tokens: bool = False,
        device: torch.device | str | None = None,
        stored: Callable[[str], Any] | None = None,
    ):
        super().__init__()
        self.whole, self.group = whole.spec, group
        self.rank, self.n_ranks = dist.get_rank(group), dist.get_world_size(group)
        weight = whole.token_embd.weight
        filled = padded(self.whole, self.n_ranks) if pad else self.whole
        own = _part(filled, self.n_ranks)
        ways = (gather_tokens, sum_tokens) if by_tokens else (copy_to_ranks, sum_over_ranks)
        self._to_part, self._to_stream = (partial(way, group=group) for way in ways)
        with torch.device("meta"):  # no memory yet, and no random numbers
            self.part = Transformer(own)
            blocks = (RankBlock(own, self._to_part, self._to_stream) for _ in range(own.n_layers))
            self.part.blk = nn.ModuleList(blocks)
        self.part.to(weight.dtype).to_empty(device=weight.device if device is None else device)
        self.part.frequencies = whole.frequencies  # the file may have its own
        self._first = self.rank * own.vocab_size  # of its tokens
        self._sharing = max(1, self.n_ranks // filled.n_kv_heads)  # ranks with the same head of keys and values
        stored = stored or whole.state_dict().__getitem__
        for name, parameter in self.part.named_parameters():
            self.fill(name, parameter.detach(), stored(name))
            if self._sharing > 1 and name.split(".")[-2] in SHARED:
                parameter.register_hook(self._sum_of_sharing)
            elif by_tokens and _cut_along(name) is None:  # each rank learns from its own tokens
                parameter.register_hook(self._sum_of_all)

    def fill(self, name: str, own: Tensor, whole: Any) -> Tensor:
        """Copy this rank's part of a tensor, or of its gradient, into `own`; the padding of a whole that ends is 0."""
        dim = _cut_along(name)
        if dim is None:
            return own.copy_(whole[:])
        size, sharing = own.shape[dim], self._sharing if name.split(".")[-2] in SHARED else 1
        first = min(self.rank // sharing * size, whole.shape[dim])
        end = min(first + size, whole.shape[dim])
        piece = whole[first:end] if dim == 0 else whole[:][:, first:end]
        own.zero_().narrow(dim, 0, end - first).copy_(piece)
        return own

    def _sum_of_all(self, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient, self.group)

    def _sum_of_sharing(self, gradient: Tensor) -> Tensor:
        """Of a head that several ranks hold, each with queries of its own: the sum of what these learned."""
        heads = gradient.new_zeros(self.n_ranks // self._sharing, *gradient.shape)
        own = self.rank // self._sharing
        heads[own] = gradient
        dist.all_reduce(heads, group=self.group)
        return heads[own]

    def forward(
        self,
        tokens: Int[Tensor, "batch seq_len"],
        positions: Int[Tensor, "*batch seq_len"] | None = None,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "batch seq_len vocab_size"]:
        """All logits, on every rank; arguments and errors as of `hidden`."""
        x = self.hidden(tokens, positions, attend)
        return gather_from_ranks(self._own_logits(x), self.group)[..., : self.whole.vocab_size]

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq_len"],
        positions: Int[Tensor, "*batch seq_len"] | None = None,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "batch seq_len d_model"]:
        """The residual stream after the last norm; `by_tokens`, of the rank's own tokens.

        To go on with a text, make a cache of ``part.spec``, which has the rank's own heads, and give its window's:

        Args:
            tokens: new ones, the same on every rank.
            positions: where they stand; from 0 on without.
            attend: given a layer's number, queries, keys and values, mixes the values; causal attention without.

        Raises:
            TokenError: as ``Transformer.hidden`` does.
        """
        x = self.embed(tokens)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        rotation = self.part.rotation(x, positions)
        for layer, block in enumerate(self.part.blk):
            x = block(x, rotation, partial(attend, layer) if attend else causal_attention)
        return self.part.output_norm(x)

    def embed(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len d_model"]:
        """A row of the embedding for each token: from the rank that has it, zeros from the others, summed."""
        if tokens.shape[1] > self.whole.context_length:
            limit = f"the context of {self.whole.name} holds {self.whole.context_length}: shorten it"
            raise TokenError(f"{tokens.shape[1]} tokens, and {limit}")
        here, own = self._here(tokens)
        return self._to_stream(self.part.token_embd(own) * here[..., None])

    def loss(self, tokens: Int[Tensor, "batch seq_len"], targets: Int[Tensor, "batch seq_len"]) -> Float[Tensor, ""]:
        """Mean of ``-log p(target)``, in nats: three numbers a token are sent, and not a whole row of logits.

        ``-log p`` is the logarithm of the sum of ``exp(logit)``, of which each rank has its part, less the target's
        logit, which one rank has; the largest logit is taken off first, so that no ``exp`` overflows.

        Raises:
            TokenError: as `hidden` does; also for a target that is no token.
        """
        here, own = self._here(targets)
        logits = self._own_logits(self.hidden(tokens))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        n_real = min(max(self.whole.vocab_size - self._first, 0), logits.shape[-1])
        logits[..., n_real:] = -torch.inf  # padding
        top = logits.detach().amax(-1)
        dist.all_reduce(top, dist.ReduceOp.MAX, group=self.group)
        total = sum_over_ranks((logits - top[..., None]).exp().sum(-1), self.group)
        of_target = logits.gather(-1, own[..., None])[..., 0].where(here, 0.0)
        return (total.log() + top - sum_over_ranks(of_target, self.group)).mean()

    def _own_logits(self, x: Tensor) -> Tensor:
        head = self.part.token_embd if self.part.output is None else self.part.output
        return F.linear(self._to_part(x), head.weight)

    def _here(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens this rank has, and their row in its part (of the others: some row)."""
        wrong = tokens[(tokens < 0) | (tokens >= self.whole.vocab_size)]
        if len(wrong):
            last = self.whole.vocab_size - 1
            raise TokenError(f"token {wrong[0]} is none of {self.whole.name}'s, which go from 0 to {last}")
        own = tokens - self._first
        here = (own >= 0) & (own < self.part.spec.vocab_size)
        return here, own.where(here, 0)


@dataclass
class _Stored:
    """A tensor in a file, of which a rank reads the rows that it needs."""

    checkpoint: Checkpoint
    name: str
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.checkpoint.shapes[self.name]

    def __getitem__(self, rows: slice) -> Tensor:
        first, end, _ = rows.indices(self.shape[0])
        return self.checkpoint.fill(self.name, torch.empty(end - first, *self.shape[1:], dtype=self.dtype), first)


def load_part(
    path: Path | None = None,
    group: Group = None,
    pad: bool = False,
    by_tokens: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TensorParallel:
    """The rank's part of the model at `path`, or of the one that ``find_model`` finds; the whole is never in memory.

    Of what is cut by columns a rank reads its own rows of the file alone. What is cut by rows is read whole, one matrix
    at a time, for a piece of every line is the rank's. Raises as ``load_model`` and `TensorParallel` do.
    """
    checkpoint, whole = open_model(path, dtype)
    return TensorParallel(whole, group, pad, by_tokens, device, lambda name: _Stored(checkpoint, name, dtype))


def _cut_along(name: str) -> int | None:
    """The dimension along which a tensor is cut; None where every rank has all of it."""
    kind, what = name.split(".")[-2:]
    return 0 if kind in COLUMNS else 1 if kind in ROWS and what == "weight" else None


def _part(spec: Model, n_ranks: int) -> Model:
    try:
        return part(spec, n_ranks)
    except Indivisible as error:
        filled = padded(spec, n_ranks)
        raise Indivisible(
            f"{error}: take a number of ranks that divides them, or pad=True, which fills up with zeros to "
            f"{filled.n_heads} query heads, {filled.n_kv_heads} of keys and values, and {filled.d_ff} numbers in an MLP"
        ) from None
