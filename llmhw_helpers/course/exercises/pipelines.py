"""An exercise on pipelines (notebook 14)."""

from collections.abc import Callable

from ...costs.pipelines import bubble, bubble_overhead
from ..grading import Exercise, Mistake

SIZES = [(4, 8, 1), (4, 8, 2), (1, 4, 1), (8, 32, 1), (2, 1, 1), (8, 8, 4), (16, 64, 2)]


def _begun(answer: Callable) -> Callable:
    """`answer` for one chunk a rank; whatever is given for several fits: they come later."""
    return lambda p, m, v: answer(p, m) if v == 1 else ...


EXERCISES = [
    Exercise(
        name="bubble",
        cases=SIZES,
        right=bubble,
        rtol=1e-6,
        mistakes=[
            Mistake(
                "That is the waiting as a share of the *work*; of the whole step, waiting included, it is less.",
                _begun(lambda p, m: bubble_overhead(p, m, 1)),
            ),
            Mistake(
                "That is the share in which a rank works; in which share does it wait?",
                _begun(lambda p, m: 1 - bubble(p, m, 1)),
            ),
            Mistake(
                "Several chunks a rank make each piece of work, and so the waiting, shorter.",
                lambda p, m, v: bubble(p, m),
            ),
            Mistake(
                "With chunks the waiting is shorter and the work is not: the share does not fall by all of n_chunks.",
                lambda p, m, v: bubble(p, m, 1) / v,
            ),
            Mistake(
                "Forward and backward pass both wait, and both work: do not count the waiting twice and the work once.",
                _begun(lambda p, m: 2 * (p - 1) / (m + 2 * (p - 1))),
            ),
            Mistake(
                "A chunk is a smaller piece of work: several of them divide the waiting, they do not multiply it.",
                lambda p, m, v: v * (p - 1) / (m + v * (p - 1)),
            ),
            Mistake(
                "The last of p ranks waits until p - 1 others have worked on the first micro-batch, not p.",
                _begun(lambda p, m: p / (m + p)),
            ),
            Mistake(
                "The p - 1 waits come on top of the work: a step is as long as both together.",
                _begun(lambda p, m: (p - 1) / (m + p)),
            ),
            Mistake(
                "That is right for a batch in one piece: with more micro-batches a rank waits less.",
                lambda p, m, v: (p - 1) / p,
            ),
            Mistake(
                "That is the waiting in micro-batches; which share of the step is it?", lambda p, m, v: (p - 1) / v
            ),
            Mistake("That is the waiting in chunks; which share of the step is it?", lambda p, m, v: p - 1),
        ],
    )
]
