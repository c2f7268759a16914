"""The ledgers that executed notebooks show: a report of the machine that made their stored outputs."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from math import isfinite
from pathlib import Path

from ..specs.json_text import parse_json, read_file
from ..specs.settings import OneLine
from .report import NOTEBOOKS, MachineReport, compared

FIGURE = re.compile(r"~(-?[\d.,]+(?:e[+-]?\d+)?)(?: ([PTGMkmµn]?)(FLOP/s|OP/s|B/s|FLOP|B|s|W))?(?: [✓↑↓])?")
PREFIXES = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}


class BadNotebook(OneLine, ValueError):
    """A file that is no executed notebook, or a damaged one: the message says which and why."""


def stored_report(folder: Path) -> MachineReport:
    """The report of the machine that made the outputs stored in a folder of notebooks, from the ledgers they show.

    Figures have the three digits that were shown. Notebooks that are not there, or show no ledger, are missing in it.
    The machine's name is what notebook 00 prints of it.

    Raises:
        BadNotebook: one that is there cannot be read.
    """
    entries, machine = {}, "the machine that made the stored outputs"
    for name in NOTEBOOKS:
        path = Path(folder) / f"{name}.ipynb"
        try:
            outputs = list(_outputs(path)) if path.exists() else []
            for line in _printed_lines(outputs) if name == NOTEBOOKS[0] else ():
                if re.search(r"\d+ cores, .*GiB of memory", line):
                    machine = line.lstrip("~ ")
                    break
            entries[name] = {}
            for output in outputs:
                entries[name] |= _entries("".join(output.get("data", {}).get("text/html", ())))
        except OSError as error:
            raise BadNotebook(f"{path} cannot be read: {error.strerror}") from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadNotebook(f"{path} is no executed notebook, or damaged ({error}): restore it from git") from None
    return MachineReport(machine, compared(entries))


def _outputs(path: Path) -> Iterator[dict]:
    for cell in parse_json(read_file(path))["cells"]:
        yield from cell.get("outputs", ())


def _printed_lines(outputs: list[dict]) -> Iterator[str]:
    for output in outputs:
        yield from "".join(output.get("text", ())).splitlines()


class _Tables(HTMLParser):
    """The caption and the rows of a table, as lists of their cells' text."""

    def __init__(self):
        super().__init__()
        self.caption, self.rows, self._into = "", [], ""

    def handle_starttag(self, tag, attrs):
        self._into = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._into = ""

    def handle_data(self, data):
        if self._into == "caption":
            self.caption += data
        elif self._into in ("td", "th"):
            self.rows[-1][-1] += data


def _entries(html: str) -> dict[str, dict]:
    """The entries of a ledger that is shown as HTML; none of any other table."""
    table = _Tables()
    table.feed(html)
    if not table.caption.startswith("Ledger of ") or not table.rows:
        return {}
    found = {}
    for name, *cells in table.rows[1:]:
        row = dict(zip(table.rows[0][1:], cells, strict=True))
        value, unit = _figure(row["predicted"])
        if value is None:
            raise ValueError(f"no prediction of {name[:40]!r}")
        found[name] = {"predicted": value, "unit": unit, "bound": row.get("bound", "-").lstrip("-")} | {
            "measured": _figure(row.get("measured", ""))[0],
            "guess": _figure(row.get("your guess", ""))[0],
        }
    return found


def _figure(cell: str) -> tuple[float | None, str]:
    """A shown figure's value, in its unit without prefix."""
    match = FIGURE.fullmatch(cell)
    if match is None:
        return None, ""
    value = float(match[1].replace(",", "")) * PREFIXES[match[2] or ""]
    if not isfinite(value):
        raise ValueError(f"a figure {cell[:40]!r}")
    return value, match[3] or ""
