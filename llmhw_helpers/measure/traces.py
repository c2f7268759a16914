"""Traces of ``torch.profiler``, read by a few lines: what took long, where nothing ran, who waited for whom.

A lane is a thread, or a stream of a GPU. In a thread operations nest: what one took itself is its time less that of
those that it called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .trace_files import KERNELS, OPERATIONS, RANGES, Span, read_spans

READS = ("aten::item", "aten::_local_scalar_dense", "cudaMemcpy", "hipMemcpy")  # from the device into Python's hands
LOADING = ("load", "enumerate(DataLoader)")  # the trainer's range, and the one that PyTorch's loader makes
CLOCK_S = 2e-9  # starts and durations are rounded to a nanosecond: neighbours may seem to overlap


class Interval(NamedTuple):
    """A piece of time, from `start_s` to `end_s`."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


class Tally(NamedTuple):
    """All spans of one name.

    Attributes:
        name: theirs.
        count: how many; a call that passes on to the same name is counted once, as PyTorch's table does.
        seconds: of those, from start to end, added up.
        own_seconds: without what they called.
    """

    name: str
    count: int
    seconds: float
    own_seconds: float


class Launch(NamedTuple):
    """A kernel, and the call that put it in the GPU's queue."""

    call: Span
    kernel: Span

    @property
    def delay_s(self) -> float:
        """From the start of the call to the start of the kernel: on its way, and in the queue."""
        return self.kernel.start_s - self.call.start_s


