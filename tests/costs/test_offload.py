"""What streaming costs, by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.inference import time_per_output_token
from llmhw_helpers.costs.offload import NoRoom, Split, break_even_batch, layer_bytes, pass_seconds, split
from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.specs.models import model

SMOL, BIG = model("SmolLM2-135M"), model("Llama-3.1-70B")
LAYER = 4 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576)
OUTSIDE = 4 * (49152 * 576 + 576)
ROOF = Roof("x", {"bf16": 312e12, "fp32": 19.5e12}, 1555e9)


def test_a_layer_by_hand():
    assert layer_bytes(SMOL, "fp32") == LAYER
    with pytest.raises(ValueError, match="DeepSeek-V3 differ in size"):
        layer_bytes(model("DeepSeek-V3"))


@pytest.mark.parametrize(("n_resident", "extra"), [(0, 0), (0, LAYER - 1), (1, LAYER), (27, 27 * LAYER)])
def test_layers_stay_as_the_limit_has_room_beside_two(n_resident, extra):
    parts = split(SMOL, OUTSIDE + 2 * LAYER + extra, "fp32")
    assert parts == Split(30, n_resident, LAYER, OUTSIDE)
    assert parts.streamed_bytes == (30 - n_resident) * LAYER
    assert parts.streamed_bytes + parts.resident_bytes == 4 * SMOL.n_params


def test_all_stay_where_all_fit():
    assert split(SMOL, 4 * SMOL.n_params, "fp32").streamed_bytes == 0
    assert split(SMOL, 4 * SMOL.n_params - 1, "fp32").n_resident == 27  # the window takes two, and one has to go


def test_a_limit_below_two_layers_is_refused_with_the_numbers():
    said = r"100.0 MB hold less than 2 layers of 14.2 MB beside 113.3 MB of embedding and head: give at least 141.6 MB"
    with pytest.raises(NoRoom, match=said.replace("113.3", "113.2")):
        split(SMOL, 100e6, "fp32")
    with pytest.raises(NoRoom):
        split(SMOL, OUTSIDE + 2 * LAYER - 1, "fp32")


def test_a_70b_in_16_bits_over_the_bus_by_hand():
    parts = split(BIG, 40e9)
    # 80 layers of 1.711 GB and 4.2 GB outside; (40 - 4.2) / 1.711 = 20.9, two of them for the window
    assert parts.n_resident == 18
    assert pass_seconds(parts, 31.5e9) == pytest.approx(62 * 1.7114e9 / 31.5e9, rel=1e-3)  # 3.4 s a token


def test_a_pass_is_stream_and_work_one_after_the_other_or_the_longer_of_both():
    parts = Split(4, 1, 10, 5)
    assert pass_seconds(parts, 10.0) == 3.0
    assert pass_seconds(parts, 10.0, 2.0) == 5.0
    assert pass_seconds(parts, 10.0, 2.0, overlap=True) == 3.0
    assert pass_seconds(parts, 10.0, 4.0, overlap=True) == 4.0


@given(st.floats(8e9, 140e9), st.floats(1e9, 1e11))
def test_the_break_even_is_where_work_takes_as_long_as_the_stream(limit, rate):
    parts = split(BIG, limit)
    batch_size = break_even_batch(parts, rate, ROOF, BIG, 128)
    stream = pass_seconds(parts, rate)
    assert time_per_output_token(ROOF, BIG, batch_size, 128).seconds >= stream
    assert batch_size == 1 or time_per_output_token(ROOF, BIG, batch_size - 1, 128).seconds < stream


def test_it_is_never_reached_from_a_very_slow_disk():
    assert break_even_batch(split(BIG, 40e9), 1e6, ROOF, BIG, 1) == math.inf
