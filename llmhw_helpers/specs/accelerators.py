"""Accelerators: the GPUs of the lecture, of Alvis and its successor, and those that people meet elsewhere and at home.

The lecture's table has one number a format. It leaves unsaid what the fields here say: which unit computes it (CUDA
cores or tensor cores), that it is a dense rate (Ampere and newer double it for 2:4 sparse weights), and that the V100
has no tensor-core integers at all: its INT8 rate is the DP4A instruction on CUDA cores.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .datacenter_cards import DATACENTER_CARDS, LECTURE_CARDS
from .dtypes import dtype as find_dtype
from .figures import Figure, look_up
from .home_cards import HOME_CARDS
from .other_cards import OTHER_CARDS


class UnsupportedDtype(ValueError):
    """A format that the accelerator has no arithmetic for."""


@dataclass(frozen=True)
class Accelerator:
    """What a program sees as one GPU. All rates are dense peaks at boost clock, all bytes decimal (1 GB = 1e9 B).

    Attributes:
        maker: ``"NVIDIA"``, ``"AMD"`` or ``"Apple"``.
        compute_capability: CUDA's; without value where the maker is another.
        cuda_core, tensor_core: operations per second by number format, a multiply-add counted as two; AMD's vector
            units and matrix cores, Apple's GPU cores stand in the same places. A `Figure` without value: it computes
            in the format, at a rate that no source gives.
        sparse_gain: how many times faster tensor cores are with 2:4 sparse weights; see `sparse_peak`.
        memory_bytes: nominal, the GB of the data sheet. What a program sees (`visible_bytes`, where it is known) lies
            below or above it: the 80 GB of an A100 are 80 GiB (85.9 GB) less what the driver keeps.
        bytes_per_s: peak rate of the device memory, reads and writes together.
        shared_bytes: shared memory of one streaming multiprocessor, the fast memory that a kernel fills by itself.
        n_sms, boost_hz, tensor_hz: streaming multiprocessors and the clocks behind the two kinds of rate (tensor-core
            fp64 goes by ``boost_hz``).

    >>> accelerator("A100-40GB").peak("bf16").value
    312000000000000.0
    >>> accelerator("T4").peak("bf16")
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.accelerators.UnsupportedDtype: T4 has no bf16 arithmetic; it has fp64, fp32, fp16, int8, int4
    """

    name: str
    maker: str
    architecture: str
    compute_capability: Figure
    shared_bytes: Figure
    n_sms: Figure
    boost_hz: Figure
    tensor_hz: Figure
    sparse_gain: Figure
    cuda_core: Mapping[str, Figure]
    tensor_core: Mapping[str, Figure]
    memory_bytes: Figure
    visible_bytes: Figure
    bytes_per_s: Figure
    tdp_watts: Figure

    def peak(self, dtype: str) -> Figure:
        """The faster of the two units' dense rates for `dtype`; a `Figure` without value where one is not known.

        Raises:
            UnsupportedDtype: neither unit has the format.
            UnknownName: there is no such format.
        """
        name = find_dtype(dtype).name
        rates = [rates[name] for rates in (self.cuda_core, self.tensor_core) if name in rates]
        if not rates:
            raise UnsupportedDtype(f"{self.name} has no {name} arithmetic; it has {', '.join(self.dtypes)}")
        unknown = [rate for rate in rates if rate.value is None]
        return unknown[0] if unknown else max(rates, key=Figure.known)

    def sparse_peak(self, dtype: str) -> Figure:
        """The rate for weights of which two in every four are zero (2:4 structured sparsity), dense work counted.

        Raises:
            UnsupportedDtype: this card has no faster way for such weights in the format.
            UnknownFigure: no source says so, or none gives the dense rate.
            UnknownName: there is no such format.

        >>> accelerator("A100-80GB").sparse_peak("fp16").value / 1e12
        624.0
        >>> accelerator("V100").sparse_peak("fp16")
        Traceback (most recent call last):
            ...
        llmhw_helpers.specs.accelerators.UnsupportedDtype: V100 gains nothing by 2:4 sparse weights in fp16
        """
        name, gain = find_dtype(dtype).name, self.sparse_gain
        if name not in self.tensor_core or name in ("fp64", "fp32") or gain.value == 1:
            raise UnsupportedDtype(f"{self.name} gains nothing by 2:4 sparse weights in {name}")
        dense = self.tensor_core[name]
        meaning = f"{name}: peak on matrix units with 2:4 sparse weights, the products with zeros counted too"
        return Figure(dense.known() * gain.known(), "op/s", meaning, f"{dense.source}; {gain.source}")

    @property
    def kind(self) -> float | str:
        """What programs go by: CUDA's compute capability, or the architecture of a maker that CUDA does not know.

        >>> [accelerator(name).kind for name in ("A40", "MI300X", "M4 Max")]
        [8.6, 'CDNA 3', 'Apple GPU']
        """
        capability = self.compute_capability.value
        return self.architecture if capability is None else capability

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The formats it computes in, CUDA cores first."""
        return tuple(dict.fromkeys([*self.cuda_core, *self.tensor_core]))


ACCELERATORS = {
    row["name"]: Accelerator(**row) for row in (*LECTURE_CARDS, *DATACENTER_CARDS, *HOME_CARDS, *OTHER_CARDS)
}
LECTURE = tuple(row["name"] for row in LECTURE_CARDS)  # the lecture's, Alvis's and Arrhenius's
# other names, as people, PyTorch and nvidia-smi write them; the makers' names are left out before
_ALSO = {
    "V100-32": "V100",
    "V100-SXM2-32GB": "V100",
    "V100-16": "V100-16GB",
    "V100-SXM2-16GB": "V100-16GB",
    "A100-40": "A100-40GB",
    "A100-SXM4-40GB": "A100-40GB",
    "A100-80": "A100-80GB",
    "A100fat": "A100-80GB",
    "A100-SXM4-80GB": "A100-80GB",
    "A100-80 PCIe": "A100-80GB PCIe",
    "H100 SXM": "H100",
    "H100 SXM5": "H100",
    "H100-80": "H100",
    "H100-80GB": "H100",
    "H100 80GB HBM3": "H100",
    "GH200 480GB": "GH200",
    "H200 SXM": "H200",
    "A6000": "RTX A6000",
    "2080 Ti": "RTX 2080 Ti",
    "A5000": "RTX A5000",
    "3060": "RTX 3060",
    "3080": "RTX 3080",
    "3090": "RTX 3090",
    "4060 Ti": "RTX 4060 Ti 16GB",
    "RTX 4060 Ti": "RTX 4060 Ti 16GB",
    "4080": "RTX 4080",
    "4090": "RTX 4090",
    "5090": "RTX 5090",
    "DGX Spark": "GB10",
    "MI250X": "MI250X GCD",
    **{name.removeprefix("Apple "): name for name in ACCELERATORS if name.startswith("Apple ")},
}


def accelerator(name: str) -> Accelerator:
    """The GPU called `name`; `UnknownName` with the nearest names where there is none.

    >>> [accelerator(name).name for name in ("rtx4090", "A100fat", "NVIDIA H100 80GB HBM3", "MI250X")]
    ['RTX 4090', 'A100-80GB', 'H100', 'MI250X GCD']
    """
    plain = re.sub(r"(?i)\b(nvidia|geforce|tesla|amd|instinct)\b", "", name)
    return look_up(plain if plain.strip() else name, ACCELERATORS, "accelerator", _ALSO)
