"""The machine's report as a page: HTML that needs nothing else, readable light and dark, on a phone and on paper."""

import math
from html import escape
from pathlib import Path

from ..files import write_whole
from ..measure.timers import measured
from .report import Compared, MachineReport

WIDEST = 16.0  # factor at the ends of the ratio's scale
LIGHT = "--ink: #1b1b1b; --soft: #555; --line: #ccc; --near: #1b7837; --off: #b2471b;"
DARK = "--ink: #eee; --soft: #aaa; --line: #555; --near: #6fcf8a; --off: #f0a17a;"
STYLE = f"""
.machine {{ {LIGHT} color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; }}
html[data-theme="dark"] .machine {{ {DARK} }}"""
STYLE += """
.machine h2 { margin: 1.6em 0 .4em; font-size: 1.2rem; }
.machine h3 { margin: 1.2em 0 .3em; font-size: 1rem; }
.machine table { display: table; width: 100%; border-collapse: collapse; font-size: .9rem; }
.machine :is(th, td) { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line); min-width: 0; }
.machine :is(th, td):first-child { text-align: left; overflow-wrap: anywhere; }
.machine .soft { color: var(--soft); }
.machine .near { color: var(--near); }
.machine .off { color: var(--off); }
.machine .scale { position: relative; display: inline-block; width: 8rem; height: .9rem; vertical-align: middle;
  border: solid var(--line); border-width: 0 1px; }
.machine .scale::before { content: ""; position: absolute; left: 50%; height: 100%;
  border-left: 1px solid var(--soft); }
.machine .scale i { position: absolute; top: .2rem; width: .5rem; height: .5rem; margin-left: -.25rem;
  border-radius: 50%; background: currentColor; }
@media (max-width: 600px) {
  .machine .wide { display: none; }
  .machine :is(th, td) { padding: .2rem .25rem; }
}
@media print { .machine h3 { break-after: avoid; } .machine tr { break-inside: avoid; } }
"""
ALONE = f"""
body {{ margin: 0; padding: 1rem; background: #fff; }}
@media screen and (prefers-color-scheme: dark) {{ body {{ background: #111; color: #eee; }} .machine {{ {DARK} }} }}
"""


def section(report: MachineReport) -> str:
    """The report as a part of a page, with its style; whatever the ledger's names hold is shown as text."""
    roofs = ", ".join(f"{escape(name)} {escape(figure)}" for name, figure in report.roofs)
    missing = ", ".join(map(escape, report.missing()))
    rests = f"The predictions rest on what calibration found: {roofs}." if roofs else ""
    parts = [
        f"<style>{STYLE}</style>",
        f'<section class="machine"><p><strong>{escape(report.machine)}</strong></p>',
        f"<p>{escape(report.summary())} {rests}</p>",
        "<h2>Where the model of the machine holds</h2>",
        _list(report.holds()),
        "<h2>Where it does not</h2>",
        _list(report.fails()),
        "<h2>All of it</h2>",
        f'<p class="soft">What came within a tenth has a tick. <span class="wide">The dot is measured over predicted, '
        f"from 1/{WIDEST:.0f} to {WIDEST:.0f}; the line in the middle is 1.</span></p>",
        *(_table(name, rows) for name, rows in report.by_notebook().items() if rows),
        f'<p class="soft">No figures of: {missing}.</p>' if missing else "",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def page(report: MachineReport, title: str = "Your machine's report") -> str:
    """The report as a whole HTML page, which loads nothing."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    name = escape(title)
    body = f'<main><h1 style="text-align: center">{name}</h1>\n{section(report)}</main>\n<style>{ALONE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<title>{name}</title></head>\n<body>{body}</body></html>\n'


def save_page(report: MachineReport, path: Path) -> Path:
    """Write the page, whole or not at all; print it from a browser for paper.

    Raises:
        NotSaved: no space, no permission.
    """
    write_whole(Path(path), page(report).encode(), "report")
    return Path(path)


def _list(sentences: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in sentences)}</ul>"


def _table(notebook: str, rows: list[Compared]) -> str:
    head = "<th>what</th><th class='wide'>your guess</th><th>predicted</th><th>measured</th><th>ratio</th>"
    head += f"<th class='wide'>1/{WIDEST:.0f} to {WIDEST:.0f}</th><th class='wide'>bound</th>"
    body = "".join(_row(each) for each in rows)
    return f"<h3>{escape(notebook)}</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(each: Compared) -> str:
    ratio = each.ratio
    told = scale = ""
    if ratio is not None:
        near = "near" if each.is_near else "off"
        told = f'<span class="{near}">{ratio:.3g}{" ✓" if each.is_near else ""}</span>'
        scale = f'<span class="scale"><i class="{near}" style="left: {_place(ratio):.1f}%"></i></span>'
    guess, predicted, found = (_cell(value, each.unit) for value in (each.guess, each.predicted, each.measured))
    return (
        f'<tr><td>{escape(each.name)}</td><td class="wide">{guess}</td><td>{predicted}</td><td>{found}</td>'
        f'<td>{told}</td><td class="wide">{scale}</td><td class="wide">{escape(each.bound)}</td></tr>'
    )


def _place(ratio: float) -> float:
    """Where a ratio stands on the scale, in percent of its width."""
    if not ratio > 0:
        return 0.0
    return 50 + 50 * max(-1.0, min(1.0, math.log(ratio) / math.log(WIDEST)))


def _cell(value: float | None, unit: str) -> str:
    return "" if value is None else escape(measured(value, unit).lstrip("~"))
