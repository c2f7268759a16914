"""Bytes of a model's weights in a flavour: all that lie in memory, and those that a step reads."""

import math
from dataclasses import replace
from functools import cache

from ..specs.architectures import Model
from ..specs.flavours import Flavour
from .files import block_of, model_bytes, tensor_bytes

_file_bytes = cache(model_bytes)  # goes through hundreds of tensors, and every choice asks for the same


def weight_bytes(model: Model, of: Flavour) -> int:
    """Bytes of all weights: matrices of the blocks in the flavour, the rest in 16 bits; GGUF tensor by tensor.

    A router is no matrix of a block in this sense: no recipe quantises it.

    Raises:
        NoFormula: a GGUF recipe for a model that is not built like Llama.

    >>> from llmhw_helpers.specs.flavours import flavour
    >>> from llmhw_helpers.specs.models import model
    >>> [round(weight_bytes(model("Llama-3.1-8B"), flavour(n)) / 1e9, 2) for n in ("bf16", "AWQ int4", "GGUF Q4_K_M")]
    [16.06, 5.73, 4.91]
    """
    if of.recipe:
        return _file_bytes(model, of.recipe)
    quantised = sum(matrices(model, of).values())
    return round(quantised * _bits(model, of) / 8) + _wide(of) * (model.n_params - quantised)


def weights_read(model: Model, of: Flavour, n_tokens: float = 1) -> int:
    """Bytes of weights that a step of `n_tokens` tokens reads, as `inference.weights_read`, in a flavour.

    Raises:
        NoFormula: as `weight_bytes`.

    >>> from llmhw_helpers.specs.models import model
    >>> from llmhw_helpers.specs.serving_flavours import serving_flavour
    >>> [round(weights_read(model("gpt-oss-120b"), serving_flavour("mxfp4"), n) / 1e9, 1) for n in (1, 16, 1024)]
    [5.0, 27.4, 64.1]
    """
    read = weight_bytes(model, of)
    if of.recipe:
        shape = (model.vocab_size, model.d_model)
        table = tensor_bytes(shape, block_of(model, "token_embd", shape, of.recipe))
        return read - (0 if model.tied_embeddings else table)
    parts = model.parameters()
    unread = parts.get("positions", 0) + (0 if model.tied_embeddings else parts["embedding"])
    read -= _wide(of) * unread
    if e := model.experts:
        routed = replace(model, experts=replace(e, n_shared_experts=0))
        quantised = matrices(routed, of)["experts"]
        in_all = quantised * _bits(model, of) / 8 + _wide(of) * (routed.parameters()["experts"] - quantised)
        read -= in_all * e.asleep(n_tokens) / e.n_experts
    return math.ceil(read)


def matrices(model: Model, of: Flavour) -> dict[str, int]:
    """Weights that are stored in the flavour, by part as in `Model.parameters`: matrices, without their biases."""
    experts = model.experts and replace(model.experts, bias=False)
    bare = replace(
        model, qkv_bias=False, o_bias=False, mlp_bias=False, attention_sinks=False, experts=experts
    ).parameters()
    parts = {part: bare.get(part, 0) for part in ("attention", "mlp", "experts")}
    if of.only == "experts":
        parts = {"attention": 0, "mlp": 0, "experts": _routed(model, parts["experts"])}
    elif of.only == "inner MLPs":
        parts = {"attention": 0, "mlp": parts["mlp"] * max(0, model.n_layers - 2) // model.n_layers, "experts": 0}
    return parts


def _routed(model: Model, n_weights: int) -> int:
    e = model.experts
    return n_weights * e.n_experts // (e.n_experts + e.n_shared_experts) if e else 0


def _bits(model: Model, of: Flavour) -> float:
    return of.bits_per_weight(model.d_model)


def _wide(of: Flavour) -> int:
    """Bytes of a number that the flavour leaves alone."""
    return max(16, of.bits) // 8
