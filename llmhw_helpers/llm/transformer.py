"""A Llama-style language model: tokens in, a score for every possible next token out.

The parts are called as in a GGUF file (``blk.0.attn_q``), so a checkpoint's names are the model's own. Llama 2
(arXiv:2307.09288, section 2.2) names the sources: RMSNorm (arXiv:1910.07467), SwiGLU (arXiv:2002.05202), RoPE
(arXiv:2104.09864), grouped-query attention (arXiv:2305.13245).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..specs.architectures import Model, RopeScaling
from ..specs.settings import OneLine

# By the names of `Model.activation`; transformers' "gelu" is exact, as PyTorch's is.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
UNLIKE = ("biases", *(f"the activation {name}" for name in ACTIVATIONS))  # what this model has besides a Llama


class NotThisFamily(OneLine, ValueError):
    """An architecture that this model is not: the message says which part it lacks."""


class TokenError(ValueError):
    """Tokens that the model cannot read: a number that is no token's, or more of them than its context holds."""


def rope_frequencies(spec: Model) -> Float[Tensor, " half"]:
    """Radians a position by which each pair of a head's numbers turns, fast ones first: ``theta ** (-2 i / head_dim)``.

    Stretched for long contexts as ``rope_scaling`` says: evenly; as Llama 3 (reference: ``apply_scaling`` in Meta's
    llama-models); or by YaRN (arXiv:2309.00071, section 3.2), whose factor on cosines and sines `rotation` applies.

    Raises:
        NotThisFamily: a kind of stretching that is not known here.
    """
    pairs = torch.arange(0, spec.head_dim, 2, dtype=torch.float64, device="cpu")  # a real one, in a fake model, too
    frequencies = spec.rope_theta ** (-pairs / spec.head_dim)
    scaling = spec.rope_scaling
    if scaling is None:
        return frequencies.float()
    if scaling.kind == "linear":
        kept = torch.zeros_like(frequencies)
    elif scaling.kind == "llama3":
        turns = scaling.original_context_length * frequencies / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    elif scaling.kind == "yarn":
        first, last = _pairs_between(spec, scaling)
        kept = 1 - (pairs / 2 - first) / (last - first)
    else:
        raise NotThisFamily(f"{spec.name}: rotary scaling {scaling.kind!r}; known are linear, llama3 and yarn")
    kept = kept.clamp(0, 1)
    return (frequencies * (kept + (1 - kept) / scaling.factor)).float()


def _pairs_between(spec: Model, scaling: RopeScaling) -> tuple[float, float]:
    """The pairs, by number, that turn ``beta_fast`` and ``beta_slow`` times in the original context."""
    fastest = scaling.original_context_length / (2 * math.pi)  # turns of a pair with frequency 1
    a_power = spec.head_dim / (2 * math.log(spec.rope_theta))  # pairs on which the frequency falls by a factor e
    first, last = (a_power * math.log(fastest / turns) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, spec.head_dim - 1)
    return first, last if last != first else first + 0.001  # a step, as in the reference


def rotation(
    positions: Int[Tensor, "*batch seq_len"],
    frequencies: Float[Tensor, " half"],
    dtype: torch.dtype = torch.float32,
    factor: float = 1.0,
) -> tuple[Float[Tensor, "*batch seq_len half"], Float[Tensor, "*batch seq_len half"]]:
    """Cosines and sines of every position's angles, computed in fp32, times `factor`, and given in `dtype`."""
    angles = positions[..., None] * frequencies
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate(
    x: Float[Tensor, "*heads head_dim"], cos: Float[Tensor, "*#heads half"], sin: Float[Tensor, "*#heads half"]
) -> Float[Tensor, "*heads head_dim"]:
    """RoPE: number ``i`` of a head and number ``i + head_dim / 2`` are a point in the plane; turn it by its angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Linear(nn.Linear):
    """PyTorch's, without random numbers of its own: `Transformer` draws them, or a file holds them."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Embedding(nn.Embedding):
    """PyTorch's, likewise."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query mixes the values of its own token and of those before it; shapes as in `Block.qkv`."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


class Block(nn.Module):
    """One layer: attention carries information from token to token, the MLP works on each token by itself.

    Both read a normalised copy of the residual stream ``[batch_size, seq_len, d_model]``, and add to it.
    """

    def __init__(self, spec: Model):
        super().__init__()
        d_model, d_ff, head_dim = spec.d_model, spec.d_ff, spec.head_dim
        n_q, n_kv = spec.n_heads * head_dim, spec.n_kv_heads * head_dim
        self.head_dim, self.activation = head_dim, ACTIVATIONS[spec.activation]
        self.attn_norm = nn.RMSNorm(d_model, eps=spec.norm_eps)
        self.attn_q = Linear(d_model, n_q, bias=spec.qkv_bias)
        self.attn_k = Linear(d_model, n_kv, bias=spec.qkv_bias)
        self.attn_v = Linear(d_model, n_kv, bias=spec.qkv_bias)
        self.attn_output = Linear(n_q, d_model, bias=spec.o_bias)
        self.ffn_norm = nn.RMSNorm(d_model, eps=spec.norm_eps)
        self.ffn_gate = Linear(d_model, d_ff, bias=spec.mlp_bias)
        self.ffn_up = Linear(d_model, d_ff, bias=spec.mlp_bias)
        self.ffn_down = Linear(d_ff, d_model, bias=spec.mlp_bias)

    def forward(
        self, x: Float[Tensor, "batch seq_len d_model"], rotation, attend: Callable = causal_attention
    ) -> Float[Tensor, "batch seq_len d_model"]:
        """The residual stream after this layer.

        Args:
            x: the stream before it.
            rotation: cosines and sines of the positions.
            attend: mixes the values; a cache brings its own, which also sees the tokens read before.
        """
        q, k, v = self.qkv(self.attn_norm(x), rotation)
        x = x + self.attn_output(attend(q, k, v).transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.ffn_down(self.activation(self.ffn_gate(y)) * self.ffn_up(y))

    def qkv(self, y: Float[Tensor, "batch seq_len d_model"], rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[batch, n_heads, seq_len, head_dim]``, keys and values ``[batch, n_kv_heads, ...]``, turned."""
        q, k, v = (each(y).unflatten(-1, (-1, self.head_dim)) for each in (self.attn_q, self.attn_k, self.attn_v))
        rotation = [each.unsqueeze(-2) for each in rotation]  # the same for all heads of a token
        # Turned before the heads are put in front: so each token's heads stay together in memory, attention's result
        # is laid out as its queries are, and the output projection reads it without a copy.
        return tuple(each.transpose(1, 2) for each in (rotate(q, *rotation), rotate(k, *rotation), v))


