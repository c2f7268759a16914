"""GPUs of the lecture, of Alvis and of its successor: peaks, memory, power, each figure with source and meaning.

The lecture's table has one number a format. It leaves unsaid what the fields here say: which unit computes it (CUDA
cores or tensor cores), that it is a dense rate (Ampere and newer double it for 2:4 sparse weights), and that the V100
has no tensor-core integers at all: its INT8 rate is the DP4A instruction on CUDA cores.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .dtypes import dtype as find_dtype
from .figures import Figure, look_up

T4_SHEET = "NVIDIA T4 Tensor Core GPU datasheet, t4-tensor-core-datasheet-951643"
TURING_PAPER = "NVIDIA Turing GPU Architecture whitepaper, WP-09183-001, appendix A (TU104, Tesla T4)"
V100_SHEET = "NVIDIA V100 datasheet, volta-v100-datasheet-update-us-1165301-r5"
VOLTA_PAPER = "NVIDIA Tesla V100 GPU Architecture whitepaper, WP-08608-001, table 1"
A40_SHEET = "NVIDIA A40 datasheet, nvidia-a40-datasheet"
GA102_PAPER = "NVIDIA Ampere GA102 GPU Architecture whitepaper v2.0, figures 2 and 3; clock: NVIDIA A40 product brief"
A100_SHEET = "NVIDIA A100 datasheet, nvidia-a100-datasheet-nvidia-us-2188504-web"
DP4A = f"derived, 64 DP4A of 8 operations a clock and SM; SMs and clock: {VOLTA_PAPER}"
AMPERE_PAPER = "NVIDIA A100 Tensor Core GPU Architecture whitepaper, table 4"
H100_SHEET = "NVIDIA H100 Tensor Core GPU datasheet"
HOPPER_PAPER = "NVIDIA H100 Tensor Core GPU Architecture whitepaper v1.04, peak rates and clocks of H100 SXM5"
GH200_SHEET = "NVIDIA GH200 Grace Hopper Superchip datasheet"
CUDA_GUIDE = "CUDA C++ Programming Guide, Compute Capabilities"
_SHARED_KIB = {7.0: 96, 7.5: 64, 8.0: 164, 8.6: 100, 9.0: 228}  # by compute capability
VISIBLE_NOTE = "the total capacity in PyTorch's out-of-memory messages, as many public reports quote it"


class UnsupportedDtype(ValueError):
    """A format that the accelerator has no arithmetic for."""


@dataclass(frozen=True)
class Accelerator:
    """One GPU model. All rates are dense peaks at boost clock, all bytes decimal (1 GB = 1e9 B).

    Attributes:
        cuda_core, tensor_core: operations per second by number format, a multiply-add counted as two.
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
    architecture: str
    compute_capability: Figure
    shared_bytes: Figure
    n_sms: Figure
    boost_hz: Figure
    tensor_hz: Figure
    cuda_core: Mapping[str, Figure]
    tensor_core: Mapping[str, Figure]
    memory_bytes: Figure
    visible_bytes: Figure
    bytes_per_s: Figure
    tdp_watts: Figure

    def peak(self, dtype: str) -> Figure:
        """The faster of the two units' dense rates for `dtype`.

        Raises:
            UnsupportedDtype: neither unit has the format.
            UnknownName: there is no such format.
        """
        name = find_dtype(dtype).name
        rates = [rates[name] for rates in (self.cuda_core, self.tensor_core) if name in rates]
        if not rates:
            raise UnsupportedDtype(f"{self.name} has no {name} arithmetic; it has {', '.join(self.dtypes)}")
        return max(rates, key=Figure.known)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The formats it computes in, CUDA cores first."""
        return tuple(dict.fromkeys([*self.cuda_core, *self.tensor_core]))


def _rates(unit: str, source: str, **tera: float | int) -> dict[str, Figure]:
    meaning = f"dense peak on {unit}, a multiply-add counts as two operations"
    return {name: Figure(value * 1e12, "op/s", f"{name}: {meaning}", source) for name, value in tera.items()}


def _memory(sheet: str, gigabytes: int, gigabytes_per_s: int, visible_gib: float | None = None) -> dict:
    note = VISIBLE_NOTE if visible_gib else "no public source"
    visible = visible_gib * 2**30 if visible_gib else None
    return {
        "memory_bytes": Figure(gigabytes * 1e9, "B", "nominal device memory", sheet),
        "visible_bytes": Figure(visible, "B", "device memory that a CUDA program sees", note),
        "bytes_per_s": Figure(gigabytes_per_s * 1e9, "B/s", "device memory peak, reads and writes together", sheet),
    }


def _chip(architecture: str, cc: float, paper: str, sms: int, boost_mhz: int, tensor_mhz: int | None = None):
    return {
        "architecture": architecture,
        "compute_capability": Figure(cc, "", "CUDA compute capability", CUDA_GUIDE),
        "shared_bytes": Figure(_SHARED_KIB[cc] * 1024.0, "B", "most shared memory on one multiprocessor", CUDA_GUIDE),
        "n_sms": Figure(float(sms), "", "streaming multiprocessors enabled", paper),
        "boost_hz": Figure(boost_mhz * 1e6, "Hz", "boost clock behind the CUDA-core rates and fp64", paper),
        "tensor_hz": Figure(
            (tensor_mhz or boost_mhz) * 1e6, "Hz", "boost clock behind the tensor-core rates but fp64", paper
        ),
    }


def _watts(sheet: str, value: int, meaning: str = "thermal design power of the card") -> dict:
    return {"tdp_watts": Figure(float(value), "W", meaning, sheet)}


_A100 = {
    **_chip("Ampere", 8.0, AMPERE_PAPER, 108, 1410),
    "cuda_core": _rates("CUDA cores", A100_SHEET, fp64=9.7, fp32=19.5),
    "tensor_core": _rates("tensor cores", A100_SHEET, fp64=19.5, tf32=156, bf16=312, fp16=312, int8=624, int4=1248),
}
_HOPPER_TENSOR = {"fp64": 66.9, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4, "fp8_e4m3": 1978.9, "fp8_e5m2": 1978.9}
_HOPPER = {  # the data sheets of H100 and GH200 round these, and print the tensor-core rates with sparsity, doubled
    **_chip("Hopper", 9.0, HOPPER_PAPER, 132, 1980, 1830),
    "cuda_core": _rates("CUDA cores", HOPPER_PAPER, fp64=33.5, fp32=66.9),
    "tensor_core": _rates("tensor cores", HOPPER_PAPER, **_HOPPER_TENSOR, int8=1978.9),
}

ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator(
            name="T4",
            **_chip("Turing", 7.5, TURING_PAPER, 40, 1590),
            cuda_core=_rates("CUDA cores, 1/32 of fp32 (the sheet omits it)", TURING_PAPER, fp64=0.25)
            | _rates("CUDA cores", T4_SHEET, fp32=8.1),
            tensor_core=_rates("tensor cores", T4_SHEET, fp16=65, int8=130, int4=260),
            **_memory(T4_SHEET, 16, 320, 14.75),
            **_watts(T4_SHEET, 70),
        ),
        Accelerator(
            name="V100",
            **_chip("Volta", 7.0, VOLTA_PAPER, 80, 1530),
            cuda_core=_rates("CUDA cores", V100_SHEET, fp64=7.8, fp32=15.7)
            | _rates("CUDA cores by DP4A, 4 times fp32 (the lecture's 64 is rounded)", DP4A, int8=62.7),
            tensor_core=_rates("tensor cores", V100_SHEET, fp16=125),
            **_memory(V100_SHEET, 32, 900, 31.75),
            **_watts(V100_SHEET, 300, "thermal design power, SXM2"),
        ),
        Accelerator(
            name="A40",
            **_chip("Ampere", 8.6, GA102_PAPER, 84, 1740),
            cuda_core=_rates("CUDA cores, 1/64 of fp32 (the sheet omits it)", GA102_PAPER, fp64=0.58)
            | _rates("CUDA cores", A40_SHEET, fp32=37.4),
            tensor_core=_rates("tensor cores", A40_SHEET, tf32=74.8, bf16=149.7, fp16=149.7, int8=299.3, int4=598.7),
            **_memory(A40_SHEET, 48, 696),
            **_watts(A40_SHEET, 300),
        ),
        Accelerator(
            name="A100-40GB", **_A100, **_memory(A100_SHEET, 40, 1555, 39.59), **_watts(A100_SHEET, 400, "SXM module")
        ),
        Accelerator(
            name="A100-80GB", **_A100, **_memory(A100_SHEET, 80, 2039, 79.15), **_watts(A100_SHEET, 400, "SXM module")
        ),
        Accelerator(
            name="H100",
            **_HOPPER,
            **_memory(H100_SHEET, 80, 3350),
            **_watts(H100_SHEET, 700, "SXM5 module, maximum"),
        ),
        Accelerator(
            name="GH200",
            **_HOPPER,
            **_memory(GH200_SHEET, 96, 4000),
            **_watts(GH200_SHEET, 1000, "GPU, Grace CPU and memory together, maximum"),
        ),
    )
}


def accelerator(name: str) -> Accelerator:
    """The GPU called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, ACCELERATORS, "accelerator")
