"""One pass through the model: what a step reads of each request, by the compiled step, by PyTorch, or by both."""

from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from .decoding import ServedModel, decoder_of
from .paged_cache import Chunk, PagedCache
from .request import Request
from .weights import FEW_ROWS


class Scores(NamedTuple):
    """What may come next in a text.

    Attributes:
        logits: ``[vocab_size]``.
        best: the likeliest token; None where scores are NaN or infinite.
    """

    logits: Tensor
    best: int | None


def read(
    served: ServedModel, scheduled: dict[Request, int], cache: PagedCache, allowed: Tensor | None = None
) -> tuple[dict[Request, Scores], set[Request]]:
    """Read so many tokens more of each request into its blocks.

    If the model has a compiled step, it reads single tokens, and with them chunks of up to `FEW_ROWS` tokens: the
    weights are fetched once for all. Longer ones are PyTorch's, whose products of many rows are quicker. So a chunk is
    read in the same way, and by the compiled step with the same bits, whoever else is in the pass.

    Args:
        served: the model.
        scheduled: how many tokens of which request.
        cache: where their blocks are.
        allowed: the tokens that may come ``[vocab_size]``; None for all.

    Returns:
        scores after the last token of each that is read to its end, and perhaps of others; and the requests whose
        numbers are not all finite.
    """
    scores, unsound = {}, set()
    by_step = [each for each, n in scheduled.items() if n <= FEW_ROWS]
    decoder = decoder_of(served) if by_step else None
    if decoder is not None:
        rows = [(each, each.n_cached + scheduled[each] - 1) for each in by_step]  # the last ones, which are scored
        rows += [(each, i) for each in by_step for i in range(each.n_cached, each.n_cached + scheduled[each] - 1)]
        tokens, positions = [each.tokens[i] for each, i in rows], [i for _, i in rows]
        logits = decoder.logits(tokens, positions, [each.block_table for each, _ in rows], cache, len(by_step))
        scores = _scores(by_step, logits, allowed)
        unsound.update(each for each, found in scores.items() if found.best is None)  # NaN in a text stays NaN
    chunks = {each: n for each, n in scheduled.items() if each not in scores}
    if chunks:
        tokens = [token for each, n in chunks.items() for token in each.tokens[each.n_cached : each.n_cached + n]]
        window = cache.window([Chunk(each.block_table, each.n_cached, n) for each, n in chunks.items()])
        new = torch.tensor([tokens], device=served.device)
        stream = served.forward(new, window.positions, window.attend)[0]
        ended = [i for i, (each, n) in enumerate(chunks.items()) if n == each.n_unread]
        if ended:
            logits = served.head(stream[window.last[ended]])
            scores |= _scores([list(chunks)[i] for i in ended], logits, allowed)
        parts = stream.isfinite().all(-1).split(list(chunks.values()))
        unsound.update(each for each, part in zip(chunks, parts, strict=True) if not part.all())
    return scores, unsound


def _scores(requests: Iterable[Request], logits: Tensor, allowed: Tensor | None) -> dict[Request, Scores]:
    """For all rows at once; NaN is the largest of any row that has one."""
    seen = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
    tops, tokens = (each.tolist() for each in seen.max(-1))
    best = [token if isfinite(top) else None for top, token in zip(tops, tokens, strict=True)]
    return {each: Scores(*found) for each, *found in zip(requests, logits, best, strict=True)}
