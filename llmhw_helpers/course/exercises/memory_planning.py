"""Exercises on what fits into memory: texts at once, and lines of public calculators to mend (notebook 13)."""

from collections.abc import Callable

from ...costs.activations import Pass
from ...costs.inference import kv_bytes
from ...costs.paging import blocks_for
from ...costs.training_memory import MIXED, Layout, rank_phases
from ...specs.accelerators import accelerator
from ...specs.models import model
from ..grading import Exercise, Mistake

BLOCK_SIZE = 16  # vLLM's usual
GPUS = [
    ("Llama-3.1-8B", "A100-40GB", 2.5e9, 250),
    ("Llama-2-7B", "A40", 1.7e9, 130),
    ("Llama-2-13B", "A100-40GB", 2.2e9, 2041),
    ("Llama-3.1-8B", "T4", 1e9, 2041),  # not even the weights
]
SERVERS = [
    (0.9 * accelerator(card).memory_bytes.known(), 2 * model(name).n_params, reserve, kv_bytes(model(name)), context)
    for name, card, reserve, context in GPUS
]
CACHES = {
    (m.n_layers, m.n_heads, m.n_kv_heads, m.head_dim, n_tokens): kv_bytes(m, n_tokens)
    for m, n_tokens in (
        (model("Llama-3.1-8B"), 1),
        (model("Qwen2.5-7B"), 4096),
        (model("Llama-2-13B"), 2048),  # as many heads of each kind
    )
}


def _inside(name: str) -> int:
    """Parameters between embedding and head."""
    parts = model(name).parameters()
    return model(name).n_params - parts["embedding"] - parts.get("head", 0)


ENDS = {
    (model(name).vocab_size, model(name).d_model, _inside(name), model(name).tied_embeddings): model(name).n_params
    for name in ("SmolLM2-135M", "Llama-3.2-1B", "Llama-3.1-8B", "Qwen2.5-7B")
}


def _sparse(name: str) -> tuple[int, int, int, int]:
    """Experts, those that a token is sent to, the weights of one, and all other weights."""
    n, each = model(name).experts.n_experts, model(name).parameters()["experts"]
    return n, model(name).experts.n_experts_per_token, each // n, model(name).n_params - each


SPARSE = {
    _sparse(name): [2 * model(name).n_params, 2 * model(name).n_active_params]
    for name in ("Qwen3-30B-A3B", "Mixtral-8x7B")
}


def _step(seq_len: int) -> tuple[int, int, int]:
    """What stays in a step, all gradients, and what is at the loss only."""
    phases = rank_phases(model("Llama-3.2-1B"), Pass(1, seq_len), MIXED, Layout())
    loss, step = phases[0].parts, phases[2].parts
    return step["weights"] + step["optimizer"], step["gradients"], loss["activations"] + loss["working"]


STEPS = [_step(seq_len) for seq_len in (8192, 2048, 128)]


