"""The ring by hand against gloo's own collectives."""

import pytest
import torch
import torch.distributed as dist

from llmhw_helpers.distributed.rings import ring_all_gather, ring_all_reduce, ring_reduce_scatter


def all_reduces(n_values):
    x = torch.randn(n_values, generator=torch.Generator().manual_seed(dist.get_rank()))
    theirs = x.clone()
    dist.all_reduce(theirs)
    chunk = ring_reduce_scatter(x.clone())
    gathered = torch.zeros(n_values)
    gathered.tensor_split(dist.get_world_size())[dist.get_rank()].copy_(chunk)
    return ring_all_reduce(x.clone()), theirs, chunk, ring_all_gather(gathered)


@pytest.mark.parametrize("n_values", [3000, 1001, 2, 0])
def test_it_sums_as_gloo_does(three_ranks, n_values):
    """Also when the ranks do not divide the values, or some get none. Another order of sums: float32's last digits."""
    results = three_ranks.run(all_reduces, n_values)
    for rank, (ours, theirs, chunk, gathered) in enumerate(results):
        assert torch.allclose(ours, theirs, rtol=0, atol=2e-6)
        assert torch.equal(ours, results[0][0])  # bit for bit the same on all
        assert torch.equal(chunk, ours.tensor_split(3)[rank])
        assert torch.equal(gathered, ours)


def test_a_tensor_that_would_be_copied_is_refused():
    with pytest.raises(ValueError, match=r"contiguous tensor: pass x.contiguous\(\)"):
        ring_all_reduce(torch.ones(3, 2).T)
