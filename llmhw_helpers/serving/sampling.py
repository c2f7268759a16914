"""How the tokens of an answer are chosen, and what ends it."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..llm.sampling import check_settings, sample


@dataclass(frozen=True)
class Sampling:
    """The settings of an answer: vLLM's `SamplingParams`.

    Args:
        temperature, top_k, top_p: as in ``llm.sampling.probabilities``; the best token each time without.
        seed: the same one draws the same tokens, whoever shares the batch.
        stop: tokens that end the answer; they are not part of it (vLLM: `stop_token_ids`).
        stop_strings: texts that do (vLLM: `stop`).

    Raises:
        ValueError: a setting out of its range, or an empty stop string, which would stop everything.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Collection[int] = ()
    stop_strings: Collection[str] = ()

    def __post_init__(self):
        check_settings(self.temperature, self.top_k, self.top_p)
        if isinstance(self.stop_strings, str):
            raise ValueError(f"stop_strings is a list of strings, not one: write [{self.stop_strings!r}]")
        if not all(self.stop_strings):
            raise ValueError("a stop string has at least one character")

    def of_each(self, n: int) -> list["Sampling"]:
        """The settings of `n` answers to one prompt: where there is a seed, each has its own, counted on from it."""
        if self.seed is None:
            return [self] * n
        return [replace(self, seed=self.seed + i) for i in range(n)]

    def draw(
        self,
        logits: Float[Tensor, "*batch vocab_size"],
        generator: torch.Generator | None = None,
        allowed: Bool[Tensor, " vocab_size"] | None = None,
    ) -> Int[Tensor, "*batch"]:
        """A token for each row, as ``llm.sampling.sample`` draws it; raises as that does."""
        return sample(logits, self.temperature, self.top_k, self.top_p, generator, allowed)


GREEDY = Sampling()  # the best token each time
