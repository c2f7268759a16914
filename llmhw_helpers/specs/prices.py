"""What cards cost, in dollars: renting one for an hour, or buying it when it came out. Dated, and soon out of date.

The two do not compare, nor do they with a cluster's own units (`clusters`): every figure says its unit. Prices are
before tax. A card that is not here has no price with a source and a date that was found.
"""

from collections.abc import Mapping

from .data_sheets import NO_SOURCE
from .figures import Figure

PRICE_SHEET = "techbytes.app, Serverless GPU Pricing Matrix, from the vendors' own pages"
MODAL = f"Modal, list price of 2026-05-07 ({PRICE_SHEET})"
LAMBDA = f"Lambda, list price of 2026-05-07 ({PRICE_SHEET})"
AWS = (
    "AWS EC2 g5.xlarge in us-east-1, on demand, with 4 CPU cores, of 2026-06 (factualminds.com, EC2 On-Demand pricing)"
)


def _rent(dollars: float, source: str) -> Figure:
    return Figure(dollars, "USD/h", "one GPU for an hour, on demand", source)


def _launch(dollars: float, source: str) -> Figure:
    return Figure(dollars, "USD", "recommended price of one, new, when it came out", source)


RENT: Mapping[str, Figure] = {
    "T4": _rent(0.5904, MODAL),
    "L4": _rent(0.7992, MODAL),
    "A10": _rent(0.86, LAMBDA),
    "A10G": _rent(1.006, AWS),
    "L40S": _rent(1.9512, MODAL),
    "A100-40GB": _rent(1.48, LAMBDA),
    "A100-80GB": _rent(2.4984, MODAL),
    "H100 PCIe": _rent(2.86, LAMBDA),
    "H100": _rent(3.78, LAMBDA),
}
LAUNCH: Mapping[str, Figure] = {
    "RTX 2080 Ti": _launch(999, "NVIDIA, announcement of 2018-08-20"),
    "RTX 3060": _launch(329, "NVIDIA, announcement of 2021-01-12"),
    "RTX 3080": _launch(699, "NVIDIA, announcement of 2020-09-01"),
    "RTX 3090": _launch(1499, "NVIDIA, announcement of 2020-09-01"),
    "RTX 4060 Ti 16GB": _launch(499, "NVIDIA, announcement of 2023-05-18"),
    "RTX 4080": _launch(1199, "NVIDIA, announcement of 2022-09-20"),
    "RTX 4090": _launch(1599, "NVIDIA, announcement of 2022-09-20"),
    "RTX 5090": _launch(1999, "NVIDIA, announcement of 2025-01-06"),
    "GB10": _launch(3999, "NVIDIA, DGX Spark with 4 TB, October 2025: the whole computer"),
}


def rent(accelerator_name: str) -> Figure:
    """What one of these GPUs (its name in `accelerators`) costs for an hour; without value where none was found.

    >>> rent("A100-80GB").value, rent("A100-80GB").unit, rent("MI300X").value
    (2.4984, 'USD/h', None)
    """
    nothing = Figure(None, "USD/h", f"one {accelerator_name} for an hour, on demand", NO_SOURCE)
    return RENT.get(accelerator_name, nothing)


def launch(accelerator_name: str) -> Figure:
    """What one of these GPUs cost when it came out; without value where that is not public.

    >>> launch("RTX 4090").value, launch("H100").value
    (1599, None)
    """
    nothing = Figure(None, "USD", f"recommended price of one {accelerator_name}, new", NO_SOURCE)
    return LAUNCH.get(accelerator_name, nothing)
