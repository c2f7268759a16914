"""Traces against PyTorch's own table, and against traces made by hand whose times are known."""

import gzip
import json
import threading
import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from llmhw_helpers.measure.trace_files import OPERATIONS, RANGES, BadTrace, Span, recorded
from llmhw_helpers.measure.traces import Interval, Tally, Trace, own_seconds, seconds_of

US = 1e-6


def event(name, ts, dur, cat="cpu_op", tid=7, pid=7, **args):
    """As PyTorch writes it; times in microseconds."""
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def written(folder, events, name="t.json", **others):
    path = folder / name
    path.write_text(json.dumps({"schemaVersion": 1, **others, "traceEvents": events}))
    return path


def read(folder, events):
    return Trace.read(written(folder, events))


def us(pieces):
    """(start, end) of each in whole microseconds."""
    return [(round(piece.start_s / US, 3), round(piece.end_s / US, 3)) for piece in pieces]


# 0         100       200       300       400 us
# step -----------------------------------------       range, main thread
#   load --      forward -----------  read ---
#                  mm ---- add ----   item --
#                                       local
#                         add_                       inside add
#      worker --------                               thread 8
BY_HAND = [
    event("step", 1000, 400, "user_annotation"),
    event("load", 1010, 90, "user_annotation"),
    event("aten::mm", 1150, 50),
    event("forward", 1140, 170, "user_annotation"),  # files are not in order
    event("aten::add", 1210, 60),
    event("aten::add_", 1220, 30),
    event("aten::item", 1350, 40),
    event("aten::_local_scalar_dense", 1360, 20),
    event("aten::copy_", 1020, 60, tid=8),
    {"ph": "M", "name": "thread_name", "pid": 7, "tid": 7, "ts": 0, "args": {"name": "thread 7 (python)"}},
    {"ph": "i", "name": "Iteration Start", "pid": "Traces", "tid": "x", "ts": 1000, "s": "g"},
    event("PyTorch Profiler (0)", 900, 600, "Trace", tid="PyTorch Profiler", pid="Spans"),
]


@pytest.fixture
def by_hand(tmp_path):
    return read(tmp_path, BY_HAND)


def test_lanes_and_the_whole(by_hand):
    assert by_hand.threads == ("main thread", "thread 2")
    assert by_hand.streams == ()
    assert by_hand.seconds == pytest.approx(400 * US)
    assert by_hand.left_out == {"Trace": 1}
    assert us(by_hand.ranges("forward")) == [(140, 310)]


def test_gaps_are_what_operations_leave(by_hand):
    main = [(0, 150), (200, 210), (270, 350), (390, 400)]
    assert us(by_hand.gaps("main thread")) == main
    assert us(by_hand.gaps("main thread", at_least_s=50 * US)) == [main[0], main[2]]
    assert us(by_hand.gaps("main thread", "thread 2")) == [(0, 20), (80, 150), *main[1:]]
    assert us(by_hand.busy("main thread")) == [(150, 200), (210, 270), (350, 390)]
    with pytest.raises(ValueError, match="no lane 'main': it has main thread, thread 2"):
        by_hand.gaps("main")


def test_longest_counts_own_time_once(by_hand):
    main = by_hand.longest(lanes=["main thread"])
    rounded = [Tally(t.name, t.count, round(t.seconds / US), round(t.own_seconds / US)) for t in main]
    assert rounded[0] == Tally("aten::mm", 1, 50, 50)
    assert set(rounded[1:]) == {
        Tally("aten::add", 1, 60, 30),
        Tally("aten::add_", 1, 30, 30),
        Tally("aten::item", 1, 40, 20),
        Tally("aten::_local_scalar_dense", 1, 20, 20),
    }
    ranges = {t.name: round(t.own_seconds / US) for t in by_hand.longest(kinds=RANGES)}
    assert ranges == {"step": 400 - 90 - 170 - 40, "load": 90, "forward": 170 - 50 - 60}
    assert [t.name for t in by_hand.longest(1)] == ["aten::copy_"]


def test_loading_and_synchronisation(by_hand):
    assert us(by_hand.loading()) == [(10, 100)]
    assert us(by_hand.synchronisations()) == [(350, 390)]
    assert by_hand.ranges_around(by_hand.synchronisations()[0]) == ["step"]


