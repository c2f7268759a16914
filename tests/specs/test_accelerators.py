import pytest

from llmhw_helpers.specs.accelerators import ACCELERATORS, LECTURE, UnsupportedDtype, accelerator
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName

# The lecture's table "Alvis hardware - compute", 1e12 op/s. FP32 and FP64 are CUDA-core rates, the rest tensor-core
# ones; A100 has two FP64 rates, the second on tensor cores.
TABLE = {
    "fp64": {"A100-40GB": 9.7, "A40": 0.58, "V100": 7.8, "T4": 0.25},
    "fp32": {"A100-40GB": 19.5, "A40": 37.4, "V100": 15.7, "T4": 8.1},
    "tf32": {"A100-40GB": 156, "A40": 74.8, "V100": None, "T4": None},
    "fp16": {"A100-40GB": 312, "A40": 149.7, "V100": 125, "T4": 65},
    "bf16": {"A100-40GB": 312, "A40": 149.7, "V100": None, "T4": None},
    "int8": {"A100-40GB": 624, "A40": 299.3, "V100": 64, "T4": 130},
    "int4": {"A100-40GB": 1248, "A40": 598.7, "V100": None, "T4": 260},
}
ROUNDED_UP = {("int8", "V100"): 0.025}  # 62.7 printed as 64; all other entries are exact
CELLS = [(dtype, gpu, tera) for dtype, row in TABLE.items() for gpu, tera in row.items()]


@pytest.mark.parametrize(("dtype", "gpu", "tera"), CELLS)
def test_the_lectures_table(dtype, gpu, tera):
    card = accelerator(gpu)
    if tera is None:
        with pytest.raises(UnsupportedDtype):
            card.peak(dtype)
        return
    rate = card.cuda_core[dtype] if dtype in ("fp64", "fp32") else card.peak(dtype)
    assert rate.value == pytest.approx(tera * 1e12, rel=ROUNDED_UP.get((dtype, gpu), 1e-9))


def test_the_lectures_second_fp64_rate_is_the_a100s_tensor_cores():
    for card in ("A100-40GB", "A100-80GB"):
        assert accelerator(card).peak("fp64").value == accelerator(card).tensor_core["fp64"].value == 19.5e12


