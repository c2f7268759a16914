"""A GPU's share of a served model as vLLM lays it out: its part of the weights, and the cache of a token."""

import math
from dataclasses import replace

from ..specs.architectures import Model
from ..specs.dtypes import dtype as find_dtype
from ..specs.engines import Engine
from ..specs.flavours import Flavour
from .parallelism import part
from .weights import matrices, weight_bytes

VOCAB_MULTIPLE = 64  # to which vLLM rounds a vocabulary up before it divides it
# to which its MXFP4 kernels round widths of experts up, and the bits of a weight for which they do: before Hopper
# Marlin (vLLM, model_executor/layers/quantization/mxfp4.py), from it on Triton, which leaves the scales (by a log)
MXFP4_MULTIPLES = {"Marlin": (256, 128, 4.25), "Triton": (256, 64, 4.0)}
EXPANDED_HEAD = 256  # numbers of a key or a value, filled up, in a cache that knows no latents


def rank_part(model: Model, tp_size: int = 1, pp_size: int = 1, stage: int = 0) -> Model:
    """What a GPU of `tp_size` in that stage holds, its local layers as wide as the others; raises as `part`."""
    everywhere = replace(model, n_local_layers=0, sliding_window=None, n_nope_layers=0)
    return part(everywhere, tp_size, pp_size, stage, VOCAB_MULTIPLE)


def rank_weights(rank: Model, of: Flavour, engine: Engine, capability: float | None = None) -> int:
    """Bytes of its weights: matrices in the flavour, fillings, and the tables that are made of them when it starts.

    Args:
        rank: its part of the model.
        of: flavour.
        engine: release.
        capability: of the card, where it is known: before Hopper (9.0) other kernels ask for other fillings.

    >>> from llmhw_helpers.specs.engines import ENGINES
    >>> from llmhw_helpers.specs.models import model
    >>> from llmhw_helpers.specs.serving_flavours import serving_flavour
    >>> quarter = rank_part(model("gpt-oss-120b"), tp_size=4)
    >>> round(rank_weights(quarter, serving_flavour("mxfp4"), ENGINES["vLLM 0.10"], 8.0) / 2**30, 2)  # a log: 17.22
    17.2
    """
    return weight_bytes(rank, of) + _filling(rank, of, capability) + _rotary_table(rank) + _absorbed(rank, of, engine)


def kv_bytes_per_token(rank: Model, dtype: str, engine: Engine) -> int:
    """Bytes that a token's keys and values, or latents, take on this GPU.

    >>> from llmhw_helpers.specs.engines import ENGINES
    >>> from llmhw_helpers.specs.models import model
    >>> eighth = rank_part(model("DeepSeek-V3"), tp_size=8)
    >>> [kv_bytes_per_token(eighth, "bf16", ENGINES[name]) for name in ("vLLM 0.5", "vLLM 0.7")]
    [999424, 70272]
    """
    numbers = rank.kv_numbers(1)
    if rank.latent and engine.expands_latents:
        numbers = 2 * rank.n_layers * rank.n_heads * EXPANDED_HEAD
    return math.ceil(numbers * find_dtype(dtype).bytes)


def _filling(rank: Model, of: Flavour, capability: float | None) -> int:
    """What MXFP4 adds to experts whose widths its kernels do not take as they are."""
    if of.only != "experts" or not rank.experts:
        return 0
    kernel = "Marlin" if capability and capability < 9 else "Triton"
    d_model, d_ff_expert, bits = MXFP4_MULTIPLES[kernel]
    filled = _up(rank.d_model, d_model) * _up(rank.experts.d_ff_expert, d_ff_expert)
    share = filled / (rank.d_model * rank.experts.d_ff_expert) - 1
    return round(share * matrices(rank, of)["experts"] * bits / 8)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _rotary_table(rank: Model) -> int:
    """Sines and cosines of every position, for all layers together."""
    if rank.positions != "rotary":
        return 0
    turned = rank.latent.qk_rope_head_dim if rank.latent else rank.head_dim * rank.partial_rotary_factor
    return round(2 * rank.context_length * turned)


def _absorbed(rank: Model, of: Flavour, engine: Engine) -> int:
    """Matrices of latent attention that are there twice, in 16 bits.

    Where the weights are quantised, those that make keys and values from the latent are widened once. The first
    releases that knew latents multiplied them with their neighbours besides.
    """
    if not rank.latent or engine.expands_latents:
        return 0
    latent, heads = rank.latent, rank.n_heads
    numbers = 0
    if engine.keeps_absorbed:
        numbers = latent.kv_lora_rank * heads * ((latent.q_lora_rank or rank.d_model) + rank.d_model)
    elif of.bits and of.bits < 16:
        numbers = latent.kv_lora_rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return 2 * rank.n_layers * numbers