def test_the_stack_at_a_moment(by_hand):
    assert by_hand.stack("main thread", 230 * US) == ["step", "forward", "aten::add", "aten::add_"]
    assert by_hand.stack("main thread", 205 * US) == ["step", "forward"]
    assert by_hand.stack("thread 2", 205 * US) == []


def test_a_piece_is_cut_at_its_edges(by_hand):
    piece = by_hand.within(Interval(160 * US, 230 * US))
    assert us(span for span in piece.spans if span.kind in OPERATIONS) == [(160, 200), (210, 230), (220, 230)]
    assert us(piece.gaps("main thread")) == [(200, 210)]
    assert us(piece.gaps("thread 2")) == [(160, 230)]
    assert piece.seconds == pytest.approx(70 * US)


def test_loaders_of_pytorch_are_known(tmp_path):
    name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
    trace = read(tmp_path, [event(name, 0, 10, "user_annotation"), event("aten::mm", 20, 5)])
    assert us(trace.loading()) == [(0, 10)]


# A GPU in PyTorch's format: each launch takes 10 us, each kernel 30, so that the queue grows; then a wait, and a launch
# into an empty queue. Two streams, the second with a copy.
GPU = [
    event("aten::mm", 0, 12),
    event("cudaLaunchKernel", 1, 10, "cuda_runtime", correlation=1),
    event("cudaLaunchKernel", 20, 10, "cuda_runtime", correlation=2),
    event("cudaMemcpyAsync", 40, 10, "cuda_runtime", correlation=3),
    event("aten::item", 55, 50),
    event("cudaStreamSynchronize", 60, 40, "cuda_runtime", correlation=4),
    event("cudaLaunchKernel", 130, 10, "cuda_runtime", correlation=5),
    event("gemm", 11, 30, "kernel", pid=0, tid=7, device=0, stream=7, correlation=1),
    event("gemm", 41, 30, "kernel", pid=0, tid=7, device=0, stream=7, correlation=2),
    event("Memcpy HtoD", 50, 45, "gpu_memcpy", pid=0, tid=20, device=0, stream=20, correlation=3),
    event("add", 142, 30, "kernel", pid=0, tid=7, device=0, stream=7, correlation=5),
    event("lost", 180, 20, "kernel", pid=0, tid=7, device=0, stream=7, correlation=99),
    {"ph": "s", "id": 1, "pid": 7, "tid": 7, "ts": 1, "cat": "ac2g", "name": "ac2g"},
    {"ph": "f", "id": 1, "pid": 0, "tid": 7, "ts": 11, "cat": "ac2g", "name": "ac2g", "bp": "e"},
    event("forward", 11, 60, "gpu_user_annotation", pid=0, tid=7),
]


def test_when_a_gpu_was_idle(tmp_path):
    trace = read(tmp_path, GPU)
    assert trace.streams == ("GPU 0, stream 7", "GPU 0, stream 20")
    assert us(trace.gaps("GPU 0, stream 7")) == [(0, 11), (71, 142), (172, 180)]
    assert us(trace.gaps(*trace.streams)) == [(0, 11), (95, 142), (172, 180)]
    assert trace.left_out == {"gpu_user_annotation": 1}


def test_launches_and_their_delays(tmp_path):
    launches = read(tmp_path, GPU).launches()
    assert [(each.call.name, each.kernel.name) for each in launches] == [
        ("cudaLaunchKernel", "gemm"),
        ("cudaLaunchKernel", "gemm"),
        ("cudaMemcpyAsync", "Memcpy HtoD"),
        ("cudaLaunchKernel", "add"),
    ]
    assert [round(each.delay_s / US) for each in launches] == [10, 21, 10, 12]


def test_a_wait_for_the_gpu_is_counted_once(tmp_path):
    assert us(read(tmp_path, GPU).synchronisations()) == [(55, 105)]
    waiting = [event("cudaDeviceSynchronize", 300, 7, "cuda_runtime"), event("cudaMemcpyAsync", 310, 1, "cuda_runtime")]
    assert us(read(tmp_path, GPU + waiting).synchronisations()) == [(55, 105), (300, 307)]


