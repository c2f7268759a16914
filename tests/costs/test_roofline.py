"""The roofline's properties, its published examples, and torch's own count of a product's operations."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs.flops import Work, product
from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.specs.accelerators import ACCELERATORS, UnsupportedDtype, accelerator
from llmhw_helpers.specs.figures import Figure, UnknownFigure, UnknownName

sizes = st.integers(1, 512)
positive = st.floats(1e-3, 1e15)


@given(sizes, sizes, sizes)
def test_operations_of_a_product_are_those_that_torch_counts(rows, n_in, n_out):
    with FlopCounterMode(display=False) as counter:
        torch.empty(rows, n_in, device="meta") @ torch.empty(n_in, n_out, device="meta")
    assert product(rows, n_in, n_out).flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [("fp64", torch.float64), ("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.int8)],
)
def test_bytes_of_a_product_are_those_of_its_three_arrays(dtype, torch_dtype):
    arrays = [torch.empty(shape, dtype=torch_dtype) for shape in [(64, 576), (576, 1536), (64, 1536)]]
    assert product(64, 576, 1536, dtype).bytes == sum(array.nbytes for array in arrays)


def test_works_add_up():
    one = product(1, 576, 1536)
    assert one + one == one * 2 == Work(2 * one.flops, 2 * one.bytes)


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_a_product_without_size_is_refused(shape):
    with pytest.raises(ValueError, match="sizes of at least 1"):
        product(*shape)


def test_the_ridge_of_an_a100_is_what_its_data_sheet_gives():
    # 312 TFLOP/s over 1555 GB/s
    assert Roof.of(accelerator("A100-40GB")).ridge("bf16") == pytest.approx(200.643, abs=1e-3)


def test_a_peak_that_no_source_gives_is_refused_and_the_rest_serves():
    spark = Roof.of(accelerator("GB10"))
    with pytest.raises(UnknownFigure, match="GB10 computes in bf16, and no source says how fast"):
        spark.peak("bf16")
    assert spark.floor(Work(flops=31e12, bytes=273e9), "fp32").seconds == pytest.approx(1, rel=1e-12)


def test_gpus_are_compute_bound_at_a_long_prompt_and_memory_bound_at_one_token():
    for each in ACCELERATORS.values():
        roof = Roof.of(each)
        if "fp16" in roof.unknown:
            continue
        assert roof.floor(product(1, 4096, 14336, "fp16"), "fp16").bound == "memory", each.name
        assert roof.floor(product(4096, 4096, 14336, "fp16"), "fp16").bound == "compute", each.name


@given(positive, positive, st.floats(1e-6, 1e6))
def test_the_roof_is_the_lower_of_slope_and_top_and_never_falls(peak, bandwidth, intensity):
    roof = Roof("any", {"fp32": peak}, bandwidth)
    here, further = roof.attainable("fp32", intensity), roof.attainable("fp32", 2 * intensity)
    assert here <= further <= 2 * here * (1 + 1e-9)
    assert here <= peak
    assert roof.attainable("fp32", roof.ridge("fp32")) == pytest.approx(peak, rel=1e-9)


@given(positive, positive, positive, positive)
def test_least_time_and_attainable_rate_are_two_sides_of_one_coin(peak, bandwidth, flops, n_bytes):
    roof, work = Roof("any", {"fp32": peak}, bandwidth), Work(flops, n_bytes)
    floor = roof.floor(work, "fp32")
    assert flops / floor.seconds == pytest.approx(roof.attainable("fp32", work.intensity), rel=1e-9)
    assert (floor.bound == "memory") == (floor.memory_seconds > floor.compute_seconds)


def test_twice_the_bandwidth_halves_a_memory_bound_time_and_leaves_a_compute_bound_one():
    slow, fast = Roof("slow", {"fp32": 1e12}, 1e9), Roof("fast", {"fp32": 1e12}, 2e9)
    memory_bound, compute_bound = Work(1e9, 1e9), Work(1e15, 1e9)
    assert slow.floor(memory_bound, "fp32").seconds == 2 * fast.floor(memory_bound, "fp32").seconds
    assert slow.floor(compute_bound, "fp32").seconds == fast.floor(compute_bound, "fp32").seconds


def test_a_format_that_the_machine_lacks_is_refused_with_those_it_has():
    with pytest.raises(UnsupportedDtype, match="T4 has no bf16 arithmetic; it has .*fp16"):
        Roof.of(accelerator("T4")).peak("bf16")
    with pytest.raises(UnknownName, match="did you mean .*bf16"):
        Roof.of(accelerator("T4")).peak("bf17")


def test_an_unknown_or_senseless_rate_has_no_roofline():
    nobody_knows = Figure(None, "B/s", "bandwidth of the box", "no public source")
    with pytest.raises(UnknownFigure, match="unknown: bandwidth of the box"):
        Roof.of(dataclasses.replace(accelerator("T4"), bytes_per_s=nobody_knows))
    for rate in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be positive"):
            Roof("box", {"fp32": rate}, 1e9)
