"""The architecture of a language model, and the exact parameter count that follows from it.

A count is the sum over the tensors of a checkpoint, so it can be checked to the last digit. Two things make the usual
estimates wrong: an output head that shares its matrix with the embedding is one matrix, not two, and the size of a
head is a free choice (``head_dim``), not ``d_model / n_heads``.
"""

from collections.abc import Collection
from dataclasses import dataclass


class NoFormula(ValueError):
    """A model that a formula would be wrong for; the message says which part of it has none."""


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP: a router sends every token to a few small MLPs.

    Attributes:
        n_experts, n_experts_per_token: routed experts in a layer, and how many of them a token visits.
        d_ff_expert: inner width of one expert.
        n_shared_experts: experts of the same width that every token visits besides.
        n_dense_layers: layers (the first ones in DeepSeek-V3) that keep an ordinary MLP.
        router_bias: one more number an expert, which steers the choice of experts (DeepSeek-V3's
            ``e_score_correction_bias``: in the checkpoint and so counted here, a buffer and no parameter in PyTorch).
    """

    n_experts: int
    n_experts_per_token: int
    d_ff_expert: int
    n_shared_experts: int = 0
    n_dense_layers: int = 0
    router_bias: bool = False


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (MLA): a token caches one short vector instead of every head's key and value.

    Attributes:
        q_lora_rank, kv_lora_rank: sizes of the latents from which queries, and keys with values, are made;
            ``q_lora_rank`` is None where queries are projected directly.
        qk_nope_head_dim, qk_rope_head_dim: parts of a query or key head without and with rotary position; the
            rotary part of the key is shared by all heads.
        v_head_dim: size of a value head.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched for a context longer than the one first trained on.

    Attributes:
        kind: ``"llama3"``: a frequency that turns fewer than `low_freq_factor` times in `original_context_length`
            tokens is divided by `factor`, one that turns more than `high_freq_factor` times is left alone, and those
            between go from one to the other. ``"linear"``: all are divided by `factor`. ``"yarn"`` (arXiv:2309.00071):
            pairs that turn less than `beta_slow` times are divided, those that turn more than `beta_fast` times are
            not, and between the two the share goes with the pair's number; cosines and sines are multiplied with
            `attention_factor`. Other kinds are named, and nothing here computes them.
        factor, low_freq_factor, high_freq_factor, original_context_length: as above; ``"linear"`` has the first alone.
        attention_factor, beta_fast, beta_slow: of ``"yarn"``.
        truncate: of ``"yarn"``: the two bounds between pairs are rounded outwards to whole pairs.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Model:
    """The architecture of a decoder-only language model with RMSNorm and gated MLPs (three matrices each).

    Attributes:
        name: how the course and the Hugging Face hub call it.
        n_layers, d_model, d_ff, vocab_size: blocks, width of the residual stream, inner width of a dense MLP, tokens.
        n_heads, n_kv_heads, head_dim: query heads, key/value heads, numbers in a head (with MLA: in a query head).
        tied_embeddings: the output head is the embedding matrix, stored and counted once.
        context_length: tokens that the model is made for (``max_position_embeddings``).
        rope_theta: base of the rotary position encoding.
        norms_per_block: 2, or 4 where the outputs of attention and MLP are normalised too (Gemma 2).
        qk_norm: queries and keys are normalised, with one weight vector of ``head_dim`` each (Qwen3).
        qkv_bias, o_bias, mlp_bias: linear layers that add a bias (Qwen2.5: the first).
        sliding_window: tokens that a local layer looks back, None where every layer sees all; ``n_local_layers``
            says how many layers are local.
        experts, latent: a mixture of experts; multi-head latent attention; None where the model has neither.
        source: config.json and technical report.
        norm_eps: added under the root of an RMSNorm.
        rope_scaling: how the rotary frequencies are stretched, None where they are not.
        activation: the function between an MLP's matrices: ``"silu"``, ``"gelu"``, ``"gelu_tanh"`` (its approximation
            by tanh) or ``"relu"``.
    """

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    tied_embeddings: bool
    context_length: int
    rope_theta: float
    source: str
    norms_per_block: int = 2
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    n_local_layers: int = 0
    experts: Experts | None = None
    latent: LatentAttention | None = None
    norm_eps: float = 1e-5
    rope_scaling: RopeScaling | None = None
    activation: str = "silu"

    @property
    def q_width(self) -> int:
        """Numbers that a token has in all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Numbers that a token has in all key heads together, and again in all value heads."""
        return self.n_kv_heads * self.head_dim

    def matrices(self) -> dict[str, tuple[int, int]]:
        """A layer's seven matrices by their names in a GGUF file, each ``(n_out, n_in)``.

        Raises:
            NoFormula: the layers have others: experts, or latent attention.

        >>> from llmhw_helpers.specs.models import model
        >>> model("SmolLM2-135M").matrices()["attn_k"]
        (192, 576)
        """
        if self.experts or self.latent:
            raise NoFormula(f"{self.name} has {' and '.join(self.unlike_llama())}: its layers have other matrices")
        d_model, d_ff, q, kv = self.d_model, self.d_ff, self.q_width, self.kv_width
        attention = {"attn_q": (q, d_model), "attn_k": (kv, d_model), "attn_v": (kv, d_model)}
        mlp = {"ffn_gate": (d_ff, d_model), "ffn_up": (d_ff, d_model), "ffn_down": (d_model, d_ff)}
        return attention | {"attn_output": (d_model, q)} | mlp

    def unlike_llama(self, but: Collection[str] = ()) -> list[str]:
        """The parts that a Llama (arXiv:2307.09288) has not, for whoever computes a Llama's; `but` are known there."""
        parts = {
            "a mixture of experts": self.experts,
            "latent attention": self.latent,
            "local layers": self.n_local_layers,
            "norms of queries and keys": self.qk_norm,
            "norms after each part": self.norms_per_block != 2,
            "biases": self.qkv_bias or self.o_bias or self.mlp_bias,
            f"the activation {self.activation}": self.activation != "silu",
        }
        return [part for part, there in parts.items() if there and part not in but]

    @property
    def n_moe_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.n_layers - self.experts.n_dense_layers if self.experts else 0

    @property
    def n_params(self) -> int:
        """All parameters; a tied output head adds nothing."""
        return sum(self.parameters().values())

    @property
    def n_active_params(self) -> int:
        """Parameters that serve one token: all but those of the routed experts it is not sent to.

        The whole embedding is in it, as in the published counts of Qwen3-30B-A3B (3.3e9) and Mixtral (12.9e9), though
        a token reads only one row. DeepSeek's 37e9 lies between this count (37.55e9) and that without the embedding.
        """
        if self.experts is None:
            return self.n_params
        unused = self.experts.n_experts - self.experts.n_experts_per_token
        return self.n_params - self.n_moe_layers * unused * self._mlp(self.experts.d_ff_expert)

    def parameters(self) -> dict[str, int]:
        """Parameters by part, over all layers; they sum to `n_params`, and only the parts that a model has are listed.

        Parts: ``embedding``, ``attention``, ``mlp`` (dense layers), ``experts`` (routed and shared), ``router``,
        ``norms`` (of the blocks, of queries, keys and latents, and the last one), ``head`` (untied only).

        >>> from llmhw_helpers.specs.models import model
        >>> model("SmolLM2-135M").parameters()
        {'embedding': 28311552, 'attention': 26542080, 'mlp': 79626240, 'norms': 35136}
        """
        e = self.experts
        n_experts = e.n_experts + e.n_shared_experts if e else 0
        matrix = self.vocab_size * self.d_model
        parts = {
            "embedding": matrix,
            "attention": self.n_layers * self._attention(),
            "mlp": (self.n_layers - self.n_moe_layers) * self._mlp(self.d_ff),
            "experts": self.n_moe_layers * n_experts * self._mlp(e.d_ff_expert) if e else 0,
            "router": self.n_moe_layers * e.n_experts * (self.d_model + e.router_bias) if e else 0,
            "norms": self.n_layers * self._block_norms() + self.d_model,
            "head": 0 if self.tied_embeddings else matrix,
        }
        return {part: count for part, count in parts.items() if count}

    def _attention(self) -> int:
        if self.latent:
            return self._latent_attention(self.latent)
        q, kv = self.q_width, self.kv_width
        matrices = self.d_model * (q + 2 * kv) + q * self.d_model
        return matrices + self.qkv_bias * (q + 2 * kv) + self.o_bias * self.d_model

    def _latent_attention(self, latent: LatentAttention) -> int:
        q = self.n_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
        rank = latent.q_lora_rank
        queries = self.d_model * q if rank is None else self.d_model * rank + rank * q
        down = self.d_model * (latent.kv_lora_rank + latent.qk_rope_head_dim)
        up = latent.kv_lora_rank * self.n_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        return queries + down + up + self.n_heads * latent.v_head_dim * self.d_model

    def _mlp(self, d_ff: int) -> int:
        return 3 * self.d_model * d_ff + self.mlp_bias * (2 * d_ff + self.d_model)

    def _block_norms(self) -> int:
        latents = (self.latent.q_lora_rank or 0) + self.latent.kv_lora_rank if self.latent else 0
        return self.norms_per_block * self.d_model + self.qk_norm * 2 * self.head_dim + latents
