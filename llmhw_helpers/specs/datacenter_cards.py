"""NVIDIA's cards for servers and workstations, those of the lecture first: rows for `accelerators.ACCELERATORS`.

The data sheets of Hopper and of newer cards round the rates, and print those of tensor cores with 2:4 sparsity,
doubled; here they are dense.
"""

from .data_sheets import CUDA, TENSOR, chip, memory, rates, watts

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
HOPPER_PCIE = "NVIDIA H100 Tensor Core GPU Architecture whitepaper v1.04, peak rates and clocks of H100 PCIe"
GH200_SHEET = "NVIDIA GH200 Grace Hopper Superchip datasheet"
H200_SHEET = "NVIDIA H200 Tensor Core GPU datasheet, H200 SXM"
H20_SHEET = "NVIDIA H20 datasheet, as trade press printed it; NVIDIA's site has none"
B200_BRIEF = "NVIDIA Blackwell Architecture Technical Brief, HGX B200 at 1000 W, one GPU of eight"
B200_SHEET = "NVIDIA DGX B200 datasheet, an eighth: 1,440 GB and 64 TB/s in all"
A10_SHEET = "NVIDIA A10 datasheet, nvidia-a10-datasheet"
A10G_SHEET = "NVIDIA A10G datasheet for AWS (EC2 G5 instances)"
A6000_PAPER = "NVIDIA Ampere GA102 GPU Architecture whitepaper v2.0, appendix A, RTX A6000"
A6000_SHEET = "NVIDIA RTX A6000 datasheet"
A30_SHEET = "NVIDIA A30 Tensor Core GPU datasheet"
A5000_SHEET = "NVIDIA RTX A5000 datasheet; its tensor rate has sparsity, halved here, other formats by GA102's units"
RTX6000_SHEET = "NVIDIA RTX 6000 Ada Generation datasheet; its tensor rate has sparsity, other formats by AD102's units"
L4_SHEET = "NVIDIA L4 Tensor Core GPU datasheet; it prints tensor rates with sparsity, halved here"
L40S_SHEET = "NVIDIA L40S datasheet"
L40_SHEET = "NVIDIA L40 datasheet"
ADA_PAPER = "NVIDIA Ada GPU Architecture whitepaper v2.1: units of a multiprocessor, derived"

_SLOW_FP64 = "CUDA cores, 1/64 of fp32 (the sheet omits it)"
_V100 = {
    **chip("Volta", 7.0, VOLTA_PAPER, 80, 1530),
    "cuda_core": rates(CUDA, V100_SHEET, fp64=7.8, fp32=15.7)
    | rates("CUDA cores by DP4A, 4 times fp32 (the lecture's 64 is rounded)", DP4A, int8=62.7),
    "tensor_core": rates(TENSOR, V100_SHEET, fp16=125),
    **watts(V100_SHEET, 300, "thermal design power, SXM2"),
}
_A100 = {
    **chip("Ampere", 8.0, AMPERE_PAPER, 108, 1410),
    "cuda_core": rates(CUDA, A100_SHEET, fp64=9.7, fp32=19.5),
    "tensor_core": rates(TENSOR, A100_SHEET, fp64=19.5, tf32=156, bf16=312, fp16=312, int8=624, int4=1248),
}


def _hopper(source: str, fp64: float, fp64_tensor: float, fp32: float, tf32: float, half: float, eighth: float):
    return {
        "cuda_core": rates(CUDA, source, fp64=fp64, fp32=fp32),
        "tensor_core": rates(
            TENSOR,
            source,
            fp64=fp64_tensor,
            tf32=tf32,
            bf16=half,
            fp16=half,
            fp8_e4m3=eighth,
            fp8_e5m2=eighth,
            int8=eighth,
        ),
    }


_SXM5 = {
    **chip("Hopper", 9.0, HOPPER_PAPER, 132, 1980, 1830),
    **_hopper(HOPPER_PAPER, 33.5, 66.9, 66.9, 494.7, 989.4, 1978.9),
}


def _ada(sheet: str, fp64: float, fp32: float, tf32: float, half: float, eighth: float, **int4: float) -> dict:
    return {
        "cuda_core": rates(_SLOW_FP64, ADA_PAPER, fp64=fp64) | rates(CUDA, sheet, fp32=fp32),
        "tensor_core": rates(
            TENSOR, sheet, tf32=tf32, bf16=half, fp16=half, fp8_e4m3=eighth, fp8_e5m2=eighth, int8=eighth, **int4
        ),
    }


