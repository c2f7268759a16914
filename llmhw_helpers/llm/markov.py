"""A source of text whose entropy is a theorem: the next symbol depends on the last few, with known probabilities.

Shannon, "A Mathematical Theory of Communication" (1948), sections 2 to 7: no model whatever can predict such a source
with a mean loss below its entropy rate.
"""

import numpy as np
from jaxtyping import Float, Int


class BadSource(ValueError):
    """Probabilities that are none, or a source that falls into parts; the message says which."""


class MarkovSource:
    """Symbols 0 to ``n_symbols - 1``; each is drawn given the `order` symbols before it.

    Args:
        transitions: ``transitions[a, b, x]`` is the probability of x after a, b (here for order 2), float64.

    Raises:
        BadSource: a context's probabilities are negative or do not sum to 1, the axes differ, or what comes in the
            long run depends on the start.

    >>> coin = MarkovSource(np.array([[0.5, 0.5], [0.5, 0.5]]))
    >>> round(coin.floor(), 4)  # log 2
    0.6931
    """

    def __init__(self, transitions: Float[np.ndarray, "..."]):
        self.n_symbols, self.order = transitions.shape[-1], transitions.ndim - 1
        if self.order < 1 or set(transitions.shape) != {self.n_symbols}:
            raise BadSource(f"every axis of the probabilities needs the same symbols: {transitions.shape}")
        if not (transitions >= 0).all() or not np.allclose(transitions.sum(-1), 1, rtol=0, atol=1e-12):
            raise BadSource("probabilities must not be negative, and sum to 1 after every context")
        self.transitions = transitions
        self.stationary = self._stationary()

    @classmethod
    def random(cls, n_symbols: int, order: int, n_successors: int, seed: int) -> "MarkovSource":
        """After each context only `n_successors` symbols may come, drawn at random, with random probabilities.

        Every context has a favourite: the probabilities go down by halves on the average.
        """
        if not 1 <= n_successors <= n_symbols:
            raise BadSource(f"{n_successors} successors out of {n_symbols} symbols")
        rng = np.random.default_rng(seed)
        contexts = n_symbols**order
        which = rng.random((contexts, n_symbols)).argsort(-1)[:, :n_successors]
        share = 0.5 ** np.arange(n_successors) * rng.uniform(0.5, 1.5, (contexts, n_successors))
        table = np.zeros((contexts, n_symbols))
        np.put_along_axis(table, which, share / share.sum(-1, keepdims=True), -1)
        return cls(table.reshape((n_symbols,) * (order + 1)))

    def floor(self, n_seen: int | None = None) -> float:
        """The least mean loss, in nats a symbol, of whoever sees the last `n_seen` symbols; all of them without it.

        From `order` symbols on it is the entropy rate, and seeing more helps nobody. Below, it is the entropy of a
        block of ``n_seen + 1`` symbols, less that of a block of `n_seen`.
        """
        n_seen = self.order if n_seen is None else min(n_seen, self.order)
        joint = self.stationary.reshape((self.n_symbols,) * self.order)[..., None] * self.transitions
        block = joint.sum(tuple(range(self.order - n_seen)))  # the symbols further back, summed over
        return _entropy(block) - _entropy(block.sum(-1, keepdims=True))

    def sample(self, n_sequences: int, seq_len: int, seed: int) -> Int[np.ndarray, "n_sequences seq_len"]:
        """Sequences as if cut out of endless ones, all drawn side by side: one step draws a symbol of each."""
        rng, n = np.random.default_rng(seed), self.n_symbols
        limits = self.transitions.reshape(-1, n).cumsum(-1)
        limits[limits > limits[:, -1:] - 1e-15] = np.inf  # a sum may stop just below 1, and the draw lie above it
        state = rng.choice(n**self.order, n_sequences, p=self.stationary)
        symbols = np.empty((n_sequences, self.order + seq_len), np.int64)
        symbols[:, : self.order] = np.stack(np.unravel_index(state, (n,) * self.order), 1)
        for t in range(seq_len):
            drawn = (rng.random(n_sequences)[:, None] >= limits[state]).sum(-1)
            symbols[:, self.order + t] = drawn
            state = (state * n + drawn) % n**self.order  # the oldest symbol drops out
        return symbols[:, self.order :]

    def _stationary(self) -> Float[np.ndarray, " contexts"]:
        """How often each context comes: the eigenvector ``p = p P`` of eigenvalue 1 that sums to 1."""
        n, contexts = self.n_symbols, self.n_symbols**self.order
        matrix = np.zeros((contexts, contexts))
        rows = np.arange(contexts)
        for x in range(n):
            np.add.at(matrix, (rows, (rows * n + x) % contexts), self.transitions.reshape(-1, n)[:, x])
        equations = matrix.T - np.eye(contexts)
        equations[-1] = 1  # one of them follows from the others; "they sum to 1" takes its place
        try:
            p = np.linalg.solve(equations, np.eye(contexts)[-1])
        except np.linalg.LinAlgError:
            p = np.full(contexts, np.nan)
        if not (np.isfinite(p).all() and p.min() > -1e-9 and np.abs(p @ matrix - p).max() < 1e-9):
            raise BadSource("the source falls into parts that never meet: its long run depends on the start")
        return np.clip(p, 0, None) / np.clip(p, 0, None).sum()


def _entropy(p: Float[np.ndarray, "..."]) -> float:
    """In nats; what never happens adds nothing."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
