"""A figure: a number that says what it means and where it comes from; and the look-up of named things.

Nothing in `specs` is a bare number. A figure that nobody has published is still a `Figure`, with the value
``None``: whoever computes with it asks for `Figure.known` and is told what is missing, instead of getting a guess.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from .settings import OneLine

T = TypeVar("T")
MOST_NAMES, MOST_LETTERS = 20, 60  # that a message of one line has room for
MOST_COMPARED = 200  # letters of names that are held against each other, which takes as long as their product


class UnknownName(OneLine, LookupError):
    """A name that is in no table; the message lists the nearest ones."""


class UnknownFigure(ValueError):
    """A computation needs a figure that no source gives."""


@dataclass(frozen=True)
class Figure:
    """A number with its unit, its meaning (dense or sparse? nominal or visible? one direction or both?) and source.

    >>> Figure(320e9, "B/s", "peak, reads and writes together", "NVIDIA T4 datasheet").known()
    320000000000.0
    >>> Figure(None, "B/s", "throughput of the file system", "no public source").known()
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.figures.UnknownFigure: unknown: throughput of the file system (no public source)
    """

    value: float | None
    unit: str
    meaning: str
    source: str

    def known(self) -> float:
        """The value, or `UnknownFigure` where there is none."""
        if self.value is None:
            raise UnknownFigure(f"unknown: {self.meaning} ({self.source})")
        return self.value


def look_up(name: str, table: Mapping[str, T], kind: str, also: Mapping[str, str] = MappingProxyType({})) -> T:
    """The entry of `table` called `name`, whatever its case and punctuation; `also` gives other names of entries.

    Raises:
        UnknownName: there is none, or several fit; the message names the nearest.

    >>> look_up("a40", {"A40": 1, "A100-40GB": 2}, "accelerator")
    1
    >>> look_up("A10", {"A40": 1, "A100-40GB": 2}, "accelerator")
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.figures.UnknownName: unknown accelerator 'A10'; did you mean A100-40GB or A40?
    """
    if name in table:  # as written: no need to go through them all
        return table[name]
    plain = {_plain(key): key for key in table}
    plain_also = {_plain(other): key for other, key in also.items()}
    name = plain_also.get(_plain(name), name)
    asked = _plain(name)
    fits = [key for key in table if _plain(key) == asked]
    if len(fits) == 1:
        return table[fits[0]]
    close = [key for key in table if asked and _plain(key).startswith(asked)]
    if len(name) <= MOST_COMPARED:
        near = difflib.get_close_matches(asked, [key for key in plain if len(key) <= MOST_COMPARED], 3, 0.4)
        close += [plain[match] for match in near]
    nearest = list(dict.fromkeys(close))[:4]
    some = ", ".join([*table][:MOST_NAMES]) + (
        f" and {len(table) - MOST_NAMES} more" if len(table) > MOST_NAMES else ""
    )
    hint = f"did you mean {_either(nearest)}?" if nearest else f"known are {some}"
    shown = name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}..."
    raise UnknownName(f"unknown {kind} {shown!r}; {hint}")


def si(value: float, unit: str) -> str:
    """`value` to three significant digits with a decimal prefix, as every page of the course prints it.

    >>> si(0.00123, "s"), si(312e12, "FLOP/s"), si(0, "B")
    ('1.23 ms', '312 TFLOP/s', '0 B')
    """
    for factor, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * factor:
            return f"{_three_digits(value / factor)} {prefix}{unit}"
    return f"{value:.3g} {unit}"


_PREFIXES = [
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
]


def _three_digits(value: float) -> str:
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _either(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