LECTURE_CARDS = (
    {
        "name": "T4",
        **chip("Turing", 7.5, TURING_PAPER, 40, 1590),
        "cuda_core": rates("CUDA cores, 1/32 of fp32 (the sheet omits it)", TURING_PAPER, fp64=0.25)
        | rates(CUDA, T4_SHEET, fp32=8.1),
        "tensor_core": rates(TENSOR, T4_SHEET, fp16=65, int8=130, int4=260),
        **memory(T4_SHEET, 16, 320, 14.75),
        **watts(T4_SHEET, 70),
    },
    {"name": "V100", **_V100, **memory(V100_SHEET, 32, 900, 31.75)},
    {
        "name": "A40",
        **chip("Ampere", 8.6, GA102_PAPER, 84, 1740),
        "cuda_core": rates(_SLOW_FP64, GA102_PAPER, fp64=0.58) | rates(CUDA, A40_SHEET, fp32=37.4),
        "tensor_core": rates(TENSOR, A40_SHEET, tf32=74.8, bf16=149.7, fp16=149.7, int8=299.3, int4=598.7),
        **memory(A40_SHEET, 48, 696, 44.4),
        **watts(A40_SHEET, 300),
    },
    {"name": "A100-40GB", **_A100, **memory(A100_SHEET, 40, 1555, 39.59), **watts(A100_SHEET, 400, "SXM module")},
    {"name": "A100-80GB", **_A100, **memory(A100_SHEET, 80, 2039, 79.15), **watts(A100_SHEET, 400, "SXM module")},
    {
        "name": "H100",
        **_SXM5,
        **memory(H100_SHEET, 80, 3350, 79.18),
        **watts(H100_SHEET, 700, "SXM5 module, maximum"),
    },
    {
        "name": "GH200",
        **_SXM5,
        **memory(GH200_SHEET, 96, 4000),
        **watts(GH200_SHEET, 1000, "GPU, Grace CPU and memory together, maximum"),
    },
)

