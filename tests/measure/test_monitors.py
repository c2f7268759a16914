"""A monitor beside real processes: what they use is known, and the system's own clocks are the oracle."""

import itertools
import mmap
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from llmhw_helpers.measure.monitors import COLUMNS, Monitor

SPIN = "import time\nwhile time.process_time() < {seconds}: pass"
ALWAYS = {"cpu_percent", "machine_cpu_percent", "rss_bytes", "available_bytes", "sent_bytes_per_s"}


def spin(cpu_seconds):
    """Uses that much CPU time, however busy the machine is."""
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        pass


def cpu_seconds(series):
    return series.total("cpu_percent") / 100


def test_the_time_of_a_process_is_what_its_own_clock_says():
    before = time.process_time()
    with Monitor(interval_s=0.05, gpus=False) as monitor:
        spin(0.5)
    used = time.process_time() - before
    series = monitor.series()
    assert cpu_seconds(series) == pytest.approx(used, abs=0.06)  # the kernel tells hundredths, cores start and stop
    assert set(series.columns) >= ALWAYS
    assert set(series.columns) <= set(COLUMNS)
    assert all(series.units[name] == COLUMNS[name].unit for name in series.columns)
    cores = os.cpu_count()
    assert np.all(series["cpu_percent"] <= 100 * cores + 1e-6)
    assert np.all(series["machine_cpu_percent"] <= 100 * cores + 1e-6)
    assert series["rss_bytes"].max() > 1e7
    assert len(series) >= 3


def test_children_that_come_and_go_are_counted_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time()
    with Monitor(interval_s=0.05, gpus=False) as monitor:
        for _ in range(2):
            children = [subprocess.Popen([sys.executable, "-S", "-c", SPIN.format(seconds=0.15)]) for _ in range(2)]
            for child in children:
                child.wait()
        time.sleep(0.6)  # what children did before they were found is counted as fast as the cores could have done it
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime + time.process_time() - own
    assert used >= 4 * 0.15
    assert cpu_seconds(monitor.series()) == pytest.approx(used, abs=0.15)
    assert np.all(monitor.series()["cpu_percent"] >= 0)


def test_other_processes_can_be_watched_and_may_end():
    waits = [sys.executable, "-S", "-c", f"input()\n{SPIN.format(seconds=0.3)}"]
    child = subprocess.Popen(waits, stdin=subprocess.PIPE)
    with Monitor(interval_s=0.05, pids=[child.pid], gpus=False) as monitor:
        child.communicate(b"\n", timeout=60)
        monitor.mark("ended")
        time.sleep(0.15)
    series = monitor.series()
    assert 0.1 < cpu_seconds(series) <= 0.45
    assert series["rss_bytes"][-1] == 0  # it is gone
    with pytest.raises(ValueError, match=f"no process with the number {child.pid}"):
        Monitor(pids=[child.pid])


def test_memory_that_is_taken_is_seen():
    with Monitor(interval_s=0.02, gpus=False) as monitor:
        while len(monitor.series()) < 2:  # on a busy machine the thread that samples may be late
            time.sleep(0.01)
        monitor.mark("taken")
        # of the system itself: what tests before this one gave back to the allocator is in memory still
        block = np.frombuffer(mmap.mmap(-1, 100_000_000), np.uint8)
        block[:] = 1
        there = len(monitor.series())
        while len(monitor.series()) < there + 2:  # the first of them may have begun before the block was whole
            time.sleep(0.01)
    series = monitor.series()
    (taken,) = series.times("taken")
    assert series["rss_bytes"][-1] - series.between(0, taken)["rss_bytes"][0] == pytest.approx(block.nbytes, rel=0.1)


def _fail_after_three_samples(monitor):
    with monitor:
        while len(monitor.series()) < 3:
            time.sleep(0.01)
        monitor.mark("step")
        raise ZeroDivisionError


def test_series_can_be_had_while_it_goes_on_and_after_an_error():
    monitor = Monitor(interval_s=0.01, gpus=False)
    with pytest.raises(RuntimeError, match="nothing was sampled"):
        monitor.series()
    with pytest.raises(RuntimeError, match="nothing was sampled"):
        monitor.mark("too early")
    with pytest.raises(ZeroDivisionError):
        _fail_after_three_samples(monitor)
    series = monitor.series()
    assert [name for _, name in series.marks] == ["step", "ended by ZeroDivisionError"]
    assert not any(thread.name == "monitor" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="watches one block"):
        monitor.__enter__()


