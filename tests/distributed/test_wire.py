"""Bytes on the wire against the formula of the ring, on the bare loopback: one counter for all ranks."""

import re

from llmhw_helpers.distributed.wire import Counted, count, counted


def test_an_all_reduce_sends_what_the_ring_says(two_ranks):
    """The machine's other traffic is counted, too, so this is a lower bound; networks of one's own are exact."""
    for said in two_ranks.run(count, 1_000_000):
        sent = re.fullmatch(r"all ranks sent ([\d,]+) bytes over lo0?; the ring says 8,000,000", said)[1]
        assert int(sent.replace(",", "")) > 8_000_000


def nothing():
    with counted() as wire:
        pass
    return wire


def test_what_is_counted_of_nothing_is_a_barrier(two_ranks):
    wire = two_ranks.run(nothing)[0]
    assert wire.shared
    assert wire.sent_bytes == wire.received_bytes  # a loopback receives what it sends


def elsewhere():
    """What is raised where gloo's network has a name that no device has."""
    import os

    here, os.environ["GLOO_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"], "eth7"
    try:
        with counted():
            pass
    except RuntimeError as error:
        return str(error)
    finally:
        os.environ["GLOO_SOCKET_IFNAME"] = here


def test_a_network_that_is_not_there_is_named(two_ranks):
    for said in two_ranks.run(elsewhere):
        assert re.fullmatch("set GLOO_SOCKET_IFNAME to the network of the ranks, one of .*lo.*; not 'eth7'", said)


def test_headers_are_told_apart_by_formula():
    assert Counted("lo").header_bytes == 52
    assert Counted("tun0").header_bytes == 52
    assert Counted("eth0").header_bytes == 66
    assert Counted("eth0", received_bytes=1000, received_packets=3).received_payload_bytes == 802
