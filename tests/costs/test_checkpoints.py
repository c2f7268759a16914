"""How often to save: two formulas against the exact optimum, a simulation, and the figures of Daly's paper."""

import math

import pytest

from llmhw_helpers.costs.checkpoints import (
    best_interval,
    checkpoint_bytes,
    daly_interval,
    efficiency,
    fleet_mtbf,
    simulate,
    young_interval,
)

HOUR = 3600.0
COSTS = [1.0, 60.0, 600.0, 0.5 * HOUR, HOUR]  # seconds, at a failure every three hours


# Daly 2006, figures 3 to 5: failures every 24 h, 6 h and 15 min, a dump of 5 min.
@pytest.mark.parametrize(("mtbf_min", "best_min"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_dalys_figures(mtbf_min, best_min):
    assert daly_interval(5, mtbf_min) == pytest.approx(best_min, rel=0.01)
    assert best_interval(5, mtbf_min) == pytest.approx(best_min, rel=0.01)


@pytest.mark.parametrize("cost", COSTS)
def test_daly_is_within_a_percent_of_the_optimum_and_young_only_where_saves_are_cheap(cost):
    best = best_interval(cost, 3 * HOUR)
    assert daly_interval(cost, 3 * HOUR) == pytest.approx(best, rel=0.01)
    off = young_interval(cost, 3 * HOUR) / best - 1
    assert (off < 0.06) if cost <= 60 else (off > 0.1)


@pytest.mark.parametrize("cost", [*COSTS, 10 * HOUR])
def test_no_other_interval_is_more_efficient_than_the_best(cost):
    best = best_interval(cost, 3 * HOUR)
    top = efficiency(best, cost, 3 * HOUR, 100.0)
    assert all(efficiency(best * x, cost, 3 * HOUR, 100.0) < top for x in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_a_save_that_outlasts_what_lies_between_failures():
    assert daly_interval(2 * HOUR, HOUR) == HOUR
    assert best_interval(20 * HOUR, HOUR) == pytest.approx(HOUR, rel=1e-6)
    assert efficiency(1e9, 1.0, 1.0) == 0.0


@pytest.mark.parametrize(("interval", "restart"), [(300.0, 0.0), (1100.0, 0.0), (1100.0, 600.0), (7200.0, 300.0)])
def test_the_simulation_comes_out_at_the_formula(interval, restart):
    """Within four standard errors of its mean, which many runs of one seed each tell."""
    runs = [simulate(400, interval, 60.0, 3 * HOUR, restart, seed).efficiency for seed in range(40)]
    mean = sum(runs) / 40
    error = math.sqrt(sum((run - mean) ** 2 for run in runs) / 39 / 40)
    assert abs(mean - efficiency(interval, 60.0, 3 * HOUR, restart)) < 4 * error < 0.02


def test_the_simulated_run_adds_up():
    run = simulate(500, 1000.0, 60.0, 3 * HOUR, seed=3)
    assert (run.saved, run.work_s) == (500, 500_000.0)
    assert run.seconds > 500 * 1060.0
    assert run.failed > 0
    assert run == simulate(500, 1000.0, 60.0, 3 * HOUR, seed=3) != simulate(500, 1000.0, 60.0, 3 * HOUR, seed=4)
    quiet = simulate(10, 1000.0, 60.0, 1e15)
    assert (quiet.seconds, quiet.failed, quiet.efficiency) == (10_600.0, 0, 1000 / 1060)


def test_llama_3_s_interruptions():
    """Llama Team 2024, section 3.3.4: 419 unexpected ones in 54 days, on 16,384 GPUs."""
    assert fleet_mtbf(5.8 * 365 * 24, 16384) == pytest.approx(54 * 24 / 419, rel=0.01)


def test_sizes():
    assert checkpoint_bytes(8e9) == 112e9
    assert checkpoint_bytes(8e9, weight_bytes=4, state_bytes=8) == 96e9


@pytest.mark.parametrize(
    "call",
    [
        lambda: young_interval(0, HOUR),
        lambda: daly_interval(60, -1),
        lambda: efficiency(0, 60, HOUR),
        lambda: best_interval(60, math.nan),
        lambda: simulate(0, 60, 1, HOUR),
        lambda: fleet_mtbf(HOUR, 0),
        lambda: best_interval(60, math.inf),
        lambda: efficiency(math.inf, 60, HOUR),
    ],
)
def test_what_is_not_above_zero_is_refused_by_name(call):
    with pytest.raises(ValueError, match=r"^(cost_s|mtbf_s|interval_s|n_intervals|n_parts) is a number above 0, not"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: checkpoint_bytes(-1),
        lambda: checkpoint_bytes(8e9, state_bytes=-20),
        lambda: efficiency(600, -60, HOUR),
        lambda: efficiency(600, 60, HOUR, math.nan),
        lambda: simulate(3, 600, -700, HOUR),
        lambda: simulate(3, 600, 60, HOUR, restart_s=-5),
        lambda: simulate(1, HOUR, 1, 60),  # an interval of an hour that never passes without a failure
    ],
)
def test_what_would_be_nonsense_or_never_end_is_refused(call):
    with pytest.raises(ValueError, match=r"is a number (not below|above) 0, not|never end"):
        call()


def test_the_best_interval_of_extremes():
    assert best_interval(1e6, 1.0) == pytest.approx(1.0)
    assert best_interval(60.0, 1e18) == pytest.approx(young_interval(60.0, 1e18), rel=1e-6)
