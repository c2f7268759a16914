"""Ranks that several files share: they start once."""

import pytest

from llmhw_helpers.distributed.networks import Network, cannot_shape
from llmhw_helpers.distributed.ranks import Ranks

PEERS = (
    "torch._dynamo",
)  # what DDP, FSDP2 and PyTorch's optimizers import when they are used first: once, not by rank


@pytest.fixture(scope="session")
def four_ranks():
    with Ranks(4, preload=PEERS) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def three_ranks():
    """As many as SmolLM2 has heads of keys and values."""
    with Ranks(3, timeout_s=60, preload=PEERS) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def two_ranks():
    with Ranks(2, timeout_s=60, preload=PEERS) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def wired_ranks():
    """Three whose bytes the kernel counts one by one, and nobody else's with them."""
    if reason := cannot_shape():
        pytest.skip(reason)
    with Ranks(3, Network(), timeout_s=60) as ranks:
        yield ranks
