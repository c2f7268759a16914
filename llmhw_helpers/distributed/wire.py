"""What went over the wire: bytes and packets of this rank's network, as the kernel counts them.

A message leaves in packets, each with headers of its own. The kernel hands on up to 64 KiB of packets as one, and
counts one header for them. Gloo puts 48 bytes before each message, and sends a few more messages than the formulas of
its algorithms say: a kilobyte or two in an all-reduce of any size.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist

TCP_IP_BYTES = 20 + 20 + 12  # IPv4, TCP, and TCP's time stamps
ETHERNET_BYTES = 14  # counted on all devices but the loopback and TUN


@dataclass
class Counted:
    """What a rank's network did in a piece of work.

    `seconds` are this rank's own. The bytes are all that the kernel counted, headers and acknowledgements as well. On
    the loopback all ranks of the machine share one counter, and so do the ranks of one node: then `shared` is true, and
    bytes and packets are the sum over these ranks, and of whatever else the machine sent.

    >>> wire = Counted("eth0", sent_bytes=4_008_906, sent_packets=124)
    >>> wire.sent_payload_bytes
    4000722
    """

    device: str
    shared: bool = False
    seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0

    @property
    def header_bytes(self) -> int:
        """Of one packet."""
        return TCP_IP_BYTES + (0 if self.device.startswith(("lo", "tun")) else ETHERNET_BYTES)

    @property
    def sent_payload_bytes(self) -> int:
        """What was sent without the packets' headers: acknowledgements hold nothing else."""
        return self.sent_bytes - self.header_bytes * self.sent_packets

    @property
    def received_payload_bytes(self) -> int:
        """What was received without the packets' headers."""
        return self.received_bytes - self.header_bytes * self.received_packets


@contextmanager
def counted() -> Iterator[Counted]:
    """Count seconds and bytes of the work inside; all ranks must enter and leave it together.

    ::

        with counted() as wire:
            dist.all_reduce(x)
        print(wire.sent_bytes)

    The ranks meet (a barrier) before and after each reading of the counters, so that these hold all of the work and
    nothing else of theirs. Two of the meetings are counted as well: about a kilobyte a rank.

    Raises:
        RuntimeError: GLOO_SOCKET_IFNAME names no network device of this rank.
    """
    wire = Counted(*_device())
    dist.barrier()
    before = _counters(wire.device)
    dist.barrier()
    start = time.perf_counter()
    yield wire
    wire.seconds = time.perf_counter() - start
    dist.barrier()
    after = _counters(wire.device)
    dist.barrier()
    wire.sent_bytes = after.bytes_sent - before.bytes_sent
    wire.received_bytes = after.bytes_recv - before.bytes_recv
    wire.sent_packets = after.packets_sent - before.packets_sent
    wire.received_packets = after.packets_recv - before.packets_recv


def _device() -> tuple[str, bool]:
    """The network device that gloo uses, and whether other ranks use it as well."""
    name = os.environ.get("GLOO_SOCKET_IFNAME", "")
    if name not in (every := psutil.net_io_counters(pernic=True)):
        raise RuntimeError(
            f"set GLOO_SOCKET_IFNAME to the network of the ranks, one of {', '.join(every)}; not {name!r}"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    return name, local > 1 and not name.startswith(("eth0", "tun0"))


def _counters(device: str):
    return psutil.net_io_counters(pernic=True, nowrap=False)[device]


def count(n_values: int = 1_000_000) -> str:
    """An all-reduce of `n_values` float32 numbers, counted: what was sent, and what the ring's formula says."""
    x = torch.ones(n_values)
    with counted() as wire:
        dist.all_reduce(x)
    n = dist.get_world_size()
    predicted = 2 * (n - 1) * x.nbytes // (1 if wire.shared else n)
    who = "all ranks" if wire.shared else "this rank"
    return f"{who} sent {wire.sent_bytes:,} bytes over {wire.device}; the ring says {predicted:,}"
