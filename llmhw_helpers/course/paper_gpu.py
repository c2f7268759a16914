"""A GPU on paper: what a trace of it shows, calculated from a rule, and written as PyTorch writes a measured one.

The processor does not run kernels, it puts them in a queue. Each launch keeps it busy for a moment; the GPU takes the
kernels one after another. As long as the queue is not empty, the GPU does not notice how slow the launching is. To read
a number (``.item()``) the processor waits until the queue is empty: the next kernel finds an idle GPU.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ..files import write_whole
from ..measure.traces import Trace

PROCESS, MAIN, STREAM = 1, 1, 7  # the numbers of a process, its thread, and the stream that PyTorch uses first


@dataclass(frozen=True)
class PaperGpu:
    """The rule.

    Attributes:
        launch_s: that each launch keeps the processor busy.
        latency_s: from the end of a launch to the start of its kernel, on a GPU with nothing to do.
        kernel_s: of each kernel.
    """

    launch_s: float = 6e-6
    latency_s: float = 4e-6
    kernel_s: float = 20e-6

    def trace(self, path: str | Path, n_kernels: int, read_every: int = 0, n_steps: int = 1) -> Trace:
        """The trace of some steps, also as a file in PyTorch's format, which says that nobody has measured it.

        Args:
            path: of the file.
            n_kernels: of each step.
            read_every: after so many kernels a number is read off the GPU; 0: only at the end of each step.
            n_steps: each a range named ``step``, as the trainer's are.

        Raises:
            ValueError: no kernels, no steps, or a number to be read after fewer than 0.
            NotSaved: no space, no permission.
        """
        if n_kernels < 1 or n_steps < 1 or read_every < 0:
            counts = f"n_kernels={n_kernels}, n_steps={n_steps}, read_every={read_every}"
            raise ValueError(f"a step has kernels, a trace has steps, and a read comes after some: not {counts}")
        now = free = 0.0  # of the processor; and when the GPU will have nothing to do
        events, number = [], 0
        for _ in range(n_steps):
            begin = now
            for i in range(1, n_kernels + 1):
                number += 1
                events.append(_event("cudaLaunchKernel", "cuda_runtime", now, self.launch_s, correlation=number))
                now += self.launch_s
                start = max(now + self.latency_s, free)
                where = {"pid": 0, "tid": STREAM, "device": 0, "stream": STREAM, "correlation": number}
                events.append(_event("kernel", "kernel", start, self.kernel_s, **where))
                free = start + self.kernel_s
                if i == n_kernels or (read_every and i % read_every == 0):
                    events.append(_event("aten::item", "cpu_op", now, free - now))
                    events.append(_event("cudaStreamSynchronize", "cuda_runtime", now, free - now))
                    now = free
            events.append(_event("step", "user_annotation", begin, now - begin))
        about = {"schemaVersion": 1, "displayTimeUnit": "ms", "note": "calculated by a rule, not measured"}
        write_whole(Path(path), json.dumps({**about, "traceEvents": events}).encode(), "trace")
        return Trace.read(path)


def _event(name: str, kind: str, start_s: float, seconds: float, pid: int = PROCESS, tid: int = MAIN, **args) -> dict:
    where = {"ph": "X", "cat": kind, "name": name, "pid": pid, "tid": tid}
    return where | {"ts": round(1e6 * start_s, 3), "dur": round(1e6 * seconds, 3), "args": args}
