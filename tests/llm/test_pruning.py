"""Two weights in four: against all pairs that could be kept, and on the real model."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw_helpers.costs.pruning import sparse_bits
from llmhw_helpers.llm.pruning import CannotPrune, prune_model, two_in_four


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_of_all_pairs_the_heaviest_stays(n_out, groups, seed):
    weight = torch.randn(n_out, 4 * groups, generator=torch.Generator().manual_seed(seed))
    found = two_in_four(weight)
    for old, new in zip(weight.reshape(-1, 4), found.reshape(-1, 4), strict=True):
        heaviest = max(itertools.combinations(range(4), 2), key=lambda pair: old[list(pair)].abs().sum())
        expected = torch.zeros(4)
        expected[list(heaviest)] = old[list(heaviest)]
        assert torch.equal(new, expected)


def test_pytorch_takes_it_for_two_in_four():
    """torch.ao's sparsifier is the oracle: the same zeros."""
    from torch.ao.pruning import WeightNormSparsifier

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32, bias=False)
    mine = two_in_four(layer.weight.data)
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(torch.nn.Sequential(layer), [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    assert torch.equal(mine, layer.weight.data)


def test_ties_leave_exactly_two():
    assert torch.equal(two_in_four(torch.ones(1, 4)), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


def test_a_row_of_another_length_is_refused():
    with pytest.raises(CannotPrune, match="rows of 6 weights are not made of groups of 4"):
        two_in_four(torch.ones(2, 6))


def test_the_model_is_copied_and_only_what_is_named_is_pruned(tiny):
    model = tiny
    before = model.blk[1].ffn_up.weight.clone()
    pruned = prune_model(model, parts=("ffn",))
    assert torch.equal(model.blk[1].ffn_up.weight, before)
    assert (pruned.blk[1].ffn_up.weight == 0).float().mean() == pytest.approx(0.5, abs=1e-6)
    assert torch.equal(pruned.blk[1].attn_q.weight, model.blk[1].attn_q.weight)
    assert torch.equal(pruned.token_embd.weight, model.token_embd.weight)


def test_bits_are_those_of_nvidias_format():
    """arXiv:2104.08378, section 3: half of the values, and two bits for each that stays."""
    assert [sparse_bits(bits) for bits in (16, 8)] == [9, 5]
    assert sparse_bits(16, 4, 8) == 9.5  # three bits of place
    assert sparse_bits(16, 1, 1) == 16
    with pytest.raises(ValueError, match="at least 1 of 4 weights is kept and at most all, not 5"):
        sparse_bits(16, 5)
