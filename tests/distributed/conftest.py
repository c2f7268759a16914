"""Ranks that several files share: they start once."""

import pytest

from llmhw_helpers.distributed.ranks import Ranks


@pytest.fixture(scope="session")
def four_ranks():
    with Ranks(4) as ranks:
        yield ranks
