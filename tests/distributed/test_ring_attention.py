"""Attention over a text spread over ranks, against PyTorch's over the whole text."""

import pytest
import torch

from llmhw_helpers.distributed.ring_attention import Uneven, n_seen, positions


@pytest.mark.parametrize("zigzag", [False, True])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_every_token_has_one_rank(n_ranks, zigzag):
    everywhere = torch.cat([positions(24, rank, n_ranks, zigzag) for rank in range(n_ranks)])
    assert everywhere.sort().values.tolist() == list(range(24))


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_zigzag_all_have_the_same_to_do_and_else_the_last_nearly_twice_the_mean(n_ranks):
    plain, zigzag = ([n_seen(24, rank, n_ranks, way) for rank in range(n_ranks)] for way in (False, True))
    assert sum(plain) == sum(zigzag) == 24 * 25 / 2
    assert set(zigzag) == {24 * 25 // 2 // n_ranks}
    chunk = 24 // n_ranks
    assert max(plain) == (n_ranks - 1) * chunk**2 + chunk * (chunk + 1) / 2


@pytest.mark.parametrize(
    ("seq_len", "n_ranks", "zigzag", "longer"), [(10, 3, False, 12), (9, 3, True, 12), (0, 2, False, 2)]
)
def test_a_text_that_does_not_divide_is_refused(seq_len, n_ranks, zigzag, longer):
    with pytest.raises(Uneven, match=f"{seq_len} tokens do not make .* to {longer}"):
        positions(seq_len, 0, n_ranks, zigzag)
