"""Files of ``torch.profiler``: recorded here, and read back as spans of time, or refused in one line.

The format is Chrome's trace event format: JSON, a list of events, each with a phase. Those of phase X have a start
`ts` and a duration `dur`, both in microseconds; that is all that PyTorch's traces need
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU). Categories: libkineto's
``ActivityType.cpp``.
"""

import gzip
import io
import json
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from ..files import write_whole
from ..specs.json_text import check_lists, read_file
from ..specs.settings import OneLine

OPERATIONS = frozenset({"cpu_op", "cuda_runtime", "cuda_driver"})  # work of a thread
KERNELS = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})  # work of a stream of a GPU
RANGES = frozenset({"user_annotation"})  # what the program gave a name: record_function
PHASES = frozenset("XMstfiICPNOD")  # with a duration; names, arrows, instants, counters and objects, which have none
MOST_TIMES, MOST_TIMES_FROM = 100, 1 << 20  # a compressed trace grows tenfold or so; a small one may more
LONGEST_US = 1e18  # no clock counts that far: thirty thousand years
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or PyTorch's profiler says on stderr that it starts, and that it ends


class BadTrace(OneLine, ValueError):
    """A file that is no trace of ``torch.profiler``, or not all of one: the message says why."""


class Span(NamedTuple):
    """Something that took time.

    Attributes:
        name: of the operation, kernel or range.
        kind: PyTorch's category of it, such as ``"cpu_op"``, ``"user_annotation"``, ``"kernel"``.
        lane: the thread, or the stream of a GPU, where it was.
        start_s, end_s: in seconds after the trace's first span began.
        correlation: the number that a CUDA call shares with what it started on the GPU; None elsewhere.
    """

    name: str
    kind: str
    lane: str
    start_s: float
    end_s: float
    correlation: int | None = None

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.end_s - self.start_s


@contextmanager
def recorded(path: str | Path) -> Iterator[None]:
    """Write all that PyTorch does in the block, in every thread and on the GPU, to a trace: ``.json`` or ``.json.gz``.

    Recording costs a microsecond or two for each operation, and a moment at its beginning and end.

    Raises:
        ValueError: a name that ends in neither; nothing has run.
        RuntimeError: another profiler is recording.
        NotSaved: no space, no permission.
    """
    path = Path(path)
    if not path.name.endswith((".json", ".json.gz")):
        raise ValueError(f"a trace's name ends in .json or .json.gz, not {path.name!r}")
    if torch.autograd.profiler._is_profiler_enabled:
        raise RuntimeError("another profiler of PyTorch is recording in this program: end it first")
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # the loader's thread, too
    with profile(activities=activities, experimental_config=everywhere) as profiler:
        yield
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(draft))
        content = draft.read_bytes()
    write_whole(path, gzip.compress(content) if path.name.endswith(".gz") else content, "trace")


def read_spans(path: str | Path) -> tuple[list[Span], dict[str, int]]:
    """The spans of a trace in the order of their starts, and how many events of which other categories it has.

    Raises:
        BadTrace: not a trace, or a damaged one.
    """
    path = Path(path)
    lasting = [event for event in _checked(_events(path), path.name) if event["ph"] == "X"]
    known = [event for event in lasting if event["cat"] in OPERATIONS | KERNELS | RANGES]
    left_out = Counter(event["cat"] for event in lasting if event["cat"] not in OPERATIONS | KERNELS | RANGES)
    if all(event["cat"] in RANGES for event in known):
        others = ", ".join(f"{n} of {kind}" for kind, n in left_out.items()) or "none at all"
        raise BadTrace(f"{path.name} has no operation of PyTorch's (other events: {others}): did any run meanwhile?")
    known.sort(key=lambda event: (event["ts"], -event["dur"]))
    names, begin, spans = _thread_names(known), known[0]["ts"], []
    for event in known:
        start = (event["ts"] - begin) / 1e6
        lane = _stream(event) if event["cat"] in KERNELS else names[event["pid"], event["tid"]]
        number = _arguments(event).get("correlation")
        correlation = number if isinstance(number, int) else None
        spans.append(Span(event["name"], event["cat"], lane, start, start + event["dur"] / 1e6, correlation))
    return spans, dict(left_out)


def _events(path: Path) -> list:
    try:
        content = read_file(path)
        if content[:2] == b"\x1f\x8b":
            most = MOST_TIMES * len(content) + MOST_TIMES_FROM
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(most + 1)
            if len(content) > most:
                raise BadTrace(f"{path.name} is compressed, and more than {MOST_TIMES} times as long: no trace is")
        check_lists(content)
        whole = json.loads(content)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise BadTrace(f"{path.name} is compressed, and damaged or not all there: record it again") from None
    except OSError as error:
        raise BadTrace(f"{path.name} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        where = f"at character {error.pos:,} of {len(error.doc):,}"
        raise BadTrace(f"{path.name} is no JSON {where} ({error.msg}): it is damaged or not all there") from None
    except (ValueError, RecursionError):
        raise BadTrace(f"{path.name} is no text in JSON: torch.profiler's export_chrome_trace writes that") from None
    events = whole.get("traceEvents") if isinstance(whole, dict) else None
    if not isinstance(events, list):
        raise BadTrace(f"{path.name} has no list of traceEvents: torch.profiler's export_chrome_trace writes one")
    return events


def _checked(events: list, name: str) -> Iterator[dict]:
    """The events, each with all that is asked of its phase."""
    for i, event in enumerate(events):
        phase = event.get("ph") if isinstance(event, dict) else None
        if not isinstance(phase, str) or phase not in PHASES:
            what = f"event {i} is of phase {phase!r:.20}"
            raise BadTrace(f"{name}: {what}; in the traces of torch.profiler all that lasts is of phase X")
        if phase == "X":
            event.setdefault("cat", "none")
            texts = all(isinstance(event.get(key), str) for key in ("name", "cat"))
            lanes = all(isinstance(event.get(key), int | str) for key in ("pid", "tid"))
            if not (texts and lanes and _is_time(event.get("ts")) and _is_time(event.get("dur"))):
                what = f"event {i} lacks a name, a thread, a start or a duration that can be"
                raise BadTrace(f"{name}: {what}: {event!r:.80}")
        yield event


def _is_time(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < LONGEST_US  # neither nan nor endless


def _arguments(event: dict) -> dict:
    return event["args"] if isinstance(event.get("args"), dict) else {}


def _stream(event: dict) -> str:
    arguments = _arguments(event)
    return f"GPU {arguments.get('device', event['pid'])}, stream {arguments.get('stream', event['tid'])}"


def _thread_names(events: list[dict]) -> dict[tuple, str]:
    """Names that are the same in each run: the system's own numbers are not."""
    counts = Counter((event["pid"], event["tid"]) for event in events if event["cat"] not in KERNELS)
    if not counts:
        return {}
    main = next((thread for thread in counts if thread[0] == thread[1]), max(counts, key=counts.get))
    others = [thread for thread in counts if thread != main]
    return {main: "main thread"} | {thread: f"thread {i}" for i, thread in enumerate(others, 2)}
