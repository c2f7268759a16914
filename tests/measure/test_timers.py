"""Timers count what they say, and measured figures are printed in one way that the notebooks' tests know."""

import configparser
import re
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.measure.timers import Timing, measured, time_call

SANITIZE = Path(__file__).parents[1] / "nbval_sanitize.cfg"


def sanitized(text: str) -> str:
    parser = configparser.RawConfigParser()
    parser.read(SANITIZE)
    for section in parser.sections():
        text = re.sub(parser.get(section, "regex"), parser.get(section, "replace"), text)
    return text


def test_every_round_counts_and_the_warm_up_does_not():
    calls = []
    timing = time_call(lambda: calls.append(1), rounds=4, warmup=3)
    assert len(timing.rounds) == 4
    assert len(calls) == 7


def test_a_sleep_takes_at_least_its_time():
    assert time_call(lambda: time.sleep(0.01), rounds=2).best >= 0.01


def test_best_median_and_spread():
    timing = Timing((3.0, 1.0, 2.0))
    assert (timing.best, timing.median, timing.spread) == (1.0, 2.0, 1.0)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        time_call(lambda: None, rounds=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_work_itself_is_timed_and_not_its_launch():
    a = torch.randn(4096, 4096, device="cuda")
    few = time_call(lambda: a @ a, "cuda").median
    many = time_call(lambda: [a @ a for _ in range(10)], "cuda").median
    assert 5 < many / few < 20


@given(st.floats(1e-9, 1e15), st.floats(1e-9, 1e15), st.sampled_from(["s", "B/s", "FLOP/s", "B", "FLOP", "W", ""]))
def test_the_notebooks_tests_see_no_difference_between_two_measurements(one, other, unit):
    lines = [f"took {measured(value, unit):>14}, which is long" for value in (one, other)]
    assert sanitized(lines[0]) == sanitized(lines[1]) == "tookMEASURED, which is long"


def test_the_notebooks_tests_see_every_other_difference():
    assert sanitized("about ~1.2 ms for 3 rows") != sanitized("about ~1.3 ms for 4 rows")
    assert sanitized("predicted 1.2 ms") == "predicted 1.2 ms"
    assert sanitized("it is ~memory bound, ~12% of it") == sanitized("it is ~compute bound, ~3% of it")


def test_a_machine_may_say_yes_or_no_or_not_tell():
    shown = [f"cold: {measured(found)}, and then" for found in (True, False, None)]
    assert shown == ["cold: ~yes, and then", "cold: ~no, and then", "cold: ~not told, and then"]
    assert {sanitized(line) for line in shown} == {"cold:MEASURED, and then"}
    assert measured(None, "B") == "~not told"
    assert (measured(1), measured(0)) == ("~1", "~0")  # counts, neither yes nor no
