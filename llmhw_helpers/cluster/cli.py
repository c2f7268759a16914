"""``llmhw-report``: what a job has measured beside what was predicted, and by which figures the two differ."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..commands import Parser, put_out
from ..course.ledger import Ledger
from ..specs.figures import UnknownName
from .forms import BadForm
from .report import report

EXAMPLES = """examples:
  llmhw-report 17
  llmhw-report 17_2 --folder runs
  llmhw-report runs/job-17.json --json
"""
NOTEBOOK = "17_capstone"  # in whose part of the ledger it is written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status: 0 for a job that has finished, 1 for any other."""
    parser = Parser(
        prog="llmhw-report",
        description="What a job has measured beside what was predicted, and by which figures the two differ.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", help="its number, as sbatch has told it; 17_2 is a task of an array; or a form's path")
    parser.add_argument("--folder", type=Path, default=Path("."), help="that it was submitted from")
    parser.add_argument("--json", action="store_true", help="form and sentences, for programs")
    parser.add_argument("--no-ledger", action="store_true", help="leave your ledger as it is")
    asked = parser.parse_args(arguments)
    try:
        found = report(asked.job, asked.folder)
    except (BadForm, UnknownName, OSError) as error:
        print(f"llmhw-report: {error}", file=sys.stderr)
        return 1
    if not asked.no_ledger:
        found.to_ledger(Ledger(NOTEBOOK))
    said = json.dumps(asdict(found), indent=1) if asked.json else str(found)
    return put_out(parser.prog, said) or (0 if found.finished else 1)


if __name__ == "__main__":
    sys.exit(main())
