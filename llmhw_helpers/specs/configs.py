"""Any model from its Hugging Face config.json: every setting is applied, known to change nothing, or refused."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from . import families, families_layer_norm
from .architectures import Model
from .json_text import parse_json, read_file
from .rotary import read_rotary
from .settings import Settings, one_line, shown

ACTIVATIONS = {
    **dict.fromkeys(("silu", "swish"), "silu"),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    # one function, written in five ways
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_tanh"),
    "relu": "relu",
}
# Under which names files say it; a second one is said again (Falcon 3), or unknown
ACTIVATION_NAMES = ("hidden_act", "hidden_activation", "activation", "activation_function")


@dataclass(frozen=True)
class Family:
    """One ``model_type``.

    Attributes:
        own: reads the fields of a `Model` in which this family differs from a Llama.
        defaults: of choices that a file leaves out, as in transformers' configuration class; sizes that every file says
            have none.
        names: of the common settings, where they have others.
        as_many_kv_heads: as query heads, where the file leaves their number out.
        head_dim_is_said: a file that leaves it out does not mean ``hidden_size / num_attention_heads``.
        rope_theta: base of the rotary positions, where the file leaves it out.
        source: of the defaults.
    """

    own: Callable[[Settings], families.Fields]
    defaults: Mapping[str, object] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    as_many_kv_heads: bool = False
    head_dim_is_said: bool = False
    rope_theta: float = 1e4
    source: str = "the family's configuration class in Hugging Face transformers 5"


_GPT2 = {
    **{"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    **{"max_position_embeddings": "n_positions", "rms_norm_eps": "layer_norm_epsilon"},
    "hidden_act": "activation_function",
}
_MPT = {
    **{"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
    **{"max_position_embeddings": "max_seq_len", "rms_norm_eps": "layer_norm_epsilon"},
}
_WINDOW = {"sliding_window": 4096}
_GEMMA = {**_WINDOW, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}
_GEMMA3 = {  # its first files leave out what is as in the 4B model
    **{"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
    **{"max_position_embeddings": 131072, "query_pre_attn_scalar": 256},
}
_GPT_OSS_ROPE = {
    **{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    "original_max_position_embeddings": 4096,
}
_FALCON = {"tie_word_embeddings": True, "hidden_act": "gelu", "max_position_embeddings": 2048}
_V3 = {"n_shared_experts": 1, "first_k_dense_replace": 3}
_EPS = {"rms_norm_eps": 1e-5}  # where it is not 1e-6

FAMILIES = {
    "llama": Family(families.llama, as_many_kv_heads=True),
    "mistral": Family(families.mistral, defaults=_WINDOW),
    "qwen2": Family(families.qwen2, defaults=_WINDOW),
    "qwen3": Family(families.qwen3, defaults=_WINDOW, head_dim_is_said=True),
    "gemma": Family(
        families.gemma,
        defaults={"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 256},
        names={"hidden_act": "hidden_activation"},
    ),
    "gemma2": Family(
        families.gemma2,
        defaults={
            **_GEMMA,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        names={"hidden_act": "hidden_activation"},
        head_dim_is_said=True,
    ),
    "mixtral": Family(families.mixtral, defaults=_EPS, rope_theta=1e6),
    "qwen3_moe": Family(families.qwen3_moe, defaults=_WINDOW),
    "deepseek_v3": Family(families.deepseek_v3, defaults=_V3, as_many_kv_heads=True),
    "kimi_k2": Family(families.deepseek_v3, defaults=_V3, as_many_kv_heads=True),
    "deepseek_v2": Family(
        families.deepseek_v2, defaults={"n_shared_experts": 2, "first_k_dense_replace": 0}, as_many_kv_heads=True
    ),
    "phi3": Family(families.phi3, defaults={**_EPS, "original_max_position_embeddings": 4096}, as_many_kv_heads=True),
    "gpt2": Family(
        families_layer_norm.gpt2, defaults={**_EPS, "tie_word_embeddings": True, "hidden_act": "gelu_new"}, names=_GPT2
    ),
    "olmo2": Family(families.olmo2, defaults=_EPS, as_many_kv_heads=True),
    "smollm3": Family(families.smollm3, defaults={"tie_word_embeddings": True}, rope_theta=2e6),
    "gemma3_text": Family(families.gemma3, defaults={**_GEMMA, **_GEMMA3}, names={"hidden_act": "hidden_activation"}),
    "gpt_oss": Family(
        families.gpt_oss,
        defaults={**_EPS, "sliding_window": 128, "rope_parameters": _GPT_OSS_ROPE},
        head_dim_is_said=True,
        rope_theta=150000.0,
    ),
    "llama4_text": Family(
        families.llama4, defaults={**_EPS, "attention_chunk_size": 8192}, head_dim_is_said=True, rope_theta=500000.0
    ),
    "glm4_moe": Family(families.glm4_moe, defaults={**_EPS, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "falcon": Family(
        families_layer_norm.falcon,
        defaults={**_EPS, **_FALCON},
        names={"hidden_act": "activation", "rms_norm_eps": "layer_norm_epsilon"},
    ),
    "stablelm": Family(families_layer_norm.stablelm, defaults=_EPS, names={"rms_norm_eps": "layer_norm_eps"}),
    "mpt": Family(
        families_layer_norm.mpt, defaults={**_EPS, "hidden_act": "gelu", "max_position_embeddings": 2048}, names=_MPT
    ),
}
# Models of text and images: the text model is read, and it is said that the rest is not.
WITH_IMAGES = {"gemma3": "gemma3_text", "llama4": "llama4_text"}
ARCHITECTURES = (*FAMILIES, *WITH_IMAGES)


def from_config(config: Mapping | str | PathLike, name: str | None = None) -> Model:
    """The model that a Hugging Face config.json describes, given as its path or as the mapping read from it.

    Where the file describes a model of text and images, this is its text model. Settings that are not known, and do not
    sound as if they changed the computation, are named in one warning. How the weights are stored
    (``quantization_config``) is no part of the architecture. Heads for further tokens (MTP) are not counted.

    Raises:
        ValueError: not to be read, not JSON, an architecture without a formula here, a setting that is missing or no
            size, or one that is not known here and may change what is computed.
        FileNotFoundError: no file there.

    >>> from_config({"model_type": "llama", "num_hidden_layers": 30, "num_attention_heads": 9})
    Traceback (most recent call last):
        ...
    ValueError: config: 'hidden_size' is missing
    """
    where = "config"
    if not isinstance(config, Mapping):
        where = str(config)
        try:
            config = parse_json(read_file(Path(config)))
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error})") from None
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    if not isinstance(config, Mapping) or "model_type" not in config:
        raise ValueError(f"{where}: 'model_type' is missing; is it the config.json of a model?")
    kind, notes, unread = config["model_type"], [], []
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"{where}: no formula for {shown(kind)}, only for {', '.join(ARCHITECTURES)}")
    called = name or str(config.get("_name_or_path") or kind)
    if kind in WITH_IMAGES:
        notes = ["its text model alone, without what reads images"]
        config, kind, unread = _text_model(config, where)
    family = FAMILIES[kind]
    settings = Settings(config, where, family.defaults, family.names)
    fields = _read(settings, family)
    if unread := unread + settings.unread(kind):
        notes.append(f"not known, and taken to change nothing: {', '.join(unread)}")
    if notes:
        warnings.warn(one_line(f"{where}: {'; '.join(notes)}"), stacklevel=2)
    return Model(name=called, source=f"{where}, architecture {kind}", **fields)


def _text_model(config: Mapping, where: str) -> tuple[Mapping, str, list[str]]:
    outer, kind = Settings(config, where), WITH_IMAGES[config["model_type"]]
    text = outer.table("text_config")
    if text.get("model_type", kind) != kind:
        raise outer.wrong(f"'text_config' describes {shown(text['model_type'])}, not {kind!r}")
    outer.known("vision_config", "mm_tokens_per_image", "tie_word_embeddings")
    unread = outer.unread(config["model_type"])
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
    return {**tied, **text, "model_type": kind}, kind, unread


def _read(settings: Settings, family: Family) -> families.Fields:
    n_heads, d_model = settings.size("num_attention_heads"), settings.size("hidden_size")
    fields: families.Fields = {
        "n_layers": settings.size("num_hidden_layers"),
        "d_model": d_model,
        "n_heads": n_heads,
        "vocab_size": settings.size("vocab_size"),
        "context_length": settings.size("max_position_embeddings"),
        "tied_embeddings": settings.flag("tie_word_embeddings"),
        "norm_eps": settings.number("rms_norm_eps", 1e-6, above=0),
        "activation": ACTIVATIONS[settings.one_of("hidden_act", ACTIVATIONS, "silu")],
        **family.own(settings),
    }
    for key in ACTIVATION_NAMES:
        said = settings.values.get(key)
        if isinstance(said, str) and ACTIVATIONS.get(said) == fields["activation"]:
            settings.known(key)
    if "d_ff" not in fields:
        fields["d_ff"] = settings.size("intermediate_size")
    if "n_kv_heads" not in fields:
        as_many = family.as_many_kv_heads or settings.is_null("num_key_value_heads")
        fields["n_kv_heads"] = settings.size("num_key_value_heads", n_heads if as_many else None)
    if "head_dim" not in fields:
        said = d_model % n_heads > 0 or (family.head_dim_is_said and not settings.is_null("head_dim"))
        fields["head_dim"] = settings.size("head_dim", None if said else d_model // n_heads)
    if n_heads % fields["n_kv_heads"]:
        raise settings.wrong(f"{n_heads} query heads, no multiple of {fields['n_kv_heads']} key/value heads")
    if "rope_theta" not in fields:
        fields |= read_rotary(settings, family.rope_theta)
    return fields
