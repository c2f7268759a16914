"""Steps that a batch of answers takes, when places are given out again at once or only when all are free."""

import heapq
from collections.abc import Sequence


def decode_steps(n_new: Sequence[int], n_places: int, continuous: bool) -> int:
    """Passes through the model until all answers are written, in the order in which they came.

    Each pass adds a token to every answer that has a place. Continuous batching (Orca, OSDI 2022) gives the place of
    an answer that is done to the next one; static batching waits until all of a batch are done:
    ``sum(max(batch) for each batch)``. Reading the prompts is left out: it comes with an answer's first token.

    Args:
        n_new: tokens of each answer.
        n_places: answers written at the same time, at most.
        continuous: as above.

    Raises:
        ValueError: no places, or an answer without a token.

    >>> decode_steps([8, 2, 2, 8, 2, 2], 3, continuous=False), decode_steps([8, 2, 2, 8, 2, 2], 3, continuous=True)
    (16, 10)
    """
    if n_places < 1 or min(n_new, default=1) < 1:
        raise ValueError(f"at least one place and one token an answer, not {n_places} and {list(n_new)}")
    if not continuous:
        return sum(max(n_new[start : start + n_places]) for start in range(0, len(n_new), n_places))
    done = [0] * n_places  # when each place is free
    for n in n_new:
        heapq.heapreplace(done, done[0] + n)
    return max(done)