def test_neighbours_that_overlap_by_the_clocks_rounding_are_no_parents():
    def span(name, start_ns, end_ns):
        return Span(name, "cpu_op", "main thread", start_ns * 1e-9, end_ns * 1e-9)

    spans = [span("parent", 0, 1000), span("first", 100, 401), span("second", 400, 900)]
    assert own_seconds(spans) == pytest.approx([199e-9, 301e-9, 500e-9], abs=3e-9)


def test_what_overlaps_in_a_stream_is_shared_out_once(tmp_path):
    trace = read(tmp_path, [event("first", 0, 10, "kernel"), event("second", 5, 15, "kernel")])
    own = {tally.name: round(tally.own_seconds / US) for tally in trace.longest()}
    assert own == {"first": 5, "second": 15}


def test_where_two_begin_together_the_longer_one_is_outside(tmp_path):
    trace = read(tmp_path, [event("aten::copy_", 0, 5), event("aten::to", 0, 8)])
    assert {tally.name: round(tally.own_seconds / US) for tally in trace.longest()} == {"aten::to": 3, "aten::copy_": 5}
    assert trace.stack("main thread", 2 * US) == ["aten::to", "aten::copy_"]


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch's own table as the oracle


def work(n=3):
    weight = torch.ones(64, 64, requires_grad=True)
    for _ in range(n):
        with record_function("step"):
            with record_function("load"):
                x = torch.ones(64, 64) * 2
            loss = torch.nn.functional.silu(x @ weight).sum()
            loss.backward()
            loss.item()


def test_counts_and_times_are_those_of_pytorchs_table(tmp_path):
    work(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    profiler.export_chrome_trace(str(tmp_path / "t.json"))
    ours = {tally.name: tally for tally in Trace.read(tmp_path / "t.json").longest(None, kinds=OPERATIONS | RANGES)}
    theirs = {event.key: event for event in profiler.key_averages()}
    assert len(theirs) > 15
    assert ours.keys() == theirs.keys()
    assert theirs["aten::sum"].count == 3  # where each calls aten::sum again
    for name, event in theirs.items():
        assert ours[name].count == event.count
        slack = 0.002 * event.count  # microseconds: a nanosecond's rounding at either end
        assert ours[name].seconds / US == pytest.approx(event.cpu_time_total, abs=slack)
        assert ours[name].own_seconds / US == pytest.approx(event.self_cpu_time_total, abs=10 * slack)


def test_own_times_and_gaps_make_up_the_whole(tmp_path):
    work(1)
    with recorded(tmp_path / "t.json"):
        work()
    trace = Trace.read(tmp_path / "t.json")
    own = sum(t.own_seconds for t in trace.longest(None, ["main thread"], OPERATIONS))
    gaps = seconds_of(trace.gaps("main thread"))
    ranges = sum(t.own_seconds for t in trace.longest(None, ["main thread"], RANGES))
    assert own == pytest.approx(seconds_of(trace.busy("main thread")), abs=1e-5)
    assert own + gaps == pytest.approx(trace.seconds, abs=1e-5)
    assert 0 < ranges < gaps
    assert len(trace.loading()) == 3
    assert [trace.ranges_around(read) for read in trace.synchronisations()] == [["step"]] * 3


def test_other_threads_are_recorded(tmp_path):
    with recorded(tmp_path / "t.json"):
        thread = threading.Thread(target=lambda: torch.ones(8).sum())
        torch.ones(4).cumsum(0)
        thread.start()
        thread.join()
    trace = Trace.read(tmp_path / "t.json")
    assert trace.threads == ("main thread", "thread 2")
    assert "aten::cumsum" in {tally.name for tally in trace.longest(None, ["main thread"])}
    assert "aten::sum" in {tally.name for tally in trace.longest(None, ["thread 2"])}


def test_waiting_for_data_is_a_gap_of_that_length(tmp_path):
    with recorded(tmp_path / "t.json"):
        torch.ones(4).sum()
        with record_function("load"):
            time.sleep(0.05)
        torch.ones(4).sum()
    trace = Trace.read(tmp_path / "t.json")
    longest = max(trace.gaps("main thread"), key=lambda gap: gap.seconds)
    assert longest.seconds >= 0.05
    assert trace.stack("main thread", (longest.start_s + longest.end_s) / 2) == ["load"]
    assert seconds_of(trace.loading()) >= 0.05


# ----------------------------------------------------------------------------------------------------------------------
# Recording


def test_a_recording_is_compressed_where_its_name_says_so(tmp_path):
    with recorded(tmp_path / "t.json.gz"):
        torch.ones(4).sum()
    assert json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))["traceEvents"]
    assert Trace.read(tmp_path / "t.json.gz").longest()


