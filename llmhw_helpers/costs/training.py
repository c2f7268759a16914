"""What it takes to train: operations for each token, how much of the peak that uses, and how loss falls with size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..specs.architectures import Model
from ..specs.figures import look_up
from .operations import CHOICES
from .transformer import OUTER_NORMS, forward_flops, score_flops, visible_pairs

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # arXiv:2203.15556, rounded: its table 3 has 20 to 26


class ImpossibleUtilization(ValueError):
    """More operations than the machine can do: one of the numbers is wrong."""


def six_n(model: Model) -> int:
    """The usual estimate, ``6 N`` FLOP for each token trained on (arXiv:2001.08361, section 2.1), N all parameters.

    A multiply and an add for each weight in the forward pass, and twice that in the backward pass. It leaves out what
    attention does between tokens, and it charges for rows of an embedding, which are looked up and not multiplied; that
    is right only where the embedding serves as the head as well.

    >>> from llmhw_helpers.specs.models import model
    >>> six_n(model("SmolLM2-135M")) == 6 * 134_515_008
    True
    """
    return 6 * model.n_active_params


def training_flops(model: Model, batch_size: int, seq_len: int, recompute: str = "none") -> dict[str, int]:
    """Operations of a forward and backward pass, by the parts of `forward_flops`.

    Each product has two in the backward pass, for the gradients of both its factors. Attention counts all pairs of
    tokens; a causal kernel skips up to half of them, and one that does not store the scores computes them again.

    With recomputation a part ``recomputed`` is added. `recompute` ``"full"``: the blocks once more, but for the very
    last product of each, which nothing waits for (PyTorch stops there; a norm waits for it, and so does the weight
    that a router gives to an expert's result). The head is not in a block. ``"selective"`` (arXiv:2205.05198,
    section 5): attention between queries, keys and values alone, where the scores are stored; of its two products
    the second is again the last.

    Raises:
        NoFormula, ValueError: as `forward_flops`.
        UnknownName: another kind of recomputation.

    >>> from llmhw_helpers.specs.models import model
    >>> smol = model("SmolLM2-135M")
    >>> ways = ("none", "selective", "full")
    >>> plain, some, again = (sum(training_flops(smol, 1, 2048, kind).values()) for kind in ways)
    >>> round(some / plain, 2), round(again / plain, 2)
    (1.06, 1.24)
    """
    forward = forward_flops(model, batch_size, seq_len)
    parts = {part: 3 * flops for part, flops in forward.items()}
    kind, tokens = (
        look_up(recompute, {each: each for each in CHOICES["recompute"]}, "recomputation"),
        batch_size * seq_len,
    )
    if kind == "selective":
        parts["recomputed"] = tokens * visible_pairs(model, seq_len - 1, 1) * score_flops(model)
    elif kind == "full":
        shared = model.experts.n_shared_experts * model.experts.d_ff_expert if model.experts else 0
        last = (model.n_layers - model.n_moe_layers) * model.d_ff + model.n_moe_layers * shared
        if any(part.startswith(OUTER_NORMS) for part in model.unlike_llama()):
            last = 0
        parts["recomputed"] = sum(forward.values()) - forward["head"] - 2 * tokens * last * model.d_model
    return parts


def flops_per_token(model: Model, seq_len: int, recompute: str = "none") -> float:
    """Operations that a token's training asks for: what MFU counts, or with what is recomputed what HFU counts."""
    return sum(training_flops(model, 1, seq_len, recompute).values()) / seq_len


def mfu(flops_per_token: float, tokens_per_s: float, peak_flops_per_s: float) -> float:
    """Model FLOPs utilization (arXiv:2204.02311, appendix B): the share of the peak that serves the model.

    Work that the model does not ask for, such as recomputation, takes time and counts nothing.

    Raises:
        ImpossibleUtilization: above 1, or no number.

    >>> mfu(6 * 7e9, 3000, 312e12)  # a 7B model on an A100
    0.40384615384615385
    """
    if not min(flops_per_token, tokens_per_s) >= 0 or not peak_flops_per_s > 0:
        raise ImpossibleUtilization(f"no utilization from {flops_per_token}, {tokens_per_s} and {peak_flops_per_s}")
    share = flops_per_token * tokens_per_s / peak_flops_per_s
    if share > 1:
        what = "is the peak of this format, dense, measured undisturbed? are the tokens counted once?"
        raise ImpossibleUtilization(f"a utilization of {share:.3g}, and nothing exceeds 1: {what}")
    return share


def hfu(model: Model, seq_len: int, recompute: str, tokens_per_s: float, peak_flops_per_s: float) -> float:
    """Hardware FLOPs utilization (arXiv:2204.02311, appendix B): the share of the peak at work, for whatever it is.

    What is recomputed counts; so it is `mfu` without recomputation, and else more than that.

    Raises:
        ImpossibleUtilization: above 1, or no number.
        NoFormula, UnknownName: as `training_flops`.

    >>> from llmhw_helpers.specs.models import model
    >>> llama = model("Llama-2-7B")
    >>> round(mfu(flops_per_token(llama, 4096), 3000, 312e12), 3), round(hfu(llama, 4096, "full", 3000, 312e12), 3)
    (0.443, 0.561)
    """
    return mfu(flops_per_token(model, seq_len, recompute), tokens_per_s, peak_flops_per_s)


def compute_optimal(flops: float, tokens_per_parameter: float = CHINCHILLA_TOKENS_PER_PARAMETER) -> tuple[float, float]:
    """Parameters and tokens that spend `flops` best: ``6 N D`` with D a fixed multiple of N (arXiv:2203.15556).

    >>> n, d = compute_optimal(5.76e23)  # Chinchilla's budget; it has 70e9 parameters and saw 1.4e12 tokens
    >>> round(n / 1e9), round(d / 1e12, 1)
    (69, 1.4)
    """
    if not min(flops, tokens_per_parameter) > 0:
        raise ValueError(f"a budget needs positive numbers, not {flops} and {tokens_per_parameter}")
    n = math.sqrt(flops / (6 * tokens_per_parameter))
    return n, tokens_per_parameter * n


@dataclass(frozen=True)
class PowerLaw:
    """``y = coefficient * x ** exponent``, a straight line where both axes are logarithmic."""

    coefficient: float
    exponent: float

    def __call__(self, x: float) -> float:
        """What it predicts at `x`."""
        return self.coefficient * x**self.exponent


def fit_power_law(xs: Sequence[float], ys: Sequence[float]) -> PowerLaw:
    """The straight line through the logarithms that is off least, in the sum of squares.

    Raises:
        ValueError: fewer than two different x, or something that has no logarithm.

    >>> round(fit_power_law([1, 10, 100], [8, 4, 2]).exponent, 4)  # ten times as much, half as high: -log10(2)
    -0.301
    """
    if len(xs) != len(ys) or len(set(xs)) < 2 or not min([*xs, *ys]) > 0:
        raise ValueError(f"a power law needs two or more pairs of positive numbers, at different x: {xs}, {ys}")
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    slope = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / sum((a - mean_u) ** 2 for a in u)
    return PowerLaw(math.exp(mean_v - slope * mean_u), slope)
