"""Bytes on the wire against the formula of the ring, on the bare loopback: one counter for all ranks."""

import pytest
import torch.distributed as dist

from llmhw_helpers.distributed.ranks import RankFailed, Ranks
from llmhw_helpers.distributed.wire import Counted, count, counted


@pytest.fixture(scope="module")
def ranks():
    with Ranks(2) as two:
        yield two


def test_an_all_reduce_sends_what_the_ring_says(ranks):
    """The machine's other traffic is counted, too, so this is a lower bound; networks of one's own are exact."""
    for said in ranks.run(count, 1_000_000):
        assert said.startswith("all ranks sent 8,0")
        assert said.endswith(" bytes over lo; the ring says 8,000,000")


def nothing():
    with counted() as wire:
        pass
    return wire


def test_what_is_counted_of_nothing_is_a_barrier(ranks):
    wire = ranks.run(nothing)[0]
    assert wire.shared
    assert wire.seconds >= 0
    assert wire.sent_bytes == wire.received_bytes  # a loopback receives what it sends


def elsewhere():
    import os

    os.environ["GLOO_SOCKET_IFNAME"] = "eth7"
    dist.barrier()
    with counted():
        pass


def test_a_network_that_is_not_there_is_named(ranks):
    with pytest.raises(RankFailed, match=r"set GLOO_SOCKET_IFNAME to the network of the ranks, one of .*; not 'eth7'"):
        ranks.run(elsewhere)


def test_headers_are_told_apart_by_formula():
    assert Counted("lo").header_bytes == 52
    assert Counted("tun0").header_bytes == 52
    assert Counted("eth0").header_bytes == 66
    assert Counted("eth0", received_bytes=1000, received_packets=3).received_payload_bytes == 802
