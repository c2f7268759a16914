"""Speculative decoding without a second model: the next tokens are guessed from the text, and one step checks them all.

A decode step fetches all weights for a single token; with a few tokens more it fetches the same. So let it read a
guess of what comes next as well. It scores every position, and of the guess stays what the model would have said.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from ..llm.sampling import check_prompt, tokens_of
from ..llm.tokenizer import Tokenizer
from .decoding import ServedModel, decoder_for, new_cache, prefill
from .kv_cache import KVCache
from .sampling import GREEDY

LONGEST = 3  # tokens at the end of the text that are looked for


@dataclass(frozen=True)
class Speculation:
    """An answer, and how it came about.

    Attributes:
        tokens: the answer.
        n_steps: decode steps, the reading of the prompt not among them: without a draft one for each token but one.
        n_drafted, n_accepted: tokens that were guessed, and those of them that the model would have said.
    """

    tokens: tuple[int, ...]
    n_steps: int
    n_drafted: int
    n_accepted: int

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a decode step gave: those accepted, and one of the model's own."""
        return 1 + self.n_accepted / max(1, self.n_steps)


def draft(tokens: Sequence[int], n: int, longest: int = LONGEST) -> list[int]:
    """A guess of the next `n` tokens: what followed when the last few tokens stood in the text before.

    The last `longest` tokens are looked for first, then one less, down to a single one; of several places the latest
    counts. Where the text ends before the guess is long enough, the guess goes on with itself. There is none where not
    even the last token stood in the text before.

    >>> draft([5, 6, 7, 8, 5, 6], 3), draft([9, 1, 2, 1, 2], 3), draft([1, 2, 3], 3)
    ([7, 8, 5], [1, 2, 1], [])

    Raises:
        ValueError: a negative `n`, or less than one token to look for.
    """
    if n < 0 or longest < 1:
        raise ValueError(f"{n} tokens from the last {longest}: at least 0 are guessed, and at least 1 is looked for")
    text, n_text = list(tokens), len(tokens)
    for size in range(min(longest, n_text - 1), 0, -1):
        end = text[-size:]
        for start in range(n_text - size - 1, -1, -1):
            if text[start : start + size] == end:
                for i in range(start + size, start + size + n):
                    text.append(text[i])
                return text[n_text:]
    return []


@torch.inference_mode()
def verify(served: ServedModel, tokens: Sequence[int], cache: KVCache) -> Float[Tensor, "n vocab_size"]:
    """The logits after each of `tokens`, read in one pass from where the cache of a single text ends.

    They are written into its slots but not counted: ``cache.advance(n)`` keeps the first `n`, and the next pass
    overwrites the others.

    Raises:
        TokenError: a number that is no token.
        CacheFull: they do not fit.
        ValueError: a cache of several texts.
    """
    if cache.batch_size != 1:
        raise ValueError(f"a guess is checked in one text, not in {cache.batch_size} at once")
    n, start = len(tokens), cache.lengths[0]
    decoder = decoder_for(served, cache) if type(cache) is KVCache else None
    if decoder is not None:  # rows of one text, at positions that follow each other
        cache.check_room(n)
        return decoder.logits(list(tokens), list(range(start, start + n)), [[0]] * n, cache)
    window = cache.window(n)
    new = torch.tensor([list(tokens)], device=cache.device)
    return served.head(served.forward(new, window.positions, window.attend)[0])


def generate_speculatively(
    served: ServedModel,
    tokens: Sequence[int],
    n_new: int,
    *,
    n_draft: int = 4,
    longest: int = LONGEST,
    stop: Collection[int] = (),
    tokenizer: Tokenizer | None = None,
) -> Speculation:
    """Go on from `tokens` with the likeliest token each time, as ``decoding.generate`` does, in fewer steps.

    The tokens are those of ``generate``: a guess is kept only as far as it is what the model says. (A product with
    several rows may add up in another order than one with a single row. Where two tokens are equally likely but for
    that rounding, the other one may be said.)

    Args:
        n_draft: tokens guessed for a step at most; 0 for none, which is plain decoding.
        longest: tokens at the end of the text that are looked for.
        n_new, stop, tokenizer: as ``decoding.generate`` has them.

    Raises:
        TokenError: no prompt, one that leaves no room in the context, or a number that is no token.
        ValueError: as `draft` does.
    """
    check_prompt(served.spec, tokens)
    draft(tokens, n_draft, longest)  # refuses what it cannot do, before anything is computed
    n_new = min(n_new, served.spec.context_length - len(tokens))
    allowed = tokens_of(tokenizer, served.spec.vocab_size, served.device)
    new, n_steps, n_drafted, n_accepted = [], 0, 0, 0
    if n_new < 1:
        return Speculation((), 0, 0, 0)
    cache = new_cache(served, 1, len(tokens) + n_new - 1)  # the last new token is never read
    kept = GREEDY.draw(prefill(served, [tokens], cache), allowed=allowed).tolist()
    while True:
        wanted = list(takewhile(lambda token: token not in stop, kept))
        new += wanted
        if len(wanted) < len(kept) or len(new) == n_new:
            return Speculation(tuple(new), n_steps, n_drafted, n_accepted)
        guess = draft([*tokens, *new], min(n_draft, n_new - len(new) - 1), longest)
        said = GREEDY.draw(verify(served, [new[-1], *guess], cache), allowed=allowed).tolist()
        kept = agreed(guess, said)
        cache.advance(len(kept))
        n_steps, n_drafted, n_accepted = n_steps + 1, n_drafted + len(guess), n_accepted + len(kept) - 1


def agreed(guess: Sequence[int], said: Sequence[int]) -> list[int]:
    """Tokens that one step gives: the guess as far as the model says the same, then one token of the model's own.

    Behind the first wrong guess, the model has read what is not the text: what it says there is worth nothing.

    Args:
        guess: `n` tokens.
        said: what the model would say after the text, and after each token of the guess: ``n + 1``.

    >>> agreed([7, 8, 5], [7, 8, 9, 1])
    [7, 8, 9]
    """
    n = 0
    while n < len(guess) and guess[n] == said[n]:
        n += 1
    return list(said[: n + 1])
