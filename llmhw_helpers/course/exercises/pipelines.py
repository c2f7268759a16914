"""An exercise on pipelines (notebook 14)."""

from ...costs.pipelines import bubble, bubble_overhead
from ..grading import Exercise, Mistake

SIZES = [(4, 8, 1), (4, 8, 2), (1, 4, 1), (8, 32, 1), (2, 1, 1), (8, 8, 4), (16, 64, 2)]

EXERCISES = [
    Exercise(
        name="bubble",
        cases=SIZES,
        right=bubble,
        rtol=1e-6,
        mistakes=[
            Mistake(
                "That is the waiting as a share of the *work*; of the whole step, waiting included, it is less.",
                bubble_overhead,
            ),
            Mistake(
                "That is the share in which a rank works; in which share does it wait?",
                lambda p, m, v: 1 - bubble(p, m, v),
            ),
            Mistake(
                "Several chunks a rank make each piece of work, and so the waiting, shorter.",
                lambda p, m, v: bubble(p, m),
            ),
            Mistake(
                "A chunk is a smaller piece of work: several of them divide the waiting, they do not multiply it.",
                lambda p, m, v: v * (p - 1) / (m + v * (p - 1)),
            ),
            Mistake(
                "The last of p ranks waits until p - 1 others have worked on the first micro-batch, not p.",
                lambda p, m, v: p / (v * m + p),
            ),
            Mistake(
                "The p - 1 waits come on top of the work: a step is as long as both together.",
                lambda p, m, v: (p - 1) / (v * m + p),
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
