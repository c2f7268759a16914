"""From a line of a data sheet to the figures of an accelerator: the unit, the meaning and the source go with it."""

from .figures import Figure

CUDA_GUIDE = "CUDA C++ Programming Guide, Compute Capabilities"
PTX = "NVIDIA PTX ISA, mma.sp: sparse matrix products from sm_80 on"
VISIBLE_NOTE = "the total capacity in PyTorch's out-of-memory messages and in vLLM's logs, as public reports quote it"
NO_SOURCE = "no public source"
# KiB of shared memory by compute capability
_SHARED_KIB = {7.0: 96, 7.5: 64, 8.0: 164, 8.6: 100, 8.9: 100, 9.0: 228, 10.0: 228, 12.0: 100, 12.1: 100}

CUDA, TENSOR = "CUDA cores", "tensor cores"
HALVED = "tensor cores with sums in fp32 (GeForce cards are twice as fast with sums in fp16)"


def rates(unit: str, source: str, **tera: float | int | None) -> dict[str, Figure]:
    """Dense peaks of one unit by format, given in 1e12 operations per second; None where no source gives the rate."""
    meaning = f"dense peak on {unit}, a multiply-add counts as two operations"
    return {
        name: Figure(None if value is None else value * 1e12, "op/s", f"{name}: {meaning}", source)
        for name, value in tera.items()
    }


def memory(sheet: str, gigabytes: int, gigabytes_per_s: float, visible_gib: float | None = None) -> dict:
    """Device memory, nominal (decimal GB) and visible (GiB), and its bandwidth."""
    note = VISIBLE_NOTE if visible_gib else NO_SOURCE
    visible = visible_gib * 2**30 if visible_gib else None
    return {
        "memory_bytes": Figure(gigabytes * 1e9, "B", "nominal device memory", sheet),
        "visible_bytes": Figure(visible, "B", "device memory that a program sees", note),
        "bytes_per_s": Figure(gigabytes_per_s * 1e9, "B/s", "device memory peak, reads and writes together", sheet),
    }


def chip(
    architecture: str,
    cc: float,
    paper: str,
    sms: int,
    boost_mhz: int | None,
    tensor_mhz: int | None = None,
    maker: str = "NVIDIA",
) -> dict:
    """An NVIDIA chip: multiprocessors enabled and clocks, and what follows from its compute capability."""
    return {
        "maker": maker,
        "architecture": architecture,
        "compute_capability": Figure(cc, "", "CUDA compute capability", CUDA_GUIDE),
        "shared_bytes": Figure(_SHARED_KIB[cc] * 1024.0, "B", "most shared memory on one multiprocessor", CUDA_GUIDE),
        "n_sms": Figure(float(sms), "", "streaming multiprocessors enabled", paper),
        "boost_hz": _hertz(boost_mhz, "boost clock behind the CUDA-core rates and fp64", paper),
        "tensor_hz": _hertz(tensor_mhz or boost_mhz, "boost clock behind the tensor-core rates but fp64", paper),
        "sparse_gain": sparse_gain(2.0 if cc >= 8 else 1.0, PTX),
    }


def other_chip(maker: str, architecture: str, paper: str, units: int, boost_mhz: int | None, sparse: Figure) -> dict:
    """A chip that CUDA does not know: compute units (AMD) or GPU cores (Apple), one clock, no compute capability."""
    return {
        "maker": maker,
        "architecture": architecture,
        "compute_capability": Figure(None, "", f"CUDA compute capability of a GPU by {maker}", "CUDA runs on NVIDIA's"),
        "shared_bytes": Figure(None, "B", "most shared memory on one multiprocessor", "not collected here"),
        "n_sms": Figure(float(units), "", "compute units or GPU cores enabled", paper),
        "boost_hz": _hertz(boost_mhz, "peak clock", paper),
        "tensor_hz": _hertz(boost_mhz, "peak clock", paper),
        "sparse_gain": sparse,
    }


def sparse_gain(value: float | None, source: str) -> Figure:
    """How many times the dense rate matrix units reach with 2:4 sparse weights; 1 where they do not know them."""
    return Figure(value, "", "peak with 2:4 sparse weights over the dense peak, matrix units, not fp64 or fp32", source)


def watts(sheet: str, value: float | None, meaning: str = "thermal design power of the card") -> dict:
    """The power that the card is built to draw at most."""
    return {"tdp_watts": Figure(None if value is None else float(value), "W", meaning, sheet)}


def _hertz(megahertz: int | None, meaning: str, source: str) -> Figure:
    return Figure(megahertz and megahertz * 1e6, "Hz", meaning, source if megahertz else NO_SOURCE)
