"""Your machine's report: all that the course predicted and measured, and where the model of the machine holds.

A prediction comes from two numbers of the machine, its roofs, and from counting. What was measured says how far that
goes. Every sentence here is worked out from the figures; where there are too few of them, it says so.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..measure.calibration import load_calibration
from ..measure.machine import this_machine
from ..specs.figures import si
from .ledger import NEAR, Ledger

NOTEBOOKS = (
    "00_your_machine",
    "01_autodiff",
    "02_training",
    "03_attention",
    "04_transformer",
    "05_pretraining",
    "06_lora",
    "07_prefill_decode",
    "08_paged_attention",
    "09_flash_attention",
    "10_number_formats",
    "11_quantization",
    "12_roofline",
    "13_memory_planning",
    "14_parallelism",
    "15_network_storage",
    "16_monitoring",
    "17_capstone",
    "18_at_the_roof",
)
GOOD = 1.25  # a factor: a kind of predictions that are right on the whole
FEWEST = 3  # figures that make a kind of them
SENTENCES = 3
SHORT_S = 1e-3
BOUNDS = {"compute": "the multiplier", "memory": "memory", "network": "the network", "disk": "the disk"}


@dataclass(frozen=True)
class Compared:
    """One prediction, and what came out.

    Attributes:
        predicted, measured, guess: in `unit`; None where nobody measured, or guessed.
        bound: what the prediction said is the limit; empty where it said nothing.
    """

    notebook: str
    name: str
    unit: str
    predicted: float
    measured: float | None = None
    guess: float | None = None
    bound: str = ""

    @property
    def ratio(self) -> float | None:
        """Measured over predicted; None where one of them is missing or zero."""
        return self.measured / self.predicted if self.measured and self.predicted else None

    @property
    def factor(self) -> float | None:
        """How far off, in either direction: 1 is right, and 2 is twice or half of what was predicted."""
        ratio = self.ratio
        return max(ratio, 1 / ratio) if ratio and ratio > 0 else None

    @property
    def is_near(self) -> bool:
        """Whether it came within a tenth."""
        return self.factor is not None and self.factor <= NEAR

    @property
    def kind(self) -> str:
        """What sort of prediction it is, in words."""
        if self.unit == "B":
            return "numbers of bytes"
        if self.unit == "s":
            return f"times bound by {BOUNDS[self.bound]}" if self.bound in BOUNDS else "times without a named limit"
        return "numbers without a unit" if not self.unit else f"figures in {self.unit}"

    def __str__(self) -> str:
        found, predicted = (f"{value:.3g}" if not self.unit else si(value, self.unit) for value in self._both())
        return f"{self.name} (notebook {self.notebook[:2]}): {found} measured, {predicted} predicted"

    def _both(self) -> tuple[float, float]:
        return (math.nan if self.measured is None else self.measured), self.predicted


@dataclass(frozen=True)
class MachineReport:
    """All predictions and measurements of a machine.

    Attributes:
        machine: in words.
        entries: in the order of the course.
        roofs: what the predictions rest on, as pairs of name and figure in words; empty where it was not kept.
    """

    machine: str
    entries: tuple[Compared, ...]
    roofs: tuple[tuple[str, str], ...] = ()

    def by_notebook(self) -> dict[str, list[Compared]]:
        """Entries by notebook, for all notebooks of the course and whatever else was kept; the list may be empty."""
        found: dict[str, list[Compared]] = {name: [] for name in NOTEBOOKS}
        for each in self.entries:
            found.setdefault(each.notebook, []).append(each)
        return found

    def missing(self) -> list[str]:
        """Notebooks of the course of which there are no figures."""
        return [name for name in NOTEBOOKS if not self.by_notebook()[name]]

    def known(self) -> list[Compared]:
        """Entries that were measured, and are not off by nothing."""
        return [each for each in self.entries if each.factor is not None]

    def summary(self) -> str:
        """How many predictions there are, and how near they came."""
        factors = [each.factor for each in self.known()]
        n = len(self.entries)
        counts = [sum(factor <= most for factor in factors) for most in (NEAR, 2)]
        within = f"{counts[0]} within {NEAR - 1:.0%} of their prediction, {counts[1]} within a factor of two"
        return f"{n} predictions, {len(factors)} of them measured: {within}."

    def holds(self) -> list[str]:
        """Where the model of the machine holds: three sentences, each from the figures."""
        kinds = [kind for kind in _kinds(self.known()) if _off(kind.middle) <= GOOD]
        said = [kind.sentence() for kind in sorted(kinds, key=lambda kind: (_off(kind.middle), -len(kind.entries)))[:2]]
        times = sorted((each for each in self.known() if each.unit == "s"), key=lambda each: each.factor)
        if times and times[0].factor <= GOOD:
            said.append(f"The time that came nearest is {times[0]}.")
        near = sorted((each for each in self.known() if each.unit != "s"), key=lambda each: each.factor)
        said += [f"Near, too, is {each}." for each in near if each.factor <= GOOD]
        return _three(said, "came near")

    def fails(self) -> list[str]:
        """Where it does not hold: three sentences, each from the figures."""
        kinds = sorted(_kinds(self.known()), key=lambda kind: -_off(kind.middle))
        said = [kind.sentence() for kind in kinds if _off(kind.middle) > GOOD][:1]
        far = sorted(self.known(), key=lambda each: -each.factor)
        said += [
            f"Farthest off, by a factor of {each.factor:.3g}, is {each}." for each in far[:1] if each.factor > NEAR
        ]
        said += self._short() + self._faster()
        said += [
            f"Also far off, by a factor of {each.factor:.3g}, is {each}." for each in far[1:] if each.factor > NEAR
        ]
        return _three(said, "was far off")

    def _short(self) -> list[str]:
        """What starts and waits cost, which is not in a floor: short times against long ones."""
        times = [each for each in self.known() if each.unit == "s"]
        short = [each.ratio for each in times if each.predicted < SHORT_S]
        longer = [each.ratio for each in times if each.predicted >= SHORT_S]
        if min(len(short), len(longer)) < FEWEST or statistics.median(short) < NEAR * statistics.median(longer):
            return []
        middles = statistics.median(short), statistics.median(longer)
        return [
            f"Short work is farther off than long: the middle of {len(short)} times below {si(SHORT_S, 's')} was "
            f"{middles[0]:.3g} times its prediction, the middle of {len(longer)} longer ones {middles[1]:.3g} times. "
            "To start something takes time, and no roof knows of it."
        ]

    def _faster(self) -> list[str]:
        """Measurements below their floor."""
        faster = [each for each in self.known() if each.unit == "s" and each.ratio < 1 / NEAR]
        if not faster:
            return []
        first = min(faster, key=lambda each: each.ratio)
        return [f"{len(faster)} times were shorter than predicted by more than a tenth; the first of them is {first}."]


@dataclass(frozen=True)
class _Kind:
    name: str
    entries: Sequence[Compared]

    @property
    def middle(self) -> float:
        return statistics.median(each.ratio for each in self.entries)

    def sentence(self) -> str:
        near = sum(each.is_near for each in self.entries)
        return (
            f"Of {len(self.entries)} {self.name}, the one in the middle was {self.middle:.3g} times its prediction; "
            f"{near or 'none'} of them came within {NEAR - 1:.0%}."
        )


def _kinds(known: Iterable[Compared]) -> list[_Kind]:
    by_kind: dict[str, list[Compared]] = {}
    for each in known:
        by_kind.setdefault(each.kind, []).append(each)
    return [_Kind(name, entries) for name, entries in by_kind.items() if len(entries) >= FEWEST]


def _off(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def _three(said: list[str], what: str) -> list[str]:
    """No more than three, and in place of what is missing the reason."""
    return said[:SENTENCES] if len(said) >= SENTENCES else [*said, f"Nothing else that was measured {what}."]


def compared(ledgers: Mapping[str, Mapping[str, Mapping]]) -> tuple[Compared, ...]:
    """A ledger's entries, in the order of the course; what belongs to no notebook of it comes last."""
    order = {name: i for i, name in enumerate(NOTEBOOKS)}
    rows = []
    for notebook in sorted(ledgers, key=lambda name: (order.get(name, len(order)), name)):
        for name, entry in ledgers[notebook].items():
            figures = entry["predicted"], entry.get("measured"), entry.get("guess")
            rows.append(Compared(notebook, name, entry["unit"], *figures, entry["bound"]))
    return tuple(rows)


def machine_report() -> MachineReport:
    """The report of this machine, from its ledger as it is now."""
    machine = this_machine()
    kept = load_calibration()
    roofs = [] if kept is None else [(f"product, {name}", si(r.best, r.unit)) for name, r in kept.products.items()]
    if kept is not None:
        roofs.append(("memory, read", si(kept.read.best, "B/s")))
        roofs += [("disk, read", si(kept.disk.best, "B/s"))] if kept.disk else []
    return MachineReport(str(machine), compared(Ledger("").notebooks()), tuple(roofs))
