"""What went over the wire: bytes and packets of this rank's network, as the kernel counts them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist


@dataclass
class Counted:
    """What this rank's network did in a piece of work.

    `seconds` are this rank's own. The bytes are all that the kernel counted, headers and acknowledgements as well. On
    the loopback all ranks of the machine share one counter: `shared` is true, and the bytes are the sum of all ranks.
    """

    seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    shared: bool = False


@contextmanager
def counted() -> Iterator[Counted]:
    """Count seconds and bytes of the work inside, on every rank; all ranks must enter and leave it together.

        with counted() as wire:
            dist.all_reduce(x)
        wire.sent_bytes

    Before and after the work the ranks meet (a barrier), so that the counters hold all of the work and nothing else of
    theirs; the second meeting, some hundred bytes a rank, is counted.
    """
    wire = Counted(shared=_shared())
    dist.barrier()
    before, start = _counters(), time.perf_counter()
    yield wire
    wire.seconds = time.perf_counter() - start
    dist.barrier()
    after = _counters()
    for name in ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv"):
        kind, way = name.split("_")
        field = f"{'sent' if way == 'sent' else 'received'}_{kind}"
        setattr(wire, field, getattr(after, name) - getattr(before, name))


def _interface() -> str | None:
    return os.environ.get("GLOO_SOCKET_IFNAME")


def _shared() -> bool:
    return (_interface() or "lo").startswith("lo") and dist.get_world_size() > 1


def _counters():
    every = psutil.net_io_counters(pernic=True, nowrap=False)
    name = _interface()
    if name not in every:
        raise RuntimeError(f"no network {name!r} on this rank: GLOO_SOCKET_IFNAME must be one of {', '.join(every)}")
    return every[name]


def count(n_values: int = 1_000_000) -> dict:
    """An all-reduce of `n_values` float32, counted: what it sent and what the formula of the ring says."""
    x = torch.ones(n_values)
    with counted() as wire:
        dist.all_reduce(x)
    n = dist.get_world_size()
    predicted = 2 * (n - 1) * 4 * n_values // (1 if wire.shared else n)
    return {"sent_bytes": wire.sent_bytes, "predicted_bytes": predicted, "shared": wire.shared}
