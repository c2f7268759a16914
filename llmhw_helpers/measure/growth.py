"""Counters that only grow, made of counters that wrap, start again, come and go."""

from collections.abc import Hashable, Mapping


class Growth:
    """Adds up how much counters grew since each was first seen; what it returns never falls.

    A counter that fell has started again: what it counted in between is not known, and it counts on from its new value.

    >>> growth = Growth()
    >>> [growth.add("read", value) for value in (100, 130, 5, 15)]
    [0.0, 30.0, 30.0, 40.0]
    """

    def __init__(self):
        self._last: dict[Hashable, float] = {}
        self._grown: dict[Hashable, float] = {}

    def add(self, key: Hashable, value: float, possible: float = float("inf"), wraps_at: float | None = None) -> float:
        """How much the counter `key`, which now shows `value`, has grown.

        Args:
            possible: the most that it can have grown since the last call. More is kept for the calls that follow, or,
                of a counter that wraps, taken for a new start.
            wraps_at: the value after which it shows 0 again.
        """
        last = self._last.get(key, value)
        grew = value - last
        if grew < 0 and wraps_at is not None:
            grew += wraps_at
            grew = grew if grew <= possible else 0.0
        grew = min(max(grew, 0.0), possible)
        # Where it grew by more than is possible, the rest comes later.
        self._last[key] = value if value < last else last + grew
        self._grown[key] = self._grown.get(key, 0.0) + grew
        return self._grown[key]

    def add_all(self, values: Mapping[Hashable, float]) -> float:
        """How much all counters of `values` have grown together, those included that are gone."""
        for key, value in values.items():
            self.add(key, value)
        return sum(self._grown.values())
