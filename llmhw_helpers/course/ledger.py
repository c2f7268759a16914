"""The ledger: what was predicted, written down *before* it was measured, beside what came out."""

import time
from typing import SupportsFloat

from ..measure.machine import home, this_machine
from ..measure.records import Record
from ..measure.timers import measured

FIGURES = ("guess", "measured", "predicted_at", "measured_at")  # that may be missing, or None


class Ledger:
    """One notebook's predictions and measurements, kept per user and machine over all notebooks.

    Predicting again starts that entry afresh, so running a notebook twice is as good as running it once.

    >>> ledger = Ledger("a_notebook")
    >>> ledger.predict("one row", 2e-3, bound="memory", guess=1e-3)
    >>> ledger.measure("one row", 2.5e-3)
    >>> print(ledger)  # doctest: +NORMALIZE_WHITESPACE
                        your guess     predicted      measured   ratio     bound
    one row                  ~1 ms         ~2 ms       ~2.5 ms   ~1.25   ~memory
    """

    def __init__(self, notebook: str):
        self.notebook = notebook
        self._record = Record(home() / this_machine().key / "ledger.json", _is_ledger)

    def predict(
        self, name: str, value: SupportsFloat, unit: str = "s", bound: str = "", guess: SupportsFloat | None = None
    ) -> None:
        """Write a prediction down.

        Args:
            name: of the thing predicted; the measurement uses it again.
            value: predicted from a model, in `unit`.
            bound: what limits it, such as ``"memory"``.
            guess: the learner's own, from before any model.
        """
        guess = None if guess is None else float(guess)
        entry = {"predicted": float(value), "unit": unit, "bound": bound, "guess": guess, "predicted_at": time.time()}
        self._record.update(lambda record: record.setdefault(self.notebook, {}).update({name: entry}))

    def measure(self, name: str, value: SupportsFloat | None) -> None:
        """Write the measurement beside its prediction; None where this machine has none to give.

        Raises:
            ValueError: nothing was predicted under that name: a prediction afterwards is none.
        """
        entry = self.entries().get(name)
        if entry is None:
            raise ValueError(f"predict {name!r} before you measure it: ledger.predict({name!r}, ...)")
        result = {"measured": None if value is None else float(value), "measured_at": time.time()}
        # What was predicted is written again where the file has lost it meanwhile.
        self._record.update(lambda record: record.setdefault(self.notebook, {}).setdefault(name, entry).update(result))

    def entries(self) -> dict[str, dict]:
        """This notebook's entries by name."""
        return self._record.read().get(self.notebook, {})

    def notebooks(self) -> dict[str, dict[str, dict]]:
        """All notebooks' entries, by notebook and name."""
        return self._record.read()

    def everything(self) -> str:
        """The ledger of all notebooks run so far on this machine."""
        return "\n\n".join(f"{notebook}\n{_table(rows)}" for notebook, rows in sorted(self._record.read().items()))

    def __str__(self) -> str:
        return _table(self.entries())


def _is_ledger(record: dict) -> bool:
    """Entries by notebook and name, each with a prediction, of figures and words that can be shown."""
    notebooks = record.values()
    return all(isinstance(entries, dict) and all(map(_is_entry, entries.values())) for entries in notebooks)


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not {"predicted", "unit", "bound"} <= set(entry):
        return False
    figures = (entry["predicted"], *(entry[key] for key in FIGURES if entry.get(key) is not None))
    words = isinstance(entry["unit"], str) and isinstance(entry["bound"], str)
    return words and all(type(figure) is float or (type(figure) is int and abs(figure) < 2**63) for figure in figures)


def _table(entries: dict[str, dict]) -> str:
    width = max([20, *map(len, entries)])
    lines = [f"{'':{width}}{'your guess':>14}{'predicted':>14}{'measured':>14}{'ratio':>8}{'bound':>10}"]
    for name, entry in entries.items():
        found = entry.get("measured")
        cells = [_cell(entry.get("guess"), entry["unit"]), _cell(entry["predicted"], entry["unit"])]
        cells.append(_missing(entry, "not told") if found is None else measured(found, entry["unit"]))
        known = found is not None and entry["predicted"]
        ratio = measured(found / entry["predicted"]) if known else _missing(entry, "no")
        bound = measured(entry["bound"]) if entry["bound"] else "-"
        lines.append(f"{name:{width}}" + "".join(f"{cell:>14}" for cell in cells) + f"{ratio:>8}{bound:>10}")
    return "\n".join(lines)


def _missing(entry: dict, word: str) -> str:
    """Not measured yet, or measured and there was nothing to find."""
    return measured(word) if "measured_at" in entry else "-"


def _cell(value: float | None, unit: str) -> str:
    return "-" if value is None else measured(value, unit)
