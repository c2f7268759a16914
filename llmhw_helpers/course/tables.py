"""Tables of results: for a page as HTML that fits a phone, for a terminal as aligned text, with the same words."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MISSING = "-"
MORE, LESS, AS_PREDICTED = "↑", "↓", "✓"
WIDEST_FIGURE = 13  # letters: the widths in the text must not depend on what was measured

# Colours for both of JupyterLab's and the book's schemes; each has a contrast of at least 4.5 to its ground.
STYLE = """<style>
table.results { display: table; table-layout: auto; width: auto; max-width: 100%; font-size: 0.85rem;
  border-collapse: collapse; --near: #1b6e33; --off: #a63f12; }
:is(html[data-theme="dark"], body[data-jp-theme-light="false"]) table.results { --near: #6fcf8a; --off: #f0a17a; }
.results :is(th, td) { padding: 0.2em 0.5em; text-align: right; white-space: nowrap; min-width: 0; }
.results tbody tr { border-top: 1px solid rgb(128 128 128 / 0.35); }
.results tr :first-child { text-align: left; white-space: normal; overflow-wrap: break-word; }
.results tbody th { font-weight: normal; }
.results thead th { white-space: normal; vertical-align: bottom; }
.results .near { color: var(--near); font-weight: 600; }
.results .off { color: var(--off); font-weight: 600; }
.results caption { caption-side: bottom; text-align: left; color: inherit; font-size: 0.9em; padding: 0.3em 0.5em; }
@media (max-width: 600px) {
  table.results { font-size: 0.75rem; }
  .results :is(th, td) { padding: 0.3em 0.2em; }
}
</style>"""


@dataclass(frozen=True)
class ResultTable:
    """Named rows of cells that are text already; shown as HTML in a notebook, and as text by `print`.

    A cell of what was measured begins with ``~``, as `measured` writes it. HTML leaves that mark out before a word, and
    both forms leave out a column that is empty in every row.

    Attributes:
        columns: their names, without that of the rows.
        rows: by name; each has a cell for each column, and ``-`` where there is nothing.
        caption: a sentence below the table.

    >>> print(ResultTable(["bytes", "bound", "time"], {"step": ["3.4 MB", "~memory", "-"]}, "Of one step."))
           bytes          bound
    step  3.4 MB        ~memory
    Of one step.
    """

    columns: Sequence[str]
    rows: dict[str, Sequence[str]]
    caption: str = ""

    def __post_init__(self):
        for name, cells in self.rows.items():
            if len(cells) != len(self.columns):
                raise ValueError(f"row {name!r} has {len(cells)} cells for {len(self.columns)} columns")

    def __str__(self) -> str:
        shown = self._shown()
        names = max([0, *map(len, self.rows)])
        widths = [self._width(i) for i in shown]
        lines = [" " * names + "".join(f"{self.columns[i]:>{width}}" for i, width in zip(shown, widths, strict=True))]
        for name, cells in self.rows.items():
            line = "".join(f"{cells[i]:>{width}}" for i, width in zip(shown, widths, strict=True))
            lines.append(f"{name:{names}}{line}")
        return "\n".join([*lines, *([self.caption] if self.caption else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows; whatever names and cells hold is shown as text."""
        shown = self._shown()
        head = "".join(f'<th scope="col">{escape(self.columns[i])}</th>' for i in shown)
        rows = [
            f'<tr><th scope="row">{escape(name)}</th>{"".join(_cell(cells[i]) for i in shown)}</tr>'
            for name, cells in self.rows.items()
        ]
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        body = "\n".join([f"<tr><td></td>{head}</tr></thead><tbody>", *rows, "</tbody></table>"])
        return f'{STYLE}\n<table class="results">{caption}<thead>{body}'

    def _shown(self) -> list[int]:
        """The columns that hold something; all of them while there is no row."""
        full = [i for i in range(len(self.columns)) if any(cells[i] != MISSING for cells in self.rows.values())]
        return full if self.rows else list(range(len(self.columns)))

    def _width(self, column: int) -> int:
        cells = [cells[column] for cells in self.rows.values()]
        widths = [WIDEST_FIGURE if cell.startswith("~") else len(cell) for cell in cells]
        return 2 + max([len(self.columns[column]), *widths])


def _cell(text: str) -> str:
    if text.startswith("~") and text[1:2].isalpha():
        return f'<td class="word">{escape(text[1:])}</td>'
    verdict = {AS_PREDICTED: "near", MORE: "off", LESS: "off"}.get(text[-1:]) if text.startswith("~") else None
    kind = f' class="{verdict}"' if verdict else ""
    return f"<td{kind}>{escape(text)}</td>"