@dataclass(frozen=True)
class Trace:
    """A piece of a program's life.

    Attributes:
        spans: all that took time, in the order of their starts, the longer one first where two start together.
        threads: the lanes of the processor, the main thread first.
        streams: the lanes of the GPUs; none where none was used.
        begin_s, end_s: the piece, in seconds after the file's first span began.
        left_out: how many events of other categories the file has, by category: Python's functions, the profiler's own.
    """

    spans: tuple[Span, ...]
    threads: tuple[str, ...]
    streams: tuple[str, ...]
    begin_s: float
    end_s: float
    left_out: dict[str, int]

    @classmethod
    def read(cls, path: str | Path) -> "Trace":
        """A file that ``torch.profiler`` wrote (``export_chrome_trace``, or `recorded`), compressed or not.

        Raises:
            BadTrace: not one, or a damaged one: the message says in one line what is wrong.
        """
        spans, left_out = read_spans(path)
        streams = {span.lane for span in spans if span.kind in KERNELS}
        threads = {span.lane for span in spans} - streams
        in_order = lambda lane: (lane != "main thread", len(lane), lane)  # noqa: E731
        lanes = (tuple(sorted(each, key=in_order)) for each in (threads, streams))
        return cls(tuple(spans), *lanes, 0.0, max(span.end_s for span in spans), left_out)

    @property
    def seconds(self) -> float:
        """How long the piece is."""
        return self.end_s - self.begin_s

    def ranges(self, name: str) -> list[Span]:
        """What the program called so, in order: every ``"step"``, say."""
        return [span for span in self.spans if span.kind in RANGES and span.name == name]

    def within(self, piece: Span | Interval) -> "Trace":
        """What was going on in all lanes during a piece of the time; what reaches over its edges is cut there."""
        begin, end = piece.start_s, piece.end_s
        inside = (span for span in self.spans if span.end_s > begin and span.start_s < end)
        cut = (s._replace(start_s=max(s.start_s, begin), end_s=min(s.end_s, end)) for s in inside)
        return Trace(tuple(cut), self.threads, self.streams, begin, end, self.left_out)

    def longest(
        self, n: int | None = 10, lanes: Sequence[str] = (), kinds: Iterable[str] = OPERATIONS | KERNELS
    ) -> list[Tally]:
        """The `n` names (None: all) whose spans took most time themselves, in the lanes (none given: in all).

        Raises:
            ValueError: a lane that the trace has not.
        """
        kinds, sums = frozenset(kinds), {}
        for lane in self._known(lanes) or self.threads + self.streams:
            spans = [span for span in self.spans if span.lane == lane]
            for span, own, i in zip(spans, own_seconds(spans), parents(spans), strict=True):
                if span.kind in kinds:
                    count, seconds, own_sum = sums.get(span.name, (0, 0.0, 0.0))
                    first = i is None or spans[i].name != span.name
                    sums[span.name] = count + first, seconds + first * span.seconds, own_sum + own
        tallies = [Tally(name, *each) for name, each in sums.items()]
        return sorted(tallies, key=lambda tally: -tally.own_seconds)[:n]

    def busy(self, *lanes: str) -> list[Interval]:
        """When at least one of the lanes was at work; a range is a name, no work.

        Raises:
            ValueError: a lane that the trace has not.
        """
        self._known(lanes)
        return merged(span for span in self.spans if span.lane in lanes and span.kind not in RANGES)

    def gaps(self, *lanes: str, at_least_s: float = 0.0) -> list[Interval]:
        """When none of the lanes was at work, in order; the piece's own edges are edges of gaps, too.

        With all `streams` of a GPU together: when it had nothing to do. In a thread of the processor: when Python
        was busy between two operations, or waited.

        Raises:
            ValueError: a lane that the trace has not.
        """
        edges = [self.begin_s, *(edge for times in self.busy(*lanes) for edge in times), self.end_s]
        gaps = [Interval(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]
        return [gap for gap in gaps if gap.seconds >= at_least_s]

    def stack(self, lane: str, at_s: float) -> list[str]:
        """What a lane was doing at a moment: the names of all that had begun and not ended, the outermost first."""
        (lane,) = self._known([lane])
        return [span.name for span in self.spans if span.lane == lane and span.start_s <= at_s < span.end_s]

    def ranges_around(self, span: Span) -> list[str]:
        """In which of the program's named ranges a span began, the outermost first."""
        around = (s for s in self.spans if s.lane == span.lane and s.kind in RANGES)
        return [s.name for s in around if s.start_s <= span.start_s < s.end_s]

    def loading(self) -> list[Span]:
        """When the program waited for its next batch: ranges named ``load``, or those of PyTorch's own loader."""
        return [span for span in self.spans if span.kind in RANGES and span.name.split("#")[0] in LOADING]

    def synchronisations(self) -> list[Span]:
        """When a thread read a number off the device (``.item()``) or waited for the GPU; calls within are not counted.

        Where no GPU is, nothing is queued, and such a read costs next to nothing: count them.
        """
        waits = [s for s in self.spans if s.kind in OPERATIONS and (s.name in READS or s.name.endswith("Synchronize"))]
        outermost, end = [], dict.fromkeys(self.threads, -1.0)
        for span in waits:
            if span.start_s >= end[span.lane] - CLOCK_S:
                outermost.append(span)
                end[span.lane] = span.end_s
        return outermost

    def launches(self) -> list[Launch]:
        """Each kernel, or copy on the GPU, with the call that launched it, in the order of the kernels' starts.

        Those whose call is not in the piece are left out.
        """
        calls = {s.correlation: s for s in self.spans if s.kind in OPERATIONS and s.correlation is not None}
        kernels = (span for span in self.spans if span.kind in KERNELS and span.correlation in calls)
        return [Launch(calls[kernel.correlation], kernel) for kernel in kernels]

    def _known(self, lanes: Sequence[str]) -> Sequence[str]:
        if strange := [lane for lane in lanes if lane not in self.threads + self.streams]:
            raise ValueError(f"the trace has no lane {strange[0]!r}: it has {', '.join(self.threads + self.streams)}")
        return lanes


def parents(spans: Sequence[Span]) -> list[int | None]:
    """For each span of one lane the number of the nearest one around it, begun and not ended; None: there is none.

    The spans are in the order of their starts, the longer one first where two start together.
    """
    around, open_ones = [], []
    for i, span in enumerate(spans):
        while open_ones and spans[open_ones[-1]].end_s <= span.start_s + CLOCK_S:
            open_ones.pop()
        around.append(open_ones[-1] if open_ones else None)
        open_ones.append(i)
    return around


def own_seconds(spans: Sequence[Span]) -> list[float]:
    """What each span of one lane took itself: its time less that of those just within it. In the order of `parents`."""
    own = [span.seconds for span in spans]
    for span, i in zip(spans, parents(spans), strict=True):
        if i is not None:
            own[i] -= min(span.end_s, spans[i].end_s) - span.start_s
    return own


def merged(spans: Iterable[Span]) -> list[Interval]:
    """The times when at least one of the spans was going on, in order.

    >>> a, b, c = (Span("any", "cpu_op", "any", *times) for times in ((0.0, 2.0), (1.0, 3.0), (5.0, 6.0)))
    >>> [tuple(times) for times in merged([a, b, c])]
    [(0.0, 3.0), (5.0, 6.0)]
    """
    times: list[Interval] = []
    for start, end in sorted((span.start_s, span.end_s) for span in spans):
        if times and start <= times[-1].end_s:
            times[-1] = Interval(times[-1].start_s, max(end, times[-1].end_s))
        else:
            times.append(Interval(start, end))
    return times


def seconds_of(pieces: Iterable[Span | Interval]) -> float:
    """Seconds of spans or intervals, added up.

    >>> seconds_of([Interval(0.0, 3.0), Interval(5.0, 6.5)])
    4.5
    """
    return sum(piece.seconds for piece in pieces)
