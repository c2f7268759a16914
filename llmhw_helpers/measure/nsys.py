"""What ``nsys stats`` says of a program on a GPU: kernels, copies, calls of CUDA and named ranges, each summed up.

Nsight Systems writes a file of its own; its command ``nsys stats`` prints summaries of that (``ondemand/profile.slurm``
has both)::

    nsys stats --format csv --report cuda_gpu_kern_sum,cuda_gpu_mem_time_sum,cuda_api_sum,nvtx_sum RUN.nsys-rep

Columns: https://docs.nvidia.com/nsight-systems/AnalysisGuide/index.html, "Statistical Reports Shipped With Nsight
Systems". This course's machines have no Nsight Systems, so `SAMPLE` was written by hand after that page.
"""

import csv
import math
import re
from pathlib import Path
from typing import NamedTuple

from ..specs.json_text import read_file
from ..specs.settings import OneLine

COLUMNS = {  # of each report: how often, and of what
    "cuda_gpu_kern_sum": ("Instances", "Name"),
    "cuda_gpu_mem_time_sum": ("Count", "Operation"),
    "cuda_api_sum": ("Num Calls", "Name"),
    "nvtx_sum": ("Instances", "Range"),
}
SECONDS = {"ns": 1e-9, "us": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}  # --timeunit chooses; nanoseconds otherwise
ROUNDED = 0.05 + 1e-6  # percent: the shares have one decimal
# Written by hand, not measured: a hundred decode steps of a small model, one text. The sums and shares are right.
SAMPLE = """Processing [decode.sqlite] with [reports/cuda_gpu_kern_sum.py]...

Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
76.0,94950000,21100,4500.0,4480.0,4100,6900,120.0,"void gemv<float, 128>(float const*, float const*, float*, int)"
10.7,13420000,6100,2200.0,2190.0,2000,3100,60.0,"rms_norm(float const*, float const*, float*, int)"
8.4,10500000,3000,3500.0,3490.0,3300,4800,90.0,"attention(float const*, float const*, float*, int, int)"
4.8,6000000,3000,2000.0,1990.0,1900,2600,40.0,"rotate(float*, float const*, int)"

Processing [decode.sqlite] with [reports/cuda_gpu_mem_time_sum.py]...

Time (%),Total Time (ns),Count,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Operation
100.0,150000,100,1500.0,1500.0,1400,1700,30.0,[CUDA memcpy Device-to-Host]

Processing [decode.sqlite] with [reports/cuda_api_sum.py]...

Time (%),Total Time (ns),Num Calls,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
85.7,185920000,33200,5600.0,5400.0,4900,48000,700.0,cudaLaunchKernel
13.8,30000000,100,300000.0,299000.0,240000,390000,20000.0,cudaStreamSynchronize
0.4,900000,100,9000.0,8900.0,8500,12000,300.0,cudaMemcpyAsync

Processing [decode.sqlite] with [reports/nvtx_sum.py]...

Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Style,Range
100.0,245000000,100,2450000.0,2440000.0,2390000,2900000,40000.0,PushPop,:decode
"""


class BadStats(OneLine, ValueError):
    """A text that ``nsys stats --format csv`` did not print, or not all of it: the message says why."""


class Summed(NamedTuple):
    """All kernels, calls, copies or ranges of one name.

    Attributes:
        name: theirs; of a range without the colon that stands for NVTX's default domain.
        count: how many.
        seconds: together.
        share: of the report's sum, 0 to 1.
        mean_s, max_s: of one.
    """

    name: str
    count: int
    seconds: float
    share: float
    mean_s: float
    max_s: float