class Transformer(nn.Module):
    """The whole model: embedding, blocks, a last norm, and the head, which is the embedding again where it is tied.

    New weights are small random numbers: draw them after ``torch.manual_seed``. Real ones come from
    ``llm.checkpoints.load_model``.

    Raises:
        NotThisFamily: the architecture has parts that a Llama has not, but for biases and the `ACTIVATIONS`.
    """

    def __init__(self, spec: Model):
        super().__init__()
        if found := spec.unlike_llama(but=UNLIKE):
            raise NotThisFamily(f"{spec.name} has {' and '.join(found)}; this model is Llama's, without")
        self.spec = spec
        self.token_embd = Embedding(spec.vocab_size, spec.d_model)
        self.blk = nn.ModuleList(Block(spec) for _ in range(spec.n_layers))
        self.output_norm = nn.RMSNorm(spec.d_model, eps=spec.norm_eps)
        self.output = None if spec.tied_embeddings else Linear(spec.d_model, spec.vocab_size, bias=False)
        self.frequencies = rope_frequencies(spec)  # no buffer: bf16 would spoil it
        self.attention_factor = spec.rope_scaling.attention_factor if spec.rope_scaling else 1.0
        if not self.token_embd.weight.is_meta:
            self.draw_weights()

    def draw_weights(self) -> None:
        """GPT-2's start: what is added to the stream is smaller the more layers add to it; biases are zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                adds = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.spec.n_layers) ** 0.5 if adds else 0.02)

    def forward(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len vocab_size"]:
        """Logits: at each position a score for every token that may come next."""
        return self.head(self.hidden(tokens))

    def hidden(
        self, tokens: Int[Tensor, "batch seq_len"], recompute: bool = False
    ) -> Float[Tensor, "batch seq_len d_model"]:
        """The residual stream after the last norm, what the head reads.

        With `recompute` each block keeps its input only, and runs again when its backward comes.

        Raises:
            TokenError: more tokens than the context holds, or (in the CPU's memory) a number that is none.
        """
        x = self.embed(tokens)
        rotation = self.rotation(x)
        for block in self.blk:
            x = checkpoint(block, x, rotation, use_reentrant=False) if recompute else block(x, rotation)
        return self.output_norm(x)

    def embed(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len d_model"]:
        """A row of the embedding for each token; raises as `hidden` does."""
        limit = self.spec.context_length
        if tokens.shape[1] > limit:
            raise TokenError(f"{tokens.shape[1]} tokens, and the context of {self.spec.name} holds {limit}: shorten it")
        try:
            return self.token_embd(tokens)
        except IndexError:
            wrong = next(t for t in tokens.flatten().tolist() if not 0 <= t < self.spec.vocab_size)
            last = self.spec.vocab_size - 1
            raise TokenError(f"token {wrong} is none of {self.spec.name}'s, which go from 0 to {last}") from None

    def rotation(
        self, x: Float[Tensor, "batch seq_len d_model"], positions: Int[Tensor, "*batch seq_len"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[*batch, seq_len, head_dim / 2]``, the same in every block, for the tokens of `x`.

        They stand at `positions`, or from 0 on without.
        """
        self.frequencies = self.frequencies.to(x.device)
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        return rotation(positions, self.frequencies, x.dtype, self.attention_factor)

    def head(self, x: Float[Tensor, "*positions d_model"]) -> Float[Tensor, "*positions vocab_size"]:
        """Logits from the residual stream, for as many positions as you give: the widest product of the model."""
        return F.linear(x, self.token_embd.weight) if self.output is None else self.output(x)
