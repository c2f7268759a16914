"""A pass reads what it is told of each text, whoever computes it; the oracle is the model without a cache."""

import pytest
import torch

from llmhw_helpers.serving.paged_cache import PagedCache
from llmhw_helpers.serving.reading import read
from llmhw_helpers.serving.request import Request
from llmhw_helpers.serving.weights import FEW_ROWS, Served

TEXTS = torch.randint(0, 49, (3, 40), generator=torch.Generator().manual_seed(2)).tolist()
SPLITS = {  # tokens of each text that a pass reads
    "few": [(5, 1, 8), (1, 7, 2), (3, 3, 6)],
    "many": [(FEW_ROWS + 1, 1, 3), (1, 7, FEW_ROWS), (2, 1, 1)],
}


@pytest.fixture(params=["PyTorch", "compiled"])
def served(request, tiny):
    """By PyTorch alone, and with the compiled step."""
    with torch.no_grad():
        tiny.output = torch.nn.Linear(32, 50, bias=False)
        tiny.output.weight.copy_(tiny.token_embd.weight)
    return Served(tiny, compiled=request.param == "compiled")


def requests(texts=TEXTS):
    """One for each, with blocks of 4 tokens of its own, the later ones first."""
    made = [Request(text, 1, (i, 0)) for i, text in enumerate(texts)]
    for i, each in enumerate(made):
        each.block_table = list(range(10 * i, 10 * i + 10))[::-1]
    return made


@torch.inference_mode()
@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
def test_scores_are_the_models_however_a_text_is_cut(served, splits):
    cache, asked = PagedCache(served.spec, 30, 4), requests()
    for counts in splits:
        scheduled = dict(zip(asked, counts, strict=True))
        for each, n in scheduled.items():
            each.tokens = TEXTS[each.arrival[0]][: each.n_cached + n]  # so that it is read to its end
        scores, unsound = read(served, scheduled, cache)
        assert unsound == set()
        for each, n in scheduled.items():
            expected = served.model(torch.tensor([each.tokens]))[0, -1]
            torch.testing.assert_close(scores[each].logits, expected, atol=1e-4, rtol=1e-4)
            assert scores[each].best == expected.argmax()
            each.n_cached += n


@torch.inference_mode()
@pytest.mark.parametrize("n", [4, FEW_ROWS + 4])
def test_what_is_no_number_is_told_of_its_text_alone_also_where_nothing_is_scored_yet(served, n):
    with torch.no_grad():
        served.model.token_embd.weight[49] = torch.nan
    spoilt, sound = requests([[*TEXTS[0][:2], 49, *TEXTS[0][3:]], TEXTS[1]])
    scores, unsound = read(served, {spoilt: n, sound: 1}, PagedCache(served.spec, 30, 4))
    assert unsound == {spoilt}
    sound.tokens = sound.tokens[:n]
    spoilt.tokens = spoilt.tokens[:n]
    scores, unsound = read(served, {spoilt: n, sound: n}, PagedCache(served.spec, 30, 4))
    assert unsound == {spoilt}
    assert scores[spoilt].best is None
    assert scores[sound].best == served.model(torch.tensor([sound.tokens]))[0, -1].argmax()


@torch.inference_mode()
def test_the_best_token_is_one_that_is_allowed(served):
    asked = requests(TEXTS[:2])
    for each in asked:
        each.tokens = each.tokens[:3]
    expected = [served.model(torch.tensor([each.tokens]))[0, -1] for each in asked]
    allowed = torch.ones(50, dtype=torch.bool)
    allowed[[int(row.argmax()) for row in expected]] = False
    scores, unsound = read(served, dict.fromkeys(asked, 3), PagedCache(served.spec, 30, 4), allowed)
    for each, row in zip(asked, expected, strict=True):
        assert scores[each].best == row.masked_fill(~allowed, -torch.inf).argmax()
        torch.testing.assert_close(scores[each].logits, row, atol=1e-4, rtol=1e-4)
    assert unsound == set()


@torch.inference_mode()
@pytest.mark.parametrize("n", [1, 5, FEW_ROWS])
def test_few_tokens_have_the_same_bits_alone_and_in_company(tiny, n):
    served = Served(tiny, compiled=True)
    found = []
    for company in ([], [FEW_ROWS, FEW_ROWS], [FEW_ROWS + 1, 1]):
        asked = requests()
        for each, m in zip(asked, (n, *company), strict=False):
            each.tokens = each.tokens[:m]
        scheduled = dict(zip(asked, (n, *company), strict=False))
        found.append(read(served, scheduled, PagedCache(served.spec, 30, 4))[0][asked[0]].logits)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
