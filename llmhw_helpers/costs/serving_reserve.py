"""What a serving program keeps free of caches: the largest step that it may run, and what lies outside of PyTorch.

The step that vLLM tries out when it starts is fullest at one of two moments. In a block: three times the inner width
of the MLP for each token (two halves before the gate, and their product), beside its input, output and residual. Or at
the sampler: it takes the logits of so many texts in fp32, and sorts them. A vocabulary of 128,256 and 256 texts make
1.2 GiB, which is why a model of 0.6 billion parameters asks for as much as one of 70.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..specs.accelerators import Accelerator
from ..specs.architectures import Model
from ..specs.engines import ENGINES, OUTSIDE, OUTSIDE_SMALL, V1_ALONE_FROM, V1_FROM, Engine
from ..specs.figures import UnknownName
from ..specs.flavours import Flavour

GIB = 2**30
LARGE = 70 * GIB  # from this on vLLM takes larger steps
SMALL = 40e9  # below this ranks talk over PCIe
SLACK = (0.95, 1.15)  # for what patches of a release change; 19 of 22 start-up logs lie inside


@dataclass(frozen=True)
class Step:
    """The step that is tried out: tokens and texts in it, and whether the card is one of the small ones."""

    n_tokens: int
    n_seqs: int
    small_card: bool


@dataclass(frozen=True)
class Reserve:
    """Bytes of a GPU that hold neither weights nor caches: least, usual, most, and why."""

    low: int
    usual: int
    high: int
    why: str

    @classmethod
    def of_any(cls, reserves: Iterable["Reserve"]) -> "Reserve":
        """The range of several, where it is not known which one it will be; the middle one is the usual."""
        each = sorted(reserves, key=lambda one: one.usual)
        middle = each[len(each) // 2]
        return cls(min(one.low for one in each), middle.usual, max(one.high for one in each), middle.why)


def engines(program: str, card: Accelerator | float | None = None) -> tuple[Engine, ...]:
    """The releases that `program` may be: ``"vLLM 0.11"`` is one, ``"vLLM"`` any since 0.9.

    On cards before Ampere the releases from 0.8 on stayed with their first engine (V0) as long as they had it.

    Raises:
        UnknownName: another program, or no number of a release.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> [engines("vLLM 0.10.1", card)[0].name for card in (None, accelerator("T4"))], len(engines("vLLM"))
    (['vLLM 0.10', 'vLLM 0.7'], 4)
    """
    name, _, version = program.strip().partition(" ")
    if name.lower() != "vllm":
        raise UnknownName(f"unknown serving program {program!r}; known is vLLM, with a release or without: 'vLLM 0.11'")
    if not version:
        return tuple(_on(card, each) for each in ENGINES.values() if each.release >= (0, 9))
    numbers = version.lower().removeprefix("v").split(".")
    if len(numbers) < 2 or not all(each.isdigit() for each in numbers[:2]):
        raise UnknownName(f"unknown release {version!r} of vLLM; write it as in 'vLLM 0.11'")
    before = [each for each in ENGINES.values() if each.release <= (int(numbers[0]), int(numbers[1]))]
    if not before:
        raise UnknownName(f"unknown release {version!r} of vLLM; the first one known here is {next(iter(ENGINES))}")
    return (_on(card, max(before, key=lambda each: each.release)),)


def _on(card: Accelerator | float | None, engine: Engine) -> Engine:
    capability = card.compute_capability.value if isinstance(card, Accelerator) else None
    if capability and capability < 8 and V1_FROM.release <= engine.release < V1_ALONE_FROM.release:
        return ENGINES["vLLM 0.7"]
    return engine


def step(engine: Engine, card: Accelerator | float, max_model_len: int) -> Step:
    """The step that `engine` tries out on a card (or on any that has so many bytes) for texts of `max_model_len`."""
    is_card = isinstance(card, Accelerator)
    n_bytes = (card.visible_bytes.value or card.memory_bytes.known()) if is_card else card
    large = n_bytes >= LARGE and not (is_card and card.name.startswith("A100"))  # vLLM, pull request 17885
    n_tokens = int((engine.n_tokens_large if large else engine.n_tokens).known())
    never_chunked = is_card and card.maker == "AMD" and engine.release < V1_FROM.release  # by a log of an MI300X
    if never_chunked or max_model_len <= engine.chunked_from.known():
        n_tokens = max(n_tokens, max_model_len)
    return Step(n_tokens, int((engine.n_seqs_large if large else engine.n_seqs).known()), n_bytes < SMALL)


def reserve(
    rank: Model, vocab_size: int, of: Flavour, tried: Step, engine: Engine, n_gpus: int, samples: bool
) -> Reserve:
    """What a rank keeps free.

    Args:
        rank: its part of the model.
        vocab_size: of the whole model: each rank that samples has all logits.
        of: flavour of the weights.
        tried: the step.
        engine: release.
        n_gpus: that work together.
        samples: the rank is in the last stage.
    """
    block = block_bytes(rank, tried.n_tokens)
    if of.layout:
        block += 2 * rank.d_model * 2 * rank.d_ff  # bitsandbytes widens a matrix before the product
    stream = 2 * 2 * tried.n_tokens * rank.d_model  # what passes between blocks, and the residual
    logits = tried.n_seqs * vocab_size if samples else 0
    sampler = [stream + logits * each.known() for each in engine.logit_bytes]
    outside = (OUTSIDE_SMALL if tried.small_card else OUTSIDE)[max(n for n in OUTSIDE if n <= n_gpus)]
    low, usual, high = (
        int(max(block, each) * held.known() + other.known())
        for each, held, other in zip(sampler, engine.held, outside, strict=True)
    )
    where = "the sampler" if sampler[1] > block else "an MLP"
    why = f"{engine.name} tries {tried.n_tokens} tokens of {tried.n_seqs} texts, fullest at {where}"
    return Reserve(int(SLACK[0] * low), usual, int(SLACK[1] * high), why)


def block_bytes(rank: Model, n_tokens: int) -> int:
    """Bytes of 16-bit activations of `n_tokens` tokens at the fullest moment of a block.

    An expert's tokens stand in a list of their own, each as often as it is sent to one: its inner widths, or its
    output, whichever is more.

    >>> from llmhw_helpers.specs.models import model
    >>> block_bytes(model("Llama-3.1-8B"), 1)
    110592
    """
    widths = [rank.q_width * 2 + rank.kv_width * 2]  # queries, keys, values, and the result
    if not rank.experts or rank.experts.n_dense_layers:
        widths.append((3 if rank.gated_mlp else 2) * rank.d_ff)
    if e := rank.experts:
        shared = 3 * e.n_shared_experts * e.d_ff_expert
        widths.append(e.n_experts_per_token * (max(2 * e.d_ff_expert, rank.d_model) + e.d_ff_expert) + shared)
    return 2 * n_tokens * (max(widths) + 3 * rank.d_model)
