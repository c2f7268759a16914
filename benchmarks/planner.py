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

import serving_rows
import speed_rows
import training_rows

from llmhw_helpers.specs.measured import BadRow, Row, read_cells, row

LATER = {"D": "network and storage are not predicted yet", "E": "a fact about a cluster, which nothing predicts"}


@dataclass(frozen=True)
class Outcome:
    """A row and what came of it: a range, or none, and a note that says why."""

    id: str
    group: str
    quantity: str
    what: str
    low: float | None
    high: float | None
    measured: float | None
    note: str

    @property
    def predicted(self) -> bool:
        """Whether there is a range and a number to hold against it."""
        return None not in (self.low, self.high, self.measured)

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
        """The upper end over the lower one."""
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
    for handle in dict.fromkeys(_handler(each) for _, each in rows):
        mine = [(number, each) for number, each in rows if _handler(each) is handle]
        for (number, each), (_, low, high, measured, note) in zip(mine, handle([r for _, r in mine]), strict=True):
            what = ", ".join(filter(None, (each.model, each.dtype_quant, each.gpu, each.software)))
            found[number] = Outcome(each.id, each.group, each.quantity, what, low, high, measured, note)
    return [found[number] for number in sorted(found)]


def _handler(each: Row) -> Callable[[Iterable[Row]], list[tuple]]:
    if each.group in LATER:
        return _later
    if each.group == "A":
        return serving_rows.rows
    return speed_rows.rows if each.quantity in speed_rows.KINDS or each.group != "C" else training_rows.rows


def _later(rows: Iterable[Row]) -> list[tuple]:
    return [(each, None, None, each.value, LATER[each.group]) for each in rows]


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
            line["median error"] = statistics.median(each.error for each in known)
            line["inside"] = sum(each.inside for each in known) / len(known)
            line["widest"] = max(each.width for each in known)
        lines.append(line)
    return lines


def show(found: list[Outcome]) -> None:
    """Print the table, the worst three of each line, and what is not predicted."""
    print(f"{'':2}{'quantity':32}{'rows':>6}{'predicted':>11}{'median error':>14}{'inside':>8}{'widest':>8}")
    for line in table(found):
        print(f"{line['group']:2}{line['quantity']:32}{line['rows']:6}{line['predicted']:11}", end="")
        print(f"{line['median error']:14.1%}{line['inside']:8.0%}{line['widest']:8.2f}" if line["predicted"] else "")
    for line in table(found):
        rows = [each for each in found if (each.group, each.quantity) == (line["group"], line["quantity"])]
        worst = sorted((each for each in rows if each.predicted and not each.inside), key=lambda each: -each.error)
        if worst:
            print(f"\n{line['group']} {line['quantity']}, farthest outside the range:")
        for each in worst[:3]:
            print(f"  {each.id} {each.what}: {each.measured:g}, not {each.low:.4g} to {each.high:.4g}; {each.note}")
    missing = defaultdict(list)
    for each in found:
        if not each.predicted:
            missing[each.note].append(each.id)
    if missing:
        print("\nNot predicted:")
    for note, names in missing.items():
        print(f"  {note}: {', '.join(names)}")


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