def test_recording_says_nothing(tmp_path, capfd):
    with recorded(tmp_path / "t.json"):
        torch.ones(4).sum()
    assert capfd.readouterr() == ("", "")


def test_recordings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"ends in .json or .json.gz, not 't.txt'"), recorded(tmp_path / "t.txt"):
        pytest.fail("nothing runs")
    with (
        profile(activities=[ProfilerActivity.CPU]),
        pytest.raises(RuntimeError, match="another profiler"),
        recorded(tmp_path / "t.json"),
    ):
        pytest.fail("nothing runs")
    with pytest.raises(ZeroDivisionError), recorded(tmp_path / "t.json"):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------------------------
# Files that are no traces


GOOD = json.dumps({"traceEvents": BY_HAND}).encode()
NO_TRACES = {
    "empty": (b"", "no JSON at character 0 of 0"),
    "cut off": (GOOD[:-200], "damaged or not all there"),
    "no text": (b"\x80abc", "no text in JSON"),
    "nested too deep": (b'{"traceEvents":' + b"[" * 200_000, "no text in JSON"),
    "compressed, cut off": (gzip.compress(GOOD)[:-20], "compressed, and damaged or not all there"),
    "compressed, a byte changed": (gzip.compress(GOOD)[:-8] + b"12345678", "compressed, and damaged"),
    "another list": (b"[1, 2]", "no list of traceEvents"),
    "another file": (b'{"cells": []}', "no list of traceEvents"),
    "events that are none": (b'{"traceEvents": [17]}', "event 0 is of phase None"),
    "no events": (b'{"traceEvents": []}', r"no operation of PyTorch's \(other events: none at all\)"),
    "ranges alone": (json.dumps({"traceEvents": BY_HAND[:2]}).encode(), "no operation of PyTorch's"),
    "of another tool": (
        json.dumps({"traceEvents": [event("f", 0, 1, "FEE")]}).encode(),
        r"no operation of PyTorch's \(other events: 1 of FEE\)",
    ),
}


@pytest.mark.parametrize(("content", "said"), NO_TRACES.values(), ids=NO_TRACES)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(BadTrace, match=said) as refused:
        Trace.read(path)
    assert "t.json" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ts": "soon"},
        {"ts": float("nan")},
        {"ts": 10**400},
        {"ts": None},
        {"ts": -1},
        {"dur": -1},
        {"dur": float("inf")},
        {"dur": 1e300},
        {"name": 5},
        {"cat": None},
        {"tid": [7]},
        {"ph": "B"},
        {"ph": ["X"]},
        {"ph": ""},
        {"ts": True},
    ],
    ids=str,
)
def test_an_event_that_cannot_be_is_named(tmp_path, wrong):
    with pytest.raises(BadTrace, match=r"t.json: event 3 ") as refused:
        read(tmp_path, [*BY_HAND[:3], event("aten::add", 3, 4) | wrong, *BY_HAND[3:]])
    assert "\n" not in str(refused.value)


def test_an_event_without_its_times_is_refused(tmp_path):
    short = event("aten::add", 3, 4)
    del short["dur"]
    with pytest.raises(BadTrace, match="event 0 lacks"):
        read(tmp_path, [short])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadTrace, match=r"none.json cannot be read: No such file"):
        Trace.read(tmp_path / "none.json")
    with pytest.raises(BadTrace, match="cannot be read: no file, but a folder"):
        Trace.read(tmp_path)


def test_strange_arguments_do_no_harm(tmp_path):
    strange = [event("k", 0, 5, "kernel") | {"args": []}, event("c", 0, 5, "cuda_runtime", correlation=[1])]
    trace = read(tmp_path, [*strange, event("aten::mm", 3, 4) | {"args": None}])
    assert trace.launches() == []
    assert trace.streams == ("GPU 7, stream 7",)
