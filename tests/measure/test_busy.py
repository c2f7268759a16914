"""Three busy programs: what they count against torch's own counter, and none of their processes stays behind."""

import subprocess

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.measure import busy


def test_multiply_counts_what_torch_counts():
    with FlopCounterMode(display=False) as counter:
        effort = busy.multiply(seconds=0)
    assert effort.work.flops == counter.get_total_flops() / 2  # the first round does not count
    assert effort.work.bytes == 3 * 4 * 1536**2
    assert effort.work.intensity > 100


def test_stream_reads_every_byte_once_a_round(monkeypatch):
    monkeypatch.setattr(busy, "STREAM_BYTES", 4096)
    read = []
    monkeypatch.setattr(torch, "sum", lambda array, **_: read.append(array.nbytes))
    effort = busy.stream(seconds=0.01)
    assert effort.work.bytes == sum(read[1:])
    assert effort.work.flops == len(read[1:]) * 1023
    assert effort.seconds >= 0.01


def test_spin_is_as_many_processes_as_torch_has_threads_and_does_nothing(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command: started.append(popen(command)) or started[-1])
    effort = busy.spin(seconds=0.05)
    assert (effort.work.flops, effort.work.bytes) == (0, 0)
    assert effort.seconds >= 0.05
    assert [child.returncode for child in started] == [0] * torch.get_num_threads()


def test_an_interrupted_spin_leaves_no_process_behind(monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, command):
            super().__init__(command)
            started.append(self)

        def wait(self, timeout=None):
            if self.poll() is None and not self.__dict__.get("interrupted"):
                self.interrupted = True
                raise KeyboardInterrupt
            return super().wait(timeout)

        def kill(self):
            self.interrupted = True
            super().kill()

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        busy.spin(seconds=600)
    assert started
    assert not any(psutil.pid_exists(child.pid) for child in started)


def test_shares_are_of_the_roof_of_the_format():
    roof = Roof("a machine", {"fp32": 10.0, "bf16": 40.0}, bytes_per_s=8.0)
    effort = busy.Effort("made up", busy.Work(flops=20.0, bytes=4.0), seconds=4.0)
    assert (effort.mfu(roof), effort.bandwidth_share(roof)) == (0.5, 0.125)
    assert busy.Effort("made up", effort.work, 4.0, "bf16").mfu(roof) == 0.125


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_three_do_the_same():
    efforts = [program(0.2, "cuda") for program in (busy.multiply, busy.stream, busy.spin)]
    assert efforts[0].flops_per_s > 100 * efforts[1].flops_per_s > 100 * efforts[2].flops_per_s
    assert efforts[1].bytes_per_s > efforts[0].bytes_per_s > efforts[2].bytes_per_s