# Multiply-adds per clock and SM: CUDA cores by the Programming Guide's table of arithmetic throughput, tensor cores by
# the architecture whitepapers. One multiply-add is two operations.
_GV100, _GV100_TENSOR = {"fp64": 32, "fp32": 64, "int8": 4 * 64}, {"fp16": 512}
M1_AND_M2 = ("Apple M1 Max", "Apple M1 Ultra", "Apple M2 Max", "Apple M2 Ultra")
_CDNA2 = {"fp64": 64, "fp32": 64}
_M1 = {"fp32": 128, "fp16": 128}
_GA102, _ADA = {"fp64": 2, "fp32": 128}, {"fp64": 2, "fp32": 128}
_GA100, _GH100 = {"fp64": 32, "fp32": 64}, {"fp64": 64, "fp32": 128}
CUDA_FMA = {
    "T4": {"fp64": 2, "fp32": 64},
    "RTX 2080 Ti": {"fp64": 2, "fp32": 64},
    **dict.fromkeys(("V100", "V100-16GB"), _GV100),
    **dict.fromkeys(("A40", "A10", "A10G", "RTX A5000", "RTX A6000", "RTX 3060", "RTX 3080", "RTX 3090"), _GA102),
    **dict.fromkeys(("A30", "A100-40GB", "A100-80GB", "A100-80GB PCIe"), _GA100),
    **dict.fromkeys(
        ("L4", "L40", "L40S", "RTX 6000 Ada", "RTX 4060 Ti 16GB", "RTX 4080", "RTX 4090", "RTX 5090"), _ADA
    ),
    **dict.fromkeys(("H100", "H100 PCIe", "GH200", "H200"), _GH100),
    **dict.fromkeys(("MI210", "MI250X GCD"), _CDNA2),
    "MI300X": {"fp64": 64, "fp32": 128},
    **dict.fromkeys(M1_AND_M2, _M1),
}
_AMPERE = {"fp64": 64, "tf32": 512, "bf16": 1024, "fp16": 1024, "int8": 2048, "int4": 4096}
_HOPPER = {"fp64": 128, "tf32": 1024, "bf16": 2048, "fp16": 2048, "fp8_e4m3": 4096, "fp8_e5m2": 4096, "int8": 4096}
_FULL = {"tf32": 256, "bf16": 512, "fp16": 512, "int8": 1024, "int4": 2048}  # GA102 and AD102 in server cards
_ADA_FULL = {"tf32": 256, "bf16": 512, "fp16": 512, "fp8_e4m3": 1024, "fp8_e5m2": 1024, "int8": 1024}
_HALF = {"tf32": 128, "bf16": 256, "fp16": 256}  # sums in fp32 on GeForce
_GEFORCE = {**_HALF, "int8": 1024, "int4": 2048}
_ADA_GEFORCE = {**_GEFORCE, "fp8_e4m3": 512, "fp8_e5m2": 512}
_CDNA2_MATRIX = {"fp64": 128, "fp32": 128, "bf16": 512, "fp16": 512, "int8": 512}
TENSOR_FMA = {
    "T4": {"fp16": 512, "int8": 1024, "int4": 2048},
    "RTX 2080 Ti": {"fp16": 256, "int8": 1024, "int4": 2048},
    **dict.fromkeys(("V100", "V100-16GB"), _GV100_TENSOR),
    **dict.fromkeys(("A40", "A10", "RTX A5000", "RTX A6000"), _FULL),
    "A10G": {**_HALF, "int8": 512, "int4": 1024},
    **dict.fromkeys(("RTX 3060", "RTX 3080", "RTX 3090"), _GEFORCE),
    **dict.fromkeys(("A30", "A100-40GB", "A100-80GB", "A100-80GB PCIe"), _AMPERE),
    **dict.fromkeys(("L4", "L40S", "RTX 6000 Ada"), _ADA_FULL),
    "L40": {**_HALF, "fp8_e4m3": 512, "fp8_e5m2": 512, "int8": 512},
    **dict.fromkeys(("RTX 4060 Ti 16GB", "RTX 4080", "RTX 4090"), _ADA_GEFORCE),
    "RTX 5090": {**_HALF, "fp8_e4m3": 512, "fp8_e5m2": 512, "int8": 1024, "fp4_e2m1": 2048},
    **dict.fromkeys(("H100", "H100 PCIe", "GH200", "H200"), _HOPPER),
    **dict.fromkeys(("MI210", "MI250X GCD"), _CDNA2_MATRIX),
    "MI300X": {"fp64": 128, "fp32": 128, "tf32": 512, "bf16": 1024, "fp16": 1024}
    | dict.fromkeys(("fp8_e4m3", "fp8_e5m2", "int8"), 2048),
    **{name: {} for name in M1_AND_M2},
}
# no source gives the clock behind their rates
UNDERIVED = ("H100 NVL", "H20", "B200", "GB10", *(f"Apple {m}" for m in ("M3 Max", "M3 Ultra", "M4 Max")))


def test_every_rate_has_a_derivation_or_no_clock():
    assert set(CUDA_FMA) == set(TENSOR_FMA) == set(ACCELERATORS) - set(UNDERIVED)
    for gpu, row in CUDA_FMA.items():
        assert set(row) == set(ACCELERATORS[gpu].cuda_core), gpu
        assert set(TENSOR_FMA[gpu]) == set(ACCELERATORS[gpu].tensor_core), gpu
    assert all(ACCELERATORS[gpu].tensor_hz.value is None for gpu in UNDERIVED)


@pytest.mark.parametrize(("gpu", "dtype"), [(gpu, dtype) for gpu, row in CUDA_FMA.items() for dtype in row])
def test_cuda_core_rates_follow_from_sms_and_clock(gpu, dtype):
    card = accelerator(gpu)
    derived = card.n_sms.known() * card.boost_hz.known() * 2 * CUDA_FMA[gpu][dtype]
    tolerance = 0.02 if card.cuda_core[dtype].value < 1e12 else 0.01  # T4's 0.25 is 0.254, printed with two digits
    assert card.cuda_core[dtype].value == pytest.approx(derived, rel=tolerance)


