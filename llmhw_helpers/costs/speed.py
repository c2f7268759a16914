"""How fast, as a range: tokens a second that a system of today is likely to reach, beside what no system passes.

The roofline gives the speed that nobody passes. What real systems reach of it, `costs.efficiency` says, and
`costs.durations` puts a pass together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..specs.accelerators import Accelerator
from ..specs.architectures import Model
from ..specs.figures import Figure
from ..specs.flavours import Flavour
from .durations import Duration, Serving, Training
from .efficiency import SPREAD, Share

CHUNK = 2048  # tokens of prompts that a program reads at once, if there are so many


@dataclass(frozen=True)
class Speed:
    """Tokens a second, of all texts together on all GPUs together; of training, for each GPU.

    Attributes:
        low, high: the range that is expected.
        floor: tokens a second where a pass takes the roofline's floor of time: no system is faster.
        share: of `floor`, and what this rests on.
        seconds: of what was timed, where it goes at the likely speed, by what they go to.
        likely: what the fitted constants give, between the two.
    """

    low: float
    high: float
    floor: float
    share: Share
    seconds: Mapping[str, float]
    likely: float


def decode_speed(
    card: Accelerator,
    model: Model,
    flavour: str | Flavour = "bf16",
    batch_size: int = 1,
    context: int = 1024,
    tp_size: int = 1,
    pp_size: int = 1,
    **settings,
) -> Speed:
    """Tokens a second of `batch_size` texts, each with `context` tokens, from one new token to the next.

    Stages of a pipeline work one after the other for one text: they speed up only several texts, each stage a part of
    them at a time.

    Args:
        card: each of the GPUs.
        model: any that `costs.transformer` counts.
        flavour: of the weights, by name or as it is.
        batch_size, context: texts at the same time; tokens of each, the new one included.
        tp_size, pp_size: ranks that divide every layer; stages that divide the layers.
        settings: further fields of `durations.Serving`: ``program``, ``"engine"`` (vLLM) unless said otherwise, or
            another of `efficiency.PROGRAMS`; ``nodes`` that the ranks of `tp_size` are spread over, and the
            ``network`` between them, a link; ``kv_dtype``.

    Raises:
        NoFormula, Indivisible, UnknownName, UnknownFigure: the model, its division, a name, a card.
        UnsupportedDtype: the card has none of the formats asked for.
        ValueError: no texts, or no tokens.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> speed = decode_speed(accelerator("A100-80GB"), model("Qwen2.5-7B"))
    >>> round(speed.low), round(speed.high), round(speed.floor)
    (62, 112, 144)
    """
    job = Serving(card, model, flavour, tp_size, pp_size, **settings)
    return _speed("decode", batch_size, job.decode(_at_once(batch_size, pp_size), context))


def prefill_speed(
    card: Accelerator,
    model: Model,
    flavour: str | Flavour = "bf16",
    prompt: int = 1024,
    tp_size: int = 1,
    pp_size: int = 1,
    **settings,
) -> Speed:
    """Tokens a second of reading one prompt of `prompt` tokens; the first new token is there after ``prompt / speed``.

    Arguments and errors as in `decode_speed`.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> speed = prefill_speed(accelerator("A100-80GB"), model("Llama-2-7B"), "fp16", 2048)
    >>> round(2048 / speed.high, 2), round(2048 / speed.low, 2)  # seconds until the first token
    (0.09, 0.18)
    """
    return _speed("prefill", prompt, Serving(card, model, flavour, tp_size, pp_size, **settings).prefill(1, prompt))


def serving_speed(
    card: Accelerator,
    model: Model,
    flavour: str | Flavour = "bf16",
    users: int = 1,
    prompt: int = 1024,
    answer: int = 256,
    tp_size: int = 1,
    pp_size: int = 1,
    **settings,
) -> Speed:
    """New tokens a second of `users` who each send a prompt, get an answer, and send the next one at once.

    A round lasts as long as reading all prompts, some at a time, and making all answers. Each user gets ``speed /
    users``. Arguments and errors as in `decode_speed`.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> speeds = [serving_speed(accelerator("A100-80GB"), model("Qwen2.5-7B"), users=n) for n in (1, 16)]
    >>> [round(speed.low) for speed in speeds]
    [58, 689]
    """
    job = Serving(card, model, flavour, tp_size, pp_size, **settings)
    texts = _at_once(users, pp_size)
    together = min(texts, -(-CHUNK // prompt))
    answers = job.decode(texts, prompt + (answer + 1) // 2) * (answer - 1)
    return _speed("serving", users * answer, answers + job.prefill(together, prompt) * (texts / together))


def training_speed(
    card: Accelerator,
    model: Model,
    seq_len: int,
    dtype: str = "bf16",
    recompute: str | float = "none",
    *,
    lora: bool = False,
    **settings,
) -> Speed:
    """Tokens a second, for each GPU, of training on sequences of `seq_len` tokens.

    Args:
        card: each of the GPUs.
        model: any that `costs.transformer` counts.
        seq_len: tokens in a sequence.
        dtype: that products are computed in; attention and head in 16 bits at least.
        recompute: ``"none"``, ``"selective"`` (attention, whose scores fused kernels never keep), ``"full"``, or the
            share of the blocks' products that is computed a second time.
        lora: adapters are trained beside frozen weights.
        settings: further fields of `durations.Training`: ``batch_size``, sequences of a micro-batch; ``dp_size``,
            ``tp_size``, ``pp_size``, ``n_micro_batches``, ``nodes``; ``network_bytes_per_s``, what a node sends to
            others, or where nobody says so what `durations.BOARD_NETWORKS` has; ``zero``, 3 where the weights are
            divided among the ranks of ``dp_size``; ``packed``, frozen weights of 4 bits; ``program``, of
            `efficiency.TRAINERS`.

    Raises:
        NoFormula, UnknownName, UnknownFigure, UnsupportedDtype, ValueError: as `decode_speed`.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> speed = training_speed(accelerator("A100-80GB"), model("Llama-2-13B"), 4096, recompute="full")
    >>> round(speed.low, -2), round(speed.high, -2)
    (1200.0, 2400.0)
    """
    run = Training(card, model, seq_len, dtype, recompute, adapters=lora, **settings)
    n_gpus = run.tp_size * run.pp_size
    return _speed("training", run.batch_size * seq_len / n_gpus, run.micro_batch())


def joules_per_token(speed: Speed, card: Accelerator, n_gpus: int = 1) -> tuple[float, float]:
    """Energy of a token, least and most, if every GPU draws its thermal design power all the time.

    Raises:
        UnknownFigure: no source gives the power.
    """
    watts = n_gpus * card.tdp_watts.known()
    return watts / speed.high, watts / speed.low


def price_per_token(speed: Speed, gpu_hour: Figure, n_gpus: int = 1) -> tuple[float, float]:
    """Price of a token, least and most, in the unit of `gpu_hour`, what one GPU costs for an hour.

    Raises:
        UnknownFigure: nobody says what it costs.
    """
    a_second = n_gpus * gpu_hour.known() / 3600
    return a_second / speed.high, a_second / speed.low


def _at_once(n_texts: int, pp_size: int) -> int:
    """Texts that each stage works on at a time."""
    return -(-n_texts // max(1, min(pp_size, n_texts)))


def _speed(kind: str, n_tokens: float, duration: Duration) -> Speed:
    likely, most = n_tokens / duration.seconds, n_tokens / duration.floor
    low, high = likely / SPREAD[kind], min(most, likely * SPREAD[kind])
    longest = max(duration.parts, key=duration.parts.get)
    share = Share(low / most, high / most, f"fitted to measured speeds; most of the time goes to {longest}")
    return Speed(low, high, most, share, duration.parts, likely)
