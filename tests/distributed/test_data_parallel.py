"""Data parallel ranks against one process with the big batch, and against PyTorch's DDP."""

import pytest
from torch import nn

from llmhw_helpers.distributed.data_parallel import buckets


def test_buckets_hold_every_trained_parameter_once_and_backwards():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 2))
    net[1].bias.requires_grad_(False)
    for size in (1, 40, 100, 10**9):
        made = buckets(net, size)
        held = [p for bucket in made for p in bucket.parameters]
        assert [id(p) for p in held] == [id(p) for p in reversed(list(net.parameters())) if p.requires_grad]
        assert all(bucket.n_bytes >= size for bucket in made[:-1])
        assert sum(bucket.n_bytes for bucket in made) == 4 * sum(p.numel() for p in held)


def test_a_bucket_has_one_format():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7).bfloat16(), nn.Linear(7, 2))
    assert [len(bucket.parameters) for bucket in buckets(net, 10**9)] == [2, 2, 2]


def test_nothing_to_train_and_buckets_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1 byte, not 0"):
        buckets(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="frozen"):
        buckets(nn.Linear(2, 2).requires_grad_(False), 1)
