"""Rows of measured collectives (group D), and what `costs.collectives` predicts for each.

Nobody says in such a row which way NCCL took: by one ring over all ranks, or inside the nodes and between them; and
hardly a setting is written down. So the range goes from the slower to the faster way, over wires that reach the share
of their peak which other sources measured: `SHARES`, by kind, never by row. ``python -m benchmarks.network_rows`` is
part of ``planner.py``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from predictions import NotPredicted

from llmhw_helpers.costs.collectives import Wire, path, seconds, two_levels
from llmhw_helpers.costs.efficiency import message_seconds
from llmhw_helpers.specs.links import Link, link
from llmhw_helpers.specs.measured import Row

# Of a link's peak, in long messages: least and most. Between nodes: rank to rank 94%, one adapter 96 to 98, four 86,
# RoCE 39 to 75.
SHARES = {
    "NVLink": (0.68, 0.9),
    "PCIe": (0.3, 0.85),
    "InfiniBand": (0.84, 0.98),
    "Slingshot": (0.7, 0.95),
    "Ethernet": (0.39, 0.75),
}
SWITCH = (0.6, 0.75)  # of NVLink's, where the switch adds up
LATENCY = (0.9, 3.0)  # times `message_seconds`: tables of nccl-tests differ by as much for the same cards
SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SMALL = 2**20  # bytes, up to which latencies count most
LARGE = 8 * 2**30  # bytes, where a row says no more than that
# What a row's words say of its links: inside a node, and between nodes with so many adapters; the first that fits.
INSIDE = (
    (r"NVLink3|^A100(?!.*PCIe)", "NVLink 3"),
    (r"NVLink4|^H[12]00(?!.*PCIe)|GH200", "NVLink 4"),
    (r"A100 PCIe pair, NVLink bridge", "NVLink bridge, A100 PCIe"),
    (r"H100 PCIe bridge", "NVLink bridge, H100 NVL"),
    (r"DGX-1", "NVLink 2"),
    (r"PCIe ?3", "PCIe 3.0 x16"),
    (r"PCIe ?4", "PCIe 4.0 x16"),
    (r"PCIe ?5", "PCIe 5.0 x16"),
)
BETWEEN = (
    (r"(\d)x HDR200|HDR", "HDR InfiniBand"),
    (r"NDR400", "NDR InfiniBand"),
    (r"(\d)x EDR|one EDR", "EDR InfiniBand"),
    (r"(\d)x100G RoCE|EFA 100G", "100 Gbit Ethernet"),
    (r"(\d)x200G RoCE", "200 Gbit Ethernet"),
    (r"(\d)x400G RoCE", "400 Gbit Ethernet"),
    (r"(\d)x Slingshot-11", "Slingshot 11"),
)
NAMES = {
    "allreduce_busbw": "all-reduce",
    "allgather_busbw": "all-gather",
    "reducescatter_busbw": "reduce-scatter",
    "broadcast_busbw": "broadcast",
    "alltoall_busbw": "all-to-all",
    "p2p_bw": "send",
    "p2p_busbw": "send",
    "p2p_bw_per_nic": "send",
    "allreduce_latency": "all-reduce",
}


@dataclass(frozen=True)
class Place:
    """Where a row's ranks are: so many on so many nodes, and the links that its words name."""

    per_node: int
    nodes: int
    inside: Link | None
    between: Link | None
    n_adapters: int


def rows(measured: Iterable[Row]) -> list[tuple[Row, float | None, float | None, float | None, str]]:
    """Each row with the predicted range, the measured value and a note; without a range, why there is none."""
    found = []
    for row in measured:
        try:
            low, high, note = predict(row)
            found.append((row, low, high, row.value, note))
        except (ValueError, LookupError, ArithmeticError) as error:
            found.append((row, None, None, row.value, f"not predicted: {error}"))
    return found


