"""The ledgers that executed notebooks print: a report of the machine that made their stored outputs."""

import json
import re
from pathlib import Path

from .report import NOTEBOOKS, MachineReport, compared

HEADER = re.compile(r"^ +your guess +predicted +measured +ratio +bound$")
BEHIND = 60  # letters of the header behind the names
CELLS = re.compile(5 * r" *(-|~[^~]*?)" + "$")  # a long ratio stands close to what is measured
PREFIXES = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}


def stored_report(folder: Path) -> MachineReport:
    """The report of the machine that made the outputs stored in a folder of notebooks, from the ledgers they print.

    Figures have the three digits that were printed. Notebooks that are not there, or print no ledger, are missing in
    it. The machine's name is what notebook 00 prints of it.
    """
    entries, machine = {}, "the machine that made the stored outputs"
    for name in NOTEBOOKS:
        path = Path(folder) / f"{name}.ipynb"
        lines = _printed_lines(path) if path.is_file() else []
        for line in lines if name == NOTEBOOKS[0] else ():
            if re.search(r"\d+ cores, .*GiB of memory", line):
                machine = line.lstrip("~ ")
                break
        entries[name] = _printed_entries(lines)
    return MachineReport(machine, compared(entries))


def _printed_lines(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return [line for output in outputs for line in "".join(output.get("text", ())).splitlines()]


def _printed_entries(lines: list[str]) -> dict[str, dict]:
    """Entries of all ledgers printed in `lines`: of one that is printed again, the later figures."""
    found, width = {}, None
    for line in lines:
        if HEADER.match(line):
            width = len(line) - BEHIND
            continue
        cells = CELLS.match(line[width:]) if width else None
        if cells is None:
            width = None
            continue
        guess, predicted, measured, _, bound = cells.groups()
        (value, unit), said = _figure(predicted), bound.lstrip("~-")
        found[line[:width].rstrip()] = {"predicted": value, "unit": unit, "bound": said} | {
            "measured": _figure(measured)[0],
            "guess": _figure(guess)[0],
        }
    return found


def _figure(cell: str) -> tuple[float | None, str]:
    """A printed figure's value, in its unit without prefix."""
    match = re.fullmatch(r"~(-?[\d.]+(?:e[+-]?\d+)?)(?: ([PTGMkmµn]?)(FLOP/s|OP/s|B/s|FLOP|B|s|W))?", cell)
    if match is None:
        return None, ""
    return float(match[1]) * PREFIXES[match[2] or ""], match[3] or ""