@pytest.mark.parametrize(("gpu", "dtype"), [(gpu, dtype) for gpu, row in TENSOR_FMA.items() for dtype in row])
def test_tensor_core_rates_follow_from_sms_and_clock(gpu, dtype):
    card = accelerator(gpu)
    clock = card.boost_hz if dtype == "fp64" else card.tensor_hz
    derived = card.n_sms.known() * clock.known() * 2 * TENSOR_FMA[gpu][dtype]
    tolerance = 0.013 if gpu == "L40S" else 0.01  # its sheet prints 362.05, which is the L40's clock
    assert card.tensor_core[dtype].value == pytest.approx(derived, rel=tolerance)


def test_rates_double_with_every_halving_of_the_format_on_the_cards_without_a_clock():
    for gpu in ("H100 NVL", "H20", "B200"):
        tera = {name: rate.known() for name, rate in accelerator(gpu).tensor_core.items()}
        assert tera["fp8_e4m3"] == tera["int8"] == pytest.approx(2 * tera["bf16"], rel=1e-3)
        assert tera["bf16"] == tera["fp16"] == pytest.approx(2 * tera["tf32"], rel=0.025)  # B200's 1.1 is rounded


# Memory bus width in bits and effective transfers per second and pin, as the data sheets and whitepapers give them.
BUS = {
    "T4": (256, 10e9),
    "A40": (384, 14.5e9),
    "A100-40GB": (5120, 2.43e9),
    "A100-80GB": (5120, 3.186e9),
    "A10": (384, 12.5e9),
    "A10G": (384, 12.5e9),
    "RTX A6000": (384, 16e9),
    "A30": (3072, 2.43e9),
    "RTX A5000": (384, 16e9),
    "RTX 6000 Ada": (384, 20e9),
    "RTX 3060": (192, 15e9),
    "RTX 3080": (320, 19e9),
    "RTX 4060 Ti 16GB": (128, 18e9),
    "RTX 4080": (256, 22.4e9),
    "MI210": (4096, 3.2e9),
    "L4": (192, 12.5e9),
    "L40": (384, 18e9),
    "L40S": (384, 18e9),
    "RTX 2080 Ti": (352, 14e9),
    "RTX 3090": (384, 19.5e9),
    "RTX 4090": (384, 21e9),
    "RTX 5090": (512, 28e9),
    "GB10": (256, 8.533e9),
    "MI250X GCD": (4096, 3.2e9),
    "MI300X": (8192, 5.2e9),
    "Apple M4 Max": (512, 8.533e9),
}


@pytest.mark.parametrize("gpu", BUS)
def test_bandwidth_follows_from_the_memory_bus(gpu):
    bits, per_second = BUS[gpu]
    assert accelerator(gpu).bytes_per_s.value == pytest.approx(bits / 8 * per_second, rel=0.005)


@pytest.mark.parametrize("gpu", ACCELERATORS)
def test_visible_memory_is_the_nominal_gib_less_a_reserve(gpu):
    card = accelerator(gpu)
    if card.visible_bytes.value is not None:
        nominal_gib = card.memory_bytes.value / 1e9
        assert 0.9 * nominal_gib < card.visible_bytes.value / 2**30 < nominal_gib


def test_an_unsupported_format_says_what_there_is():
    with pytest.raises(UnsupportedDtype) as caught:
        accelerator("T4").peak("bf16")
    assert str(caught.value) == "T4 has no bf16 arithmetic; it has fp64, fp32, fp16, int8, int4"


def test_unknown_names_are_refused_by_kind():
    with pytest.raises(UnknownName, match="unknown accelerator 'A100'; did you mean A100-40GB, A100-80GB"):
        accelerator("A100")
    with pytest.raises(UnknownName, match="unknown number format 'fp12'"):
        accelerator("T4").peak("fp12")


