"""The rotary settings of a config.json: ``rope_scaling`` and ``rope_theta``, or ``rope_parameters`` (transformers 5).

They are resolved as transformers does (``modeling_rope_utils.py``): yarn's factor on cosines and sines, for instance,
is computed where the file does not say it.
"""

import math
from collections.abc import Mapping

from .parts import RopeScaling
from .settings import Settings

BY_KIND = {  # what each kind may say
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "longrope": (
        *("factor", "original_max_position_embeddings", "attention_factor"),
        *("short_factor", "long_factor", "short_mscale", "long_mscale"),
    ),
}
# "finetuned" tells people that the model was trained with the stretched frequencies.
COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")


def read_rotary(settings: Settings, theta: float, partial: float | None = None) -> dict[str, object]:
    """The fields of a `Model` that say how queries and keys are turned.

    Args:
        settings: the config.json.
        theta: the base where it says none.
        partial: the share of a head that is turned where it says none; None where the architecture turns all of it,
            whatever it says.

    Raises:
        ValueError: an unknown kind, a missing or unknown setting, settings by layer type, which only Gemma 3 has.
    """
    old, new = settings.table("rope_scaling"), settings.table("rope_parameters")
    if old and not settings.values.get("rope_parameters"):
        new = {}  # no default where the file says something
    if nested := [key for key, value in {**new, **old}.items() if isinstance(value, Mapping)]:
        names = ", ".join(map(repr, nested))
        raise settings.wrong(f"rotary settings by layer type ({names}), which this architecture has not")
    if differing := [key for key in old if key in new and old[key] != new[key]]:
        raise settings.wrong(f"'rope_scaling' and 'rope_parameters' differ in {', '.join(map(repr, differing))}")
    return _flat(settings, {**new, **old}, theta, partial)


def read_rotary_by_layer_type(settings: Settings, thetas: tuple[float, float], n_local: int) -> dict[str, object]:
    """The same for Gemma 3, whose full and local layers turn differently; `thetas` are the bases without a word.

    An old ``rope_scaling`` is for the full layers alone.
    """
    new = settings.table("rope_parameters")
    if wrong := [key for key in new if key not in ("full_attention", "sliding_attention")]:
        raise settings.wrong(f"'rope_parameters' by layer type, and {', '.join(map(repr, wrong))} is none")
    full, local = (_table(settings, new, key) for key in ("full_attention", "sliding_attention"))
    local = {"rope_theta": settings.number("rope_local_base_freq", above=1), **local}
    fields = _flat(settings, {**full, **settings.table("rope_scaling")}, thetas[0], None)
    of_local = _flat(settings, local, thetas[1], None, top=False)
    if of_local["rope_scaling"]:
        raise settings.wrong("local layers with stretched rotary frequencies, which have no formula")
    return fields | {"local_rope_theta": of_local["rope_theta"] if n_local else None}


def _table(settings: Settings, of: Mapping, key: str) -> Mapping:
    return Settings(of, f"{settings.where}: 'rope_parameters'").table(key)


def _flat(
    settings: Settings, said: Mapping, theta: float, partial: float | None, top: bool = True
) -> dict[str, object]:
    rope = Settings(said, f"{settings.where}: rotary settings")
    outer = settings if top else Settings({}, settings.where)
    kind = _kind(rope, settings)
    length = settings.size("max_position_embeddings")
    original = settings.get("original_max_position_embeddings")
    theta = rope.number("rope_theta", outer.number("rope_theta", theta, above=1), above=1)
    share = rope.number("partial_rotary_factor", outer.number("partial_rotary_factor", partial, above=0), above=0)
    if share is not None and (share > 1 or (partial is None and share != 1)):
        raise settings.wrong(f"'partial_rotary_factor' is {share:g}, which this architecture has no formula for")
    for key, value in said.items():
        if key not in COMMON and key not in BY_KIND[kind] and value is not None:
            raise rope.wrong(f"{str(key)!r} with the kind {kind!r}")
    if original is not None and "original_max_position_embeddings" in BY_KIND[kind]:  # it goes before the inner one
        rope.values = {**said, "original_max_position_embeddings": settings.size("original_max_position_embeddings")}
    scaling = None if kind == "default" else _scaling(kind, rope, length)
    return {"rope_theta": theta, "rope_scaling": scaling, "partial_rotary_factor": 1.0 if share is None else share}


def _kind(rope: Settings, settings: Settings) -> str:
    named = {key: rope.one_of(key, (*BY_KIND, "su")) for key in ("rope_type", "type") if rope.get(key) is not None}
    if len(set(named.values())) > 1:
        raise rope.wrong(f"'rope_type' is {named['rope_type']!r}, and 'type' {named['type']!r}")
    kind = next(iter(named.values()), "default")
    if settings.values.get("model_type") == "phi3" and kind != "default":
        if kind not in ("su", "yarn", "longrope"):
            raise rope.wrong(f"the kind {kind!r}, which 'phi3' has not")
        return "longrope"  # whatever it was called when Phi-3 was young
    return "longrope" if kind == "su" else kind


def _scaling(kind: str, rope: Settings, length: int) -> RopeScaling:
    sizes = BY_KIND["llama3"] if kind == "llama3" else ("factor",)
    if kind in ("yarn", "longrope") and (kind == "longrope" or rope.is_null("factor")):
        sizes = ()  # the ratio of the two lengths, below
    if missing := [key for key in sizes if not _is_number(rope.values.get(key))]:
        where = rope.where.removesuffix(": rotary settings")
        raise ValueError(f"{where}: rotary scaling {kind!r} without a number for {', '.join(map(repr, missing))}")
    original = rope.size("original_max_position_embeddings", length)
    factor = rope.number("factor", length / original, above=0)
    if kind == "llama3":
        low, high = (rope.number(key, above=0) for key in ("low_freq_factor", "high_freq_factor"))
        return RopeScaling(kind, factor, low, high, original)
    if kind == "yarn":
        return _yarn(rope, factor, original)
    if kind == "longrope":
        own = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        attention_factor = rope.number("attention_factor", own, above=0)
        return RopeScaling(kind, factor, original_context_length=original, attention_factor=attention_factor)
    return RopeScaling(kind, factor)


def _yarn(rope: Settings, factor: float, original: int) -> RopeScaling:
    def growth(scale: float = 1.0) -> float:
        """The factor that arXiv:2309.00071, section 3.4, puts on cosines and sines."""
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    own, over = rope.number("mscale"), rope.number("mscale_all_dim")
    denominator = growth(over) if own and over else 1.0
    if not denominator:
        raise rope.wrong("'mscale_all_dim' makes the factor on cosines and sines infinite")
    resolved = growth(own) / denominator if own and over else growth()
    if rope.is_null("truncate"):
        raise rope.wrong("'truncate' is None, neither true nor false")
    return RopeScaling(
        "yarn",
        factor,
        original_context_length=original,
        attention_factor=rope.number("attention_factor", resolved, above=0),
        beta_fast=rope.number("beta_fast") or 32.0,
        beta_slow=rope.number("beta_slow") or 1.0,
        truncate=rope.flag("truncate", True),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
