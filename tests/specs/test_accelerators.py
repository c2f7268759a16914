import pytest

from llmhw_helpers.specs.accelerators import ACCELERATORS, UnsupportedDtype, accelerator
from llmhw_helpers.specs.figures import UnknownName

# The lecture's table "Alvis hardware - compute", 1e12 op/s. FP32 and FP64 are CUDA-core rates, the rest tensor-core
# ones; A100 has two FP64 rates, the second on tensor cores.
LECTURE = {
    "fp64": {"A100-40GB": 9.7, "A40": 0.58, "V100": 7.8, "T4": 0.25},
    "fp32": {"A100-40GB": 19.5, "A40": 37.4, "V100": 15.7, "T4": 8.1},
    "tf32": {"A100-40GB": 156, "A40": 74.8, "V100": None, "T4": None},
    "fp16": {"A100-40GB": 312, "A40": 149.7, "V100": 125, "T4": 65},
    "bf16": {"A100-40GB": 312, "A40": 149.7, "V100": None, "T4": None},
    "int8": {"A100-40GB": 624, "A40": 299.3, "V100": 64, "T4": 130},
    "int4": {"A100-40GB": 1248, "A40": 598.7, "V100": None, "T4": 260},
}
ROUNDED_UP = {("int8", "V100"): 0.025}  # 62.7 printed as 64; all other entries are exact
CELLS = [(dtype, gpu, tera) for dtype, row in LECTURE.items() for gpu, tera in row.items()]


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
CUDA_FMA = {
    "T4": {"fp64": 2, "fp32": 64},
    "V100": {"fp64": 32, "fp32": 64, "int8": 4 * 64},
    "A40": {"fp64": 2, "fp32": 128},
    "A100-40GB": {"fp64": 32, "fp32": 64},
    "A100-80GB": {"fp64": 32, "fp32": 64},
    "H100": {"fp64": 64, "fp32": 128},
    "GH200": {"fp64": 64, "fp32": 128},
}
_AMPERE = {"fp64": 64, "tf32": 512, "bf16": 1024, "fp16": 1024, "int8": 2048, "int4": 4096}
_HOPPER = {"fp64": 128, "tf32": 1024, "bf16": 2048, "fp16": 2048, "fp8_e4m3": 4096, "fp8_e5m2": 4096, "int8": 4096}
TENSOR_FMA = {
    "T4": {"fp16": 512, "int8": 1024, "int4": 2048},
    "V100": {"fp16": 512},
    "A40": {"tf32": 256, "bf16": 512, "fp16": 512, "int8": 1024, "int4": 2048},
    "A100-40GB": _AMPERE,
    "A100-80GB": _AMPERE,
    "H100": _HOPPER,
    "GH200": _HOPPER,
}


@pytest.mark.parametrize("gpu", ACCELERATORS)
def test_every_rate_has_a_derivation(gpu):
    assert set(CUDA_FMA[gpu]) == set(ACCELERATORS[gpu].cuda_core)
    assert set(TENSOR_FMA[gpu]) == set(ACCELERATORS[gpu].tensor_core)


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
    assert card.tensor_core[dtype].value == pytest.approx(derived, rel=0.01)


# Memory bus width in bits and effective transfers per second and pin, as the data sheets and whitepapers give them.
BUS = {"T4": (256, 10e9), "A40": (384, 14.5e9), "A100-40GB": (5120, 2.43e9), "A100-80GB": (5120, 3.186e9)}


@pytest.mark.parametrize("gpu", BUS)
def test_bandwidth_follows_from_the_memory_bus(gpu):
    bits, per_second = BUS[gpu]
    assert accelerator(gpu).bytes_per_s.value == pytest.approx(bits / 8 * per_second, rel=0.001)


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


# KiB that a multiprocessor can give to shared memory, by NVIDIA's tuning guides of Volta, Turing, Ampere and Hopper;
# the rest of the same memory is the L1 cache.
SHARED_KIB = {"V100": 96, "T4": 64, "A100-40GB": 164, "A100-80GB": 164, "A40": 100, "H100": 228, "GH200": 228}


@pytest.mark.parametrize("gpu", ACCELERATORS)
def test_shared_memory_is_that_of_the_tuning_guides(gpu):
    assert accelerator(gpu).shared_bytes.known() == SHARED_KIB[gpu] * 1024
