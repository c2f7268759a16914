"""Published telemetry: GPUs are known, shares are shares, and what a source computed follows from its own rate."""

import pytest

from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.models import model
from llmhw_helpers.specs.telemetry import TELEMETRY, sighting


@pytest.mark.parametrize("seen", TELEMETRY.values(), ids=TELEMETRY)
def test_all_were_busy_and_none_worked_as_much(seen):
    assert seen.gpu is None or accelerator(seen.gpu).name == seen.gpu
    assert 0.95 <= seen.busy.known() <= 1
    if seen.working.value is not None:
        assert 0 < seen.working.value < seen.busy.value


def test_the_share_of_a_small_product_follows_from_how_many_were_made():
    seen = sighting("products of 256 x 256")
    share = 2 * 256**3 * seen.rate.known() / accelerator(seen.gpu).peak("tf32").known()
    assert share == pytest.approx(seen.working.known(), abs=0.001)


def test_the_same_utilization_stood_beside_a_third_of_the_tokens_and_a_hundredth_of_the_peak():
    best, worst = (
        sighting("vLLM with Qwen2.5-0.5B, before a request for logprobs"),
        sighting("vLLM with Qwen2.5-0.5B, beside a request for logprobs"),
    )
    assert best.busy == worst.busy
    assert best.rate.known() / worst.rate.known() == pytest.approx(3, abs=0.02)
    flops_per_s = 2 * model("Qwen2.5-0.5B").n_params * best.rate.known()
    assert 0.005 < flops_per_s / accelerator(best.gpu).peak("bf16").known() < 0.02
    with pytest.raises(UnknownFigure, match="not published"):
        best.working.known()


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownName, match="did you mean products of 1024"):
        sighting("products of 1025 x 1025")
