"""Buses between a host's memory and its GPU, one direction."""

from .figures import Figure, look_up

PCI = "PCI Express Base Specification: 8, 16 or 32 GT/s on each of 16 lanes, of which 128/130 are data"
GH200_SHEET = "NVIDIA GH200 Grace Hopper Superchip datasheet: 900 GB/s in both directions together"


def _pcie(gigatransfers: int, lanes: int = 16) -> Figure:
    return Figure(gigatransfers * 1e9 * lanes / 8 * 128 / 130, "B/s", f"peak of {lanes} lanes in one direction", PCI)


BUSES = {
    "PCIe 3.0 x16": _pcie(8),
    "PCIe 4.0 x16": _pcie(16),
    "PCIe 4.0 x8": _pcie(16, 8),
    "PCIe 5.0 x16": _pcie(32),
    "NVLink-C2C": Figure(450e9, "B/s", "half of the peak of both directions", GH200_SHEET),
}


def bus(name: str) -> Figure:
    """Peak of the bus called `name` in one direction; `UnknownName` with the nearest names where there is none.

    >>> bus("PCIe 4.0 x16").known() / 1e9
    31.507692307692306
    """
    return look_up(name, BUSES, "bus")