def test_a_block_that_is_over_at_once_has_a_sample():
    with Monitor(interval_s=10, gpus=False) as monitor:
        pass
    assert len(monitor.series()) == 1


def test_two_monitors_at_once_say_the_same():
    with Monitor(interval_s=0.05, gpus=False) as first, Monitor(interval_s=0.03, gpus=False) as second:
        spin(0.4)
    one, two = (cpu_seconds(monitor.series()) for monitor in (first, second))
    assert one == pytest.approx(two, abs=0.08)
    assert one > 0.3


def _leave(monitor, queue):
    monitor.mark("in the child")
    n_samples = len(monitor.series())
    time.sleep(0.05)
    monitor.__exit__(None, None, None)
    queue.put(n_samples if len(monitor.series()) == n_samples else 0)  # nothing is sampled here


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_fork_takes_no_part():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with Monitor(interval_s=0.01, gpus=False) as monitor:
        while len(monitor.series()) < 3:
            time.sleep(0.01)
        children = [context.Process(target=_leave, args=(monitor, queue)) for _ in range(4)]
        for child in children:
            child.start()
        assert [queue.get(timeout=60) >= 2 for _ in children] == [True] * 4
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * 4
        before = len(monitor.series())
        while len(monitor.series()) < before + 2:  # it goes on
            time.sleep(0.01)
    assert monitor.series().marks == ()


def test_what_cannot_be_read_is_said_once_and_the_run_goes_on(monkeypatch, capsys):
    with Monitor(interval_s=0.01, gpus=False) as monitor:
        monkeypatch.setattr("psutil.cpu_times", lambda: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        before = len(monitor.series())
        while len(monitor.series()) < before + 4:
            time.sleep(0.01)
    assert capsys.readouterr().out.count("Too many open files") == 1
    series = monitor.series()
    assert np.isnan(series["machine_cpu_percent"][-1])
    assert not np.any(np.isnan(series["cpu_percent"]))


def test_counters_that_fall_and_a_clock_that_stands_still_give_no_negative_rate(monkeypatch):
    counters = psutil.net_io_counters(pernic=True)
    clock, stands = time.perf_counter, []
    monkeypatch.setattr("time.perf_counter", lambda: stands[0] if stands else clock())

    def networks(pernic, nowrap):
        names = list(counters)[: 1 + next(flip) % 2]  # one comes and goes
        return {name: counters[name]._replace(bytes_sent=next(fall), bytes_recv=0) for name in names}

    flip, fall = itertools.count(), itertools.count(1_000_000, -1)
    monkeypatch.setattr("psutil.net_io_counters", networks)
    with Monitor(interval_s=0.01, gpus=False) as monitor:
        while len(monitor.series()) < 4:
            time.sleep(0.01)
        stands.append(clock())
        time.sleep(0.05)  # samples of one moment
        stands.clear()
    series = monitor.series()
    assert np.all(series["sent_bytes_per_s"] == 0)
    assert np.all(np.diff(series.seconds) > 0)
    assert all(np.all(values >= 0) for values in series.columns.values())


def test_a_sampler_that_comes_late_does_not_sample_twice_at_once(monkeypatch):
    """A rate over a moment would be all rounding: the kernel counts in hundredths of a second."""
    times, read = psutil.cpu_times, itertools.count()
    monkeypatch.setattr("psutil.cpu_times", lambda: time.sleep(0.1 * (next(read) % 3 == 1)) or times())
    with Monitor(interval_s=0.04, gpus=False) as monitor:
        while len(monitor.series()) < 6:
            time.sleep(0.01)
    assert np.all(monitor.series().durations[:-1] >= 0.039)


def test_what_it_costs_is_told():
    with Monitor(interval_s=0.01, gpus=False) as monitor:
        while len(monitor.series()) < 10:
            time.sleep(0.01)
    assert 0 < monitor.cost_seconds < 10 * monitor.series().seconds[-1]
    assert 0 < monitor.n_cores <= os.cpu_count()


@pytest.mark.parametrize("interval", [0, -1, float("nan"), 1e9])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ValueError, match="interval_s must be"):
        Monitor(interval_s=interval)
