"""Two ways to let tokens know of one another: a state carried along (RNN), and attention, all with all at once.

Both are counted for one sequence, one layer, all products of matrices; what grows only with the tokens times one width
(tanh, additions) is left out, and so is what a softmax adds to the scores.
"""

from dataclasses import dataclass

from ..specs.dtypes import dtype as find_dtype
from .flops import Work, product


@dataclass(frozen=True)
class Layer:
    """What one layer does to a sequence.

    Attributes:
        work: operations and least traffic.
        depth: products of matrices that must wait for one another.
    """

    work: Work
    depth: int


def rnn(seq_len: int, d_model: int, dtype: str = "fp32") -> Layer:
    """``h[t] = tanh(U x[t] + W h[t - 1])``: all ``U x`` at once, then one product a token, each after the last.

    The first step's product waits for nothing, so the chain is as long as the sequence. The weights ``W`` are
    read again in every step (from a cache, if they fit into one).

    >>> rnn(seq_len=1000, d_model=256).depth
    1000
    """
    _check(seq_len, d_model)
    inputs = product(seq_len, d_model, d_model, dtype)
    return Layer(inputs + product(1, d_model, d_model, dtype) * seq_len, seq_len)


def attention(seq_len: int, d_model: int, dtype: str = "fp32", stored_scores: bool = True) -> Layer:
    """Queries, keys and values, ``q k^T``, the mean of the values, an output product: four that wait, at any length.

    Every token's score with every other is computed (a causal mask could save half). With `stored_scores` they go to
    memory and back, for one head: written, read and written by the softmax, read for the mean. A fused attention, as in
    notebook 09, has no such traffic. More heads share the same width, so operations stay, and scores multiply.

    >>> attention(seq_len=1000, d_model=256).depth
    4
    """
    _check(seq_len, d_model)
    square = Work(2 * seq_len**2 * d_model, 0)  # q k^T, and the mean of the values likewise
    scores = 4 * seq_len**2 if stored_scores else 0
    touched = (4 * seq_len * d_model + scores) * find_dtype(dtype).bytes
    work = product(seq_len, d_model, d_model, dtype) * 4 + square * 2 + Work(0, touched)
    return Layer(work, 4)


def crossing(step_seconds: float, flops_per_s: float, d_model: int) -> float:
    """The length at which attention takes as long as an RNN whose every step takes `step_seconds`.

    Attention's arithmetic, ``(8 d^2 + 4 d T) T / flops_per_s``, against the RNN's waiting, ``step_seconds T``.
    Zero where attention is slower from the first token on.

    >>> round(crossing(step_seconds=10e-6, flops_per_s=150e9, d_model=256))
    953
    """
    if min(step_seconds, flops_per_s, d_model) <= 0:
        raise ValueError("a step's seconds, the operations per second and the width must be positive")
    return max(0.0, (step_seconds * flops_per_s - 8 * d_model**2) / (4 * d_model))


def _check(seq_len: int, d_model: int) -> None:
    if min(seq_len, d_model) < 1:
        raise ValueError(f"a layer needs at least one token and one number: {seq_len} x {d_model}")
