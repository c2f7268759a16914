"""Wires of a rank's own: counted to the byte, held to their rate, and gone when the ranks are gone."""

import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from llmhw_helpers.distributed import networks
from llmhw_helpers.distributed.networks import Network, NoNetwork, cannot_shape
from llmhw_helpers.distributed.ranks import RankFailed, Ranks
from llmhw_helpers.distributed.rings import ring_all_reduce
from llmhw_helpers.distributed.wire import counted

ROOT = Path(__file__).parents[2]
needs_network = pytest.mark.skipif(bool(cannot_shape()), reason=cannot_shape())
needs_delay = pytest.mark.skipif(bool(cannot_shape(delay=True)), reason=cannot_shape(delay=True))


def all_reduces(n_values, reduce):
    reduce = {"gloo": dist.all_reduce, "ring": ring_all_reduce}[reduce]
    x = torch.ones(n_values)
    reduce(x)  # connects
    with counted() as wire:
        reduce(x)
    return wire, x[-1].item(), os.readlink("/proc/self/ns/net"), [name for _, name in socket.if_nameindex()]


@pytest.fixture(scope="module")
def slow():
    """Three ranks at 100 Mbit/s."""
    with Ranks(3, Network(100e6)) as ranks:
        yield ranks


@needs_network
@pytest.mark.parametrize("reduce", ["gloo", "ring"])
def test_each_rank_counts_the_rings_bytes_on_its_own_wire(slow, reduce):
    """Of a 1.2 MB all-reduce at n = 3, 4/3 leave and reach every rank; up to 2 KB of gloo's own are on top."""
    results = slow.run(all_reduces, 300_000, reduce)
    assert len({namespace for _, _, namespace, _ in results}) == 3
    for wire, last, _, devices in results:
        assert last == 9
        assert not wire.shared
        assert set(devices) == {"lo", "eth0"}
        assert 0 <= wire.sent_payload_bytes - 1_600_000 <= 2500
        assert 0 <= wire.received_payload_bytes - 1_600_000 <= 2500
        assert 1_600_000 < wire.sent_bytes < 1_632_000


@needs_network
def test_a_wire_is_no_faster_than_its_rate(slow):
    """Only the burst may pass at once. How much slower it is depends on who else uses the machine."""
    wire = slow.run(all_reduces, 300_000, "gloo")[0][0]
    assert wire.seconds > (1_600_000 - 2 * networks.BURST_BYTES) / Network(100e6).bytes_per_s


@needs_delay
def test_a_delay_holds_every_message():
    """Gloo's smallest all-reduce among two ranks waits for at least two messages, one after the other."""
    with Ranks(2, Network(1e9, delay_s=0.02)) as ranks:
        (wire, last, _, devices), _ = ranks.run(all_reduces, 1, "gloo")
    assert wire.seconds > 2 * 0.02
    assert last == 4
    assert wire.device == "tun0"
    assert "tun0" in devices


@needs_network
def test_a_rate_that_the_kernel_refuses_is_its_own_line():
    with (
        Ranks(2, Network(1e30)) as ranks,
        pytest.raises(RankFailed, match=r"^the ranks did not start: .* tbf rate 1\d+bit"),
    ):
        ranks.run(dist.get_rank)


@needs_network
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="tests run as an ordinary user anyway")
def test_root_without_its_rights_has_a_network_too():
    """As an ordinary user has. The one capability that is left lets root name itself in a user namespace."""
    code = """
import torch.distributed as dist
from llmhw_helpers.distributed.networks import Network
from llmhw_helpers.distributed.ranks import run_ranks
print(run_ranks(2, dist.get_world_size, network=Network(1e9)))
"""
    without = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", sys.executable, "-c", code]
    run = subprocess.run(without, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.stdout == "[2, 2]\n", run.stderr


def test_where_there_can_be_no_network_one_line_says_why(monkeypatch):
    monkeypatch.setattr(networks.sys, "platform", "darwin")
    assert "need Linux" in cannot_shape()
    with pytest.raises(NoNetwork, match="need Linux"):
        Ranks(2, Network(1e9))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's tools")
def test_a_tool_that_is_missing_and_a_kernel_that_forbids_it_are_named(monkeypatch):
    monkeypatch.setattr(networks, "TOOLS", "/nowhere")
    assert "without the command `unshare`" in cannot_shape()
    monkeypatch.undo()
    monkeypatch.setattr(networks, "PROBE", "echo Operation not permitted >&2; false")
    networks._ways.cache_clear()
    assert cannot_shape().endswith("your own: Operation not permitted") or "`" in cannot_shape()
    networks._ways.cache_clear()


@pytest.mark.parametrize(("rate", "delay"), [(0, 0), (math.nan, 0), (1e9, -1), (1e9, math.inf)])
def test_a_network_that_cannot_be_is_refused(rate, delay):
    with pytest.raises(ValueError, match="the rate must be above zero"):
        Network(rate, delay)
