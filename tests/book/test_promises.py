"""The page of promises names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_is_protected_by_tests_that_exist():
    text = (ROOT / "book" / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(rows) > 20
    for row in rows:
        fold = re.search(r"<details><summary>(?:test|(\d+) tests)</summary>(.*)</details>", row)
        named = re.findall(r"`(test_\w+)`", fold[2])
        assert len(named) == int(fold[1] or 1), row
        assert set(named) <= there, row
