"""Cards that are not NVIDIA's, by AMD and Apple: rows for `accelerators.ACCELERATORS`.

A program sees an MI250X as two GPUs, each with half of the card's memory and of all its rates; clusters count them so
too (LUMI: eight in a node of four cards). So one half, a GCD, is the accelerator here. Apple's chips share their memory
with the CPU, and are sold with different amounts of it: the most stands here. What Apple does not print is unknown.
"""

from .data_sheets import memory, other_chip, rates, sparse_gain, watts
from .figures import Figure

CDNA2_PAPER = "AMD CDNA 2 whitepaper and AMD Instinct MI250X data sheet"
MI210_SHEET = "AMD Instinct MI210 data sheet"
CDNA3_PAPER = "AMD Instinct MI300X data sheet; its 8-bit floats are the FNUZ kind, another than OCP's"
M1_BENCHMARKS = (
    "derived, 128 fused multiply-adds a core and clock in fp32 as in fp16; measured: P. Turner, metal-benchmarks"
)
APPLE_SPECS = "Apple, technical specifications of Mac Studio and MacBook Pro with this chip"
APPLE_SILENT = "Apple prints none"

_GCD = "half of the card's"


def _amd(unit: str, source: str, vector: dict, matrix: dict) -> dict:
    return {
        "cuda_core": rates(f"vector units{unit}", source, **vector),
        "tensor_core": rates(f"matrix cores{unit}", source, **matrix),
    }


def _apple(name: str, cores: int, mhz: int | None, gigabytes: int, gigabytes_per_s: int) -> dict:
    """One chip with all its GPU cores; of newer ones nobody with a source gives the clock, so no rate follows."""
    tera = mhz and cores * 128 * 2 * mhz / 1e6
    source = f"{M1_BENCHMARKS}; cores: {APPLE_SPECS}" if mhz else APPLE_SILENT
    unit = "GPU cores" + (f", {mhz} MHz" if mhz else "")
    return {
        "name": f"Apple {name}",
        **other_chip(
            "Apple", "Apple GPU", source, cores, mhz, Figure(None, "", "gain by 2:4 sparse weights", APPLE_SILENT)
        ),
        "cuda_core": rates(unit, source, fp32=tera, fp16=tera),
        "tensor_core": {},
        **memory(APPLE_SPECS, gigabytes, gigabytes_per_s),
        **watts(APPLE_SILENT, None, "thermal design power of the chip"),
    }


OTHER_CARDS = (
    {
        "name": "MI250X GCD",
        **other_chip("AMD", "CDNA 2", CDNA2_PAPER, 110, 1700, sparse_gain(1.0, CDNA2_PAPER)),
        **_amd(
            f" of one GCD, {_GCD}",
            CDNA2_PAPER,
            {"fp64": 47.9 / 2, "fp32": 47.9 / 2},
            {"fp64": 95.7 / 2, "fp32": 95.7 / 2, "bf16": 383 / 2, "fp16": 383 / 2, "int8": 383 / 2},
        ),
        **memory(f"{CDNA2_PAPER}: {_GCD} 128 GB and 3276.8 GB/s", 64, 1638.4),
        **watts(CDNA2_PAPER, 250, f"{_GCD} thermal design power of 500 W (560 W at peak)"),
    },
    {
        "name": "MI210",
        **other_chip("AMD", "CDNA 2", MI210_SHEET, 104, 1700, sparse_gain(1.0, CDNA2_PAPER)),
        **_amd(
            "",
            MI210_SHEET,
            {"fp64": 22.6, "fp32": 22.6},
            {"fp64": 45.3, "fp32": 45.3, "bf16": 181, "fp16": 181, "int8": 181},
        ),
        **memory(MI210_SHEET, 64, 1638.4),
        **watts(MI210_SHEET, 300),
    },
    {
        "name": "MI300X",
        **other_chip("AMD", "CDNA 3", CDNA3_PAPER, 304, 2100, sparse_gain(2.0, CDNA3_PAPER)),
        **_amd(
            "",
            CDNA3_PAPER,
            {"fp64": 81.7, "fp32": 163.4},
            {
                "fp64": 163.4,
                "fp32": 163.4,
                "tf32": 653.7,
                "bf16": 1307.4,
                "fp16": 1307.4,
                "fp8_e4m3": 2614.9,
                "fp8_e5m2": 2614.9,
                "int8": 2614.9,
            },
        ),
        **memory(CDNA3_PAPER, 192, 5300, 191.98),
        **watts(CDNA3_PAPER, 750),
    },
    _apple("M1 Max", 32, 1296, 64, 400),
    _apple("M1 Ultra", 64, 1296, 128, 800),
    _apple("M2 Max", 38, 1398, 96, 400),
    _apple("M2 Ultra", 76, 1398, 192, 800),
    _apple("M3 Max", 40, None, 128, 400),
    _apple("M3 Ultra", 80, None, 512, 819),
    _apple("M4 Max", 40, None, 128, 546),
)
