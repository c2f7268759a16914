"""NVIDIA's cards for the home: rows for `accelerators.ACCELERATORS`.

GeForce cards multiply 16-bit numbers at half their tensor cores' rate when the sums are kept in fp32, and training and
inference keep them there: so these are the rates here, not the doubled ones that advertisements print, and not the
sparse ones, which are doubled once more.
"""

from .data_sheets import CUDA, HALVED, TENSOR, chip, memory, rates, watts

TURING_PAPER = "NVIDIA Turing GPU Architecture whitepaper, WP-09183-001, table of RTX 2080 Ti, reference clocks"
GA102_PAPER = "NVIDIA Ampere GA102 GPU Architecture whitepaper v2.0, appendix A, GeForce RTX 3080 and 3090"
ADA_PAPER = "NVIDIA Ada GPU Architecture whitepaper v2.1, appendix A, GeForce RTX 4080 and 4090"
BLACKWELL_PAPER = "NVIDIA RTX Blackwell GPU Architecture whitepaper v1.1, appendix A, GeForce RTX 5090"
SMALL_AMPERE = "NVIDIA, product page of the GeForce RTX 3060: cores and clock; rates by the units of GA10x"
SMALL_ADA = "NVIDIA, product page of the GeForce RTX 4060 Ti: cores and clock; rates by the units of AD10x"
GB10_SHEET = "NVIDIA DGX Spark datasheet: 1 PFLOP FP4 with sparsity, halved here"
GB10_TALK = "A. Skende (NVIDIA), Hot Chips 2025, GB10: about 31 TFLOP/s fp32"
GB10_UNKNOWN = "NVIDIA prints the rates of FP4 and fp32 alone"


def _ampere(paper: str, fp64: float, fp32: float, half: float, int8: float) -> dict:
    return {
        "cuda_core": _slow_fp64(paper, fp64, fp32),
        "tensor_core": rates(HALVED, paper, tf32=half / 2, bf16=half, fp16=half)
        | rates(TENSOR, paper, int8=int8, int4=2 * int8),
    }


def _ada(paper: str, fp64: float, fp32: float, half: float, int8: float) -> dict:
    return {
        "cuda_core": _slow_fp64(paper, fp64, fp32),
        "tensor_core": rates(HALVED, paper, tf32=half / 2, bf16=half, fp16=half, fp8_e4m3=2 * half, fp8_e5m2=2 * half)
        | rates(TENSOR, paper, int8=int8, int4=2 * int8),
    }


def _slow_fp64(paper: str, fp64: float, fp32: float, ratio: int = 64) -> dict:
    return rates(f"CUDA cores, 1/{ratio} of fp32", paper, fp64=fp64) | rates(CUDA, paper, fp32=fp32)


HOME_CARDS = (
    {
        "name": "RTX 2080 Ti",
        **chip("Turing", 7.5, TURING_PAPER, 68, 1545),
        "cuda_core": _slow_fp64(TURING_PAPER, 0.42, 13.4, 32),
        "tensor_core": rates(HALVED, TURING_PAPER, fp16=53.8) | rates(TENSOR, TURING_PAPER, int8=215.2, int4=430.3),
        **memory(TURING_PAPER, 11, 616),
        **watts(TURING_PAPER, 250),
    },
    {
        "name": "RTX 3060",
        **chip("Ampere", 8.6, SMALL_AMPERE, 28, 1777),
        **_ampere(SMALL_AMPERE, 0.2, 12.7, 25.5, 102),
        **memory(SMALL_AMPERE, 12, 360),
        **watts(SMALL_AMPERE, 170),
    },
    {
        "name": "RTX 3080",
        **chip("Ampere", 8.6, GA102_PAPER, 68, 1710),
        **_ampere(GA102_PAPER, 0.465, 29.8, 59.5, 238),
        **memory(GA102_PAPER, 10, 760),
        **watts(GA102_PAPER, 320),
    },
    {
        "name": "RTX 3090",
        **chip("Ampere", 8.6, GA102_PAPER, 82, 1695),
        **_ampere(GA102_PAPER, 0.56, 35.6, 71, 284),
        **memory(GA102_PAPER, 24, 936, 23.58),
        **watts(GA102_PAPER, 350),
    },
    {
        "name": "RTX 4060 Ti 16GB",
        **chip("Ada", 8.9, SMALL_ADA, 34, 2535),
        **_ada(SMALL_ADA, 0.345, 22.1, 44.1, 176.5),
        **memory(SMALL_ADA, 16, 288),
        **watts(SMALL_ADA, 165),
    },
    {
        "name": "RTX 4080",
        **chip("Ada", 8.9, ADA_PAPER, 76, 2505),
        **_ada(ADA_PAPER, 0.76, 48.7, 97.5, 389.9),
        **memory(ADA_PAPER, 16, 716.8),
        **watts(ADA_PAPER, 320),
    },
    {
        "name": "RTX 4090",
        **chip("Ada", 8.9, ADA_PAPER, 128, 2520),
        **_ada(ADA_PAPER, 1.29, 82.6, 165.2, 660.6),
        **memory(ADA_PAPER, 24, 1008, 23.64),
        **watts(ADA_PAPER, 450),
    },
    {
        "name": "RTX 5090",
        **chip("Blackwell", 12.0, BLACKWELL_PAPER, 170, 2407),
        "cuda_core": _slow_fp64(BLACKWELL_PAPER, 1.64, 104.8),
        "tensor_core": rates(HALVED, BLACKWELL_PAPER, tf32=104.8, bf16=209.5, fp16=209.5, fp8_e4m3=419, fp8_e5m2=419)
        | rates(TENSOR, BLACKWELL_PAPER, fp4_e2m1=1676, int8=838),
        **memory(BLACKWELL_PAPER, 32, 1792, 31.37),
        **watts(BLACKWELL_PAPER, 575),
    },
    {
        "name": "GB10",
        **chip("Blackwell", 12.1, GB10_SHEET, 48, None),
        "cuda_core": rates(CUDA, GB10_TALK, fp32=31),
        "tensor_core": rates(
            TENSOR, GB10_UNKNOWN, tf32=None, bf16=None, fp16=None, fp8_e4m3=None, fp8_e5m2=None, int8=None
        )
        | rates(TENSOR, GB10_SHEET, fp4_e2m1=500),
        **memory(GB10_SHEET, 128, 273, 121.7),
        **watts(GB10_SHEET, 140, "thermal design power of the chip, GPU and CPU together"),
    },
)
