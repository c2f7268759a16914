"""Divided training against undivided training, and against PyTorch's FSDP2."""

import torch

from llmhw_helpers.distributed.units import storage_bytes


def test_memory_that_tensors_share_is_counted_once():
    x = torch.zeros(10, 10)
    assert storage_bytes([x, x[1:], x.T, torch.zeros(3), torch.empty(0)]) == 412