# KiB that a multiprocessor can give to shared memory, by NVIDIA's tuning guides of Volta to Blackwell; the rest of the
# same memory is the L1 cache.
SHARED_KIB = {"Volta": 96, "Turing": 64, "Ada": 100, "Hopper": 228}
SHARED_KIB_BY_CARD = {
    "A100-40GB": 164,
    "A100-80GB": 164,
    "A100-80GB PCIe": 164,
    "A30": 164,
    "B200": 228,
} | dict.fromkeys(
    ("A40", "A10", "A10G", "RTX A5000", "RTX A6000", "RTX 3060", "RTX 3080", "RTX 3090", "RTX 5090", "GB10"), 100
)


@pytest.mark.parametrize("gpu", ACCELERATORS)
def test_shared_memory_is_that_of_the_tuning_guides(gpu):
    card = accelerator(gpu)
    if card.maker != "NVIDIA":
        assert card.shared_bytes.value is None
    else:
        kib = SHARED_KIB_BY_CARD.get(gpu) or SHARED_KIB[card.architecture]
        assert card.shared_bytes.known() == kib * 1024


# As people, training logs and tools write them
NAMES = {
    "RTX4090": "RTX 4090",
    "4090": "RTX 4090",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "a6000": "RTX A6000",
    "A100-80": "A100-80GB",
    "A100-40": "A100-40GB",
    "A100fat": "A100-80GB",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA A100 80GB PCIe": "A100-80GB PCIe",
    "A100-80 PCIe": "A100-80GB PCIe",
    "H100 SXM": "H100",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA GH200 480GB": "GH200",
    "Tesla T4": "T4",
    "V100-32": "V100",
    "AMD Instinct MI300X": "MI300X",
    "MI250X": "MI250X GCD",
    "M1 Max": "Apple M1 Max",
    "DGX Spark": "GB10",
}


@pytest.mark.parametrize("name", [*NAMES, *ACCELERATORS])
def test_names_that_people_use_are_found(name):
    assert accelerator(name).name == NAMES.get(name, name)


def test_the_lectures_cards_come_first():
    assert LECTURE == tuple(ACCELERATORS)[:7] == ("T4", "V100", "A40", "A100-40GB", "A100-80GB", "H100", "GH200")


# With 2:4 sparse weights, 1e12 op/s, as the data sheets print them beside the dense rates
SPARSE = {
    ("A40", "bf16"): 299.4,
    ("A40", "int8"): 598.6,
    ("A100-80GB", "tf32"): 312,
    ("A100-80GB", "fp16"): 624,
    ("A100-80GB", "int8"): 1248,
    ("H100", "fp16"): 1979,
    ("H100", "fp8_e4m3"): 3958,
    ("L4", "fp16"): 242,
    ("L4", "int8"): 485,
    ("L40S", "fp8_e4m3"): 1466,
    ("RTX 4090", "fp16"): 330.4,
    ("RTX 5090", "fp4_e2m1"): 3352,
    ("B200", "fp8_e4m3"): 9000,
    ("MI300X", "bf16"): 2614.9,
    ("MI300X", "int8"): 5229.8,
}


@pytest.mark.parametrize(("gpu", "dtype"), SPARSE)
def test_sparse_peaks_are_those_of_the_data_sheets(gpu, dtype):
    assert accelerator(gpu).sparse_peak(dtype).known() == pytest.approx(SPARSE[gpu, dtype] * 1e12, rel=1e-3)


@pytest.mark.parametrize(("gpu", "dtype"), [("V100", "fp16"), ("T4", "int8"), ("A100-80GB", "fp64"), ("A40", "fp32")])
def test_no_gain_where_there_is_none(gpu, dtype):
    with pytest.raises(UnsupportedDtype, match=f"{gpu} gains nothing by 2:4 sparse weights in {dtype}"):
        accelerator(gpu).sparse_peak(dtype)
    with pytest.raises(UnsupportedDtype, match="MI250X GCD gains nothing"):
        accelerator("MI250X").sparse_peak("fp16")


def test_what_no_source_gives_is_refused_in_one_line():
    spark = accelerator("GB10")
    assert spark.peak("bf16").value is None
    with pytest.raises(UnknownFigure, match="unknown: bf16: dense peak on tensor cores"):
        spark.sparse_peak("bf16")
    assert accelerator("M4 Max").tdp_watts.value is None
    assert [accelerator(gpu).compute_capability.value for gpu in ("MI300X", "M1 Max", "L4")] == [None, None, 8.9]