def _texts(limit: float, weights: float, reserve: float, per_token: int, context: int) -> int:
    blocks = int((limit - weights - reserve) // (BLOCK_SIZE * per_token))
    return max(0, blocks // blocks_for(context, BLOCK_SIZE))


def _with_room(answer: Callable) -> Callable:
    """`answer` from what weights and reserve leave; where that is nothing, whatever is given fits."""

    def given(limit, weights, reserve, *rest):
        room = limit - weights - reserve
        return answer(room, weights, reserve, *rest) if room > 0 else ...

    return given


EXERCISES = [
    Exercise(
        name="texts_at_once",
        cases=SERVERS,
        right=_texts,
        mistakes=[
            Mistake(
                "The program keeps something, too: subtract the reserve.",
                _with_room(lambda room, w, r, n, c: _texts(room + r, 0, 0, n, c)),
            ),
            Mistake(
                "The weights lie in the same memory: subtract them.",
                _with_room(lambda room, w, r, n, c: _texts(room + w, 0, 0, n, c)),
            ),
            Mistake(
                "A text holds whole blocks of 16 tokens, the last one perhaps half empty: round up for each text.",
                _with_room(lambda room, w, r, n, c: room // (n * c)),
            ),
            Mistake(
                "You give a text part of a block, and count parts of texts: round its blocks up and the texts down.",
                _with_room(lambda room, w, r, n, c: room / (n * c)),
            ),
            Mistake(
                "The last block of a text is not always full, but it belongs to this text: round its blocks up.",
                _with_room(lambda room, w, r, n, c: int(room // (BLOCK_SIZE * n)) // (c // BLOCK_SIZE)),
            ),
            Mistake(
                "A block has 16 tokens: it takes 16 * per_token bytes.",
                _with_room(lambda room, w, r, n, c: int(room // n) // blocks_for(c, BLOCK_SIZE)),
            ),
            Mistake(
                "A text has context / 16 blocks, rounded up; you count a block for each of its tokens.",
                _with_room(lambda room, w, r, n, c: room // (BLOCK_SIZE * n * c)),
            ),
            Mistake(
                "A number of texts is never below 0: where the weights alone are too large, it is 0.",
                lambda a, w, r, n, c: int((a - w - r) // (BLOCK_SIZE * n)) // blocks_for(c, BLOCK_SIZE),
            ),
            Mistake(
                "Part of a text is no text: round down.",
                _with_room(lambda room, w, r, n, c: room / n / (BLOCK_SIZE * blocks_for(c, BLOCK_SIZE))),
            ),
            Mistake(
                "Those are tokens; texts of `context` tokens are asked for.",
                _with_room(lambda room, w, r, n, c: int(room // (BLOCK_SIZE * n)) * BLOCK_SIZE),
            ),
        ],
    ),
    Exercise(
        name="cache_bytes",
        cases=list(CACHES),
        right=lambda *case: CACHES[case],
        mistakes=[
            Mistake(
                "Both mistakes are still there: a token has a key *and* a value, but not for every query head.",
                lambda layers, n, k, size, t: layers * n * size * 2 * t,
            ),
            Mistake(
                "A token has a key *and* a value; the 2 that stands there is the bytes of a number.",
                lambda *c: CACHES[c] // 2,
            ),
            Mistake(
                "Query heads share keys and values in groups: count n_kv_heads.",
                lambda layers, n, k, size, t: 2 * layers * n * size * 2 * t,
            ),
            Mistake(
                "Two factors of 2 are missing: a token has a key *and* a value, and a number has two bytes.",
                lambda *c: CACHES[c] // 4,
            ),
            Mistake(
                "Queries are not kept: only keys and values are.",
                lambda layers, n, k, size, t: 2 * layers * (n + 2 * k) * size * t,
            ),
            Mistake("That is one layer's: each has keys and values of its own.", lambda *c: CACHES[c] // c[0]),
            Mistake("That is one token's: the cache keeps all n_tokens.", lambda *c: CACHES[c] // c[-1]),
        ],
    ),
    Exercise(
        name="count_weights",
        cases=list(ENDS),
        right=lambda *case: ENDS[case],
        mistakes=[
            Mistake(
                "A tied head is the embedding: one matrix, counted once.", lambda v, d, inside, _: inside + 2 * v * d
            ),
            Mistake("A head that is not tied is a matrix of its own.", lambda v, d, inside, _: inside + v * d),
            Mistake(
                "A tied head is the embedding, and that one matrix is still there: count it once.",
                lambda v, d, inside, tied: inside if tied else ...,
            ),
            Mistake(
                "The wrong way round: tied means that there is one matrix.",
                lambda v, d, inside, tied: inside + (1 + tied) * v * d,
            ),
        ],
    ),
    Exercise(
        name="held_and_read",
        cases=list(SPARSE),
        right=lambda *case: SPARSE[case],
        mistakes=[
            Mistake(
                "The next token goes to other experts: all of them lie in memory.",
                lambda n, k, each, rest: [2 * (rest + k * each)] * 2,
            ),
            Mistake(
                "One token is sent to a few experts; the others are not read for it.",
                lambda n, k, each, rest: [2 * (rest + n * each)] * 2,
            ),
            Mistake("First what is held, then what is read.", lambda *case: SPARSE[case][::-1]),
            Mistake(
                "Both lack the other weights, `rest`: they lie in memory and are read, too.",
                lambda n, k, each, rest: [2 * n * each, 2 * k * each],
            ),
            Mistake(
                "One token reads the other weights, `rest`, as well.", lambda n, k, each, rest: [..., 2 * k * each]
            ),
            Mistake("Bytes are asked for, 2 a weight.", lambda n, k, each, rest: [rest + n * each, rest + k * each]),
        ],
    ),
    Exercise(
        name="peak_of_a_step",
        cases=STEPS,
        right=lambda kept, gradients, at_loss: kept + max(gradients, at_loss),
        mistakes=[
            Mistake(
                "When all gradients are there, the activations are gone: a maximum, and not a sum.",
                lambda *parts: sum(parts),
            ),
            Mistake(
                "You left out the gradients: with few tokens the optimizer's step is the fullest moment.",
                lambda kept, _, at_loss: kept + at_loss,
            ),
            Mistake(
                "You left out what is there at the loss: with many tokens that is the fullest moment.",
                lambda kept, gradients, _: kept + gradients,
            ),
            Mistake(
                "What is kept is there at the loss as well: add it to both moments.",
                lambda kept, gradients, at_loss: max(kept + gradients, at_loss),
            ),
            Mistake(
                "You took the emptier of the two moments; the peak is the fuller one.",
                lambda kept, gradients, at_loss: kept + min(gradients, at_loss),
            ),
            Mistake("What is kept is there in every phase: add it to the larger one.", lambda *parts: max(parts)),
        ],
    ),
]
