"""Experts on ranks: each rank holds some of them, and tokens travel to the experts that they chose, and back.

Expert parallelism (GShard, arXiv:2006.16668): in every layer with a mixture of experts a rank sends each of its tokens
to the ranks of the chosen experts (dispatch) and gets the results back (combine): two all-to-alls, and two more in the
backward pass. What is sent does not depend on how large the experts are, but on how many a token visits.
"""

import math
import random
from collections.abc import Sequence

from ..specs.architectures import Model, NoFormula
from ..specs.dtypes import dtype as find_dtype
from ..specs.parts import Experts
from .parallelism import Indivisible


def experts_of(model: Model, rank: int, ep_size: int) -> range:
    """The experts that a rank of `ep_size` holds in every layer that has any: as many as every other.

    Raises:
        NoFormula: the model has no experts.
        Indivisible: they do not divide.

    >>> from llmhw_helpers.specs.models import model
    >>> experts_of(model("Mixtral-8x7B"), 3, 4), experts_of(model("DeepSeek-V3"), 7, 8)
    (range(6, 8), range(224, 256))
    """
    n = _experts(model).n_experts
    if ep_size < 1 or n % ep_size:
        divisors = ", ".join(str(each) for each in range(1, n + 1) if n % each == 0)
        raise Indivisible(f"{n} experts of {model.name} do not divide among {ep_size} ranks: take one of {divisors}")
    if not 0 <= rank < ep_size:
        raise ValueError(f"there is no rank {rank} of {ep_size}")
    return range(rank * n // ep_size, (rank + 1) * n // ep_size)


def ranks_visited(model: Model, ep_size: int, once: bool = False) -> float:
    """Other ranks to which a token is sent in a layer, on average, where all experts are chosen alike often.

    Each of its `k` experts is elsewhere in ``(n - 1) / n`` of the cases. A program that sends a token `once` to a rank,
    however many of its experts live there, sends it to every other rank on which at least one does.

    >>> from llmhw_helpers.specs.models import model
    >>> [round(ranks_visited(model("DeepSeek-V3"), 8, once), 2) for once in (False, True)]
    [7.0, 4.63]
    """
    experts, here = _experts(model), len(experts_of(model, 0, ep_size))
    k, n = experts.n_experts_per_token, experts.n_experts
    on_a_rank = 1 - math.comb(n - here, k) / math.comb(n, k) if once else k / ep_size
    return (ep_size - 1) * on_a_rank


def exchange_bytes(
    model: Model, n_tokens: float, ep_size: int, dispatch: str = "bf16", combine: str = "bf16", once: bool = False
) -> float:
    """Bytes that a rank sends in one layer, forward, for `n_tokens` tokens of its own: there, and back for others.

    ``n_tokens top_k d_model (n - 1) / n`` numbers each way, where all experts are chosen alike often: a rank answers as
    many tokens as it asks for.

    Args:
        model: with experts.
        n_tokens: of each rank.
        ep_size: ranks that share the experts.
        dispatch, combine: types of numbers on the way there and back (DeepSeek-V3, arXiv:2412.19437, section 3.3.3:
            FP8 there, BF16 back).
        once: see `ranks_visited`; the results for a token are then added up before they are sent back.

    >>> from llmhw_helpers.specs.models import model
    >>> [exchange_bytes(model(name), 4096, 8) / 1e6 for name in ("Mixtral-8x7B", "DeepSeek-V3")]
    [117.440512, 822.083584]
    >>> round(exchange_bytes(model("DeepSeek-V3"), 4096, 8, dispatch="fp8_e4m3", once=True) / 1e6)
    408
    """
    if n_tokens < 0:
        raise ValueError(f"{n_tokens} tokens")
    a_token = model.d_model * (find_dtype(dispatch).bytes + find_dtype(combine).bytes)
    return n_tokens * ranks_visited(model, ep_size, once) * a_token


def step_bytes(model: Model, n_tokens: float, ep_size: int, training: bool = False, **how) -> float:
    """Bytes that a rank sends in one pass through all layers with experts; in training the backward pass sends as many.

    `how`: types and `once`, as in `exchange_bytes`.

    >>> from llmhw_helpers.specs.models import model
    >>> round(step_bytes(model("Mixtral-8x7B"), 4096, 8) / 1e9, 2), model("DeepSeek-V3").n_moe_layers
    (3.76, 58)
    """
    return (2 if training else 1) * model.n_moe_layers * exchange_bytes(model, n_tokens, ep_size, **how)


def imbalance(visits: Sequence[float], ep_size: int) -> float:
    """How much longer a layer takes than if all ranks had the same to do: the fullest rank's visits over the mean.

    Args:
        visits: of each expert, in their order.
        ep_size: ranks that share the experts as `experts_of` says.

    Raises:
        ValueError: nobody visits, or the experts do not divide.

    >>> imbalance([30, 10, 10, 10, 10, 10, 10, 10], 8), imbalance([30, 10, 10, 10, 10, 10, 10, 10], 4)
    (2.4, 1.6)
    """
    if ep_size < 1 or len(visits) % ep_size or sum(visits) <= 0:
        raise ValueError(f"{sum(visits)} visits to {len(visits)} experts on {ep_size} ranks have no fullest rank")
    each = len(visits) // ep_size
    return max(sum(visits[i : i + each]) for i in range(0, len(visits), each)) * ep_size / sum(visits)


def visits_by_chance(experts: Experts, n_tokens: int, seed: int = 0) -> list[int]:
    """Visits of each expert if all `n_tokens` choose by chance: the best that a router can be, and still uneven.

    >>> visits = visits_by_chance(Experts(8, 2, d_ff_expert=1), 1000)
    >>> sum(visits), 1.0 < imbalance(visits, 8) < 1.2
    (2000, True)
    """
    draw, visits = random.Random(seed), [0] * experts.n_experts
    for _ in range(n_tokens):
        for expert in draw.sample(range(experts.n_experts), experts.n_experts_per_token):
            visits[expert] += 1
    return visits


def _experts(model: Model) -> Experts:
    if model.experts is None:
        raise NoFormula(f"{model.name} has no experts to share out")
    return model.experts
