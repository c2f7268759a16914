"""An exercise on what fits into a server's memory (notebook 13); `planning` has the calculators' mistakes."""

from ...costs.inference import kv_bytes
from ...costs.paging import blocks_for
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
CASES = [
    (0.9 * accelerator(card).memory_bytes.known(), 2 * model(name).n_params, reserve, kv_bytes(model(name)), context)
    for name, card, reserve, context in GPUS
]


def _texts(limit: float, weights: float, reserve: float, per_token: int, context: int) -> int:
    blocks = int((limit - weights - reserve) // (BLOCK_SIZE * per_token))
    return max(0, blocks // blocks_for(context, BLOCK_SIZE))


EXERCISES = [
    Exercise(
        name="texts_at_once",
        cases=CASES,
        right=_texts,
        mistakes=[
            Mistake("The program keeps something, too: subtract the reserve.", lambda a, w, _, *b: _texts(a, w, 0, *b)),
            Mistake("The weights lie in the same memory: subtract them.", lambda a, _, *b: _texts(a, 0, *b)),
            Mistake(
                "A text holds whole blocks of 16 tokens, the last one perhaps half empty: round up for each text.",
                lambda a, w, r, n, c: max(0, int((a - w - r) // (n * c))),
            ),
            Mistake(
                "Below zero texts there is nothing: where the weights alone are too large, it is 0.",
                lambda a, w, r, n, c: int((a - w - r) // (BLOCK_SIZE * n)) // blocks_for(c, BLOCK_SIZE),
            ),
            Mistake(
                "Part of a text is no text: round down.",
                lambda a, w, r, n, c: max(0, (a - w - r) / n / (BLOCK_SIZE * blocks_for(c, BLOCK_SIZE))),
            ),
            Mistake(
                "Those are tokens; texts of `context` tokens are asked for.",
                lambda a, w, r, n, _: max(0, int((a - w - r) // (BLOCK_SIZE * n)) * BLOCK_SIZE),
            ),
        ],
    )
]
