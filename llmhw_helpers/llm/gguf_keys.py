"""What the keys of a Llama's GGUF file ask for, said as a config.json says it, which is where the two kinds meet.

A key is applied, known to change nothing, or refused. The names are the gguf library's (``gguf.constants.Keys``), the
meanings llama.cpp's (``load_hparams`` of its models, and what its ``llama_context`` makes of that).
"""

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from ..specs.settings import one_line
from .model_files import BadModelFile, check_architecture

APPLIED = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
SCALING = {
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
# Applied too, each in a way of its own, below.
OWN_WAY = {
    *("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"),
    *("rope.dimension_count", "attention.value_length"),
}
# Values with which a key changes nothing; with another one it is refused. The rows of queries and keys are in the
# order of Meta's files, as llama.cpp wants them, whether a file says so or not.
NEUTRAL = {
    **dict.fromkeys(("expert_count", "expert_used_count", "attention.sliding_window", "attention.scale"), (0,)),
    **dict.fromkeys(("attention.clamp_kqv", "attention.max_alibi_bias"), (0,)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), (0,)),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale"), (0, 1)),
    **dict.fromkeys(("rope.scaling.alpha", "rope.scaling.yarn_log_multiplier"), (0,)),
    "rope.scaling.yarn_ext_factor": (1, -1),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.finetuned": (False, True),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
}
PREFIX = "llama."
KNOWN = APPLIED.keys() | SCALING.keys() | OWN_WAY | NEUTRAL.keys()
OTHERS_MATTER = ("GGUF.", "general.", "tokenizer.", "split.", "quantize.", "imatrix.")  # read elsewhere, or by people
COMPUTES = re.compile(
    r"rope|rot|yarn|scal|multipl|factor|attn|attention|head|window|mask|causal|alibi|bias|expert|moe|router|gat(e|ing)"
    r"|norm|epsilon|activation|act_fn|hidden_act|glu|capping|clamp|logit|residual|rank|lora|quant|temperature"
)
ROPE_FREQS = "rope_freqs.weight"  # divides the frequencies: how a GGUF file stores Llama 3's stretching


def config_of(path: Path, metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """What a config.json would say; what the file does not say is left out.

    Raises:
        BadModelFile: a key asks for what is not computed here, or looks like it and is unknown, or has a value that
            cannot be. Unknown keys that do not look so are named in a warning.
    """
    check_architecture(path, metadata.get("general.architecture"))
    said = {key.removeprefix(PREFIX): metadata[key] for key in metadata if key.startswith(PREFIX)}
    _check_keys(path, said, [key for key in metadata if not key.startswith((PREFIX, *OTHERS_MATTER))])
    embedding = shapes.get("token_embd.weight")
    config = {theirs: said[key] for key, theirs in APPLIED.items() if key in said}
    config |= {
        "_name_or_path": str(metadata.get("general.name", "llama")),
        "model_type": metadata.get("general.architecture"),
        "num_key_value_heads": config.get("num_key_value_heads", config.get("num_attention_heads")),
        "head_dim": _head_dim(path, said),
        "vocab_size": embedding[0] if embedding else config.get("vocab_size"),
        "rope_scaling": _rope_scaling(path, said),
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_gate.bias" in shapes,
    }
    return {key: value for key, value in config.items() if value is not None}


def _check_keys(path: Path, said: Mapping[str, object], others: list[str]) -> None:
    for key, value in said.items():
        dangerous = value not in NEUTRAL[key] if key in NEUTRAL else key not in KNOWN and COMPUTES.search(key)
        if dangerous:
            _refuse(path, key, value)
    if unknown := [PREFIX + key for key in said if key not in KNOWN] + others:
        said = f"{path.name}: keys passed over, as nobody here knows them: {', '.join(unknown)}"
        warnings.warn(one_line(said), stacklevel=2)


def _refuse(path: Path, key: str, value: object, where: str = "") -> NoReturn:
    raise BadModelFile(f"{path} asks for {key} = {value!s:.60}{where}, which is not computed here")


def _number(path: Path, said: Mapping[str, object], key: str, default: float) -> float:
    value = said.get(key, default)
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadModelFile(f"{path} says {key} = {value!s:.60}, which is no size")
    return value


def _head_dim(path: Path, said: Mapping[str, object]) -> int | None:
    """As llama.cpp has it: of its own or ``d_model / n_heads``; all of it turns, and values have the same."""
    width, n_heads = said.get("embedding_length"), said.get("attention.head_count")
    whole = isinstance(width, int) and isinstance(n_heads, int) and n_heads > 0
    head_dim = said.get("attention.key_length", width // n_heads if whole else None)
    if head_dim is not None and not (isinstance(head_dim, int) and head_dim > 0 and head_dim % 2 == 0):
        _refuse(path, "attention.key_length", head_dim)
    for key in ("rope.dimension_count", "attention.value_length"):
        if head_dim is not None and said.get(key, head_dim) != head_dim:
            _refuse(path, key, said[key], f" in heads of {head_dim}")
    return head_dim


def _rope_scaling(path: Path, said: Mapping[str, object]) -> dict[str, object] | None:
    """A factor without a type is a linear one, and 0 is none."""
    kind = said.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        _refuse(path, "rope.scaling.type", kind)
    factor = _number(path, said, "rope.scaling.factor", _number(path, said, "rope.scale_linear", 0.0))
    more = _number(path, said, "rope.scaling.attn_factor", 1.0)  # times what yarn does by itself
    factor = 1.0 if kind == "none" or factor == 0 else factor
    if more != 1 and (kind != "yarn" or factor == 1):
        _refuse(path, "rope.scaling.attn_factor", more, " without yarn")
    if factor == 1:
        return None
    scaling = {"rope_type": kind, "factor": float(factor)}
    if kind == "yarn":
        context = said.get("context_length")
        scaling |= {"original_max_position_embeddings": context} if context else {}
        scaling |= {theirs: said[key] for key, theirs in SCALING.items() if key in said}
        scaling |= {"attention_factor": more * (0.1 * math.log(factor) + 1)} if more != 1 else {}
    return scaling
