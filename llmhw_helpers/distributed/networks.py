"""A network of one's own: each rank with its own wire of a given speed to a switch, as an ordinary user of Linux.

    rank 0 [eth0]──────[port0]┐
    rank 1 [eth0]──────[port1]┤ switch          each [ ] is a network namespace's end of a wire
    rank 2 [eth0]──────[port2]┘

A user namespace makes an ordinary user the root of networks that exist for these processes alone; nothing of it reaches
the machine's own network, and all of it goes when they end. Each rank lives in a network namespace, where the kernel
counts its own bytes. A wire is a pair of virtual Ethernet devices; a token bucket (tc's tbf) at both ends holds what a
rank sends, and what the switch sends to it, to the wire's rate. A delay needs the switch of `delays.py`.
"""

import ctypes
import functools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .delays import Switch, open_tun

CLONE_NEWNET = 0x40000000
TOOLS = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where ip and tc are, if not on a user's path
MTU = 9000  # bytes of a packet, as on a cluster's network: headers are under 1% of it
BURST_BYTES = 70_000  # goes through a bucket at once after a pause: the kernel hands on 64 KiB of packets as one
QUEUE_S = 0.05  # what waits for a bucket; what comes above that is dropped, and TCP sends slower
PROBE = """
ip link add name switch type bridge && ip link add name eth0 type veth peer name port0
ip link set port0 master switch && tc qdisc add dev eth0 root tbf rate 1gbit burst 16kb latency 50ms
"""


class NoNetwork(OSError):
    """This machine does not let an ordinary program make a network; `cannot_shape` says so beforehand."""


@dataclass(frozen=True)
class Network:
    """A wire of `bits_per_s` each way between each rank and one switch, and `delay_s` on the way from rank to rank.

    Without a rate the ranks have wires as fast as the machine can copy, and counters of their own.

    >>> Network(bits_per_s=250e6).bytes_per_s
    31250000.0
    >>> Network(bits_per_s=-1)
    Traceback (most recent call last):
    ValueError: a network of -1 bits/s with a delay of 0.0 s: the rate must be above zero, the delay not below
    """

    bits_per_s: float = math.inf
    delay_s: float = 0.0

    def __post_init__(self):
        if not (self.bits_per_s > 0 and 0 <= self.delay_s < math.inf):
            wrong = f"a network of {self.bits_per_s} bits/s with a delay of {self.delay_s} s"
            raise ValueError(f"{wrong}: the rate must be above zero, the delay not below")

    @property
    def bytes_per_s(self) -> float:
        """The rate of a wire, each way."""
        return self.bits_per_s / 8

    @property
    def device(self) -> str:
        """The name of a rank's end of its wire."""
        return "tun0" if self.delay_s else "eth0"


class Wires:
    """A switch in this process's network namespace: what starts `at(rank)` is at the far end of that rank's wire."""

    def __init__(self, network: Network):
        self.network = network
        self.delaying = Switch(network.bytes_per_s, network.delay_s) if network.delay_s else None
        if not self.delaying:
            _run("ip link add name switch type bridge", "ip link set switch up")

    def start(self) -> None:
        """Begin to hand packets on, with all ranks at their wires."""
        if self.delaying:
            self.delaying.start()

    @contextmanager
    def at(self, rank: int) -> Iterator[None]:
        """Be in the rank's namespace: processes that start meanwhile stay there."""
        home, device = os.open("/proc/thread-self/ns/net", os.O_RDONLY), self.network.device
        _check(_libc().unshare(CLONE_NEWNET))
        try:
            if self.delaying:
                self.delaying.add(address(rank), open_tun(device))
            else:
                there = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                _run(f"ip link add name {device} type veth peer name port{rank} netns /proc/{os.getpid()}/fd/{home}")
                _check(_libc().setns(home, CLONE_NEWNET))
                self._shape(f"port{rank}", f"ip link set port{rank} master switch")
                _check(_libc().setns(there, CLONE_NEWNET))
                os.close(there)
            self._shape(device, f"ip addr add {address(rank)}/24 dev {device}", "ip link set lo up")
            # The simple one of TCP's ways to find its speed: the machine's may not be allowed here, or pace packets.
            Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")
            yield
        finally:
            _check(_libc().setns(home, CLONE_NEWNET))
            os.close(home)

    def _shape(self, device: str, *commands: str) -> None:
        """Give the device its rate and switch it on; it sends nothing on its own (no IPv6)."""
        rate = f"rate {self.network.bits_per_s:.0f}bit burst {BURST_BYTES} latency {QUEUE_S * 1000:.0f}ms"
        shape = [] if math.isinf(self.network.bits_per_s) else [f"tc qdisc add dev {device} root tbf {rate}"]
        _run(f"ip link set {device} mtu {MTU} addrgenmode none", *commands, *shape, f"ip link set {device} up")


def address(rank: int) -> str:
    """The rank's address on the switch."""
    return f"10.77.0.{rank + 1}"


def command() -> list[str]:
    """What starts a program as the root of a network of its own."""
    return _ways()[0]


def cannot_shape(delay: bool = False) -> str:
    """Why there can be no `Network` (with a `delay`) on this machine, in one line; empty if there can."""
    if sys.platform != "linux":
        return "networks of one's own need Linux: without, ranks send over the loopback, as fast as it goes"
    for tool in ("unshare", "ip", "tc"):
        if not shutil.which(tool, path=TOOLS):
            return f"no network of one's own without the command `{tool}` (packages util-linux and iproute2)"
    if not _ways():
        return f"this system does not let you make a network of your own: {_tried('unshare', '-Urn')}"
    if delay and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no delay on a network without access to /dev/net/tun: take delay_s=0"
    return ""


@functools.cache
def _ways() -> list[list[str]]:
    """The ways that work: a user namespace, or none (some systems forbid it) for root, who can do without."""
    ways = [["unshare", "-Urn"], *([["unshare", "-n"]] if os.geteuid() == 0 else [])]
    return [way for way in ways if not _tried(*way)]


def _tried(*way: str) -> str:
    """The last line of what goes wrong when all parts are made once. Empty if nothing does."""
    environment = os.environ | {"PATH": TOOLS}
    probe = subprocess.run(
        [*way, "sh", "-ec", PROBE], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1] if probe.returncode else ""


def _run(*commands: str) -> None:
    for line in commands:
        done = subprocess.run(
            line.split(), env=os.environ | {"PATH": TOOLS}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise OSError(f"{line}: {said[0]}")  # tc goes on to explain all its options


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
