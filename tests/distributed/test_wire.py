"""Bytes on the wire against the formula of the ring."""

from llmhw_helpers.distributed.ranks import run_ranks
from llmhw_helpers.distributed.wire import count


def test_an_all_reduce_sends_what_the_ring_says():
    counts = run_ranks(2, count, 1_000_000)
    for wire in counts:
        assert wire["sent_bytes"] / wire["predicted_bytes"] >= 1
        assert wire["shared"]
