"""What the planner's formulas predict, held against what others measured: a table by group and quantity.

    python benchmarks/planner.py [CSV] [--json]

The CSV has the columns of `llmhw_helpers/specs/measured.csv`, which is taken without it. A range is right where the
measured figure lies in it; the error is that of the range's middle. What is not predicted is listed with the reason.
"""

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import network_rows
import serving_rows
import speed_rows
import training_rows

from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.measured import BadRow, Row, read_cells, row

LATER = {"E": "a fact about a cluster, which nothing predicts"}
ANSWERS = {1: "yes", 0: "no"}


@dataclass(frozen=True)
class Outcome:
    """A row and what came of it: a range, or none, and a note that says why."""

    id: str
    group: str
    quantity: str
    what: str | None
    low: float | None
    high: float | None
    measured: float | None
    note: str

    @property
    def predicted(self) -> bool:
        """Whether there is a range and a number to hold against it."""
        return None not in (self.low, self.high, self.measured)

    @property
    def answers(self) -> bool:
        """Whether the figure is a yes or a no."""
        return self.quantity.endswith("fits")

    @property
    def inside(self) -> bool:
        """Whether the measured figure lies in the range."""
        return self.low <= self.measured <= self.high

    @property
    def middle(self) -> float:
        """Of the range: as many times its lower end as the upper end is times the middle."""
        return math.sqrt(self.low * self.high) if self.low > 0 else (self.low + self.high) / 2

    @property
    def error(self) -> float:
        """How far the middle is off, as a share of the measured figure."""
        return abs(self.middle / self.measured - 1) if self.measured else math.inf

    @property
    def width(self) -> float:
        """The upper end over the lower one; infinite where that is nothing."""
        return self.high / self.low if self.low > 0 else math.inf


def outcomes(path: str | Path | None = None) -> list[Outcome]:
    """Every row of the file, in its order; raises as `read_cells` where the file as a whole is none."""
    found, rows = {}, []
    for number, cells in enumerate(read_cells(path), start=2):
        try:
            each = row(cells)
        except BadRow as error:
            said = [cells.get(name) or "?" for name in ("id", "group", "quantity", "model")]
            found[number] = Outcome(*said, None, None, None, f"not read: {error}")
        else:
            rows.append((number, each))
    for number, each in rows:
        low, high, measured, note = _predicted(each)
        what = ", ".join(filter(None, (each.model, each.dtype_quant, each.gpu, each.software)))
        found[number] = Outcome(each.id, each.group, each.quantity, what, low, high, measured, note)
    return [found[number] for number in sorted(found)]


def _predicted(each: Row) -> tuple[float | None, float | None, float | None, str]:
    """The range, what was measured, and a note; a row that no rule knows how to take is one line as well."""
    if each.group in LATER:
        return None, None, None, LATER[each.group]
    try:
        answers = _rows(each)([each])
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        return None, None, None, f"not predicted: {error}"
    if not answers:
        return None, None, None, f"not predicted: no rule for {each.quantity}"
    _, low, high, measured, note = answers[0]
    if each.quantity == "train_fits" and low is not None:
        low, high = _fits(each, low, high)
    return low, high, measured, note


def _rows(each: Row) -> Callable[[Iterable[Row]], list[tuple]]:
    if each.group == "A":
        return serving_rows.rows
    if each.group == "D":
        return network_rows.rows
    return training_rows.rows if each.quantity in training_rows.QUANTITIES else speed_rows.rows


def _fits(each: Row, least: float, most: float) -> tuple[int, int]:
    """Whether so many bytes fit, 1 or 0, from what is sure not to fit to what perhaps does."""
    card = accelerator(each.gpu or "")
    room = card.visible_bytes.value or card.memory_bytes.known()
    return int(most <= room), int(least <= room)


def table(found: Iterable[Outcome]) -> list[dict]:
    """A line for each group and quantity: how many rows, how many predicted, how far off, how many in the range."""
    groups = defaultdict(list)
    for each in found:
        groups[each.group, each.quantity].append(each)
    lines = []
    for (group, quantity), rows in sorted(groups.items()):
        known = [each for each in rows if each.predicted]
        line = {"group": group, "quantity": quantity, "rows": len(rows), "predicted": len(known)}
        if known:
            line["inside"] = sum(each.inside for each in known) / len(known)
        if known and not known[0].answers:
            line["within 10%"] = sum(each.error <= 0.1 for each in known) / len(known)
            line["median error"] = statistics.median(each.error for each in known)
            line["widest"] = max((each.width for each in known if each.low > 0), default=1.0)
            line["from nothing"] = sum(each.low <= 0 for each in known)  # ranges whose width is no number
        lines.append(line)
    return lines


def show(found: list[Outcome]) -> None:
    """Print the table, the worst three of each line, and what is not predicted."""
    lines = [line for line in table(found) if line["group"] not in LATER]
    print(
        f"{'':2}{'quantity':32}{'rows':>6}{'predicted':>11}{'inside':>8}"
        f"{'within 10%':>12}{'median error':>14}{'widest':>8}"
    )
    for line in lines:
        print(f"{line['group']:2}{line['quantity']:32}{line['rows']:6}{line['predicted']:11}", end="")
        print(f"{line['inside']:8.0%}" if "inside" in line else "", end="")
        if "widest" in line:
            print(f"{line['within 10%']:12.0%}{line['median error']:14.1%}{line['widest']:8.2f}", end="")
            print(f"  ({line['from nothing']} begin at 0)" if line["from nothing"] else "", end="")
        print()
    for line in lines:
        rows = [each for each in found if (each.group, each.quantity) == (line["group"], line["quantity"])]
        worst = sorted((each for each in rows if each.predicted and not each.inside), key=lambda each: -each.error)
        if worst:
            print(f"\n{line['group']} {line['quantity']}, farthest outside the range:")
        for each in worst[:3]:
            numbers = [each.measured, each.low, each.high]
            one, low, high = [ANSWERS[n] if each.answers else f"{n:.4g}" for n in numbers]
            print(f"  {each.id} {each.what}: {one}, not {low} to {high}; {_short(each.note)}")
    missing = defaultdict(list)
    for each in found:
        if not each.predicted:
            missing[_short(each.note.removeprefix("not predicted: "))].append(each.id)
    print("\nNot predicted:" if missing else "")
    for note, names in missing.items():
        print(f"  {_short(', '.join(names))} ({len(names)}): {note}")


def _short(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="?", type=Path, help="a file with the columns of measured.csv")
    parser.add_argument("--json", action="store_true", help="everything as JSON: the table, and every row")
    asked = parser.parse_args(arguments)
    try:
        found = outcomes(asked.csv)
    except (OSError, ValueError) as error:
        print(f"{asked.csv}: {error}", file=sys.stderr)
        return 1
    if asked.json:
        rows = [vars(each) | ({"inside": each.inside} if each.predicted else {}) for each in found]
        print(json.dumps({"table": table(found), "rows": rows}, indent=1))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
