"""The wires."""

from llmhw_helpers.distributed.networks import Network


def test_a_network_has_a_rate():
    assert Network(1e9).bits_per_s == 1e9
