"""What ranks send to each other, and how long it takes: a latency for each message, a bandwidth for each byte.

The model is the oldest of its field (alpha and beta; R. Hockney, Parallel Computing 20, 1994): a message of S bytes
takes ``alpha + beta S`` seconds. An operation of many ranks, a collective, is a row of messages one after the other;
R. Thakur, R. Rabenseifner and W. Gropp (Int. J. High Performance Computing Applications 19, 2005) count them. In a ring
each rank sends a piece to its neighbour, n - 1 times: the fewest bytes, many messages. In a tree pairs send all they
have, and half of the ranks are done after each turn: few messages, more bytes. So small messages want a tree and large
ones a ring. A switch that adds up by itself (NVLink SHARP): each rank asks it for the sum of a piece, to which
all send theirs, and sends the sum to all through it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..specs.figures import look_up
from ..specs.links import Link

NAMES = {name: name for name in ("send", "broadcast", "all-gather", "reduce-scatter", "all-to-all", "all-reduce")}
WAYS = {way: way for way in ("ring", "tree", "switch")}
MOST_BUCKETS = 1_000_000  # that are gone through one after the other


@dataclass(frozen=True)
class Wire:
    """What a rank sends over: `latency_s` for every message, and besides ``1 / bytes_per_s`` for every byte.

    >>> Wire(1e-3, 1e6).seconds(4000)
    0.005
    """

    latency_s: float
    bytes_per_s: float

    def __post_init__(self):
        if not (0 <= self.latency_s < math.inf and self.bytes_per_s > 0):
            raise ValueError(f"a wire takes no negative time, and sends something: {self}")

    @classmethod
    def of(cls, link: Link, share: float | None = None, latency_s: float | None = None, n_links: int = 1) -> "Wire":
        """The wire that a link of `specs.links` makes.

        Args:
            link: of one GPU, or one adapter.
            share: of its peak that long messages reach; the measured share where a source gives one.
            latency_s: of a message; as measured where a source gives it.
            n_links: adapters that work together.

        Raises:
            UnknownFigure: no source gives the share or the latency, and the caller does not, either.

        >>> from llmhw_helpers.specs.links import link
        >>> wire = Wire.of(link("NVLink 3"))
        >>> round(wire.bytes_per_s / 1e9), round(1e6 * wire.latency_s, 2)  # GB/s, µs
        (235, 2.45)
        """
        peak = link.bytes_per_s.known()
        reached = link.reached_bytes_per_s.known() if share is None else share * peak
        return cls(link.message_s.known() if latency_s is None else latency_s, n_links * reached)

    def seconds(self, n_bytes: float) -> float:
        """Of one message."""
        return seconds("send", n_bytes, 2, self)

    @property
    def even_bytes(self) -> float:
        """A message that takes as long for its latency as for its bytes.

        >>> Wire(1e-3, 1e6).even_bytes
        1000.0
        """
        return self.latency_s * self.bytes_per_s


def path(name: str, n_bytes: float, n_ranks: int, way: str = "ring") -> tuple[int, float]:
    """Messages that are sent one after the other, and the bytes in them, until the last rank is done.

    Args:
        name: one of `NAMES`.
        n_bytes: of the message (send, broadcast), of the array that each rank has (all-reduce, reduce-scatter,
            all-to-all) or gets (all-gather).
        n_ranks: that take part; a send is between two of them.
        way: ``"ring"`` (all-to-all: to one rank after the other), ``"tree"`` (broadcast and all-reduce alone: down, or
            up and down), ``"switch"`` (all-reduce alone). A broadcast goes round a ring in pieces so small that ranks
            pass the first on at once.

    Raises:
        UnknownName: no such operation, or way.
        ValueError: no bytes or ranks, or an operation that does not go this way.

    >>> path("all-reduce", 4e6, 4), path("all-reduce", 4e6, 4, "tree"), path("all-gather", 4e6, 4)
    ((6, 6000000.0), (4, 16000000.0), (3, 3000000.0))
    """
    name, way = look_up(name, NAMES, "collective"), look_up(way, WAYS, "way")
    if not (0 <= n_bytes < math.inf and 1 <= n_ranks < math.inf):
        raise ValueError(f"{name} of {n_bytes} bytes among {n_ranks} ranks")
    if n_ranks == 1:
        return 0, 0.0
    if name == "send":
        return 1, n_bytes
    around, turns, both = n_ranks - 1, math.ceil(math.log2(n_ranks)), 2 if name == "all-reduce" else 1
    if way == "ring":
        return both * around, n_bytes if name == "broadcast" else both * around / n_ranks * n_bytes
    if way == "tree" and name in ("broadcast", "all-reduce"):
        return both * turns, both * turns * n_bytes
    if way == "switch" and name == "all-reduce":  # all for the ranks that ask for a piece, and a piece for all
        return both, (1 + 1 / n_ranks) * n_bytes
    raise ValueError(f"no formula for {name} by {way}: a ring is the way of every collective")


def sent_bytes(name: str, n_bytes: float, n_ranks: int, way: str = "ring") -> float:
    """Bytes that the rank which sends most puts on its wire; arguments and errors as of `path`.

    In a tree that is a rank near the top, to whom as many ranks as there are turns listen; all ranks together send
    ``2 (n - 1)`` times the array in an all-reduce, by ring or tree.

    >>> sent_bytes("all-reduce", 8e6, 4), sent_bytes("all-reduce", 8e6, 4, "tree")
    (12000000.0, 16000000.0)
    """
    _, n = path(name, n_bytes, n_ranks, way)
    both = look_up(name, NAMES, "collective"), look_up(way, WAYS, "way")
    return n / 2 if both == ("all-reduce", "tree") else n


def seconds(name: str, n_bytes: float, n_ranks: int, wire: Wire, way: str = "ring") -> float:
    """How long a collective takes, by `path`: `way` may be ``"best"``, the shorter of ring and tree.

    >>> ethernet = Wire(50e-6, 3e9)
    >>> [round(1e3 * seconds("all-reduce", n, 8, ethernet, "best"), 2) for n in (1e3, 1e9)]  # milliseconds
    [0.3, 584.03]
    """
    if way == "best":
        name = look_up(name, NAMES, "collective")
        ways = ("ring", "tree") if name in ("all-reduce", "broadcast") else ("ring",)
        return min(seconds(name, n_bytes, n_ranks, wire, each) for each in ways)
    messages, n = path(name, n_bytes, n_ranks, way)
    return messages * wire.latency_s + n / wire.bytes_per_s


def crossing(n_ranks: int, wire: Wire) -> float:
    """Bytes from which on a ring is the faster all-reduce, below which a tree is; 0 where a ring always is.

    >>> round(crossing(64, Wire(10e-6, 10e9)))
    1136449
    """
    (few, more), (many, fewer) = (path("all-reduce", 1, n_ranks, way) for way in ("tree", "ring"))
    return max(0.0, (many - few) / (more - fewer) * wire.even_bytes) if more > fewer else 0.0


def bytes_for(share: float, name: str, n_ranks: int, wire: Wire, way: str = "ring") -> float:
    """The size from which on a collective spends at least `share` of its time on bytes: what a bucket should have.

    >>> round(bytes_for(0.9, "all-reduce", 4, Wire(50e-6, 1e9)))
    1800000
    """
    if not 0 <= share < 1:
        raise ValueError(f"a share from 0 to less than 1, not {share}")
    messages, each = path(name, 1, n_ranks, way)
    return messages * share / (1 - share) * wire.even_bytes / each if each else 0.0


def two_levels(name: str, n_bytes: float, n_per_node: int, n_nodes: int, inside: Wire, between: Wire) -> float:
    """Seconds of a collective that goes inside the nodes and between them, each byte as seldom over the network.

    An all-reduce adds up inside each node until every rank has its share, adds up the shares between the nodes, all
    ranks at once, and gathers them inside again. So a node sends what a single rank would. All-gather and
    reduce-scatter are halves of that; in all-to-all every rank of a node has bytes for every rank of the others.

    Args:
        name: any collective but a send.
        n_bytes, n_per_node, n_nodes: as `path`; ranks of a node; nodes.
        inside: a rank's wire to the others of its node.
        between: a node's wire to the others, all its adapters together.

    >>> board, network = Wire(2e-6, 200e9), Wire(5e-6, 20e9)
    >>> two_levels("all-reduce", 1e9, 4, 1, board, network) == seconds("all-reduce", 1e9, 4, board)
    True
    >>> round(two_levels("all-reduce", 1e9, 4, 4, board, network), 4), round(1.5e9 / 20e9, 4)
    (0.0825, 0.075)
    """
    name = look_up(name, NAMES, "collective")
    if name == "send":
        raise ValueError("a send has no levels: take the wire it goes over")
    if not n_nodes >= 1:
        raise ValueError(f"{name} among {n_nodes} nodes")
    if name == "all-to-all":  # of n_bytes the part that stays in the node, and what all its ranks send out
        local = seconds(name, n_bytes / n_nodes, n_per_node, inside)
        return local + seconds(name, n_per_node * n_bytes, n_nodes, between)
    local = seconds(name, n_bytes, n_per_node, inside)
    return local + seconds(name, n_bytes, n_nodes, between)


def overlapped(n_bytes: float, bucket_bytes: float, backward_s: float, wire: Wire, n_ranks: int) -> float:
    """Seconds of a backward pass whose gradients are all-reduced in buckets, each as soon as it is full.

    Gradients come evenly over `backward_s`; buckets wait for each other. The last can start when the pass is over, and
    the first as early as buckets are small; but each costs its latency. So there is a best size between the two.

    >>> ethernet = Wire(100e-6, 1e9)
    >>> [round(overlapped(100e6, size, 0.15, ethernet, 4), 3) for size in (0.1e6, 10e6, 100e6)]
    [0.75, 0.171, 0.301]
    """
    if not (n_bytes > 0 and n_bytes / MOST_BUCKETS <= bucket_bytes and 0 <= backward_s < math.inf):
        limit = f"a size above 0, at most {MOST_BUCKETS:,} buckets, and a time"
        raise ValueError(f"{n_bytes} bytes in buckets of {bucket_bytes}, over {backward_s} s: {limit}")
    n = math.ceil(n_bytes / bucket_bytes)
    ends = [min(n_bytes, i * bucket_bytes) for i in range(n + 1)]
    return sent_behind([end - start for start, end in pairwise(ends)], backward_s, wire, n_ranks)


def sent_behind(buckets: Sequence[float], backward_s: float, wire: Wire, n_ranks: int) -> float:
    """The same, for buckets of any sizes, in the order in which they are filled.

    >>> round(sent_behind([10e6, 90e6], 0.15, Wire(0.0, 1e9), 2), 3)
    0.24
    """
    through, filled, n_all = 0.0, 0.0, sum(buckets)
    for n_bytes in buckets:
        filled += n_bytes
        through = max(through, backward_s * filled / n_all) + seconds("all-reduce", n_bytes, n_ranks, wire)
    return through


def fit(points: Iterable[tuple[float, float]], name: str = "send", n_ranks: int = 2, way: str = "ring") -> Wire:
    """The wire that explains measured (bytes, seconds) best.

    Squares of the *relative* errors are made least: else a message of a gigabyte would decide, and of the latency
    nothing would be learned. Neither latency nor the time of a byte is less than nothing.

    Args:
        points: two sizes at least; sizes and times as of `path`, of the collective called `name`.

    Raises:
        ValueError: fewer than two sizes, or a time that is none.

    >>> wire = fit([(0, 0.001), (1e6, 0.002), (1e9, 1.001)])
    >>> round(wire.latency_s, 6), round(wire.bytes_per_s)
    (0.001, 1000000000)
    """
    rows = [(*path(name, n_bytes, n_ranks, way), s) for n_bytes, s in points]
    if len({n for _, n, _ in rows}) < 2:
        raise ValueError("two messages of different sizes are the least that says both latency and bandwidth")
    if any(not 0 < s < math.inf for _, _, s in rows):
        raise ValueError(f"times are above 0 seconds: {[s for *_, s in rows]}")
    a = [(messages / s, n / s) for messages, n, s in rows]  # 1 = latency * messages / s + beta * bytes / s
    mm, mn, nn = sum(m * m for m, _ in a), sum(m * n for m, n in a), sum(n * n for _, n in a)
    m1, n1 = sum(m for m, _ in a), sum(n for _, n in a)
    determinant = mm * nn - mn * mn
    latency, beta = (m1 * nn - n1 * mn) / determinant, (n1 * mm - m1 * mn) / determinant
    if latency < 0:
        latency, beta = 0.0, n1 / nn
    if beta <= 0:
        latency, beta = m1 / mm, 0.0
    return Wire(latency, 1 / beta if beta else math.inf)
