"""The parts that only some language models have: experts, latent attention, stretched rotary frequencies."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP: a router sends every token to a few small MLPs.

    Attributes:
        n_experts, n_experts_per_token: routed experts in a layer, and how many of them a token visits.
        d_ff_expert: inner width of one expert.
        n_shared_experts: experts of the same width that every token visits besides.
        n_dense_layers: layers (the first ones in DeepSeek-V3, every other one in Llama 4 Maverick) that keep an
            ordinary MLP.
        router_bias: one more number an expert: the bias of gpt-oss's router, or what steers the choice of experts
            (DeepSeek-V3's ``e_score_correction_bias``: in the checkpoint and so counted here, a buffer and no
            parameter in PyTorch).
        bias: each matrix of a routed expert adds a bias (gpt-oss).
    """

    n_experts: int
    n_experts_per_token: int
    d_ff_expert: int
    n_shared_experts: int = 0
    n_dense_layers: int = 0
    router_bias: bool = False
    bias: bool = False

    def asleep(self, n_tokens: float) -> float:
        """Routed experts of a layer that none of `n_tokens` visits: ``E (1 - k / E) ** n_tokens`` on average.

        That is so where all are chosen alike often, and tokens choose for themselves.

        >>> Experts(8, 2, d_ff_expert=14336).asleep(1), Experts(8, 2, d_ff_expert=14336).asleep(2)
        (6.0, 4.5)
        """
        return self.n_experts * (1 - self.n_experts_per_token / self.n_experts) ** n_tokens


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
            `attention_factor`. Other kinds (``"dynamic"``, ``"longrope"``) are named, and nothing here computes them.
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
