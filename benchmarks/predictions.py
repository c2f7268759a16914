"""A prediction for one measured row: what all kinds of rows share."""

import re
from dataclasses import dataclass, replace

from llmhw_helpers.costs.speed import Speed
from llmhw_helpers.specs.architectures import Model
from llmhw_helpers.specs.measured import Row
from llmhw_helpers.specs.models import model

# Megatron's models, arXiv:2205.05198, table 3: layers, width, heads
GPTS = {"GPT-22B": (48, 6144, 64), "GPT-175B": (96, 12288, 96), "GPT-530B": (105, 20480, 128)}
OTHER_NAMES = {"Llama-8B": "Llama-3.1-8B", "Llama-70B": "Llama-3.1-70B"}


class NotPredicted(ValueError):
    """A row that lacks what a prediction asks for, or that is of another kind."""


@dataclass(frozen=True)
class Prediction:
    """A row with its range and what is likely, in the row's unit."""

    row: Row
    low: float
    high: float
    likely: float
    note: str


def of_speed(row: Row, rate: Speed, factor: float = 1) -> Prediction:
    """The range of a speed, in a row's unit."""
    return Prediction(row, factor * rate.low, factor * rate.high, factor * rate.likely, rate.share.basis)


def of_time(row: Row, rate: Speed, n_tokens: float) -> Prediction:
    """The range of the time that so many tokens take, in the unit of ``1 / rate``."""
    return Prediction(row, n_tokens / rate.high, n_tokens / rate.low, n_tokens / rate.likely, rate.share.basis)


def said(row: Row, name: str) -> str:
    """A field of the row; `NotPredicted` where it is empty or left open."""
    if getattr(row, name) in (None, "?", "unknown"):
        raise NotPredicted(f"{name} is not said")
    return getattr(row, name)


def named(name: str) -> Model:
    """The model called so, but for what stands in brackets."""
    name = re.sub(r" *\(.*", "", name)
    if name not in GPTS:
        return model(OTHER_NAMES.get(name, name))
    n_layers, d_model, n_heads = GPTS[name]
    heads = {"n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": d_model // n_heads}
    sizes = {"n_layers": n_layers, "d_model": d_model, "d_ff": 4 * d_model, "vocab_size": 51200}
    return replace(model("gpt2"), name=name, **sizes, **heads, context_length=2048)