DATACENTER_CARDS = (
    {"name": "V100-16GB", **_V100, **memory(V100_SHEET, 16, 900, 15.78)},
    {
        "name": "A10",
        **chip("Ampere", 8.6, A10_SHEET, 72, 1695),
        "cuda_core": rates(_SLOW_FP64, GA102_PAPER, fp64=0.49) | rates(CUDA, A10_SHEET, fp32=31.2),
        "tensor_core": rates(TENSOR, A10_SHEET, tf32=62.5, bf16=125, fp16=125, int8=250, int4=500),
        **memory(A10_SHEET, 24, 600, 22.05),
        **watts(A10_SHEET, 150),
    },
    {
        "name": "A10G",
        **chip("Ampere", 8.6, A10G_SHEET, 80, 1710),
        "cuda_core": rates(_SLOW_FP64, GA102_PAPER, fp64=0.55) | rates(CUDA, A10G_SHEET, fp32=35),
        "tensor_core": rates(TENSOR, A10G_SHEET, tf32=35, bf16=70, fp16=70, int8=140, int4=280),
        **memory(A10G_SHEET, 24, 600, 22.06),
        **watts(A10G_SHEET, 300),
    },
    {
        "name": "A30",
        **chip("Ampere", 8.0, A30_SHEET, 56, 1440),
        "cuda_core": rates(CUDA, A30_SHEET, fp64=5.2, fp32=10.3),
        "tensor_core": rates(TENSOR, A30_SHEET, fp64=10.3, tf32=82, bf16=165, fp16=165, int8=330, int4=661),
        **memory(A30_SHEET, 24, 933, 23.53),
        **watts(A30_SHEET, 165),
    },
    {
        "name": "RTX A5000",
        **chip("Ampere", 8.6, A5000_SHEET, 64, 1695),
        "cuda_core": rates(_SLOW_FP64, GA102_PAPER, fp64=0.43) | rates(CUDA, A5000_SHEET, fp32=27.8),
        "tensor_core": rates(TENSOR, A5000_SHEET, tf32=55.5, bf16=111.1, fp16=111.1, int8=222.2, int4=444.4),
        **memory(A5000_SHEET, 24, 768),
        **watts(A5000_SHEET, 230),
    },
    {
        "name": "RTX A6000",
        **chip("Ampere", 8.6, A6000_PAPER, 84, 1800),
        "cuda_core": rates(_SLOW_FP64, GA102_PAPER, fp64=0.6) | rates(CUDA, A6000_PAPER, fp32=38.7),
        "tensor_core": rates(TENSOR, A6000_PAPER, tf32=77.4, bf16=154.8, fp16=154.8, int8=309.7, int4=619.3),
        **memory(A6000_SHEET, 48, 768, 47.5),
        **watts(A6000_SHEET, 300),
    },
    {
        "name": "A100-80GB PCIe",
        **_A100,
        **memory(A100_SHEET, 80, 1935, 79.15),
        **watts(A100_SHEET, 300, "PCIe card; it holds the boost clock of the peaks less long than an SXM module"),
    },
    {
        "name": "L4",
        **chip("Ada", 8.9, L4_SHEET, 58, 2040),
        **_ada(L4_SHEET, 0.47, 30.3, 60, 121, 242.5),
        **memory(L4_SHEET, 24, 300, 22.03),
        **watts(L4_SHEET, 72),
    },
    {
        "name": "L40",
        **chip("Ada", 8.9, L40_SHEET, 142, 2490),
        **_ada(L40_SHEET, 1.41, 90.5, 90.5, 181.05, 362),
        **memory(L40_SHEET, 48, 864),
        **watts(L40_SHEET, 300),
    },
    {
        "name": "L40S",
        **chip("Ada", 8.9, L40S_SHEET, 142, 2520),
        **_ada(L40S_SHEET, 1.43, 91.6, 183, 362.05, 733),
        **memory(L40S_SHEET, 48, 864, 44.39),
        **watts(L40S_SHEET, 350),
    },
    {
        "name": "RTX 6000 Ada",
        **chip("Ada", 8.9, RTX6000_SHEET, 142, 2505),
        **_ada(RTX6000_SHEET, 1.42, 91.1, 182.1, 364.2, 728.5),
        **memory(RTX6000_SHEET, 48, 960),
        **watts(RTX6000_SHEET, 300),
    },
    {
        "name": "H100 PCIe",
        **chip("Hopper", 9.0, HOPPER_PCIE, 114, 1755, 1620),
        **_hopper(HOPPER_PCIE, 25.6, 51.2, 51.2, 378, 756, 1513),
        **memory(HOPPER_PCIE, 80, 2039),
        **watts(H100_SHEET, 350),
    },
    {
        "name": "H100 NVL",
        **chip("Hopper", 9.0, f"{H100_SHEET}, H100 NVL", 132, None),
        **_hopper(f"{H100_SHEET}, H100 NVL, halved where it counts sparsity", 30, 60, 60, 417.5, 835.5, 1670.5),
        **memory(f"{H100_SHEET}, H100 NVL", 94, 3900),
        **watts(H100_SHEET, 400, "maximum, can be set from 350 W on"),
    },
    {
        "name": "H200",
        **_SXM5,
        **memory(H200_SHEET, 141, 4800, 139.8),
        **watts(H200_SHEET, 700, "SXM5 module, maximum"),
    },
    {
        "name": "H20",
        **chip("Hopper", 9.0, H20_SHEET, 78, None),
        **_hopper(H20_SHEET, 1, 1, 44, 74, 148, 296),
        **memory(H20_SHEET, 96, 4000),
        **watts(H20_SHEET, 400),
    },
    {
        "name": "B200",
        **chip("Blackwell", 10.0, B200_BRIEF, 148, None),
        "cuda_core": rates(CUDA, B200_BRIEF, fp64=40, fp32=80),
        "tensor_core": rates(
            TENSOR,
            B200_BRIEF,
            fp64=40,
            tf32=1100,
            bf16=2250,
            fp16=2250,
            fp8_e4m3=4500,
            fp8_e5m2=4500,
            fp4_e2m1=9000,
            int8=4500,
        ),
        **memory(B200_SHEET, 180, 8000),
        **watts(B200_BRIEF, 1000),
    },
)
