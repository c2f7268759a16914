"""Links that GPUs talk over: NVLink and its like, PCI Express, InfiniBand, Ethernet, Slingshot; one direction each.

Data sheets of NVLink print both directions together; half of that stands here, for all links that one GPU has, as what
it can send while it receives as much. Networks are printed in bits, one direction, for one adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .buses import BUSES
from .data_sheets import NO_SOURCE
from .figures import Figure, look_up

TINY = "time of an all-reduce of 8 bytes by NCCL, in microseconds of wall clock"
NCCL_NVLINK = "NVIDIA/nccl-tests, issue 331: 4 A100 on one board, 9.8 µs"
NCCL_HDR = "NVIDIA/nccl-tests, issue 150: 16 A100 on two nodes, 19 to 20 µs"
CSCS = "CSCS documentation (eth-cscs/cscs-docs, 80abed13), NCCL: 8 GH200 on two nodes, 17.9 µs"
CSCS_TCP = "CSCS documentation (eth-cscs/cscs-docs, 80abed13), NCCL without the network's plugin: 50 to 85 µs"
MESSAGE = "one message of a tiny all-reduce by NCCL, which goes up a tree and down again"
LONG = "bus bandwidth of long all-reduces by NCCL"
BOOK = "stas00/ml-engineering, network (744d01e1)"
VOLTA = "NVIDIA V100 datasheet: 300 GB/s in both directions together"
AMPERE = "NVIDIA A100 datasheet: 600 GB/s in both directions together"
HOPPER = "NVIDIA H100 Tensor Core GPU datasheet: 900 GB/s in both directions together"
BLACKWELL = "NVIDIA DGX B200 datasheet: 14.4 TB/s in both directions of 8 GPUs together"
GA102_BRIDGE = "NVIDIA A40 datasheet: 112.5 GB/s in both directions together, a bridge between two cards"
NVL_BRIDGE = "NVIDIA H100 Tensor Core GPU datasheet, H100 NVL: 600 GB/s in both directions together"
CDNA2 = "AMD ROCm documentation, MI250 microarchitecture: 25 GT/s of two bytes a link"
CDNA3 = "AMD Instinct MI300X data sheet: 7 links of 128 GB/s in both directions together, to the 7 other GPUs of a node"
INFINIBAND = "InfiniBand Trade Association, roadmap: data rate of a port with 4 lanes"
IEEE = "IEEE 802.3: nominal rate of a port"
SLINGSHOT = "HPE Slingshot-11: 200 Gbit/s a port"


@dataclass(frozen=True)
class Link:
    """What one GPU, or one adapter, sends over at most.

    Attributes:
        bytes_per_s: peak in one direction; without value where nothing is to be sent to.
        latency_s: of the smallest all-reduce; without value where no public measurement was found.
        message_s: of one message in it: the time of that all-reduce over the messages that follow each other in it.
        reached_bytes_per_s: bus bandwidth of long all-reduces (nccl-tests' `busbw`: what a ring sends over each link).

    >>> link("NVLink 3").bytes_per_s.known() / 1e9, link("HDR InfiniBand").bytes_per_s.known() / 1e9
    (300.0, 25.0)
    """

    name: str
    bytes_per_s: Figure
    latency_s: Figure
    message_s: Figure
    reached_bytes_per_s: Figure


def _link(name: str, peak: Figure) -> Link:
    """With what was measured of it, if that was."""
    nothing = [Figure(None, unit, f"{what} ({name})", NO_SOURCE) for unit, what in (("s", MESSAGE), ("B/s", LONG))]
    tiny = TINY_ALL_REDUCES.get(name, Figure(None, "s", TINY, NO_SOURCE))
    return Link(name, peak, tiny, MESSAGES.get(name, nothing[0]), REACHED.get(name, nothing[1]))


def _in_node(name: str, gigabytes_per_s: float, source: str) -> Link:
    return _link(name, Figure(gigabytes_per_s * 1e9, "B/s", "peak of all links of one GPU, one direction", source))


def _network(name: str, gbit: float, source: str) -> Link:
    meaning = f"peak of one adapter, one direction: {gbit} Gbit/s"
    return _link(name, Figure(gbit * 1e9 / 8, "B/s", meaning, source))


def _seconds(microseconds: float, meaning: str, source: str) -> Figure:
    return Figure(microseconds / 1e6, "s", meaning, source)


def _busbw(gigabytes_per_s: float, source: str) -> Figure:
    return Figure(gigabytes_per_s * 1e9, "B/s", LONG, source)


TINY_ALL_REDUCES: Mapping[str, Figure] = {
    "NVLink 3": _seconds(9.8, TINY, NCCL_NVLINK),
    "HDR InfiniBand": _seconds(19.5, TINY, NCCL_HDR),
    "Slingshot 11": _seconds(17.9, TINY, CSCS),
    "Slingshot 11 by TCP": _seconds(65, TINY, CSCS_TCP),
}
# Of its messages 2 log2(ranks) follow each other: those inside a node take what NVLink 3's take, and two go between.
MESSAGES: Mapping[str, Figure] = {
    "NVLink 3": _seconds(2.45, MESSAGE, f"{NCCL_NVLINK}, over 4 messages"),
    "HDR InfiniBand": _seconds(2.4, MESSAGE, f"{NCCL_HDR}: less 14.7 µs for 6 messages inside a node, over 2"),
    "Slingshot 11": _seconds(4.05, MESSAGE, f"{CSCS}: less 9.8 µs for 4 messages inside a node, over 2"),
    "Slingshot 11 by TCP": _seconds(27.6, MESSAGE, f"{CSCS_TCP}: 65 µs less 9.8 for 4 inside a node, over 2"),
}
# Of a GPU inside a node, of one adapter between nodes.
REACHED: Mapping[str, Figure] = {
    "NVLink 3": _busbw(235, f"{BOOK}: 8 A100; 231.6 in Azure/AI-benchmarking-guide, 232.5 in nccl-tests, issue 175"),
    "NVLink 4": _busbw(365.6, f"{BOOK}: 8 H200, ring; a switch that adds up by itself reaches 473"),
    "PCIe 3.0 x16": _busbw(4.88, "NVIDIA/nccl, issue 445: 4 GPUs in slots"),
    "PCIe 4.0 x16": _busbw(20, "NVIDIA/nccl-tests, issue 178: 3 A100 in slots"),
    "PCIe 5.0 x16": _busbw(28, "NVIDIA/nccl, issue 1639: 8 RTX 5090; 35 with 4"),
    "EDR InfiniBand": _busbw(12.2, "NVIDIA/nccl-tests, issue 29: 2 ranks, one adapter"),
    "HDR InfiniBand": _busbw(24, "NVIDIA/nccl-tests, issue 175: 16 A100 on two nodes, one adapter; four: 21.5 each"),
    "NDR InfiniBand": _busbw(47, "NVIDIA/nccl-tests, issue 290: 46 to 48, one rank to another"),
    "100 Gbit Ethernet": _busbw(9.375, "NVIDIA/nccl, issue 495: RoCE, two nodes of 8 A100, 75 of eight adapters"),
    "200 Gbit Ethernet": _busbw(9.84, "NVIDIA/nccl-tests, issue 112: RoCE, two nodes, ACS on, which halves it"),
    "400 Gbit Ethernet": _busbw(28.9, "NVIDIA/nccl, issue 2409: RoCE, two nodes of 8 H100, 231 of eight adapters"),
    "Slingshot 11 by TCP": _busbw(1.35, f"{CSCS_TCP}: 8 GH200 on two nodes, 5.4 of four adapters"),
}
ALONE = _link("none", Figure(None, "B/s", "link to another GPU: it is alone in its machine", "by design"))
LINKS: Mapping[str, Link] = {
    each.name: each
    for each in (
        _in_node("NVLink 2", 150, VOLTA),
        _in_node("NVLink 3", 300, AMPERE),
        _in_node("NVLink 4", 450, HOPPER),
        _in_node("NVLink 5", 900, BLACKWELL),
        _in_node("NVLink bridge, GA102", 56.25, GA102_BRIDGE),
        _in_node("NVLink bridge, A100 PCIe", 300, AMPERE),
        _in_node("NVLink bridge, H100 NVL", 300, NVL_BRIDGE),
        _in_node("Infinity Fabric, MI250X, one link", 50, CDNA2),
        _in_node("Infinity Fabric, MI250X, within a card", 200, f"{CDNA2}, 4 links"),
        _in_node("Infinity Fabric, MI300X", 448, CDNA3),
        *(_link(name, rate) for name, rate in BUSES.items()),
        _network("EDR InfiniBand", 100, INFINIBAND),
        _network("HDR InfiniBand", 200, INFINIBAND),
        _network("NDR InfiniBand", 400, INFINIBAND),
        _network("XDR InfiniBand", 800, INFINIBAND),
        _network("10 Gbit Ethernet", 10, IEEE),
        _network("25 Gbit Ethernet", 25, IEEE),
        _network("100 Gbit Ethernet", 100, IEEE),
        _network("200 Gbit Ethernet", 200, IEEE),
        _network("400 Gbit Ethernet", 400, IEEE),
        _network("Slingshot 11", 200, SLINGSHOT),
        _network("Slingshot 11 by TCP", 200, SLINGSHOT),
        ALONE,
    )
}
# What cards of a kind talk over within a node, as they are sold: boards for SXM and its like, else the slot. Two cards
# in slots may have a bridge besides, which one has to buy; whether Alvis's A40 have one is not public.
NODE_LINKS: Mapping[str, str] = {
    "V100": "NVLink 2",
    "V100-16GB": "NVLink 2",
    "A100-40GB": "NVLink 3",
    "A100-80GB": "NVLink 3",
    **dict.fromkeys(("H100", "GH200", "H200", "H20"), "NVLink 4"),
    "B200": "NVLink 5",
    "H100 NVL": "NVLink bridge, H100 NVL",
    **dict.fromkeys(("T4", "RTX 2080 Ti"), "PCIe 3.0 x16"),
    **dict.fromkeys(("A40", "A10", "A10G", "A30", "RTX A5000", "RTX A6000", "A100-80GB PCIe"), "PCIe 4.0 x16"),
    **dict.fromkeys(("L4", "L40", "L40S", "RTX 6000 Ada"), "PCIe 4.0 x16"),
    **dict.fromkeys(("RTX 3060", "RTX 3080", "RTX 3090", "RTX 4080", "RTX 4090", "MI210"), "PCIe 4.0 x16"),
    "RTX 4060 Ti 16GB": "PCIe 4.0 x8",
    **dict.fromkeys(("H100 PCIe", "RTX 5090"), "PCIe 5.0 x16"),
    "MI250X GCD": "Infinity Fabric, MI250X, one link",
    "MI300X": "Infinity Fabric, MI300X",
}


def link(name: str) -> Link:
    """The link called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, LINKS, "link")


def node_link(accelerator_name: str) -> Link:
    """What this GPU (its name in `accelerators`) reaches its neighbours in a node by; "none" where it has none.

    >>> node_link("A100-80GB").name, node_link("Apple M1 Max").name
    ('NVLink 3', 'none')
    """
    return LINKS[NODE_LINKS.get(accelerator_name, "none")]