def read_stats(path: str | Path) -> dict[str, list[Summed]]:
    """The summaries in a file, by report, the longest first; see `parse_stats`.

    A file with one report and no line that says which is known by its name, such as ``run_cuda_api_sum.csv``.

    Raises:
        BadStats: not such a file, or one that cannot be read.
    """
    path = Path(path)
    try:
        text = read_file(path).decode()
    except OSError as error:
        raise BadStats(f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadStats(f"{path.name} is no text: nsys stats --format csv makes one of an .nsys-rep") from None
    return parse_stats(text, path.name)


def parse_stats(text: str, name: str = "the text") -> dict[str, list[Summed]]:
    """What ``nsys stats --format csv`` printed: by report, what it sums up, the longest first.

    A report that found nothing (SKIPPED) is empty. Reports that are not in `COLUMNS` are passed over.

    Args:
        text: the reports, one after another, with the lines that nsys prints before each.
        name: of the file, for messages, and where the text does not say which report it is.

    Raises:
        BadStats: no report, columns that are not as documented, rows that are no rows, or rows that are missing.

    >>> stats = parse_stats(SAMPLE)
    >>> stats["cuda_gpu_kern_sum"][0].count, round(sum(each.seconds for each in stats["cuda_gpu_kern_sum"]), 3)
    (21100, 0.125)
    """
    blocks: dict[str, list[tuple[int, str]]] = {}
    report = _report(name)
    for i, line in enumerate(text.splitlines(), 1):
        if said := _report(line):
            report = said
            blocks.setdefault(report, [])
        elif line.startswith("Time (%),"):
            if report is None:
                raise BadStats(f"{name} line {i}: a table, and nothing says of which report: keep the lines above it")
            if blocks.get(report):
                raise BadStats(f"{name} line {i}: a second table of {report}: give each run a file of its own")
            blocks[report] = [(i, line)]
        elif blocks.get(report) and line.strip():
            blocks[report].append((i, line))
        elif not line.strip() and blocks.get(report):
            report = None  # a table ends with an empty line
    found = {report: _rows(report, lines, name) for report, lines in blocks.items() if report in COLUMNS}
    if not found:
        raise BadStats(f"{name} has none of the reports {', '.join(COLUMNS)}: print them with nsys stats --format csv")
    return found


def _report(line: str) -> str | None:
    """The report that a line announces: ``Processing [run.sqlite] with [.../nvtx_sum.py]...``, or ``(nvtx_sum):``."""
    said = re.search(r"/(\w+)\.py\]|\((\w+_sum|\w+_trace)\):|(?:^|_)(cuda\w+_sum|nvtx_sum)\.csv$", line)
    return next(group for group in said.groups() if group) if said else None


def _rows(report: str, lines: list[tuple[int, str]], name: str) -> list[Summed]:
    if not lines:
        return []
    count, what = COLUMNS[report]
    header = next(csv.reader([lines[0][1]]))
    unit = next((found[1] for found in (re.fullmatch(r"Total Time \((.+)\)", each) for each in header) if found), "ns")
    asked = ["Time (%)", f"Total Time ({unit})", count, f"Avg ({unit})", f"Max ({unit})", what]
    if missing := [column for column in asked if column not in header]:
        raise BadStats(f"{name} line {lines[0][0]}: {report} without its column {missing[0]}: {', '.join(header)[:80]}")
    if unit not in SECONDS:
        raise BadStats(f"{name} line {lines[0][0]}: {report} in {unit}; known are {', '.join(SECONDS)}")
    rows = []
    for i, line in lines[1:]:
        try:
            row = next(csv.reader([line]))
            cells = dict(zip(header, row, strict=True)) if len(row) == len(header) else {}
            share, total, n, mean, longest = (_number(cells[column]) for column in asked[:5])
            if n != int(n):
                raise ValueError
        except (csv.Error, KeyError, ValueError):
            raise BadStats(f"{name} line {i}: no row of {report}: {line[:60]!r}") from None
        total, mean, longest = (value * SECONDS[unit] for value in (total, mean, longest))
        rows.append(Summed(cells[what].removeprefix(":"), int(n), total, share / 100, mean, longest))
    left = 100 * (1 - sum(row.share for row in rows))
    if abs(left) > ROUNDED * max(len(rows), 1):
        raise BadStats(f"{name}: the shares of {report} add up to {100 - left:.1f}%: some rows are missing")
    return sorted(rows, key=lambda row: -row.seconds)


def _number(cell: str) -> float:
    value = float(cell)
    if not 0 <= value < math.inf:
        raise ValueError
    return value
