"""The memory of a serving GPU, term by term as vLLM has it: weights, what is kept free, and the rest for the cache.

``utilisation`` x the card's memory = weights + reserve + cache. Weights and bytes of a token follow by arithmetic from
the rank's part of the model; the reserve is a range. The rank that has room for the fewest tokens decides for all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..specs.accelerators import Accelerator
from ..specs.architectures import Model
from ..specs.figures import si
from ..specs.flavours import Flavour
from ..specs.serving_flavours import serving_flavour
from .serving_ranks import kv_bytes_per_token, rank_part, rank_weights
from .serving_reserve import Reserve, engines, reserve, step

BLOCK = 16  # tokens that a block of the cache holds
# shares of the bytes that `specs` gives for a card which programs have seen: boards and drivers differ
SEEN = (0.99, 1.0, 1.005)
# and of the nominal bytes: from 24 GB less what guards against errors to 192 GB that are GiB
SEEN_OF_NOMINAL = (0.975, 1.02, 1.074)


@dataclass(frozen=True)
class ServingMemory:
    """One GPU of the tightest rank, in bytes, and what follows for all.

    Attributes:
        model: the whole of it.
        flavour: of its weights.
        stage: that the rank is in, counted from 0.
        budget: utilisation x memory that the program sees: least, usual, most.
        weights: the rank's, with the table of rotary positions.
        reserve: kept free of caches: a range, and why.
        kv_bytes_per_token: of a token's cache on this GPU.
        kv_tokens: that the cache has room for: least, usual, most. 0 where not even the weights fit.
        max_model_len: tokens of the longest text that it is asked to take.
        step_tokens: tokens of the largest step.
        starts: ``"yes"``, ``"no"`` or ``"perhaps"``: whether there is room for one text of that length.
        why: in a line.
    """

    model: Model
    flavour: str
    stage: int
    budget: tuple[int, int, int]
    weights: int
    reserve: Reserve
    kv_bytes_per_token: int
    kv_tokens: tuple[int, int, int]
    max_model_len: int
    step_tokens: int
    starts: str
    why: str

    def texts(self, context: int) -> tuple[int, int]:
        """Texts of `context` tokens whose caches fit at the same time, least and most.

        The most is with a cache that lets go of what a local layer no longer sees (vLLM since 0.10 for most models): of
        a text it keeps a window there, and the tokens of a step.

        >>> from llmhw_helpers.specs.accelerators import accelerator
        >>> from llmhw_helpers.specs.models import model
        >>> serving_memory(model("Llama-3.1-8B"), accelerator("A100-80GB"), max_model_len=8192).texts(8192)
        (53, 56)
        """
        if context < 1:
            raise ValueError(f"a text has at least one token, not {context}")
        everywhere = locally = -(-context // BLOCK) * BLOCK
        if self.model.n_local_layers:
            seen = self.model.sliding_window - 1 + self.step_tokens
            locally = min(everywhere, (-(-seen // BLOCK) + 1) * BLOCK)
        share = self.model.n_local_layers / self.model.n_layers
        return self.kv_tokens[0] // everywhere, int(self.kv_tokens[2] / (everywhere + share * (locally - everywhere)))


def serving_memory(
    model: Model,
    card: Accelerator | float,
    flavour: str | Flavour = "bf16",
    tp_size: int = 1,
    pp_size: int = 1,
    utilisation: float = 0.9,
    max_model_len: int | None = None,
    max_batched_tokens: int | None = None,
    max_seqs: int | None = None,
    kv_dtype: str = "bf16",
    program: str = "vLLM",
    memory_bytes: float | None = None,
    reserve_bytes: float | None = None,
) -> ServingMemory:
    """What a model takes and leaves on each GPU of a server.

    Local layers are counted as if they saw everything, as vLLM does where it has one table of blocks for all layers.

    Args:
        model: any whose parts can be counted.
        card: the GPU, or the bytes that a program sees of one.
        flavour: of the weights, by a name of `specs.serving_flavours`.
        tp_size, pp_size: GPUs that divide each layer; stages that divide the layers.
        utilisation: share of the memory that the program may take.
        max_model_len: tokens of the longest text; the model's own limit without.
        max_batched_tokens, max_seqs: tokens and texts of a step; the release's own without.
        kv_dtype: of the cache.
        program: ``"vLLM"`` (any release since 0.9) or one of its releases: ``"vLLM 0.11"``.
        memory_bytes: of this very card, as a program sees it, where it is known.
        reserve_bytes: where a log prints it: activations and non-torch memory together.

    Raises:
        Indivisible: heads or widths do not divide among the GPUs.
        NoFormula: a recipe or a division that nobody counts here.
        UnknownName: no such flavour, format or program.
        ValueError: sizes below one, a utilisation that is no share.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> found = serving_memory(model("Llama-3.1-70B"), accelerator("A100-80GB"), "awq", max_model_len=8192)
    >>> found.starts, found.kv_bytes_per_token, round(found.weights / 2**30, 1)
    ('yes', 327680, 37.1)
    >>> serving_memory(model("Llama-3.1-70B"), accelerator("A100-80GB"), max_model_len=8192).why
    'no: weights of 141 GB and 1.45 GB to keep free do not fit into 76.5 GB'
    """
    longest = model.context_length if max_model_len is None else max_model_len
    _check(utilisation, longest, tp_size, pp_size, max_batched_tokens, max_seqs)
    of = flavour if isinstance(flavour, Flavour) else serving_flavour(flavour)
    budget = tuple(int(utilisation * each) for each in ((memory_bytes,) * 3 if memory_bytes else _seen(card)))
    releases = engines(program, card)
    tried = []
    for engine in releases:
        by_default = step(engine, card, longest)
        n_tokens, n_seqs = max_batched_tokens or by_default.n_tokens, max_seqs or by_default.n_seqs
        tried.append(replace(by_default, n_tokens=n_tokens, n_seqs=n_seqs))
    capability = card.compute_capability.value if isinstance(card, Accelerator) else None
    ranks = []
    for stage in range(pp_size):
        part = rank_part(model, tp_size, pp_size, stage)
        kept = Reserve.of_any(
            reserve(part, model.vocab_size, of, each, engine, tp_size * pp_size, samples=stage == pp_size - 1)
            for each, engine in zip(tried, releases, strict=True)
        )
        if reserve_bytes is not None:
            kept = Reserve(int(reserve_bytes), int(reserve_bytes), int(reserve_bytes), "as given")
        weights = rank_weights(part, of, releases[-1], capability)
        ranks.append(_Rank(stage, weights, kept, kv_bytes_per_token(part, kv_dtype, releases[-1])))
    fullest = min(ranks, key=lambda each: each.tokens(budget[1], each.reserve.usual))
    tokens = (
        _fewest(each.tokens(budget[0], each.reserve.high) for each in ranks),
        _fewest(each.tokens(budget[1], each.reserve.usual) for each in ranks),
        _fewest(each.tokens(budget[2], each.reserve.low) for each in ranks),
    )
    starts = "yes" if tokens[0] >= longest else "no" if tokens[2] < longest else "perhaps"
    return ServingMemory(
        model=model,
        flavour=of.name,
        stage=fullest.stage,
        budget=budget,
        weights=fullest.weights,
        reserve=fullest.reserve,
        kv_bytes_per_token=fullest.kv_bytes_per_token,
        kv_tokens=tokens,
        max_model_len=longest,
        step_tokens=max(each.n_tokens for each in tried),
        starts=starts,
        why=f"{starts}: {_why(fullest, budget, tokens, longest)}",
    )


@dataclass(frozen=True)
class _Rank:
    stage: int
    weights: int
    reserve: Reserve
    kv_bytes_per_token: int

    def tokens(self, budget: int, kept: int) -> int:
        """Room for tokens in whole blocks; negative where the rest does not fit."""
        return (budget - self.weights - kept) // (BLOCK * self.kv_bytes_per_token) * BLOCK


def _fewest(tokens: Iterable[int]) -> int:
    return max(0, min(tokens))


def _seen(card: Accelerator | float) -> tuple[float, ...]:
    """Bytes of `card` that a program sees: least, usual, most."""
    if not isinstance(card, Accelerator):
        return (card,) * 3
    if card.visible_bytes.value is None:
        return tuple(share * card.memory_bytes.known() for share in SEEN_OF_NOMINAL)
    return tuple(share * card.visible_bytes.value for share in SEEN)


def _check(utilisation: float, *sizes: int | None) -> None:
    if not 0 < utilisation <= 1:
        raise ValueError(f"a utilisation of {utilisation} is no share of the memory: give one above 0 and up to 1")
    if any(size is not None and size < 1 for size in sizes):
        raise ValueError("lengths, GPUs, tokens and texts of a step are at least one")


def _why(rank: _Rank, budget: tuple[int, ...], tokens: tuple[int, ...], longest: int) -> str:
    kept = si(rank.reserve.usual, "B")
    if not tokens[2]:
        return f"weights of {si(rank.weights, 'B')} and {kept} to keep free do not fit into {si(budget[1], 'B')}"
    room = f"{tokens[0]}" if tokens[0] == tokens[2] else f"{tokens[0]} to {tokens[2]}"
    return f"room for {room} tokens beside weights of {si(rank.weights, 'B')}, and {longest} are asked for"
