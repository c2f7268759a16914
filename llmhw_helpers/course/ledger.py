"""The ledger: what was predicted, written down *before* it was measured, beside what came out."""

import time
from contextlib import suppress
from typing import SupportsFloat

from ..measure.machine import home, this_machine
from ..measure.records import Record
from ..measure.timers import measured
from ..specs.figures import UnknownName, look_up
from .tables import AS_PREDICTED, LESS, MISSING, MORE, ResultTable

COLUMNS = ("your guess", "predicted", "measured", "ratio", "bound")
NEAR = 1.1  # a factor: a prediction that is right
VERDICTS = f"{AS_PREDICTED} within a tenth of the prediction, {MORE} more, {LESS} less"
FIGURES = ("guess", "measured", "predicted_at", "measured_at")  # that may be missing, or None


class Ledger:
    """One notebook's predictions and measurements, kept per user and machine over all notebooks.

    Predicting again starts that entry afresh, so running a notebook twice is as good as running it once. A notebook
    shows a ledger as a table, and `print` as text.

    >>> ledger = Ledger("a_notebook")
    >>> ledger.guess("one row", 1e-3)
    >>> ledger.predict("one row", 2e-3, bound="memory")
    >>> ledger.measure("one row", 2.5e-3)
    >>> print(ledger)  # doctest: +NORMALIZE_WHITESPACE
                 your guess   predicted    measured      ratio      bound
    one row           ~1 ms       ~2 ms     ~2.5 ms    ~1.25 ↑    ~memory
    Ledger of a_notebook: ✓ within a tenth of the prediction, ↑ more, ↓ less
    """

    def __init__(self, notebook: str):
        self.notebook = notebook
        self._guesses: dict[str, float] = {}
        self._record = Record(home() / this_machine().key / "ledger.json", _is_ledger)

    def guess(self, name: str, value: SupportsFloat | None) -> None:
        """The learner's own figure, from before any model, in the unit of the prediction; None guesses nothing.

        The prediction of that name takes it, whatever the case and punctuation of the name. A guess that no prediction
        has taken is told below the table, with the nearest name.
        """
        self._guesses.pop(name, None)
        if value is not None:
            self._guesses[name] = float(value)

    def predict(
        self, name: str, value: SupportsFloat, unit: str = "s", bound: str = "", guess: SupportsFloat | None = None
    ) -> None:
        """Write a prediction down.

        Args:
            name: of the thing predicted; the measurement uses it again.
            value: predicted from a model, in `unit`.
            bound: what limits it, such as ``"memory"``.
            guess: the learner's own, from before any model; without it what `guess` wrote down under that name.
        """
        if guess is None:
            with suppress(UnknownName):
                guess = look_up(name, self._guesses, "guess")
        guess = None if guess is None else float(guess)
        entry = {"predicted": float(value), "unit": unit, "bound": bound, "guess": guess, "predicted_at": time.time()}
        self._record.update(lambda record: record.setdefault(self.notebook, {}).update({name: entry}))

    def measure(self, name: str, value: SupportsFloat | None) -> None:
        """Write the measurement beside its prediction; None where this machine has none to give.

        Another case or punctuation of the name will do, and is said in a line.

        Raises:
            ValueError: nothing was predicted under that name: a prediction afterwards is none.
        """
        entries = self.entries()
        try:
            key, entry = look_up(name, {key: (key, entry) for key, entry in entries.items()}, "prediction")
        except UnknownName as error:
            near = f" ({error})" if entries else ""
            raise ValueError(f"predict {name!r} before you measure it: ledger.predict({name!r}, ...){near}") from None
        if key != name:
            print(f"{name!r} is taken for {key!r}")
        result = {"measured": None if value is None else float(value), "measured_at": time.time()}
        # What was predicted is written again where the file has lost it meanwhile.
        self._record.update(lambda record: record.setdefault(self.notebook, {}).setdefault(key, entry).update(result))

    def entries(self) -> dict[str, dict]:
        """This notebook's entries by name."""
        return self._record.read().get(self.notebook, {})

    def notebooks(self) -> dict[str, dict[str, dict]]:
        """All notebooks' entries, by notebook and name."""
        return self._record.read()

    def everything(self) -> str:
        """The ledger of all notebooks run so far on this machine, as text."""
        return "\n\n".join(str(_table(notebook, rows)) for notebook, rows in sorted(self._record.read().items()))

    def table(self) -> ResultTable:
        """What was guessed, predicted and measured, a row for each prediction."""
        entries, more = self.entries(), ""
        for name in self._guesses:
            try:
                look_up(name, entries, "prediction")
            except UnknownName as error:
                more += f"; your guess has no row: {error}"
        return _table(self.notebook, entries, more)

    def __str__(self) -> str:
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _is_ledger(record: dict) -> bool:
    """Entries by notebook and name, each with a prediction, of figures and words that can be shown."""
    notebooks = record.values()
    return all(isinstance(entries, dict) and all(map(_is_entry, entries.values())) for entries in notebooks)


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not {"predicted", "unit", "bound"} <= set(entry):
        return False
    figures = (entry["predicted"], *(entry[key] for key in FIGURES if entry.get(key) is not None))
    words = isinstance(entry["unit"], str) and isinstance(entry["bound"], str)
    return words and all(type(figure) in (int, float) for figure in figures)


def _table(notebook: str, entries: dict[str, dict], more: str = "") -> ResultTable:
    rows = {name: _cells(entry) for name, entry in entries.items()}
    verdicts = f": {VERDICTS}" if any("measured_at" in entry for entry in entries.values()) else ""
    return ResultTable(COLUMNS, rows, f"Ledger of {notebook}{verdicts}{more}")


def _cells(entry: dict) -> list[str]:
    found, predicted, unit = entry.get("measured"), entry["predicted"], entry["unit"]
    said = _missing(entry, "not told") if found is None else measured(found, unit)
    ratio = _ratio(found / predicted) if found is not None and predicted else _missing(entry, "no")
    bound = measured(entry["bound"]) if entry["bound"] else MISSING
    return [_figure(entry.get("guess"), unit), _figure(predicted, unit), said, ratio, bound]


def _ratio(ratio: float) -> str:
    """With its verdict: within a tenth, more than predicted or less."""
    verdict = AS_PREDICTED if 1 / NEAR <= ratio <= NEAR else MORE if ratio > 1 else LESS
    return f"{measured(ratio)} {verdict}"


def _missing(entry: dict, word: str) -> str:
    """Not measured yet, or measured and there was nothing to find."""
    return measured(word) if "measured_at" in entry else MISSING


def _figure(value: float | None, unit: str) -> str:
    return MISSING if value is None else measured(value, unit)
