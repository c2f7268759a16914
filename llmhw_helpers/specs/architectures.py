"""The architecture of a language model, and the exact parameter count that follows from it.

A count is the sum over the tensors of a checkpoint, so it can be checked to the last digit. Two things make the usual
estimates wrong: an output head that shares its matrix with the embedding is one matrix, not two, and the size of a
head is a free choice (``head_dim``), not ``d_model / n_heads``.
"""

from collections.abc import Collection
from dataclasses import dataclass

from .parts import Experts, LatentAttention, RopeScaling


class NoFormula(ValueError):
    """A model that a formula would be wrong for; the message says which part of it has none."""


@dataclass(frozen=True)
class Model:
    """The architecture of a decoder-only language model; without the later fields, of a Llama (arXiv:2307.09288).

    Attributes:
        name: how the course and the Hugging Face hub call it.
        n_layers, d_model, d_ff, vocab_size: blocks, width of the residual stream, inner width of a dense MLP, tokens.
        n_heads, n_kv_heads, head_dim: query heads, key/value heads, numbers in a head (with MLA: in a query head).
        tied_embeddings: the output head is the embedding matrix, stored and counted once.
        context_length: tokens that the model is made for (``max_position_embeddings``).
        rope_theta: base of the rotary position encoding.
        norms_per_block: 2, or 4 where the outputs of attention and MLP are normalised too (Gemma 2), or 1 where both
            read the same norm (Falcon-7B).
        qk_norm: queries and keys are normalised; `qk_norm_kind` says how.
        qkv_bias, o_bias, mlp_bias: linear layers that add a bias (Qwen2.5: the first).
        sliding_window: tokens that a local layer looks back (with `chunked_attention`: the length of a chunk), None
            where every layer sees all; ``n_local_layers`` says how many layers are local.
        experts, latent: a mixture of experts; multi-head latent attention; None where the model has neither.
        source: config.json and technical report.
        norm_eps: added under the root of a norm.
        rope_scaling: how the rotary frequencies are stretched, None where they are not.
        activation: the function between an MLP's matrices: ``"silu"``, ``"gelu"``, ``"gelu_tanh"`` (its approximation
            by tanh) or ``"relu"``.
        gated_mlp: an MLP has three matrices, two side by side; else two (GPT-2).
        layer_norm: LayerNorm, with a weight and a bias for each number, in place of RMSNorm.
        norm_bias: these norms have the bias (MPT: not).
        norms_after: a block's two norms are over the outputs of attention and MLP, not over their inputs (OLMo 2).
        qk_norm_kind: ``"head"``: one weight vector of ``head_dim`` for queries, one for keys (Qwen3). ``"all heads"``:
            over all heads together, with as many weights (OLMo 2). ``"unweighted"``: no weights, and on turned layers
            only (Llama 4).
        positions: ``"rotary"``, ``"learned"`` (a vector for each position of the context, added to the embedding:
            GPT-2), or ``"alibi"`` (arXiv:2108.12409).
        partial_rotary_factor: share of a head's numbers that is turned, the first ones (GLM-4.5: half).
        n_nope_layers: layers whose queries and keys are not turned (SmolLM3, Llama 4: "NoPE").
        local_rope_theta: rotary base of the local layers, which are not stretched, where they have their own (Gemma 3).
        chunked_attention: a local layer's token sees those of its own chunk only, not a window that slides (Llama 4).
        attention_sinks: a learned number for each query head and layer, in the softmax beside the scores (gpt-oss).
        parallel_blocks: attention and MLP read the same stream, and both are added to it (Falcon).
        further: what else is computed otherwise than in a Llama, in words; adds neither parameters nor cache.
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
    gated_mlp: bool = True
    layer_norm: bool = False
    norm_bias: bool = True
    norms_after: bool = False
    qk_norm_kind: str = "head"
    positions: str = "rotary"
    partial_rotary_factor: float = 1.0
    n_nope_layers: int = 0
    local_rope_theta: float | None = None
    chunked_attention: bool = False
    attention_sinks: bool = False
    parallel_blocks: bool = False
    further: tuple[str, ...] = ()

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
            NoFormula: the layers have others: experts, latent attention, or MLPs without a gate.

        >>> from llmhw_helpers.specs.models import model
        >>> model("SmolLM2-135M").matrices()["attn_k"]
        (192, 576)
        """
        if self.experts or self.latent or not self.gated_mlp:
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
            "norms of queries and keys": self.qk_norm and self.qk_norm_kind == "head",
            f"norms of queries and keys ({self.qk_norm_kind})": self.qk_norm and self.qk_norm_kind != "head",
            "norms after each part": self.norms_per_block > 2,
            "norms after each part, none before": self.norms_after,
            "one norm a block": self.norms_per_block < 2,
            "biases": self.qkv_bias or self.o_bias or self.mlp_bias,
            "biases of experts": self.experts and self.experts.bias,
            f"the activation {self.activation}": self.activation != "silu",
            "MLPs without a gate": not self.gated_mlp,
            "layer norms": self.layer_norm,
            f"{self.positions} positions": self.positions != "rotary",
            "heads that are turned in part": self.partial_rotary_factor != 1,
            "layers that are not turned": self.n_nope_layers,
            "a rotary base for local layers": self.local_rope_theta,
            "chunked attention": self.chunked_attention,
            "attention sinks": self.attention_sinks,
            "parallel blocks": self.parallel_blocks,
            **dict.fromkeys(self.further, True),
        }
        return [part for part, there in parts.items() if there and part not in but]

    def kv_numbers(self, seq_len: int) -> int:
        """Numbers that the cache of one sequence of `seq_len` tokens holds, over all layers.

        A local layer needs no more tokens than its window or its chunk. With latent attention (arXiv:2405.04434) a
        layer keeps one latent and one rotary key for all heads.

        >>> from llmhw_helpers.specs.models import model
        >>> model("Llama-2-13B").kv_numbers(1), model("DeepSeek-V3").kv_numbers(1)
        (409600, 35136)
        """
        if self.latent:
            return self.n_layers * seq_len * (self.latent.kv_lora_rank + self.latent.qk_rope_head_dim)
        seen_by_local = min(seq_len, self.sliding_window or seq_len)
        slots = (self.n_layers - self.n_local_layers) * seq_len + self.n_local_layers * seen_by_local
        return 2 * slots * self.kv_width

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
        return self.n_params - self.n_moe_layers * unused * self._mlp(self.experts.d_ff_expert, self.experts.bias)

    def parameters(self) -> dict[str, int]:
        """Parameters by part, over all layers; they sum to `n_params`, and only the parts that a model has are listed.

        Parts: ``embedding``, ``positions`` (learned ones), ``attention``, ``mlp`` (dense layers), ``experts`` (routed
        and shared), ``router``, ``norms`` (of the blocks, of queries, keys and latents, and the last one), ``head``
        (untied only).

        >>> from llmhw_helpers.specs.models import model
        >>> model("SmolLM2-135M").parameters()
        {'embedding': 28311552, 'attention': 26542080, 'mlp': 79626240, 'norms': 35136}
        """
        matrix = self.vocab_size * self.d_model
        parts = {
            "embedding": matrix,
            "positions": self.context_length * self.d_model if self.positions == "learned" else 0,
            "attention": self.n_layers * self._attention(),
            "mlp": (self.n_layers - self.n_moe_layers) * self._mlp(self.d_ff, self.mlp_bias),
            "experts": self.n_moe_layers * self._experts(self.experts) if self.experts else 0,
            "router": self.n_moe_layers * self._router(self.experts) if self.experts else 0,
            "norms": self.n_layers * self._block_norms() + self._norm(),
            "head": 0 if self.tied_embeddings else matrix,
        }
        return {part: count for part, count in parts.items() if count}

    def _attention(self) -> int:
        if self.latent:
            return self._latent_attention(self.latent)
        q, kv = self.q_width, self.kv_width
        matrices = self.d_model * (q + 2 * kv) + q * self.d_model
        biases = (q + 2 * kv if self.qkv_bias else 0) + (self.d_model if self.o_bias else 0)
        return matrices + biases + (self.n_heads if self.attention_sinks else 0)

    def _latent_attention(self, latent: LatentAttention) -> int:
        q = self.n_heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
        rank = latent.q_lora_rank
        queries = self.d_model * q if rank is None else self.d_model * rank + rank * q
        down = self.d_model * (latent.kv_lora_rank + latent.qk_rope_head_dim)
        up = latent.kv_lora_rank * self.n_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        return queries + down + up + self.n_heads * latent.v_head_dim * self.d_model

    def _mlp(self, d_ff: int, bias: bool = False) -> int:
        inner = 2 * d_ff if self.gated_mlp else d_ff  # numbers that the first matrices make
        return self.d_model * (inner + d_ff) + (inner + self.d_model if bias else 0)

    def _experts(self, experts: Experts) -> int:
        routed = experts.n_experts * self._mlp(experts.d_ff_expert, experts.bias)
        return routed + experts.n_shared_experts * self._mlp(experts.d_ff_expert)

    def _router(self, experts: Experts) -> int:
        return experts.n_experts * (self.d_model + (1 if experts.router_bias else 0))

    def _norm(self) -> int:
        return 2 * self.d_model if self.layer_norm and self.norm_bias else self.d_model

    def _block_norms(self) -> int:
        latents = (self.latent.q_lora_rank or 0) + self.latent.kv_lora_rank if self.latent else 0
        of_qk = {"head": 2 * self.head_dim, "all heads": self.q_width + self.kv_width, "unweighted": 0}
        return self.norms_per_block * self._norm() + (of_qk[self.qk_norm_kind] if self.qk_norm else 0) + latents
