"""What it takes to bring bytes from where they lie to where they are used: large files, many small ones, many nodes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..specs.figures import look_up


@dataclass(frozen=True)
class Stretch:
    """One part of the way that bytes take, such as a network adapter.

    Attributes:
        bytes_per_s: of each node's own, or of the one that all nodes share.
        shared: whether all nodes share it.
    """

    name: str
    bytes_per_s: float
    shared: bool = False

    def seconds(self, node_bytes: float, n_nodes: int) -> float:
        """To carry `node_bytes` to each of `n_nodes`."""
        return node_bytes * (n_nodes if self.shared else 1) / self.bytes_per_s


@dataclass(frozen=True)
class Trip:
    """A way that was gone: the stretches work at the same time, so the slowest sets the pace.

    Attributes:
        parts: seconds that each stretch would take alone, by name.
    """

    parts: Mapping[str, float]

    @property
    def bottleneck(self) -> str:
        """The stretch that all others wait for."""
        return max(self.parts, key=self.parts.get)

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return self.parts[self.bottleneck]


def load(n_bytes: float, way: Sequence[Stretch], n_nodes: int = 1, divided: bool = False) -> Trip:
    """Load a model's file of `n_bytes` on `n_nodes` at the same time.

    Args:
        way: from the storage to the GPUs.
        divided: each node reads its own part of the file alone, as with a model that is cut into pieces; else each
            reads all of it.

    Raises:
        ValueError: no bytes, no nodes, no way, or a stretch that nothing goes over.

    >>> way = [Stretch("storage", 34e9, shared=True), Stretch("network", 12.5e9)]
    >>> [(load(141e9, way, n).bottleneck, round(load(141e9, way, n).seconds, 1)) for n in (1, 4, 16)]
    [('network', 11.3), ('storage', 16.6), ('storage', 66.4)]
    >>> round(load(141e9, way, 16, divided=True).seconds, 1)
    4.1
    """
    if not (0 < n_bytes < math.inf and 1 <= n_nodes < math.inf and way):
        raise ValueError(f"a file, a node and a way are needed, not {n_bytes} bytes, {n_nodes} nodes, {len(way)} parts")
    _check_rates(way)
    each_node = n_bytes / n_nodes if divided else n_bytes
    return Trip({stretch.name: stretch.seconds(each_node, n_nodes) for stretch in way})


def crossing(way: Sequence[Stretch]) -> float:
    """The number of nodes from which on a shared stretch is the slowest: its rate over the slowest of a node's own.

    Raises:
        ValueError: nothing is shared, or nothing is a node's own.

    >>> crossing([Stretch("storage", 34e9, shared=True), Stretch("network", 12.5e9)])
    2.72
    """
    _check_rates(way)
    own, shared = ([each.bytes_per_s for each in way if each.shared == of_all] for of_all in (False, True))
    if not own or not shared:
        raise ValueError("a way with a stretch that all nodes share and one of each node's own is needed")
    return min(shared) / min(own)


def files_seconds(n_files: int, file_bytes: float, files_per_s: float, bytes_per_s: float) -> float:
    """Seconds to read `n_files`, one after the other: each is found and opened, then read at the storage's rate.

    >>> files_seconds(20_000, 4096, files_per_s=5000, bytes_per_s=1e9)
    4.08192
    >>> round(files_seconds(1, 20_000 * 4096, files_per_s=5000, bytes_per_s=1e9), 3)  # the same bytes in one file
    0.082
    """
    if not (n_files >= 0 and file_bytes >= 0 and files_per_s > 0 and bytes_per_s > 0):
        rates = f"{files_per_s} files and {bytes_per_s} bytes a second"
        raise ValueError(f"{n_files} files of {file_bytes} bytes at {rates}: rates are above 0, the others not below")
    return n_files / files_per_s + n_files * file_bytes / bytes_per_s


def break_even_bytes(files_per_s: float, bytes_per_s: float) -> float:
    """The size of a file that takes as long to open as to read: much smaller ones belong into one archive.

    >>> break_even_bytes(files_per_s=5000, bytes_per_s=1e9)
    200000.0
    """
    if not (files_per_s > 0 and bytes_per_s > 0):
        raise ValueError(f"{files_per_s} files and {bytes_per_s} bytes a second: rates are above 0")
    return bytes_per_s / files_per_s


# How a file's bytes pass through a host's memory on their way to a GPU: what goes in or out, in turn. A `copy` is a
# processor's work, and goes out and in; the rest is done by the devices themselves. See NVIDIA, GPUDirect Storage
# Design Guide, for the first and the last.
WAYS: Mapping[str, tuple[str, ...]] = {
    "page cache": ("disk writes", "copy", "GPU reads"),
    "direct read": ("disk writes", "GPU reads"),
    "GPU direct": (),
}
_PASSES = {"disk writes": 1, "copy": 2, "GPU reads": 1}


def host_bytes(n_bytes: float, way: str) -> float:
    """Bytes that the host's memory carries, in and out, for `n_bytes` that go from storage to a GPU.

    Args:
        way: ``"page cache"``: read as usual, into a buffer that the GPU can fetch from (a bounce buffer); ``"direct
            read"``: the disk writes into that buffer; ``"GPU direct"``: the disk or adapter writes to the GPU.

    >>> [host_bytes(141e9, way) / 141e9 for way in WAYS]
    [4.0, 2.0, 0.0]
    """
    if not n_bytes >= 0:
        raise ValueError(f"no file has {n_bytes} bytes")
    return n_bytes * sum(_PASSES[step] for step in look_up(way, WAYS, "way"))


def processor_copies(way: str) -> int:
    """How often a processor copies each byte on that `way`."""
    return look_up(way, WAYS, "way").count("copy")


def _check_rates(way: Sequence[Stretch]) -> None:
    if blocked := [each.name for each in way if not each.bytes_per_s > 0]:
        raise ValueError(f"nothing goes over {', '.join(blocked)}: a rate above 0 is needed")
