"""A switch that takes its time: a program that hands packets from wire to wire, each when its time has come.

A TUN device is a network device whose other end is a program: what the kernel sends, the program reads, packet by
packet, and what the program writes, the kernel receives. Linux has a module for delays, too (netem), which many kernels
come without.
"""

import collections
import fcntl
import ipaddress
import os
import select
import struct
import threading
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
QUEUED_PACKETS = 2000  # on the way to one rank; what comes above that is lost, and TCP sends slower


class Switch:
    """Packets to an address arrive there `delay_s` later, one after the other at `bytes_per_s`."""

    def __init__(self, bytes_per_s: float, delay_s: float):
        self.bytes_per_s, self.delay_s = bytes_per_s, delay_s
        self.devices: dict[str, int] = {}

    def add(self, address: str, device: int) -> None:
        """A wire to `address`, with the open TUN `device` as its end."""
        self.devices[address] = device

    def start(self) -> None:
        """Begin, with all wires there, in a thread that ends with this process."""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        queues = {address: collections.deque() for address in self.devices}
        free = dict.fromkeys(self.devices, 0.0)  # when the wire to that address has sent what it has
        by_device = {device: address for address, device in self.devices.items()}
        while True:
            due = min((queue[0][0] for queue in queues.values() if queue), default=None)
            pause = None if due is None else max(0.0, due - time.monotonic())
            for device in select.select(list(by_device), [], [], pause)[0]:
                packet = os.read(device, 65_535)
                to = str(ipaddress.ip_address(packet[16:20])) if packet[0] >> 4 == 4 else ""
                if to in queues and len(queues[to]) < QUEUED_PACKETS:
                    free[to] = max(free[to], time.monotonic()) + len(packet) / self.bytes_per_s
                    queues[to].append((free[to] + self.delay_s, packet))
            now = time.monotonic()
            for address, queue in queues.items():
                while queue and queue[0][0] <= now:
                    os.write(self.devices[address], queue.popleft()[1])


def open_tun(name: str) -> int:
    """A new TUN device in this process's network namespace, open."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device