def predict(row: Row) -> tuple[float, float, str]:
    """The range of a row's bus bandwidth or time, in its unit, and how; `NotPredicted` with the reason."""
    if row.quantity not in NAMES:
        raise NotPredicted(f"no prediction of {row.quantity}")
    notes = row.other_inputs or ""
    if re.search(r"TCP|badly configured|below spec", notes):
        raise NotPredicted(f"{notes}: what a setting spoils, no formula says")
    if re.search(r"of \d+ GB/s$", notes) and row.nodes == 1:
        raise NotPredicted("a pair of these cards has fewer links than a card")
    place, name, n_bytes = _place(row), NAMES[row.quantity], _size(row)
    n = place.per_node * place.nodes
    if n < 2:
        raise NotPredicted("how many ranks there are is not said")
    slow, quick = (_seconds(place, name, n_bytes, best, notes) for best in (0, 1))
    if row.unit == "us":
        return 1e6 * quick, 1e6 * slow, "tree or ring, by what messages take"
    if row.unit != "GB/s":
        raise NotPredicted(f"unknown unit {row.unit!r}")
    moved = path(name, n_bytes, n)[1] / 1e9  # nccl-tests' bus bandwidth: what a ring sends, over the time
    share = place.n_adapters if row.quantity == "p2p_bw_per_nic" else 1
    return moved / slow / share, moved / quick / share, "one ring over all, or two levels"


def _seconds(place: Place, name: str, n_bytes: float, best: int, notes: str) -> float:
    """With the worst (0) or best (1) of what wires do, by the best of the ways that are open.

    NCCL takes a ring, a tree or the switch, what is fastest; a row may say which. Over several nodes the worst of long
    messages is one ring through all ranks, and the best goes inside the nodes first.
    """
    inside = _wire(place.inside, 1, best) if place.inside else None
    n = place.per_node * place.nodes
    if place.nodes == 1:
        if inside is None:
            raise NotPredicted("what connects the ranks is not said")
        if "NVLS" in notes:
            peak = place.inside.bytes_per_s.known()
            return seconds(name, n_bytes, n, Wire(inside.latency_s, SWITCH[best] * peak), "switch")
        return seconds(name, n_bytes, n, inside, "ring" if notes == "ring" or "ring;" in notes else "best")
    if place.between is None:
        raise NotPredicted("what connects the nodes is not said")
    between = _wire(place.between, place.n_adapters, best)
    if place.per_node == 1 or inside is None:
        return seconds(name, n_bytes, n, between, "best")
    narrow = min(inside.bytes_per_s, between.bytes_per_s)
    ways = [] if name == "all-to-all" else [seconds(name, n_bytes, n, Wire(between.latency_s, narrow))]
    if best or not ways or n_bytes < SMALL:
        ways.append(two_levels(name, n_bytes, place.per_node, place.nodes, inside, between))
    if name == "all-reduce" and n_bytes < SMALL:
        local, far = (place.per_node, inside), (place.nodes, between)
        ways.append(sum(seconds(name, n_bytes, ranks, wire, "tree") for ranks, wire in (local, far)))
    return min(ways)


def _wire(of: Link, n_links: int, best: int) -> Wire:
    share = next(share for word, share in SHARES.items() if word in of.name)[best]
    return Wire.of(of, share, LATENCY[1 - best] * message_seconds(of), n_links)


def _place(row: Row) -> Place:
    words, nodes = row.gpu or "", row.nodes or 1
    inside = next((name for pattern, name in INSIDE if re.search(pattern, words)), None)
    between = next(((match, name) for pattern, name in BETWEEN if (match := re.search(pattern, words))), None)
    count = int(between[0][1] or 1) if between and between[0].re.groups and between[0][1] else 1
    per_node = (row.n_gpu or nodes) // nodes
    return Place(per_node, nodes, inside and link(inside), between and link(between[1]), count)


def _size(row: Row) -> float:
    text = row.util_or_batch or ""
    if text == "large":
        return LARGE
    found = re.fullmatch(r"(?:\d+-)?(\d+) ?([KMG]?i?B)", text)
    if not found:
        raise NotPredicted(f"unknown size {text!r}")
    return float(found[1]) * SIZES[found[2]]
